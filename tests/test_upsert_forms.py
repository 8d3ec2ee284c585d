"""A plain UPDATE before ON CONFLICT, where a sample of the rows says that every row changes: same table, same counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit import ParallelConfig, ingest, keys
from etl_toolkit.errors import ConflictTripwireError
from etl_toolkit.loading import failpoints, upsert
from tests.oracle import Oracle, Rows, differing_rows, write

TABLE = "CREATE TABLE {0} (a int, b text, v text, w text, PRIMARY KEY (b, a))"
OLD = "SELECT g, 'k', 'old', 'kept' FROM generate_series(0, 299) g"
TWO_WORKERS: dict[str, Any] = {"config": ParallelConfig(concurrency=2)}


@pytest.fixture(autouse=True)
def small_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upsert, "SAMPLE_ROWS", 5)


@pytest.fixture
def load(database: str, connection: Connection, tmp_path: Path) -> Callable[..., Any]:
    """Load files of (a, v) under one key into `loaded`, and hold the table against the sequential oracle."""

    def run(*files: dict[int, str], table: str = TABLE, present: str = OLD, **options: Any) -> Any:
        with connection.cursor() as cursor:
            for name in ("loaded", "expected"):
                cursor.execute(table.format(name) + f"; INSERT INTO {name} {present}")
        contents = [
            Rows(("v", "a", "b"), tuple((value, str(key), "k") for key, value in sorted(rows.items(), reverse=True)))
            for rows in files
        ]
        Oracle("expected", ("a", "b")).load(connection, contents)
        paths = [write(content, tmp_path, f"{number}.csv", "csv") for number, content in enumerate(contents)]
        result = ingest(paths, "loaded", ["a", "b"], database, **(TWO_WORKERS | options))
        assert differing_rows(connection, "loaded", "expected") == []
        return result

    return run


def plainly_updated(connection: Connection) -> int:
    """Rows that were written without having been locked first: ON CONFLICT leaves its lock behind in xmax."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM ONLY loaded WHERE xmax = 0 AND v = 'new'")
        return int(cursor.fetchone()[0])


def fates(result: Any) -> list[tuple[int, int, int]]:
    return [(counts.inserted, counts.updated, counts.unchanged) for counts in result.files.values()]


@pytest.mark.parametrize("strategy", ["partitioned", "full_parallel", "deterministic"])
def test_where_every_row_changes_they_are_updated_plainly(load: Any, connection: Connection, strategy: str) -> None:
    result = load(dict.fromkeys(range(150), "new"), dict.fromkeys(range(150, 300), "new"), strategy=strategy)
    assert fates(result) == [(0, 150, 0), (0, 150, 0)]
    assert plainly_updated(connection) == 300


@pytest.mark.parametrize("strategy", ["partitioned", "full_parallel", "deterministic"])
@pytest.mark.parametrize("workers", [1, 2])
def test_new_and_unchanged_rows_behind_the_sample_are_distinguished(load: Any, strategy: str, workers: int) -> None:
    first = dict.fromkeys(range(0, 300, 2), "new") | dict.fromkeys(range(100, 120, 2), "old")
    second = dict.fromkeys(range(1, 300, 2), "new") | dict.fromkeys(range(1000, 1030), "new")
    result = load(first, second, strategy=strategy, config=ParallelConfig(concurrency=workers))
    assert fates(result) == [(0, 140, 10), (30, 150, 0)]


def test_a_row_that_an_earlier_file_of_the_transaction_has_written_is_unchanged(load: Any) -> None:
    newer = {50: "new"} | dict.fromkeys(range(51, 150), "newer")
    result = load(dict.fromkeys(range(100), "new"), newer, strategy="deterministic", atomic=True)
    assert fates(result) == [(0, 100, 0), (0, 99, 1)]


def test_a_trigger_that_only_an_insert_fires_keeps_the_plain_update_away(load: Any, connection: Connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    trigger = "; CREATE TRIGGER t BEFORE INSERT ON {0} FOR EACH STATEMENT EXECUTE FUNCTION noted()"
    load(dict.fromkeys(range(300), "new"), table=TABLE + trigger)
    assert plainly_updated(connection) == 0


def test_a_check_of_a_column_that_the_files_lack_keeps_it_away(load: Any, connection: Connection) -> None:
    load(dict.fromkeys(range(300), "new"), table=TABLE[:-1] + ", CHECK (w IS NULL OR w <> v))")
    assert plainly_updated(connection) == 0


def test_rows_of_an_inheriting_table_stay_as_they_are(load: Any, connection: Connection) -> None:
    child = "; CREATE TABLE {0}_child () INHERITS ({0}); INSERT INTO {0}_child SELECT 7, 'k', 'old', 'child'"
    load(dict.fromkeys(range(300), "new"), table=TABLE + child)
    assert plainly_updated(connection) == 300
    with connection.cursor() as cursor:
        cursor.execute("SELECT v FROM loaded_child")
        assert cursor.fetchall() == [("old",)]


def test_a_row_that_a_stranger_deletes_meanwhile_is_inserted(load: Any, database: str, connection: Connection) -> None:
    def delete() -> None:
        with psycopg2.connect(database) as stranger, stranger.cursor() as cursor:
            cursor.execute("DELETE FROM loaded WHERE a = 200; UPDATE loaded SET v = 'theirs' WHERE a = 201")
        stranger.close()

    with failpoints.installed({"copied": delete}):
        result = load(
            dict.fromkeys(range(300), "new"),
            present=OLD.replace("'kept'", "NULL"),
            config=ParallelConfig(concurrency=1),
        )
    assert fates(result) == [(1, 299, 0)]


@pytest.mark.parametrize("strategy", ["deterministic", "partitioned"])
def test_two_rows_for_one_key_are_reported(
    database: str, connection: Connection, tmp_path: Path, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(keys.KEY_TYPES, "numeric", keys.KeyType("VARCHAR", None))  # a wrong verdict: 1.0 is not 1.00
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE loaded (id numeric PRIMARY KEY, v text); INSERT INTO loaded VALUES (1, 'old')")
    path = write(Rows(("id", "v"), (("1.0", "first"), ("1.00", "second"))), tmp_path, "f.csv", "csv")
    with pytest.raises(ConflictTripwireError, match="have the same key under index loaded_pkey"):
        ingest(path, "loaded", "id", database, strategy=strategy, concurrency=1)
    with connection.cursor() as cursor:
        cursor.execute("SELECT v FROM loaded")
        assert cursor.fetchall() == [("old",)]
