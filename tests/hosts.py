"""Loads on hosts, as the tests of these share them: files, tables, and what a load leaves."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection

from etl_toolkit import ParallelConfig
from etl_toolkit.model import LoadResult
from tests.oracle import Oracle, Rows, differing_rows, write


def contents(count: int = 4, rows: int = 60) -> list[Rows]:
    """Files that share keys, with duplicates inside of them."""
    return [
        Rows(
            ("id", "v"),
            tuple((str((number * 37 + row * 7) % 151), f'file {number}, row {row}, "q"') for row in range(rows)),
        )
        for number in range(count)
    ]


FORMS = ("csv", "quoted", "parquet", "csv")


def put_down(directory: Path, files: list[Rows]) -> list[Path]:
    directory.mkdir(exist_ok=True)
    return [write(each, directory, f"part{at}", FORMS[at % 4]) for at, each in enumerate(files)]


def create(connection: Connection, files: list[Rows], *, check: str = "", filled: bool = True) -> None:
    with connection.cursor() as cursor:
        for name in ("loaded", "expected"):
            cursor.execute(f"DROP TABLE IF EXISTS {name}; CREATE TABLE {name} (id bigint PRIMARY KEY, v text {check})")
            if filled:
                cursor.execute(f"INSERT INTO {name} SELECT n, 'before' FROM generate_series(0, 300, 3) n")
    Oracle("expected", ("id",)).load(connection, files)


def config(tmp_path: Path, **changes: Any) -> ParallelConfig:
    (tmp_path / "exchange").mkdir(exist_ok=True)
    settings = {"concurrency": 2, "exchange": str(tmp_path / "exchange"), "retry_attempts": 5, **changes}
    return ParallelConfig(**settings)


def assert_loaded(connection: Connection, result: LoadResult, tmp_path: Path) -> None:
    assert result
    assert differing_rows(connection, "loaded", "expected") == []
    assert list((tmp_path / "exchange").iterdir()) == []
    assert query(connection, "SELECT status FROM etl_toolkit.runs")[-1] == ("complete",)
    assert sessions(connection) == []


def query(connection: Connection, statement: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall()


def sessions(connection: Connection) -> list[tuple[Any, ...]]:
    """The sessions of loads that are left after a while."""
    for _ in range(200):
        found = query(
            connection, "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'etl_toolkit %' "
            "AND datname = current_database()",
        )  # fmt: skip
        if not found:
            break
        time.sleep(0.05)
    return found


def assert_nothing_is_written(connection: Connection, tmp_path: Path) -> None:
    assert query(connection, "SELECT count(*) FROM loaded WHERE v <> 'before'") == [(0,)]
    assert list((tmp_path / "exchange").iterdir()) == []
    assert sessions(connection) == []


def wait_until(is_so: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class FewerThanSaid(Executor):
    """Says that it has two workers, and has one."""

    _max_workers = 2

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1)

    def submit(self, work: Any, /, *task: Any) -> Future[Any]:  # type: ignore[override]
        return self.pool.submit(work, *task)

    def shutdown(self, *_: Any, **__: Any) -> None:
        self.pool.shutdown()
