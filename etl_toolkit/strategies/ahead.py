"""Files in order, but several at a time: the next ones are loaded ahead, and each commits after the one before it.

A file is loaded ahead only straight into the table, where the unique index decides: equal keys of consecutive files
meet there, whichever is written first. Then the later file is rolled back and loaded in its turn. So the table
goes through the same states as file by file, and after a crash it contains the files up to some point and no others.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial

import psycopg2

from etl_toolkit.errors import EtlError
from etl_toolkit.loading import ledger
from etl_toolkit.loading.citus import allow_parallel_writes
from etl_toolkit.loading.failpoints import reach
from etl_toolkit.loading.run import Run
from etl_toolkit.loading.tripwire import is_waited_for, wait_for_nobody
from etl_toolkit.model import Batch, Counts
from etl_toolkit.strategies.lanes import FileCounts, add_up, report_batch, retry_batch, run_all
from etl_toolkit.strategies.staged import finish, load_absent, load_files

LOOK_SECONDS = 0.1


def load_in_order(run: Run) -> dict[int, Counts]:
    """Load the batches of the one lane, as many at a time as there are workers; return the counts per file."""
    (lane,) = run.plan.lanes
    turns = [threading.Event() for _ in lane]
    waiting = deque(zip(lane, turns, [*turns[1:], threading.Event()], strict=True))
    turns[0].set()
    loaded: list[FileCounts] = []

    def work() -> None:
        while waiting:
            run.check()
            try:
                batch, turn, next_turn = waiting.popleft()
            except IndexError:  # another worker was quicker
                return
            loaded.append(report_batch(run, batch, partial(_load_in_turn, run, batch, turn)))
            next_turn.set()

    run_all(run, [work] * run.plan.workers, workers=run.plan.workers)
    return add_up(loaded)


def _load_in_turn(run: Run, batch: Batch, turn: threading.Event) -> FileCounts:
    sent_before = run.rows_sent()
    if not turn.is_set() and not run.keys_met.is_set() and (counts := _load_ahead(run, batch, turn)) is not None:
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


def _wait(run: Run, turn: threading.Event, *, is_in_the_way: Callable[[], bool] = lambda: False) -> bool:
    """Wait for a batch's turn; false if it blocks another batch before that."""
    while not turn.wait(LOOK_SECONDS):
        run.check()
        if is_in_the_way():
            return False
    return True
