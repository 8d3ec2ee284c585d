"""Batches in the ledger: claimed and completed in the transaction that writes their data, rejects with them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg2.extras import execute_values

from etl_toolkit.errors import AccountingError, LedgerError
from etl_toolkit.loading.ledger.spelling import encoding_of, spell
from etl_toolkit.model import Batch, Counts, Reject

_CLAIM = """
INSERT INTO etl_toolkit.batches (run_id, number, label)
SELECT run_id, mine.number, mine.label FROM etl_toolkit.runs,
ROWS FROM (pg_catalog.unnest(%s::int[]), pg_catalog.unnest(%s::text[])) AS mine (number, label)
WHERE run_id = %s AND status = 'running' FOR SHARE OF runs ON CONFLICT DO NOTHING RETURNING number
"""


@dataclass(frozen=True)
class Claim:
    """The outcome of claiming a batch: ours to write, or done before with these counts per file position."""

    is_ours: bool
    counts: Mapping[int, Counts]


def claim(cursor: Any, run_id: str, batch: Batch, *, undoable: bool = False) -> Claim:
    """Claim a batch as the first statement of its transaction. Raises LedgerError if the run was fenced.

    A transaction that keeps the rows it overwrites (`undoable`) is REPEATABLE READ, so that it keeps exactly those.
    """
    if undoable:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    if claim_all(cursor, run_id, [batch]):
        return Claim(True, {})
    cursor.execute("SELECT counts FROM etl_toolkit.batches WHERE run_id = %s AND number = %s", (run_id, batch.number))
    if row := cursor.fetchone():
        return Claim(False, {int(position): Counts(**counts) for position, counts in (row[0] or {}).items()})
    raise LedgerError(f"run {run_id} was taken over by a later run on the same table; nothing more of it is written")


def claim_all(cursor: Any, run_id: str, batches: Sequence[Batch]) -> bool:
    """Claim several batches for one transaction; false where it gets none or not all of them, and has to be rolled back."""
    cursor.execute(_CLAIM, ([batch.number for batch in batches], [batch.label for batch in batches], run_id))
    return bool(cursor.rowcount == len(batches))


def complete(cursor: Any, run_id: str, batch: Batch, counts: Mapping[int, Counts]) -> None:
    """Write a batch's counts per file: the last statement on it in its transaction."""
    complete_all(cursor, run_id, [(batch, counts)])


def complete_all(cursor: Any, run_id: str, loaded: Sequence[tuple[Batch, Mapping[int, Counts]]]) -> None:
    """The same for all batches of a transaction."""
    texts = [json.dumps({position: value.as_dict() for position, value in counts.items()}) for _, counts in loaded]
    cursor.execute(
        "UPDATE etl_toolkit.batches SET counts = mine.counts, version = batches.xmin "
        "FROM ROWS FROM (pg_catalog.unnest(%s::int[]), pg_catalog.unnest(%s::jsonb[])) AS mine (number, counts) "
        "WHERE run_id = %s AND batches.number = mine.number",
        ([batch.number for batch, _ in loaded], texts, run_id),
    )


def note_version(cursor: Any, run_id: str, batch: Batch) -> None:
    """Let the ledger have the number that the rows of a batch carry as `xmin`, where a savepoint was set before they were written.

    It is not that of the transaction then. A batch's own row, written behind the same savepoint, carries the same number, and
    `complete` reads it there.
    """
    cursor.execute(
        "UPDATE etl_toolkit.batches SET label = label WHERE run_id = %s AND number = %s", (run_id, batch.number)
    )


def record_rejects(cursor: Any, run_id: str, rejects: Sequence[Reject]) -> None:
    """Store rejected rows, in the same transaction as the data of their file."""
    if rejects:
        encoding = encoding_of(cursor.connection)
        execute_values(
            cursor,
            "INSERT INTO etl_toolkit.rejects (run_id, file, record, line, reason, sqlstate, raw) VALUES %s "
            "ON CONFLICT DO NOTHING",
            [
                (
                    run_id,
                    item.file,
                    item.record,
                    item.line,
                    spell(item.reason, encoding),
                    item.sqlstate,
                    spell(item.raw.replace("\0", "\\0"), encoding),
                )
                for item in rejects
            ],
        )


def committed(connection: Any, run_id: str) -> tuple[int, Counts]:
    """Return how many batches of a run are committed, and the counts of their rows."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT counts FROM etl_toolkit.batches WHERE run_id = %s AND counts IS NOT NULL", (run_id,))
        found = [counts for (counts,) in cursor.fetchall()]
    connection.rollback()
    return len(found), sum((Counts(**each) for counts in found for each in counts.values()), Counts())


def check_committed(connection: Any, run_id: str, batches: Sequence[Batch]) -> None:
    """Raise AccountingError where a batch whose COMMIT was answered is not in the ledger, and so not in the table.

    A server that crashes loses such commits if `synchronous_commit` is off.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT number FROM etl_toolkit.batches WHERE run_id = %s AND counts IS NOT NULL", (run_id,))
        present = {number for (number,) in cursor.fetchall()}
    if lost := [batch.label for batch in batches if batch.number not in present]:
        raise AccountingError(
            f"the server has lost {', '.join(lost)} of run {run_id}, which it had committed (is synchronous_commit off?); "
            "load the files again"
        )
