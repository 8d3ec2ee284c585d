"""Progress on stderr: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Any

from etl_toolkit.loading.run import Event

PLAIN_INTERVAL_SECONDS = 5.0
GIGABYTE = 1 << 30


def in_words(event: Event) -> str | None:
    """Return what somebody has to see to, in words; None for an event that is none of that."""
    facts = event.facts
    if event.name == "plain_text":
        return (
            f"{facts['host']} is talked to in plain text, and whoever is on the way reads every row; {facts['remedy']}"
        )
    if event.name == "memory_alert":
        used, limit = facts["used_bytes"] / GIGABYTE, facts["limit_bytes"] / GIGABYTE
        return (
            f"{used:.1f} of {limit:.1f} GB of memory are in use ({facts['ratio']:.0%}, limit of {facts['of']}); if it runs "
            "out, the system ends this load: free memory now, or lower memory_limit_bytes or --jobs for the next one"
        )
    if event.name == "loaded_before":
        return str(facts["message"])
    if event.name == "leftovers":
        return (
            f"up to {facts['tables']} staging tables could not be dropped and were left in schema etl_toolkit; the next load "
            "into this database drops them"
        )
    return None


class Progress:
    """Follows the events of a load. Rows are counted as they go to COPY; the total is that of the plan.

    `quiet` leaves out progress, not what somebody has to see to.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._rows = 0
        self._batches = 0
        self._total_batches = 0
        self._started = time.monotonic()
        self._last_line = self._started
        self._lock = threading.Lock()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, event: Event) -> None:
        with self._lock:
            if warning := in_words(event):
                self._say(f"warning: {warning}")
            elif self._quiet:
                return
            elif event.name == "planned":
                self._start(event)
            elif event.name == "bytes":
                self._advance(event.facts.get("rows", 0))
            elif event.name == "batch_done":
                self._batches += 1
                self._advance(0)
            elif event.name in ("retry", "fallback", "waiting"):
                self._say(f"{event.name}: " + ", ".join(f"{name} {value}" for name, value in event.facts.items()))

    def _start(self, event: Event) -> None:
        plan = event.facts["plan"]
        overlap = plan.overlap
        total = None
        if overlap is not None:
            total = overlap.distinct_keys if plan.strategy == "partitioned" else overlap.rows
        self._total_batches = len(plan.batches)
        self._say(f"run {event.run_id}: {plan.strategy}, {self._total_batches} batches, {plan.workers} workers")
        if sys.stderr.isatty():
            self._bar = _bar()
            self._bar.start()
            self._task = self._bar.add_task("loading", total=total, batches=f"0/{self._total_batches}", speed="")

    def _advance(self, rows: int) -> None:
        self._rows += rows
        elapsed = max(time.monotonic() - self._started, 1e-9)
        batches = f"{self._batches}/{self._total_batches}"
        if self._bar is not None:
            self._bar.update(self._task, advance=rows, batches=batches, speed=f"{self._rows / elapsed:,.0f} rows/s")
        elif time.monotonic() - self._last_line > PLAIN_INTERVAL_SECONDS:
            self._last_line = time.monotonic()
            self._say(f"{self._rows:,} rows sent, {batches} batches, {self._rows / elapsed:,.0f} rows/s")

    def _say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr)


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rows, {task.fields[batches]} batches, {task.fields[speed]}, ETA"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
