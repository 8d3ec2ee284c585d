"""Files in order. The next ones are loaded or staged ahead, and each commits after the one before it.

A file is loaded ahead only straight into the table, where the unique index decides: equal keys of consecutive files
meet there, whichever is written first. Then the later file is rolled back. A file that may share keys with the one before it
is staged while that one is merged, and merged in its turn. So the table goes through the same states as file by file, and
after a crash it contains the files up to some point and no others.

What a transaction costs is more than a small file does: several of many share one. If anything goes wrong with one of them,
all of these are loaded again one by one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import psycopg2

from etl_toolkit.errors import EtlError
from etl_toolkit.loading import ledger
from etl_toolkit.loading.citus import allow_parallel_writes
from etl_toolkit.loading.failpoints import reach
from etl_toolkit.loading.run import Run
from etl_toolkit.loading.tripwire import is_waited_for, wait_for_nobody
from etl_toolkit.model import Batch, Counts
from etl_toolkit.strategies.lanes import FileCounts, add_up, load_with_retry, report_batch, retry_batch, run_all
from etl_toolkit.strategies.staged import finish, load_absent, load_files, load_group, load_once

LOOK_SECONDS = 0.1
MANY_FILES = 100
SMALL_FILE_BYTES = 1 << 14  # on average
FILES_TOGETHER, BYTES_TOGETHER = 64, 1 << 18


def load_in_order(run: Run) -> dict[int, Counts]:
    """Load the batches of the one lane, as many at a time as there are workers; return the counts per file."""
    groups = list(_groups(run))
    turns = [threading.Event() for _ in [*groups, None]]
    waiting = deque(enumerate(groups))
    turns[0].set()
    loaded: list[FileCounts] = []

    def work() -> None:
        while waiting:
            run.check()
            try:
                number, group = waiting.popleft()
            except IndexError:  # another worker was quicker
                return
            turn, before = turns[number], turns[max(0, number - 1)]
            if len(group) > 1:
                _wait(run, turn)
                loaded.extend(_load_together(run, group))
            else:
                loaded.append(report_batch(run, group[0], partial(_load_in_turn, run, group[0], turn, before)))
            turns[number + 1].set()

    run_all(run, [work] * run.plan.workers, workers=run.plan.workers)
    return add_up(loaded)


def _groups(run: Run) -> Iterator[list[Batch]]:
    """The batches of the lane, those together that share a transaction."""
    group: list[Batch] = []
    size, most = 0, FILES_TOGETHER if _may_share(run) else 1
    for batch in run.plan.lanes[0]:
        more = sum(run.file(position).size_bytes for position in batch.files)
        if group and (len(group) == most or size + more > BYTES_TOGETHER):
            yield group
            group, size = [], 0
        group.append(batch)
        size += more
    yield group


def _may_share(run: Run) -> bool:
    """Whether these are many small files, and nothing looks at the end of each transaction."""
    if len(run.plan.batches) < MANY_FILES or sum(file.size_bytes for file in run.files) > SMALL_FILE_BYTES * len(
        run.files
    ):
        return False
    is_plain = run.spec.write.is_plain and not run.spec.undoable and not run.target.foreign_keys
    return is_plain and not run.target.hazards and not any(batch.collapsed for batch in run.plan.batches)


def _load_together(run: Run, group: list[Batch]) -> list[FileCounts]:
    sent_before = run.rows_sent()
    try:
        found = load_group(run, group)
    except (psycopg2.Error, EtlError):
        run.check()
        found = None
    if found is not None:
        return [report_batch(run, batch, partial(dict, counts)) for batch, counts in zip(group, found, strict=True)]
    run.take_back(sent_before)
    return [load_with_retry(run, batch, load_files) for batch in group]


def _load_in_turn(run: Run, batch: Batch, turn: threading.Event, before: threading.Event) -> FileCounts:
    sent_before = run.rows_sent()
    if not turn.is_set() and not run.keys_met.is_set() and (counts := _load_ahead(run, batch, turn)) is not None:
        return counts
    run.take_back(sent_before)
    _wait(run, before)  # of more than one file nothing would be gained
    if not turn.is_set() and not run.spec.undoable and (counts := _stage_ahead(run, batch, turn)) is not None:
        return counts
    run.take_back(sent_before)
    _wait(run, turn)
    return retry_batch(run, batch, load_files)


def _load_ahead(run: Run, batch: Batch, turn: threading.Event) -> FileCounts | None:
    """Load a batch before its turn and commit it then; None, with nothing written, if that is not possible.

    If anything goes wrong, the batch is loaded in its turn, when those before it have committed: it may succeed then.
    """
    try:
        with run.sessions.lend(batch.label) as connection, connection.cursor() as cursor:
            claimed = ledger.claim(cursor, run.run_id, batch, undoable=run.spec.undoable)
            if not claimed.is_ours:
                return claimed.counts
            reach("claimed")
            allow_parallel_writes(cursor, run.target)
            wait_for_nobody(cursor)
            counts = load_absent(run, cursor, batch)
            if counts is None:
                return None
            if not _wait(run, turn, is_in_the_way=partial(is_waited_for, cursor)):
                run.keys_met.set()
                return None
            finish(run, connection, cursor, [(batch, counts)])
            return counts
    except psycopg2.errors.LockNotAvailable:  # another file has written one of the keys
        run.keys_met.set()
    except (psycopg2.Error, EtlError):
        run.check()
    return None


def _stage_ahead(run: Run, batch: Batch, turn: threading.Event) -> FileCounts | None:
    """Stage a batch before its turn, and merge and commit it then; None, with nothing written, if that is not possible.

    Each statement of the merge sees what was committed before it, as if the transaction had begun in its turn.
    """

    def wait(cursor: Any) -> None:
        if not _wait(run, turn, is_in_the_way=partial(is_waited_for, cursor)):
            raise EtlError("another session waits for a lock of one that waits for its turn")

    try:
        return load_once(run, batch, wait=wait)
    except (psycopg2.Error, EtlError):
        run.check()
    return None


def _wait(run: Run, turn: threading.Event, *, is_in_the_way: Callable[[], bool] = lambda: False) -> bool:
    """Wait for a batch's turn; false if it blocks another batch before that."""
    while not turn.wait(LOOK_SECONDS):
        run.check()
        if is_in_the_way():
            return False
    return True
