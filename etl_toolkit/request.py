"""Loose options, as Python and the command line take them, become a `LoadSpec`; what names a server becomes a DSN."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import psycopg2
from psycopg2.extensions import parse_dsn

from etl_toolkit.errors import UsageError
from etl_toolkit.model import ConflictAction, ExtraColumns, FileFormat, LoadSpec, OnConflict, ReadOptions, Strategy


def load_spec(
    table: str, key: str | Sequence[str], *,
    strategy: str = "auto", order_by: str | None = None, on_conflict: OnConflict = "update",
    create_table: bool = False, max_rejects: int = 0, atomic: bool = False, force: bool = False, undoable: bool = False,
    headers: Sequence[str] | None = None, delimiter: str | None = None, quote: str | None = None,
    encoding: str | None = None, extra_columns: ExtraColumns = "error",
    date_style: str | None = None, timezone: str | None = None, format: FileFormat | None = None, skip: int = 0,
) -> LoadSpec:  # fmt: skip
    """Make a LoadSpec of loose options, as `ingest` describes them. Raises UsageError for a choice that there is not."""
    return LoadSpec(
        table=table,
        key=(key,) if isinstance(key, str) else tuple(key),
        order_by=order_by,
        conflict_action=_choice(ConflictAction, on_conflict, "conflict action"),
        strategy=_choice(Strategy, strategy, "strategy"),
        create_table=create_table,
        max_rejects=max_rejects,
        atomic=atomic,
        force=force,
        undoable=undoable,
        read=ReadOptions(
            headers=tuple(headers) if headers else None,
            delimiter=delimiter,
            quote=ReadOptions.quote if quote is None else quote,
            encoding=encoding,
            extra_columns=extra_columns,
            date_style=date_style,
            timezone=timezone,
            format=format,
            skip=skip,
        ),
    )


def key_columns(key: str | Sequence[str] | None, pk_columns: str | Sequence[str] | None) -> str | Sequence[str]:
    """The key, by whichever of its two names it is given. Raises UsageError where it is given by none or by both."""
    if (key is None) == (pk_columns is None):
        raise UsageError("name the key columns once, for example key=['id']; pk_columns is another name for the same")
    return key if key is not None else pk_columns or ()


def _choice(kind: Any, value: str, what: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise UsageError(f"unknown {what} '{value}'; choose {', '.join(kind)}") from None


def connection_string(dsn: Any) -> str:
    """Return a libpq connection string for a URL, keyword string, SQLAlchemy Engine, or None (the embedded server).

    Raises UsageError for a URL that libpq cannot read as it is meant.
    """
    if dsn is None:
        from etl_toolkit import server

        return server.start().dsn
    if isinstance(dsn, str):
        return _libpq_url(dsn)
    if hasattr(dsn, "url"):
        return str(dsn.url.set(drivername="postgresql").render_as_string(hide_password=False))
    raise UsageError(f"a DSN is a string or a SQLAlchemy Engine, not {type(dsn).__name__}")


# The driver that a URL of SQLAlchemy names, or the `jdbc:` of Java's, says nothing about the server.
_DRIVER = re.compile(r"^(jdbc:)?postgres(?:ql)?(\+\w+)?:(//)?", re.IGNORECASE)


def _libpq_url(dsn: str) -> str:
    match = _DRIVER.match(dsn)
    if match is None or not (match[1] or match[2] or match[3]):
        return dsn  # keywords
    if not match[3]:
        raise UsageError("the DSN has no '//' after the colon; write postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
    rest = dsn[match.end() :]
    if match[1] or match[2]:  # asyncpg and JDBC call `sslmode` so
        rest = re.sub(
            r"(?<=[?&])ssl=(true|\w+(?:-\w+)?)",
            lambda ssl: f"sslmode={'require' if ssl[1] == 'true' else ssl[1]}",
            rest,
        )
    url = f"postgresql://{rest}"
    try:
        parse_dsn(url)
    except psycopg2.Error:
        if not (match[1] or match[2]):
            return url  # `check_dsn` says what is wrong with it
        raise UsageError(f"libpq does not know a setting of this URL; write postgresql://{_place(rest)}") from None
    return url


def _place(rest: str) -> str:
    """Host, port and database of a URL behind its `//`, where it is sure that no part of a password is among them."""
    before, _, settings = rest.partition("?")
    place = before.rpartition("@")[2]
    is_sure = "@" not in settings and re.fullmatch(r"[\w.-]*(:\d+)?(/[\w-]*)?", place)
    return f"USER:PASSWORD@{place if is_sure else 'HOST:PORT/DATABASE'}"
