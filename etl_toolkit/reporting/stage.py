"""Two database sessions on a stage: what each sends, when it waits, and the replies, recorded as they happen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
    pool: ThreadPoolExecutor
    _waiting: Future[str] | None = None

    @property
    def process(self) -> int:
        """The server's process for this session."""
        return int(self.connection.info.backend_pid)

    def say(self, statement: str) -> str:
        """Run a statement, note it with its outcome, and return the outcome."""
        outcome = self._run(statement)
        self.stage.note(self.name, statement, outcome)
        return outcome

    def start(self, statement: str) -> None:
        """Begin a statement that has to wait for another session; return once it does."""
        self._waiting = self.pool.submit(self._run, statement)
        holders = self.stage.wait_for(f"SELECT pg_blocking_pids({self.process})", self._waiting)
        names = ", ".join(self.stage.actors.get(holder, f"process {holder}") for holder in holders or ())
        self.stage.note(self.name, statement, f"waits for {names}" if names else "did not have to wait")

    def finish(self) -> str:
        """Wait for the statement that `start` began, note its outcome and return it."""
        outcome = self._waiting.result(PATIENCE_SECONDS) if self._waiting else "no answer"
        self.stage.note(self.name, "… goes on", outcome)
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
        pool = ThreadPoolExecutor(1)
        with closing(psycopg2.connect(self.dsn, application_name=f"etl_toolkit stage {name}")) as connection:
            connection.autocommit = True
            actor = Actor(name, connection, self, pool)
            self.actors[actor.process] = name
            yield actor
        pool.shutdown(wait=False)

    def note(self, session: str, statement: str, outcome: str) -> None:
        self.steps.append(Step(session, statement, outcome))

    def ask(self, statement: str) -> Any:
        """Have the observer run something, without a note; return its one value, None where it has none."""
        with self.observer.cursor() as cursor:
            cursor.execute(statement)
            row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None

    def wait_for(self, query: str, work: Future[Any]) -> Any:
        """Ask until the answer is not empty, and return it; the last answer when `work` ends before that."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := self.ask(query)) and not work.done() and time.monotonic() < deadline:
            time.sleep(0.01)
        return found


@contextmanager
def stage(dsn: str) -> Iterator[Stage]:
    """Open a stage on a database."""
    with closing(psycopg2.connect(dsn, application_name="etl_toolkit stage observer")) as observer:
        observer.autocommit = True
        yield Stage(dsn, observer)
