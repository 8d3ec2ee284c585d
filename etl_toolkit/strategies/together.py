"""Partitions side by side, several to a worker and its transaction, all committed together after the last is loaded.

A row that the server refuses thus undoes every partition, so nothing of any file is written. Between the first and the
last COMMIT only a lost connection can interfere, and then the ledger shows the retry which partitions are done.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import psycopg2

from etl_toolkit.errors import AccountingError, DatabaseError, is_transient, reason_of
from etl_toolkit.loading import ledger
from etl_toolkit.loading.assertions import assert_before_commit
from etl_toolkit.loading.citus import allow_parallel_writes
from etl_toolkit.loading.failpoints import reach
from etl_toolkit.loading.retry import run_with_retry
from etl_toolkit.loading.run import Run
from etl_toolkit.loading.tripwire import check_waiting
from etl_toolkit.model import Batch, Counts
from etl_toolkit.strategies.lanes import FileCounts, add_up, on_retry, report_batch, run_all

Write = Callable[[Any, Batch], FileCounts]  # (cursor, batch) -> counts of the rows it wrote


class RowsLostError(AccountingError):
    """Fewer rows, or more, than before: the staged rows are lost. None of them is committed."""


@dataclass(frozen=True)
class Loaded:
    """What one worker has loaded but not committed."""

    worker: str
    batches: tuple[Batch, ...]
    connection: Any
    counts: FileCounts
    sent: int  # rows, by the thread that loaded them
    thread: int


def load_together(
    run: Run,
    write: Write,
    *,
    lost: FileCounts,
    check: Callable[[FileCounts], None] | None = None,
    meanwhile: Callable[[], None] | None = None,
) -> dict[int, Counts]:
    """Load every partition with `write`, commit them together, and return the counts per file.

    Workers take the partitions one by one, in order: a worker that finishes takes the next. `lost` are the counts of rows
    that no partition is sent: superseded and rejected. They are recorded with the first. `check` sees the counts before
    anything is committed, `meanwhile` runs beside the workers; both may raise.
    """
    waiting = deque(run.plan.batches)
    loaded: list[Loaded] = []

    def work(worker: str) -> None:
        taken: list[Batch] = []

        def attempt() -> Loaded | None:
            return load_partitions(run, worker, _ours(taken, waiting), write, lost)

        if done := run_with_retry(attempt, run.config, on_retry=on_retry(run, worker), sleep=run.sleep):
            with run.lock:
                loaded.append(done)

    watchman = Watchman(run)
    workers = [f"worker {number + 1}" for number in range(run.plan.workers)]
    try:
        tasks: list[Callable[[], None]] = [partial(work, worker) for worker in workers]
        if meanwhile:
            tasks.append(meanwhile)
        run_all(run, tasks, workers=len(tasks), watch=watchman.look if len(workers) > 1 else None)
        if check:
            check(add_up([each.counts for each in loaded]))
        ready = [each.connection for each in loaded]
        with run.phases.phase("commit"), run.sessions.committing(ready), ExitStack() as stack:
            for connection in ready:  # all or none: where a stop comes in between, the load is complete
                stack.enter_context(run.sessions.sparing(connection))
            in_order = sorted(loaded, key=lambda each: each.batches[0].number)
            return add_up([_commit(run, each, write, lost) for each in in_order])
    finally:
        watchman.close()
        for each in loaded:
            run.sessions.close(each.connection)


def _ours(taken: list[Batch], waiting: deque[Batch]) -> Iterator[Batch]:
    """The partitions of one worker: those it has taken before a retry, then the next of those that wait."""
    yield from tuple(taken)
    while waiting:
        try:
            batch = waiting.popleft()
        except IndexError:  # another worker was quicker
            return
        taken.append(batch)
        yield batch


class Watchman:
    """Checks regularly whether a worker waits for another one, in a session that is opened when it is first needed."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._connection: Any = None

    def look(self) -> None:
        """Raise ConflictTripwireError where two partitions met; a lost connection does not affect the load."""
        try:
            self._connection = self._connection or self._run.sessions.connect("tripwire", waits=False)
            with self._connection.cursor() as cursor:
                check_waiting(cursor, self._run.run_id)
            self._connection.rollback()
        except (psycopg2.Error, DatabaseError):
            self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._run.sessions.close(self._connection)
            self._connection = None


def load_partitions(run: Run, worker: str, batches: Iterable[Batch], write: Write, lost: FileCounts) -> Loaded | None:
    """Load partitions in one transaction and leave it open; of one committed before, only take over the counts."""
    batches = iter(batches)
    if (first := next(batches, None)) is None:
        return None
    connection, sent_before = run.sessions.take(worker), run.rows_sent()
    try:
        counts, done = [], []
        with connection.cursor() as cursor:
            for batch in chain([first], batches):
                counts.append(report_batch(run, batch, partial(_load_one, run, cursor, batch, write, lost)))
                done.append(batch)
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # what could still fail at COMMIT fails now
            assert_before_commit(run, cursor)  # an atomic load has one worker
        reach("completed")
        sent = run.rows_sent() - sent_before
        return Loaded(worker, tuple(done), connection, add_up(counts), sent, threading.get_ident())
    except BaseException:
        run.sessions.close(connection)
        raise


def _load_one(run: Run, cursor: Any, batch: Batch, write: Write, lost: FileCounts) -> FileCounts:
    claimed = ledger.claim(cursor, run.run_id, batch, undoable=run.spec.undoable)
    if not claimed.is_ours:
        return claimed.counts
    reach("claimed")
    allow_parallel_writes(cursor, run.target)
    counts = write(cursor, batch)
    if batch.partition == 0:
        counts = add_up([counts, lost])
        ledger.record_rejects(cursor, run.run_id, [item for found in run.refused.values() for item in found])
    ledger.complete(cursor, run.run_id, batch, counts)
    return counts


def _commit(run: Run, loaded: Loaded, write: Write, lost: FileCounts) -> FileCounts:
    """Commit one worker's partitions; if the reply is lost, load them again: the ledger shows whether they were committed."""
    try:
        loaded.connection.commit()
        reach("committed")
        return loaded.counts
    except psycopg2.Error as error:
        if not is_transient(error):
            raise
        with run.lock:
            run.retries += 1
        run.take_back(run.rows_sent(loaded.thread) - loaded.sent, thread=loaded.thread)
        run.tell("commit_lost", batch=", ".join(batch.label for batch in loaded.batches), **reason_of(error))

    def load_and_commit() -> FileCounts:
        again = load_partitions(run, loaded.worker, loaded.batches, write, lost)
        assert again is not None
        try:
            if _read(again) != _read(loaded):
                raise RowsLostError(f"{loaded.worker}: different rows than before; was the server restarted?")
            again.connection.commit()
        finally:
            run.sessions.close(again.connection)
        return again.counts

    return run_with_retry(load_and_commit, run.config, on_retry=on_retry(run, loaded.worker), sleep=run.sleep)


def _read(loaded: Loaded) -> dict[int, int]:
    return {file: counts.read for file, counts in loaded.counts.items() if counts.read}
