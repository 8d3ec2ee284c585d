"""The session that coordinates a run: it holds the lock on the table, and opens and closes the run in the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import psycopg2

from etl_toolkit.loading import ledger
from etl_toolkit.loading.retry import run_with_retry
from etl_toolkit.loading.session import Sessions
from etl_toolkit.loading.writable import check_writable

T = TypeVar("T")
ROLE = "coordinator"


@dataclass
class Coordinator:
    """One session after another: where one is lost, the next goes on.

    The lock is lost with its session, and is not needed to go on: a run that another one has replaced is fenced by its row
    in the ledger.
    """

    sessions: Sessions
    connection: Any

    def do(self, task: Callable[[Any], T], *, is_last_word: bool = False) -> T:
        """Call `task` with the session, with a new one after a transient error: it may be called more than once.

        The last word on a load that has failed waits for nobody.
        """
        config = self.sessions.config

        def attempt() -> T:
            if self.connection.closed:
                self.sessions.close(self.connection)
                self.connection = self.sessions.connect(ROLE, is_spared=is_last_word)
            else:
                self.connection.rollback()
            return task(self.connection)

        if is_last_word:  # a session that is found to be lost is worth one more attempt
            return run_with_retry(attempt, replace(config, retry_attempts=2), on_retry=lambda _attempt, _error: None)
        note = partial(self.sessions.note_retry, ROLE)
        return run_with_retry(attempt, config, on_retry=note, sleep=self.sessions.stop.sleep)


@contextmanager
def open_coordinator(sessions: Sessions) -> Iterator[Coordinator]:
    """Open the coordinator's session; at the end it gives its locks back and is closed.

    A server may end a closed session only a moment later, and until then the next run on the table would have to wait.
    Raises TargetError where nothing may be written.
    """
    connect, note = partial(sessions.connect, ROLE), partial(sessions.note_retry, ROLE)
    connection = run_with_retry(connect, sessions.config, on_retry=note, sleep=sessions.stop.sleep)
    coordinator = Coordinator(sessions, connection)
    try:
        check_writable(coordinator.connection)
        yield coordinator
    finally:
        with suppress(psycopg2.Error):  # the session is lost, and its locks with it
            ledger.give_locks_back(coordinator.connection)
        sessions.close(coordinator.connection)
