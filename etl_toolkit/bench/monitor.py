"""Watch a run from the process that waits for it: CPU, memory, I/O of client and server apart, WAL and lock waits."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg2

from etl_toolkit.bench.records import Sample
from etl_toolkit.observe.processes import postmaster_pid, snapshot, tree_usage

INTERVAL_SECONDS = 0.1
LARGEST_CPU_SHARE = 0.05  # of one core
BYTE_COUNTS = ("client_read_bytes", "client_written_bytes", "server_read_bytes", "server_written_bytes", "wal_bytes")

# `waitstart` tells two waits of one session apart; it may be NULL for a moment after a wait began.
SERVER_STATE = """
SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint,
       array(SELECT l.pid || ' ' || coalesce(l.waitstart::text, '') FROM pg_locks AS l
             JOIN pg_stat_activity AS a USING (pid) WHERE NOT l.granted AND a.datname = current_database())
"""


@dataclass
class Observation:
    """What was seen: readings, in order, whose counts and CPU times are totals; every lock wait, as backend and start."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    waits: set[str] = field(default_factory=set)
    cpu_seconds: float = 0.0  # of the watching itself

    def peak(self, name: str) -> int | None:
        """Return the largest reading of `name`, None when there is none."""
        return max(self._known(name), default=None)

    def growth(self, name: str) -> float | None:
        """Return how much `name` grew from the first reading to the last one that has it."""
        known = self._known(name)
        return known[-1] - known[0] if known else None

    def _known(self, name: str) -> list[Any]:
        return [row[name] for row in self.rows if row[name] is not None]

    def timeline(self, sample: Sample) -> list[dict[str, Any]]:
        """Return the readings as rows of `TIMELINE_SCHEMA`, as those of `sample`."""
        run = {"run_index": sample.run_index, "case": sample.case, "strategy": sample.strategy, "round": sample.round}
        rows, before = [], None
        for row in self.rows:
            counts = {name: _difference(row[name], self.rows[0][name]) for name in BYTE_COUNTS}
            cores = {f"{side}_cpu_cores": _cores(f"{side}_cpu_seconds", row, before) for side in ("client", "server")}
            same = {name: row[name] for name in ("at_seconds", "client_pss_bytes", "server_pss_bytes", "lock_waiting")}
            rows.append(run | same | counts | cores)
            before = row
        return rows


@contextmanager
def watch(
    dsn: str, client: int, *, interval_seconds: float = INTERVAL_SECONDS, cpu_share: float = LARGEST_CPU_SHARE
) -> Iterator[Observation]:
    """Watch process `client` and the server of `dsn` for the length of a block, from a first reading to a last one.

    Reading PSS walks the page tables of every process, so the interval is stretched when readings would cost more than
    `cpu_share` of a core. The session that watches is left out of the server's numbers.
    """
    with closing(psycopg2.connect(dsn, application_name="etl_toolkit monitor")) as connection:
        connection.autocommit = True
        watcher = _Watcher(connection, client)
        watcher.read()
        over = threading.Event()
        thread = threading.Thread(target=watcher.read_until, args=(over, interval_seconds, cpu_share), daemon=True)
        thread.start()
        try:
            yield watcher.seen
        finally:
            over.set()
            thread.join()
        watcher.read()


class _Watcher:
    def __init__(self, connection: psycopg2.extensions.connection, client: int) -> None:
        self.seen = Observation()
        self._connection = connection
        self._client = client
        self._own = frozenset({connection.info.backend_pid})
        self._postmaster = postmaster_pid(connection)
        self._began = time.monotonic()

    def read_until(self, over: threading.Event, interval_seconds: float, cpu_share: float) -> None:
        pause = interval_seconds
        while not over.wait(pause):
            began = time.monotonic()
            try:
                cost = self.read()
            except psycopg2.Error:
                return  # the last reading meets the same, where it can be reported
            pause = max(0.0, max(interval_seconds, cost / cpu_share) - (time.monotonic() - began))

    def read(self) -> float:
        """Take one reading; return the CPU seconds that it cost."""
        began = time.thread_time()
        with self._connection.cursor() as cursor:
            cursor.execute(SERVER_STATE)
            wal_bytes, waiting = cursor.fetchone() or (None, [])
        self.seen.waits.update(waiting)
        row = {"at_seconds": time.monotonic() - self._began, "wal_bytes": wal_bytes, "lock_waiting": len(waiting)}
        processes = snapshot()
        client = tree_usage(self._client, processes)
        server = tree_usage(self._postmaster, processes, leave_out=self._own) if self._postmaster else None
        for side, usage in (("client", client), ("server", server)):
            for name in ("cpu_seconds", "pss_bytes", "read_bytes", "written_bytes"):
                row[f"{side}_{name}"] = getattr(usage, name, None)
        self.seen.rows.append(row)
        cost = time.thread_time() - began
        self.seen.cpu_seconds += cost
        return cost


def overhead(dsn: str, *, watch_seconds: float = 2.0) -> dict[str, float]:
    """Return what watching costs, per reading and as a share of a core, measured on this process, which sleeps meanwhile.

    A busy server with many sessions and much memory costs more per reading; the interval is then stretched.
    """
    with watch(dsn, os.getpid()) as seen:
        time.sleep(watch_seconds)
    readings, seconds = len(seen.rows), seen.growth("at_seconds") or watch_seconds
    return {
        "readings": readings,
        "interval_seconds": seconds / (readings - 1),
        "cpu_seconds_per_reading": seen.cpu_seconds / readings,
        "cpu_share_of_one_core": seen.cpu_seconds / seconds,
    }


def _difference(value: int | None, first: int | None) -> int | None:
    return None if value is None or first is None else value - first


def _cores(name: str, row: dict[str, Any], before: dict[str, Any] | None) -> float | None:
    if before is None or row[name] is None or before[name] is None:
        return None
    passed = row["at_seconds"] - before["at_seconds"]
    return max(0.0, float(row[name] - before[name])) / passed if passed else None
