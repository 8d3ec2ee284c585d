"""Hide from libpq what the environment of this process says: where a load runs must not change what it stores."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# libpq sends the values of these to the server, for any program of this user. The DSN is for this program only.
CLIENTS_OWN = ("PGOPTIONS", "PGDATESTYLE", "PGTZ", "PGCLIENTENCODING", "PGGEQO")


class _SetAside:
    """The variables that are hidden, while there is a user; users come from several threads at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._values: dict[str, str] = {}

    def is_set(self, name: str) -> bool:
        with self._lock:
            return bool(self._values.get(name) if self._users else os.environ.get(name))

    @contextmanager
    def hidden(self) -> Iterator[None]:
        with self._lock:
            if not self._users:
                self._values = {name: os.environ.pop(name) for name in CLIENTS_OWN if name in os.environ}
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    os.environ.update(self._values)


_set_aside = _SetAside()


def ignored_variables() -> list[str]:
    """Which of `CLIENTS_OWN` are set, other than to nothing: what they ask for does not happen."""
    return [name for name in CLIENTS_OWN if _set_aside.is_set(name)]


@contextmanager
def libpq_variables_hidden() -> Iterator[None]:
    """Keep the variables of `CLIENTS_OWN` from connections that are made inside.

    There is no other way for PGDATESTYLE and PGTZ: they override the settings of role and database, and what those
    were cannot be queried afterwards.
    """
    with _set_aside.hidden():
        yield
