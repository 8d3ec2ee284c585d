"""The files that a table has taken: all of their rows are committed, and the run was not undone. Content counts, not names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from etl_toolkit.errors import UnknownFileError
from etl_toolkit.hints import did_you_mean
from etl_toolkit.loading.ledger.definition import check_version
from etl_toolkit.loading.ledger.spelling import encoding_of, read
from etl_toolkit.model import TakenFile

# Of a run that is not complete, a file is taken if every batch with rows of it is committed, and so is every batch before one
# of these in its lane: what is loaded again must not come after something that was to come later.
_TAKEN = """
WITH past AS MATERIALIZED (
    SELECT run_id, started_at, finished_at, status, plan FROM etl_toolkit.runs
    WHERE target_oid = %(target)s AND status <> 'undone'
), batch AS (
    SELECT run_id, lane.n AS lane, b.n AS place, b.value -> 'files' AS files, done.counts, done.claimed_at
    FROM past CROSS JOIN LATERAL pg_catalog.jsonb_array_elements(plan -> 'lanes') WITH ORDINALITY AS lane (value, n)
    CROSS JOIN LATERAL pg_catalog.jsonb_array_elements(lane.value) WITH ORDINALITY AS b (value, n)
    LEFT JOIN LATERAL (SELECT counts, claimed_at FROM etl_toolkit.batches WHERE batches.run_id = past.run_id
    AND number = (b.value ->> 'number')::int) AS done ON true
    WHERE status <> 'complete'
), in_order AS (
    SELECT *, bool_and(counts IS NOT NULL) OVER (PARTITION BY run_id, lane ORDER BY place) AS is_kept FROM batch
), of_file AS (
    SELECT run_id, position.value::int AS position, sum((counts -> position.value ->> 'read')::bigint) AS rows,
    max(claimed_at) AS taken_at
    FROM in_order CROSS JOIN LATERAL pg_catalog.jsonb_array_elements_text(files) AS position (value)
    GROUP BY run_id, position.value HAVING bool_and(is_kept)
), taken AS (
    SELECT f.*, started_at, (f.counts ->> 'read')::bigint AS rows, finished_at AS taken_at, plan
    FROM past JOIN etl_toolkit.files f USING (run_id) WHERE status = 'complete'
    UNION ALL
    SELECT f.*, started_at, rows, taken_at, plan FROM past JOIN etl_toolkit.files f USING (run_id)
    JOIN of_file USING (run_id, position)
)
SELECT DISTINCT ON (content_hash) name, content_hash, size_bytes, coalesce(rows, 0)::bigint, run_id, taken_at FROM taken
WHERE (%(contents)s::text[] IS NULL OR content_hash = ANY (%(contents)s))
AND NOT coalesce(plan -> 'forgotten' @> pg_catalog.to_jsonb(content_hash), false)
ORDER BY content_hash, started_at DESC, position DESC
"""

_FORGET = """
UPDATE etl_toolkit.runs r
SET plan = plan || pg_catalog.jsonb_build_object('forgotten', coalesce(plan -> 'forgotten', '[]') || %(contents)s::jsonb)
WHERE target_oid = %(target)s AND EXISTS (SELECT FROM etl_toolkit.files f WHERE f.run_id = r.run_id
AND pg_catalog.to_jsonb(content_hash) <@ %(contents)s::jsonb)
"""


def taken_files(connection: Any, target_oid: int, contents: Sequence[str] | None = None) -> list[TakenFile]:
    """Return the files that the table has taken, each content once, the latest first; of these contents, if they are named.

    Raises LedgerError for a ledger of another version. A database without a ledger has none.
    """
    check_version(connection)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_catalog.to_regclass('etl_toolkit.files') IS NOT NULL")
        if not cursor.fetchone()[0]:
            return []
        cursor.execute(_TAKEN, {"target": target_oid, "contents": None if contents is None else list(contents)})
        rows = cursor.fetchall()
    encoding = encoding_of(connection)
    found = [TakenFile(read(name, encoding), *others) for name, *others in rows]
    return sorted(found, key=lambda file: (file.taken_at, file.name), reverse=True)


def forget_files(connection: Any, target_oid: int, names: Sequence[str]) -> list[TakenFile]:
    """Take files out of those that the table has taken, by name or by content hash, and return them. Rows stay as they are.

    Raises UnknownFileError, and changes nothing, where a name is none of them.
    """
    taken = taken_files(connection, target_oid)
    known = {file.name for file in taken} | {file.content_hash for file in taken}
    if unknown := [name for name in names if name not in known]:
        hint = did_you_mean(unknown[0], [file.name for file in taken])
        raise UnknownFileError(
            f"{unknown[0]}: the table has taken no file of this name or content hash{hint}; `etl-toolkit files` lists them"
        )
    forgotten = [file for file in taken if file.name in names or file.content_hash in names]
    with connection.cursor() as cursor:
        contents = json.dumps([file.content_hash for file in forgotten])
        cursor.execute(_FORGET, {"target": target_oid, "contents": contents})
    connection.commit()
    return forgotten
