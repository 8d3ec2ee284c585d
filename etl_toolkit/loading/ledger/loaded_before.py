"""Content that a table has taken before something newer: loading it again turns the newer rows back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etl_toolkit.errors import LedgerError
from etl_toolkit.loading.ledger.definition import check_version
from etl_toolkit.model import LoadedBefore, SourceFile

_MAY_READ = """
SELECT coalesce(bool_and(pg_catalog.has_table_privilege(oid, 'SELECT')), false) AND count(*) = 3
FROM pg_catalog.pg_class WHERE relnamespace = pg_catalog.to_regnamespace('etl_toolkit')
AND relname IN ('runs', 'files', 'batches') AND pg_catalog.has_schema_privilege(relnamespace, 'USAGE')
"""

# Newer is what was committed after the last time that the content was: by later runs, or behind it in the same one.
# Content that is given now as well is not: its place among the files is the user's word.
_LOADED_BEFORE = """
WITH past AS MATERIALIZED (
    SELECT run_id, started_at FROM etl_toolkit.runs r WHERE target_oid = %(target)s AND status <> 'undone'
    AND EXISTS (SELECT FROM etl_toolkit.batches b WHERE b.run_id = r.run_id AND b.counts IS NOT NULL)
), taken AS MATERIALIZED (
    SELECT DISTINCT ON (content_hash) content_hash, run_id, started_at, position
    FROM past JOIN etl_toolkit.files USING (run_id) WHERE content_hash = ANY (%(contents)s)
    ORDER BY content_hash, started_at DESC, position DESC
), newer AS MATERIALIZED (
    SELECT started_at, run_id, position, sum((c.value ->> 'inserted')::bigint + (c.value ->> 'updated')::bigint) AS written
    FROM past JOIN etl_toolkit.batches b USING (run_id) CROSS JOIN LATERAL pg_catalog.jsonb_each(b.counts) c
    JOIN etl_toolkit.files f USING (run_id)
    WHERE f.position = c.key::int AND started_at >= (SELECT min(started_at) FROM taken)
    AND f.content_hash <> ALL (%(contents)s) GROUP BY started_at, run_id, position
)
SELECT t.content_hash, t.run_id, t.started_at::text, array_agg(DISTINCT n.run_id), sum(n.written)::bigint
FROM taken t JOIN newer n ON (n.started_at, n.position) > (t.started_at, t.position) AND n.written > 0
GROUP BY t.content_hash, t.run_id, t.started_at
"""


def loaded_before(connection: Any, target_oid: int, files: Sequence[SourceFile]) -> tuple[LoadedBefore, ...]:
    """Return the files whose content the table took before something newer; none where there is no ledger to be read."""
    with connection.cursor() as cursor:
        cursor.execute(_MAY_READ)
        if not cursor.fetchone()[0]:
            return ()
    try:
        check_version(connection)
    except LedgerError:  # what begins the load says so
        return ()
    contents = {file.content_hash: file.name for file in files}
    with connection.cursor() as cursor:
        cursor.execute(_LOADED_BEFORE, {"target": target_oid, "contents": list(contents)})
        found = [
            LoadedBefore(contents[content], run_id, loaded_at, tuple(newer), rows)
            for content, run_id, loaded_at, newer, rows in cursor
        ]
    order = [file.name for file in files]
    return tuple(sorted(found, key=lambda item: order.index(item.file)))
