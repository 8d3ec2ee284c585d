"""More key ranges than workers: several in a transaction. And COPY straight into the table where keys are absent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit import ConflictAwareProcessor, ParallelConfig
from etl_toolkit.loading import failpoints
from etl_toolkit.loading.run import Event
from etl_toolkit.plan import ONE_WORKER, lanes
from etl_toolkit.strategies import direct, partitioned
from tests.loads import load_as_expected
from tests.oracle import Oracle, Rows, differing_rows

TABLE = "CREATE TABLE {} (id int PRIMARY KEY, v text)"


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "SMALLEST_RANGE", 10)


@pytest.fixture
def load(database: str, connection: Connection, tmp_path: Path) -> Callable[..., Any]:
    """Load files of (id, v) into `loaded`, and hold the table against the sequential oracle."""

    def run(*files: range, present: str = "", expected: str = "", **options: Any) -> Any:
        with connection.cursor() as cursor:
            for name, rows in (("loaded", present), ("expected", present or expected)):
                cursor.execute(TABLE.format(name) + (f"; INSERT INTO {name} {rows}" if rows else ""))
        contents = []
        for number, ids in enumerate(files):
            order = sorted(ids, key=lambda id_, factor=7919 + 2 * number: id_ * factor % 1009)
            contents.append(Rows(("id", "v"), tuple((str(id_), f"{number}/{id_}") for id_ in order)))
        Oracle("expected", ("id",)).load(connection, contents)
        return load_as_expected(database, connection, tmp_path, contents, **options)

    return run


def ledger(connection: Connection, items: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {items} FROM etl_toolkit.batches")
        return cursor.fetchone()


def test_a_worker_takes_several_ranges_in_one_transaction(load: Any, connection: Connection) -> None:
    result = load(range(200), range(100, 300), range(50, 350))
    assert (result.counts.inserted, len(result.plan.batches), result.plan.workers) == (350, 8, 2)
    assert ledger(connection, "count(*), count(counts), count(DISTINCT transaction_id)") == (8, 8, 2)


@pytest.mark.parametrize("strategy", ["auto", "full_parallel", "deterministic", "streaming"])
@pytest.mark.parametrize(("rows", "given", "workers"), [(300, None, 1), (300, 2, 2), (6_000, None, 2)])
def test_a_tiny_load_has_one_worker_unless_a_number_is_given(
    database: str, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    strategy: Any, rows: int, given: int | None, workers: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(lanes, "TINY_BYTES", 1 << 16)
    monkeypatch.setattr("etl_toolkit.config.parallel.available_cores", lambda: 2)
    paths = [tmp_path / f"{number}.csv" for number in range(2)]
    for number, path in enumerate(paths):
        own = range(number * rows, (number + 1) * rows)
        path.write_text("id,v\n" + "".join(f"{id_},{id_}\n" for id_ in own))
    with connection.cursor() as cursor:
        cursor.execute(TABLE.format("loaded"))
    plan = ConflictAwareProcessor(database, concurrency=given).plan(paths, "loaded", "id", strategy=strategy)
    assert (plan.workers, ONE_WORKER in plan.reasons) == (workers, workers == 1)


@pytest.mark.parametrize(
    ("key", "kind"), [("k", "text"), ("k, id", "few texts"), ("k, id", "many texts"), ("id, k", "number first")]
)
def test_a_range_holds_the_keys_between_its_bounds_and_as_many_as_any_other(
    database: str, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, kind: str
) -> None:
    """A resumed run divides by the bounds in the ledger: they must say what the stretches of `ordered` hold."""
    divide, looked_at = partitioned._divide, []

    def divided(run: Any, **chosen: bool) -> Any:
        ranges = divide(run, **chosen)
        tables = {name for (name,) in run.workspace.query("SELECT table_name FROM duckdb_tables()")}
        assert ("ranks" in tables) is (kind == "few texts")
        for own, bound in zip(ranges, run.bounds, strict=True):
            there = f"(SELECT winner FROM keys WHERE {bound})"
            held = run.workspace.query(f"SELECT count(*), count(*) FILTER (row IN {there}) FROM {own.won.stretch}")[0]
            looked_at.append((sum(own.won.rows.values()), *held))
        return ranges

    monkeypatch.setattr(partitioned, "_divide", divided)
    texts = 5 if kind == "few texts" else 400
    names = [f"{'é' if number % 2 else 'z'}{number * 7919 % 1009}" for number in range(texts)]
    contents = [
        Rows(("k", "id", "v"), tuple((names[id_ % texts], str(id_ * 31 % 401), str(file)) for id_ in ids))
        for file, ids in enumerate((range(240), range(120, 400)))
    ]
    for name in ("loaded", "expected"):
        with connection.cursor() as cursor:
            cursor.execute(f'CREATE TABLE {name} (k text COLLATE "C", id int, v text, PRIMARY KEY ({key}))')
    Oracle("expected", tuple(key.split(", "))).load(connection, contents)
    load_as_expected(database, connection, tmp_path, contents, key=key.split(", "))
    assert looked_at == [(50, 50, 50)] * 8


def test_one_transaction_takes_them_all_where_the_load_is_atomic(load: Any, connection: Connection) -> None:
    load(range(200), range(100, 300), atomic=True)
    assert ledger(connection, "count(*), count(DISTINCT transaction_id)") == (4, 1)


def test_a_table_with_rows_is_merged_into_once_a_worker(load: Any, connection: Connection) -> None:
    result = load(range(200), range(100, 300), present="SELECT g, 'old' FROM generate_series(1, 400, 2) g")
    assert (len(result.plan.batches), result.plan.workers) == (2, 2)


@pytest.mark.parametrize("present", ["", "SELECT g, 'old' FROM generate_series(1, 400, 2) g"], ids=["empty", "filled"])
def test_a_worker_whose_connection_is_lost_loads_all_its_ranges_again(
    load: Any, database: str, connection: Connection, present: str
) -> None:
    def fill() -> None:  # after the plan was made, so that there are several ranges in any case
        if present:
            with connection.cursor() as cursor:
                cursor.execute(f"INSERT INTO loaded {present}")

    reached: list[int] = []
    lock = threading.Lock()

    def kill_a_worker() -> None:
        with lock:
            reached.append(1)
            if len(reached) != 5:
                return
        with psycopg2.connect(database) as killer, killer.cursor() as cursor:
            cursor.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE '%worker 1'"
            )
            assert cursor.fetchone() == (1,)
        killer.close()

    with failpoints.installed({"begun": fill, "copied": kill_a_worker}):
        result = load(range(300), range(100, 400), expected=present)
    assert result.retries == 1
    assert len(reached) > 8  # the ranges of the lost transaction, once more
    assert ledger(connection, "count(*), count(counts), count(DISTINCT transaction_id)") == (8, 8, 2)


def test_absent_keys_are_copied_into_a_table_that_has_others(load: Any) -> None:
    result = load(range(200), range(100, 300), present="SELECT g, 'old' FROM generate_series(1000, 2000) g")
    assert result.counts.inserted == 300
    assert "merge" not in result.phases


def test_ranges_that_are_there_are_merged_and_the_others_copied(load: Any) -> None:
    events: list[Event] = []
    result = load(
        range(400), range(200, 800), present="SELECT g, 'old' FROM generate_series(0, 250) g", on_event=events.append
    )
    assert (result.counts.inserted, result.counts.updated, "merge" in result.phases) == (549, 251, True)
    assert "fallback" not in [event.name for event in events]


def test_a_key_that_the_sample_missed_makes_the_range_be_merged_and_ends_the_guessing(
    load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "PROBED_KEYS", 1)
    events: list[Event] = []
    result = load(
        range(400),
        range(200, 800),
        present="SELECT g, 'old' FROM generate_series(7, 799, 50) g",
        on_event=events.append,
    )
    assert (result.counts.inserted, result.counts.updated) == (784, 16)
    assert 1 <= [event.name for event in events].count("fallback") <= result.plan.workers


@pytest.mark.parametrize("strategy", ["full_parallel", "hybrid"])
@pytest.mark.parametrize("present", ["", "SELECT g, 'old' FROM generate_series(1000, 2000) g"], ids=["empty", "filled"])
def test_files_that_share_no_key_are_copied_into_the_table(
    load: Any, connection: Connection, present: str, strategy: str
) -> None:
    result = load(range(200), range(300, 400), range(0), present=present, strategy=strategy)
    assert "merge" not in result.phases
    assert [counts.inserted for counts in result.files.values()] == [200, 100, 0]
    with connection.cursor() as cursor:  # in key order within a file
        cursor.execute("SELECT array_agg(id ORDER BY ctid) FROM loaded WHERE id BETWEEN 300 AND 399")
        assert cursor.fetchone() == (list(range(300, 400)),)


def test_a_file_that_shares_keys_is_merged_beside_one_that_is_copied(load: Any, connection: Connection) -> None:
    result = load(range(200), range(300, 400), range(350, 450), strategy="hybrid")
    assert "merge" in result.phases
    assert [counts.inserted for counts in result.files.values()] == [200, 100, 50]
    # What is copied is written behind a savepoint, so its rows bear another number than the transaction: those of the file that
    # shares no key, and of the first one that does.
    assert ledger(connection, "count(*) FILTER (WHERE version <> transaction_id::xid)") == (2,)


@pytest.mark.parametrize("action", ["update", "ignore"])
def test_a_file_whose_keys_are_there_after_all_is_merged(
    load: Any, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    monkeypatch.setattr(direct, "PROBED_KEYS", 1)
    events: list[Event] = []
    present = "SELECT g, CASE WHEN g < 200 THEN '0/' ELSE '1/' END || g FROM generate_series(7, 399, 50) g"
    result = load(
        range(200),
        range(200, 400),
        present=present,
        on_event=events.append,
        strategy="full_parallel",
        on_conflict=action,
    )
    assert (result.counts.inserted, result.counts.unchanged) == (392, 8)
    assert 1 <= [event.name for event in events].count("fallback") <= result.plan.workers


@pytest.mark.parametrize("strategy", ["partitioned", "full_parallel"])
@pytest.mark.parametrize("present", ["0, 250", "1000, 1100", "0, 799"])
def test_a_run_of_both_kinds_is_undone(
    load: Any, database: str, connection: Connection, present: str, strategy: str
) -> None:
    def rows() -> list[tuple[int, str]]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT * FROM loaded ORDER BY id")
            return cursor.fetchall()

    old = f"SELECT g, 'old' FROM generate_series({present}) g"
    shared = 0 if strategy == "full_parallel" else 200
    result = load(range(400), range(400 - shared, 800), present=old, undoable=True, strategy=strategy)
    undone = ConflictAwareProcessor(database).undo(result.run_id)
    assert (undone.deleted, undone.restored) == (result.counts.inserted, result.counts.updated)
    first, last = map(int, present.split(", "))
    assert rows() == [(id_, "old") for id_ in range(first, last + 1)]


def test_a_run_that_stopped_between_two_commits_is_resumed(database: str, connection: Connection, load: Any) -> None:
    def stop_at_the_first() -> None:
        raise RuntimeError("the process ends here")

    with pytest.raises(RuntimeError), failpoints.installed({"committed": stop_at_the_first}):
        load(range(300), range(100, 400))
    with connection.cursor() as cursor:
        cursor.execute("SELECT run_id FROM etl_toolkit.runs")
        (run_id,) = cursor.fetchone()
    done = ledger(connection, "count(counts)")[0]
    assert 0 < done < 8
    assert ConflictAwareProcessor(database, config=ParallelConfig(concurrency=3)).resume(run_id)
    assert differing_rows(connection, "loaded", "expected") == []
    assert ledger(connection, "count(*), count(counts)") == (8, 8)


@pytest.mark.parametrize("place", [0, 2_047, 2_048, 122_879, 122_880, 129_999])
def test_one_key_that_appears_twice_is_found_wherever_it_lies(tmp_path: Path, place: int) -> None:
    """Duplicates lie next to each other once the rows are sorted; DuckDB looks at 2,048 rows, and keeps 122,880, at once."""
    keys = [f"{number:06}" for number in range(130_000)]
    source = tmp_path / "a.csv"
    source.write_text("id,v\n" + "".join(f"{key},x\n" for key in (*keys, keys[place])))

    found = ConflictAwareProcessor().analyze(source, ["id"])

    assert (found.distinct_keys, found.files[0].duplicates) == (130_000, 1)
