"""Kill anything at any point and run again: the same table, nothing twice, nothing lost, nothing left behind."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import make_dsn, parse_dsn

from etl_toolkit import ConflictAwareProcessor, Delete, ParallelConfig, WriteOptions, ingest, server
from etl_toolkit.errors import (
    AccountingError,
    DatabaseError,
    LedgerError,
    SourceError,
    TransientDatabaseError,
)
from etl_toolkit.loading import failpoints, ledger
from etl_toolkit.loading.session import Sessions
from etl_toolkit.model import LoadResult
from etl_toolkit.strategies import lanes
from etl_toolkit.workspace import open_workspace, sweep
from tests import fault_worker
from tests.fault_worker import nth
from tests.forked import FORKED
from tests.oracle import Oracle, Replay, Rows, differing_rows, write
from tests.proxy import Moment, Proxy, proxied

pytestmark = pytest.mark.faults


# --- what is loaded ----------------------------------------------------------------------------------------------------


def overlapping(number: int) -> Rows:
    keys = [(number * 20 + index) % 90 for index in range(30)]
    return Rows(
        ("id", "v"), tuple((str(key), f'file {number}, "{index}"\n') for index, key in enumerate([*keys, keys[0]]))
    )


def disjoint(number: int) -> Rows:
    return Rows(("id", "v"), tuple((str(number * 100 + key), f"file {number}") for key in range(30)))


def mostly_unchanged(number: int) -> Rows:
    """2,000 rows of which 180 are new and every tenth other differs from the table; some in two files."""
    keys = range(number * 1900, number * 1900 + 2000)
    return Rows(("id", "v"), tuple((str(key), f"file {number}" if key % 10 == 0 else "before") for key in keys))


def dated(number: int) -> Rows:
    """Days that are others where the environment of the load has a say."""
    return Rows(("id", "v"), tuple((str(key), f"0{number + 1}/0{key % 9 + 1}/2024") for key in range(number * 20, 90)))


LANES = ("scanned", "begun", "claimed", "copying", "copied", "merged", "completed", "committed", "finishing")
HASHED = [point for point in failpoints.POINTS if point != "compared"]
BAD = ("7", "bad")


def with_a_bad_row(number: int) -> Rows:
    good = overlapping(number)
    return replace(good, rows=(*good.rows[:9], BAD, *good.rows[9:])) if number == 1 else good


@dataclass(frozen=True)
class Scenario:
    strategy: str
    points: Sequence[str] = LANES
    twice: Sequence[str] = ("claimed", "copied", "staged", "committed")  # those of `points` to be killed at again
    key_type: str = "int"
    value_type: str = "text"
    filled: bool = True
    contents: Callable[[int], Rows] = overlapping
    present: str = "generate_series(0, 300, 3)"
    more: Mapping[str, Any] = field(default_factory=dict)

    def prepare(self, connection: Connection, directory: Path) -> list[Any]:
        with connection.cursor() as cursor:
            for name in ("loaded", "expected"):
                check = ", CHECK (v <> 'bad')" if "max_rejects" in self.more else ""
                cursor.execute(f"CREATE TABLE {name} (id {self.key_type} PRIMARY KEY, v {self.value_type}{check})")
                if self.filled:
                    cursor.execute(f"INSERT INTO {name} SELECT n, 'before' FROM {self.present} n")
        contents = [self.contents(number) for number in range(3)]
        good = [replace(content, rows=tuple(row for row in content.rows if row != BAD)) for content in contents]
        self.expect(connection, good)
        return [
            write(content, directory, f"part{number}", form)
            for number, (content, form) in enumerate(zip(contents, ("csv", "parquet", "quoted"), strict=True))
        ]

    def expect(self, connection: Connection, contents: Sequence[Rows]) -> None:
        Oracle("expected", ("id",), order_by=self.more.get("order_by")).load(connection, contents)

    def options(self, work: Path, **changes: Any) -> dict[str, Any]:
        return {"strategy": self.strategy, "config": config_for(work, **changes), **self.more}


def half_null(number: int) -> Rows:
    return Rows(
        ("id", "v"), tuple((key, v if at % 2 else None) for at, (key, v) in enumerate(overlapping(number).rows))
    )


@dataclass(frozen=True)
class Keeping(Scenario):
    def expect(self, connection: Connection, contents: Sequence[Rows]) -> None:
        Replay("expected", "id", keeps_nulls=True).load(connection, contents)


SCENARIOS = {
    "deterministic": Scenario("deterministic"),
    "streaming": Scenario("streaming", filled=False),
    "full parallel": Scenario("full_parallel", contents=disjoint),
    "hybrid": Scenario("hybrid", contents=lambda number: overlapping(number) if number < 2 else disjoint(9)),
    "partitioned, straight into an empty table": Scenario(
        "partitioned", points=[point for point in LANES if point != "merged"], filled=False
    ),
    "partitioned": Scenario("partitioned"),
    "partitioned, keys for the server": Scenario("partitioned", points=HASHED, key_type="numeric"),
}
# The same strategies with something added that changes the steps; what is cut and shut down has no need of them.
VARIANTS = {
    "in one transaction": Scenario("deterministic", twice=["copied"], more={"atomic": True}),
    "rows put together": Keeping(
        "partitioned",
        twice=["committed"],
        contents=half_null,
        more={"write": WriteOptions(nulls="keep"), "undoable": True},
    ),
    "the greatest value": Scenario("deterministic", twice=[], more={"order_by": "v"}),
    "dates": Scenario("deterministic", twice=[], value_type="date", filled=False, contents=dated),
    "undoable": Scenario("partitioned", more={"undoable": True}),
    "most rows unchanged": Scenario(
        "partitioned",
        points=[*LANES[:2], "compared", *LANES[2:]],
        twice=["compared", "committed"],
        contents=mostly_unchanged,
        present="generate_series(0, 5620)",
    ),
    "bad rows": Scenario("deterministic", contents=with_a_bad_row, more={"max_rejects": 1}),
    "bad rows, partitioned": Scenario("partitioned", contents=with_a_bad_row, more={"max_rejects": 1}),
    "bad rows, keys for the server": Scenario(
        "partitioned", points=HASHED, key_type="numeric", contents=with_a_bad_row, more={"max_rejects": 1}
    ),
}
KILLED = {**SCENARIOS, **VARIANTS}
MATRIX = [
    (name, point, number)
    for name, scenario in KILLED.items()
    for point in scenario.points
    for number in ((1, 2) if point in scenario.twice else (1,))
]
# Half of them are resumed by fewer workers, half by more. Before "begun" there is no run to resume.
RESUMED = [
    (name, point, number, 1 if (number + len(name) + len(point)) % 2 else 3)
    for name, point, number in MATRIX
    if point != "scanned" and (name in SCENARIOS or point in VARIANTS[name].twice)
]


def named(cases: Sequence[tuple[Any, ...]]) -> list[Any]:
    return [pytest.param(*case, id="-".join(map(str, case))) for case in cases]


# --- what must not be left ---------------------------------------------------------------------------------------------


ENOUGH = 60  # seconds for what takes moments, on a machine that is slow and busy; only what fails waits for so long


def patient(check: Callable[[], Any]) -> Any:
    """Wait until a check is empty; return what it found at last."""
    deadline = time.monotonic() + ENOUGH
    while (found := check()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def query(connection: Connection, statement: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall()


def sessions(connection: Connection) -> list[tuple[Any, ...]]:
    return query(
        connection,
        "SELECT application_name, state FROM pg_stat_activity WHERE application_name LIKE 'etl_toolkit%' "
        "AND datname = current_database()",
    )


def assert_nothing_is_left(connection: Connection, work: Path) -> None:
    assert patient(lambda: sessions(connection)) == []
    assert (
        query(connection, "SELECT l.pid, l.classid, l.objid FROM pg_locks l JOIN pg_database d ON d.oid = l.database "
              "WHERE l.locktype = 'advisory' AND d.datname = current_database()")
        == []
    )  # fmt: skip
    assert query(connection, "SELECT relname FROM pg_class WHERE relname IN ('etl_staging', 'etl_probe')") == []
    assert query(connection, "SELECT relname FROM pg_class WHERE relname LIKE 'stage\\_%' AND relkind = 'r'") == []
    assert query(connection, "SELECT count(*) FROM pg_prepared_xacts") == [(0,)]
    assert [path.name for path in work.iterdir()] == []
    assert patient(lambda: started_processes(connection)) == []


def started_processes(connection: Connection) -> list[str]:
    """Processes that a killed load into this database had started and that outlive it."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if connection.info.dbname in process.environ().get(fault_worker.MARK, ""):
                found.append(process.name())
    return found


@pytest.fixture
def work(tmp_path: Path) -> Path:
    directory = tmp_path / "work"
    directory.mkdir()
    return directory


def config_for(work: Path, **changes: Any) -> ParallelConfig:
    base = ParallelConfig(
        concurrency=2,
        chunk_size=8,
        sub_batch_size=5,
        temp_directory=str(work),
        lock_wait_seconds=ENOUGH,
        retry_attempts=30,
    )
    return replace(base, **changes)


def assert_balanced(result: LoadResult, rows: int) -> None:
    assert result
    counts = asdict(result.counts)
    assert counts.pop("read") == rows == sum(counts.values())


# --- the process is killed -----------------------------------------------------------------------------------------------


def load_and_die(database: str, files: list[Any], options: dict[str, Any], point: str, number: int) -> None:
    process = FORKED.Process(
        target=fault_worker.load_and_die, args=(database, files, ["id"], options, point, number), daemon=True
    )
    process.start()
    process.join(ENOUGH)
    assert process.exitcode == -signal.SIGKILL, f"'{point}' was not reached {number} times"
    process.close()


@pytest.mark.parametrize("name", KILLED)
def test_every_step_of_a_strategy_is_in_the_matrix(
    database: str, connection: Connection, tmp_path: Path, work: Path, name: str
) -> None:
    scenario = KILLED[name]
    files = scenario.prepare(connection, tmp_path)
    passed: list[str] = []

    with failpoints.installed({point: partial(passed.append, point) for point in failpoints.POINTS}):
        ingest(files, "loaded", "id", database, **scenario.options(work))

    assert set(passed) == set(scenario.points)


def rejects_of(connection: Connection, run_id: str) -> list[tuple[Any, ...]]:
    return query(connection, f"SELECT file, line, sqlstate, raw FROM etl_toolkit.rejects WHERE run_id = '{run_id}'")


def assert_rejects_are_told(connection: Connection, result: LoadResult, scenario: Scenario) -> None:
    told = [(1, None, "23514", "7,bad")] if scenario.contents is with_a_bad_row else []
    assert rejects_of(connection, result.run_id) == told
    assert result.counts.rejected == len(told)


@pytest.mark.parametrize(("name", "point", "number"), named(MATRIX))
def test_a_killed_load_is_run_again(
    database: str, connection: Connection, tmp_path: Path, work: Path, name: str, point: str, number: int
) -> None:
    scenario = KILLED[name]
    files = scenario.prepare(connection, tmp_path)
    options = scenario.options(work)

    load_and_die(database, files, options, point, number)
    assert len(list(work.iterdir())) == 1, "without the sweep of the next load, the directory would stay"
    result = ingest(files, "loaded", ["id"], database, **options)

    assert differing_rows(connection, "loaded", "expected") == []
    assert_balanced(result, result.counts.read)
    assert_rejects_are_told(connection, result, scenario)
    assert_nothing_is_left(connection, work)
    states = query(connection, "SELECT status FROM etl_toolkit.runs ORDER BY started_at")
    assert states[-1] == ("complete",)
    assert all(state == ("interrupted",) for state in states[:-1])


@pytest.mark.parametrize(("name", "point", "number", "workers"), named(RESUMED))
def test_a_killed_load_is_resumed_with_other_workers(
    database: str, connection: Connection, tmp_path: Path, work: Path, name: str, point: str, number: int, workers: int
) -> None:
    scenario = KILLED[name]
    files = scenario.prepare(connection, tmp_path)
    before_it = query(connection, "SELECT loaded::text FROM loaded ORDER BY id")

    load_and_die(database, files, scenario.options(work), point, number)
    ((run_id, before),) = query(
        connection,
        "SELECT run_id, (SELECT count(*) FROM etl_toolkit.batches b WHERE b.run_id = r.run_id) FROM etl_toolkit.runs r",
    )
    result = ConflictAwareProcessor(database, config=config_for(work, concurrency=workers)).resume(run_id)

    assert result.run_id == run_id
    assert differing_rows(connection, "loaded", "expected") == []
    assert_balanced(result, result.counts.read)
    assert_rejects_are_told(connection, result, scenario)
    assert_nothing_is_left(connection, work)
    assert query(connection, "SELECT status FROM etl_toolkit.runs") == [("complete",)]
    assert before >= (number if point == "committed" else 0), "a batch that was committed is in the ledger"
    if scenario.more.get("undoable"):
        ConflictAwareProcessor(database, config=config_for(work)).undo(run_id)
        assert query(connection, "SELECT loaded::text FROM loaded ORDER BY id") == before_it


# --- keys are deleted ----------------------------------------------------------------------------------------------------


def marked(number: int) -> Rows:
    """Every third row deletes its key; some of them come back, and others go twice."""
    rows = overlapping(number).rows
    return Rows(("id", "v", "op"), tuple((*row, "D" if at % 3 == 0 else "U") for at, row in enumerate(rows)))


@dataclass(frozen=True)
class Deleting(Scenario):
    def expect(self, connection: Connection, contents: Sequence[Rows]) -> None:
        write_options = self.more["write"]
        mark, missing = write_options.delete and write_options.delete.column, write_options.missing
        Replay("expected", "id", mark=mark, missing=None if mark else missing).load(connection, contents)


MIRROR = {"write": WriteOptions(missing="delete", max_deletes=1.0), "undoable": True}
TOMBSTONES = {"write": WriteOptions(delete=Delete("op", ("D",))), "undoable": True}
DELETING = {
    "mirror": Deleting("deterministic", more=MIRROR),
    "mirror, keys for the server": Deleting("partitioned", key_type="numeric", more=MIRROR),
    "tombstones": Deleting("deterministic", contents=marked, more=TOMBSTONES),
    "tombstones, partitioned": Deleting("partitioned", contents=marked, more=TOMBSTONES),
    "tombstones, keys for the server": Deleting("deterministic", key_type="numeric", contents=marked, more=TOMBSTONES),
}
GONE = 101 - 24  # the keys of the table are 0, 3, …, 300, those of the files 0 to 69
BATCHES = {"mirror": 3, "mirror, keys for the server": 2}
# Killed in the last batch of a mirror, and in the first two of the others. What is committed is not deleted once more by another run.
KILLED_WHILE_DELETING = [
    *(
        (name, point, BATCHES[name] + 1, "resumed")
        for name in BATCHES
        for point in ("claimed", "completed", "committed")
    ),
    *((name, "committed", BATCHES[name] + 1, "run again") for name in BATCHES),
    *(
        (name, point, number, "resumed")
        for name in DELETING
        if name not in BATCHES
        for point, number in (("merged", 1), ("committed", 1), ("completed", 2))
    ),
]


def deleted_by_the_ledger(connection: Connection) -> int:
    """How many keys the committed batches of all runs have deleted."""
    return sum(
        count.get("deleted", 0) + count.get("removed", 0)
        for (counts,) in query(connection, "SELECT counts FROM etl_toolkit.batches WHERE counts IS NOT NULL")
        for count in counts.values()
    )


def assert_deleted_once(connection: Connection, result: LoadResult, scenario: Scenario) -> None:
    """The rows are those of the oracle, the counts add up, and no key was deleted by two batches."""
    assert differing_rows(connection, "loaded", "expected") == []
    counts = asdict(result.counts)
    assert counts.pop("read") == sum(counts.values()) - counts["removed"]
    if scenario.more is MIRROR:
        assert deleted_by_the_ledger(connection) == GONE
    assert query(connection, "SELECT status FROM etl_toolkit.runs ORDER BY started_at")[-1] == ("complete",)


@pytest.mark.parametrize(("name", "point", "number", "then"), named(KILLED_WHILE_DELETING))
def test_a_load_that_is_killed_while_it_deletes_keys_deletes_each_once(
    database: str, connection: Connection, tmp_path: Path, work: Path, name: str, point: str, number: int, then: str
) -> None:
    scenario = DELETING[name]
    files = scenario.prepare(connection, tmp_path)
    before = query(connection, "SELECT loaded::text FROM loaded ORDER BY id")
    options = scenario.options(work)

    load_and_die(database, files, options, point, number)
    ((run_id, label),) = query(
        connection, "SELECT run_id, (SELECT label FROM etl_toolkit.batches b WHERE b.run_id = r.run_id ORDER BY number DESC "
        "LIMIT 1) FROM etl_toolkit.runs r",
    )  # fmt: skip
    if scenario.more is MIRROR:  # all others are committed
        assert query(connection, "SELECT count(*) FROM etl_toolkit.batches WHERE label <> 'missing keys'") == [
            (number - 1,)
        ]
        assert (label == "missing keys") == (point == "committed")
    processor = ConflictAwareProcessor(database, config=config_for(work, concurrency=3))
    result = processor.resume(run_id) if then == "resumed" else ingest(files, "loaded", "id", database, **options)

    assert_deleted_once(connection, result, scenario)
    assert_nothing_is_left(connection, work)
    if then == "resumed":
        processor.undo(run_id)
        assert query(connection, "SELECT loaded::text FROM loaded ORDER BY id") == before


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("role", ["missing keys", "coordinator$"])
def test_a_mirror_outlives_the_loss_of_a_session_in_its_last_batch(
    database: str, connection: Connection, tmp_path: Path, work: Path, name: str, role: str
) -> None:
    scenario = DELETING[name]
    files = scenario.prepare(connection, tmp_path)

    with failpoints.installed({"completed": nth(BATCHES[name] + 1, terminate(database, role))}):
        result = ingest(files, "loaded", "id", database, **scenario.options(work))

    assert_deleted_once(connection, result, scenario)
    assert result.counts.removed == GONE
    assert_nothing_is_left(connection, work)


# --- what a killed load leaves behind -------------------------------------------------------------------------------------


def staging_tables(connection: Connection) -> list[str]:
    found = query(
        connection, "SELECT relname FROM pg_class WHERE relname LIKE 'stage\\_%' AND relkind = 'r' ORDER BY 1"
    )
    return [name for (name,) in found]


@pytest.mark.parametrize("taken_for", ["alive", "dead"])
def test_the_staging_tables_of_the_dead_are_dropped_and_those_of_the_living_are_not(
    database: str, connection: Connection, tmp_path: Path, work: Path, taken_for: str
) -> None:
    """A load that is taken for dead shows what would come of it: it fails, and says so."""
    scenario = SCENARIOS["partitioned, keys for the server"]
    files = scenario.prepare(connection, tmp_path)
    query(connection, "CREATE TABLE other (LIKE loaded INCLUDING ALL); SELECT")
    load_and_die(database, files, scenario.options(work), "dropping", 1)
    left = staging_tables(connection)
    seen: list[list[str]] = []

    def load_meanwhile() -> None:
        seen.append(staging_tables(connection))
        if taken_for == "dead":
            query(connection, "UPDATE etl_toolkit.runs SET status = 'failed' WHERE target = 'public.other' RETURNING 1")
        assert ingest(files, "loaded", "id", database, **scenario.options(work))
        seen.append(staging_tables(connection))

    with failpoints.installed({"staged": nth(3, load_meanwhile)}):
        if taken_for == "alive":
            assert ingest(files, "other", "id", database, **scenario.options(work, concurrency=1))
            query(connection, "DELETE FROM expected WHERE v = 'before' RETURNING 1")
            assert differing_rows(connection, "other", "expected") == []
        else:
            with pytest.raises(LedgerError, match="was taken over by a later run"):
                ingest(files, "other", "id", database, **scenario.options(work, concurrency=1))
            assert query(connection, "SELECT count(*) FROM other") == [(0,)]

    assert (len(left), len(seen[0])) == (3, 6)
    assert seen[1] == ([name for name in seen[0] if name not in left] if taken_for == "alive" else [])
    assert_nothing_is_left(connection, work)


def test_the_staging_tables_of_a_run_whose_table_was_dropped_are_dropped_by_a_load_into_another(
    database: str, connection: Connection, tmp_path: Path, work: Path
) -> None:
    scenario = SCENARIOS["partitioned, keys for the server"]
    files = scenario.prepare(connection, tmp_path)
    load_and_die(database, files, scenario.options(work), "staged", 1)
    query(connection, "DROP TABLE loaded; CREATE TABLE other (id int PRIMARY KEY, v text); SELECT")
    assert len(staging_tables(connection)) >= 1

    assert ingest(files, "other", "id", database, config=config_for(work))

    assert_nothing_is_left(connection, work)


def test_the_working_directories_of_the_dead_are_removed_and_no_others(tmp_path: Path) -> None:
    config = ParallelConfig(temp_directory=str(tmp_path))
    (tmp_path / "etl_toolkit_notes").mkdir()  # not one of ours: it has no owner
    (tmp_path / "etl_toolkit.log").write_text("")
    dead = tmp_path / "etl_toolkit_dead"
    dead.mkdir()
    (dead / "owner").write_text("")
    (dead / "spilled").write_text("x")
    (tmp_path / "etl_toolkit_link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "owner").write_text("")

    with open_workspace(config, threads=1) as living:
        sweep(tmp_path)
        assert living.directory.is_dir()
        assert not dead.exists()
        names = {path.name for path in tmp_path.iterdir()} - {living.directory.name}

    assert names == {"etl_toolkit_notes", "etl_toolkit.log", "etl_toolkit_link", "elsewhere"}
    assert (tmp_path / "elsewhere" / "owner").exists()


PLAIN_SESSION = """
import sys, psycopg2
with psycopg2.connect(sys.argv[1], application_name="plain") as connection, connection.cursor() as cursor:
    cursor.execute("UPDATE loaded SET v = 'plain' WHERE id = 30")
"""


@pytest.mark.parametrize("name", ["deterministic", "partitioned", "partitioned, keys for the server"])
def test_a_killed_load_does_not_live_on_in_the_server(
    database: str, connection: Connection, tmp_path: Path, work: Path, name: str
) -> None:
    """Its statement waits for a lock that nobody gives up; a session that is opened plainly waits on for its dead client."""
    scenario = SCENARIOS[name]
    files = scenario.prepare(connection, tmp_path)
    holder = psycopg2.connect(database)
    with holder.cursor() as cursor:
        cursor.execute("SELECT * FROM loaded WHERE id = 30 FOR UPDATE")

    def none_waits(application: str) -> Callable[[], bool]:
        return lambda: (
            not query(
                connection,
                f"SELECT FROM pg_stat_activity WHERE application_name LIKE '{application}%' AND wait_event_type = 'Lock'",
            )
        )

    load = FORKED.Process(target=fault_worker.load, args=(database, files, ["id"], scenario.options(work)), daemon=True)
    load.start()
    with subprocess.Popen([sys.executable, "-c", PLAIN_SESSION, database]) as plain:
        try:
            assert not patient(none_waits("etl_toolkit"))
            assert not patient(none_waits("plain"))
        finally:
            plain.kill()
            load.kill()
    load.join(ENOUGH)

    assert patient(lambda: sessions(connection)) == []
    assert not none_waits("plain")()
    query(connection, "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE application_name = 'plain'")
    holder.close()
    assert ingest(files, "loaded", "id", database, **scenario.options(work))
    assert differing_rows(connection, "loaded", "expected") == []
    assert_nothing_is_left(connection, work)


@pytest.mark.parametrize("guard", ["given back", "left to the end of the session"])
def test_the_lock_on_the_table_is_given_back_with_the_load_and_not_with_its_session(
    database: str, connection: Connection, tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch, guard: str
) -> None:
    """A server ends a closed session only a moment later; this one, behind a proxy, much later."""
    scenario = SCENARIOS["deterministic"]
    files = scenario.prepare(connection, tmp_path)
    parts = parse_dsn(database)
    options = scenario.options(work, lock_wait_seconds=0)
    if guard != "given back":
        monkeypatch.setattr(ledger, "give_locks_back", nullcontext)

    with proxied(parts["host"], int(parts["port"]), "before it is sent", cuts=0, lingers=True) as proxy:
        through = make_dsn(database, host="127.0.0.1", port=proxy.port, sslmode="disable")
        assert ingest(files, "loaded", "id", through, **options)
        if guard == "given back":
            assert ingest(files, "loaded", "id", database, **options)
        else:
            with pytest.raises(LedgerError, match="another run is loading"):
                ingest(files, "loaded", "id", database, **options)

    assert_nothing_is_left(connection, work)


def test_a_killed_undo_has_undone_nothing_and_is_run_again(
    database: str, connection: Connection, tmp_path: Path, work: Path
) -> None:
    scenario = KILLED["undoable"]
    files = scenario.prepare(connection, tmp_path)
    before = query(connection, "SELECT loaded::text FROM loaded ORDER BY id")
    run_id = ingest(files, "loaded", "id", database, **scenario.options(work)).run_id
    holder = psycopg2.connect(database)
    with holder.cursor() as cursor:
        cursor.execute("SELECT * FROM loaded WHERE id = 60 FOR UPDATE")

    def is_not_waiting_yet() -> bool:
        return process.poll() is None and not query(
            connection,
            "SELECT FROM pg_stat_activity WHERE application_name LIKE 'etl_toolkit%' AND wait_event_type = 'Lock'",
        )

    command = [sys.executable, "-m", "etl_toolkit", "undo", run_id, "--dsn", database]
    with subprocess.Popen(command) as process:
        try:
            assert not patient(is_not_waiting_yet)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL
    assert patient(lambda: sessions(connection)) == []
    holder.close()

    assert differing_rows(connection, "loaded", "expected") == []
    ConflictAwareProcessor(database, config=config_for(work)).undo(run_id)
    assert query(connection, "SELECT loaded::text FROM loaded ORDER BY id") == before
    assert_nothing_is_left(connection, work)


# --- a connection is lost ------------------------------------------------------------------------------------------------


def terminate(database: str, role: str) -> Callable[[], None]:
    """Kill one backend of the load, as an administrator would."""

    def act() -> None:
        with psycopg2.connect(database) as admin, admin.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid, 60000) FROM (SELECT pid FROM pg_stat_activity WHERE application_name "
                "LIKE 'etl_toolkit%%' AND application_name ~ %s ORDER BY backend_start LIMIT 1) AS victim",
                (role,),
            )
            assert cursor.fetchall() == [(True,)]
        admin.close()

    return act


IN_A_TRANSACTION = ("claimed", "copying", "copied", "merged", "completed")


@pytest.mark.parametrize(
    ("name", "point"),
    named([(name, point) for name, its in SCENARIOS.items() for point in its.points if point in IN_A_TRANSACTION]),
)
def test_a_killed_backend_is_replaced(
    database: str, connection: Connection, tmp_path: Path, work: Path, name: str, point: str
) -> None:
    scenario = SCENARIOS[name]
    files = scenario.prepare(connection, tmp_path)
    role = "partition|worker" if scenario.strategy == "partitioned" else "file"
    if scenario.key_type == "numeric" and point in ("copying", "copied"):
        role = "stage"

    # With two workers it may hit the file that is staged ahead, which is loaded again in its turn: no retry.
    config = config_for(work, **{"concurrency": 1} if scenario.strategy in ("deterministic", "streaming") else {})

    with failpoints.installed({point: nth(1, terminate(database, role))}):
        result = ingest(files, "loaded", "id", database, strategy=scenario.strategy, config=config)

    if len(result.plan.lanes) == 1:
        assert result.retries >= 1  # else it may have hit a lane that had just committed
    assert differing_rows(connection, "loaded", "expected") == []
    assert_balanced(result, result.counts.read)
    assert_nothing_is_left(connection, work)


@pytest.mark.parametrize("name", ["deterministic", "partitioned", "partitioned, keys for the server"])
@pytest.mark.parametrize("point", ["scanned", "begun", "completed", "finishing"])
def test_a_load_outlives_the_session_that_holds_its_lock(
    database: str, connection: Connection, tmp_path: Path, work: Path, name: str, point: str
) -> None:
    scenario = SCENARIOS[name]
    files = scenario.prepare(connection, tmp_path)

    with failpoints.installed({point: nth(1, terminate(database, "coordinator$"))}):
        result = ingest(files, "loaded", "id", database, strategy=scenario.strategy, config=config_for(work))

    assert result
    assert differing_rows(connection, "loaded", "expected") == []
    assert query(connection, "SELECT status FROM etl_toolkit.runs") == [("complete",)]
    assert_nothing_is_left(connection, work)


@pytest.mark.parametrize(
    ("name", "point"),
    named([(name, point) for name, its in KILLED.items() if its.twice for point in its.points if point != "copying"]),
)
def test_a_load_outlives_the_loss_of_all_its_sessions(
    database: str, connection: Connection, tmp_path: Path, work: Path, name: str, point: str
) -> None:
    """At any point of it, for whatever a session was open."""
    scenario = KILLED[name]
    files = scenario.prepare(connection, tmp_path)

    def kill_all() -> None:
        with closing(psycopg2.connect(database)) as admin, admin.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE application_name LIKE 'etl_toolkit%' "
                "AND datname = current_database()"
            )

    with failpoints.installed({point: nth(1, kill_all)}):
        result = ingest(files, "loaded", "id", database, **scenario.options(work))

    assert differing_rows(connection, "loaded", "expected") == []
    assert_balanced(result, result.counts.read)
    assert_rejects_are_told(connection, result, scenario)
    assert query(connection, "SELECT status FROM etl_toolkit.runs") == [("complete",)]
    assert_nothing_is_left(connection, work)


@pytest.mark.parametrize("cuts", [1, 2])
@pytest.mark.parametrize("moment", ["before it is sent", "before it is answered"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_connection_is_cut_around_the_commit(
    database: str, connection: Connection, tmp_path: Path, work: Path, name: str, moment: Moment, cuts: int
) -> None:
    scenario = SCENARIOS[name]
    files = scenario.prepare(connection, tmp_path)
    parts = parse_dsn(database)

    with proxied(parts["host"], int(parts["port"]), moment, cuts=cuts) as proxy:
        through = make_dsn(database, host="127.0.0.1", port=proxy.port, sslmode="disable")
        result = ingest(files, "loaded", "id", through, strategy=scenario.strategy, config=config_for(work))

    assert proxy.cut == cuts
    assert differing_rows(connection, "loaded", "expected") == []
    assert_balanced(result, result.counts.read)
    batches = query(connection, "SELECT count(*), count(DISTINCT number), count(counts) FROM etl_toolkit.batches")
    assert len(set(batches[0])) == 1, "each batch once, and complete"
    assert_nothing_is_left(connection, work)


# --- the network goes black ------------------------------------------------------------------------------------------------

only_on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs a packet filter and TCP_USER_TIMEOUT")


@contextmanager
def through_a_proxy(database: str) -> Iterator[tuple[Proxy, str]]:
    parts = parse_dsn(database)
    with proxied(parts["host"], int(parts["port"]), "before it is sent", cuts=0) as proxy:
        yield proxy, make_dsn(database, host="127.0.0.1", port=proxy.port, sslmode="disable", gssencmode="disable")


@only_on_linux
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("point", ["scanned", "claimed", "copying", "merged", "completed", "finishing"])
@pytest.mark.parametrize("name", ["deterministic", "partitioned"])
def test_a_network_that_goes_black_is_noticed_in_the_time_stated(
    database: str, connection: Connection, tmp_path: Path, work: Path, name: str, point: str, workers: int
) -> None:
    scenario = SCENARIOS[name]
    files = scenario.prepare(connection, tmp_path)
    reasons: list[str] = []
    config = config_for(work, concurrency=workers, network_timeout_seconds=2, lock_timeout_seconds=1)

    with through_a_proxy(database) as (proxy, dsn), failpoints.installed({point: nth(1, proxy.go_black)}):
        started = time.monotonic()
        result = ingest(
            files, "loaded", "id", dsn, strategy=scenario.strategy, config=config,
            on_event=lambda event: reasons.append(event.facts["reason"]) if "reason" in event.facts else None,
        )  # fmt: skip
        seconds = time.monotonic() - started

    assert seconds < ENOUGH  # a few sessions in turn, each of which takes 3 s to notice; by itself the system takes 900
    assert any("timed out" in reason for reason in reasons)
    assert differing_rows(connection, "loaded", "expected") == []
    assert_balanced(result, result.counts.read)
    assert_nothing_is_left(connection, work)


@only_on_linux
def test_a_network_that_goes_black_is_not_noticed_without_the_time(
    database: str, connection: Connection, tmp_path: Path, work: Path
) -> None:
    """The control: by itself the system waits for a quarter of an hour."""
    files = SCENARIOS["deterministic"].prepare(connection, tmp_path)
    results: list[LoadResult] = []
    config = config_for(work, network_timeout_seconds=0, lock_timeout_seconds=1)

    with through_a_proxy(database) as (proxy, dsn), failpoints.installed({"copying": nth(1, proxy.go_black)}):
        load = threading.Thread(target=lambda: results.append(ingest(files, "loaded", "id", dsn, config=config)))
        load.start()
        load.join(8)
        assert load.is_alive()
        proxy.reset()
        load.join(ENOUGH)

    assert [bool(result) for result in results] == [True]
    assert differing_rows(connection, "loaded", "expected") == []


@only_on_linux
@pytest.mark.parametrize("guard", ["network timeout", "none"])
def test_the_server_notices_as_well_and_the_next_run_waits_for_it(
    database: str, connection: Connection, tmp_path: Path, work: Path, guard: str
) -> None:
    files = SCENARIOS["deterministic"].prepare(connection, tmp_path)
    ((oid,),) = query(connection, "SELECT 'loaded'::regclass::oid")
    config = config_for(work, network_timeout_seconds=2 if guard == "network timeout" else 0)

    with through_a_proxy(database) as (proxy, dsn):
        dead = Sessions(dsn, config, "dead")
        lost = dead.connect("coordinator")
        ledger.lock_table(lost, oid, "loaded", wait_seconds=0)
        proxy.go_black()
        if guard == "network timeout":
            assert ingest(files, "loaded", "id", database, config=replace(config, lock_wait_seconds=ENOUGH))
        else:
            # The control: the lock stays with a session that nobody is behind.
            with pytest.raises(
                LedgerError, match=r"another run is loading public\.loaded: etl_toolkit dead coordinator"
            ):
                ingest(files, "loaded", "id", database, config=replace(config, lock_wait_seconds=6))
        proxy.reset()


@only_on_linux
@pytest.mark.parametrize("guard", ["ended", "left alone"])
def test_a_new_session_ends_the_one_that_it_replaces(
    database: str, connection: Connection, work: Path, monkeypatch: pytest.MonkeyPatch, guard: str
) -> None:
    """This server would not notice for a quarter of an hour, and the lost session holds what it has locked."""
    if guard != "ended":
        monkeypatch.setattr(Sessions, "_end_lost", lambda *_: None)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE loaded (id int PRIMARY KEY)")

    with through_a_proxy(database) as (proxy, dsn):
        ours = Sessions(dsn, config_for(work, network_timeout_seconds=2, lock_timeout_seconds=1), "run")
        lost = ours.connect("file 1")
        with lost.cursor() as cursor:
            cursor.execute(
                "SET tcp_user_timeout = 0; SET tcp_keepalives_idle = 7200; SET client_connection_check_interval = 0"
            )
            lost.commit()
            cursor.execute("LOCK TABLE loaded")
            proxy.go_black()
            with pytest.raises(psycopg2.OperationalError):
                cursor.execute("SELECT 1")
        ours.close(lost)
        with ours.session("file 1") as again, again.cursor() as cursor:
            if guard == "ended":
                cursor.execute("LOCK TABLE loaded")
            else:
                with pytest.raises(psycopg2.errors.LockNotAvailable):
                    cursor.execute("LOCK TABLE loaded")
        proxy.reset()


# --- the server goes down ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["durable", "fast"])
def own_server(request: pytest.FixtureRequest) -> Iterator[server.EmbeddedServer]:
    """A server of our own: one that may be shut down. The fast one then forgets what it had just committed."""
    if os.environ.get("ETL_DSN"):
        pytest.skip("a server that is not ours is not shut down")
    with server.temporary(profile=request.param) as running:
        yield running


@pytest.mark.parametrize("point", ["claimed", "copied", "merged", "completed", "committed"])
@pytest.mark.parametrize("name", ["deterministic", "partitioned", "partitioned, keys for the server"])
def test_the_server_is_shut_down_at_once_and_started_again(
    own_server: server.EmbeddedServer, tmp_path: Path, work: Path, name: str, point: str
) -> None:
    scenario = SCENARIOS[name]
    admin = psycopg2.connect(own_server.dsn)
    admin.autocommit = True
    with admin.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS loaded, expected; DROP SCHEMA IF EXISTS etl_toolkit CASCADE")
    files = scenario.prepare(admin, tmp_path)
    admin.close()

    with psycopg2.connect(own_server.dsn) as asking, asking.cursor() as cursor:
        cursor.execute("SELECT current_setting('synchronous_commit')")
        remembers = cursor.fetchone() == ("on",)
    asking.close()

    def bounce() -> None:
        server.stop(own_server.data_dir, "immediate")
        again = server.start(own_server.data_dir, profile="durable" if remembers else "fast", port=own_server.port)
        assert again.port == own_server.port

    options = {"strategy": scenario.strategy, "config": config_for(work)}
    may_fail = True
    with failpoints.installed({point: nth(1, bounce)}):
        try:
            result = ingest(files, "loaded", "id", own_server.dsn, **options)
        except (AccountingError, DatabaseError):
            # A commit may be forgotten. Never silently.
            may_fail = not remembers and point == "committed"
            result = ingest(files, "loaded", "id", own_server.dsn, **options)

    assert may_fail
    admin = psycopg2.connect(own_server.dsn)
    admin.autocommit = True
    assert differing_rows(admin, "loaded", "expected") == []
    assert_balanced(result, result.counts.read)
    assert_nothing_is_left(admin, work)
    admin.close()


@pytest.fixture(scope="module")
def durable_server() -> Iterator[server.EmbeddedServer]:
    if os.environ.get("ETL_DSN"):
        pytest.skip("a server that is not ours is not shut down")
    with server.temporary(profile="durable") as running:
        yield running


@pytest.mark.parametrize("point", ["scanned", "begun", "claimed", "completed", "finishing"])
@pytest.mark.parametrize("name", ["deterministic", "partitioned", "partitioned, keys for the server", "full parallel"])
def test_a_server_that_is_away_for_a_while_is_waited_for(
    durable_server: server.EmbeddedServer, tmp_path: Path, work: Path, name: str, point: str
) -> None:
    """Longer than five attempts take; the load goes on where the ledger says it was."""
    scenario = SCENARIOS[name]
    with closing(psycopg2.connect(durable_server.dsn)) as admin:
        admin.autocommit = True
        with admin.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS loaded, expected; DROP SCHEMA IF EXISTS etl_toolkit CASCADE")
        files = scenario.prepare(admin, tmp_path)

    def start() -> None:
        time.sleep(4)
        server.start(durable_server.data_dir, profile="durable", port=durable_server.port)

    starting = threading.Thread(target=start)

    def stop() -> None:
        server.stop(durable_server.data_dir, "immediate")
        starting.start()

    config = ParallelConfig(concurrency=2, temp_directory=str(work))
    with failpoints.installed({point: nth(1, stop)}):
        result = ingest(files, "loaded", "id", durable_server.dsn, strategy=scenario.strategy, config=config)
    starting.join()

    with closing(psycopg2.connect(durable_server.dsn)) as admin:
        admin.autocommit = True
        assert differing_rows(admin, "loaded", "expected") == []
        assert_balanced(result, result.counts.read)
        assert query(admin, "SELECT status FROM etl_toolkit.runs") == [("complete",)]
        assert_nothing_is_left(admin, work)


# --- files, locks, limits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["longer", "same size", "removed", "other columns"])
@pytest.mark.parametrize("name", ["deterministic", "streaming", "partitioned", "partitioned, keys for the server"])
@pytest.mark.parametrize("point", ["scanned", "claimed"])
def test_a_file_that_changes_between_plan_and_load(
    database: str, connection: Connection, tmp_path: Path, work: Path, name: str, how: str, point: str
) -> None:
    scenario = SCENARIOS[name]
    scenario.prepare(connection, tmp_path)
    file = tmp_path / "only.csv"
    file.write_text("id,v\n" + "".join(f"{key},original\n" for key in range(10)))
    before = query(connection, "SELECT count(*), count(*) FILTER (WHERE v = 'changed') FROM loaded")

    def change() -> None:
        text = file.read_text()
        match how:
            case "longer":
                file.write_text(text + "77,changed\n")
            case "same size":
                file.write_text(text.replace("original", "changed!"))
            case "removed":
                file.unlink()
            case "other columns":
                file.write_text(text.replace("id,v", "v,id"))

    told = ""
    try:
        with failpoints.installed({point: nth(1, change)}):
            result = ingest(file, "loaded", "id", database, strategy=scenario.strategy, config=config_for(work))
    except SourceError as error:
        told = str(error)
    if told:
        assert "only.csv: " in told
        assert query(connection, "SELECT count(*), count(*) FILTER (WHERE v = 'changed') FROM loaded") == before
    else:
        # Only a load that had read the file before may succeed, and with what the file held then.
        assert result.counts.read == 10
        assert query(connection, "SELECT count(*) FROM loaded WHERE v = 'original'") == [(10,)]
    assert query(connection, "SELECT count(*) FROM loaded WHERE v LIKE 'changed%'") == [(0,)]
    assert_nothing_is_left(connection, work)


def test_the_second_of_two_runs_is_told_who_loads(
    database: str, connection: Connection, tmp_path: Path, work: Path
) -> None:
    files = SCENARIOS["deterministic"].prepare(connection, tmp_path)
    told: list[BaseException] = []

    def second() -> None:
        try:
            ingest(files, "loaded", "id", database, config=config_for(work, lock_wait_seconds=0))
        except LedgerError as error:
            told.append(error)

    with failpoints.installed({"begun": nth(1, second)}):
        assert ingest(files, "loaded", "id", database, config=config_for(work))

    ((run_id,),) = query(connection, "SELECT run_id FROM etl_toolkit.runs")
    assert f"another run is loading public.loaded: etl_toolkit {run_id} coordinator (process " in str(told[0])
    assert_nothing_is_left(connection, work)


def test_the_second_of_two_runs_waits(database: str, connection: Connection, tmp_path: Path, work: Path) -> None:
    files = SCENARIOS["deterministic"].prepare(connection, tmp_path)
    held, may_go_on = threading.Event(), threading.Event()
    results: list[LoadResult] = []

    def hold() -> None:
        held.set()
        assert may_go_on.wait(ENOUGH)

    def load() -> None:
        results.append(ingest(files, "loaded", "id", database, config=config_for(work)))

    with failpoints.installed({"begun": nth(1, hold)}):
        first = threading.Thread(target=load)
        first.start()
        assert held.wait(ENOUGH)
        second = threading.Thread(target=load)
        second.start()
        time.sleep(0.5)
        assert second.is_alive()
        may_go_on.set()
        first.join(ENOUGH)
        second.join(ENOUGH)

    assert len(results) == 2
    assert all(results)
    assert differing_rows(connection, "loaded", "expected") == []
    assert_nothing_is_left(connection, work)


def test_two_runs_on_two_tables_do_not_wait_for_each_other(
    database: str, connection: Connection, tmp_path: Path, work: Path
) -> None:
    files = SCENARIOS["deterministic"].prepare(connection, tmp_path)

    def other() -> None:
        assert ingest(files, "expected", "id", database, config=config_for(work, lock_wait_seconds=0))

    with failpoints.installed({"begun": nth(1, other)}):
        assert ingest(files, "loaded", "id", database, config=config_for(work))

    assert differing_rows(connection, "loaded", "expected") == []


def test_a_run_that_lost_its_lock_commits_nothing_more(
    database: str, connection: Connection, tmp_path: Path, work: Path
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE loaded (id int PRIMARY KEY, v text)")
    old = [write(Rows(("id", "v"), ((str(n), "old"),)), tmp_path, f"old{n}", "csv") for n in range(3)]
    new = write(Rows(("id", "v"), (("1", "new"), ("2", "new"))), tmp_path, "new", "csv")

    def lose_the_lock_to_another_run() -> None:
        terminate(database, "coordinator$")()
        assert ingest(new, "loaded", "id", database, config=config_for(work))

    with (
        failpoints.installed({"committed": nth(1, lose_the_lock_to_another_run)}),
        pytest.raises(
            LedgerError, match="was taken over by a later run on the same table; nothing more of it is written"
        ),
    ):
        ingest(old, "loaded", "id", database, strategy="deterministic", config=config_for(work))

    assert query(connection, "SELECT id, v FROM loaded ORDER BY id") == [(0, "old"), (1, "new"), (2, "new")]
    assert query(connection, "SELECT status FROM etl_toolkit.runs ORDER BY started_at") == [
        ("interrupted",),
        ("complete",),
    ]
    assert_nothing_is_left(connection, work)


def test_an_old_run_is_not_resumed_over_a_newer_one(
    database: str, connection: Connection, tmp_path: Path, work: Path
) -> None:
    scenario = SCENARIOS["deterministic"]
    files = scenario.prepare(connection, tmp_path)
    load_and_die(database, files, {"strategy": "deterministic", "config": config_for(work)}, "committed", 1)
    ((run_id,),) = query(connection, "SELECT run_id FROM etl_toolkit.runs")
    newer = write(Rows(("id", "v"), (("40", "newer"),)), tmp_path, "newer", "csv")
    ingest(newer, "loaded", "id", database, config=config_for(work))

    with pytest.raises(LedgerError, match=r"has written to public[.]loaded since"):
        ConflictAwareProcessor(database, config=config_for(work)).resume(run_id)

    assert query(connection, "SELECT v FROM loaded WHERE id = 40") == [("newer",)]


def test_a_run_is_not_resumed_after_a_file_changed(
    database: str, connection: Connection, tmp_path: Path, work: Path
) -> None:
    files = SCENARIOS["deterministic"].prepare(connection, tmp_path)
    load_and_die(database, files, {"strategy": "deterministic", "config": config_for(work)}, "committed", 1)
    ((run_id,),) = query(connection, "SELECT run_id FROM etl_toolkit.runs")
    before = query(connection, "SELECT * FROM loaded ORDER BY id")
    files[2].write_text(files[2].read_text().replace("file 2", "changed"))

    with pytest.raises(LedgerError, match=r"part2.csv.* has changed since run"):
        ConflictAwareProcessor(database, config=config_for(work)).resume(run_id)

    assert query(connection, "SELECT * FROM loaded ORDER BY id") == before


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_statement_timeout_fails_the_load(
    database: str, connection: Connection, tmp_path: Path, work: Path, name: str
) -> None:
    scenario = SCENARIOS[name]
    files = scenario.prepare(connection, tmp_path)
    with connection.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE loaded IN SHARE ROW EXCLUSIVE MODE")  # whoever writes waits

    with pytest.raises(DatabaseError, match=r"57014.*raise statement_timeout") as raised:
        ingest(
            files, "loaded", "id", database, strategy=scenario.strategy,
            config=config_for(work, statement_timeout_seconds=0.5),
        )  # fmt: skip

    with connection.cursor() as cursor:
        cursor.execute("ROLLBACK")
    assert raised.value.sqlstate == "57014"
    assert query(connection, "SELECT count(*) FROM loaded WHERE v <> 'before'") == [(0,)]
    assert_nothing_is_left(connection, work)
    assert ingest(files, "loaded", "id", database, strategy=scenario.strategy, config=config_for(work))
    assert differing_rows(connection, "loaded", "expected") == []


@pytest.mark.parametrize("name", ["deterministic", "partitioned", "partitioned, keys for the server"])
def test_a_lock_timeout_is_tried_again(
    database: str, connection: Connection, tmp_path: Path, work: Path, name: str
) -> None:
    scenario = SCENARIOS[name]
    files = scenario.prepare(connection, tmp_path)
    events: list[str] = []

    def on_event(event: Any) -> None:
        events.append(event.name)
        if event.name == "retry" and events.count("retry") == 1:
            with connection.cursor() as cursor:
                cursor.execute("ROLLBACK")

    with connection.cursor() as cursor:
        cursor.execute("BEGIN; SELECT * FROM loaded WHERE id = 30 FOR UPDATE")

    result = ingest(
        files, "loaded", "id", database, strategy=scenario.strategy, config=config_for(work, lock_timeout_seconds=0.3),
        on_event=on_event,
    )  # fmt: skip

    assert result.retries >= 1
    assert differing_rows(connection, "loaded", "expected") == []
    assert_nothing_is_left(connection, work)


def test_a_lock_that_is_never_given_up_fails_the_load(
    database: str, connection: Connection, tmp_path: Path, work: Path
) -> None:
    files = SCENARIOS["deterministic"].prepare(connection, tmp_path)
    with connection.cursor() as cursor:
        cursor.execute("BEGIN; SELECT * FROM loaded WHERE id = 0 FOR UPDATE")

    with pytest.raises(TransientDatabaseError, match="another session holds a lock"):
        ingest(
            files, "loaded", "id", database, strategy="deterministic",
            config=config_for(work, lock_timeout_seconds=0.2, retry_attempts=2),
        )  # fmt: skip

    assert query(connection, "SELECT count(*) FROM loaded WHERE v <> 'before'") == [(0,)]
    with connection.cursor() as cursor:
        cursor.execute("ROLLBACK")
    assert_nothing_is_left(connection, work)


@pytest.mark.parametrize("name", ["partitioned", "partitioned, keys for the server"])
def test_no_connection_is_left_for_a_worker(
    database: str, connection: Connection, tmp_path: Path, work: Path, name: str
) -> None:
    scenario = SCENARIOS[name]
    files = scenario.prepare(connection, tmp_path)
    with connection.cursor() as cursor:
        cursor.execute("DROP ROLE IF EXISTS etl_few; CREATE ROLE etl_few LOGIN PASSWORD 'secret' CONNECTION LIMIT 3")
        cursor.execute(f"GRANT CREATE ON DATABASE {connection.info.dbname} TO etl_few; GRANT ALL ON loaded TO etl_few")
    few = make_dsn(database, user="etl_few", password="secret")
    options = {"strategy": scenario.strategy, "config": config_for(work, concurrency=3, retry_attempts=2)}
    try:
        with pytest.raises(TransientDatabaseError, match="too many connections"):
            ingest(files, "loaded", "id", few, **options)
        assert_nothing_is_left(connection, work)

        with connection.cursor() as cursor:
            cursor.execute("ALTER ROLE etl_few CONNECTION LIMIT -1")
        assert ingest(files, "loaded", "id", few, **options)
        assert differing_rows(connection, "loaded", "expected") == []
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP OWNED BY etl_few CASCADE; DROP ROLE etl_few")


@pytest.mark.parametrize("strategy", ["deterministic", "partitioned"])
def test_the_limit_of_temporary_files_is_reached(
    database: str, connection: Connection, tmp_path: Path, work: Path, strategy: str
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE loaded (id numeric PRIMARY KEY, v text)")
        cursor.execute(f"ALTER DATABASE {connection.info.dbname} SET temp_file_limit = '200kB'")
    rows = tuple((str(n % 9000), f"row {n} " * 8) for n in range(10_000))
    file = write(Rows(("id", "v"), rows), tmp_path, "a", "csv")
    options = {"strategy": strategy, "config": config_for(work, server_work_memory_bytes=64 * 1024, chunk_size=100_000)}

    with pytest.raises(DatabaseError, match=r"53400.*temp_file_limit"):
        ingest(file, "loaded", "id", database, **options)

    assert query(connection, "SELECT count(*) FROM loaded") == [(0,)]
    assert_nothing_is_left(connection, work)
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER DATABASE {connection.info.dbname} RESET temp_file_limit")
    assert ingest(file, "loaded", "id", database, **options).counts.inserted == 9000


@pytest.mark.parametrize("strategy", ["deterministic", "streaming", "partitioned"])
def test_a_working_directory_that_takes_no_more_is_reported(
    database: str, connection: Connection, tmp_path: Path, work: Path, strategy: str
) -> None:
    """A limit on the size of files stands for a full disk; the control loads the same without it."""
    query(connection, "CREATE TABLE loaded (id int PRIMARY KEY, v text); SELECT")
    file = tmp_path / "packed.csv.gz"
    file.write_bytes(gzip.compress(b"id,v\n" + b"".join(b"%d,%d\n" % (n, n * 7919) for n in range(60_000))))
    settings = tmp_path / "load.toml"
    settings.write_text(f"[load]\ntemp_directory = {str(work)!r}\n")
    command = [
        sys.executable, "-m", "etl_toolkit", "ingest", str(file), "--table", "loaded", "--key", "id", "--dsn", database,
        "--strategy", strategy, "--config", str(settings), "--quiet",
    ]  # fmt: skip

    limited = subprocess.run(
        ["/bin/sh", "-c", 'ulimit -f 400; exec "$@"', "sh", *command],
        capture_output=True,
        text=True,
        timeout=ENOUGH,
        check=False,
    )

    assert limited.returncode not in (0, -signal.SIGXFSZ)
    assert str(work) in limited.stderr
    assert "cannot take a copy of the input: File too large" in limited.stderr
    assert "free space, or name another place with temp_directory" in limited.stderr
    assert "Traceback" not in limited.stderr
    assert query(connection, "SELECT count(*) FROM loaded") == [(0,)]
    assert_nothing_is_left(connection, work)
    assert subprocess.run(command, timeout=ENOUGH, check=False).returncode == 0
    assert query(connection, "SELECT count(*) FROM loaded") == [(60_000,)]


# --- signals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("name", ["deterministic", "hybrid", "partitioned", "partitioned, keys for the server"])
def test_a_signal_rolls_back_and_can_be_resumed(
    database: str, connection: Connection, tmp_path: Path, work: Path, name: str, number: signal.Signals, status: int
) -> None:
    scenario = SCENARIOS[name]
    files = scenario.prepare(connection, tmp_path)
    settings = tmp_path / "load.toml"
    settings.write_text(f"[load]\ntemp_directory = {str(work)!r}\n")
    holder = psycopg2.connect(database)
    with holder.cursor() as cursor:
        cursor.execute("SELECT * FROM loaded WHERE id IN (0, 30, 60) FOR UPDATE")  # it will wait here
    command = [
        sys.executable, "-m", "etl_toolkit", "ingest", *map(str, files), "--table", "loaded", "--key", "id", "--dsn", database,
        "--strategy", scenario.strategy, "--jobs", "2", "--config", str(settings), "--quiet",
    ]  # fmt: skip

    def is_not_waiting_yet() -> bool:
        return process.poll() is None and not query(
            connection,
            "SELECT FROM pg_stat_activity WHERE application_name LIKE 'etl_toolkit%' AND wait_event_type = 'Lock'",
        )

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert not patient(is_not_waiting_yet)
            process.send_signal(number)
            _, err = process.communicate(timeout=ENOUGH)
        finally:
            process.kill()
    holder.close()

    assert process.returncode == status, err
    assert "Traceback" not in err
    # What is in the table is what the ledger has: whole batches, of lanes that nobody held up.
    ((written,),) = query(connection, "SELECT count(*) FROM loaded WHERE v <> 'before'")
    assert query(
        connection,
        "SELECT coalesce(sum((count->>'inserted')::int + (count->>'updated')::int), 0) "
        "FROM etl_toolkit.batches CROSS JOIN LATERAL jsonb_each(counts) AS per_file (position, count)",
    ) == [(written,)]
    assert written == 0 or name == "hybrid"
    assert_nothing_is_left(connection, work)
    ((run_id, state),) = query(connection, "SELECT run_id, status FROM etl_toolkit.runs")
    assert state == "interrupted"
    assert "etl-toolkit runs" in err, "how to go on is said"
    assert ConflictAwareProcessor(database, config=config_for(work)).resume(run_id)
    assert differing_rows(connection, "loaded", "expected") == []


@pytest.mark.parametrize("name", ["hybrid", "partitioned"])
def test_an_interrupt_before_all_workers_are_started_leaves_none_behind(
    database: str, connection: Connection, tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Without the gate in `run_all` the first worker waits for the row that `holder` has, and nobody stops it."""

    class Interrupted(lanes.ThreadPoolExecutor):
        def submit(self, *task: Any, **options: Any) -> Any:
            super().submit(*task, **options)
            time.sleep(1)
            raise KeyboardInterrupt

    scenario = SCENARIOS[name]
    files = scenario.prepare(connection, tmp_path)
    holder = psycopg2.connect(database)
    with holder.cursor() as cursor:
        cursor.execute("SELECT * FROM loaded FOR UPDATE")
    monkeypatch.setattr(lanes, "ThreadPoolExecutor", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        ingest(files, "loaded", "id", database, strategy=scenario.strategy, config=config_for(work))
    holder.close()
    assert query(connection, "SELECT count(*) FROM loaded WHERE v <> 'before'") == [(0,)]
    assert_nothing_is_left(connection, work)


def command_line(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "etl_toolkit", *words], capture_output=True, text=True, timeout=ENOUGH, check=False
    )


def test_a_killed_load_is_found_resumed_and_explained_from_the_command_line(
    database: str, connection: Connection, tmp_path: Path, work: Path
) -> None:
    scenario = KILLED["bad rows"]
    files = scenario.prepare(connection, tmp_path)
    load_and_die(database, files, scenario.options(work), "committed", 1)
    ((run_id,),) = query(connection, "SELECT run_id FROM etl_toolkit.runs")
    to = ("--dsn", database)

    before = command_line("runs", *to)
    resumed = command_line("resume", run_id, *to)
    after = command_line("runs", *to)
    again = command_line("resume", run_id, *to)
    rejected = command_line("rejects", run_id, *to)
    explained = command_line("explain", "--table", "loaded", "--key", "id=40", *to)

    assert [done.returncode for done in (before, resumed, after, again, rejected, explained)] == [0, 3, 0, 1, 0, 0]
    assert run_id in before.stdout
    assert "complete" not in before.stdout
    assert "complete" in after.stdout
    assert f"run {run_id} is complete; to load its files again, start a new run" in again.stderr
    assert "7,bad" in rejected.stdout
    assert f"{files[2]}, record 31, run {run_id}: won: the last row of the last file wins\n" in explained.stdout
    assert f"{files[1]}, record 22, run {run_id}: lost to {files[2]}, record 31\n" in explained.stdout
    assert "Traceback" not in "".join(done.stderr for done in (before, resumed, after, again, rejected, explained))
    assert differing_rows(connection, "loaded", "expected") == []
