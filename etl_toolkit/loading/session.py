"""Database sessions of a run: opened alike, known by name, and all cancelled together."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg2
from psycopg2.extensions import ISOLATION_LEVEL_READ_COMMITTED, parse_dsn

from etl_toolkit.config import ParallelConfig
from etl_toolkit.errors import UsageError, map_driver_error

# Text is parsed and compared under these, whatever the role or the database has set.
PINNED = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "client_encoding": "UTF8",
    "client_min_messages": "warning",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "standard_conforming_strings": "on",
}


# A client that is killed leaves its statement running to the end, with its locks, unless the server looks for the client.
# Not every system that a server runs on can tell, and there the setting is refused.
_LOOK_FOR_THE_CLIENT = (
    "CASE WHEN pg_catalog.version() ~* '(linux|darwin|bsd)' "
    "THEN pg_catalog.set_config('client_connection_check_interval', '1000', false) END"
)

_ENCODE = "percent-encode special characters of user and password (@ is %40, / is %2F), or use PGPASSFILE"


@dataclass
class Sessions:
    """Opens connections for one run, and can cancel them all from another thread."""

    dsn: str = field(repr=False)  # it may hold a password
    config: ParallelConfig
    run_id: str = ""
    _open: set[Any] = field(default_factory=set, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def connect(self, role: str) -> Any:
        """Open a READ COMMITTED connection named `etl_toolkit <run> <role>`; raises DatabaseError."""
        config = self.config
        check_dsn(self.dsn)
        try:
            connection = psycopg2.connect(
                self.dsn,
                application_name=f"etl_toolkit {self.run_id} {role}".strip()[:63],
                connect_timeout=max(2, round(config.connect_timeout_seconds)),
                keepalives=1,
                keepalives_idle=30,
                keepalives_interval=10,
                keepalives_count=3,
            )
        except psycopg2.Error as error:
            raise map_driver_error(error, doing=f"connecting to {place(self.dsn)}") from None
        connection.set_session(isolation_level=ISOLATION_LEVEL_READ_COMMITTED, readonly=False)
        settings = PINNED | {
            "work_mem": f"{config.server_work_memory_bytes // 1024}kB",
            "lock_timeout": f"{round(config.lock_timeout_seconds * 1000)}",
            "statement_timeout": f"{round(config.statement_timeout_seconds * 1000)}",
            "idle_in_transaction_session_timeout": f"{round(config.idle_in_transaction_timeout_seconds * 1000)}",
        }
        with connection.cursor() as cursor:
            calls = ", ".join(["pg_catalog.set_config(%s, %s, false)"] * len(settings) + [_LOOK_FOR_THE_CLIENT])
            cursor.execute(f"SELECT {calls}", [text for pair in settings.items() for text in pair])
        connection.commit()
        with self._lock:
            self._open.add(connection)
        return connection

    @contextmanager
    def session(self, role: str) -> Iterator[Any]:
        """A connection that is rolled back and closed at the end, whatever happened."""
        connection = self.connect(role)
        try:
            yield connection
        finally:
            self.close(connection)

    def close(self, connection: Any) -> None:
        with self._lock:
            self._open.discard(connection)
        connection.close()

    def cancel_all(self) -> None:
        """Cancel whatever every open connection is doing; it then fails with 57014 and is rolled back."""
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            try:
                connection.cancel()
            except psycopg2.Error:
                continue  # it is gone already


def check_dsn(dsn: str) -> None:
    """Raise UsageError where a DSN cannot be read, or not for sure; the message repeats no part of it.

    In a URL whose password has a bare `@` or `/`, libpq takes a part of the password for the host, port or database,
    and would name it in its own message.
    """
    try:
        parts = parse_dsn(dsn) if dsn else {}
    except psycopg2.Error as error:
        reason = re.sub(r'"[^"]*"', '"…"', str(error).strip().removeprefix("invalid dsn: "))
        raise UsageError(f"the DSN cannot be read: {reason}; {_ENCODE}") from None
    is_url = dsn.startswith(("postgresql://", "postgres://"))
    if is_url and any("@" in str(parts.get(name, "")) for name in ("host", "port", "dbname")):
        raise UsageError(f"the DSN cannot be read for sure, because of an '@' behind the host; {_ENCODE}")


def plain_text_host(connection: Any) -> str | None:
    """Return the host of a connection that is not encrypted and leaves this machine, else None."""
    host: str = connection.info.host or ""
    is_local = not host or host.startswith("/") or host in ("localhost", "::1") or host.startswith("127.")
    return None if is_local or connection.info.ssl_in_use else host


def place(dsn: str) -> str:
    """Say where a DSN leads, without user, password or options."""
    try:
        parts = parse_dsn(dsn) if dsn else {}
    except psycopg2.Error:
        return "the database (the DSN does not parse)"
    host, port, name = parts.get("host", "the default host"), parts.get("port", ""), parts.get("dbname", "")
    return f"{host}{':' + port if port else ''}{'/' + name if name else ''}"
