"""Undoing a finished run: what it inserted is deleted, what it overwrote or deleted is as it was before.

PostgreSQL itself shows which rows are the run's: every row version contains the number of the transaction that
wrote it (`xmin`), and the ledger keeps those numbers per batch. A row that was written since has a different number,
so the rows found must be exactly as many as the run wrote, or nothing is undone. Earlier values are kept by loads with
`--undoable` only, as text in `etl_toolkit.before_images`, with the transaction that had written them; so after a later
run is undone, the one before it can be undone, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2.sql import SQL

from etl_toolkit.errors import LedgerError, map_driver_error
from etl_toolkit.loading import ledger
from etl_toolkit.loading.key_parts import table
from etl_toolkit.loading.naming import ours
from etl_toolkit.loading.session import Sessions
from etl_toolkit.loading.undo_columns import check_unused, drop_columns, find_narrow, narrow_columns
from etl_toolkit.loading.undo_sql import (
    CASCADES,
    children_statement,
    delete_statement,
    images_statement,
    ours_statement,
    reinsert_statement,
    restore_statement,
    restored_statement,
)
from etl_toolkit.loading.writable import check_writable
from etl_toolkit.model import LoadSpec, TargetTable
from etl_toolkit.target import read_target

# A transaction number in a row has 32 bits, and is used again after 2^32 transactions.
OLDEST_TRANSACTIONS = 1 << 31


@dataclass(frozen=True)
class Undone:
    """What undoing a run did to its table, or would do (`dry_run`)."""

    run_id: str
    table: str
    deleted: int
    restored: int
    dry_run: bool = False
    dropped: tuple[str, ...] = ()  # columns that the run had added
    narrowed: tuple[str, ...] = ()  # columns that it had widened, and whose values fit their types before
    still_wide: tuple[str, ...] = ()  # those whose values do not, or on which something depends by now
    not_restored: tuple[str, ...] = ()  # tables whose rows may have been deleted or cleared along with rows restored


@dataclass(frozen=True)
class _Written:
    """The committed batches of a run: rows inserted and deleted, and the transaction numbers that its rows carry.

    A row that was inserted and then deleted is in both numbers, one that was only marked as deleted in neither.
    """

    inserted: int
    deleted: int
    may_change_keys: bool  # a key may have been deleted and inserted anew, in another spelling
    versions: list[str]


def undo(sessions: Sessions, run_id: str, *, force: bool = False, dry_run: bool = False) -> Undone:
    """Undo everything that run `run_id` wrote, in one transaction, or raise LedgerError and change nothing.

    Refused where a later run has written to the table (`force` overrides this), where any row was changed or deleted
    since, where deleting would cascade into other tables, and where the run overwrote rows without keeping them.
    Columns that the run added are dropped, unless others have written into them or something depends on them. Columns that it
    widened become as narrow again as they were where all values fit, and nothing depends on them.
    Sequences are not reset; triggers of the table fire.
    """
    with sessions.session("undo", is_printing=True) as connection, ledger.locks_given_back(connection):
        check_writable(connection)
        run = ledger.find_run(connection, run_id)
        target = _target(connection, run)
        try:
            ledger.lock_table(
                connection, target.oid, target.qualified_name,
                wait_seconds=sessions.config.lock_wait_seconds, sleep=sessions.stop.sleep,
            )  # fmt: skip
            added = tuple(run.plan.get("added", ()))
            # Where a later run stays, the server must not write all rows anew: they would not be known as that run's.
            widened = {} if force else dict(run.plan.get("widened", {}))
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                if (added or widened) and not dry_run:  # before the first snapshot: what others wrote there is seen
                    cursor.execute(SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(table(target)))
                written = _written(cursor, run, force=force)
                done = _take_back(cursor, run, target, written)
                check_unused(cursor, target, added)
                narrowed = find_narrow(cursor, target, widened)
                undone = Undone(
                    run_id, target.qualified_name, *done, dry_run=dry_run, dropped=added, narrowed=tuple(narrowed),
                    still_wide=tuple(name for name in run.plan.get("widened", {}) if name not in narrowed),
                    not_restored=_cascaded(cursor, target) if written.deleted else (),
                )  # fmt: skip
                if dry_run:
                    return undone
                if added or narrowed:
                    cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # no table with events to come can be altered
                drop_columns(cursor, target, added)
                narrow_columns(cursor, target, narrowed)
                cursor.execute(
                    "UPDATE etl_toolkit.runs SET status = 'undone', undone_by = pg_catalog.pg_current_xact_id() "
                    "WHERE run_id = %s",
                    (run_id,),
                )
            sessions.commit(connection)
        except psycopg2.errors.SerializationFailure:
            raise LedgerError(
                f"rows of {target.qualified_name} are being changed right now; nothing was undone"
            ) from None
        except psycopg2.Error as error:
            raise map_driver_error(error, doing=f"undoing run {run_id} (nothing was undone)") from None
    return undone


def _target(connection: Any, run: ledger.PastRun) -> TargetTable:
    if run.status == "undone":
        raise LedgerError(f"run {run.run_id} was already undone")
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) "
            "FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %s",
            (run.target_oid,),
        )
        found = cursor.fetchone()
    if found is None:
        raise LedgerError(f"{run.target} was dropped since run {run.run_id}; there is nothing to undo")
    target = read_target(connection, found[0], run.spec["key"])
    now = [[column.name, column.type] for column in target.columns]
    if now != run.plan.get("columns", now):
        raise LedgerError(f"the columns of {run.target} have changed since run {run.run_id}; restore from a backup")
    return target


def _written(cursor: Any, run: ledger.PastRun, *, force: bool) -> _Written:
    cursor.execute(
        "SELECT version::text, counts, "
        "(pg_catalog.pg_current_xact_id()::text::numeric - transaction_id::text::numeric)::bigint "
        "FROM etl_toolkit.batches WHERE run_id = %s",
        (run.run_id,),
    )
    batches = cursor.fetchall()
    if not batches:
        raise LedgerError(f"run {run.run_id} committed nothing; there is nothing to undo")
    counts = [count for _, per_file, _ in batches for count in per_file.values()]
    updated = sum(count["updated"] for count in counts)
    deleted, removed = (sum(count.get(name, 0) for count in counts) for name in ("deleted", "removed"))
    if (updated or deleted or removed) and not run.spec.get("undoable"):
        done = " and ".join(
            f"{verb} {rows:,}" for verb, rows in (("overwrote", updated), ("deleted", deleted + removed)) if rows
        )
        raise LedgerError(
            f"run {run.run_id} {done} rows without keeping them (it was not loaded with "
            "--undoable); restore the table from a backup"
        )
    if max(age for _, _, age in batches) >= OLDEST_TRANSACTIONS:
        raise LedgerError(f"run {run.run_id} is too old to distinguish its rows from others; restore from a backup")
    cursor.execute(
        "SELECT run_id FROM etl_toolkit.runs r WHERE target_oid = %s AND started_at > %s AND run_id <> %s "
        "AND status <> 'undone' AND EXISTS (SELECT FROM etl_toolkit.batches b WHERE b.run_id = r.run_id) "
        "ORDER BY started_at DESC LIMIT 1",
        (run.target_oid, run.started_at, run.run_id),
    )
    if (later := cursor.fetchone()) and not force:
        raise LedgerError(
            f"run {later[0]} has loaded into {run.target} since run {run.run_id}; undo that one first, or use --force "
            "to undo only this one (it is still refused if both wrote the same rows)"
        )
    write = LoadSpec.from_mapping(run.spec).write
    gone = 0 if write.delete and write.delete.soft else deleted
    gone += removed if write.missing == "delete" else 0
    inserted = sum(count["inserted"] for count in counts)
    return _Written(inserted, gone, write.deletes, [version for version, _, _ in batches])


def _take_back(cursor: Any, run: ledger.PastRun, target: TargetTable, written: _Written) -> tuple[int, int]:
    """Delete what the run inserted and restore what it overwrote; return both numbers."""
    # Values are composed in as well: where parameters are given, a `%` in a name of the table would be one.
    cursor.execute(images_statement(target, run.run_id, written.versions))
    cursor.execute(ours_statement(target, written.versions))
    cursor.execute("ANALYZE pg_temp.etl_ours, pg_temp.etl_images")
    cursor.execute(
        ours(
            target,
            "SELECT (SELECT count(*) FROM pg_temp.etl_images WHERE etl_mine), (SELECT count(*) FROM pg_temp.etl_ours)",
        )
    )
    kept, intact = cursor.fetchone()
    expected = written.inserted + kept - written.deleted
    if missing := expected - intact:
        raise LedgerError(
            f"{abs(missing):,} of the {expected:,} rows that run {run.run_id} wrote to {target.qualified_name} were changed or "
            "deleted since, so nothing was undone; restore from a backup, or fix them manually"
        )
    _refuse_cascades(cursor, target)
    cursor.execute(delete_statement(target))
    removed = int(cursor.rowcount)
    restored = 0
    if kept:
        for statement in (restore_statement(target, with_key=written.may_change_keys), reinsert_statement(target)):
            cursor.execute(statement)
            restored += int(cursor.rowcount)
        cursor.execute(restored_statement(target))
        same = cursor.fetchone()[0]
        if same != kept:
            raise LedgerError(
                f"{kept - same:,} of {kept:,} rows would not be restored exactly (because of a trigger, or because their key is "
                "there again?), so nothing was undone; restore from a backup"
            )
    if restored != kept:
        raise LedgerError(f"{restored:,} of {kept:,} rows were restored; nothing was undone")
    return removed, restored


def _cascaded(cursor: Any, target: TargetTable) -> tuple[str, ...]:
    """The tables whose foreign keys delete or clear their rows with those that they refer to."""
    cursor.execute(CASCADES, (target.oid,))
    return tuple(sorted({child for child, *_ in cursor.fetchall()}))


def _refuse_cascades(cursor: Any, target: TargetTable) -> None:
    """Raise where rows of other tables would be deleted or cleared along with ours."""
    cursor.execute(CASCADES, (target.oid,))
    for child, constraint, own, referenced in cursor.fetchall():
        cursor.execute(children_statement(target, child, own, referenced))
        if count := cursor.fetchone()[0]:
            raise LedgerError(
                f"{count:,} rows of {child} refer to rows that the run inserted, and {constraint} would delete or "
                "clear them too, so nothing was undone; deal with these rows first"
            )
