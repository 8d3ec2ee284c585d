"""Which form of the upsert to run. Both leave the same table and the same counts; they differ in what they cost.

`judge`: join staged rows with the table first, so that every row has a verdict before anything is written. Needed where
    verdicts are (`newer`, undo, partitioned tables, triggers that may drop rows).
`write`: insert, and let ON CONFLICT handle existing keys. Rows that change nothing are left out either by a join before (no lock,
    no write: best where most rows are unchanged) or by the WHERE of DO UPDATE (no join: best where many are written). Where
    every row changes, a plain UPDATE goes first, which locks no row before it writes it; ON CONFLICT handles the
    remaining rows. A sample of the staged rows decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import psycopg2
from psycopg2.sql import SQL, Composable, Composed, Identifier, Literal

from etl_toolkit.errors import ConflictTripwireError, EtlError, TargetError
from etl_toolkit.loading.compose import compose, composes
from etl_toolkit.loading.judge import judge, update_only
from etl_toolkit.loading.key_parts import key_items, match_keys, names, table
from etl_toolkit.loading.merge import Merged, Upsert, differs, latest_rows, present_rows
from etl_toolkit.loading.naming import ours
from etl_toolkit.loading.staging_tables import count_keys
from etl_toolkit.loading.statements import update_statement, write_statement
from etl_toolkit.loading.tombstones import Buried, add_buried, bury, dead_rows, live_rows
from etl_toolkit.loading.tripwire import check, check_kept
from etl_toolkit.model import ConflictAction, HazardKind, TargetTable

SAMPLE_ROWS = 1_000
MOSTLY = 0.5  # of a sample unchanged: from there on the join costs less than the conflicts


def merge(
    cursor: Any, upsert: Upsert, rows: Composable, *, staged: Mapping[int, int] | None = None
) -> dict[int, Merged]:
    """Upsert the staged rows of a relation; return what happened to them, by file position.

    `staged` are the rows staged per file, where the caller knows them.
    """
    if staged is not None and not any(staged.values()):
        return {}
    if upsert.write.is_plain:
        return _merge_rows(cursor, upsert, rows, staged)
    competing = count_keys(cursor, upsert.target, rows) if upsert.several_files else {}
    if is_composed := composes(upsert):
        upsert, rows = compose(cursor, upsert, rows)
    buried, rows = _bury(cursor, upsert, rows, is_composed=is_composed)
    merged = add_buried(_merge_rows(cursor, upsert, rows, _count_rows(cursor, upsert, rows)), buried)
    for file, (count, distinct) in competing.items():
        merged[file] = replace(merged.get(file, Merged()), staged=count, distinct=distinct)
    return merged


def write_rows(cursor: Any, upsert: Upsert, source: Composable, *, is_composed: bool) -> None:
    """Do what `merge` does to rows of which each has a key of its own, put together or not."""
    _, rows = _bury(cursor, upsert, source, is_composed=is_composed)
    _merge_rows(cursor, upsert, rows, None)


def _bury(cursor: Any, upsert: Upsert, rows: Composable, *, is_composed: bool) -> tuple[dict[int, Buried], Composable]:
    """Delete the keys of the tombstones among the rows; return what happened, and the other rows."""
    if not upsert.write.delete:
        return {}, rows
    buried = bury(cursor, upsert, dead_rows(upsert, rows, is_composed=is_composed))
    return buried, live_rows(upsert, rows, is_composed=is_composed)


def _count_rows(cursor: Any, upsert: Upsert, source: Composable) -> dict[int, int] | None:
    """How many rows there are per file, if each has a key of its own."""
    if not upsert.unique:
        return None
    cursor.execute(ours(upsert.target, "SELECT etl_file, count(*) FROM {} GROUP BY etl_file").format(source))
    return dict(cursor.fetchall())


def _merge_rows(
    cursor: Any, upsert: Upsert, rows: Composable, staged: Mapping[int, int] | None
) -> dict[int, Merged]:  # fmt: skip
    if staged is not None and not any(staged.values()):
        return {}
    try:
        if upsert.write.rows == "update":
            return _with_lost(cursor, upsert, rows, update_only)
        if upsert.undoable or needs_verdicts(upsert):
            merged = _with_lost(cursor, upsert, rows, judge)
        else:
            merged = _write(cursor, upsert, rows, staged if upsert.unique else None)
    except psycopg2.errors.CardinalityViolation:
        if not (upsert.unique or _row_triggers(upsert)):
            raise
        raise _one_key_twice(upsert) from None
    if upsert.rivals:
        _check_rivals(cursor, upsert, rows)
    return merged


def _row_triggers(upsert: Upsert) -> list[str]:
    return [hazard.detail for hazard in upsert.target.hazards if hazard.kind is HazardKind.ROW_TRIGGER]


def _one_key_twice(upsert: Upsert) -> EtlError:
    if triggers := _row_triggers(upsert):
        return TargetError(
            f"two rows for {upsert.target.qualified_name} have the same key under index {upsert.target.arbiter.index} once its "
            f"row triggers have fired ({'; '.join(triggers)}), so one statement cannot write both; give the rows the keys in the "
            "files that the triggers give them, or let the triggers leave the key as it is"
        )
    return ConflictTripwireError(
        f"two rows for {upsert.target.qualified_name} have the same key under index {upsert.target.arbiter.index}, although "
        "the client had compared them as different keys; load with --strategy deterministic, and please report the key types"
    )


def _check_rivals(cursor: Any, upsert: Upsert, source: Composable) -> None:
    """Raise ConflictTripwireError where the upsert met rows of another lane."""
    assert upsert.rivals is not None
    if not upsert.keeps_present:
        check(cursor, upsert.rivals)
    elif (
        upsert.values
    ):  # DO NOTHING shows nobody the row it leaves alone; of a key alone both would have written the same
        kept = SQL("SELECT present.xmin FROM ({}) AS latest JOIN ({}) AS present ON {}").format(
            latest_rows(upsert, source),
            present_rows(upsert.target, system_columns=True),
            match_keys(upsert.target, "present", "latest"),
        )
        check_kept(cursor, upsert.rivals, kept)


def needs_verdicts(upsert: Upsert) -> bool:
    """Whether it has to be known what becomes of a row before it is written; a row trigger may drop it."""
    return upsert.action is ConflictAction.NEWER or upsert.target.is_partitioned or bool(_row_triggers(upsert))


def _with_lost(
    cursor: Any, upsert: Upsert, source: Composable, write: Callable[[Any, Upsert, Composable], dict[int, Merged]]
) -> dict[int, Merged]:
    merged = write(cursor, upsert, source)
    if not upsert.several_files:
        return merged
    counted = count_keys(cursor, upsert.target, source)
    return {
        file: replace(merged.get(file, Merged()), staged=rows, distinct=distinct)
        for file, (rows, distinct) in counted.items()
    }


def _write(cursor: Any, upsert: Upsert, source: Composable, staged: Mapping[int, int] | None) -> dict[int, Merged]:
    sample = Sample() if upsert.keeps_present or upsert.marks else _sample(cursor, upsert, source)
    updated_first: dict[int, int] = {}
    if staged is not None and sample.all_differ and _may_update(upsert):
        updated = _update(cursor, upsert, source)
        if updated == sum(staged.values()):
            return {file: Merged(rows=rows, updated=rows) for file, rows in staged.items() if rows}
        _check_once(cursor, upsert, source)
        updated_first = _by_file(cursor, upsert, source, staged, updated)
    prefilter = bool(updated_first) or sample.mostly_unchanged
    cursor.execute(write_statement(upsert, source, prefilter=prefilter, count_rows=staged is None))
    inserted, written, counted = cursor.fetchone()
    files = {int(file): Merged(rows=won, staged=rows, distinct=keys) for file, rows, keys, won in counted or ()}
    if staged is not None:
        files = {file: Merged(rows=rows) for file, rows in staged.items() if rows}
    updated = written - inserted + sum(updated_first.values())
    fates = {"inserted": inserted, "updated": updated}
    fates["unchanged"] = sum(item.rows for item in files.values()) - inserted - updated
    if len(files) == 1:
        return {file: replace(item, **fates) for file, item in files.items()}
    happened = [fate for fate, rows in fates.items() if rows]
    if len(happened) <= 1:
        return {file: replace(item, **dict.fromkeys(happened, item.rows)) for file, item in files.items()}
    return {
        file: replace(item, **dict(zip(("inserted", "updated", "unchanged"), rows, strict=True)))
        for (file, item), rows in _attributed(cursor, upsert, source, files, updated_first)
    }


def _may_update(upsert: Upsert) -> bool:
    """Whether a plain UPDATE does to a row what ON CONFLICT would: no trigger, policy or CHECK sees an INSERT first.

    Where rows refer to others of the table, they lock these, which look like ones that ON CONFLICT has updated then.
    """
    target, columns = upsert.target, set(upsert.layout.columns)
    if any(key.is_self for key in target.foreign_keys):
        return False
    return not target.hazards and all(columns.issuperset(check.columns) for check in target.checks)


def _update(cursor: Any, upsert: Upsert, source: Composable) -> int:
    """Update the rows that are in the table and differ; return how many.

    The staged rows come in key order and are looked up one by one, which leaves the index in order as well; a sort or a
    hash of either side would not.
    """
    with _looking_up(cursor):
        cursor.execute(update_statement(upsert, source))
        return int(cursor.rowcount)


@contextmanager
def _looking_up(cursor: Any) -> Iterator[None]:
    """Let a join look rows of the table up one by one by the index."""
    cursor.execute("SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off")
    yield
    cursor.execute("SET LOCAL enable_hashjoin TO DEFAULT; SET LOCAL enable_mergejoin TO DEFAULT")


def _by_file(
    cursor: Any, upsert: Upsert, source: Composable, staged: Mapping[int, int], updated: int
) -> dict[int, int]:
    """How many rows an UPDATE has written, by file position.

    Where several files are staged together, it is a key range: none of its keys was written before in this transaction.
    """
    if len(staged) == 1 or not updated:
        return dict.fromkeys(staged, updated) if updated else {}
    cursor.execute(
        ours(upsert.target,
            "SELECT etl_file, count(*) FROM ({latest}) AS latest JOIN ({present}) AS present ON {on} "
            "WHERE present.xmin = pg_catalog.pg_current_xact_id()::xid GROUP BY etl_file"
        ).format(
            latest=latest_rows(upsert, source), present=present_rows(upsert.target, system_columns=True),
            on=match_keys(upsert.target, "present", "latest"),
        )
    )  # fmt: skip
    return dict(cursor.fetchall())


def _check_once(cursor: Any, upsert: Upsert, source: Composable) -> None:
    """Raise ConflictTripwireError where two staged rows have the same key: UPDATE takes either, without an error."""
    cursor.execute(
        SQL(
            "SELECT FROM ({latest}) AS latest JOIN ({present}) AS present ON {on} "
            "WHERE present.xmin = pg_catalog.pg_current_xact_id()::xid AND {differs} LIMIT 1"
        ).format(
            latest=latest_rows(upsert, source), present=present_rows(upsert.target, system_columns=True),
            on=match_keys(upsert.target, "present", "latest"), differs=differs(upsert, "present", "latest"),
        )
    )  # fmt: skip
    if cursor.fetchone() is not None:
        raise _one_key_twice(upsert)


@dataclass(frozen=True)
class Sample:
    """Of some staged rows, how many are in the table unchanged, and how many with other values."""

    rows: int = 0
    unchanged: int = 0
    differing: int = 0

    @property
    def mostly_unchanged(self) -> bool:
        return self.unchanged > MOSTLY * self.rows

    @property
    def all_differ(self) -> bool:
        return 0 < self.differing == self.rows


def _sample(cursor: Any, upsert: Upsert, source: Composable) -> Sample:
    limit = Literal(SAMPLE_ROWS)  # Citus does not take both in one statement
    cursor.execute(SQL("SELECT count(*) FROM (SELECT FROM {} LIMIT {}) AS n").format(source, limit))
    (rows,) = cursor.fetchone()
    # Else the server reads all of a table that it believes to be small.
    with nullcontext() if upsert.target.forced("server") else _looking_up(cursor):
        cursor.execute(
            SQL(
                "SELECT count(*) FILTER (WHERE NOT {differs}), count(*) FILTER (WHERE {differs}) "
                "FROM (SELECT {columns}, {keys} FROM {source} LIMIT {limit}) AS latest JOIN ({present}) AS present ON {on}"
            ).format(
                differs=differs(upsert, "present", "latest"), source=source, limit=limit,
                columns=names(upsert.layout.columns), keys=key_items(upsert.target), present=present_rows(upsert.target),
                on=match_keys(upsert.target, "present", "latest"),
            )
        )  # fmt: skip
        return Sample(rows, *cursor.fetchone())


def probed_rows(target: TargetTable, keys: Sequence[Sequence[str]]) -> Composed:
    """The rows of the table that have one of some keys, given as texts of its parts."""
    columns = [target.column(name) for name in target.key]
    texts = zip(*keys, strict=True) if keys else [()] * len(columns)
    items = [
        SQL("unnest({}::text[])::{} AS {}").format(Literal(list(part)), SQL(column.type), Identifier(column.name))
        for column, part in zip(columns, texts, strict=True)
    ]
    return SQL("SELECT etl_target.* FROM (SELECT {}) AS probed JOIN {} AS etl_target USING ({})").format(
        SQL(", ").join(items), table(target), names(target.key)
    )


def count_present(cursor: Any, target: TargetTable, keys: Sequence[Sequence[str]]) -> int:
    """Return how many of some keys, given as texts of its parts, are in the table."""
    cursor.execute(SQL("SELECT count(*) FROM ({}) AS found").format(probed_rows(target, keys)))
    return int(cursor.fetchone()[0])


def _attributed(
    cursor: Any, upsert: Upsert, source: Composable, files: Mapping[int, Merged], updated_first: Mapping[int, int]
) -> list[tuple[tuple[int, Merged], tuple[int, int, int]]]:
    """Tell per file how many rows were inserted, updated and unchanged, by the marks this transaction left in the table.

    A row it wrote has its id as xmin; one that ON CONFLICT updated has it as xmax too, from the lock. Those that a plain
    UPDATE `updated_first` look like new ones.
    """
    cursor.execute(
        ours(
            upsert.target,
            "WITH latest AS ({latest}) SELECT etl_file, count(*) FILTER (WHERE etl_mine AND etl_fresh), "
            "count(*) FILTER (WHERE etl_mine AND NOT etl_fresh) FROM latest LEFT JOIN (SELECT *, "
            "xmin = pg_catalog.pg_current_xact_id()::xid AS etl_mine, xmax = 0 AS etl_fresh FROM ({present}) AS rows) "
            "AS present ON {on} GROUP BY etl_file",
        ).format(
            latest=latest_rows(upsert, source),
            present=present_rows(upsert.target, system_columns=True),
            on=match_keys(upsert.target, "present", "latest"),
        )
    )
    found = {file: (inserted, updated) for file, inserted, updated in cursor.fetchall()}
    attributed = []
    for file, item in files.items():
        fresh, locked = found.get(file, (0, 0))
        inserted, updated = fresh - updated_first.get(file, 0), locked + updated_first.get(file, 0)
        attributed.append(((file, item), (inserted, updated, item.rows - inserted - updated)))
    return attributed
