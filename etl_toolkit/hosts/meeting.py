"""Where hosts and coordinator meet without a connection to each other: the names of their sessions at the server.

A session that has loaded its ranges and holds its transaction is named `… range 3: 120000` or `… range 3-5: 120000`, with the
rows it has read. Once all are, and the rows add up, the session of the coordinator is named `… hosts: commit`, and they
commit within a few milliseconds of each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg2

from etl_toolkit.errors import DatabaseError, StoppedError
from etl_toolkit.hosts.tasks import LoadRange
from etl_toolkit.loading.run import Run
from etl_toolkit.loading.tripwire import check_waiting

LOOK_SECONDS = 0.02
COORDINATOR = "hosts"
DECIDED = f"{COORDINATOR}: commit"
END_MILLISECONDS = 5000  # that the server has to end a session


def role_of(task: LoadRange) -> str:
    """What the session of a task is called: by its ranges, so that tasks of different divisions are not taken for each other."""
    first, last = task.batches[0].number, task.batches[-1].number
    return f"range {first}" if first == last else f"range {first}-{last}"


def take_over(connection: Any, *, run_id: str, role: str, mine: set[int]) -> None:
    """End the sessions of earlier attempts at a task, and wait until they have ended.

    `mine` are those that this attempt has had, none at first.

    Raises StoppedError where there is a session of a later attempt: this one is taken to be lost.
    """
    is_first = not mine
    mine.add(connection.info.backend_pid)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT CASE WHEN %(ends)s THEN pg_catalog.pg_terminate_backend(pid, %(limit)s) END "
            "FROM pg_catalog.pg_stat_activity WHERE usename = current_user AND pid <> ALL (%(mine)s) "
            "AND pg_catalog.split_part(application_name, ':', 1) = %(own)s",
            {"ends": is_first, "limit": END_MILLISECONDS, "mine": list(mine), "own": f"etl_toolkit {run_id} {role}"},
        )
        if cursor.fetchone() and not is_first:
            raise StoppedError(f"{role} was given to another worker")


def end_sessions(connection: Any, run_id: str) -> None:
    """End the sessions of all tasks of a run, and wait until they have ended."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_catalog.pg_terminate_backend(pid, %s) FROM pg_catalog.pg_stat_activity "
            "WHERE usename = current_user AND pg_catalog.starts_with(application_name, %s)",
            (END_MILLISECONDS, f"etl_toolkit {run_id} range "),
        )


def wait_for_decision(connection: Any, run: Run, role: str, *, rows: int) -> None:
    """Report the ranges of this transaction as loaded, and wait until the coordinator has decided to commit.

    Raises StoppedError where it has ended.
    """
    mine, decided = f"etl_toolkit {run.run_id} {role}: {rows}", f"etl_toolkit {run.run_id} {DECIDED}"
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_catalog.set_config('application_name', %s, false)", (mine,))
        while True:
            cursor.execute("SELECT pg_catalog.pg_stat_clear_snapshot()")  # else a transaction sees one state of it
            cursor.execute(
                "SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE application_name = %s "
                "AND usename = current_user)", (decided,),
            )  # fmt: skip
            if cursor.fetchone()[0]:
                return
            run.sleep(LOOK_SECONDS)


@dataclass
class Meeting:
    """The coordinator's side: one session, replaced where it is lost."""

    run: Run
    is_decided: bool = False
    _connection: Any = None

    def look(self) -> dict[str, int | None]:
        """The tasks that have a session, by its role; with the rows that it has read where it holds.

        Raises ConflictTripwireError where two of them met on a key.
        """
        run_id = self.run.run_id
        try:
            with self._session().cursor() as cursor:
                check_waiting(cursor, run_id)
                cursor.execute(
                    "SELECT pg_catalog.substr(application_name, %s) FROM pg_catalog.pg_stat_activity "
                    "WHERE pg_catalog.starts_with(application_name, %s) AND usename = current_user",
                    (len(f"etl_toolkit {run_id} ") + 1, f"etl_toolkit {run_id} range "),
                )
                found = [name.partition(": ") for (name,) in cursor.fetchall()]
            self._connection.rollback()
        except (psycopg2.Error, DatabaseError):  # seen again with the next session
            self.close()
            return {}
        return {role: int(rows) if rows else None for role, _, rows in found}

    def decide(self) -> None:
        """Let all that hold commit, and those that load again as soon as they have."""
        self.is_decided = True
        self._session()

    def end(self) -> None:
        """End the sessions of all tasks of the run."""
        self.run.sessions.ask(COORDINATOR, partial(end_sessions, run_id=self.run.run_id))

    def _session(self) -> Any:
        if self._connection is None:
            self._connection = self.run.sessions.connect(COORDINATOR, waits=False, is_spared=True)
        if self.is_decided:
            with self._connection.cursor() as cursor:
                name = f"etl_toolkit {self.run.run_id} {DECIDED}"
                cursor.execute("SELECT pg_catalog.set_config('application_name', %s, false)", (name,))
            self._connection.commit()
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self.run.sessions.close(self._connection)
            self._connection = None
