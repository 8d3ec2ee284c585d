"""What the target demands of a row by itself: CHECK constraints, partitions, and expressions that may fail on its values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etl_toolkit.model import RowCheck

_CHECKS = """
SELECT c.conname::text, pg_catalog.pg_get_constraintdef(c.oid),
       (SELECT coalesce(array_agg(coalesce(a.attname::text, '*')), '{}') FROM unnest(c.conkey) AS k
        LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k AND k > 0)
FROM pg_catalog.pg_constraint c WHERE c.conrelid = %s AND c.contype = 'c'
"""

# What the server evaluates for each row, if a condition holds: a stored generated column, what an index is made of.
_EXPRESSIONS = """
SELECT NULL, ARRAY[pg_catalog.pg_get_expr(d.adbin, d.adrelid)],
       (SELECT coalesce(array_agg(r.attname::text), '{}') FROM pg_catalog.pg_depend p JOIN pg_catalog.pg_attribute r
        ON r.attrelid = p.refobjid AND r.attnum = p.refobjsubid AND r.attnum <> d.adnum
        WHERE p.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND p.objid = d.oid AND p.refobjid = d.adrelid)
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = %(oid)s AND a.attgenerated = 's'
UNION ALL
SELECT pg_catalog.pg_get_expr(i.indpred, i.indrelid),
       ARRAY(SELECT pg_catalog.pg_get_indexdef(i.indexrelid, n, true) FROM generate_series(1, i.indnkeyatts::int) AS n
             WHERE (i.indkey::int2[])[n - 1] = 0),
       (SELECT coalesce(array_agg(DISTINCT r.attname::text), '{}') FROM pg_catalog.pg_depend p
        JOIN pg_catalog.pg_attribute r ON r.attrelid = p.refobjid AND r.attnum = p.refobjsubid
        WHERE p.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND p.objid = i.indexrelid AND p.refobjid = i.indrelid)
FROM pg_catalog.pg_index i
WHERE i.indrelid = %(oid)s AND i.indisready AND (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL)
"""

_PARTITIONS = """
SELECT coalesce(pg_catalog.pg_get_partition_constraintdef(relid), 'true')
FROM pg_catalog.pg_partition_tree(%s) WHERE isleaf AND relid <> %s
"""


def read_checks(cursor: Any, oid: int, key: Sequence[str], *, is_partitioned: bool) -> tuple[RowCheck, ...]:
    """Read from the catalog what the table demands of each row."""
    cursor.execute(_CHECKS, (oid,))
    checks = [RowCheck(name, definition, tuple(reads)) for name, definition, reads in cursor.fetchall()]
    cursor.execute(_EXPRESSIONS, {"oid": oid})
    checks += [
        RowCheck("", _evaluated(condition, expressions), tuple(reads))
        for condition, expressions, reads in cursor.fetchall()
    ]
    if is_partitioned:
        cursor.execute(_PARTITIONS, (oid, oid))
        leaves = [f"({condition})" for (condition,) in cursor.fetchall()] or ["false"]
        # The columns of the partition key are part of every unique index, so of the key.
        checks.append(RowCheck("partitions", f"CHECK (({' OR '.join(leaves)}) IS TRUE)", tuple(key), len(leaves)))
    return tuple(checks)


def _evaluated(condition: str | None, expressions: Sequence[str]) -> str:
    """A CHECK that always holds, and fails where one of the expressions does: they need no equality for that."""
    evaluated = " AND ".join(f"(({expression}) IS NULL) IS NOT NULL" for expression in expressions) or "true"
    return f"CHECK (CASE WHEN {condition} THEN {evaluated} ELSE true END)" if condition else f"CHECK ({evaluated})"
