"""Work beside the kernel's main thread, so that buttons and cells never wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from etl_toolkit.errors import EtlError

T = TypeVar("T")


class Background:
    """Does one thing at a time for each subject; what it finds is dropped if something newer was begun meanwhile."""

    def __init__(self, on_error: Callable[[Exception], None]) -> None:
        self._on_error = on_error
        self._newest: dict[str, int] = {}
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()

    def begin(
        self, subject: str, work: Callable[[], T], then: Callable[[T], Any], last: Callable[[], Any] | None = None
    ) -> None:
        """Call `then` with what `work` returns, and `last` in any case; both in the thread that does it."""
        with self._lock:
            number = self._newest[subject] = self._newest.get(subject, 0) + 1

        def run() -> None:
            try:
                found = work()
                if self._newest[subject] == number:
                    then(found)
            except Exception as error:
                if self._newest[subject] == number:
                    self._on_error(error)
                if not isinstance(error, EtlError):
                    raise  # a defect of ours: its traceback goes to the log
            finally:
                if last is not None:
                    last()
                self._threads.discard(threading.current_thread())

        thread = threading.Thread(target=run, name=f"etl-lab-{subject}", daemon=True)
        self._threads.add(thread)
        thread.start()

    def join(self, timeout_seconds: float = 60) -> None:
        """Wait until nothing is under way."""
        while threads := list(self._threads):
            for thread in threads:
                thread.join(timeout_seconds)
