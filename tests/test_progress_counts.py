"""Rows that go to COPY more than once, because a first attempt was undone, count once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit import ParallelConfig, ingest
from etl_toolkit.loading import failpoints
from tests.fault_worker import nth
from tests.oracle import Rows, write


def rows(start: int, count: int, *more: tuple[str, str]) -> Rows:
    return Rows(("id", "v"), (*((str(key), "x") for key in range(start, start + count)), *more))


def sent(database: str, files: list[Any], **options: Any) -> tuple[int, int]:
    """The rows that events say were sent, and those that were read."""
    counted: list[int] = []

    def on_event(event: Any) -> None:
        if event.name == "bytes":
            counted.append(event.facts["rows"])

    config = options.pop("config", ParallelConfig(concurrency=2))
    result = ingest(files, "t", "id", database, config=config, on_event=on_event, **options)
    assert result
    return sum(counted), result.counts.read


@pytest.fixture
def table(connection: Connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, v text CHECK (v <> 'bad'))")


@pytest.mark.parametrize("strategy", ["deterministic", "streaming", "full_parallel", "partitioned"])
@pytest.mark.usefixtures("table")
def test_after_a_copy_into_the_table_met_a_key_that_is_there(
    database: str, connection: Connection, tmp_path: Path, strategy: str
) -> None:
    """One key among thousands that the sample of keys does not find: a COPY is undone, and the upsert takes its place."""
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (5999, 'before'); ANALYZE t")
    files = [write(rows(start, 6_000), tmp_path, f"{start}", "csv") for start in (0, 10_000)]

    assert sent(database, files, strategy=strategy) == (12_000, 12_000)


@pytest.mark.parametrize("strategy", ["deterministic", "partitioned"])
@pytest.mark.usefixtures("table")
def test_after_a_lost_connection(database: str, tmp_path: Path, strategy: str) -> None:
    files = [write(rows(start, 500), tmp_path, f"{start}", "csv") for start in (0, 1_000)]

    def kill() -> None:
        with psycopg2.connect(database) as admin, admin.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name ~ '(file|worker) [12]$' "
                "AND datname = current_database()"
            )
        admin.close()

    with failpoints.installed({"copied": nth(1, kill)}):
        assert sent(database, files, strategy=strategy) == (1_000, 1_000)


@pytest.mark.parametrize("strategy", ["deterministic", "partitioned"])
@pytest.mark.usefixtures("table")
def test_after_the_server_refused_a_row(database: str, tmp_path: Path, strategy: str) -> None:
    files = [write(rows(0, 500, ("700", "bad")), tmp_path, "a", "csv"), write(rows(1_000, 500), tmp_path, "b", "csv")]

    counted, read = sent(database, files, strategy=strategy, max_rejects=1)

    assert (counted, read) == (1_000, 1_001)
