"""What depends on columns of a table, so that they cannot be changed or dropped without a person who looks at it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etl_toolkit.target.hazards import FOREIGN_COLUMNS

# The foreign keys to a table: the table that refers to it (SQL), name, its columns, and those that it refers to.
REFERENCES = f"""
SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(r.relname), c.conname,
       {FOREIGN_COLUMNS}
FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_class r ON r.oid = c.conrelid
JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
WHERE c.confrelid = %s AND c.contype = 'f'"""  # noqa: S608 - of constants

# Partitions and tables that inherit take part. A default of the column itself, its sequence and its NOT NULL go with it;
# a CHECK and statistics do as well if only the type is changed.
_DEPENDENTS = """
WITH RECURSIVE tables AS (
    SELECT %(oid)s::pg_catalog.oid AS oid UNION
    SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN tables ON i.inhparent = tables.oid
), columns AS (
    SELECT a.* FROM tables JOIN pg_catalog.pg_attribute a ON a.attrelid = tables.oid
    WHERE a.attname = ANY(%(names)s) AND NOT a.attisdropped
)
SELECT a.attname, pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid)
FROM columns a JOIN pg_catalog.pg_depend d
ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_attrdef f WHERE d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
                  AND f.oid = d.objid AND f.adrelid = a.attrelid AND f.adnum = a.attnum)
AND NOT EXISTS (SELECT FROM pg_catalog.pg_class s WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                AND s.oid = d.objid AND s.relkind = 'S' AND d.deptype IN ('a', 'i'))
AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint c WHERE d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass
                AND c.oid = d.objid AND (c.contype = 'n' OR c.contype = 'c' AND %(keeps)s))
AND NOT (d.classid = 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass AND %(keeps)s)
UNION ALL
SELECT a.attname, 'the partition key of ' || p.partrelid::pg_catalog.regclass
FROM columns a JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = a.attrelid AND a.attnum = ANY(p.partattrs::int2[])
UNION ALL
SELECT a.attname, 'the table that it is inherited from' FROM columns a WHERE a.attrelid = %(oid)s AND a.attinhcount > 0
LIMIT 1
"""


def find_dependent(cursor: Any, oid: int, names: Sequence[str], *, keeps_column: bool) -> tuple[str, str] | None:
    """Return the first of the columns on which something depends, and what; or None.

    If the column is kept and only its type changes, a CHECK and statistics do not count: the server adapts them.
    """
    cursor.execute(_DEPENDENTS, {"oid": oid, "names": list(names), "keeps": keeps_column})
    found = cursor.fetchone()
    return (str(found[0]), str(found[1])) if found else None
