"""Connection strings: whether one can be read, and what of it may be shown."""

from __future__ import annotations

import re
from typing import Any

import psycopg2
from psycopg2.extensions import parse_dsn

from etl_toolkit.errors import UsageError

_ENCODE = "percent-encode special characters in the user name and password (@ is %40, / is %2F), or use PGPASSFILE"


def check_dsn(dsn: str) -> None:
    """Raise UsageError if a DSN cannot be read or is ambiguous; the message repeats no part of it.

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
        raise UsageError(f"the DSN is ambiguous, because there is an '@' after the host; {_ENCODE}")


def plain_text_host(connection: Any) -> str | None:
    """Return the host of a connection that is not encrypted and leaves this machine, else None."""
    host: str = connection.info.host or ""
    is_local = not host or host.startswith("/") or host in ("localhost", "::1") or host.startswith("127.")
    return None if is_local or connection.info.ssl_in_use else host


def place(dsn: str) -> str:
    """Return the server and database of a DSN in words, without user, password or options."""
    try:
        parts = parse_dsn(dsn) if dsn else {}
    except psycopg2.Error:
        return "the database (the DSN does not parse)"
    host, port, name = parts.get("host", "the default host"), parts.get("port", ""), parts.get("dbname", "")
    return f"{host}{':' + port if port else ''}{'/' + name if name else ''}"
