"""How a load is stopped: one token that is checked wherever the load works or waits, and before each COMMIT.

A load runs in its own thread, and the caller waits in short steps. So a signal, a cancelled task, a button
and a time limit take effect at once, whatever the load is doing, and all do the same: they set the token.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import TypeVar

from etl_toolkit.errors import StoppedError

STEP_SECONDS = 0.05
CTRL_C = "Ctrl-C"

T = TypeVar("T")


class Stop:
    """Stops the load that it is given to; `set` may be called from any thread and from a signal handler.

    While the load winds down, `ring` calls whatever cancels work that cannot check the token itself: DuckDB's queries, the
    server's statements.
    """

    def __init__(self) -> None:
        self._is_set = threading.Event()
        self._lock = threading.RLock()  # a signal handler runs in a thread that may hold it
        self._bells: list[Callable[[], None]] = []
        self.reason = ""

    def set(self, reason: str = "stopped by the caller") -> None:
        """Ask the load to stop; the first reason is the one that is reported. No transaction is committed afterwards."""
        with self._lock:
            self.reason = self.reason or reason
            self._is_set.set()

    def is_set(self) -> bool:
        return self._is_set.is_set()

    def check(self) -> None:
        """Raise StoppedError once the token is set."""
        if self._is_set.is_set():
            raise StoppedError(f"the load was stopped ({self.reason})", reason=self.reason)

    def sleep(self, seconds: float) -> None:
        """Wait for so long. Raises StoppedError as soon as the token is set."""
        self._is_set.wait(seconds)
        self.check()

    @contextmanager
    def calling(self, bell: Callable[[], None]) -> Iterator[None]:
        """For the length of the block, call `bell` again and again once the token is set. It must not block."""
        with self._lock:
            self._bells.append(bell)
        try:
            yield
        finally:
            with self._lock:
                self._bells.remove(bell)

    def ring(self) -> None:
        """Cancel what runs, if the token is set."""
        if self.is_set():
            with self._lock:
                for bell in self._bells:
                    bell()


def run_stoppable(work: Callable[[], T], stop: Stop, *, limit_seconds: float = 0) -> T:
    """Call `work` in another thread and return what it returns; whatever interrupts the caller stops it first.

    An interrupt is raised again when the work has ended; a second one leaves at once, and still nothing is committed. After
    `limit_seconds` (0: no limit) the token is set.
    """
    future = begin(work)
    try:
        try:
            _await(future, stop, limit_seconds)
        except BaseException as interrupt:  # Ctrl-C, SIGTERM
            stop.set(CTRL_C if isinstance(interrupt, KeyboardInterrupt) else type(interrupt).__name__)
            _await(future, stop, 0)
            outcome = future.exception()
            interrupt.add_note(str(outcome) if outcome else "it was complete by then")
            raise
        return future.result()
    finally:
        del future  # else its exception, which holds this frame, would live until the garbage is collected


def call_unless_stopped(action: Callable[[], T], stop: Stop, *, discard: Callable[[T], None]) -> T:
    """Call what nothing can interrupt, such as connecting. Once the token is set, its result is left to `discard`."""
    future = begin(action)
    try:
        while not wait([future], timeout=STEP_SECONDS).done:
            if stop.is_set():
                future.add_done_callback(lambda late: None if late.exception() else discard(late.result()))
                stop.check()
        return future.result()
    finally:
        del future


def begin(work: Callable[[], T]) -> Future[T]:
    """Call `work` in a thread of its own, in the context of the caller. A program that ends does not wait for it."""
    future: Future[T] = Future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            result = context.run(work)
        except BaseException as error:  # whatever it is, the caller raises it
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name="etl-load", daemon=True).start()
    return future


def _await(future: Future[T], stop: Stop, limit_seconds: float) -> None:
    deadline = time.monotonic() + limit_seconds if limit_seconds else None
    while not wait([future], timeout=STEP_SECONDS).done:
        if deadline is not None and time.monotonic() > deadline:
            stop.set(f"the time limit of {limit_seconds:g} s is over")
        stop.ring()
