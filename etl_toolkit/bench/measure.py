"""One run: a fresh copy of the table, a fresh process that loads, a monitor beside it, and the answer checked."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2

from etl_toolkit.bench.answer import table_answer
from etl_toolkit.bench.databases import TABLE, ScratchDatabases, StartingPoint
from etl_toolkit.bench.monitor import BYTE_COUNTS, INTERVAL_SECONDS, LARGEST_CPU_SHARE, Observation, watch
from etl_toolkit.bench.records import Sample
from etl_toolkit.errors import EtlError

AFTER_LOAD = """
SELECT n_dead_tup, n_tup_ins, n_tup_upd, (SELECT deadlocks FROM pg_stat_database WHERE datname = current_database())
FROM pg_stat_user_tables WHERE relid = %s::regclass
"""
OTHER_SESSIONS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


TIMEOUT_SECONDS = 600.0

Timeline = Sequence[dict[str, Any]]


class _Runner:
    """The process that loads. It starts at once, so that its imports go on while the table is being put back."""

    def __init__(self, log: Path) -> None:
        command = [sys.executable, "-m", "etl_toolkit.bench.runner"]
        self._log = log
        with log.open("ab") as words:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is for the sweep, which then ends this
            )

    @property
    def process_id(self) -> int:
        return self._process.pid

    def say(self, line: str) -> None:
        if self._process.stdin is not None:
            self._process.stdin.write(line.encode() + b"\n")

    def hear(self, timeout_seconds: float) -> dict[str, Any]:
        """Return the next message of the process. Raises EtlError where that is a failure, or where none comes."""
        line = b""
        deadline = time.monotonic() + timeout_seconds
        while self._process.stdout is not None and not line.endswith(b"\n"):
            if not select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise EtlError(f"not done within {timeout_seconds:.0f} s")
            more = self._process.stdout.read(65536)
            if not more:
                raise EtlError(f"the loading process ended with exit code {self._process.wait()}; see {self._log.name}")
            line += more
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            raise EtlError(message["error"])
        return message

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def measure(
    planned: Sample,
    files: Sequence[str],
    databases: ScratchDatabases,
    start: StartingPoint,
    *,
    log: Path,
    interval_seconds: float = INTERVAL_SECONDS,
    cpu_share: float = LARGEST_CPU_SHARE,
) -> tuple[Sample, Timeline]:
    """Make the run that `planned` describes; one that goes wrong is a sample with a reason, not an exception.

    What the loader prints, tracebacks included, goes to `log`.
    """
    runner = _Runner(log)
    try:
        dsn = databases.reset(start)
        runner.hear(60)
        request = {"contender": planned.strategy, "files": list(files), "dsn": dsn, "table": TABLE}
        runner.say(
            json.dumps(request | {name: getattr(planned, name) for name in ("workers", "batch_rows", "executor")})
        )
        runner.hear(TIMEOUT_SECONDS)
        with watch(dsn, runner.process_id, interval_seconds=interval_seconds, cpu_share=cpu_share) as seen:
            runner.say("go")
            measured = runner.hear(TIMEOUT_SECONDS)
        found = measured | _rates(planned, measured["wall_seconds"]) | _observed(seen) | _left_behind(dsn, start)
        return replace(planned, **found), seen.timeline(planned)
    except (EtlError, psycopg2.Error) as error:
        return replace(planned, error=str(error).strip().splitlines()[0]), []
    finally:
        runner.close()


# Each of these returns fields of a sample.


def _rates(planned: Sample, wall_seconds: float) -> dict[str, Any]:
    megabytes = None if planned.input_bytes is None else planned.input_bytes / 1e6
    return {
        "rows_per_second": planned.rows / wall_seconds,
        "mb_per_second": None if megabytes is None else megabytes / wall_seconds,
    }


def _observed(seen: Observation) -> dict[str, Any]:
    return {name: seen.growth(name) for name in (*BYTE_COUNTS, "server_cpu_seconds")} | {
        "peak_client_pss_bytes": seen.peak("client_pss_bytes"),
        "idle_client_pss_bytes": seen.rows[0]["client_pss_bytes"],
        "peak_server_pss_bytes": seen.peak("server_pss_bytes"),
        "lock_waits": len(seen.waits),
    }


def _left_behind(dsn: str, start: StartingPoint) -> dict[str, Any]:
    """Check the answer, and look what the server counted; both in the database of the run."""
    with closing(psycopg2.connect(dsn, application_name="etl_toolkit bench")) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            _wait_for_sessions(cursor)
            cursor.execute(AFTER_LOAD, (TABLE,))
            counts = cursor.fetchone() or (None, None, None, None)
        wrong = table_answer(connection, TABLE, start.columns).difference(start.expected)
    counted = dict(zip(("dead_tuples", "rows_inserted", "rows_updated", "deadlocks"), counts, strict=True))
    return counted | {"correct": wrong is None, "error": wrong}


def _wait_for_sessions(cursor: psycopg2.extensions.cursor) -> None:
    """Wait until the sessions of the load are gone: each reports its counts when it ends."""
    for _ in range(100):
        cursor.execute(OTHER_SESSIONS)
        if cursor.fetchone() == (0,):
            return
        time.sleep(0.02)
