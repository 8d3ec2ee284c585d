"""The reason why the server ended a session during COPY, which psycopg2 prints and loses.

libpq then has two results, the server's reason and the broken connection. psycopg2 makes an exception of the first, stumbles
over it while it makes one of the second, prints the wreck through `sys.excepthook`, and raises the second one.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import psycopg2


class _Hook:
    """Our `sys.excepthook` while any thread is in COPY; everything that is not psycopg2's goes to the one before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before = sys.excepthook
        self._own = self._take  # each access makes another bound method
        self._reasons = threading.local()

    @contextmanager
    def installed(self) -> Iterator[list[psycopg2.Error]]:
        with self._lock:
            if not self._users:
                self._before, sys.excepthook = sys.excepthook, self._own
            self._users += 1
        found: list[psycopg2.Error] = []
        self._reasons.found = found
        try:
            yield found
        finally:
            del self._reasons.found
            with self._lock:
                self._users -= 1
                if not self._users and sys.excepthook is self._own:
                    sys.excepthook = self._before

    def _take(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        found: list[psycopg2.Error] | None = getattr(self._reasons, "found", None)
        cause: BaseException | None = error
        while isinstance(cause, SystemError):
            cause = cause.__cause__
        if found is not None and cause is not error and isinstance(cause, psycopg2.Error):
            found.append(cause)
        else:
            self._before(kind, error, trace)


_hook = _Hook()


@contextmanager
def first_reason_kept() -> Iterator[None]:
    """Raise the server's reason where psycopg2 would print it, and raise that the connection is lost."""
    with _hook.installed() as found:
        try:
            yield
        except psycopg2.Error as error:
            if found and error.pgcode is None:
                raise found[0] from None
            raise
