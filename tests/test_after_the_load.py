"""After the load: conditions that must hold, ANALYZE, commands, and a lineage event."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import connection as Connection

import etl_toolkit
from etl_toolkit import ConflictAwareProcessor, ParallelConfig, WriteOptions, ingest
from etl_toolkit.errors import AssertionFailedError, FollowUpError, UsageError
from etl_toolkit.model import LoadResult
from tests.forked import run_command

CONFIG = ParallelConfig(concurrency=2)
STRATEGIES = ["deterministic", "partitioned", "streaming", "hybrid", "full_parallel"]


@pytest.fixture
def rows(connection: Connection) -> Any:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1), (99, 99)")

    def read() -> list[tuple[int, int]]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT id, v FROM t ORDER BY id")
            return list(cursor.fetchall())

    return read


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "a.csv").write_text("id,v\n1,1\n2,20\n")
    (tmp_path / "b.csv").write_text("id,v\n3,30\n4,40\n")
    return [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]


def load(database: str, files: list[str], *conditions: str, **options: Any) -> LoadResult:
    write = WriteOptions(assertions=conditions)
    return ingest(files, "t", "id", database, **{"config": CONFIG, "write": write, "force": True, **options})


HOLDS = [
    "(SELECT count(*) FROM t) = 5", "(SELECT array_agg(id ORDER BY id) FROM loaded) = '{2,3,4}'",
    "NOT EXISTS (SELECT FROM t WHERE v < 0)  -- a comment", "'100%' LIKE '%\\%'",
]  # fmt: skip


@pytest.mark.parametrize("atomic", [False, True])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_conditions_see_the_table_and_the_rows_just_loaded(
    database: str, rows: Any, files: list[str], strategy: str, atomic: bool
) -> None:
    assert load(database, files, *HOLDS, strategy=strategy, atomic=atomic).counts.inserted == 3


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_atomic_load_is_rolled_back(database: str, rows: Any, files: list[str], strategy: str) -> None:
    with pytest.raises(AssertionFailedError) as caught:
        load(database, files, "(SELECT max(v) FROM loaded) < 40", "true", "NULL::bool", strategy=strategy, atomic=True)
    assert str(caught.value) == (
        "public.t: after the load, `(SELECT max(v) FROM loaded) < 40` and `NULL::bool` do not hold; nothing was written"
    )
    assert rows() == [(1, 1), (99, 99)]
    (run,) = etl_toolkit.runs(database)
    assert run.status == "failed"
    assert etl_toolkit.files("t", database) == []


def test_an_atomic_load_that_orders_is_one_transaction(database: str, rows: Any, files: list[str]) -> None:
    options: dict[str, Any] = {"strategy": "hybrid", "order_by": "v", "force": True}
    processor = ConflictAwareProcessor(database, config=CONFIG)
    assert len(processor.plan(files, "t", "id", **options).batches) == 2
    assert len(processor.plan(files, "t", "id", atomic=True, **options).batches) == 1


def test_another_load_fails_with_its_rows_committed_and_can_be_undone_or_resumed(
    database: str, connection: Connection, rows: Any, files: list[str]
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE FUNCTION false_now() RETURNS bool LANGUAGE sql AS 'SELECT false'")
    with pytest.raises(AssertionFailedError, match=r"`false_now\(\)` does not hold; its rows were committed; .*undo"):
        load(database, files, "false_now()", strategy="deterministic", undoable=True)
    (run,) = etl_toolkit.runs(database)
    assert (run.status, len(rows())) == ("failed", 5)
    with connection.cursor() as cursor:
        cursor.execute("CREATE OR REPLACE FUNCTION false_now() RETURNS bool LANGUAGE sql AS 'SELECT true'")
    assert ConflictAwareProcessor(database).resume(run.run_id)
    ConflictAwareProcessor(database).undo(run.run_id)
    assert rows() == [(1, 1), (99, 99)]


@pytest.mark.parametrize(
    ("condition", "message"),
    [("count(", "syntax error"), ("nope > 1", 'column "nope" does not exist'), ("1", "must be type boolean")],
)
def test_a_condition_that_makes_no_sense_is_refused_before_the_load(
    database: str, rows: Any, files: list[str], condition: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        ConflictAwareProcessor(database).plan(files, "t", "id", write=WriteOptions(assertions=(condition,)))
    with pytest.raises(UsageError, match=message):
        load(database, files, condition)
    assert etl_toolkit.runs(database) == []


@pytest.mark.parametrize("atomic", [False, True])
def test_a_condition_cannot_write(
    database: str, connection: Connection, rows: Any, files: list[str], atomic: bool
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE FUNCTION clear() RETURNS bool LANGUAGE sql AS 'DELETE FROM t RETURNING true'")
    with pytest.raises(etl_toolkit.EtlError, match="read-only transaction"):
        load(database, files, "clear()", atomic=atomic)
    assert len(rows()) == (2 if atomic else 5)


def test_the_table_is_analyzed_when_asked(database: str, connection: Connection, rows: Any, files: list[str]) -> None:
    def pages() -> Any:
        with connection.cursor() as cursor:
            cursor.execute("SELECT reltuples FROM pg_class WHERE relname = 't'")
            return cursor.fetchone()[0]

    load(database, files[:1])
    assert pages() == -1  # never looked at
    assert "analyze" in load(database, files[1:], write=WriteOptions(analyze=True)).phases
    assert pages() == 5


# --- commands and lineage ----------------------------------------------------------------------------------------------


def feed(directory: Path, after: str, paths: str = "*.csv") -> str:
    path = directory / "orders.toml"
    path.write_text(f'table = "t"\nkey = "id"\n[files]\npaths = "{paths}"\n[after]\n{after}\n')
    return str(path)


def saving(name: str, *, code: int = 0) -> str:
    """A command that keeps what it reads, and exits with a code."""
    program = f"import sys; open({name!r}, 'w').write(sys.stdin.read()); sys.exit({code} and 'no luck')"
    return json.dumps([sys.executable, "-c", program])


def command(feed: str, *words: str) -> subprocess.CompletedProcess[str]:
    return run_command("ingest", "--feed", feed, *words)


def test_a_command_reads_the_result(database: str, rows: Any, files: list[str], tmp_path: Path) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    path = feed(tmp_path, f"on_success = {saving(str(good))}\non_failure = {saving(str(bad))}")
    result = ingest(feed=path, dsn=database)
    told = json.loads(good.read_text())
    assert (told["feed"], told["run_id"], told["counts"]["inserted"]) == (path, result.run_id, 3)
    assert not bad.exists()
    with pytest.raises(UsageError):
        ingest(feed=path, dsn=database, table="nope")
    assert json.loads(bad.read_text())["kind"] == "UnknownTableError"


def test_a_command_that_fails_is_reported(database: str, rows: Any, files: list[str], tmp_path: Path) -> None:
    path = feed(tmp_path, f"on_success = {saving('/dev/null', code=1)}\non_failure = ['/no/such/program']")
    done = command(path, "--dsn", database, "--json")
    assert done.returncode == 5, done.stderr
    assert json.loads(done.stdout)["complete"]
    assert "on_success: " in done.stderr
    assert "exited with 1: no luck" in done.stderr
    with pytest.raises(FollowUpError, match=r"is complete, but on_success: .* exited with 1") as caught:
        ingest(feed=path, dsn=database)
    assert caught.value.result
    failed = command(path, "--dsn", database, "--table", "nope")
    assert failed.returncode == 2, failed.stderr
    assert "on_failure: /no/such/program cannot be run: No such file or directory" in failed.stderr


def test_a_lineage_event_names_files_and_table(database: str, rows: Any, files: list[str], tmp_path: Path) -> None:
    path = feed(tmp_path, 'lineage = "lineage"')
    ingest(feed=path, dsn=database)
    with pytest.raises(UsageError):
        ingest(feed=path, dsn=database, table="nope")
    done, failed = (json.loads(each.read_text()) for each in sorted((tmp_path / "lineage").iterdir()))
    assert (done["eventType"], failed["eventType"]) == ("COMPLETE", "FAIL")
    assert done["job"]["name"] == "orders"
    assert [item["name"] for item in done["inputs"]] == files
    (output,) = done["outputs"]
    assert output["name"].endswith(".public.t")
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == 3
    assert "does not exist" in failed["run"]["facets"]["errorMessage"]["message"]
