"""What else of a table couples rows of different keys, or refuses them: foreign keys, triggers, policies, partitions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from etl_toolkit.model import Column, ForeignKey, Hazard, HazardKind, TargetTable
from etl_toolkit.target.tables import FoundTable

# A trigger may be disabled, and a role may load as a replica, for which few fire and no foreign key is enforced.
_FIRES = "t.tgenabled IN ('A', CASE pg_catalog.current_setting('session_replication_role') WHEN 'replica' THEN 'R' ELSE 'O' END)"

# The columns of a foreign key `c`, and those that they refer to.
FOREIGN_COLUMNS = """
       (SELECT array_agg(a.attname::text ORDER BY k.n) FROM unnest(c.conkey) WITH ORDINALITY k(attnum, n)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum),
       (SELECT array_agg(a.attname::text ORDER BY k.n) FROM unnest(c.confkey) WITH ORDINALITY k(attnum, n)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.attnum)"""

_FOREIGN_KEYS = """
SELECT c.conname, c.confrelid = c.conrelid, c.confrelid::pg_catalog.regclass::text, r.relkind = 'p',
       c.confmatchtype = 'f', {columns},
       (SELECT array_agg('OPERATOR(' || pg_catalog.quote_ident(s.nspname) || '.' || o.oprname || ')' ORDER BY k.n)
        FROM unnest(c.conpfeqop) WITH ORDINALITY k(operator, n) JOIN pg_catalog.pg_operator o ON o.oid = k.operator
        JOIN pg_catalog.pg_namespace s ON s.oid = o.oprnamespace)
FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_class r ON r.oid = c.confrelid
WHERE c.conrelid = %s AND c.contype = 'f' AND c.conparentid = 0
AND EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgconstraint = c.oid AND t.tgrelid = c.conrelid AND {fires})
"""

_TRIGGERS = """
SELECT t.tgname, (t.tgtype & 1) <> 0 AS per_row, (t.tgtype & 2) <> 0 AS before
FROM pg_catalog.pg_trigger t WHERE t.tgrelid = %s AND NOT t.tgisinternal AND {fires}
"""

# What partitions demand beyond the table that they belong to.
_OF_PARTITIONS = """
WITH leaves AS (SELECT relid FROM pg_catalog.pg_partition_tree(%(oid)s) WHERE relid <> %(oid)s)
SELECT relid::pg_catalog.regclass::text, 'index ' || c.relname FROM leaves JOIN pg_catalog.pg_index i ON i.indrelid = relid
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid WHERE NOT c.relispartition AND (i.indisunique OR i.indisexclusion
    OR i.indexprs IS NOT NULL OR i.indpred IS NOT NULL)
UNION ALL
SELECT relid::pg_catalog.regclass::text, 'constraint ' || c.conname FROM leaves JOIN pg_catalog.pg_constraint c
ON c.conrelid = relid WHERE c.contype IN ('c', 'f') AND c.coninhcount = 0 AND c.conparentid = 0
UNION ALL
SELECT relid::pg_catalog.regclass::text, 'NOT NULL of ' || a.attname FROM leaves JOIN pg_catalog.pg_attribute a
ON a.attrelid = relid AND a.attnotnull AND a.attnum > 0 JOIN pg_catalog.pg_attribute p
ON p.attrelid = %(oid)s AND p.attname = a.attname AND NOT p.attnotnull
UNION ALL
SELECT relid::pg_catalog.regclass::text, 'trigger ' || t.tgname FROM leaves JOIN pg_catalog.pg_trigger t
ON t.tgrelid = relid WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND {fires}
LIMIT 1
"""


def read_foreign_keys(cursor: Any, oid: int) -> tuple[ForeignKey, ...]:
    """Read the foreign keys of a table that are enforced for this session."""
    cursor.execute(_FOREIGN_KEYS.format(columns=FOREIGN_COLUMNS, fires=_FIRES), (oid,))
    return tuple(
        ForeignKey(
            constraint,
            tuple(own),
            references,
            references if is_partitioned else f"ONLY {references}",
            tuple(referenced),
            tuple(equality),
            is_self,
            is_full,
        )
        for constraint, is_self, references, is_partitioned, is_full, own, referenced, equality in cursor.fetchall()
    )


def find_table_hazards(found: FoundTable, foreign_keys: Sequence[ForeignKey]) -> list[Hazard]:
    """What foreign keys onto the table itself, policies and rewrite rules force."""
    hazards = [
        Hazard(HazardKind.SELF_REFERENCE, f"{key.name} makes a row depend on rows of other files", "sequential")
        for key in foreign_keys
        if key.is_self
    ]
    if found.row_security and (found.forced_security or not found.is_owner):
        detail = "policies apply to this role: rows may be refused one by one, and COPY FROM is not allowed"
        hazards += [Hazard(HazardKind.ROW_SECURITY, detail, forces) for forces in ("staged", "sequential")]
    if found.has_rules:
        detail = f"{found.label} has rewrite rules, which ON CONFLICT does not allow"
        hazards.append(Hazard(HazardKind.RULE, detail, "refuse"))
    return hazards


def find_identity_hazards(columns: Sequence[Column], key: Sequence[str]) -> list[Hazard]:
    """What an identity column forces that keeps the value of the first row with a key."""
    return [
        Hazard(
            HazardKind.KEPT_IDENTITY,
            f"{column.name} is GENERATED ALWAYS, so the first row with a key decides its value",
            "sequential",
            (column.name,),
        )
        for column in columns
        if column.identity == "a" and column.name not in key
    ]


def find_trigger_hazards(cursor: Any, oid: int) -> list[Hazard]:
    """What triggers that fire for this session force."""
    cursor.execute(_TRIGGERS.format(fires=_FIRES), (oid,))
    hazards = []
    for trigger, per_row, before in cursor.fetchall():
        detail = f"{trigger} sees the transactions of this load, not those of a sequential one"
        if per_row and before:
            detail = f"{trigger} may rewrite or drop rows, keys included"
        kind = HazardKind.ROW_TRIGGER if per_row else HazardKind.STATEMENT_TRIGGER
        hazards.append(Hazard(kind, detail, "sequential"))
    return hazards


def find_partition_hazards(cursor: Any, oid: int) -> list[Hazard]:
    """What a partition demands that the table does not."""
    cursor.execute(_OF_PARTITIONS.format(fires=_FIRES), {"oid": oid})
    return [
        Hazard(
            HazardKind.PARTITION, f"{partition} has {what} of its own, which may refuse or change rows", "sequential"
        )
        for partition, what in cursor.fetchall()
    ]


def fire_once(target: TargetTable) -> TargetTable:
    """The table, of which the user has said that row triggers need not see the rows that lose."""
    hazards = (
        replace(hazard, forces="judged") if hazard.kind is HazardKind.ROW_TRIGGER else hazard
        for hazard in target.hazards
    )
    return replace(target, hazards=tuple(hazards))
