"""The SQL of undoing a run: what it overwrote, where its rows stand now, and how they go back.

Both come as temporary tables: `etl_images`, the rows that were kept, and `etl_ours`, the places of the rows that the run
wrote. They carry the key as the arbitrating index sees it (`key_items`).
"""

from __future__ import annotations

from collections.abc import Sequence

from psycopg2.sql import SQL, Composed, Identifier, Literal

from etl_toolkit.loading.dependents import REFERENCES
from etl_toolkit.loading.key_parts import key_items, match_keys, table
from etl_toolkit.loading.naming import ours
from etl_toolkit.model import TargetTable

CASCADES = REFERENCES + " AND c.confdeltype IN ('c', 'n', 'd')"


def images_statement(target: TargetTable, run_id: str, versions: Sequence[str]) -> Composed:
    """The rows that this run overwrote (`etl_mine`), and those that later runs overwrote and gave back since.

    A row that one batch of the run overwrote after another had written it is no earlier state.
    """
    return ours(target,
        "CREATE TEMP TABLE etl_images ON COMMIT DROP AS SELECT *, {keys} FROM ("
        "SELECT etl_image, etl_version, etl_undone_by, etl_undone_by IS NULL AS etl_mine, (etl_row).* FROM ("
        "SELECT i.image AS etl_image, i.version AS etl_version, r.undone_by::xid AS etl_undone_by, "
        # A run that was undone has dropped the columns that it had added: the last ones, NULL in what it overwrote.
        "(CASE WHEN r.undone_by IS NULL THEN i.image ELSE pg_catalog.left(i.image, "
        "-1 - coalesce(pg_catalog.jsonb_array_length(r.plan -> 'added'), 0)) || ')' END)::{table} AS etl_row "
        "FROM etl_toolkit.runs r JOIN (SELECT DISTINCT run_id, transaction_id FROM etl_toolkit.batches) b USING (run_id) "
        "JOIN etl_toolkit.before_images i USING (transaction_id) "
        "WHERE r.run_id = {run} AND NOT i.version = ANY({versions}::xid[]) "
        "OR r.target_oid = {oid} AND r.undone_by IS NOT NULL AND i.version = ANY({versions}::xid[]) OFFSET 0) "
        "AS kept) AS spread"
    ).format(
        keys=key_items(target), table=table(target), run=Literal(run_id), oid=Literal(target.oid),
        versions=Literal(list(versions)),
    )  # fmt: skip


def ours_statement(target: TargetTable, versions: Sequence[str]) -> Composed:
    """Where the rows that the run wrote stand now: unchanged since, or given back by the undoing of a later run."""
    present = ours(target, "SELECT tableoid AS etl_table, ctid AS etl_place, xmin AS etl_xmin, {} FROM {}").format(
        key_items(target), table(target)
    )
    return ours(
        target,
        "CREATE TEMP TABLE etl_ours ON COMMIT DROP AS SELECT * FROM ({present}) AS present "
        "WHERE etl_xmin = ANY({versions}::xid[]) UNION ALL SELECT present.* FROM ({present}) AS present "
        "JOIN pg_temp.etl_images AS given ON {same} "
        "WHERE NOT etl_mine AND etl_xmin = etl_undone_by AND etl_version = ANY({versions}::xid[])",
    ).format(present=present, versions=Literal(list(versions)), same=match_keys(target, "present", "given"))


def delete_statement(target: TargetTable) -> Composed:
    """Delete the rows that the run inserted."""
    return ours(
        target,
        "DELETE FROM {} AS etl_target USING pg_temp.etl_ours AS ours WHERE etl_target.ctid = ours.etl_place "
        "AND etl_target.tableoid = ours.etl_table AND {}",
    ).format(table(target), is_inserted(target))


def is_inserted(target: TargetTable) -> Composed:
    """A condition on `ours`: the run inserted this row, having kept no earlier one."""
    return ours(target, "NOT EXISTS (SELECT FROM pg_temp.etl_images AS kept WHERE kept.etl_mine AND {})").format(
        match_keys(target, "kept", "ours")
    )


def restore_statement(target: TargetTable, *, with_key: bool) -> Composed:
    """Give the overwritten rows their earlier values; no upsert changes those of the key, but a tombstone before it may."""
    values = [
        column.name
        for column in target.columns
        if (with_key or column.name not in target.key) and not column.is_generated and column.identity != "a"
    ]
    return ours(
        target,
        "UPDATE {} AS etl_target SET {} FROM pg_temp.etl_ours AS ours JOIN pg_temp.etl_images AS kept ON {} "
        "WHERE kept.etl_mine AND etl_target.ctid = ours.etl_place AND etl_target.tableoid = ours.etl_table",
    ).format(
        table(target),
        SQL(", ").join(SQL("{0} = kept.{0}").format(Identifier(name)) for name in values),
        match_keys(target, "ours", "kept"),
    )


def reinsert_statement(target: TargetTable) -> Composed:
    """Insert the rows that the run deleted again, unless their key has come back since."""
    columns = SQL(", ").join(Identifier(column.name) for column in target.columns if not column.is_generated)
    return ours(
        target,
        "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM pg_temp.etl_images AS kept WHERE kept.etl_mine "
        "AND NOT EXISTS (SELECT FROM pg_temp.etl_ours AS ours WHERE {}) ON CONFLICT DO NOTHING",
    ).format(table(target), columns, columns, match_keys(target, "ours", "kept"))


def restored_statement(target: TargetTable) -> Composed:
    """Count the rows that are, letter for letter, what was kept."""
    present = ours(target, "SELECT (etl_target.*)::text AS etl_text, {} FROM {} AS etl_target").format(
        key_items(target), table(target)
    )
    return ours(
        target,
        "SELECT count(*) FROM ({}) AS present JOIN pg_temp.etl_images AS kept ON {} "
        "WHERE kept.etl_mine AND present.etl_text = kept.etl_image",
    ).format(present, match_keys(target, "present", "kept"))


def children_statement(target: TargetTable, child: str, own: Sequence[str], referenced: Sequence[str]) -> Composed:
    """Count the rows of a table that refer to rows which the run inserted."""
    equal = SQL(" AND ").join(
        SQL("child.{} = etl_target.{}").format(Identifier(left), Identifier(right))
        for left, right in zip(own, referenced, strict=True)
    )
    return ours(
        target,
        "SELECT count(*) FROM {} AS child JOIN {} AS etl_target ON {} JOIN pg_temp.etl_ours AS ours "
        "ON etl_target.ctid = ours.etl_place AND etl_target.tableoid = ours.etl_table WHERE {}",
    ).format(SQL(child), table(target), equal, is_inserted(target))
