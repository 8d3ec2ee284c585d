"""Tasks on hosts, a number at a time: those of a lost worker are given to another, and the first failure ends the rest."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from etl_toolkit.config import ParallelConfig
from etl_toolkit.errors import StoppedError
from etl_toolkit.hosts.executors import Hosts

Task = TypeVar("Task")
Done = TypeVar("Done")
TICK_SECONDS = 0.1
WIND_DOWN_SECONDS = 10.0
_LOST = ("KilledWorker", "FutureCancelledError", "FuturesCancelledError", "CommClosedError")  # Dask's, by name


@dataclass(frozen=True)
class Round:
    """How tasks are carried out: `check` raises where the load is being stopped, `give_up` ends tasks that run.

    `at_once` tasks run at a time. `note_retry` is called with a task whose worker was lost. `watch` is called ten times a
    second and may raise.
    """

    hosts: Hosts
    config: ParallelConfig
    check: Callable[[], None]
    give_up: Callable[[], None]
    note_retry: Callable[[int, BaseException], None]
    at_once: int
    watch: Callable[[], None] = lambda: None

    def carry_out(
        self, work: Callable[[Task], Done], tasks: Sequence[Task], *, on_done: Callable[[Task, Done], None]
    ) -> list[Done]:
        """Call `work` with each task somewhere, and return what it returns, in the order of the tasks.

        Raises UsageError where all workers have gone and none comes back.
        """
        waiting, running = deque(range(len(tasks))), dict[Future[Done], int]()
        results: dict[int, Done] = {}
        tried: Counter[int] = Counter()
        try:
            while waiting or running:
                while waiting and len(running) < self.at_once:
                    number = waiting.popleft()
                    tried[number] += 1
                    running[self.hosts.submit(work, tasks[number])] = number
                done, _ = wait(running, timeout=TICK_SECONDS, return_when=FIRST_COMPLETED)
                self.check()
                self.hosts.check()
                for future in done:
                    number = running.pop(future)
                    if error := _error_of(future):
                        self._note_lost(error, tried[number])
                        waiting.append(number)
                        continue
                    results[number] = future.result()
                    on_done(tasks[number], results[number])
                self.watch()
        except BaseException:
            self._end(running)
            raise
        return [results[number] for number in range(len(tasks))]

    def _note_lost(self, error: BaseException, tried: int) -> None:
        """Report a task that has to be carried out again; raises its error where that is of no use."""
        if not _is_lost(error) or tried >= self.config.retry_attempts:
            raise error
        self.note_retry(tried, error)

    def _end(self, running: dict[Future[Any], int]) -> None:
        """Cancel what waits for a worker, end what runs, and wait until it has ended: nothing is written afterwards."""
        for future in running:
            future.cancel()
        with suppress(Exception):  # the reason to end is the one to report
            self.give_up()
        wait([future for future in running if not future.cancelled()], timeout=WIND_DOWN_SECONDS)


def _error_of(future: Future[Any]) -> BaseException | None:
    try:
        return future.exception()
    except CancelledError as error:
        return error


def _is_lost(error: BaseException) -> bool:
    """Whether a task has no result because its worker has gone, or because it was given to another meanwhile."""
    return isinstance(error, BrokenExecutor | CancelledError | StoppedError) or type(error).__name__ in _LOST
