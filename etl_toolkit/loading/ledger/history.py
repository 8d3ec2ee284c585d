"""Reading the ledger: the runs there were."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from etl_toolkit.errors import UnknownRunError
from etl_toolkit.loading.conventions import printing
from etl_toolkit.loading.ledger.definition import check_version, is_readable
from etl_toolkit.loading.ledger.spelling import encoding_of, read
from etl_toolkit.model import PastDuration


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
    """Return runs, the latest first. A database without a ledger has none; raises LedgerError for one of another version."""
    check_version(connection)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_catalog.to_regclass('etl_toolkit.rejects') IS NOT NULL")
        if not cursor.fetchone()[0]:
            return []
    with connection.cursor() as cursor, printing(cursor):
        cursor.execute(
            "SELECT run_id, target, target_oid::bigint, status, strategy, spec, plan, counts, error, started_at, finished_at, "
            "(SELECT coalesce(json_agg(json_build_array(position, name, content_hash) ORDER BY position), '[]') "
            "FROM etl_toolkit.files f WHERE f.run_id = r.run_id) "
            "FROM etl_toolkit.runs r WHERE (%(run)s::text IS NULL OR run_id = %(run)s) "
            "AND (%(target)s::text IS NULL OR target = %(target)s) ORDER BY started_at DESC, run_id DESC LIMIT %(limit)s",
            {"run": run_id, "target": target, "limit": limit},
        )
        found = [PastRun(*row) for row in cursor.fetchall()]
    encoding = encoding_of(connection)
    return [
        replace(
            run, spec=read(run.spec, encoding), error=read(run.error, encoding),
            files=tuple((at, read(name, encoding), content) for at, name, content in run.files),
        )
        for run in found
    ]  # fmt: skip


def past_durations(connection: Any, target_oid: int, *, strategy: str, limit: int = 20) -> list[PastDuration]:
    """How long the latest complete loads into a table took by a strategy; loads that were resumed are left out.

    None if there is no ledger to read.
    """
    if not is_readable(connection):
        return []
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT (counts->>'read')::bigint, (counts->>'inserted')::bigint + (counts->>'updated')::bigint, "
            "(plan->>'seconds')::float FROM etl_toolkit.runs WHERE target_oid = %s AND strategy = %s "
            "AND status = 'complete' AND plan ? 'seconds' AND NOT plan ? 'resumed' ORDER BY started_at DESC LIMIT %s",
            (target_oid, strategy, limit),
        )
        return [PastDuration(*row) for row in cursor.fetchall()]


def find_run(connection: Any, run_id: str) -> PastRun:
    """Return one run; raises UnknownRunError where there is no such run."""
    found = past_runs(connection, run_id=run_id)
    if not found:
        raise UnknownRunError(f"there is no run {run_id}; `etl-toolkit runs` lists them")
    return found[0]
