"""Which form of the upsert to run. Both leave the same table and the same counts; they differ in what they cost.

`judge`: join staged rows with the table first, so that every row has a verdict before anything is written. Needed where
    verdicts are (`newer`, undo, partitioned tables, triggers that may drop rows).
`write`: insert, and let ON CONFLICT find out. Rows that change nothing are left out either by a join before (no lock, no
    write: best where most rows are unchanged) or by the WHERE of DO UPDATE (no join: best where most are written). A
    sample of the staged rows decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg2.sql import SQL, Composable, Composed, Identifier, Literal

from etl_toolkit.loading.merge import (
    Merged,
    Upsert,
    arbiter_of,
    judge,
    key_aliases,
    key_items,
    latest_rows,
    match_keys,
    names,
    overriding,
    present_rows,
    staging_table,
    table,
)
from etl_toolkit.model import ConflictAction, HazardKind, TargetTable

SAMPLE_ROWS = 1_000
MOSTLY = 0.5  # of a sample unchanged: from there on the join costs less than the conflicts


def merge(
    cursor: Any, upsert: Upsert, source: Composable | None = None, *, staged: Mapping[int, int] | None = None
) -> dict[int, Merged]:
    """Upsert the staged rows; return what became of them, by file position.

    `staged` are the rows staged per file, where the caller knows them; `source` the relation they stand in, by default
    the session's staging table.
    """
    if staged is not None and not any(staged.values()):
        return {}
    needs_verdicts = upsert.undoable or upsert.action is ConflictAction.NEWER or upsert.target.is_partitioned
    if needs_verdicts or _may_drop_rows(upsert):
        return judge(cursor, upsert, source or staging_table())
    return _write(cursor, upsert, source or staging_table(), staged if upsert.unique else None)


def _may_drop_rows(upsert: Upsert) -> bool:
    return any(hazard.kind is HazardKind.ROW_TRIGGER for hazard in upsert.target.hazards)


def _write(cursor: Any, upsert: Upsert, source: Composable, staged: Mapping[int, int] | None) -> dict[int, Merged]:
    prefilter = not upsert.keeps_present and _mostly_unchanged(cursor, upsert, source)
    cursor.execute(write_statement(upsert, source, prefilter=prefilter, count_rows=staged is None))
    inserted, written, counted = cursor.fetchone()
    rows = dict(staged) if staged is not None else {int(file): count for file, count in (counted or {}).items()}
    updated, unchanged = written - inserted, sum(rows.values()) - written
    if sum(count > 0 for count in (inserted, updated, unchanged)) <= 1 or len(rows) == 1:
        # One fate for all, or one file: no need to look.
        total = sum(rows.values())
        return {
            file: Merged(count, count * inserted // total, count * updated // total, count * unchanged // total)
            if len(rows) > 1
            else Merged(count, inserted, updated, unchanged)
            for file, count in rows.items()
            if count
        }
    return _attribute(cursor, upsert, source)


def write_statement(upsert: Upsert, source: Composable, *, prefilter: bool, count_rows: bool) -> Composed:
    """Compose the upsert that returns (inserted, written, rows per file as JSON or NULL)."""
    target = upsert.target
    rows: Composable = SQL("latest")
    resolution: Composable = SQL("DO NOTHING")
    if prefilter:
        rows = SQL("latest LEFT JOIN ({}) AS present ON {} WHERE etl_present IS NULL OR {}").format(
            present_rows(target), match_keys(target, "present", "latest"), _differs(upsert, "present", "latest")
        )
    if not upsert.keeps_present:
        assignments = SQL(", ").join(SQL("{0} = excluded.{0}").format(Identifier(name)) for name in upsert.values)
        resolution = SQL("DO UPDATE SET {} WHERE {}").format(assignments, _differs(upsert, "etl_target", "excluded"))
    per_file = SQL("NULL::json")
    if count_rows:
        per_file = SQL(
            "(SELECT json_object_agg(etl_file, n) FROM (SELECT etl_file, count(*) AS n FROM latest GROUP BY etl_file) AS f)"
        )
    return SQL(
        "WITH latest AS {materialized} ({latest}), written AS (INSERT INTO {table} AS etl_target ({columns}){overriding} "
        "SELECT {values} FROM {rows}{in_key_order} ON CONFLICT {arbiter} {resolution} "
        "RETURNING (etl_target.xmax = 0) AS etl_inserted) "
        "SELECT count(*) FILTER (WHERE etl_inserted), count(*), {per_file} FROM written"
    ).format(
        materialized=SQL("MATERIALIZED") if count_rows else SQL("NOT MATERIALIZED"),
        latest=latest_rows(upsert, source), table=table(target), columns=names(upsert.layout.columns),
        overriding=overriding(upsert), values=names(upsert.layout.columns, "latest"), rows=rows,
        in_key_order=SQL("") if upsert.sorted or not upsert.unique else _in_key_order(target),
        arbiter=arbiter_of(target), resolution=resolution, per_file=per_file,
    )  # fmt: skip


def _in_key_order(target: TargetTable) -> Composed:
    """Rows go in in the index's own order; those that were picked out by key come in it anyway."""
    return SQL(" ORDER BY {}").format(SQL(", ").join(SQL("latest.{}").format(alias) for alias in key_aliases(target)))


def _differs(upsert: Upsert, left: str, right: str) -> Composed:
    """Row images differ: this also tells `1.0` from `1.00`, and works on json."""
    return SQL("(ROW({})::record *<> ROW({})::record)").format(names(upsert.values, left), names(upsert.values, right))


def _mostly_unchanged(cursor: Any, upsert: Upsert, source: Composable) -> bool:
    """Whether most of a sample of the staged rows stand in the table as they are."""
    cursor.execute(
        SQL(
            "SELECT count(*) FILTER (WHERE NOT {differs}), (SELECT count(*) FROM (SELECT FROM {source} LIMIT {limit}) AS n) "
            "FROM (SELECT {columns}, {keys} FROM {source} LIMIT {limit}) AS latest JOIN ({present}) AS present ON {on}"
        ).format(
            differs=_differs(upsert, "present", "latest"),
            source=source,
            limit=Literal(SAMPLE_ROWS),
            columns=names(upsert.layout.columns),
            keys=key_items(upsert.target),
            present=present_rows(upsert.target),
            on=match_keys(upsert.target, "present", "latest"),
        )
    )
    unchanged, sampled = cursor.fetchone()
    return bool(unchanged > MOSTLY * sampled)


def _attribute(cursor: Any, upsert: Upsert, source: Composable) -> dict[int, Merged]:
    """Tell per file what was written, by the marks this transaction left on the rows of the table.

    A row it wrote has its id as xmin; one that ON CONFLICT updated has it as xmax too, from the lock.
    """
    cursor.execute(
        SQL(
            "WITH latest AS ({latest}) SELECT etl_file, count(*), count(*) FILTER (WHERE etl_mine AND etl_fresh), "
            "count(*) FILTER (WHERE etl_mine AND NOT etl_fresh) FROM latest LEFT JOIN (SELECT *, "
            "xmin = pg_catalog.pg_current_xact_id()::xid AS etl_mine, xmax = 0 AS etl_fresh FROM ({present}) AS rows) "
            "AS present ON {on} GROUP BY etl_file"
        ).format(
            latest=latest_rows(upsert, source),
            present=present_rows(upsert.target, system_columns=True),
            on=match_keys(upsert.target, "present", "latest"),
        )
    )
    return {
        file: Merged(rows, inserted, updated, rows - inserted - updated)
        for file, rows, inserted, updated in cursor.fetchall()
    }
