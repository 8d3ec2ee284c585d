r"""How the server reads dates, times and intervals, and under which settings text is kept that has to be read again.

Values are read under the server's own conventions, as `\copy` by the same role reads them: those of postgresql.conf,
the database and the role, unless the load names others. Text that is kept (earlier values for `undo`) or compared is
written under settings of ours, by which it means the same whatever those are later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from etl_toolkit.model import ReadOptions, SourceFile, TargetTable

# The settings by which the server reads texts, in the order in which they are shown.
READ_BY = ("DateStyle", "TimeZone", "IntervalStyle")

# Text that is written under these is read as the same value under any others.
PRINTED = {"DateStyle": "ISO, MDY", "TimeZone": "UTC", "IntervalStyle": "postgres"}

_ZONED = frozenset(("timestamptz", "timetz", "tstzrange", "tstzmultirange"))
_DATED = _ZONED | {"date", "timestamp", "daterange", "datemultirange", "tsrange", "tsmultirange"}
_TYPES_READ_BY = {"DateStyle": _DATED, "TimeZone": _ZONED, "IntervalStyle": frozenset(("interval",))}


def named_conventions(options: ReadOptions) -> dict[str, str]:
    """The conventions that a load asks for."""
    named = {"DateStyle": options.date_style, "TimeZone": options.timezone}
    return {name: value for name, value in named.items() if value}


def conventions_in_words(
    files: Sequence[SourceFile], target: TargetTable, conventions: Mapping[str, str]
) -> str | None:
    """Say by which conventions the texts of the files are read, where that matters: a text may be one date or another."""
    types = {
        target.column(name).base_type.removeprefix("_")
        for file in files
        for name in file.columns
        if any(column.name == name for column in target.columns)
    }
    used = [f"{name} {conventions[name]}" for name in READ_BY if name in conventions and types & _TYPES_READ_BY[name]]
    return f"dates and times are read by the server's settings: {'; '.join(used)}" if used else None


def read_conventions(cursor: Any) -> dict[str, str]:
    """The conventions under which the session reads values."""
    cursor.execute("SELECT " + ", ".join(["pg_catalog.current_setting(%s)"] * len(READ_BY)), READ_BY)
    return dict(zip(READ_BY, cursor.fetchone(), strict=True))


def offsets_at(cursor: Any, seconds: Sequence[int]) -> list[int]:
    """The offset from UTC, in seconds, of the session's zone at each of some seconds of the epoch."""
    cursor.execute(
        "SELECT extract(timezone FROM timestamptz 'epoch' + second * interval '1 second')::int "
        "FROM unnest(%s::bigint[]) WITH ORDINALITY AS instants (second, n) ORDER BY n",
        (list(seconds),),
    )
    return [offset for (offset,) in cursor.fetchall()]


@contextmanager
def printing(cursor: Any) -> Iterator[None]:
    """Let the statements inside write text that can be read under any conventions; back to the session's own afterwards.

    Where a statement fails, the transaction does, and takes the settings back.
    """
    own = read_conventions(cursor)
    set_locally(cursor, PRINTED)
    yield
    set_locally(cursor, own)


def set_locally(cursor: Any, conventions: Mapping[str, str]) -> None:
    """Read and print values under these conventions until the end of the transaction."""
    calls = ", ".join(["pg_catalog.set_config(%s, %s, true)"] * len(conventions))
    cursor.execute(f"SELECT {calls}", [part for pair in conventions.items() for part in pair])
