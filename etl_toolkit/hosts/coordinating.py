"""The second half of a load on hosts: the ranges, from the first claim to the last COMMIT."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

from etl_toolkit.errors import AccountingError, EtlError
from etl_toolkit.hosts.exchange import Exchange
from etl_toolkit.hosts.executors import Hosts
from etl_toolkit.hosts.loading import load_range
from etl_toolkit.hosts.meeting import Meeting, role_of
from etl_toolkit.hosts.rounds import Round
from etl_toolkit.hosts.tasks import Job, LoadedRange, LoadRange, SortedFile
from etl_toolkit.loading import ledger
from etl_toolkit.loading.run import Run
from etl_toolkit.model import Batch, Counts, Layout
from etl_toolkit.strategies.lanes import add_up, on_retry

NO_WORKER_SECONDS = 20.0  # that a task waits for a worker while all others wait for its ranges


class TooFewWorkersError(EtlError):
    """Fewer tasks run at a time than hold their transactions: the load would wait for itself."""


@dataclass(frozen=True)
class Sorted:
    """What the first half has left: the sorted files, their runs as a `LoadRange` has them, and how the ranges are loaded."""

    job: Job
    hosts: Hosts
    exchange: Exchange
    layout: Layout
    files: tuple[SortedFile, ...]
    runs: tuple[tuple[tuple[int, ...], str], ...]
    record_bytes: int
    bounds: tuple[str, ...]
    at_once: int
    is_resumed: bool = False

    @property
    def lost(self) -> dict[int, Counts]:
        """The counts of rows that are in no run, per file: superseded in their file, and rejected."""
        return {
            file.keys.position: Counts(
                read=file.keys.duplicates + len(file.rejects), superseded_same_file=file.keys.duplicates,
                rejected=len(file.rejects),
            )
            for file in self.files
        }  # fmt: skip


def load_on_hosts(run: Run, found: Sorted) -> dict[int, Counts]:
    """Load all ranges, commit them as the plan says, and return the counts per file."""
    if not found.is_resumed:
        run.sessions.ask("ledger", partial(ledger.pin_bounds, run_id=run.run_id, bounds=found.bounds))
    loading = _Loading(run, found, Meeting(run))
    try:
        with run.phases.phase("copy"):
            done = loading.together() if run.plan.commit == "together" else loading.by_range()
    finally:
        loading.meeting.close()
    counts = add_up([each.counts for each in done])
    for file in found.files:
        expected = file.keys.rows + len(file.file.malformed)
        if (read := counts.get(file.keys.position, Counts()).read) != expected:
            raise AccountingError(f"{file.file.name}: {expected:,} rows were sorted, but {read:,} loaded")
    return counts


@dataclass
class _Loading:
    run: Run
    found: Sorted
    meeting: Meeting

    def by_range(self) -> list[LoadedRange]:
        """Let every range commit as soon as it is loaded."""
        tasks = [self._task((batch,), holds=False) for batch in self.run.plan.batches]
        return self._round(self.found.at_once, self._watch_keys).carry_out(load_range, tasks, on_done=self._report)

    def together(self) -> list[LoadedRange]:
        """Let every task hold its transaction until all have loaded; with fewer tasks where fewer run at a time."""
        count = min(self.found.at_once, len(self.run.plan.batches))
        while True:
            groups = _split(self.run.plan.batches, count)
            tasks = [self._task(group, holds=True) for group in groups]
            watch = _Deciding(self, tasks)
            try:
                return self._round(len(tasks), watch.look).carry_out(load_range, tasks, on_done=watch.on_done)
            except TooFewWorkersError as error:
                self.run.tell("retry", batch="all ranges", attempt=1, sqlstate=None, reason=str(error))
                self.run.retries += 1
                count = max(1, min(count - 1, watch.holding))

    def _task(self, batches: Sequence[Batch], *, holds: bool) -> LoadRange:
        found, is_first = self.found, batches[0].partition == 0
        return LoadRange(
            job=replace(found.job, sign=found.exchange.sign), layout=found.layout, runs=found.runs,
            batches=tuple(replace(batch, files=()) for batch in batches),
            bounds=tuple(found.bounds[batch.number] for batch in batches),
            record_bytes=found.record_bytes,
            target_is_empty=self.run.plan.target_is_empty, holds=holds, lost=found.lost if is_first else {},
            rejects=dict(self.run.refused) if is_first else {},
        )  # fmt: skip

    def _round(self, at_once: int, watch: Callable[[], None]) -> Round:
        return Round(
            self.found.hosts, self.run.config, self.run.check, self._give_up, on_retry(self.run, "a key range"),
            at_once=at_once, watch=watch,
        )  # fmt: skip

    def _give_up(self) -> None:
        try:
            self.found.exchange.renew()  # first, so that no task tries again
        finally:
            self.meeting.end()

    def _watch_keys(self) -> None:
        self.meeting.look()

    def _report(self, task: LoadRange, done: LoadedRange) -> None:
        run, total = self.run, sum(done.counts.values(), Counts())
        run.phases.add({name: seconds for name, seconds in done.phases.items() if name != "copy"})
        run.retries += done.retries
        run.tell("bytes", bytes=0, rows=done.rows_sent)
        for batch in task.batches:
            run.tell("batch_started", batch=batch.label, files=[], worker=done.host)
        per_range = total if len(task.batches) == 1 else None
        for batch in task.batches:
            is_last = batch is task.batches[-1]
            run.tell(
                "batch_done", batch=batch.label, rows=total.read if is_last else 0,
                counts=per_range or (total if is_last else Counts()), seconds=done.seconds, worker=done.host,
            )  # fmt: skip


@dataclass
class _Deciding:
    """Watches the tasks that hold, and decides to commit once all ranges are loaded and their rows add up."""

    loading: _Loading
    tasks: Sequence[LoadRange]
    holding: int = 0
    _since: float = 0.0

    def __post_init__(self) -> None:
        self._open = {role_of(task) for task in self.tasks}  # not returned yet
        self._read = 0

    def on_done(self, task: LoadRange, done: LoadedRange) -> None:
        """Note a task that found its ranges committed by an earlier attempt, or has committed."""
        self._open.discard(role_of(task))
        self._read += sum(counts.read for counts in done.counts.values())
        self.loading._report(task, done)

    def look(self) -> None:
        """Raises AccountingError where rows are missing, TooFewWorkersError where the load would wait for itself."""
        seen = self.loading.meeting.look()
        if self.loading.meeting.is_decided or not self._open:
            return
        held = {role: rows for role, rows in seen.items() if rows is not None and role in self._open}
        self.holding = len(held)
        if held.keys() == self._open:
            self._check(self._read + sum(held.values()))
            self.loading.run.stop.check()
            self.loading.meeting.decide()
        elif held and not self._open & (seen.keys() - held.keys()):
            self._since = self._since or time.monotonic()
            if time.monotonic() - self._since > NO_WORKER_SECONDS:
                raise TooFewWorkersError(
                    f"{len(held)} of {len(self._open)} tasks have loaded, and the others have found no worker for "
                    f"{NO_WORKER_SECONDS:g} s"
                )
        else:
            self._since = 0.0

    def _check(self, read: int) -> None:
        found = self.loading.found
        expected = sum(file.keys.rows + len(file.file.malformed) for file in found.files)
        if read != expected:
            raise AccountingError(f"{expected:,} rows were sorted, but the ranges have {read:,}; nothing is written")


def _split(batches: Sequence[Batch], count: int) -> list[tuple[Batch, ...]]:
    """The batches in `count` groups of neighbours of about the same number."""
    edges = [len(batches) * number // count for number in range(count + 1)]
    return [tuple(batches[first:end]) for first, end in pairwise(edges) if first < end]
