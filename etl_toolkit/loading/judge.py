"""The `judge` form of the upsert, in which every row has a verdict before anything is written, and updates without inserts."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from psycopg2.sql import SQL, Composable, Composed

from etl_toolkit.loading.conventions import printing
from etl_toolkit.loading.key_parts import equal_keys, names, table
from etl_toolkit.loading.merge import (
    _INSERTED,
    _NEW_AND_WRITTEN,
    Merged,
    Upsert,
    _older_row,
    arbiter_of,
    compose_judged,
    overriding,
    writing_order,
)
from etl_toolkit.loading.naming import ours
from etl_toolkit.loading.staging_tables import staging_table
from etl_toolkit.loading.tripwire import guarded
from etl_toolkit.model import ConflictAction, HazardKind, TargetTable


def merge_statement(upsert: Upsert, source: Composable) -> Composed:
    """Compose the upsert of the staged rows.

    It returns a row per file: (etl_file, rows, new, unchanged, stale, and of all files: inserted, written).
    """
    target = upsert.target
    resolution: Composable = SQL("DO NOTHING")
    if not upsert.keeps_present:
        assignments = upsert.assignments("excluded", "etl_target")
        wanted: Composable = SQL("true")
        if upsert.action is ConflictAction.NEWER and upsert.order_by:
            stale = _older_row(upsert, "excluded", "etl_target")
            wanted = SQL("NOT {}").format(stale)
        resolution = SQL("DO UPDATE SET {} WHERE {}").format(assignments, guarded(upsert.rivals, wanted))
    return ours(upsert.target,
        "WITH {judged}{kept}, written AS (INSERT INTO {table} AS etl_target ({columns}){overriding} SELECT {columns} FROM judged "
        "WHERE etl_new OR etl_differs ORDER BY {order} "
        "ON CONFLICT {arbiter} {resolution} RETURNING {is_inserted} AS etl_inserted) "
        "SELECT etl_file, count(*), count(*) FILTER (WHERE etl_new), "
        "count(*) FILTER (WHERE NOT etl_new AND NOT etl_stale AND NOT etl_differs), count(*) FILTER (WHERE etl_stale), "
        "{inserted}, (SELECT count(*) FROM written) FROM judged GROUP BY etl_file"
    ).format(
        is_inserted=SQL("NULL::bool" if target.is_partitioned else "(etl_target.xmax = 0)"),
        inserted=ours(target, _NEW_AND_WRITTEN if target.is_partitioned else _INSERTED),
        judged=compose_judged(upsert, source),
        kept=SQL(", kept AS ({})").format(_kept(upsert)) if upsert.undoable else SQL(""),
        table=table(target), columns=names(upsert.inserted),
        overriding=overriding(upsert), order=writing_order(upsert),
        arbiter=arbiter_of(target), resolution=resolution,
    )  # fmt: skip


def update_only_statement(upsert: Upsert, source: Composable) -> Composed:
    """Compose the update of the rows that are there; the others are not inserted.

    It returns a row per file: (etl_file, rows, absent, unchanged, stale, updated). A row that another session makes newer
    before it can be updated is left as it is.
    """
    target = upsert.target
    update: Composable = ours(target, "SELECT NULL::int AS etl_file WHERE false")
    if upsert.values:
        wanted: Composable = SQL("true")
        if upsert.action is ConflictAction.NEWER and upsert.order_by:
            wanted = SQL("NOT {}").format(_older_row(upsert, "judged", "etl_target"))
        parts = [SQL("etl_target.{}").format(SQL(part)) for part in target.arbiter.expressions]
        update = ours(target,
            "UPDATE {}{} AS etl_target SET {} FROM judged WHERE etl_differs AND {} AND {} RETURNING judged.etl_file"
        ).format(
            SQL("" if target.is_partitioned else "ONLY "), table(target), upsert.assignments("judged", "etl_target"),
            equal_keys(target, parts, "judged"), wanted,
        )  # fmt: skip
    return ours(target,
        "WITH {judged}, written AS ({update}) SELECT etl_file, count(*), count(*) FILTER (WHERE etl_new), "
        "count(*) FILTER (WHERE NOT etl_new AND NOT etl_stale AND NOT etl_differs), count(*) FILTER (WHERE etl_stale), "
        "(SELECT count(*) FROM written WHERE written.etl_file = judged.etl_file) FROM judged GROUP BY etl_file"
    ).format(judged=compose_judged(upsert, source), update=update)  # fmt: skip


def may_be_dropped(target: TargetTable) -> bool:
    """Whether a trigger or a policy may leave out, without an error, a row that is to be updated or deleted."""
    return any(hazard.kind in (HazardKind.ROW_TRIGGER, HazardKind.ROW_SECURITY) for hazard in target.hazards)


def update_only(cursor: Any, upsert: Upsert, source: Composable) -> dict[int, Merged]:
    """Run `update_only_statement`; return what happened to the staged rows, by file position."""
    if upsert.undoable:
        _keep(cursor, upsert, source)
    cursor.execute(update_only_statement(replace(upsert, undoable=False), source))
    merged = {}
    for file, rows, new, same, stale, written in cursor.fetchall():
        updated = rows - new - same - stale
        # Another session has made it newer, or deleted it; what a trigger or a policy has kept from us stays a gap.
        lost = 0 if may_be_dropped(upsert.target) else updated - written
        is_newer = upsert.action is ConflictAction.NEWER
        merged[file] = Merged(
            rows, updated=written, unchanged=same, stale=stale + lost * is_newer, absent=new + lost * (not is_newer)
        )
    return merged


def _keep(cursor: Any, upsert: Upsert, source: Composable) -> None:
    with printing(cursor):
        cursor.execute(SQL("WITH {} {}").format(compose_judged(upsert, source), _kept(upsert)))


def _kept(upsert: Upsert) -> Composable:
    """Keep the rows about to be overwritten, of the CTE `judged`, as text, with the transaction that wrote them.

    Its snapshot is that of the upsert; where another session changes one of these rows in between, REPEATABLE READ
    makes the upsert fail with 40001 rather than overwrite what was not kept. A row of this very transaction is no
    earlier state.
    """
    return ours(
        upsert.target,
        "INSERT INTO etl_toolkit.before_images (version, image) SELECT etl_before.xmin, (etl_before.*)::text "
        "FROM judged JOIN {} AS etl_before ON etl_before.ctid = etl_place AND etl_before.tableoid = etl_present "
        "WHERE etl_differs AND etl_before.xmin <> pg_catalog.pg_current_xact_id()::xid",
    ).format(table(upsert.target))


def _may_print(upsert: Upsert) -> bool:
    """Whether writing a row may call what prints values: a trigger, a default, a generated column."""
    target = upsert.target
    return bool(target.hazards) or any(
        column.expression is not None and column.name not in upsert.layout.columns for column in target.columns
    )


def forecast(cursor: Any, upsert: Upsert) -> tuple[int, int, int]:
    """Return how many of the staged rows are new, differ from their row in the table, and are unchanged or stale."""
    cursor.execute(
        ours(
            upsert.target,
            "WITH {} SELECT count(*) FILTER (WHERE etl_new), count(*) FILTER (WHERE etl_differs), "
            "count(*) FILTER (WHERE NOT etl_new AND NOT etl_differs) FROM judged",
        ).format(compose_judged(upsert, staging_table()))
    )
    new, differing, same = cursor.fetchone()
    return int(new), int(differing), int(same)


def judge(cursor: Any, upsert: Upsert, source: Composable) -> dict[int, Merged]:
    """Run `merge_statement`; return what happened to the staged rows, by file position."""
    if upsert.undoable and _may_print(upsert):  # that must not see the settings under which rows are kept as text
        _keep(cursor, upsert, source)
        upsert = replace(upsert, undoable=False)
    with printing(cursor) if upsert.undoable else nullcontext():
        cursor.execute(merge_statement(upsert, source))
        found = cursor.fetchall()
    if not found:
        return {}
    inserted, written = found[0][5], found[0][6]
    verdicts = {
        file: Merged(rows, new, rows - new - same - stale, same, stale) for file, rows, new, same, stale, *_ in found
    }
    keeps_present = upsert.keeps_present or upsert.action is ConflictAction.NEWER
    return _settle(verdicts, inserted, written - inserted, keeps_present=keeps_present)


def _settle(verdicts: dict[int, Merged], inserted: int, updated: int, *, keeps_present: bool) -> dict[int, Merged]:
    """Bring the verdicts of the join in line with what was written.

    They differ only where another session wrote one of our keys between the two: such a row was new and is now updated
    or, where the present row is kept, unchanged. A row that a trigger dropped stays a gap, which fails the load.
    """
    lost = sum(item.inserted for item in verdicts.values()) - inserted
    gained = updated - sum(item.updated for item in verdicts.values())
    settled = {}
    for file, item in verdicts.items():
        moved = min(max(lost, 0), item.inserted)
        lost -= moved
        to_updated = min(max(gained, 0), moved)
        gained -= to_updated
        kept = moved - to_updated if keeps_present else 0
        settled[file] = replace(
            item, inserted=item.inserted - moved, updated=item.updated + to_updated, unchanged=item.unchanged + kept
        )
    return settled
