"""COPY into the table itself, in key order, of rows whose keys are likely absent. The unique index decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import psycopg2

from etl_toolkit.columns import key_types, layout_of
from etl_toolkit.errors import EtlError
from etl_toolkit.loading import ledger
from etl_toolkit.loading.citus import is_key_violation
from etl_toolkit.loading.copy import copy_records, copy_stream, open_body
from etl_toolkit.loading.failpoints import reach
from etl_toolkit.loading.key_parts import table
from etl_toolkit.loading.records import KeyField, NearlySorted
from etl_toolkit.loading.run import Run
from etl_toolkit.loading.staging_tables import copy_into
from etl_toolkit.loading.upsert import count_present
from etl_toolkit.model import Batch, Counts, SourceFile

PROBED_KEYS = 1_000  # with none of them in the table, at most 0.3 % of all its keys are (95 %)


def copy_absent(
    run: Run, cursor: Any, batch: Batch, query: str, per_file: Mapping[int, int]
) -> dict[int, Counts] | None:
    """COPY scanned rows, one per key, if the table has none of their keys; return their counts, or None: nothing is written.

    The `query` gives their `place` in key order; `per_file` says how many there are, by file position. Raises psycopg2.Error
    where the server refuses a row, EtlError where the rows sent are not those that were counted.
    """
    if not per_file:
        return {}
    if run.keys_met.is_set():
        return None
    statement = copy_into(table(run.target), run.record_layout)
    scan = run.scanned

    def copy() -> int:
        with run.workspace.cursor() as source:
            return copy_records(cursor, source, query, statement, store=scan.store, on_bytes=run.on_bytes)

    rows = _copy_or_undo(run, cursor, batch, copy)
    if rows is None:
        return None
    if rows != sum(per_file.values()):
        raise EtlError(f"{batch.label}: {sum(per_file.values())} rows to load, {rows} loaded; nothing is written")
    return {file: Counts(read=count, inserted=count) for file, count in per_file.items()}


def copy_unseen(run: Run, cursor: Any, batch: Batch, file: SourceFile) -> dict[int, Counts] | None:
    """COPY a plain file whose rows were not scanned, if the table has none of its keys and none comes twice in it.

    Returns its counts, or None: nothing is written, and no other batch is loaded this way. Raises psycopg2.Error
    where the server refuses a row.
    """
    if run.keys_met.is_set():
        return None
    layout = layout_of(file, run.target)
    statement = copy_into(table(run.target), layout)
    key = [
        KeyField(file.columns.index(name), kind.is_integer)
        for name, kind in zip(run.spec.key, key_types(run.target), strict=True)
    ]
    sent = 0

    def copy() -> int:
        nonlocal sent
        with open_body(file) as body:
            lines = NearlySorted(body, delimiter=layout.delimiter.encode(), key=key)
            rows = copy_stream(cursor, statement, lines, on_bytes=run.on_bytes)
        sent = lines.sent
        return rows

    rows = _copy_or_undo(run, cursor, batch, copy)
    return None if rows is None else {file.position: Counts(read=sent, inserted=rows)}


def _copy_or_undo(run: Run, cursor: Any, batch: Batch, copy: Callable[[], int]) -> int | None:
    """Let a COPY into the table return its rows, or None: one of their keys is there, and the COPY is undone."""
    sent_before = run.rows_sent()
    cursor.execute("SAVEPOINT etl_direct")
    try:
        with run.phases.phase("copy"):
            rows = copy()
    except psycopg2.Error as error:
        if not is_key_violation(error, run.target):
            raise
        cursor.execute("ROLLBACK TO SAVEPOINT etl_direct; RELEASE SAVEPOINT etl_direct")
        run.keys_met.set()
        run.take_back(sent_before)
        run.tell("fallback", batch=batch.label)
        return None
    reach("copied")
    ledger.note_version(cursor, run.run_id, batch)
    cursor.execute("RELEASE SAVEPOINT etl_direct")
    return rows


def are_absent(run: Run, cursor: Any, keys: str) -> bool:
    """Whether rows may be copied into the table, and it is empty, or has none of a sample of their keys.

    Only a guess: once it is wrong, the run does not guess again.
    """
    if run.target.forced("staged") or run.keys_met.is_set():
        return False
    return run.plan.target_is_empty or not count_present(cursor, run.target, sample_keys(run, keys))


def sample_keys(run: Run, keys: str) -> list[tuple[str, ...]]:
    """A sample of the keys in a FROM and WHERE of the workspace, as texts of their parts."""
    return run.workspace.query(
        f"SELECT {', '.join(f'{name}::VARCHAR' for name in run.scanned.key_columns)} "
        f"FROM (SELECT {run.scanned.key_sql} FROM {keys}) USING SAMPLE reservoir({PROBED_KEYS} ROWS) REPEATABLE (1)"
    )
