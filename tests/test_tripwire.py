"""A wrong verdict that files are disjoint is noticed: forced here by letting the client compare what it must not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit import ParallelConfig, ingest
from etl_toolkit.errors import ConflictTripwireError
from etl_toolkit.keys import KEY_TYPES, KeyType
from etl_toolkit.loading import failpoints
from etl_toolkit.plan import lanes
from tests.oracle import Rows, write

CONFIG = ParallelConfig(concurrency=2)


@pytest.fixture
def files(connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Two files with one numeric key, spelled in two ways, that the client now takes for two keys."""
    monkeypatch.setitem(KEY_TYPES, "numeric", KeyType("VARCHAR", None))
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE loaded (id numeric PRIMARY KEY, v text, n int DEFAULT 1)")
    return [
        write(Rows(("id", "v", "n"), (("1.0", "first", "1"), ("2", "x", "1"))), tmp_path, "a", "csv"),
        write(Rows(("id", "v", "n"), (("1.00", "second", "1"), ("3", "y", "1"))), tmp_path, "b", "csv"),
    ]


def once_for(first: Callable[[], None], then: Callable[[], None]) -> Callable[[], None]:
    """The first worker to come here does one thing, every later one another."""
    turns = iter([first])
    lock = threading.Lock()

    def act() -> None:
        with lock:
            turn = next(turns, then)
        turn()

    return act


def wait_until_blocked(database: str) -> Callable[[], None]:
    """Wait until some session of the load waits for a transaction."""

    def wait() -> None:
        watch = psycopg2.connect(database)
        watch.autocommit = True
        try:
            with watch.cursor() as cursor:
                for _ in range(200):
                    cursor.execute(
                        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'etl_toolkit%' "
                        "AND wait_event IN ('transactionid', 'spectoken')"
                    )
                    if cursor.fetchone() != (0,):
                        return
                    time.sleep(0.02)
        finally:
            watch.close()

    return wait


def found(connection: Connection) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT id::text, v FROM loaded ORDER BY loaded.id")
        return cursor.fetchall()


def nothing() -> None:
    pass


@pytest.mark.parametrize("strategy", ["full_parallel", "hybrid"])
@pytest.mark.parametrize(
    ("action", "present"),  # `ignore` leaves a row that is there alone in both lanes: nothing would be wrong
    [("update", False), ("update", True), ("newer", False), ("newer", True), ("ignore", False)],
)
@pytest.mark.parametrize("meeting", ["after the other committed", "while the other is open"])
def test_lanes_that_meet(
    database: str, connection: Connection, files: list[Any], meeting: str, present: bool, action: str, strategy: str
) -> None:
    if present:
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO loaded VALUES (1, 'before')")
    if meeting == "after the other committed":
        committed = threading.Event()
        points = {"claimed": once_for(nothing, lambda: committed.wait(20)), "committed": committed.set}
    else:
        points = {"completed": once_for(wait_until_blocked(database), nothing)}

    with (
        failpoints.installed(points),
        pytest.raises(ConflictTripwireError, match=r"file \d and file \d met on one key"),
    ):
        ingest(
            files, "loaded", "id", database, strategy=strategy, on_conflict=action, config=CONFIG,
            order_by="n" if action == "newer" else None,
        )  # fmt: skip

    with connection.cursor() as cursor:
        cursor.execute("SELECT status, error LIKE 'ConflictTripwireError%' FROM etl_toolkit.runs")
        assert cursor.fetchall() == [("failed", True)]
    assert ("3", "y") not in found(connection) or ("2", "x") not in found(connection)  # one of them was rolled back


@pytest.mark.parametrize("present", [False, True], ids=["empty", "filled"])
def test_partitions_that_meet(database: str, connection: Connection, files: list[Any], present: bool) -> None:
    if present:
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO loaded VALUES (1, 'before')")
    before = found(connection)
    # With two keys more in between, the two spellings fall into two ranges.
    files[0].write_text('id,v\n"0","x"\n1.0,first\n')
    files[1].write_text('id,v\n1.00,second\n9,"y"\n')

    # One waits for the other, or one of them has taken both ranges.
    met = r"(worker \d and worker|partition \d and partition) \d met on one key"
    with pytest.raises(ConflictTripwireError, match=met):
        ingest(files, "loaded", "id", database, strategy="partitioned", config=CONFIG)

    assert found(connection) == before


@pytest.mark.parametrize(
    "present", ["", "(1, 'before')", "(77, 'before')"], ids=["empty", "key there", "key not there"]
)
@pytest.mark.parametrize("undoable", [False, True])
def test_ranges_of_one_transaction_that_meet(
    database: str,
    connection: Connection,
    files: list[Any],
    present: str,
    undoable: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fill() -> None:  # after the plan was made: a table with rows would be loaded in one range
        if present:
            with connection.cursor() as cursor:
                cursor.execute(f"INSERT INTO loaded VALUES {present}")
        before.append(found(connection))

    monkeypatch.setattr(lanes, "SMALLEST_RANGE", 1)
    before: list[Any] = []
    files[0].write_text('id,v\n"0","x"\n1.0,first\n')
    files[1].write_text('id,v\n1.00,second\n9,"y"\n')

    with (
        failpoints.installed({"begun": fill}),
        pytest.raises(ConflictTripwireError, match=r"partition \d and partition \d met on one key"),
    ):
        ingest(
            files,
            "loaded",
            "id",
            database,
            strategy="partitioned",
            config=replace(CONFIG, concurrency=1),
            undoable=undoable,
        )

    assert found(connection) == before[0]


@pytest.mark.parametrize("strategy", ["hybrid", "partitioned"])
@pytest.mark.parametrize("present", [False, True], ids=["empty", "filled"])
def test_rows_of_one_batch_that_meet(
    database: str, connection: Connection, files: list[Any], strategy: str, present: bool
) -> None:
    if present:
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO loaded VALUES (1, 'before')")
    before = found(connection)
    files[0].write_text("id,v\n1.0,first\n1.00,second\n")

    with pytest.raises(ConflictTripwireError, match="have the same key under index loaded_pkey"):
        ingest(files[0], "loaded", "id", database, strategy=strategy, concurrency=1)

    assert found(connection) == before


@pytest.mark.parametrize("strategy", ["full_parallel", "hybrid", "partitioned"])
def test_a_stranger_who_writes_our_keys_is_no_wrong_verdict(
    database: str, connection: Connection, tmp_path: Path, strategy: str
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE loaded (id int PRIMARY KEY, v text); INSERT INTO loaded VALUES (1, 'before')")
    files = [
        write(Rows(("id", "v"), ((str(n), "ours"), (str(n + 10), "ours"))), tmp_path, f"f{n}", "csv") for n in (1, 2)
    ]

    def write_it() -> None:
        with psycopg2.connect(database) as stranger, stranger.cursor() as cursor:
            cursor.execute("UPDATE loaded SET v = 'theirs' WHERE id = 1; INSERT INTO loaded VALUES (2, 'theirs')")
        stranger.close()
        written.set()

    written = threading.Event()
    with failpoints.installed({"claimed": once_for(write_it, lambda: written.wait(20))}):
        assert ingest(files, "loaded", "id", database, strategy=strategy, config=CONFIG)

    assert found(connection) == [("1", "ours"), ("2", "ours"), ("11", "ours"), ("12", "ours")]


def test_the_batches_of_one_lane_may_meet(database: str, connection: Connection, tmp_path: Path) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE loaded (id int PRIMARY KEY, v text)")
    contents = [(1, "a"), (1, "b"), (1, "c"), (5, "d")]
    files = [write(Rows(("id", "v"), ((str(n), v),)), tmp_path, v, "csv") for n, v in contents]

    assert ingest(files, "loaded", "id", database, strategy="hybrid", config=CONFIG)

    assert found(connection) == [("1", "c"), ("5", "d")]
