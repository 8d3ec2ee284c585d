"""COPY into the table itself, in key order, of rows whose keys are likely absent. The unique index decides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg2

from etl_toolkit.errors import EtlError
from etl_toolkit.loading import ledger
from etl_toolkit.loading.copy import copy_records
from etl_toolkit.loading.failpoints import reach
from etl_toolkit.loading.merge import copy_into, table
from etl_toolkit.loading.run import Run
from etl_toolkit.loading.upsert import count_present
from etl_toolkit.model import Batch, Counts

PROBED_KEYS = 1_000  # with none of them in the table, at most 0.3 % of all its keys are (95 %)


def copy_absent(
    run: Run, cursor: Any, batch: Batch, chosen: str, per_file: Mapping[int, int]
) -> dict[int, Counts] | None:
    """COPY the rows of `chosen` into the table if it has none of their keys; return their counts, or None: nothing is written.

    `chosen` is a relation of the workspace (a FROM and WHERE) with one row per key; `per_file` says how many rows it has,
    by file position. Raises psycopg2.Error where the server refuses a row, EtlError where the rows sent are not those
    that were counted.
    """
    if run.target.forced("staged") or not _are_absent(run, cursor, chosen):
        return None
    cursor.execute("SAVEPOINT etl_direct")
    try:
        rows = _copy(run, cursor, chosen)
    except psycopg2.errors.UniqueViolation:
        cursor.execute("ROLLBACK TO SAVEPOINT etl_direct; RELEASE SAVEPOINT etl_direct")
        run.keys_met.set()
        run.tell("fallback", batch=batch.label)
        return None
    reach("copied")
    if rows != sum(per_file.values()):
        raise EtlError(f"{batch.label}: {sum(per_file.values())} rows to load, {rows} loaded; nothing is written")
    ledger.note_version(cursor, run.run_id, batch)
    cursor.execute("RELEASE SAVEPOINT etl_direct")
    return {file: Counts(read=count, inserted=count) for file, count in per_file.items()}


def _are_absent(run: Run, cursor: Any, chosen: str) -> bool:
    """Whether the table is empty, or has none of a sample of the keys.

    Only a guess. It has to be wrong once for the run to stop guessing.
    """
    if run.keys_met.is_set():
        return False
    if run.plan.target_is_empty:
        return True
    assert run.scan is not None
    sample = run.workspace.query(
        f"SELECT {', '.join(f'{name}::VARCHAR' for name in run.scan.key_columns)} "
        f"FROM (SELECT {run.scan.key_sql} FROM {chosen}) USING SAMPLE reservoir({PROBED_KEYS} ROWS) REPEATABLE (1)"
    )
    return not count_present(cursor, run.target, sample)


def _copy(run: Run, cursor: Any, chosen: str) -> int:
    assert run.scan is not None
    assert run.layout is not None
    query = f"SELECT record FROM {chosen} ORDER BY {run.scan.key_sql}"
    with run.workspace.cursor() as source, run.phases.phase("copy"):
        return copy_records(cursor, source, query, copy_into(table(run.target), run.layout), on_bytes=run.on_bytes)
