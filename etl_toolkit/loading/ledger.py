"""The ledger: which runs there were, which batches are committed, which rows were rejected.

A batch's row is the first statement of the transaction that writes the batch's data, so the two commit or vanish
together: claim, write, complete. A second claim of the same batch waits for the first one's transaction and then finds
the batch done. A run is fenced by its own row: claiming takes a share lock on it and needs it to be `running`, so a run
that lost its table lock to a later one can commit nothing more.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

import psycopg2
from psycopg2.extras import execute_values
from psycopg2.sql import SQL, Identifier

from etl_toolkit.errors import AccountingError, LedgerError, map_driver_error
from etl_toolkit.model import Batch, Counts, LoadSpec, Plan, Reject, SourceFile, TargetTable

SCHEMA = "etl_toolkit"
_CREATION_LOCK = 0x65746C5F746B  # "etl_tk"

DEFINITION = """
CREATE SCHEMA IF NOT EXISTS etl_toolkit;
CREATE TABLE IF NOT EXISTS etl_toolkit.runs (
    run_id text PRIMARY KEY,
    target text NOT NULL,
    target_oid oid NOT NULL,
    status text NOT NULL CHECK (status IN ('running', 'complete', 'failed', 'interrupted', 'undone')),
    strategy text NOT NULL,
    spec jsonb NOT NULL,
    plan jsonb NOT NULL,
    counts jsonb,
    error text,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    undone_by xid8
);
CREATE TABLE IF NOT EXISTS etl_toolkit.files (
    run_id text NOT NULL REFERENCES etl_toolkit.runs ON DELETE CASCADE,
    position integer NOT NULL,
    name text NOT NULL,
    content_hash text NOT NULL,
    size_bytes bigint NOT NULL,
    header text NOT NULL DEFAULT '',
    counts jsonb,
    PRIMARY KEY (run_id, position)
);
CREATE TABLE IF NOT EXISTS etl_toolkit.batches (
    run_id text NOT NULL REFERENCES etl_toolkit.runs ON DELETE CASCADE,
    number integer NOT NULL,
    label text NOT NULL,
    counts jsonb,
    claimed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    transaction_id xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
    version xid,
    PRIMARY KEY (run_id, number)
);
CREATE TABLE IF NOT EXISTS etl_toolkit.rejects (
    run_id text NOT NULL REFERENCES etl_toolkit.runs ON DELETE CASCADE,
    file integer NOT NULL,
    record bigint NOT NULL,
    line bigint,
    reason text NOT NULL,
    sqlstate text NOT NULL,
    raw text NOT NULL,
    PRIMARY KEY (run_id, file, record)
);
CREATE TABLE IF NOT EXISTS etl_toolkit.before_images (
    transaction_id xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
    version xid NOT NULL,
    image text NOT NULL
);
CREATE INDEX IF NOT EXISTS before_images_transaction ON etl_toolkit.before_images (transaction_id);
"""

_CLAIM = """
INSERT INTO etl_toolkit.batches (run_id, number, label)
SELECT run_id, %s, %s FROM etl_toolkit.runs WHERE run_id = %s AND status = 'running' FOR SHARE
ON CONFLICT DO NOTHING RETURNING number
"""


@dataclass(frozen=True)
class Claim:
    """The outcome of claiming a batch: ours to write, or done before with these counts per file position."""

    is_ours: bool
    counts: Mapping[int, Counts]


def prepare(connection: Any) -> None:
    """Create the ledger unless it is there. One creator at a time: CREATE IF NOT EXISTS races.

    Raises DatabaseError where the role may neither use the ledger nor create it.
    """
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_catalog.to_regclass('etl_toolkit.before_images') IS NOT NULL")
            if not cursor.fetchone()[0]:
                cursor.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s)", (_CREATION_LOCK,))
                cursor.execute(DEFINITION)
        connection.commit()
    except psycopg2.Error as error:
        doing = (
            f"opening the ledger (schema {SCHEMA}; `etl-toolkit db grants ROLE` prints what an administrator runs once)"
        )
        raise map_driver_error(error, doing=doing) from None


def lock_table(
    connection: Any,
    target_oid: int,
    label: str,
    *,
    wait_seconds: float,
    on_wait: Callable[[str, float], None] | None = None,
) -> None:
    """Take the session's advisory lock on the target table; raises LedgerError that names the holder.

    While it waits it calls `on_wait` every ten seconds with the holder and the seconds waited.
    """
    started = time.monotonic()
    next_word = started
    with connection.cursor() as cursor:
        while True:
            cursor.execute(
                "SELECT pg_catalog.pg_try_advisory_lock(%s, %s)", (_CREATION_LOCK % 2**31, _signed(target_oid))
            )
            if cursor.fetchone()[0]:
                connection.commit()
                return
            cursor.execute(
                "SELECT l.pid, a.application_name, a.usename FROM pg_catalog.pg_locks l "
                "LEFT JOIN pg_catalog.pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' AND l.granted "
                "AND l.classid::bigint = %s AND l.objid::bigint = %s AND l.database = "
                "(SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())",
                (_CREATION_LOCK % 2**31, target_oid),
            )
            holder = cursor.fetchone()
            connection.commit()
            who = f"{holder[1] or 'a session'} (process {holder[0]}, user {holder[2]})" if holder else "another session"
            now = time.monotonic()
            if on_wait and now >= next_word:
                on_wait(who, now - started)
                next_word = now + 10
            if now >= started + wait_seconds:
                raise LedgerError(f"another run is loading {label}: {who}; wait for it, or give --wait SECONDS")
            time.sleep(0.2)


@contextmanager
def locks_given_back(connection: Any) -> Iterator[None]:
    """Give the session's advisory locks back at the end: a server may end a closed session only a moment later.

    Until then the next run on the table would be told that this one still loads.
    """
    try:
        yield
    finally:
        with suppress(psycopg2.Error):  # the session is lost, and its locks with it
            connection.rollback()
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_catalog.pg_advisory_unlock_all()")
            connection.commit()


def _signed(oid: int) -> int:
    return oid - 2**32 if oid >= 2**31 else oid


def begin(
    connection: Any, run_id: str, *, spec: LoadSpec, plan: Plan, target: TargetTable, files: Sequence[SourceFile]
) -> None:
    """Record a run as running. Earlier runs on the table that still say so are dead (we hold the lock): fence them."""
    with connection.cursor() as cursor:
        _make_durable(cursor)
        _fence(cursor, target.oid)
        cursor.execute(
            "INSERT INTO etl_toolkit.runs (run_id, target, target_oid, status, strategy, spec, plan) "
            "VALUES (%s, %s, %s, 'running', %s, %s, %s)",
            (
                run_id,
                target.qualified_name,
                target.oid,
                plan.strategy,
                json.dumps(asdict(spec)),
                json.dumps(pinned(plan) | {"columns": [[column.name, column.type] for column in target.columns]}),
            ),
        )
        execute_values(
            cursor,
            "INSERT INTO etl_toolkit.files (run_id, position, name, content_hash, size_bytes, header) VALUES %s",
            [(run_id, file.position, file.name, file.content_hash, file.size_bytes, file.header) for file in files],
        )
    connection.commit()


def _fence(cursor: Any, target_oid: int) -> None:
    cursor.execute(
        "UPDATE etl_toolkit.runs SET status = 'interrupted' WHERE target_oid = %s AND status = 'running'", (target_oid,)
    )
    _drop_leftovers(cursor)


def _make_durable(cursor: Any) -> None:
    """Let the COMMIT of this transaction wait for the disk, and so for all before it, where the role does without."""
    cursor.execute(
        "SELECT pg_catalog.set_config('synchronous_commit', 'on', true) "
        "WHERE pg_catalog.current_setting('synchronous_commit') = 'off'"
    )


def _drop_leftovers(cursor: Any) -> None:
    """Drop the staging tables that runs left behind when they were killed: those of no run that is running.

    A run whose table is gone is not running, whatever its row says: nobody will come to fence it.
    """
    cursor.execute(
        "SELECT c.relname FROM pg_catalog.pg_class c WHERE c.relnamespace = 'etl_toolkit'::pg_catalog.regnamespace "
        "AND pg_catalog.starts_with(c.relname::text, 'stage_') AND pg_catalog.pg_has_role(c.relowner, 'USAGE') "
        "AND NOT EXISTS (SELECT FROM etl_toolkit.runs r WHERE r.status = 'running' "
        "AND EXISTS (SELECT FROM pg_catalog.pg_class t WHERE t.oid = r.target_oid) "
        "AND pg_catalog.starts_with(c.relname::text, 'stage_' || r.run_id || '_'))"
    )
    for (name,) in cursor.fetchall():
        cursor.execute(SQL("DROP TABLE IF EXISTS {}").format(Identifier(SCHEMA, name)))


def pinned(plan: Plan) -> dict[str, Any]:
    """What of a plan a resumed run must keep: strategy and lanes."""
    return {
        "strategy": plan.strategy,
        "lanes": [[asdict(batch) for batch in lane] for lane in plan.lanes],
    }


def pin_bounds(connection: Any, run_id: str, bounds: Sequence[str]) -> None:
    """Record the key ranges of the partitions before the first of them is claimed."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE etl_toolkit.runs SET plan = plan || %s WHERE run_id = %s",
            (json.dumps({"bounds": list(bounds)}), run_id),
        )
    connection.commit()


@dataclass(frozen=True)
class PastRun:
    """A run as the ledger has it. `files` are (position, name, content hash)."""

    run_id: str
    target: str
    target_oid: int
    status: str
    strategy: str
    spec: Mapping[str, Any]
    plan: Mapping[str, Any]
    counts: Mapping[str, int] | None
    error: str | None
    started_at: datetime
    finished_at: datetime | None
    files: tuple[tuple[int, str, str], ...] = ()


def past_runs(
    connection: Any, *, run_id: str | None = None, target: str | None = None, limit: int = 20
) -> list[PastRun]:
    """Return runs, the latest first. A database without a ledger has none."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_catalog.to_regclass('etl_toolkit.rejects') IS NOT NULL")
        if not cursor.fetchone()[0]:
            return []
        cursor.execute(
            "SELECT run_id, target, target_oid::bigint, status, strategy, spec, plan, counts, error, started_at, finished_at, "
            "(SELECT coalesce(json_agg(json_build_array(position, name, content_hash) ORDER BY position), '[]') "
            "FROM etl_toolkit.files f WHERE f.run_id = r.run_id) "
            "FROM etl_toolkit.runs r WHERE (%(run)s::text IS NULL OR run_id = %(run)s) "
            "AND (%(target)s::text IS NULL OR target = %(target)s) ORDER BY started_at DESC, run_id DESC LIMIT %(limit)s",
            {"run": run_id, "target": target, "limit": limit},
        )
        found = [PastRun(*row) for row in cursor.fetchall()]
    return [replace(run, files=tuple((at, name, content) for at, name, content in run.files)) for run in found]


def find_run(connection: Any, run_id: str) -> PastRun:
    """Return one run; raises LedgerError where there is no such run."""
    found = past_runs(connection, run_id=run_id)
    if not found:
        raise LedgerError(f"there is no run {run_id}; `etl-toolkit runs` lists them")
    return found[0]


def resume(connection: Any, run: PastRun, target: TargetTable, files: Sequence[SourceFile], *, force: bool) -> None:
    """Let an unfinished run go on. Raises LedgerError where that could revert or mix data.

    That is: it is complete, the table was replaced, a file changed, or a newer run has written to the table since, whose
    rows the files of this one would revert (`force` overrides this last one).
    """
    if run.status in ("complete", "undone"):
        raise LedgerError(f"run {run.run_id} is {run.status}; to load its files again, start a new run")
    if run.target_oid != target.oid:
        raise LedgerError(f"{run.target} was dropped and created again since run {run.run_id}; start a new run")
    now = [(file.position, file.content_hash) for file in files]
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
            "UPDATE etl_toolkit.runs SET status = 'running', error = NULL, finished_at = NULL WHERE run_id = %s",
            (run.run_id,),
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


def claim(cursor: Any, run_id: str, batch: Batch, *, undoable: bool = False) -> Claim:
    """Claim a batch as the first statement of its transaction. Raises LedgerError where the run was fenced.

    A transaction that keeps the rows it overwrites (`undoable`) is REPEATABLE READ, so that it keeps exactly those.
    """
    if undoable:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    cursor.execute(_CLAIM, (batch.number, batch.label, run_id))
    if cursor.fetchone():
        return Claim(True, {})
    cursor.execute("SELECT counts FROM etl_toolkit.batches WHERE run_id = %s AND number = %s", (run_id, batch.number))
    if row := cursor.fetchone():
        return Claim(False, {int(position): Counts(**counts) for position, counts in (row[0] or {}).items()})
    raise LedgerError(f"run {run_id} was taken over by a later run on the same table; nothing more of it is written")


def complete(cursor: Any, run_id: str, batch: Batch, counts: Mapping[int, Counts]) -> None:
    """Write a batch's counts per file: the last statement on it in its transaction."""
    text = json.dumps({position: asdict(value) for position, value in counts.items()})
    cursor.execute(
        "UPDATE etl_toolkit.batches SET counts = %s, version = coalesce(version, pg_catalog.pg_current_xact_id()::xid) "
        "WHERE run_id = %s AND number = %s",
        (text, run_id, batch.number),
    )


def note_version(cursor: Any, run_id: str, batch: Batch) -> None:
    """Note the number that the rows of a batch carry as `xmin`, where a savepoint was set before they were written.

    It is not that of the transaction then. This row is written behind the same savepoint, so it carries the same number.
    """
    where = (run_id, batch.number)
    cursor.execute(
        "UPDATE etl_toolkit.batches SET label = label WHERE run_id = %s AND number = %s RETURNING xmin::text", where
    )
    version = cursor.fetchone()[0]
    cursor.execute("UPDATE etl_toolkit.batches SET version = %s WHERE run_id = %s AND number = %s", (version, *where))


def record_rejects(cursor: Any, run_id: str, rejects: Sequence[Reject]) -> None:
    """Store rejected rows, in the same transaction as the data of their file."""
    if rejects:
        execute_values(
            cursor,
            "INSERT INTO etl_toolkit.rejects (run_id, file, record, line, reason, sqlstate, raw) VALUES %s "
            "ON CONFLICT DO NOTHING",
            [
                (run_id, item.file, item.record, item.line, item.reason, item.sqlstate, item.raw.replace("\0", "\\0"))
                for item in rejects
            ],
        )


def check_committed(connection: Any, run_id: str, batches: Sequence[Batch]) -> None:
    """Raise AccountingError where a batch whose COMMIT was answered is not in the ledger, and so not in the table.

    A server that goes down forgets such commits where `synchronous_commit` is off.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT number FROM etl_toolkit.batches WHERE run_id = %s AND counts IS NOT NULL", (run_id,))
        present = {number for (number,) in cursor.fetchall()}
    if lost := [batch.label for batch in batches if batch.number not in present]:
        raise AccountingError(
            f"the server has forgotten {', '.join(lost)} of run {run_id}, which it had committed (is synchronous_commit off?); "
            "load the files again"
        )


def finish(
    connection: Any,
    run_id: str,
    *,
    status: str,
    counts: Counts | None,
    files: Mapping[int, Counts],
    error: str | None = None,
) -> None:
    """Close a run's row with its outcome. A run fenced meanwhile stays as it is."""
    with connection.cursor() as cursor:
        _make_durable(cursor)
        cursor.execute(
            "UPDATE etl_toolkit.runs SET status = %s, counts = %s, error = %s, finished_at = clock_timestamp() "
            "WHERE run_id = %s AND status = 'running'",
            (status, json.dumps(asdict(counts)) if counts else None, error, run_id),
        )
        for position, value in files.items():
            cursor.execute(
                "UPDATE etl_toolkit.files SET counts = %s WHERE run_id = %s AND position = %s",
                (json.dumps(asdict(value)), run_id, position),
            )
    connection.commit()
