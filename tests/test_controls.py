"""Controls: the comparison and the accounting bite. Without them, every other test could pass for nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit import ingest
from etl_toolkit.errors import AccountingError
from etl_toolkit.loading.records import NearlySorted
from etl_toolkit.model import Counts
from etl_toolkit.strategies import hashed, partitioned, staged
from tests.oracle import Oracle, Rows, differing_rows, same_rows, write

UPSERT = "INSERT INTO loaded VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET v = excluded.v"
FIRST = Rows(("id", "v"), (("1", "first"), ("2", "first")))
TWICE = Rows(("id", "v"), (*FIRST.rows, ("2", "second")))  # merged: COPY into the table itself finds the key there
SECOND = Rows(("id", "v"), (("2", "second"), ("1", "second")))


@pytest.fixture
def tables(connection: Connection) -> None:
    with connection.cursor() as cursor:
        for name in ("loaded", "expected"):
            cursor.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, v text)")
    Oracle("expected", ("id",)).load(connection, [FIRST, SECOND])


def in_threads(*work: Callable[[], None]) -> list[BaseException]:
    """Run all at once; return what they raised."""
    raised: list[BaseException] = []

    def guarded(task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:  # handed to the test
            raised.append(error)

    threads = [threading.Thread(target=guarded, args=(task,)) for task in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_naive_parallel_workers_let_the_last_commit_win(database: str, connection: Connection, tables: None) -> None:
    second_committed = threading.Event()

    def worker(content: Rows, after: threading.Event | None, done: threading.Event | None) -> None:
        opened = psycopg2.connect(database)
        with opened, opened.cursor() as cursor:
            if after:
                after.wait()  # its file was larger, or its core busier
            cursor.executemany(UPSERT, content.rows)
        opened.close()
        if done:
            done.set()

    raised = in_threads(lambda: worker(FIRST, second_committed, None), lambda: worker(SECOND, None, second_committed))

    assert raised == []
    assert not same_rows(connection, "loaded", "expected")


def test_naive_parallel_workers_deadlock(database: str, connection: Connection, tables: None) -> None:
    both_hold_a_row = threading.Barrier(2)

    def worker(content: Rows) -> None:
        opened = psycopg2.connect(database)
        try:
            with opened, opened.cursor() as cursor:
                cursor.execute(UPSERT, content.rows[0])
                both_hold_a_row.wait()
                cursor.execute(UPSERT, content.rows[1])
        finally:
            opened.close()

    raised = in_threads(lambda: worker(FIRST), lambda: worker(SECOND))

    assert [type(error) for error in raised] == [psycopg2.errors.DeadlockDetected]


@pytest.mark.parametrize("strategy", ["hybrid", "deterministic", "streaming", "partitioned"])
def test_ours_do_neither_on_the_same_files(
    database: str, connection: Connection, tables: None, tmp_path: Path, strategy: str
) -> None:
    files = [write(content, tmp_path, name, "csv") for name, content in (("a", FIRST), ("b", SECOND))]

    ingest(files, "loaded", "id", database, strategy=strategy, concurrency=2)

    assert differing_rows(connection, "loaded", "expected") == []


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("VALUES (1.0)", "VALUES (1.00)"),
        ("VALUES (1), (1)", "VALUES (1)"),
        ("VALUES (''::text)", "VALUES (NULL::text)"),
        ("VALUES ('a'::char(3))", "VALUES ('a'::text)"),
    ],
    ids=["numeric scale", "doubled row", "empty and NULL", "trailing blanks"],
)
def test_the_comparison_sees_what_equality_hides(connection: Connection, left: str, right: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE a (v) AS {left}")
        cursor.execute(f"CREATE TABLE b (v) AS {right}")

    assert differing_rows(connection, "a", "b") != []
    assert differing_rows(connection, "a", "a") == []


def one_more(name: str) -> Callable[[Counts], Counts]:
    return lambda counts: replace(counts, **{name: getattr(counts, name) + 1})


COUNTERS = [field.name for field in fields(Counts)]


@pytest.mark.parametrize("counter", COUNTERS)
def test_a_wrong_counter_fails_the_run(
    database: str, connection: Connection, tables: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counter: str
) -> None:
    right = staged.counts_of
    monkeypatch.setattr(staged, "counts_of", lambda *args, **kw: one_more(counter)(right(*args, **kw)))

    with pytest.raises(AccountingError, match="rows"):
        ingest(write(TWICE, tmp_path, "a", "csv"), "loaded", "id", database, strategy="deterministic")

    with connection.cursor() as cursor:
        cursor.execute("SELECT status FROM etl_toolkit.runs")
        assert cursor.fetchall() == [("failed",)]


@pytest.mark.parametrize("table", ["loaded", "decimals"])
def test_a_wrong_counter_fails_a_partitioned_run(
    database: str, connection: Connection, tables: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE decimals (id numeric PRIMARY KEY, v text)")  # compared by the server
    right: Any = hashed.counts_of if table == "decimals" else partitioned.lost_rows

    def wrong(*args: Any, **kw: Any) -> Any:
        found = right(*args, **kw)
        return one_more("read")(found) if isinstance(found, Counts) else found | {0: found[0] + Counts(read=1)}

    monkeypatch.setattr(*(hashed, "counts_of") if table == "decimals" else (partitioned, "lost_rows"), wrong)
    files = [write(content, tmp_path, name, "csv") for name, content in (("a", FIRST), ("b", FIRST))]
    files[1].write_text("id,v\n3,x\n")

    with pytest.raises(AccountingError):
        ingest(files, table, "id", database, strategy="partitioned", concurrency=2)


def test_rows_that_the_key_scan_did_not_see_fail_the_run(
    database: str, tables: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = staged.counts_of

    def one_row_too_many(*args: Any, **kw: Any) -> Counts:
        return one_more("inserted")(one_more("read")(right(*args, **kw)))  # balances, but who is it?

    monkeypatch.setattr(staged, "counts_of", one_row_too_many)

    with pytest.raises(AccountingError, match="the key scan saw 3 rows, the load 4"):
        ingest(write(TWICE, tmp_path, "a", "csv"), "loaded", "id", database, strategy="deterministic")


def test_a_line_lost_on_the_way_fails_the_run(
    database: str, tables: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = NearlySorted._next_run

    def one_line_less(self: NearlySorted) -> bool:
        found = right(self)
        self._order = self._order[1:]
        return found

    monkeypatch.setattr(NearlySorted, "_next_run", one_line_less)

    with pytest.raises(AccountingError, match="the key scan saw 2 rows, the load 1"):
        ingest(write(FIRST, tmp_path, "a", "csv"), "loaded", "id", database, strategy="deterministic")
