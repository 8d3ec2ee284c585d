"""Lanes side by side, the batches of a lane in order; the first failure stops them all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from functools import partial
from typing import TypeVar

from etl_toolkit.errors import StoppedError, reason_of
from etl_toolkit.loading.retry import OnRetry, run_with_retry
from etl_toolkit.loading.run import Run
from etl_toolkit.loading.tripwire import horizon
from etl_toolkit.model import Batch, Counts

FileCounts = Mapping[int, Counts]
T = TypeVar("T")


def run_lanes(run: Run, load: Callable[[Run, Batch], FileCounts]) -> dict[int, Counts]:
    """Load every batch and return the counts per file position. The error of the earliest failed lane is raised."""

    def run_lane(batches: tuple[Batch, ...]) -> list[FileCounts]:
        return [load_with_retry(run, batch, load) for batch in batches]

    if len(run.plan.lanes) > 1:
        run.horizon = run.sessions.ask("tripwire", horizon)
    finished = run_all(run, [partial(run_lane, lane) for lane in run.plan.lanes], workers=run.plan.workers)
    return add_up([counts for lane in finished for counts in lane])


def load_with_retry(run: Run, batch: Batch, load: Callable[[Run, Batch], FileCounts]) -> FileCounts:
    """Load one batch, again after a transient error, and report when it begins and when it is done."""
    return report_batch(run, batch, partial(retry_batch, run, batch, load))


def retry_batch(run: Run, batch: Batch, load: Callable[[Run, Batch], FileCounts]) -> FileCounts:
    """Load one batch, again after a transient error."""
    return run_with_retry(lambda: load(run, batch), run.config, on_retry=on_retry(run, batch.label), sleep=run.sleep)


def report_batch(run: Run, batch: Batch, load: Callable[[], FileCounts]) -> FileCounts:
    """Load one batch, and report when it begins and when it is done."""
    run.check()
    worker = threading.current_thread().name.removeprefix("etl-worker_")
    worker = f"worker {int(worker) + 1}" if worker.isdecimal() else "worker"
    names = [run.file(position).name for position in batch.files]
    run.tell("batch_started", batch=batch.label, files=names, worker=worker)
    started = time.perf_counter()
    counts = load()
    total = sum(counts.values(), Counts())
    seconds = time.perf_counter() - started
    run.tell("batch_done", batch=batch.label, rows=total.read, counts=total, seconds=seconds, worker=worker)
    return counts


def on_retry(run: Run, label: str) -> OnRetry:
    """Before another attempt: count and report it, unless the load is being stopped.

    To be made by the thread that makes the attempts: rows that it sends from now on are sent again by the next one.
    """
    sent_before = run.rows_sent()

    def note(attempt: int, error: BaseException) -> None:
        with run.lock:
            run.retries += 1
        run.take_back(sent_before)
        run.tell("retry", batch=label, attempt=attempt, **reason_of(error))
        run.check()

    return note


def run_all(
    run: Run, tasks: Sequence[Callable[[], T]], *, workers: int, watch: Callable[[], None] | None = None
) -> list[T]:
    """Run tasks side by side and return what they return; `watch` is called twice a second meanwhile, and may raise.

    On the first failure, or an interrupt, the others are stopped and rolled back before it is raised.
    """
    started = threading.Event()  # by then all futures are known: an interrupt in between leaves no task behind
    futures: list[Future[T]] = []

    def begin(task: Callable[[], T]) -> T:
        started.wait()
        run.check()
        return task()

    with ThreadPoolExecutor(max_workers=max(1, workers), thread_name_prefix="etl-worker") as pool:
        try:
            for task in tasks:
                futures.append(pool.submit(begin, task))  # noqa: PERF401 - those submitted before an interrupt are known
            started.set()
            return _await(run, futures, watch)
        except BaseException:
            run.failed.set()
            started.set()
            stop(run, futures)
            raise


def _await(run: Run, futures: Sequence[Future[T]], watch: Callable[[], None] | None) -> list[T]:
    pending = set(futures)
    while pending:
        done, pending = wait(pending, timeout=0.5, return_when=FIRST_EXCEPTION)
        if any(future.exception() is not None for future in done) or run.is_stopped:
            break
        if pending and watch:
            watch()
    failures = [error for future in futures if future.done() and (error := future.exception()) is not None]
    if failures or pending:
        run.stop.check()  # what the workers then failed with is not the reason
        raise min([*failures, StoppedError("another worker has failed")], key=lambda e: isinstance(e, StoppedError))
    return [future.result() for future in futures]


def stop(run: Run, futures: Sequence[Future[T]]) -> None:
    """Set the stop flag, cancel what runs on server and client, and wait until every worker has rolled back."""
    run.failed.set()
    for future in futures:
        future.cancel()
    running = {future for future in futures if not future.done()}
    while running:
        run.sessions.cancel_all()
        run.workspace.interrupt()
        _, running = wait(running, timeout=0.2)


def add_up(parts: Sequence[FileCounts]) -> dict[int, Counts]:
    """Add the counts of batches up, per file."""
    total: dict[int, Counts] = {}
    for part in parts:
        for position, counts in part.items():
            total[position] = total.get(position, Counts()) + counts
    return total
