"""Bad rows: the server itself says which records it would refuse, and why.

Records go into a throw-away copy of the table (same types, NOT NULL and CHECK constraints) under a savepoint. Where COPY
refuses one, its message names the line; that record is noted, and COPY goes on behind it, with few records at first.
Foreign keys are looked up afterwards.
"""

from __future__ import annotations

import io
import re
from bisect import bisect_left
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.sql import SQL, Composable, Identifier

from etl_toolkit.errors import driver_failure
from etl_toolkit.loading.copy import is_row_error
from etl_toolkit.loading.merge import table
from etl_toolkit.model import Layout, TargetTable

_PROBE = Identifier("pg_temp", "etl_probe")
# COPY learns from the first line how lines end. Line breaks inside the first record would be miscounted without this one.
_HEADER = b"etl_probe\n"
_AFTER_A_REFUSAL = 16  # rows to try next: bad rows come in crowds, and all that is sent behind one is sent again
_LINE = re.compile(r"^COPY etl_probe, line (\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Refusal:
    """A record the server refuses: its row number as given, and the reason without row data."""

    row: int
    reason: str
    sqlstate: str
    record: str


def refused_records(
    connection: Any, target: TargetTable, layout: Layout, chunks: Iterable[Sequence[tuple[int, str]]]
) -> Generator[Refusal]:
    """Yield the records the server refuses, of chunks of (row number, record). The transaction is rolled back."""
    try:
        with connection.cursor() as cursor:
            cursor.execute(_create_probe(target, layout))
            for chunk in chunks:
                yield from _probe(cursor, target, layout, chunk)
                cursor.execute(SQL("TRUNCATE {}").format(_PROBE))
    finally:
        if not connection.closed:  # whoever stops asking early may have closed the session before we are collected
            connection.rollback()


def _create_probe(target: TargetTable, layout: Layout) -> sql.Composed:
    """Like the target, with a row number in front, and nothing required that the files do not carry."""
    absent = [
        column.name for column in target.columns if column.name not in layout.columns and column.not_null
    ]  # fmt: skip
    actions: list[Composable] = [SQL("ADD COLUMN etl_row bigint")]
    actions += [SQL("ALTER {} DROP NOT NULL").format(Identifier(name)) for name in absent]
    if not target.arbiter.nulls_not_distinct:
        actions += [SQL("ALTER {} SET NOT NULL").format(Identifier(name)) for name in target.key]
    if target.arbiter.predicate:
        actions.append(SQL("ADD CHECK (({}) IS TRUE)").format(SQL(target.arbiter.predicate)))
    if not target.arbiter.is_plain:  # an expression may fail on a row, as the index would
        actions += [
            SQL("ADD CHECK (({0}) IS NOT DISTINCT FROM ({0}))").format(SQL(e)) for e in target.arbiter.expressions
        ]
    return SQL(
        "CREATE TEMP TABLE etl_probe (LIKE {} INCLUDING CONSTRAINTS INCLUDING GENERATED); ALTER TABLE {} {}"
    ).format(table(target), _PROBE, SQL(", ").join(actions))


def _probe(cursor: Any, target: TargetTable, layout: Layout, chunk: Sequence[tuple[int, str]]) -> Iterator[Refusal]:
    statement = SQL("COPY {} ({}) FROM STDIN (FORMAT csv, HEADER, DELIMITER {}, QUOTE '\"', NULL '')").format(
        _PROBE,
        SQL(", ").join(Identifier(name) for name in ("etl_row", *layout.columns)),
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
        if bad > start and (target.foreign_keys or target.is_partitioned):
            _copy(cursor, statement, rows[start:bad])
        yield Refusal(chunk[bad][0], reason, sqlstate, chunk[bad][1])
        start, window = bad + 1, _AFTER_A_REFUSAL
    yield from _looked_up(cursor, target, layout, dict(chunk))


def _looked_up(cursor: Any, target: TargetTable, layout: Layout, records: Mapping[int, str]) -> Iterator[Refusal]:
    """The records that COPY took although the table would not: no partition for them, or no parent row."""
    if target.is_partitioned:
        cursor.execute(
            "SELECT pg_catalog.pg_get_partition_constraintdef(relid) FROM pg_catalog.pg_partition_tree(%s) WHERE isleaf",
            (target.oid,),
        )
        fits = [SQL("({})").format(SQL(row[0])) for row in cursor.fetchall() if row[0]] or [SQL("false")]
        cursor.execute(SQL("SELECT etl_row FROM {} WHERE ({}) IS NOT TRUE").format(_PROBE, SQL(" OR ").join(fits)))
        for (row,) in cursor.fetchall():
            yield Refusal(row, f"no partition of {target.qualified_name} takes this row", "23514", records[row])
    for key in target.foreign_keys:
        # Which rows of the table itself there will be is not known here: a missing parent fails the load.
        if key.is_self or not set(key.columns) <= set(layout.columns):
            continue
        cursor.execute(_orphans(key.columns, key.references, key.referenced_columns))
        for (row,) in cursor.fetchall():
            yield Refusal(
                row,
                f"violates foreign key constraint {key.name}: no such row in {key.references}",
                "23503",
                records[row],
            )


def _copy(cursor: Any, statement: sql.Composed, rows: Sequence[bytes]) -> tuple[int, str, str] | None:
    """COPY the rows; where one is refused, undo and return (its last line, reason, SQLSTATE)."""
    cursor.execute("SAVEPOINT etl_probe")
    try:
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


def _orphans(columns: Sequence[str], references: str, referenced: Sequence[str]) -> sql.Composed:
    present = SQL(" AND ").join(SQL("q.{} IS NOT NULL").format(Identifier(name)) for name in columns)
    equal = SQL(" AND ").join(
        SQL("r.{} = q.{}").format(Identifier(theirs), Identifier(ours))
        for ours, theirs in zip(columns, referenced, strict=True)
    )
    return SQL("SELECT q.etl_row FROM {} q WHERE {} AND NOT EXISTS (SELECT FROM {} r WHERE {})").format(
        _PROBE, present, SQL(references), equal
    )
