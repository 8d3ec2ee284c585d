"""Two database sessions on a stage: what each sends, when it waits, and the replies, recorded as they happen."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg2

from etl_toolkit.errors import driver_failure

PATIENCE_SECONDS = 15.0


@dataclass(frozen=True)
class Step:
    """One line of a transcript: who said what, and what came of it."""

    session: str
    statement: str
    outcome: str


@dataclass
class Actor:
    """One session. `say` waits for the answer; `start` and `finish` let another session act in between."""

    name: str
    connection: Any
    stage: Stage
    _waiting: tuple[threading.Thread, list[str]] | None = None

    def say(self, statement: str) -> str:
        """Run a statement, note it with its outcome, and return the outcome."""
        outcome = self._run(statement)
        self.stage.note(self.name, statement, outcome)
        return outcome

    def start(self, statement: str) -> None:
        """Begin a statement that has to wait for another session; return once it does."""
        outcomes: list[str] = []
        thread = threading.Thread(target=lambda: outcomes.append(self._run(statement)), daemon=True)
        thread.start()
        holders = self.stage.wait_until_blocked(self, thread)
        self.stage.note(self.name, statement, f"waits for {holders}" if holders else "did not have to wait")
        self._waiting = (thread, outcomes)

    def finish(self) -> str:
        """Wait for the statement that `start` began, note its outcome and return it."""
        thread, outcomes = self._waiting or (None, [])
        if thread is not None:
            thread.join(PATIENCE_SECONDS)
        outcome = outcomes[0] if outcomes else "no answer"
        self.stage.note(self.name, "… goes on", outcome)
        self._waiting = None
        return outcome

    def _run(self, statement: str) -> str:
        with self.connection.cursor() as cursor:
            try:
                cursor.execute(statement)
            except psycopg2.Error as error:
                failure = driver_failure(error)
                return f"ERROR {failure.sqlstate}: {failure.message}"
            if cursor.description is None:
                return str(cursor.statusmessage)
            rows = cursor.fetchall()
            return "; ".join(", ".join(map(str, row)) for row in rows[:6]) or "no rows"


@dataclass
class Stage:
    """The sessions on one database, and what they said."""

    dsn: str
    observer: Any
    steps: list[Step] = field(default_factory=list)
    actors: dict[int, str] = field(default_factory=dict)

    @contextmanager
    def actor(self, name: str) -> Iterator[Actor]:
        """A session that says BEGIN and COMMIT itself; rolled back and closed at the end."""
        with closing(psycopg2.connect(self.dsn, application_name=f"etl_toolkit stage {name}")) as connection:
            connection.autocommit = True
            self.actors[connection.info.backend_pid] = name
            yield Actor(name, connection, self)

    def note(self, session: str, statement: str, outcome: str) -> None:
        self.steps.append(Step(session, statement, outcome))

    def ask(self, statement: str) -> Any:
        """Ask the observer for one value, without a note."""
        with self.observer.cursor() as cursor:
            cursor.execute(statement)
            row = cursor.fetchone()
        return row[0] if row else None

    def wait_until_blocked(self, actor: Actor, thread: threading.Thread) -> str:
        """Return who `actor` waits for; nobody, when its statement ends without a wait."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while thread.is_alive() and time.monotonic() < deadline:
            holders = self.ask(f"SELECT pg_blocking_pids({actor.connection.info.backend_pid:d})")
            if holders:
                return ", ".join(self.actors.get(pid, f"process {pid}") for pid in holders)
            time.sleep(0.01)
        return ""


@contextmanager
def stage(dsn: str) -> Iterator[Stage]:
    """Open a stage on a database."""
    with closing(psycopg2.connect(dsn, application_name="etl_toolkit stage observer")) as observer:
        observer.autocommit = True
        yield Stage(dsn, observer)
