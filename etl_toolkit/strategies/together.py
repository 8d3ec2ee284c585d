"""Partitions side by side, each in a transaction of its own, all committed together after the last of them is loaded.

A row that the server refuses thus undoes every partition, so nothing of any file is written. Between the first and the
last COMMIT only a lost connection can interfere, and then the ledger tells the retry which partitions are done.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psycopg2

from etl_toolkit.errors import DatabaseError, is_transient
from etl_toolkit.loading import ledger
from etl_toolkit.loading.failpoints import reach
from etl_toolkit.loading.run import Run
from etl_toolkit.loading.tripwire import check_waiting
from etl_toolkit.model import Batch, Counts
from etl_toolkit.strategies.lanes import FileCounts, add_up, await_all, load_with_retry

Write = Callable[[Any, Batch], FileCounts]  # (cursor, batch) -> counts of the rows it wrote


@dataclass(frozen=True)
class OpenPartition:
    """A partition loaded but not committed."""

    batch: Batch
    connection: Any
    counts: FileCounts


def load_together(
    run: Run, write: Write, *, lost: FileCounts, check: Callable[[FileCounts], None] | None = None
) -> dict[int, Counts]:
    """Load every partition with `write`, commit them together, and return the counts per file.

    `lost` are the counts of rows that no partition is sent: superseded and rejected. They are recorded with the first.
    `check` sees the counts before anything is committed, and may raise.
    """
    opened: list[OpenPartition] = []

    def open_one(run: Run, batch: Batch) -> FileCounts:
        partition = _open(run, batch, write, lost)
        with run.lock:
            opened.append(partition)
        return partition.counts

    watchman = Watchman(run)
    try:
        with ThreadPoolExecutor(max_workers=len(run.plan.batches), thread_name_prefix="etl-worker") as pool:
            opening = [pool.submit(load_with_retry, run, batch, open_one) for batch in run.plan.batches]
            await_all(run, opening, watch=watchman.look if len(opening) > 1 else None)
        if check:
            check(add_up([partition.counts for partition in opened]))
        with run.phases.phase("commit"):
            in_order = sorted(opened, key=lambda item: item.batch.number)
            return add_up([_commit(run, partition, write, lost) for partition in in_order])
    finally:
        watchman.close()
        for partition in opened:
            run.sessions.close(partition.connection)


class Watchman:
    """Looks now and then whether a worker waits for another one: a session that is opened when it is first needed."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._connection: Any = None

    def look(self) -> None:
        """Raise ConflictTripwireError where two partitions met; a lost connection is none of the load's concern."""
        try:
            self._connection = self._connection or self._run.sessions.connect("tripwire")
            with self._connection.cursor() as cursor:
                check_waiting(cursor, self._run.run_id)
            self._connection.rollback()
        except (psycopg2.Error, DatabaseError):
            self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._run.sessions.close(self._connection)
            self._connection = None


def _open(run: Run, batch: Batch, write: Write, lost: FileCounts) -> OpenPartition:
    """Load one partition and leave its transaction open; of one that was committed before, only return the counts."""
    connection = run.sessions.connect(batch.label)
    try:
        with connection.cursor() as cursor:
            claimed = ledger.claim(cursor, run.run_id, batch, undoable=run.spec.undoable)
            if not claimed.is_ours:
                return OpenPartition(batch, connection, claimed.counts)
            reach("claimed")
            counts = write(cursor, batch)
            if batch.partition == 0:
                counts = add_up([counts, lost])
                ledger.record_rejects(cursor, run.run_id, [item for found in run.refused.values() for item in found])
            ledger.complete(cursor, run.run_id, batch, counts)
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # what could still fail at COMMIT fails now
            reach("completed")
            return OpenPartition(batch, connection, counts)
    except BaseException:
        run.sessions.close(connection)
        raise


def _commit(run: Run, partition: OpenPartition, write: Write, lost: FileCounts) -> FileCounts:
    """Commit one partition; where the answer is lost, load it again, which finds it in the ledger if it was done."""
    try:
        partition.connection.commit()
        reach("committed")
        return partition.counts
    except psycopg2.Error as error:
        if not is_transient(error):
            raise
    with run.lock:
        run.retries += 1
    run.tell("commit_lost", batch=partition.batch.label)

    def load_and_commit(run: Run, batch: Batch) -> FileCounts:
        again = _open(run, batch, write, lost)
        try:
            again.connection.commit()
        finally:
            run.sessions.close(again.connection)
        return again.counts

    return load_with_retry(run, partition.batch, load_and_commit)
