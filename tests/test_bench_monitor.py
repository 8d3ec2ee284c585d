"""The monitor sees what goes on in client and server, apart, and says so where it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import psycopg2
import pyarrow as pa
import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit.bench.monitor import Monitor, Observation, overhead
from etl_toolkit.bench.records import TIMELINE_SCHEMA, Case, planned
from etl_toolkit.observe.processes import postmaster_pid, snapshot, tree_usage

SAMPLE = planned(Case("auto", "ours", "csv", 1, 10, 0.0, "empty", 1), run_index=3, number=1)


@pytest.fixture
def monitor() -> Iterator[Monitor]:
    made = Monitor()
    yield made
    made.close()


def test_its_process_takes_nothing_of_the_load_with_it() -> None:
    """It starts with every sweep, beside what is measured: what it imports, it costs."""
    code = "import sys, etl_toolkit.bench.sampler; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    taken = set(done.stdout.split())
    assert taken & {"duckdb", "pyarrow", "numpy", "pandas", "sqlalchemy", "etl_toolkit.loading.run"} == set()
    assert {"psycopg2", "psutil", "etl_toolkit.observe.processes"} <= taken  # the look does find what is there


def test_client_cpu_counts_children_that_are_gone(monitor: Monitor, database: str) -> None:
    monitor.watch(database, os.getpid())
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
    grown = monitor.stop().growth("client_cpu_seconds")
    assert grown is not None
    assert grown >= 0.3


def test_wal_and_server_cpu_grow_with_what_is_written(monitor: Monitor, database: str, connection: Connection) -> None:
    monitor.watch(database, os.getpid())
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 200000) AS i")
    seen = monitor.stop()
    wal_bytes = seen.growth("wal_bytes")
    assert wal_bytes is not None
    assert wal_bytes > 1_000_000
    if postmaster_pid(connection) is not None:
        assert (seen.growth("server_cpu_seconds") or 0) > 0
        assert (seen.peak("server_pss_bytes") or 0) > 1_000_000


def test_a_wait_for_a_lock_is_counted_once(monitor: Monitor, database: str, connection: Connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (i int)")

    def wait_for_lock() -> None:
        with psycopg2.connect(database) as waiting, waiting.cursor() as cursor:
            cursor.execute("LOCK TABLE t")
        waiting.close()

    monitor.watch(database, os.getpid(), interval_seconds=0.05)
    with psycopg2.connect(database) as holder, holder.cursor() as cursor:
        cursor.execute("LOCK TABLE t")
        thread = threading.Thread(target=wait_for_lock)
        thread.start()
        time.sleep(1.0)
        holder.commit()
        thread.join()
    holder.close()
    seen = monitor.stop()
    assert seen.lock_waits == 1
    assert seen.peak("lock_waiting") == 1


def test_one_monitor_watches_one_run_after_the_other(monitor: Monitor, database: str, connection: Connection) -> None:
    grown = []
    for rows in (100_000, 1):
        monitor.watch(database, os.getpid())
        with connection.cursor() as cursor:
            cursor.execute(
                f"DROP TABLE IF EXISTS t; CREATE TABLE t AS SELECT md5(i::text) FROM generate_series(1, {rows}) AS i"
            )
        grown.append(monitor.stop().growth("wal_bytes") or 0)
    assert grown[0] > 1_000_000 > grown[1] > 0


def test_a_monitor_that_fell_is_replaced(monitor: Monitor, dsn: str, database: str, connection: Connection) -> None:
    monitor.watch(database, os.getpid(), interval_seconds=0.01)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'etl_toolkit monitor'"
        )
        assert cursor.fetchall() == [(True,)]
    monitor.forget()
    monitor.watch(database, os.getpid())
    assert len(monitor.stop().rows) >= 2


def test_no_wait_is_seen_where_there_is_none(monitor: Monitor, database: str) -> None:
    monitor.watch(database, os.getpid())
    assert monitor.stop().lock_waits == 0


def test_what_is_not_available_is_null_and_never_zero() -> None:
    row = {"at_seconds": 0.0, "wal_bytes": 100, "lock_waiting": 0, "client_cpu_seconds": 1.0, "client_pss_bytes": 5}
    row |= dict.fromkeys(("server_cpu_seconds", "server_pss_bytes", "server_read_bytes", "server_written_bytes"))
    row |= {"client_read_bytes": 1, "client_written_bytes": 1}
    seen = Observation((row, {**row, "at_seconds": 1.0, "client_cpu_seconds": 1.5, "wal_bytes": 150}), 0, 0.0)
    table = seen.timeline(SAMPLE)
    assert seen.growth("server_cpu_seconds") is None
    assert seen.peak("server_pss_bytes") is None
    assert table.column("server_cpu_cores").to_pylist() == [None, None]
    assert table.column("client_cpu_cores").to_pylist() == [None, 0.5]
    assert table.column("wal_bytes").to_pylist() == [0, 50]


def test_the_timeline_has_the_schema_of_the_record(monitor: Monitor, database: str) -> None:
    monitor.watch(database, os.getpid())
    table: pa.Table = monitor.stop().timeline(SAMPLE)
    assert table.schema == TIMELINE_SCHEMA
    assert table.column("run_index").to_pylist() == [3] * table.num_rows


def test_the_monitors_own_session_is_not_in_the_servers_numbers(connection: Connection) -> None:
    postmaster = postmaster_pid(connection)
    if postmaster is None:
        pytest.skip("the server is not on this machine")
    own = connection.get_backend_pid()
    everything = tree_usage(postmaster, snapshot())
    without = tree_usage(postmaster, snapshot(), leave_out=frozenset({own}))
    assert everything is not None
    assert without is not None
    assert (without.pss_bytes or 0) < (everything.pss_bytes or 0)


def test_a_process_that_is_gone_has_no_usage() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert tree_usage(gone.pid, snapshot()) is None


def test_the_monitor_states_what_it_costs(database: str) -> None:
    cost = overhead(database, watch_seconds=0.5)
    assert cost.readings >= 2
    assert cost.cpu_seconds_per_reading > 0
    assert cost.cpu_share_of_one_core > 0
