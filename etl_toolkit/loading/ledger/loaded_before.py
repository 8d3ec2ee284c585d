"""Content that was loaded into a table before newer content: loading it again reverts the newer rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etl_toolkit.loading.ledger.definition import is_readable
from etl_toolkit.model import LoadedBefore, SourceFile

# Newer is what was committed after the last time that the content was: by later runs, or behind it in the same one.
# Content that is given now as well is not: its position among the files is the user's choice.
_TAKEN = """
SELECT DISTINCT ON (content_hash) content_hash, run_id,
pg_catalog.to_char(started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US+00'), position
FROM etl_toolkit.files JOIN etl_toolkit.runs r USING (run_id)
WHERE content_hash = ANY (%(contents)s) AND target_oid = %(target)s AND status <> 'undone'
AND EXISTS (SELECT FROM etl_toolkit.batches b WHERE b.run_id = r.run_id AND b.counts IS NOT NULL)
ORDER BY content_hash, r.started_at DESC, position DESC
"""

# Of a run that is complete, the counts are with its files; of another one, with the batches that it committed.
_NEWER = """
WITH later AS MATERIALIZED (
    SELECT run_id, started_at, status FROM etl_toolkit.runs
    WHERE target_oid = %(target)s AND status <> 'undone' AND started_at >= %(since)s::timestamptz
), counted AS (
    SELECT run_id, started_at, position, counts FROM later JOIN etl_toolkit.files USING (run_id)
    WHERE status = 'complete' AND content_hash <> ALL (%(contents)s)
    UNION ALL
    SELECT run_id, started_at, f.position, c.value FROM later JOIN etl_toolkit.batches b USING (run_id)
    CROSS JOIN LATERAL pg_catalog.jsonb_each(b.counts) c JOIN etl_toolkit.files f USING (run_id)
    WHERE status <> 'complete' AND f.position = c.key::int AND content_hash <> ALL (%(contents)s)
)
SELECT array_agg(DISTINCT run_id), coalesce(sum(written), 0)::bigint FROM (
    SELECT run_id, (counts ->> 'inserted')::bigint + (counts ->> 'updated')::bigint
        + coalesce((counts ->> 'deleted')::bigint, 0) AS written FROM counted
    WHERE (started_at, position) > (%(since)s::timestamptz, %(position)s)
) AS newer WHERE written > 0
"""


def loaded_before(connection: Any, target_oid: int, files: Sequence[SourceFile]) -> tuple[LoadedBefore, ...]:
    """Return the files whose content was loaded into the table before newer content; none if there is no ledger to read."""
    if not is_readable(connection):
        return ()
    contents = {file.content_hash: file.name for file in files}
    asked = {"target": target_oid, "contents": list(contents)}
    found = []
    with connection.cursor() as cursor:
        cursor.execute(_TAKEN, asked)
        taken = sorted(cursor.fetchall(), key=lambda row: row[2:])  # the earliest first
        for content, run_id, loaded_at, position in taken:
            cursor.execute(_NEWER, asked | {"since": loaded_at, "position": position})
            newer, rows = cursor.fetchone()
            if not rows:  # nor is there anything newer than those after it
                break
            found.append(LoadedBefore(contents[content], run_id, loaded_at, tuple(newer), rows))
    order = [file.name for file in files]
    return tuple(sorted(found, key=lambda item: order.index(item.file)))
