r"""How the server reads and prints values, and under which settings text is kept that has to be read again.

Values are read under the server's own conventions, as `\copy` by the same role reads them: those of postgresql.conf,
the database and the role, unless the load names others. Triggers, defaults and generated columns of the table print values
under them as well. Text that is kept (earlier values for `undo`) or compared is
written under settings of ours, by which it means the same whatever those are later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from etl_toolkit.errors import SourceError
from etl_toolkit.model import ReadOptions, SourceFile, TargetTable
from etl_toolkit.sources import escape_name

# The settings by which the server reads texts, in the order in which they are shown.
READ_BY = ("DateStyle", "TimeZone", "IntervalStyle")

# Further ones that a stored value may depend on: how the server reads it, or what code of the table's prints of it.
_ALSO = (
    "array_nulls", "bytea_output", "default_text_search_config", "extra_float_digits", "lc_monetary", "lc_numeric", "lc_time",
    "timezone_abbreviations", "xmlbinary", "xmloption",
)  # fmt: skip

# Text that is written under the first three is read as the same value under any others; the rest is needed to read it as well.
PRINTED = {
    "DateStyle": "ISO, MDY", "TimeZone": "UTC", "IntervalStyle": "postgres", "array_nulls": "on", "bytea_output": "hex",
    "extra_float_digits": "1", "lc_monetary": "C", "xmloption": "content",
}  # fmt: skip

_ZONED = frozenset(("timestamptz", "timetz", "tstzrange", "tstzmultirange"))
_DATED = _ZONED | {"date", "timestamp", "daterange", "datemultirange", "tsrange", "tsmultirange"}
_TYPES_READ_BY = {
    "DateStyle": _DATED, "TimeZone": _ZONED, "IntervalStyle": frozenset(("interval",)), "lc_monetary": frozenset(("money",)),
    "xmloption": frozenset(("xml",)),
}  # fmt: skip


def named_conventions(options: ReadOptions) -> dict[str, str]:
    """The conventions that a load asks for."""
    named = {"DateStyle": options.date_style, "TimeZone": options.timezone}
    return {name: value for name, value in named.items() if value}


def conventions_in_words(
    files: Sequence[SourceFile], target: TargetTable, conventions: Mapping[str, str]
) -> str | None:
    """Say by which conventions the texts of the files are read, where that matters: a text may be one date or another."""
    type_of = {column.name: column.base_type.removeprefix("_") for column in target.columns}
    types = {type_of[name] for file in files for name in file.columns if name in type_of}
    used = [
        f"{name} {conventions[name]}" for name, read in _TYPES_READ_BY.items() if name in conventions and types & read
    ]
    return f"values are read by the server's settings: {'; '.join(used)}" if used else None


def refuse_lost_nulls(files: Sequence[SourceFile], conventions: Mapping[str, str]) -> None:
    """Raise SourceError where NULLs inside of lists would become texts: under `array_nulls = off` an array has no form for them."""
    if conventions.get("array_nulls") != "off":
        return
    for file in files:
        for name, kind, target in zip(file.columns, file.relation_types, file.target_types, strict=False):
            if kind.endswith("]") and target.startswith("_"):
                raise SourceError(
                    f"{escape_name(file.name)}: column {name!r} holds lists, and array_nulls is off for this role or database, so "
                    "NULLs in them would become the text NULL; to load them, put options='-c array_nulls=on' into the DSN"
                )


def read_conventions(cursor: Any, named: Mapping[str, str]) -> dict[str, str]:
    """The conventions under which any session of this role begins, and on top of them those that are named, as it spells them.

    They are not the current ones: psycopg2 sets an ISO DateStyle in each of our sessions.
    """
    cursor.execute("SELECT name, reset_val FROM pg_catalog.pg_settings WHERE name = ANY (%s)", ([*READ_BY, *_ALSO],))
    found: dict[str, str] = dict(cursor.fetchall())
    for name, value in named.items():
        cursor.execute(
            "SELECT pg_catalog.set_config(%s, %s, false), pg_catalog.set_config(%s, %s, false)",
            (name, found[name], name, value),
        )
        found[name] = cursor.fetchone()[1]
    return found


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
    cursor.execute(
        "SELECT name, pg_catalog.current_setting(name) FROM pg_catalog.unnest(%s::text[]) AS settings (name)",
        (list(PRINTED),),
    )
    own = dict(cursor.fetchall())
    set_locally(cursor, PRINTED)
    yield
    set_locally(cursor, own)


def set_locally(cursor: Any, conventions: Mapping[str, str]) -> None:
    """Read and print values under these conventions until the end of the transaction."""
    cursor.execute(
        "SELECT pg_catalog.set_config(name, value, true) FROM "
        "ROWS FROM (pg_catalog.unnest(%s::text[]), pg_catalog.unnest(%s::text[])) AS settings (name, value)",
        (list(conventions), list(conventions.values())),
    )
