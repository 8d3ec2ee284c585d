"""The monitor sees what goes on in client and server, apart, and says so where it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import psycopg2
import pyarrow as pa
import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit.bench.monitor import Observation, overhead, watch
from etl_toolkit.bench.records import TIMELINE_SCHEMA, Case, planned
from etl_toolkit.observe.processes import postmaster_pid, snapshot, tree_usage

SAMPLE = planned(Case("auto", "ours", "csv", 1, 10, 0.0, "empty", 1), run_index=3, number=1)


def test_client_cpu_counts_children_that_are_gone(database: str) -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    with watch(database, os.getpid()) as seen:
        subprocess.run([sys.executable, "-c", burn], check=True)
    grown = seen.growth("client_cpu_seconds")
    assert grown is not None
    assert grown >= 0.3


def test_wal_and_server_cpu_grow_with_what_is_written(database: str, connection: Connection) -> None:
    with watch(database, os.getpid()) as seen, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 200000) AS i")
    wal_bytes = seen.growth("wal_bytes")
    assert wal_bytes is not None
    assert wal_bytes > 1_000_000
    if postmaster_pid(connection) is not None:
        assert (seen.growth("server_cpu_seconds") or 0) > 0
        assert (seen.peak("server_pss_bytes") or 0) > 1_000_000


def test_a_wait_for_a_lock_is_counted_once(database: str, connection: Connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (i int)")

    def wait_for_lock() -> None:
        with psycopg2.connect(database) as waiting, waiting.cursor() as cursor:
            cursor.execute("LOCK TABLE t")
        waiting.close()

    with (
        watch(database, os.getpid(), interval_seconds=0.05) as seen,
        psycopg2.connect(database) as holder,
        holder.cursor() as cursor,
    ):
        cursor.execute("LOCK TABLE t")
        thread = threading.Thread(target=wait_for_lock)
        thread.start()
        time.sleep(1.0)
        holder.commit()
        thread.join()
    holder.close()
    assert len(seen.waits) == 1
    assert seen.peak("lock_waiting") == 1


def test_a_watch_whose_session_is_ended_fails_and_the_next_one_does_not(database: str, connection: Connection) -> None:
    def watch_and_fall() -> None:
        with watch(database, os.getpid(), interval_seconds=0.01), connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND application_name = 'etl_toolkit monitor'"
            )
            assert cursor.fetchall() == [(True,)]

    with pytest.raises(psycopg2.Error):
        watch_and_fall()
    with watch(database, os.getpid()) as seen:
        pass
    assert len(seen.rows) >= 2
    assert seen.waits == set(), "no wait is seen where there is none"
    assert (seen.growth("wal_bytes") or 0) < 1_000_000


def test_what_is_not_available_is_null_and_never_zero() -> None:
    row = {"at_seconds": 0.0, "wal_bytes": 100, "lock_waiting": 0, "client_cpu_seconds": 1.0, "client_pss_bytes": 5}
    row |= dict.fromkeys(("server_cpu_seconds", "server_pss_bytes", "server_read_bytes", "server_written_bytes"))
    row |= {"client_read_bytes": 1, "client_written_bytes": 1}
    seen = Observation([row, {**row, "at_seconds": 1.0, "client_cpu_seconds": 1.5, "wal_bytes": 150}])
    table = pa.Table.from_pylist(seen.timeline(SAMPLE), TIMELINE_SCHEMA)
    assert seen.growth("server_cpu_seconds") is None
    assert seen.peak("server_pss_bytes") is None
    assert table.column("server_cpu_cores").to_pylist() == [None, None]
    assert table.column("client_cpu_cores").to_pylist() == [None, 0.5]
    assert table.column("wal_bytes").to_pylist() == [0, 50]


def test_the_timeline_has_the_columns_of_the_record(database: str) -> None:
    with watch(database, os.getpid()) as seen:
        pass
    rows = seen.timeline(SAMPLE)
    assert {frozenset(row) for row in rows} == {frozenset(TIMELINE_SCHEMA.names)}
    assert {row["run_index"] for row in rows} == {3}


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
    assert cost["readings"] >= 2
    assert cost["cpu_seconds_per_reading"] > 0
    assert cost["cpu_share_of_one_core"] > 0
