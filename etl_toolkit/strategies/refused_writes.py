"""Rows that the table refuses when they are written: by a trigger, another unique index, an exclusion constraint.

The files of a batch are loaded once more, in order, in a transaction that is rolled back. Of each, the rows that would be
written go in as the file has them, all at once; where the server refuses, in halves, under a savepoint each, until the row
is found. It is left out, and the rest goes on. Another row of the file may then be the last one of its key, so the file is
judged again until nothing is refused.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg2
from psycopg2.sql import SQL, Composable, Composed, Identifier, Literal

from etl_toolkit.columns import layout_of
from etl_toolkit.errors import driver_failure
from etl_toolkit.loading.compose import compose, composes, row_columns
from etl_toolkit.loading.copy import is_row_error
from etl_toolkit.loading.key_parts import match_keys, names
from etl_toolkit.loading.merge import Upsert, latest_rows, staged_rows
from etl_toolkit.loading.naming import ours
from etl_toolkit.loading.rejects import IDENTITY_SQLSTATE, changed_identities, identity_reason
from etl_toolkit.loading.run import Run
from etl_toolkit.loading.upsert import write_rows
from etl_toolkit.model import Batch, ForeignKey, Reject, SourceFile, TargetTable
from etl_toolkit.sources import locate, number_in_file, ordinals
from etl_toolkit.strategies.refused_rows import bounded, check_reject_limit
from etl_toolkit.strategies.staging import (
    create_tables,
    drop_tables,
    has_unique_keys,
    set_tables_file,
    stage,
    staged_source,
)
from etl_toolkit.strategies.written import upsert_of

_JUDGED, _WINNERS = Identifier("pg_temp", "etl_judged"), Identifier("pg_temp", "etl_winners")
_EVERY_ROW = SQL("true")
_AFTER_A_REFUSAL = 16  # rows to try next: bad rows come in clusters


@dataclass(frozen=True)
class _Refused:
    """A staged row that was refused: its number among all that are staged together, from 1, and why."""

    row: int
    reason: str
    sqlstate: str


def find_refused_writes(run: Run, batch: Batch) -> int:
    """Find and note the rows of a batch that the table refuses; return how many. Raises RejectLimitError where too many."""
    files = [run.file(position) for position in batch.files]
    found = 0
    with (
        run.phases.phase("rejects"),
        run.sessions.lend("rejects") as connection,
        connection.cursor() as cursor,
    ):
        try:
            for together in [files] if batch.collapsed else [[file] for file in files]:
                found += _judge(run, cursor, together)
        finally:
            if not connection.closed:
                connection.rollback()
    return found


def _judge(run: Run, cursor: Any, files: Sequence[SourceFile]) -> int:
    """Load files that meet the table together; note the rows that it refuses, and return how many."""
    layout = layout_of(files[0], run.target)
    several = len(files) > 1
    is_unique = not several and has_unique_keys(run, files[0].position)
    upsert = replace(upsert_of(run, layout, unique=is_unique, several_files=several), undoable=False)
    create_tables(run, cursor, layout)
    ends: list[int] = []
    for file in files:
        set_tables_file(run, cursor, file.position)
        ends.append((ends[-1] if ends else 0) + sum(stage(run, cursor, file, layout_of(file, run.target))))
    cursor.execute(
        ours(
            run.target,
            "CREATE TEMP TABLE etl_judged ON COMMIT DROP AS SELECT row_number() OVER (ORDER BY etl_file, ctid) AS etl_n, "
            "etl_file, {}{} FROM {}",
        ).format(_flags(upsert), names(row_columns(upsert)), staged_source(run, layout))
    )
    refused: list[_Refused] = []
    limit = run.spec.max_rejects - run.reject_count()
    while again := list(bounded(_refused_once(run, cursor, upsert), limit - len(refused))):
        refused += again
        if len(refused) > limit or upsert.unique:  # no other row of the file has the key of one that is refused
            break
        cursor.execute("ROLLBACK TO SAVEPOINT etl_judged")
        gone = Literal([item.row for item in again])
        cursor.execute(ours(run.target, "DELETE FROM {} WHERE etl_n = ANY ({}::bigint[])").format(_JUDGED, gone))
    rejects = _rejects(run, files, ends, refused)
    for file in files:
        own = [reject for reject in rejects if reject.file == file.position]
        run.note_rejects(locate(file, own, run.workspace, max_line_bytes=run.config.max_line_bytes))
    check_reject_limit(run)
    cursor.execute(SQL("DROP TABLE {}").format(_JUDGED))
    drop_tables(run, cursor)
    return len(refused)


def _rejects(run: Run, files: Sequence[SourceFile], ends: Sequence[int], refused: Sequence[_Refused]) -> list[Reject]:
    """The refused rows by the numbers that they have in their files."""
    rejects = []
    for item in refused:
        place = bisect_right(ends, item.row - 1)
        file, ordinal = files[place], item.row - 1 - (ends[place - 1] if place else 0)
        for left_out in sorted(ordinals(file, run.refused.get(file.position, ()))):
            ordinal += left_out <= ordinal
        number = number_in_file(file, ordinal)
        rejects.append(Reject(file.position, number, None, item.reason, item.sqlstate, ""))
    return rejects


def _refused_once(run: Run, cursor: Any, upsert: Upsert) -> Generator[_Refused]:
    """Write the rows that are left; yield those that the table refuses. It stays written: see the savepoint."""
    cursor.execute("SAVEPOINT etl_judged")
    winners = _choose(cursor, upsert)
    if error := _write_slice(cursor, winners, 1, 0):  # refused although it writes no row: by a trigger of the statement
        raise error
    if upsert.kept_identities:
        cursor.execute(changed_identities(winners.one_each, winners.slice(1, winners.count)))
        yield from (_Refused(row, identity_reason(upsert), IDENTITY_SQLSTATE) for row in _take_out(run.target, cursor))
    for key in (
        run.target.foreign_keys if upsert.write.is_plain else ()
    ):  # else not every row sets the columns of the key
        if key.is_self and {*key.columns, *key.referenced_columns} <= set(upsert.layout.columns):
            yield from _childless(run, cursor, key)
    postponed: list[int] = []
    yield from _written_in_slices(run, cursor, winners, postponed)
    while postponed:  # rows that refer to others of the table itself, which may have come after them
        waiting = [place for place in postponed if _write_slice(cursor, winners, place, place)]
        if len(waiting) == len(postponed):
            break
        postponed = waiting
    for place in postponed:
        if error := _write_slice(cursor, winners, place, place):
            yield _refusal(cursor, winners, place, error)
    cursor.execute(SQL("DROP TABLE {}").format(_WINNERS))


@dataclass(frozen=True)
class _Winners:
    """The rows to be written, a `count` of them numbered from 1, each with a key of its own: what the rows of `competing` leave."""

    competing: Upsert
    is_composed: bool
    count: int

    @property
    def one_each(self) -> Upsert:
        return replace(self.competing, unique=True, several_files=False)

    def slice(self, first: int, last: int) -> Composed:
        """Some of them, as a staging table has them."""
        between = ours(self.competing.target, "etl_n BETWEEN {} AND {}").format(Literal(first), Literal(last))
        flags = _flags(self.competing, is_composed=self.is_composed)
        return _rows(self.competing, _WINNERS, ours(self.competing.target, "etl_row"), between, flags)


def _choose(cursor: Any, upsert: Upsert) -> _Winners:
    """Fill the table of winners."""
    rows: Composable = _judged(upsert)
    if is_composed := composes(upsert):
        _, rows = compose(cursor, upsert, rows)
    else:
        latest = latest_rows(replace(upsert, marks={}), rows)
        rows = ours(upsert.target, "(SELECT *, etl_row AS ctid FROM ({}) AS latest) AS staged").format(latest)
    cursor.execute(
        ours(
            upsert.target,
            "CREATE TEMP TABLE etl_winners ON COMMIT DROP AS SELECT row_number() OVER (ORDER BY ctid) AS etl_n, etl_file, "
            "{}{}, ctid AS etl_row FROM {}",
        ).format(_flags(upsert, is_composed=is_composed), names(row_columns(upsert)), rows)
    )
    winners = _Winners(upsert, is_composed, cursor.rowcount)
    cursor.execute(ours(upsert.target, "CREATE UNIQUE INDEX ON {} (etl_n)").format(_WINNERS))
    return winners


def _written_in_slices(run: Run, cursor: Any, winners: _Winners, postponed: list[int]) -> Generator[_Refused]:
    first, rows = 1, winners.count
    while first <= winners.count:
        run.check()
        last = min(first + rows - 1, winners.count)
        error = _write_slice(cursor, winners, first, last)
        if error is None:
            first, rows = last + 1, rows * 2
        elif first < last:
            rows = (last - first + 1) // 2
        else:
            if error.pgcode == "23503" and any(key.is_self for key in run.target.foreign_keys):
                postponed.append(first)
            else:
                yield _refusal(cursor, winners, first, error)
            first, rows = first + 1, _AFTER_A_REFUSAL


def _write_slice(cursor: Any, winners: _Winners, first: int, last: int) -> psycopg2.Error | None:
    return _write(cursor, winners.one_each, winners.slice(first, last), is_composed=winners.is_composed)


def _write(cursor: Any, upsert: Upsert, rows: Composable, *, is_composed: bool) -> psycopg2.Error | None:
    """Write rows; where the table refuses, undo it and return the error."""
    cursor.execute("SAVEPOINT etl_slice")
    try:
        write_rows(cursor, upsert, rows, is_composed=is_composed)
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
    except psycopg2.Error as error:
        if not is_row_error(error):
            raise
        cursor.execute("ROLLBACK TO SAVEPOINT etl_slice")
        return error
    cursor.execute("RELEASE SAVEPOINT etl_slice")
    return None


def _refusal(cursor: Any, winners: _Winners, place: int, error: psycopg2.Error) -> _Refused:
    """Which row to reject for a winner that is refused.

    Where rows are put together, it is the first one with which those of its key, up to there, leave something that is refused.
    """
    upsert, rows = winners.competing, _rows_of(cursor, winners, place)
    for number in range(1, len(rows)):
        cursor.execute("SAVEPOINT etl_key")
        some = ours(upsert.target, "etl_n = ANY ({}::bigint[])").format(Literal(rows[:number]))
        one_each, composed = compose(cursor, upsert, _judged(upsert, some))
        if earlier := _write(cursor, one_each, composed, is_composed=True):
            return _as_refused(rows[number - 1], earlier)
        cursor.execute("ROLLBACK TO SAVEPOINT etl_key")
    return _as_refused(rows[-1], error)


def _as_refused(row: int, error: psycopg2.Error) -> _Refused:
    failure = driver_failure(error)
    return _Refused(row, failure.message, failure.sqlstate or "")


def _rows_of(cursor: Any, winners: _Winners, place: int) -> list[int]:
    """The rows that were put together to a winner; else the one that it is."""
    upsert, won = winners.competing, winners.slice(place, place)
    if not winners.is_composed or upsert.order_by:
        cursor.execute(SQL("SELECT ctid FROM {}").format(won))
    else:
        one_each = replace(winners.one_each, marks={})
        cursor.execute(
            ours(upsert.target, "SELECT judged.etl_row FROM ({}) AS judged JOIN ({}) AS won ON {} ORDER BY 1").format(
                staged_rows(one_each, _judged(upsert)),
                staged_rows(one_each, won),
                match_keys(upsert.target, "judged", "won"),
            )
        )
    return [row for (row,) in cursor.fetchall()]


def _take_out(target: TargetTable, cursor: Any) -> list[int]:
    """Take the rows that the last query has found out of the winners, and return them."""
    rows = [row for (row,) in cursor.fetchall()]
    cursor.execute(ours(target, "DELETE FROM {} WHERE etl_row = ANY ({}::bigint[])").format(_WINNERS, Literal(rows)))
    return rows


def _childless(run: Run, cursor: Any, key: ForeignKey) -> Generator[_Refused]:
    """The winners whose parent is neither in the table nor among them; one that goes may be the parent of others."""
    equal = SQL(" AND ").join(
        SQL("r.{} {} w.{}").format(Identifier(theirs), SQL(operator), Identifier(own))
        for own, theirs, operator in zip(key.columns, key.referenced_columns, key.equality, strict=True)
    )
    given = SQL(" OR " if key.is_full else " AND ").join(
        SQL("w.{} IS NOT NULL").format(Identifier(own)) for own in key.columns
    )
    orphans = ours(
        run.target,
        "SELECT etl_row FROM {winners} w WHERE ({given}) AND NOT EXISTS (SELECT FROM {parents} r WHERE {equal}) "
        "AND NOT EXISTS (SELECT FROM {winners} r WHERE {equal})",
    ).format(winners=_WINNERS, given=given, parents=SQL(key.parents), equal=equal)
    while True:
        cursor.execute(orphans)
        if not (rows := _take_out(run.target, cursor)):
            return
        yield from (_Refused(row, key.refusal, "23503") for row in rows)


def _flags(upsert: Upsert, *, is_composed: bool = False) -> SQL:
    """What staged rows say about themselves: whether they are tombstones; put together, also what is left to write."""
    if is_composed:
        return ours(upsert.target, "etl_gone, etl_live, etl_reset, ")
    return ours(upsert.target, "etl_gone, " if upsert.write.delete else "")


def _judged(upsert: Upsert, where: Composable = _EVERY_ROW) -> Composed:
    """The rows that have not been refused yet, as a staging table has them, with their numbers in the place of `ctid`."""
    return _rows(upsert, _JUDGED, ours(upsert.target, "etl_n"), where, _flags(upsert))


def _rows(upsert: Upsert, source: Composable, order: Composable, where: Composable, flags: Composable) -> Composed:
    return ours(upsert.target, "(SELECT etl_file, {}{}, {} AS ctid FROM {} WHERE {}) AS staged").format(
        flags, names(row_columns(upsert)), order, source, where
    )
