"""What the target demands of a row by itself: CHECK constraints, partitions, and expressions that may fail on its values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etl_toolkit.model import Layout, RowCheck, TargetTable, WideIndex

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

# The B-tree indexes with a part of no bounded length. Its type is that of the index's own column, expressions included.
_WIDE_INDEXES = """
SELECT ic.relname::text, array_agg(p.part ORDER BY a.attnum) FILTER (WHERE a.attnum <= i.indnkeyatts),
       coalesce(array_agg(p.part ORDER BY a.attnum) FILTER (WHERE a.attnum > i.indnkeyatts), '{}'),
       CASE WHEN bool_and(o.provolatile = 'i' OR NOT p.is_long)
            THEN array_agg(p.part ORDER BY a.attnum) FILTER (WHERE p.is_long) ELSE '{}' END,
       (SELECT array_agg(DISTINCT r.attname::text) FROM pg_catalog.pg_attribute r
        WHERE r.attrelid = i.indrelid AND (r.attnum = ANY (i.indkey::int2[]) OR EXISTS (
            SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
            AND d.objid = i.indexrelid AND d.refobjid = i.indrelid AND d.refobjsubid = r.attnum)) AND r.attnum > 0)
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
JOIN pg_catalog.pg_am m ON m.oid = ic.relam AND m.amname = 'btree'
JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indexrelid
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
JOIN pg_catalog.pg_proc o ON o.oid = t.typoutput
CROSS JOIN LATERAL (SELECT pg_catalog.pg_get_indexdef(i.indexrelid, a.attnum::int, false) AS part,
                           t.typlen = -1 AND t.typname NOT IN ('inet', 'cidr') AND a.atttypmod NOT BETWEEN 0 AND 500
                           AND NOT (t.typname = 'numeric' AND a.atttypmod >= 0) AS is_long) AS p
WHERE i.indrelid = %s AND i.indisready
GROUP BY i.indexrelid, i.indrelid, i.indkey, i.indnkeyatts, ic.relname HAVING bool_or(p.is_long)
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


def read_wide_indexes(cursor: Any, oid: int) -> tuple[WideIndex, ...]:
    """Read from the catalog which indexes may refuse a row because its values are too long for an entry."""
    cursor.execute(_WIDE_INDEXES, (oid,))
    return tuple(
        WideIndex(name, tuple(parts), tuple(included), tuple(long_parts), tuple(reads))
        for name, parts, included, long_parts, reads in cursor.fetchall()
    )


def half_read_checks(target: TargetTable, layout: Layout) -> list[RowCheck]:
    """Return the checks that read columns of the files and others: what they say depends on the row in the table."""
    plain = {column.name: column.reads or (column.name,) for column in target.columns}
    carried = set(layout.columns) - set(target.key)
    found = []
    for check in target.checks:
        reads = {source for name in check.columns for source in plain.get(name, (name,))} - set(target.key)
        if reads & carried and reads - carried:
            found.append(check)
    return found


def whole_row_checks(target: TargetTable) -> list[RowCheck]:
    """Return the checks that read the row as a whole, such as `CHECK (t IS NOT NULL)`: only the table itself can judge them."""
    return [check for check in target.checks if "*" in check.columns]


def _evaluated(condition: str | None, expressions: Sequence[str]) -> str:
    """A CHECK that always holds, and fails where one of the expressions does: they need no equality for that."""
    evaluated = " AND ".join(f"(({expression}) IS NULL) IS NOT NULL" for expression in expressions) or "true"
    return f"CHECK (CASE WHEN {condition} THEN {evaluated} ELSE true END)" if condition else f"CHECK ({evaluated})"
