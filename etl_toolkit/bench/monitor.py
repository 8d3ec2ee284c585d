"""Watch a run from a process of its own: CPU, memory, I/O of client and server apart, WAL and lock waits, over time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from etl_toolkit.bench.records import TIMELINE_SCHEMA, Sample
from etl_toolkit.errors import EtlError

INTERVAL_SECONDS = 0.1
LARGEST_CPU_SHARE = 0.05  # of one core
BYTE_COUNTS = ("client_read_bytes", "client_written_bytes", "server_read_bytes", "server_written_bytes", "wal_bytes")


@dataclass(frozen=True)
class Observation:
    """What the monitor saw: its readings, in order. Their counts and CPU times are totals, not differences."""

    rows: tuple[Mapping[str, Any], ...]
    lock_waits: int
    monitor_cpu_seconds: float

    def peak(self, name: str) -> int | None:
        """Return the largest reading of `name`, None when there is none."""
        known = [row[name] for row in self.rows if row[name] is not None]
        return max(known) if known else None

    def growth(self, name: str) -> float | None:
        """Return how much `name` grew from the first reading to the last one that has it."""
        known = [row[name] for row in self.rows if row[name] is not None]
        return known[-1] - known[0] if known else None

    @property
    def watched_seconds(self) -> float:
        """From the first reading to the last."""
        return float(self.rows[-1]["at_seconds"] - self.rows[0]["at_seconds"])

    def timeline(self, sample: Sample) -> pa.Table:
        """Return the readings as an Arrow table of `TIMELINE_SCHEMA`, as those of `sample`."""
        run = {"run_index": sample.run_index, "case": sample.case, "strategy": sample.strategy, "round": sample.round}
        rows, before = [], None
        for row in self.rows:
            counts = {name: _difference(row[name], self.rows[0][name]) for name in BYTE_COUNTS}
            cores = {f"{side}_cpu_cores": _cores(side, row, before) for side in ("client", "server")}
            rows.append({**row, **counts, **cores, **run})
            before = row
        return pa.Table.from_pylist(rows, TIMELINE_SCHEMA)


class Monitor:
    """A process that watches one run after the other: `watch` begins, `stop` ends and tells what was seen."""

    def __init__(self) -> None:
        self._process = self._started()
        self._is_watching = False

    def watch(
        self, dsn: str, client: int, *, interval_seconds: float = INTERVAL_SECONDS, cpu_share: float = LARGEST_CPU_SHARE
    ) -> None:
        """Begin to watch process `client` and the server of `dsn`; return when the first reading is taken."""
        if self._process.poll() is not None:  # it fell with a server that fell
            self.close()
            self._process = self._started()
        # The DSN may hold a password, so it goes through the pipe: everybody can read a command line.
        request = {"dsn": dsn, "client": client, "interval_seconds": interval_seconds, "cpu_share": cpu_share}
        self._say(json.dumps(request))
        self._hear()
        self._is_watching = True

    def stop(self) -> Observation:
        """Take the last reading and return all of them."""
        self._is_watching = False
        self._say("stop")
        told = self._hear()
        return Observation(tuple(told["rows"]), told["lock_waits"], told["monitor_cpu_seconds"])

    def forget(self) -> None:
        """Stop watching a run that came to nothing."""
        if self._is_watching:
            with suppress(EtlError):
                self.stop()

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @staticmethod
    def _started() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "etl_toolkit.bench.sampler"]
        # Ctrl-C is for the sweep, which then ends this.
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def _say(self, line: str) -> None:
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.write(line + "\n")
                self._process.stdin.flush()

    def _hear(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            self._is_watching = False
            self._process.wait(timeout=30)
            raise EtlError("the monitor ended early; its output is on stderr")
        told: dict[str, Any] = json.loads(line)
        return told


@dataclass(frozen=True)
class Overhead:
    """What watching costs: CPU seconds per reading, and that as a share of one core at the interval it keeps."""

    readings: int
    interval_seconds: float
    cpu_seconds_per_reading: float
    cpu_share_of_one_core: float


def overhead(dsn: str, *, watch_seconds: float = 2.0, interval_seconds: float = INTERVAL_SECONDS) -> Overhead:
    """Measure the cost of the monitor by watching this very process, which sleeps meanwhile.

    A busy server with many sessions and much memory costs more per reading; the sampler then stretches its interval.
    """
    with closing(Monitor()) as monitor:
        monitor.watch(dsn, os.getpid(), interval_seconds=interval_seconds)
        time.sleep(watch_seconds)
        seen = monitor.stop()
    readings = len(seen.rows)
    return Overhead(
        readings=readings,
        interval_seconds=seen.watched_seconds / max(1, readings - 1),
        cpu_seconds_per_reading=seen.monitor_cpu_seconds / readings,
        cpu_share_of_one_core=seen.monitor_cpu_seconds / seen.watched_seconds,
    )


def _difference(value: int | None, first: int | None) -> int | None:
    return None if value is None or first is None else value - first


def _cores(side: str, row: Mapping[str, Any], before: Mapping[str, Any] | None) -> float | None:
    if before is None or row[f"{side}_cpu_seconds"] is None or before[f"{side}_cpu_seconds"] is None:
        return None
    passed = row["at_seconds"] - before["at_seconds"]
    return max(0.0, float(row[f"{side}_cpu_seconds"] - before[f"{side}_cpu_seconds"])) / passed if passed else None
