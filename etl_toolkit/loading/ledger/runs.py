"""The life of a run in the ledger: begun, resumed, finished; and the fence against runs that are dead."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from psycopg2.extras import execute_values
from psycopg2.sql import SQL, Identifier

from etl_toolkit.errors import LedgerError
from etl_toolkit.loading.ledger.definition import SCHEMA
from etl_toolkit.loading.ledger.history import PastRun
from etl_toolkit.loading.ledger.spelling import encoding_of, spell
from etl_toolkit.model import Counts, LoadSpec, Plan, SourceFile, TargetTable

FILES_AT_ONCE = 1_000  # in one statement


def begin(
    connection: Any, run_id: str, *, spec: LoadSpec, plan: Plan, target: TargetTable, files: Sequence[SourceFile],
    conventions: Mapping[str, str],
) -> None:  # fmt: skip
    """Record a run as running. Earlier runs on the table that are still marked so are dead (we hold the lock): fence them.

    May be called again where the reply was lost.
    """
    encoding = encoding_of(connection)
    with connection.cursor() as cursor:
        _make_durable(cursor)
        _fence(cursor, target.oid)
        cursor.execute(
            "INSERT INTO etl_toolkit.runs (run_id, target, target_oid, status, strategy, spec, plan) "
            "VALUES (%s, %s, %s, 'running', %s, %s, %s) ON CONFLICT (run_id) DO UPDATE SET status = 'running'",
            (
                run_id,
                target.qualified_name,
                target.oid,
                plan.strategy,
                _json(spell(asdict(spec), encoding)),
                _json(
                    pinned(plan)
                    | {"columns": [[column.name, column.type] for column in target.columns]}
                    | {"conventions": dict(conventions)}
                ),
            ),
        )
        execute_values(
            cursor,
            "INSERT INTO etl_toolkit.files (run_id, position, name, content_hash, size_bytes, header) VALUES %s "
            "ON CONFLICT DO NOTHING",
            [
                (
                    run_id,
                    file.position,
                    spell(file.name, encoding),
                    file.content_hash,
                    file.size_bytes,
                    spell(file.header, encoding),
                )
                for file in files
            ],
            page_size=FILES_AT_ONCE,
        )
    connection.commit()


def _json(value: Any) -> str:
    """Characters as they are: the database may have an escaped character under another number, or not at all."""
    return json.dumps(value, ensure_ascii=False)


def _fence(cursor: Any, target_oid: int) -> None:
    cursor.execute("SELECT FROM etl_toolkit.runs WHERE target_oid = %s AND status = 'running' LIMIT 1", (target_oid,))
    if cursor.rowcount:
        # Hosts outlive their coordinator for a while, and the locks that they hold on its row would have to be waited for.
        cursor.execute(
            "SELECT pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity a JOIN etl_toolkit.runs r "
            "ON pg_catalog.starts_with(a.application_name, 'etl_toolkit ' || r.run_id || ' range ') "
            "WHERE r.target_oid = %s AND r.status = 'running' AND a.usename = current_user",
            (target_oid,),
        )
        cursor.execute(
            "UPDATE etl_toolkit.runs SET status = 'interrupted' WHERE target_oid = %s AND status = 'running'",
            (target_oid,),
        )
    _drop_leftovers(cursor)


def _make_durable(cursor: Any) -> None:
    """Let the COMMIT of this transaction wait for the disk, and thus for all before it, even if the role does not."""
    cursor.execute(
        "SELECT pg_catalog.set_config('synchronous_commit', 'on', true) "
        "WHERE pg_catalog.current_setting('synchronous_commit') = 'off'"
    )


def _drop_leftovers(cursor: Any) -> None:
    """Drop the staging tables that runs left behind when they were killed: those of no run that is running.

    A run whose table was dropped is not running, whatever its row says: no later run will fence it.
    """
    cursor.execute(
        "SELECT c.relname FROM pg_catalog.pg_class c WHERE c.relnamespace = 'etl_toolkit'::pg_catalog.regnamespace "
        "AND c.relkind = 'r' "  # their indexes go with them
        "AND pg_catalog.starts_with(c.relname::text, 'stage_') AND pg_catalog.pg_has_role(c.relowner, 'USAGE') "
        "AND NOT EXISTS (SELECT FROM etl_toolkit.runs r WHERE r.status = 'running' "
        "AND EXISTS (SELECT FROM pg_catalog.pg_class t WHERE t.oid = r.target_oid) "
        "AND pg_catalog.starts_with(c.relname::text, 'stage_' || r.run_id || '_'))"
    )
    for (name,) in cursor.fetchall():
        cursor.execute(SQL("DROP TABLE IF EXISTS {}").format(Identifier(SCHEMA, name)))


def pinned(plan: Plan) -> dict[str, Any]:
    """What of a plan a resumed run must keep: strategy and lanes; the files that it left out, and the columns that it added."""
    return {
        "strategy": plan.strategy,
        "lanes": [[asdict(batch) for batch in lane] for lane in plan.lanes],
        "left_out": [list(pair) for pair in plan.duplicates],
        "commit": plan.commit,
        "added": list(plan.added),
        "widened": dict(plan.widened),
    }


def pin_bounds(connection: Any, run_id: str, bounds: Sequence[str]) -> None:
    """Record the key ranges of the partitions before the first of them is claimed."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE etl_toolkit.runs SET plan = plan || %s WHERE run_id = %s",
            (json.dumps({"bounds": list(bounds)}), run_id),
        )
    connection.commit()


def resume(connection: Any, run: PastRun, target: TargetTable, files: Sequence[SourceFile], *, force: bool) -> None:
    """Let an unfinished run go on. Raises LedgerError where that could revert or mix data.

    That is: it is complete, the table was replaced, a file changed, or a newer run has written to the table since, whose
    rows the files of this one would revert (`force` overrides this last one).
    """
    if run.status in ("complete", "undone"):
        raise LedgerError(f"run {run.run_id} is {run.status}; to load its files again, start a new run")
    if run.target_oid != target.oid:
        raise LedgerError(f"{run.target} was dropped and created again since run {run.run_id}; start a new run")
    now = {(file.position, file.content_hash) for file in files}
    if changed := [name for position, name, content in run.files if (position, content) not in now]:
        raise LedgerError(
            f"{changed[0]} has changed since run {run.run_id} began; start a new run with the file as it is now"
        )
    with connection.cursor() as cursor:
        _check_no_hole(cursor, run)
        cursor.execute(
            "SELECT run_id FROM etl_toolkit.runs r WHERE target_oid = %s AND started_at > %s AND run_id <> %s "
            "AND EXISTS (SELECT FROM etl_toolkit.batches b WHERE b.run_id = r.run_id) ORDER BY started_at LIMIT 1",
            (target.oid, run.started_at, run.run_id),
        )
        if (newer := cursor.fetchone()) and not force:
            raise LedgerError(
                f"run {newer[0]} has written to {run.target} since run {run.run_id} began; resuming could revert its rows; "
                "start a new run if the old files are to win, or resume with --force"
            )
        _fence(cursor, target.oid)
        cursor.execute(
            "UPDATE etl_toolkit.runs SET status = 'running', error = NULL, finished_at = NULL, plan = plan || %s WHERE run_id = %s",
            (json.dumps({"resumed": True}), run.run_id),
        )
    connection.commit()


def _check_no_hole(cursor: Any, run: PastRun) -> None:
    """Raise LedgerError where a batch is missing before one that is committed: its old rows would come last."""
    cursor.execute("SELECT number FROM etl_toolkit.batches WHERE run_id = %s AND counts IS NOT NULL", (run.run_id,))
    done = {number for (number,) in cursor.fetchall()}
    for lane in run.plan["lanes"]:
        numbers = [batch["number"] in done for batch in lane]
        if numbers != sorted(numbers, reverse=True):
            raise LedgerError(
                f"run {run.run_id} lost a batch that came before others (did the server go down?); start a new run"
            )


def finish(
    connection: Any,
    run_id: str,
    *,
    status: str,
    counts: Counts | None,
    files: Mapping[int, Counts],
    error: str | None = None,
    observed: Mapping[str, float] | None = None,
) -> None:
    """Close a run's row with its outcome. A run fenced meanwhile stays as it is.

    What was `observed` of the run goes beside its plan, which is where the ledger's first version has room for it.
    """
    with connection.cursor() as cursor:
        _make_durable(cursor)
        cursor.execute(
            "UPDATE etl_toolkit.runs SET status = %s, counts = %s, error = %s, plan = plan || %s, "
            "finished_at = clock_timestamp() WHERE run_id = %s AND status = 'running'",
            (
                status,
                json.dumps(counts.as_dict()) if counts else None,
                spell(error, encoding_of(connection)),
                json.dumps(observed or {}),
                run_id,
            ),
        )
        execute_values(
            cursor,
            "UPDATE etl_toolkit.files AS f SET counts = v.counts::jsonb FROM (VALUES %s) AS v (run_id, position, counts) "
            "WHERE f.run_id = v.run_id AND f.position = v.position",
            [(run_id, position, json.dumps(value.as_dict())) for position, value in files.items()],
            page_size=FILES_AT_ONCE,
        )
    connection.commit()
