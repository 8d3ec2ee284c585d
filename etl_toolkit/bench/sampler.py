"""The process that watches runs: `python -m etl_toolkit.bench.sampler`, driven by `monitor` through its pipes.

For each run it reads a JSON request, takes a first sample, says `ready`, samples until the next line comes, takes a last
sample and writes everything as one JSON object. Its own session is left out of the server's numbers. Reading PSS walks
the page tables of every process, so the interval is stretched when samples would cost more than the share of a core that
the request allows.
"""

from __future__ import annotations

import json
import select
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import psycopg2

from etl_toolkit.observe.processes import postmaster_pid, snapshot, tree_usage

# `waitstart` tells two waits of one session apart; it may be NULL for a moment after a wait began.
SERVER_STATE = """
SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint,
       array(SELECT l.pid || ' ' || coalesce(l.waitstart::text, '') FROM pg_locks AS l
             JOIN pg_stat_activity AS a USING (pid) WHERE NOT l.granted AND a.datname = current_database())
"""


@dataclass
class Sampler:
    """One run under watch. `waits` gathers every lock wait seen, as backend and start."""

    connection: psycopg2.extensions.connection
    client: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    waits: set[str] = field(default_factory=set)
    backend: int = 0
    postmaster: int | None = None
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.connection.autocommit = True
        self.backend = self.connection.get_backend_pid()
        self.postmaster = postmaster_pid(self.connection)

    def sample(self) -> None:
        """Take one sample."""
        with self.connection.cursor() as cursor:
            cursor.execute(SERVER_STATE)
            wal_bytes, waiting = cursor.fetchone() or (None, [])
        self.waits.update(waiting)
        row: dict[str, Any] = {"at_seconds": time.monotonic() - self.began, "wal_bytes": wal_bytes}
        row["lock_waiting"] = len(waiting)
        processes = snapshot()
        client = tree_usage(self.client, processes)
        own = frozenset({self.backend})
        server = tree_usage(self.postmaster, processes, leave_out=own) if self.postmaster else None
        for side, usage in (("client", client), ("server", server)):
            row[f"{side}_cpu_seconds"] = usage.cpu_seconds if usage else None
            row[f"{side}_pss_bytes"] = usage.pss_bytes if usage else None
            row[f"{side}_read_bytes"] = usage.read_bytes if usage else None
            row[f"{side}_written_bytes"] = usage.written_bytes if usage else None
        self.rows.append(row)


def main() -> None:
    """Watch one run after the other, as the module says."""
    while line := sys.stdin.readline():
        request = json.loads(line)
        _watch(**request)


def _watch(dsn: str, client: int, interval_seconds: float, cpu_share: float) -> None:
    connection = psycopg2.connect(dsn, application_name="etl_toolkit monitor")
    sampler = Sampler(connection, client)
    cpu_began = time.process_time()
    sampler.sample()
    _say({"ready": True})
    pause = max(interval_seconds, (time.process_time() - cpu_began) / cpu_share)
    while not select.select([sys.stdin], [], [], pause)[0]:
        cpu, began = time.process_time(), time.monotonic()
        sampler.sample()
        cost = time.process_time() - cpu
        pause = max(0.0, max(interval_seconds, cost / cpu_share) - (time.monotonic() - began))
    sys.stdin.readline()
    sampler.sample()
    connection.close()
    spent = time.process_time() - cpu_began
    _say({"rows": sampler.rows, "lock_waits": len(sampler.waits), "monitor_cpu_seconds": spent})


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
