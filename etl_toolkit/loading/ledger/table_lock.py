"""One run on a table at a time: an advisory lock of the session that coordinates the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg2

from etl_toolkit.errors import LedgerError
from etl_toolkit.loading.ledger.definition import CREATION_LOCK


def lock_table(
    connection: Any,
    target_oid: int,
    label: str,
    *,
    wait_seconds: float,
    on_wait: Callable[[str, float], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Take the session's advisory lock on the target table; raises LedgerError with the session that holds it.

    While it waits it calls `on_wait` every ten seconds with the holder and the seconds waited.
    """
    started = time.monotonic()
    next_word = started
    with connection.cursor() as cursor:
        while True:
            cursor.execute(
                "SELECT pg_catalog.pg_try_advisory_lock(%s, %s)", (CREATION_LOCK % 2**31, _signed(target_oid))
            )
            if cursor.fetchone()[0]:
                connection.commit()
                return
            cursor.execute(
                "SELECT l.pid, a.application_name, a.usename FROM pg_catalog.pg_locks l "
                "LEFT JOIN pg_catalog.pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' AND l.granted "
                "AND l.classid::bigint = %s AND l.objid::bigint = %s AND l.database = "
                "(SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())",
                (CREATION_LOCK % 2**31, target_oid),
            )
            holder = cursor.fetchone()
            connection.commit()
            who = f"{holder[1] or 'a session'} (process {holder[0]}, user {holder[2]})" if holder else "another session"
            now = time.monotonic()
            if on_wait and now >= next_word:
                on_wait(who, now - started)
                next_word = now + 10
            if now >= started + wait_seconds:
                raise LedgerError(f"another run is loading {label}: {who}; wait for it, or give --wait SECONDS")
            sleep(0.2)


def give_locks_back(connection: Any) -> None:
    """Give the session's advisory locks back."""
    connection.rollback()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_catalog.pg_advisory_unlock_all()")
    connection.commit()


@contextmanager
def locks_given_back(connection: Any) -> Iterator[None]:
    """Give the session's advisory locks back at the end: a server may end a closed session only a moment later.

    Until then, it would look to the next run on the table as if this one were still loading.
    """
    try:
        yield
    finally:
        with suppress(psycopg2.Error):  # the session is lost, and its locks with it
            give_locks_back(connection)


def _signed(oid: int) -> int:
    return oid - 2**32 if oid >= 2**31 else oid
