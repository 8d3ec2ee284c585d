"""What the search path of a role finds, or hides: operators of types outside of it, and the server's own behind another schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from etl_toolkit import ConflictAwareProcessor, ingest
from etl_toolkit.errors import TargetError
from etl_toolkit.explain import explain

STRATEGIES = ("partitioned", "deterministic", "streaming")
BEFORE = [("BAR", "v0"), ("foo", "v0")]


@pytest.fixture(scope="module")
def bench(shared: tuple[str, Connection]) -> tuple[str, Connection]:
    """Tables whose keys are of a type in a schema that is not on the search path: compared by name, they would be texts."""
    execute(shared[1], "CREATE SCHEMA ext; CREATE EXTENSION citext SCHEMA ext")
    execute(shared[1], "CREATE TABLE t (k ext.citext PRIMARY KEY, v ext.citext)")
    execute(shared[1], "CREATE TABLE nulls (k ext.citext UNIQUE NULLS NOT DISTINCT, v text)")
    execute(shared[1], "CREATE TABLE child (id int PRIMARY KEY, k ext.citext REFERENCES t)")
    return shared


def execute(connection: Connection, statement: Any) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


def written(directory: Path, *texts: str) -> list[Path]:
    paths = [directory / f"{number}.csv" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    return paths


def fill(connection: Connection) -> None:
    execute(connection, "TRUNCATE t CASCADE; INSERT INTO t VALUES ('foo', 'v0'), ('BAR', 'v0')")


def rows(connection: Connection, table: str = "t") -> list[Any]:
    return execute(connection, f"SELECT k::text, v::text FROM {table} ORDER BY 1")


@pytest.mark.parametrize("undoable", [False, True])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_keys_of_a_type_outside_of_the_path_are_compared_by_their_index(
    bench: tuple[str, Connection], tmp_path: Path, strategy: str, undoable: bool
) -> None:
    dsn, connection = bench
    fill(connection)
    files = written(tmp_path, "k,v\nfoo,v1\nBar,v1\nnew,v1\n", "k,v\nFOO,v2\nbar,v2\nNew,v2\n")

    result = ingest(files, "t", "k", dsn, strategy=strategy, undoable=undoable)  # type: ignore[arg-type]

    assert rows(connection) == [("BAR", "v2"), ("foo", "v2"), ("new", "v2")]
    assert (result.counts.inserted, result.counts.unchanged) == (1, 0)
    if undoable:
        assert ConflictAwareProcessor(dsn).undo(result.run_id).restored == 2
        assert rows(connection) == BEFORE


def test_so_are_values_that_decide_which_row_is_newer(bench: tuple[str, Connection], tmp_path: Path) -> None:
    dsn, connection = bench
    fill(connection)
    files = written(tmp_path, "k,v\nfoo,U9\nbar,W1\n")  # as texts, both are less than v0

    counts = ingest(files, "t", "k", dsn, on_conflict="newer", order_by="v").counts

    assert rows(connection) == [("BAR", "W1"), ("foo", "v0")]
    assert (counts.updated, counts.stale) == (1, 1)


def test_so_are_nulls_that_are_not_distinct(bench: tuple[str, Connection], tmp_path: Path) -> None:
    dsn, connection = bench
    execute(connection, "INSERT INTO nulls VALUES (NULL, 'v0'), ('foo', 'v0')")

    counts = ingest(written(tmp_path, "k,v\n,v1\nFOO,v1\n"), "nulls", "k", dsn, undoable=True).counts

    assert rows(connection, "nulls") == [("foo", "v1"), (None, "v1")]
    assert counts.updated == 2


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_so_are_foreign_keys(bench: tuple[str, Connection], tmp_path: Path, strategy: str) -> None:
    dsn, connection = bench
    fill(connection)
    files = written(tmp_path, "id,k\n1,FOO\n2,none\n", "id,k\n1,bar\n")

    result = ingest(files, "child", "id", dsn, strategy=strategy, max_rejects=5)  # type: ignore[arg-type]

    assert [(reject.line, reject.sqlstate) for reject in result.rejects] == [(3, "23503")]
    assert execute(connection, "SELECT id, k::text FROM child") == [(1, "bar")]


def test_explain_finds_such_a_key(bench: tuple[str, Connection]) -> None:
    fill(bench[1])
    assert explain(bench[0], "t", {"k": "FOO"}).row == {"k": "foo", "v": "v0"}


HIDING = {
    "function": "CREATE FUNCTION early.lower(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT 'x'::text$$",
    "operator": "CREATE FUNCTION early.same(int, int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true'; "
    "CREATE OPERATOR early.= (LEFTARG = int, RIGHTARG = int, FUNCTION = early.same)",
    "type": "CREATE DOMAIN early.text AS int",
    "relation": "CREATE TABLE early.pg_class (oid int)",
}


@pytest.mark.parametrize("kind", HIDING)
def test_a_schema_that_hides_what_the_server_has_is_refused(
    database: str, connection: Connection, tmp_path: Path, kind: str
) -> None:
    name = sql.Identifier(connection.info.dbname)
    execute(
        connection, "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'); CREATE SCHEMA early"
    )
    execute(connection, sql.SQL("ALTER DATABASE {} SET search_path = early, pg_catalog, public").format(name))
    files = written(tmp_path, "id,v\n2,b\n")
    assert ingest(files, "t", "id", database)  # the order alone hides nothing
    execute(connection, HIDING[kind])

    with pytest.raises(TargetError, match=r"puts early before pg_catalog, and early\..* would be taken"):
        ingest(files, "t", "id", database)

    execute(connection, sql.SQL("ALTER DATABASE {} SET search_path = early, public").format(name))
    assert ingest(files, "t", "id", database).counts.unchanged == 1
