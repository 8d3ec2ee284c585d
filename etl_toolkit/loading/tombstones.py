"""Tombstones: rows of the files that delete their key.

They are staged in tables of their own, which have the columns of the key alone (and the order column): nothing else of them is
read, so it may be empty or wrong. The keys are deleted before any row is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from psycopg2.sql import SQL, Composable, Composed, Identifier

from etl_toolkit.loading.conventions import printing
from etl_toolkit.loading.dependents import REFERENCES
from etl_toolkit.loading.judge import may_be_dropped
from etl_toolkit.loading.key_parts import equal_keys, key_items, match_keys, table
from etl_toolkit.loading.merge import Merged, Upsert, older, present_rows
from etl_toolkit.loading.naming import ours
from etl_toolkit.model import ConflictAction, Hazard, HazardKind, Layout, TargetTable

TOMBSTONES = "etl_tombstones"
_REFERENCES = """
SELECT conname, conrelid::pg_catalog.regclass::text, confdeltype FROM pg_catalog.pg_constraint
WHERE confrelid = %s AND contype = 'f' AND conrelid <> confrelid AND conparentid = 0 ORDER BY 2, 1
"""
# One that only deletes rows on which nothing depends refuses nothing.
_MAY_REFUSE = """ AND c.conrelid <> c.confrelid AND c.conparentid = 0 AND NOT (
    c.confdeltype = 'c' AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint d WHERE d.confrelid = c.conrelid AND d.contype = 'f')
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.conrelid AND NOT t.tgisinternal))
ORDER BY 1, 2
"""
_EFFECTS = {
    "c": "its rows are deleted as well (ON DELETE CASCADE)",
    "n": "its columns become NULL (ON DELETE SET NULL)",
    "d": "its columns get their defaults (ON DELETE SET DEFAULT)",
}


def describe_references(cursor: Any, target: TargetTable) -> list[str]:
    """What deleting keys does to the tables that refer to them."""
    cursor.execute(_REFERENCES, (target.oid,))
    return [
        f"{child} refers to {target.qualified_name} ({name}): {_EFFECTS.get(effect, 'keys that it refers to cannot be deleted')}"
        for name, child, effect in cursor.fetchall()
    ]


def read_references(cursor: Any, target: TargetTable) -> list[tuple[str, str, list[str], list[str]]]:
    """The foreign keys of other tables that may refuse a delete: table (SQL), name, its columns and those that it refers to.

    One that only deletes rows on which nothing depends cannot.
    """
    cursor.execute(REFERENCES + _MAY_REFUSE, (target.oid,))
    return list(cursor.fetchall())


def reference_hazards(cursor: Any, target: TargetTable) -> tuple[Hazard, ...]:
    """What makes it matter when a key is deleted."""
    return tuple(
        Hazard(HazardKind.REFERENCED, f"{child} refers to rows that may be deleted ({name})", "sequential")
        for child, name, *_ in read_references(cursor, target)
    )


def are_referred_to(
    target: TargetTable, keys: Composable, references: Sequence[tuple[str, str, list[str], list[str]]]
) -> Composed:
    """Select whether another table refers to one of the rows that have these keys."""
    rows = SQL("({}) AS present JOIN (SELECT {} FROM {}) AS dead ON {}").format(
        present_rows(target), key_items(target), keys, match_keys(target, "present", "dead")
    )
    exist = [
        SQL("EXISTS (SELECT FROM {} AS child JOIN {} ON {})").format(
            SQL(child), rows,
            SQL(" AND ").join(
                SQL("child.{} = present.{}").format(Identifier(theirs), Identifier(name))
                for theirs, name in zip(own, referenced, strict=True)
            ),
        )
        for child, _, own, referenced in references
    ]  # fmt: skip
    return SQL("SELECT {}").format(SQL(" OR ").join(exist))


def tombstone_layout(target: TargetTable, layout: Layout, order_by: str | None) -> Layout:
    """The columns that are read of a tombstone."""
    kept = {*target.key, order_by}
    return Layout(tuple(name for name in layout.columns if name in kept))


def narrow(target: TargetTable) -> TargetTable:
    """The table as it judges a tombstone: by its key."""
    return replace(
        target,
        columns=tuple(replace(column, not_null=column.not_null and column.name in target.key) for column in target.columns),
        arbiter=replace(target.arbiter, predicate=None), checks=(), foreign_keys=(), wide_indexes=(),
    )  # fmt: skip


def tombstone_table() -> Identifier:
    """The session's own staging table of tombstones."""
    return Identifier("pg_temp", TOMBSTONES)


@dataclass(frozen=True)
class Buried:
    """What became of the `rows` of a file that are tombstones and decide; `replaced` keys went for a row that comes after one."""

    rows: int = 0
    deleted: int = 0
    absent: int = 0
    stale: int = 0
    replaced: int = 0

    def added_to(self, merged: Merged) -> Merged:
        """What happened to the rows of the file, tombstones included."""
        return replace(
            merged,
            rows=merged.rows + self.rows,
            inserted=merged.inserted - self.replaced, updated=merged.updated + self.replaced,
            stale=merged.stale + self.stale, deleted=self.deleted, absent=merged.absent + self.absent,
        )  # fmt: skip


def dead_rows(upsert: Upsert, source: Composable, *, is_composed: bool) -> Composed:
    """The keys to delete, of staged rows: `etl_gone` where a tombstone decides, else to make room for a row that does."""
    condition = "etl_gone"
    if is_composed:
        condition = "etl_gone AND NOT etl_live" if upsert.soft else "etl_gone OR etl_reset"
    return SQL("{} WHERE {}").format(_keys(upsert, source), ours(upsert.target, condition))


def numbered_dead_rows(upsert: Upsert) -> Composed:
    """The same, of a table of tombstones in which each key comes once: those numbered 1 decide, those numbered 0 do not."""
    source = ours(upsert.target, "(SELECT *, etl_n = 1 AS etl_gone FROM {}) AS staged").format(tombstone_table())
    return _keys(upsert, source)


def _keys(upsert: Upsert, source: Composable) -> Composed:
    order = ours(upsert.target, ", {} AS etl_order").format(Identifier(upsert.order_by)) if upsert.order_by else SQL("")
    return ours(upsert.target, "SELECT etl_file, etl_gone, {}{} FROM {}").format(
        key_items(upsert.target), order, source
    )


def live_rows(upsert: Upsert, source: Composable, *, is_composed: bool) -> Composed:
    """The staged rows that are written."""
    condition = ours(upsert.target, "etl_live" if is_composed else "NOT etl_gone")
    return SQL("(SELECT * FROM {} WHERE {}) AS staged").format(source, condition)


def bury(cursor: Any, upsert: Upsert, dead: Composable) -> dict[int, Buried]:
    """Delete the keys of the `dead` rows, or mark their rows; return what happened, by file position."""
    # The keys come in the order of the index or of the table, so looking them up one by one meets neighbouring pages.
    cursor.execute(
        "SELECT pg_catalog.set_config('random_page_cost', pg_catalog.current_setting('seq_page_cost'), true), "
        "pg_catalog.set_config('enable_mergejoin', 'off', true)"
    )
    if upsert.undoable:  # before the rows go: a trigger must not see the settings under which they are kept as text
        with printing(cursor):
            cursor.execute(_keep(upsert, dead))
    cursor.execute(_statement(upsert, dead))
    found = cursor.fetchall()
    cursor.execute("SET LOCAL random_page_cost TO DEFAULT; SET LOCAL enable_mergejoin TO DEFAULT")
    return {
        file: Buried(gone, deleted, gone - (deleted + stale if present is None else present), stale, replaced)
        for file, gone, present, stale, deleted, replaced in found
    }


def _found(upsert: Upsert) -> tuple[Composed, Composable]:
    """The `dead` keys that are in the table, and a condition on them: the row there is newer."""
    present = present_rows(upsert.target, system_columns=upsert.undoable)
    found = SQL("dead JOIN ({}) AS present ON {}").format(present, match_keys(upsert.target, "present", "dead"))
    if upsert.action is not ConflictAction.NEWER or not upsert.order_by:
        return found, SQL("false")
    order = ours(upsert.target, "dead.etl_order").format()
    return found, older(upsert, order, Identifier("present", upsert.order_by))


def _statement(upsert: Upsert, dead: Composable) -> Composed:
    """Compose it; it returns rows of (file, tombstones, [of these in the table], stale, deleted, replaced)."""
    target = upsert.target
    found, is_stale = _found(upsert)
    is_counted = may_be_dropped(target)
    concerned: Composable = SQL("true" if is_counted else "false")
    if is_counted and upsert.soft:
        concerned = SQL("({} OR {})").format(_is_to_mark(upsert, "present"), is_stale)
    there = ours(target, "SELECT etl_file, count(*) FROM {} WHERE etl_gone AND {} GROUP BY etl_file")
    return ours(target,
        "WITH dead AS MATERIALIZED ({dead}), written AS ({write} RETURNING dead.etl_file, dead.etl_gone) "
        "SELECT etl_file, gone, {present}, coalesce(stale, 0), "
        "(SELECT count(*) FROM written w WHERE w.etl_file = d.etl_file AND etl_gone), "
        "(SELECT count(*) FROM written w WHERE w.etl_file = d.etl_file AND NOT etl_gone) "
        "FROM (SELECT etl_file, count(*) FILTER (WHERE etl_gone) AS gone FROM dead GROUP BY etl_file) AS d "
        "LEFT JOIN ({there}) AS p (etl_file, present) USING (etl_file) LEFT JOIN ({old}) AS s (etl_file, stale) USING (etl_file)"
    ).format(
        dead=dead, write=_write(upsert), present=SQL("coalesce(present, 0)" if is_counted else "NULL::bigint"),
        there=there.format(found, concerned), old=there.format(found, is_stale),
    )  # fmt: skip


def _write(upsert: Upsert) -> Composed:
    target = upsert.target
    # Unqualified: of the relations here, only the table has columns of these names.
    found = equal_keys(target, [SQL("({})").format(SQL(part)) for part in target.arbiter.expressions], "dead")
    if target.arbiter.predicate:
        found += SQL(" AND ({})").format(SQL(target.arbiter.predicate))
    if upsert.action is ConflictAction.NEWER and upsert.order_by:
        order = ours(target, "dead.etl_order").format()
        found += SQL(" AND NOT {}").format(older(upsert, order, Identifier("etl_target", upsert.order_by)))
    only = SQL("" if target.is_partitioned else "ONLY ")
    if upsert.soft is None:
        return SQL("DELETE FROM {}{} AS etl_target USING dead WHERE {}").format(only, table(target), found)
    mark = SQL("true" if target.column(upsert.soft).base_type == "bool" else "pg_catalog.now()")
    sets = [SQL("{} = {}").format(Identifier(upsert.soft), mark)]
    if upsert.order_by:
        sets.append(ours(target, "{} = dead.etl_order").format(Identifier(upsert.order_by)))
    sets += [SQL("{} = {}").format(Identifier(name), upsert.marks[name]) for name in upsert.write.set]
    return SQL("UPDATE {}{} AS etl_target SET {} FROM dead WHERE {} AND {}").format(
        only, table(target), SQL(", ").join(sets), found, _is_to_mark(upsert, "etl_target")
    )


def _keep(upsert: Upsert, dead: Composable) -> Composed:
    """Keep the rows about to go, as the upsert keeps those that it overwrites."""
    found, is_stale = _found(upsert)
    return ours(
        upsert.target,
        "WITH dead AS MATERIALIZED ({dead}) "
        "INSERT INTO etl_toolkit.before_images (version, image) SELECT etl_before.xmin, (etl_before.*)::text "
        "FROM {found} JOIN {table} AS etl_before ON etl_before.ctid = etl_place AND etl_before.tableoid = etl_present "
        "WHERE {wanted} AND NOT {stale} AND etl_before.xmin <> pg_catalog.pg_current_xact_id()::xid",
    ).format(
        dead=dead, found=found, table=table(upsert.target), stale=is_stale,
        wanted=SQL("true") if upsert.soft is None else _is_to_mark(upsert, "etl_before"),
    )  # fmt: skip


def is_unmarked(target: TargetTable, soft: str, relation: str) -> Composed:
    """A condition on a relation with the table's columns: the row is not marked as deleted yet."""
    is_bool = target.column(soft).base_type == "bool"
    return SQL("{} {}").format(Identifier(relation, soft), SQL("IS NOT TRUE" if is_bool else "IS NULL"))


def _is_to_mark(upsert: Upsert, relation: str) -> Composed:
    assert upsert.soft is not None
    return ours(upsert.target, "etl_gone AND {}").format(is_unmarked(upsert.target, upsert.soft, relation))


def add_buried(merged: Mapping[int, Merged], buried: Mapping[int, Buried]) -> dict[int, Merged]:
    """Add what became of the tombstones to what became of the other rows."""
    return {
        file: buried.get(file, Buried()).added_to(merged.get(file, Merged())) for file in sorted({*merged, *buried})
    }
