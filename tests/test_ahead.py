"""Files in order, several at a time: the next one is loaded or staged before its turn, and commits behind the one before it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit import ConflictAwareProcessor, ParallelConfig
from etl_toolkit.errors import DatabaseError, RejectLimitError
from etl_toolkit.loading import failpoints, records
from etl_toolkit.request import load_spec
from etl_toolkit.strategies import ahead
from tests.loads import load_as_expected
from tests.oracle import Oracle, Rows

IN_ORDER = ("streaming", "deterministic")
UNSEEN = ParallelConfig(concurrency=2, conflict_detection=False)  # else files that share keys would not go ahead


@pytest.fixture
def load(database: str, connection: Connection, tmp_path: Path) -> Callable[..., Any]:
    """Load files of (id, v) into `loaded` in order, by two workers, and hold the table against the sequential oracle."""

    def run(*files: range, **options: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute(
                "CREATE TABLE loaded (id int PRIMARY KEY, v text); CREATE TABLE expected (LIKE loaded INCLUDING ALL)"
            )
        contents = [
            Rows(("id", "v"), tuple((str(key), f"{number}/{key}") for key in keys)) for number, keys in enumerate(files)
        ]
        Oracle("expected", ("id",)).load(connection, contents)
        return load_as_expected(database, connection, tmp_path, contents, **{"config": UNSEEN, **options})

    return run


class Meeting:
    """Lets the first two workers to come wait for each other: they are at work at the same time, or the test fails."""

    def __init__(self) -> None:
        self._barrier = threading.Barrier(2)
        self._comers = 0
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            self._comers += 1
            is_early = self._comers <= 2
        if is_early:
            self._barrier.wait(timeout=20)


def keys_loaded(connection: Connection) -> list[int]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM loaded ORDER BY id")
        return [row[0] for row in cursor]


@pytest.mark.parametrize("strategy", IN_ORDER)
def test_the_second_file_is_in_the_table_before_the_first_is_committed(load: Any, strategy: str) -> None:
    with failpoints.installed({"copied": Meeting()}):
        result = load(range(100), range(100, 200), range(200, 300), strategy=strategy)
    assert (result.counts.inserted, result.plan.workers, len(result.plan.lanes)) == (300, 2, 1)


@pytest.mark.parametrize("strategy", IN_ORDER)
def test_a_file_that_shares_keys_is_staged_while_the_one_before_it_is_loaded(load: Any, strategy: str) -> None:
    with failpoints.installed({"copying": Meeting()}):
        result = load(
            range(100), range(50, 150), range(90, 200), strategy=strategy, config=ParallelConfig(concurrency=3)
        )
    assert (result.counts.inserted, result.counts.updated, result.retries) == (200, 110, 0)


@pytest.mark.parametrize("strategy", ["deterministic", "hybrid"])
def test_the_first_of_the_files_that_share_keys_goes_straight_into_the_table(load: Any, strategy: str) -> None:
    merged: list[None] = []
    with failpoints.installed({"merged": lambda: merged.append(None)}):
        result = load(
            range(100), range(50, 150), range(500, 600), range(550, 650), strategy=strategy,
            config=ParallelConfig(concurrency=2),
        )  # fmt: skip
    assert (result.counts.inserted, result.counts.updated, result.retries, len(merged)) == (300, 100, 0, 2)


@pytest.mark.parametrize("guard", [True, False])
def test_a_staged_file_gives_way_to_a_trigger_that_locks_the_table(
    database: str, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guard: bool
) -> None:
    """To stage a file is to read the table's definition: without `is_waited_for` the two would wait for each other."""
    if not guard:
        monkeypatch.setattr(ahead, "is_waited_for", lambda _: False)
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE loaded (id int PRIMARY KEY, v text); "
            "CREATE FUNCTION lock() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN LOCK TABLE loaded; RETURN NULL; END $$; "
            "CREATE TRIGGER lock BEFORE INSERT ON loaded FOR EACH STATEMENT EXECUTE FUNCTION lock()"
        )
    paths = [tmp_path / f"{number}.csv" for number in range(2)]
    for number, path in enumerate(paths):
        path.write_text(f"id,v\n1,{number}\n{number + 2},{number}\n")
    config = ParallelConfig(concurrency=2, lock_timeout_seconds=1, retry_attempts=1)
    with (
        failpoints.installed({"copying": Meeting()}),
        nullcontext() if guard else pytest.raises(DatabaseError, match="lock"),
    ):
        ConflictAwareProcessor(database, config=config).load(paths, load_spec("loaded", "id"))
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, v FROM loaded ORDER BY id")
        assert cursor.fetchall() == ([(1, "1"), (2, "0"), (3, "1")] if guard else [])


@pytest.mark.parametrize("strategy", IN_ORDER)
@pytest.mark.parametrize(
    ("first", "second"),
    [(range(1_000), range(999, 2_000)), (range(1_000), range(1_999, 998, -1)), (range(999, -1, -1), range(999, 2_000))],
    ids=["at the end and the start", "at the end of both", "at the start of both"],
)
def test_files_that_share_a_key_after_all(load: Any, strategy: str, first: range, second: range) -> None:
    """Whichever of the two meets the key: the second is taken back, and loaded when the first is there."""
    with failpoints.installed({"claimed": Meeting()}):
        result = load(first, second, range(2_000, 2_100), strategy=strategy)
    assert (result.counts.inserted, result.counts.updated, result.retries) == (2_100, 1, 0)


@pytest.fixture
def ahead_of_turn(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of the threads that load a file before its turn."""
    threads: set[str] = set()
    right = ahead._load_ahead

    def noted(*args: Any) -> Any:
        threads.add(threading.current_thread().name)
        try:
            return right(*args)
        finally:
            threads.discard(threading.current_thread().name)

    monkeypatch.setattr(ahead, "_load_ahead", noted)
    return threads


def test_a_file_that_waits_for_its_turn_gives_way_to_the_one_before(load: Any, ahead_of_turn: set[str]) -> None:
    """Without `is_waited_for` the two would wait for each other forever."""
    second_is_in = threading.Event()

    def at_copying() -> None:
        if threading.current_thread().name not in ahead_of_turn:
            second_is_in.wait(timeout=20)

    with failpoints.installed({"copying": at_copying, "copied": second_is_in.set}):
        result = load(range(100), range(50, 150), strategy="streaming")

    assert (result.counts.inserted, result.counts.updated, result.retries) == (150, 50, 0)


@pytest.mark.parametrize("guard", [True, False])
def test_a_file_before_its_turn_waits_for_nobody(
    load: Any, ahead_of_turn: set[str], monkeypatch: pytest.MonkeyPatch, guard: bool
) -> None:
    """Else the one before it may be the victim of a deadlock, and has to be loaded again."""
    monkeypatch.setattr(records, "RUN_BYTES", 64)  # so short that the file's own order stays
    if not guard:
        monkeypatch.setattr(ahead, "wait_for_nobody", lambda _: None)
    half_way, blocks = threading.Barrier(2), Counter[str]()

    def at_copying() -> None:
        me = threading.current_thread().name
        blocks[me] += 1
        if blocks[me] == 300:
            half_way.wait(timeout=20)
        elif me in ahead_of_turn:
            time.sleep(0.001)  # the first file is the first to wait

    with failpoints.installed({"copying": at_copying}):
        result = load(range(5_000), range(4_999, -1, -1), strategy="streaming")

    assert (result.counts.inserted, result.counts.updated) == (5_000, 5_000)
    assert (result.retries == 0) is guard


@pytest.fixture
def three_files(connection: Connection, tmp_path: Path) -> list[str]:
    """Three files, of which the second has a row that the server refuses; and the table."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE loaded (id int PRIMARY KEY, v int)")
    for name, rows in (("a", "1,1\n2,1\n"), ("b", "3,1\n4,x\n"), ("c", "5,1\n6,1\n")):
        (tmp_path / f"{name}.csv").write_text("id,v\n" + rows)
    return [str(tmp_path / f"{name}.csv") for name in "abc"]


def load_three(database: str, files: list[str], strategy: str) -> None:
    processor = ConflictAwareProcessor(database, config=ParallelConfig(concurrency=3))
    processor.load(files, load_spec("loaded", "id", strategy=strategy))


@pytest.mark.parametrize("strategy", IN_ORDER)
def test_a_file_that_fails_stops_those_behind_it_and_no_other(
    database: str, connection: Connection, three_files: list[str], strategy: str
) -> None:
    with pytest.raises(RejectLimitError, match=r"b\.csv, line 3"):
        load_three(database, three_files, strategy)

    assert keys_loaded(connection) == [1, 2]


def test_control_without_waiting_for_its_turn_a_file_behind_the_failed_one_is_there(
    database: str, connection: Connection, three_files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    is_committed = (
        threading.Event()
    )  # until then, the files before it are not loaded: they would stop it when one fails
    monkeypatch.setattr(ahead, "_wait", lambda _run, _turn, **before: bool(before) or is_committed.wait(timeout=10))

    with failpoints.installed({"committed": is_committed.set}), pytest.raises(RejectLimitError):
        load_three(database, three_files, "streaming")

    assert 5 in keys_loaded(connection)


def test_a_file_whose_connection_is_lost_before_its_turn_is_loaded_in_it(
    load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[Any] = []

    def lose(cursor: Any) -> None:
        lost.append(cursor)
        raise psycopg2.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(ahead, "wait_for_nobody", lose)
    with failpoints.installed({"claimed": Meeting()}):
        result = load(range(100), range(100, 200), strategy="streaming")
    assert (result.counts.inserted, len(lost)) == (200, 1)


def test_one_worker_loads_one_file_at_a_time(load: Any) -> None:
    result = load(range(100), range(100, 200), strategy="streaming", config=ParallelConfig(concurrency=1))
    assert (result.counts.inserted, result.plan.workers) == (200, 1)
