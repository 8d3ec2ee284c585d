"""How far a load is: its events become phases, shares, rows and an estimate, which terminal, card and plain lines show.

A phase that cannot be counted (one query, one statement) is estimated by its bytes or rows and what those took elsewhere;
it comes close to its end and waits there.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from etl_toolkit.tables import spell_count

if TYPE_CHECKING:
    from etl_toolkit.loading.run import Event

PHASES = ("look", "read", "rank", "send", "settle", "commit")
# The steps that a load measures (`LoadResult.phases`), by the phase that they are shown as.
_SHOWN_AS = {
    "sources": "look", "target": "look", "read": "read", "rejects": "rank", "collapse": "rank", "plan": "rank",
    "divide": "rank", "compare": "rank", "missing": "rank", "copy": "send", "merge": "settle", "commit": "commit",
    "assert": "commit", "analyze": "commit",
}  # fmt: skip
_BYTES_PER_SECOND = {"look": 250e6, "read": 120e6, "rank": 120e6}  # where nothing else is known
_SENT_BYTES_PER_SECOND = 25e6
_SETTLED_TO_SENT = 1.0  # seconds of merging for a second of sending, until the first merge has shown it


@dataclass
class Phase:
    """One phase so far: seconds by the clock, the share that is done (0 to 1), and whether it is under way or over."""

    name: str
    share: float = 0.0
    seconds: float = 0.0
    is_running: bool = False
    is_done: bool = False
    _running: int = 0
    _since: float = 0.0


@dataclass(frozen=True)
class Snapshot:
    """How far a load is at a moment. `eta_seconds` is None until there is something to go by."""

    table: str
    phases: tuple[Phase, ...]
    share: float
    rows: int
    rows_total: int | None
    rows_per_second: float
    elapsed_seconds: float
    eta_seconds: float | None
    lanes: tuple[tuple[str, str], ...]
    batches: int
    batches_total: int
    status: str  # running, complete, interrupted, failed
    title: str = ""


@dataclass
class Following:
    """Follows one load by its events; `snapshot` may be taken at any time, from any thread."""

    clock: Callable[[], float] = time.monotonic
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self._begin({})

    def _begin(self, facts: Mapping[str, Any]) -> None:
        self.table = str(facts.get("table", ""))
        self.phases = {name: Phase(name) for name in PHASES}
        self.lanes: dict[str, str] = {}
        self.started = self.clock()
        self.bytes_total, self.bytes_looked = 0, 0
        self.rows_total: int | None = None
        self.rows_sent, self.rows_done = 0, 0
        self.batches, self.batches_total = 0, 0
        self.merges, self.status, self.title = True, "running", ""
        self.ended, self._shown = 0.0, 0.0

    def __call__(self, event: Event) -> None:
        take = getattr(self, f"_on_{event.name}", None)
        if take:
            with self._lock:
                take(event.facts)

    def _on_started(self, facts: Mapping[str, Any]) -> None:
        self._begin(facts)

    def _on_looked(self, facts: Mapping[str, Any]) -> None:
        self.bytes_looked += facts["bytes"]
        self.bytes_total = max(self.bytes_total, facts["total_bytes"])

    def _on_phase_started(self, facts: Mapping[str, Any]) -> None:
        phase = self.phases[_SHOWN_AS[facts["phase"]]]
        if not phase._running:
            phase._since = self.clock()
        phase._running += 1
        phase.is_running = True
        for name in PHASES[: PHASES.index(phase.name)]:
            earlier = self.phases[name]
            if not earlier._running and name in ("look", "read", "rank"):
                earlier.is_done = True

    def _on_phase_done(self, facts: Mapping[str, Any]) -> None:
        phase = self.phases[_SHOWN_AS[facts["phase"]]]
        phase._running -= 1
        if not phase._running:
            phase.seconds += self.clock() - phase._since
            phase.is_running = False

    def _on_planned(self, facts: Mapping[str, Any]) -> None:
        plan = facts["plan"]
        self.bytes_total = facts["bytes"] or self.bytes_total
        self.merges = not plan.target_is_empty
        self.batches_total = len(plan.batches)
        if plan.overlap is not None:
            self.rows_total = plan.overlap.rows
        batches = spell_count(self.batches_total, "batch", "batches")
        self.title = f"{plan.strategy}, {batches}, {spell_count(plan.workers, 'worker')}"
        if facts.get("row_triggers"):  # one statement a batch: how far it is, nobody outside it can see
            self.title += "; rows of a batch count once their triggers have fired"

    def _on_bytes(self, facts: Mapping[str, Any]) -> None:
        self.rows_sent += facts.get("rows", 0)

    def _on_batch_started(self, facts: Mapping[str, Any]) -> None:
        self.lanes[facts.get("worker", "")] = facts["batch"]

    def _on_batch_done(self, facts: Mapping[str, Any]) -> None:
        self.lanes[facts.get("worker", "")] = ""
        self.batches += 1
        self.rows_done += facts["rows"]
        self.rows_sent = max(self.rows_sent, self.rows_done)

    def _on_finished(self, facts: Mapping[str, Any]) -> None:
        self.status, self.ended = facts["status"], self.clock()
        self.lanes = dict.fromkeys(self.lanes, "")
        for phase in self.phases.values():
            phase._running, phase.is_running = 0, False
        if self.status == "complete":
            self.rows_total = self.rows_done = facts["counts"].read
            self.batches = self.batches_total
            for phase in self.phases.values():
                phase.is_done, phase.share = True, 1.0

    def snapshot(self) -> Snapshot:
        """How far the load is now."""
        with self._lock:
            now = self.ended or self.clock()
            expected = self._expected_seconds(now)
            phases = tuple(self._phase(self.phases[name], expected[name], now) for name in PHASES)
            spent = sum(phase.seconds for phase in phases) or 1e-9
            left = sum(expected[phase.name] * (1 - phase.share) for phase in phases)
            share = 1.0 if self.status == "complete" else spent / (spent + left)
            self._shown = share = max(self._shown, share)  # a better estimate takes nothing back
            rows = max(self.rows_done, min(self.rows_sent, self.rows_total or self.rows_sent))
            since = self.phases["send"]._since or self.started
            knows = bool(self.bytes_total or self.rows_total) and self.status == "running"
            return Snapshot(
                self.table, phases, share, rows, self.rows_total, rows / max(now - since, 1e-9), now - self.started,
                left if knows else None, tuple(sorted(self.lanes.items())), self.batches, self.batches_total,
                self.status, self.title,
            )  # fmt: skip

    def _phase(self, phase: Phase, expected: float, now: float) -> Phase:
        seconds = phase.seconds + (now - phase._since if phase.is_running else 0.0)
        share = 1.0 if phase.is_done else self._counted(phase.name)
        if share is None:
            share = 1 - math.exp(-seconds / max(expected, 0.05)) if seconds else 0.0
        return Phase(phase.name, min(1.0, share), seconds, phase.is_running, phase.is_done or share >= 1.0)

    def _counted(self, name: str) -> float | None:
        """The share of a phase that can be counted."""
        if name == "look" and self.bytes_total:
            return min(0.99, self.bytes_looked / self.bytes_total)
        if name == "send" and self.rows_total:
            return min(0.99, max(self.rows_sent, self.rows_done) / self.rows_total)
        if name == "settle" and self.batches_total > 1 and self.rows_total:
            return min(0.99, self.rows_done / self.rows_total)
        return None

    def _expected_seconds(self, now: float) -> dict[str, float]:
        """The estimated wall time of each phase, from its size and from how much of it is done."""
        found = {name: self.bytes_total / rate for name, rate in _BYTES_PER_SECOND.items()}
        over = [self.phases[name] for name in found if self.phases[name].is_done]
        usual = sum(found[phase.name] for phase in over)
        slower = min(20.0, max(1.0, sum(phase.seconds for phase in over) / max(usual, 0.1))) if over else 1.0
        found = {name: seconds * slower for name, seconds in found.items()}
        sending = self.phases["send"]
        spent = sending.seconds + (now - sending._since if sending.is_running else 0.0)
        share = self._counted("send") or 0.0
        found["send"] = (
            spent / share if share > 0.05 else max(spent, slower * self.bytes_total / _SENT_BYTES_PER_SECOND)
        )
        settling = self.phases["settle"]
        settled = settling.seconds + (now - settling._since if settling.is_running else 0.0)
        counted = self._counted("settle") or 0.0
        if counted > 0.05 and settled:
            found["settle"] = settled / counted
        else:
            found["settle"] = max(settled, found["send"] * _SETTLED_TO_SENT) if self.merges or settled else 0.0
        found["commit"] = 0.05
        return found


def in_one_line(seen: Snapshot) -> str:
    """How far a load is, in a line of plain text."""
    begun = [phase for phase in seen.phases if phase.seconds]
    at = next((phase.name for phase in reversed(begun) if phase.is_running), "") if begun else "starting"
    parts = [f"{seen.share:.0%}", *([at] if at else [])]
    if seen.rows:
        total = f" of {seen.rows_total:,}" if seen.rows_total else ""
        parts += [f"{seen.rows:,}{total} rows", f"{seen.rows_per_second:,.0f} rows/s"]
    if seen.batches_total:
        parts.append(f"{seen.batches:,} of {spell_count(seen.batches_total, 'batch', 'batches')}")
    if seen.eta_seconds is not None:
        parts.append(f"about {in_time(seen.eta_seconds)} left")
    return ", ".join(parts)


def in_time(seconds: float) -> str:
    """Seconds as a person says them: 0.4 s, 12 s, 3 min 5 s."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"
