"""Bad rows: the server itself decides which records it would refuse, and why.

Records go into a temporary copy of the table (same types, NOT NULL and CHECK constraints). Where none is bad, one COPY
of them all shows that. Else they go there once more, under a savepoint: where COPY refuses one, its message names the line;
that record is noted, and COPY goes on behind it, with few records at first. Foreign keys are looked up afterwards. What
only writing a row shows is found by `strategies.refused_writes`.
"""

from __future__ import annotations

import io
import re
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.sql import SQL, Composable, Identifier

from etl_toolkit.errors import driver_failure
from etl_toolkit.loading.conditions import conditions, copied_columns, foreign_keys, index_long_entries
from etl_toolkit.loading.copy import is_row_error
from etl_toolkit.loading.key_parts import table
from etl_toolkit.loading.merge import Upsert, compose_judged
from etl_toolkit.loading.naming import ours, own_name
from etl_toolkit.loading.second_result import first_reason_kept
from etl_toolkit.loading.staging_tables import copy_into
from etl_toolkit.model import ForeignKey, Layout, TargetTable

_PROBE = Identifier("pg_temp", "etl_probe")
# COPY learns from the first line how lines end. Line breaks inside the first record would be miscounted without this one.
_HEADER = b"etl_probe\n"
_AFTER_A_REFUSAL = 16  # rows to try next: bad rows come in clusters, and all rows sent after one are sent again
IDENTITY_SQLSTATE = "428C9"  # what an UPDATE of such a column is refused with
# "COPY etl_probe, line 3, column v: …", in the language of the server.
_LINE = re.compile(r"\betl_probe\D*(\d+)")


@dataclass(frozen=True)
class Refusal:
    """A record the server refuses: its row number as given, and the reason without row data."""

    row: int
    reason: str
    sqlstate: str
    record: str


def has_refused(
    connection: Any, target: TargetTable, layout: Layout, copy: Callable[[Any, sql.Composed], object]
) -> bool:
    """Whether the server refuses any of the records that `copy(cursor, statement)` sends. The transaction is rolled back."""
    with _probing(connection, target, layout) as cursor:
        try:
            sent = copy(cursor, copy_into(_PROBE, layout))
            if sent != cursor.rowcount:
                return True
        except psycopg2.Error as error:
            if not is_row_error(error):
                raise
            return True
        return any(_has_orphans(cursor, key, _PROBE) for key in foreign_keys(target, layout))


def refused_records(
    connection: Any, target: TargetTable, layout: Layout, chunks: Iterable[Sequence[tuple[int, str]]]
) -> Generator[Refusal]:
    """Yield the records the server refuses, of chunks of (row number, record). The transaction is rolled back."""
    with _probing(connection, target, layout) as cursor:
        for chunk in chunks:
            yield from _probe(cursor, target, layout, chunk)
            cursor.execute(SQL("TRUNCATE {}").format(_PROBE))


@contextmanager
def _probing(connection: Any, target: TargetTable, layout: Layout) -> Iterator[Any]:
    """A cursor in a transaction with the temporary table, which is rolled back."""
    try:
        with connection.cursor() as cursor:
            cursor.execute(_create_probe(target, layout))
            for statement in index_long_entries(target, layout, _PROBE):
                cursor.execute(statement)
            yield cursor
    finally:
        if (
            not connection.closed
        ):  # a caller that stops early may have closed the session before this generator is collected
            connection.rollback()


def _create_probe(target: TargetTable, layout: Layout) -> sql.Composed:
    """Like a staging table, with a row number in front."""
    actions: list[Composable] = [
        ours(target, "ALTER etl_row SET DEFAULT 0"),
        *conditions(target, layout, most_partitions=None),
    ]
    return ours(
        target, "CREATE TEMP TABLE etl_probe AS SELECT 0::bigint AS etl_row, {} FROM {} WITH NO DATA; ALTER TABLE {} {}"
    ).format(
        SQL(", ").join(map(Identifier, copied_columns(target, layout))), table(target), _PROBE, SQL(", ").join(actions)
    )


def _probe(cursor: Any, target: TargetTable, layout: Layout, chunk: Sequence[tuple[int, str]]) -> Iterator[Refusal]:
    statement = SQL("COPY {} ({}) FROM STDIN (FORMAT csv, HEADER, DELIMITER {}, QUOTE '\"', NULL '')").format(
        _PROBE,
        SQL(", ").join(Identifier(name) for name in (own_name(target, "etl_row"), *layout.columns)),
        sql.Literal(layout.delimiter),
    )
    rows = [f"{number}{layout.delimiter}{record}\n".encode("utf-8", "surrogateescape") for number, record in chunk]
    last_lines = list(accumulate(row.count(b"\n") for row in rows))
    start, window = 0, len(rows)
    while start < len(rows):
        failure = _copy(cursor, statement, rows[start : start + window])
        if failure is None:
            start, window = start + window, window * 2
            continue
        line, reason, sqlstate = failure
        lines_before = last_lines[start - 1] if start else 0
        bad = min(bisect_left(last_lines, lines_before + line, lo=start), len(rows) - 1)
        if bad > start and target.foreign_keys:
            _copy(cursor, statement, rows[start:bad])
        yield Refusal(chunk[bad][0], reason.replace("etl_probe", target.name), sqlstate, chunk[bad][1])
        start, window = bad + 1, _AFTER_A_REFUSAL
    if target.foreign_keys:
        yield from _look_up(cursor, target, layout, dict(chunk))


def _look_up(cursor: Any, target: TargetTable, layout: Layout, records: Mapping[int, str]) -> Iterator[Refusal]:
    """The records that COPY took although the table would not: those without a parent row."""
    for key in foreign_keys(target, layout):
        cursor.execute(select_orphans(key, _PROBE, ours(target, "q.etl_row")))
        for (row,) in cursor.fetchall():
            yield Refusal(row, key.refusal, "23503", records[row])


def _copy(cursor: Any, statement: sql.Composed, rows: Sequence[bytes]) -> tuple[int, str, str] | None:
    """COPY the rows; where one is refused, undo and return (its last line, reason, SQLSTATE)."""
    cursor.execute("SAVEPOINT etl_probe")
    try:
        with first_reason_kept():
            cursor.copy_expert(statement, io.BytesIO(_HEADER + b"".join(rows)))
    except psycopg2.Error as error:
        match = _LINE.search(error.diag.context or "")
        if not is_row_error(error) or match is None:
            raise
        failure = driver_failure(error)
        cursor.execute("ROLLBACK TO SAVEPOINT etl_probe")
        column = error.diag.column_name or _column_in(error.diag.context or "")
        reason = failure.message + (f" (column {column})" if column and column not in failure.message else "")
        return int(match.group(1)) - 1, reason, failure.sqlstate or "22000"
    cursor.execute("RELEASE SAVEPOINT etl_probe")
    return None


def _column_in(context: str) -> str | None:
    match = re.search(r"^COPY etl_probe, line \d+, column ([^:]+)", context, re.MULTILINE)
    return match.group(1) if match else None


class RefusedRow(psycopg2.Error):
    """Staged rows that the table would refuse, and would not notice if they lose to others."""

    pgcode: str | None = None  # else the driver's own, which is not for us to set

    def __init__(self, message: str, sqlstate: str) -> None:
        super().__init__(message)
        self.pgcode = sqlstate


def refuse_staged(cursor: Any, target: TargetTable, layout: Layout, staging: Composable, *, may_be_long: bool) -> None:
    """Raise where a staged row lacks a row that a foreign key points to, or is too long for an index of the table."""
    for key in foreign_keys(target, layout):
        if _has_orphans(cursor, key, staging):
            raise RefusedRow(f"rows violate foreign key constraint {key.name}", "23503")
    if may_be_long:
        for statement in index_long_entries(target, layout, staging):
            cursor.execute(statement)


def refuse_identities(cursor: Any, upsert: Upsert, source: Composable) -> None:
    """Raise where a row that is there would get another value of an identity column that no UPDATE can set."""
    if upsert.kept_identities:
        cursor.execute(changed_identities(upsert, source) + SQL(" LIMIT 1"))
        if cursor.fetchone():
            raise RefusedRow(identity_reason(upsert), IDENTITY_SQLSTATE)


def changed_identities(upsert: Upsert, source: Composable) -> sql.Composed:
    """Select `etl_row` of the rows to be written that would change such a column; a stale row changes nothing."""
    return ours(
        upsert.target,
        "WITH {} SELECT etl_row FROM judged WHERE NOT etl_new AND NOT etl_stale AND etl_changes_identity{}",
    ).format(compose_judged(upsert, source), SQL(" AND NOT etl_gone" if upsert.write.delete else ""))


def identity_reason(upsert: Upsert) -> str:
    """Why such a row is refused."""
    name = ", ".join(upsert.kept_identities)
    return f"column {name} is GENERATED ALWAYS AS IDENTITY and has a different value in the existing row"


def _has_orphans(cursor: Any, key: ForeignKey, rows: Composable) -> bool:
    cursor.execute(select_orphans(key, rows, SQL("q.ctid")) + SQL(" LIMIT 1"))
    return cursor.fetchone() is not None


def select_orphans(key: ForeignKey, rows: Composable, wanted: Composable) -> sql.Composed:
    """Compose the query of the `rows` that refer to no row; under MATCH FULL, a key that is given in part does not either."""
    present = SQL(" OR " if key.is_full else " AND ").join(
        SQL("q.{} IS NOT NULL").format(Identifier(name)) for name in key.columns
    )
    equal = SQL(" AND ").join(
        SQL("r.{} {} q.{}").format(Identifier(theirs), SQL(operator), Identifier(ours))
        for ours, theirs, operator in zip(key.columns, key.referenced_columns, key.equality, strict=True)
    )
    return SQL("SELECT {} FROM {} q WHERE ({}) AND NOT EXISTS (SELECT FROM {} r WHERE {})").format(
        wanted, rows, present, SQL(key.parents), equal
    )
