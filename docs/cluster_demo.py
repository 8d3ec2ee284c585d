"""`make cluster-demo`: the same files by one process, threads, processes and Dask, into an embedded server; equal hashes."""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
from distributed import Client, LocalCluster

from etl_toolkit import ParallelConfig, ingest, server

TABLE = "CREATE TABLE orders (id bigint PRIMARY KEY, customer text NOT NULL, amount numeric(12,2), at timestamptz)"
HASH = "SELECT count(*), md5(string_agg(o::text, chr(10) ORDER BY id)) FROM orders o"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=12)
    parser.add_argument("--rows", type=int, default=20_000, help="of each file")
    asked = parser.parse_args()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = [write(directory / f"part{number}.csv", number, asked.rows) for number in range(asked.files)]
        dsn = stack.enter_context(server.temporary(profile="fast")).dsn
        os.environ["ETL_DSN"] = dsn  # which the workers of Dask inherit; no task contains it
        config = ParallelConfig(exchange=str(directory / "exchange"))
        hashes = set()
        for name, executor in contenders(stack):
            hashes.add(load(name, files, dsn, executor, config))
        print("all hashes are equal" if len(hashes) == 1 else "THE HASHES DIFFER")  # noqa: T201
    raise SystemExit(len(hashes) != 1)


def contenders(stack: ExitStack) -> Iterator[tuple[str, Any]]:
    """One process; then two workers of each kind."""
    yield "one process", None
    yield "two threads", stack.enter_context(ThreadPoolExecutor(2))
    yield "two processes", "processes:2"
    yield "two workers of Dask", stack.enter_context(dask_client())


@contextmanager
def dask_client() -> Iterator[Client]:
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster) as client:
        yield client


def load(name: str, files: list[Path], dsn: str, executor: Any, config: ParallelConfig) -> str:
    """Load into a new table, and return the hash of its rows."""
    with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute(f"DROP TABLE IF EXISTS orders; {TABLE}")
    started = time.perf_counter()
    result = ingest(files, "orders", "id", dsn, executor=executor, config=config)
    seconds = time.perf_counter() - started
    with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute(HASH)
        rows, found = cursor.fetchone()
    commit = f", ranges commit {result.plan.commit.replace('_', ' ')}" if result.plan.commit else ""
    print(f"{name:20} {result.counts.read:,} rows read, {rows:,} in the table, {found}, {seconds:.1f} s{commit}")  # noqa: T201
    return str(found)


def write(path: Path, number: int, rows: int) -> Path:
    """A file that shares half of its keys with the one before."""
    shuffled = random.Random(number)  # noqa: S311 - the same files each time
    keys = [number * rows // 2 + key for key in range(rows)]
    shuffled.shuffle(keys)
    lines = (
        f"{key},customer {key % 977},{shuffled.randrange(10**6) / 100},2026-01-01 10:00:{key % 60:02d}+00"
        for key in keys
    )
    path.write_text("id,customer,amount,at\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
