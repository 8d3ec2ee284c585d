"""The target table as the catalog describes it: columns, the unique index that arbitrates, and every hazard."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg2
from psycopg2 import sql

from etl_toolkit.errors import TargetError, UnknownTableError
from etl_toolkit.hints import did_you_mean
from etl_toolkit.keys import fold_name, key_type
from etl_toolkit.model import Arbiter, Column, ForeignKey, Hazard, HazardKind, TargetTable
from etl_toolkit.row_checks import read_checks, read_wide_indexes

_FIND = """
SELECT c.oid, n.nspname, c.relname, c.relkind::text, c.relrowsecurity, c.relforcerowsecurity,
       c.relhasrules, pg_catalog.pg_get_userbyid(c.relowner) = current_user
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = %s
"""

_COLUMNS = """
SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod),
       CASE t.typnamespace WHEN 'pg_catalog'::pg_catalog.regnamespace THEN '' ELSE t.typnamespace || '.' END || t.typname,
       a.atttypmod, a.attnotnull,
       pg_catalog.pg_get_expr(d.adbin, d.adrelid), a.attgenerated::text, a.attidentity::text,
       coalesce(co.collisdeterministic, true), t.typtype::text, coalesce(t.typnotnull, false),
       (SELECT coalesce(array_agg(DISTINCT r.attname::text), '{}') FROM pg_catalog.pg_depend p
        JOIN pg_catalog.pg_attribute r ON r.attrelid = p.refobjid AND r.attnum = p.refobjsubid AND r.attnum <> d.adnum
        WHERE p.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND p.objid = d.oid AND p.refobjid = d.adrelid),
       a.attgenerated <> '' OR a.attidentity = '' AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_depend p WHERE p.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND p.objid = d.oid
        AND (p.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND p.refobjid <> a.attrelid
             OR p.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
             AND (SELECT f.provolatile = 'v' FROM pg_catalog.pg_proc f WHERE f.oid = p.refobjid)))
       AND coalesce(pg_catalog.pg_get_expr(d.adbin, d.adrelid) !~ E'\\\\m(nextval|gen_random_uuid|uuidv4|uuidv7)\\\\M', true),
       CASE WHEN a.attcollation <> t.typcollation
            THEN pg_catalog.quote_ident(cn.nspname) || '.' || pg_catalog.quote_ident(co.collname) END,
       (WITH RECURSIVE narrowed AS (
         SELECT t.typname, t.typtype, t.typbasetype UNION ALL
         SELECT b.typname, b.typtype, b.typbasetype FROM narrowed n JOIN pg_catalog.pg_type b ON b.oid = n.typbasetype
         WHERE n.typtype = 'd') SELECT typname::text FROM narrowed WHERE typtype <> 'd' AND t.typtype = 'd')
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_collation co ON co.oid = a.attcollation
LEFT JOIN pg_catalog.pg_namespace cn ON cn.oid = co.collnamespace
LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""

_BTREE_EQUAL = 3  # BTEqualStrategyNumber: unique indexes are B-trees
# One row per unique index, its key parts in order. A part is a column (attnum > 0) or an expression (0).
_UNIQUE_INDEXES = """
SELECT i.indexrelid, ic.relname, i.indisprimary, i.indimmediate, {nulls_not_distinct},
       pg_catalog.pg_get_expr(i.indpred, i.indrelid, true),
       array_agg(k.attnum ORDER BY k.n), array_agg(a.attname::text ORDER BY k.n),
       array_agg(pg_catalog.pg_get_indexdef(i.indexrelid, k.n::int, true) ORDER BY k.n),
       array_agg(CASE WHEN k.coll <> 0 AND k.coll IS DISTINCT FROM a.attcollation
                 THEN pg_catalog.quote_ident(cn.nspname) || '.' || pg_catalog.quote_ident(co.collname) END ORDER BY k.n),
       bool_and(coalesce(co.collisdeterministic, true)),
       bool_and(op.opcdefault OR op.opcname IN ('text_pattern_ops', 'varchar_pattern_ops', 'bpchar_pattern_ops')),
       i.indisexclusion, i.indisvalid AND i.indisready,
       array_agg((SELECT 'OPERATOR(' || pg_catalog.quote_ident(en.nspname) || '.' || eq.oprname || ')' FROM pg_catalog.pg_amop am
                  JOIN pg_catalog.pg_operator eq ON eq.oid = am.amopopr JOIN pg_catalog.pg_namespace en ON en.oid = eq.oprnamespace
                  WHERE am.amopfamily = op.opcfamily AND am.amoplefttype = op.opcintype AND am.amoprighttype = op.opcintype
                  AND am.amopstrategy = {equal}) ORDER BY k.n),
       (SELECT coalesce(array_agg(DISTINCT r.attname::text), '{{}}') FROM pg_catalog.pg_depend p
        JOIN pg_catalog.pg_attribute r ON r.attrelid = p.refobjid AND r.attnum = p.refobjsubid
        WHERE p.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND p.objid = i.indexrelid AND p.refobjid = i.indrelid)
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indcollation::oid[], i.indclass::oid[])
     WITH ORDINALITY AS k(attnum, coll, opclass, n)
LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum AND k.attnum > 0
LEFT JOIN pg_catalog.pg_collation co ON co.oid = k.coll
LEFT JOIN pg_catalog.pg_namespace cn ON cn.oid = co.collnamespace
LEFT JOIN pg_catalog.pg_opclass op ON op.oid = k.opclass
WHERE i.indrelid = %s AND (i.indisunique OR i.indisexclusion) AND k.n <= i.indnkeyatts
GROUP BY i.indexrelid, ic.relname, i.indisprimary, i.indimmediate, i.indpred, i.indrelid, i.indisexclusion,
         i.indisvalid, i.indisready, i.indnkeyatts {extra_group}
ORDER BY i.indisprimary DESC, ic.relname
"""

_FOREIGN_KEYS = """
SELECT c.conname, c.confrelid = c.conrelid,
       (SELECT array_agg(a.attname::text ORDER BY k.n) FROM unnest(c.conkey) WITH ORDINALITY k(attnum, n)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum),
       c.confrelid::pg_catalog.regclass::text,
       (SELECT array_agg(a.attname::text ORDER BY k.n) FROM unnest(c.confkey) WITH ORDINALITY k(attnum, n)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.attnum),
       (SELECT array_agg('OPERATOR(' || pg_catalog.quote_ident(s.nspname) || '.' || o.oprname || ')' ORDER BY k.n)
        FROM unnest(c.conpfeqop) WITH ORDINALITY k(operator, n) JOIN pg_catalog.pg_operator o ON o.oid = k.operator
        JOIN pg_catalog.pg_namespace s ON s.oid = o.oprnamespace)
FROM pg_catalog.pg_constraint c WHERE c.conrelid = %s AND c.contype = 'f' AND c.conparentid = 0
AND EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgconstraint = c.oid AND t.tgrelid = c.conrelid AND {fires})
"""

_TRIGGERS = """
SELECT t.tgname, (t.tgtype & 1) <> 0 AS per_row, (t.tgtype & 2) <> 0 AS before
FROM pg_catalog.pg_trigger t WHERE t.tgrelid = %s AND NOT t.tgisinternal AND {fires}
"""

# A trigger may be disabled, and a role may load as a replica, for which few fire and no foreign key is enforced.
_FIRES = "t.tgenabled IN ('A', CASE pg_catalog.current_setting('session_replication_role') WHEN 'replica' THEN 'R' ELSE 'O' END)"

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


def read_target(connection: Any, table: str, key: Sequence[str]) -> TargetTable:
    """Read the table `table` (`name` or `schema.name`, quoted where needed) as it is to be upserted by `key`.

    The key columns may be spelled in another case, as those of files may. Raises TargetError where the table does not exist,
    lacks a key column, or has no unique index on exactly these columns that could arbitrate.
    """
    with connection.cursor() as cursor:
        found = _found(cursor, table)
        columns = _columns(cursor, found.oid)
        key = tuple(fold_name(name, (column.name for column in columns)) for name in key)
        _check_names(found.label, columns, key)
        arbiter, hazards = _arbiter(cursor, found, columns, tuple(key))
        foreign_keys = _foreign_keys(cursor, found.oid)
        hazards += [*_hazards_of(found, foreign_keys), *_trigger_hazards(cursor, found.oid)]
        hazards += _identity_hazards(columns, key)
        if found.kind == "p":
            hazards += _partition_hazards(cursor, found.oid)
        if any(hazard.forces == "server" for hazard in hazards) and (reason := _not_hashable(cursor, arbiter, found)):
            hazards.append(Hazard(HazardKind.SERVER_KEY, reason, "sequential"))
        cursor.execute(sql.SQL("SELECT NOT EXISTS (SELECT 1 FROM {})").format(sql.Identifier(found.schema, found.name)))
        is_empty = bool(cursor.fetchone()[0])
        return TargetTable(
            schema=found.schema,
            name=found.name,
            oid=found.oid,
            columns=columns,
            key=tuple(key),
            arbiter=arbiter,
            hazards=tuple(hazards),
            foreign_keys=foreign_keys,
            is_partitioned=found.kind == "p",
            is_empty=is_empty,
            checks=read_checks(cursor, found.oid, key, is_partitioned=found.kind == "p"),
            wide_indexes=read_wide_indexes(cursor, found.oid),
            server_version=connection.server_version,
            distribution=_distribution(cursor, found.oid),
        )


def _distribution(cursor: Any, oid: int) -> str:
    """How Citus distributes a table; empty where it does not, or there is no Citus."""
    cursor.execute("SELECT pg_catalog.to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL")
    if not cursor.fetchone()[0]:
        return ""
    cursor.execute(
        "SELECT CASE partmethod WHEN 'n' THEN 'as a reference table' ELSE 'by ' || coalesce("
        "pg_catalog.column_to_column_name(logicalrel, partkey::text), 'a column') END "
        "FROM pg_catalog.pg_dist_partition WHERE logicalrel = %s",
        (oid,),
    )
    row = cursor.fetchone()
    return str(row[0]) if row else ""


@dataclass(frozen=True)
class _Found:
    """A row of pg_class."""

    oid: int
    schema: str
    name: str
    kind: str
    row_security: bool
    forced_security: bool
    has_rules: bool
    is_owner: bool

    @property
    def label(self) -> str:
        return f"{self.schema}.{self.name}"


def _found(cursor: Any, table: str) -> _Found:
    oid = find_table(cursor, table)
    if oid is None:
        raise UnknownTableError(f"table {table} does not exist{_meant(cursor, table)}")
    cursor.execute(_FIND, (oid,))
    found = _Found(*cursor.fetchone())
    if found.kind not in ("r", "p"):
        what = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}.get(found.kind, "not a table")
        raise TargetError(
            f"{found.label} is {what}, and ON CONFLICT needs an ordinary or partitioned table; name that one"
        )
    return found


def _meant(cursor: Any, table: str) -> str:
    """What to do about a table that is not there: the nearest one, the line that makes its schema, or --create-table."""
    cursor.execute(
        "SELECT n.nspname, c.relname, pg_catalog.pg_table_is_visible(c.oid) FROM pg_catalog.pg_class c "
        "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') "
        "AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'etl_toolkit') "
        "AND NOT pg_catalog.starts_with(n.nspname::text, 'pg_') LIMIT 10000"
    )
    known = [name if is_visible and "." not in table else f"{schema}.{name}" for schema, name, is_visible in cursor]
    if hint := did_you_mean(table, known):
        return f"{hint}; name that one, or create it first, or pass --create-table"
    schema = table.rpartition(".")[0]
    if schema and '"' not in schema:
        cursor.execute("SELECT pg_catalog.to_regnamespace(pg_catalog.quote_ident(%s)) IS NULL", (schema.lower(),))
        if cursor.fetchone()[0]:
            return (
                f"; its schema does not either: CREATE SCHEMA {schema}; then create the table, or pass --create-table"
            )
    return "; create it first, or pass --create-table"


def _check_names(label: str, columns: Sequence[Column], key: Sequence[str]) -> None:
    names = {column.name for column in columns}
    if missing := [name for name in key if name not in names]:
        raise UnknownTableError(
            f"{label} has no column '{missing[0]}' for the key; its columns are {', '.join(sorted(names))}"
            f"{did_you_mean(missing[0], names)}"
        )


def _foreign_keys(cursor: Any, oid: int) -> tuple[ForeignKey, ...]:
    cursor.execute(_FOREIGN_KEYS.format(fires=_FIRES), (oid,))
    return tuple(
        ForeignKey(constraint, tuple(own), references, tuple(referenced), tuple(equality), is_self)
        for constraint, is_self, own, references, referenced, equality in cursor.fetchall()
    )


def _hazards_of(found: _Found, foreign_keys: Sequence[ForeignKey]) -> list[Hazard]:
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


def _identity_hazards(columns: Sequence[Column], key: Sequence[str]) -> list[Hazard]:
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


def _trigger_hazards(cursor: Any, oid: int) -> list[Hazard]:
    cursor.execute(_TRIGGERS.format(fires=_FIRES), (oid,))
    hazards = []
    for trigger, per_row, before in cursor.fetchall():
        detail = f"{trigger} sees the transactions of this load, not those of a sequential one"
        if per_row and before:
            detail = f"{trigger} may rewrite or drop rows, keys included"
        kind = HazardKind.ROW_TRIGGER if per_row else HazardKind.STATEMENT_TRIGGER
        hazards.append(Hazard(kind, detail, "sequential"))
    return hazards


def fire_once(target: TargetTable) -> TargetTable:
    """The table, of which the user has said that row triggers need not see the rows that lose."""
    hazards = (
        replace(hazard, forces="judged") if hazard.kind is HazardKind.ROW_TRIGGER else hazard
        for hazard in target.hazards
    )
    return replace(target, hazards=tuple(hazards))


def _partition_hazards(cursor: Any, oid: int) -> list[Hazard]:
    cursor.execute(_OF_PARTITIONS.format(fires=_FIRES), {"oid": oid})
    return [
        Hazard(
            HazardKind.PARTITION, f"{partition} has {what} of its own, which may refuse or change rows", "sequential"
        )
        for partition, what in cursor.fetchall()
    ]


def find_table(cursor: Any, table: str) -> int | None:
    """Return the oid of a table named as in SQL; a bare name that only exists in the literal case is found as well."""
    try:
        cursor.execute("SELECT pg_catalog.to_regclass(%s)::oid", (table,))
        oid = cursor.fetchone()[0]
    except psycopg2.errors.InvalidName:
        oid = None
    if oid is None:
        cursor.execute("SELECT pg_catalog.to_regclass(%s)::oid", (".".join(_quote(part) for part in table.split(".")),))
        oid = cursor.fetchone()[0]
    return int(oid) if oid else None


def unique_keys(cursor: Any, oid: int) -> tuple[dict[str, str], list[tuple[str, ...]]]:
    """The columns of a table with the names of their types, and those of its plain unique indexes, the primary key first."""
    types = {column.name: column.base_type for column in _columns(cursor, oid)}
    cursor.execute(
        "SELECT (SELECT array_agg(a.attname::text ORDER BY k.n) FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, n) "
        "JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum WHERE k.n <= i.indnkeyatts) "
        "FROM pg_catalog.pg_index i WHERE i.indrelid = %s AND i.indisunique AND i.indexprs IS NULL AND i.indpred IS NULL "
        "ORDER BY i.indisprimary DESC, i.indexrelid",
        (oid,),
    )
    return types, [tuple(names) for (names,) in cursor.fetchall()]


def _quote(part: str) -> str:
    return part if part.startswith('"') else '"' + part.replace('"', '""') + '"'


def _columns(cursor: Any, oid: int) -> tuple[Column, ...]:
    cursor.execute(_COLUMNS, (oid,))
    encoding = cursor.connection.info.parameter_status("server_encoding")
    return tuple(
        Column(
            name=name,
            type=type_name,
            base_type="domain" if kind == "d" else base,
            type_modifier=modifier,
            not_null=not_null or domain_not_null,
            expression=expression,
            generated=generated,
            reads=tuple(reads),
            is_repeatable=is_repeatable,
            identity=identity or "",
            is_deterministic=deterministic,
            is_utf8=encoding in (None, "UTF8"),
            collation=collation,
            is_enum=kind == "e",
            domain_of=domain_of or "",
        )
        for (name, type_name, base, modifier, not_null, expression, generated, identity, deterministic, kind,
             domain_not_null, reads, is_repeatable, collation, domain_of) in cursor.fetchall()
    )  # fmt: skip


@dataclass(frozen=True)
class _Index:
    """A unique index or exclusion constraint, a row of `_UNIQUE_INDEXES`."""

    oid: int
    name: str
    is_primary: bool
    is_immediate: bool
    nulls_not_distinct: bool
    predicate: str | None
    numbers: Sequence[int]
    names: Sequence[str | None]
    definitions: Sequence[str]
    collations: Sequence[str | None]
    is_deterministic: bool
    has_default_classes: bool
    is_exclusion: bool
    is_valid: bool
    equality: Sequence[str]
    reads: Sequence[str]

    @property
    def is_plain(self) -> bool:
        return all(number > 0 for number in self.numbers)

    @property
    def can_arbitrate(self) -> bool:
        return self.is_immediate and self.has_default_classes and self.is_valid and not self.is_exclusion

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(
            definition + (f" COLLATE {collation}" if collation else "")
            for definition, collation in zip(self.definitions, self.collations, strict=True)
        )

    def covers(self, key: tuple[str, ...], columns: Sequence[Column]) -> bool:
        return set(self.names) == set(key) if self.is_plain else _mentions(self.definitions, key, columns)


def _coupling(index: _Index, key: tuple[str, ...], columns: Sequence[Column]) -> Hazard | None:
    """How an index beside the arbitrating one couples rows. One that no two rows of different keys can violate does not."""
    if index.is_exclusion:
        return Hazard(HazardKind.EXCLUSION, f"{index.name} couples rows beyond the key", "sequential")
    if index.covers(key, columns) and not index.is_immediate:
        detail = (
            f"{index.name} is deferrable, and ON CONFLICT accepts no other index on the same columns while it exists"
        )
        return Hazard(HazardKind.DEFERRABLE_KEY, detail, "refuse")
    if index.is_plain and index.is_deterministic and set(key) <= set(index.names):
        return None
    # It matters to files that carry one of its columns, where its columns are all that it depends on and new rows, which get
    # defaults, cannot meet there: one column is NULL then, or numbered by a sequence.
    own = [column for column in columns if column.name in index.names]
    is_apart = any(not column.is_repeatable or column.expression is None for column in own)
    is_usual = index.is_plain and index.has_default_classes and index.is_deterministic
    is_usual = is_usual and not (index.predicate or index.nulls_not_distinct)
    depends_on = tuple(name for name in index.names if name)
    if not is_usual or not is_apart or any(column.is_generated for column in own):
        depends_on = ()
    return Hazard(HazardKind.SECOND_UNIQUE, f"{index.name} couples rows beyond the key", "sequential", depends_on)


def _arbiter(
    cursor: Any, found: _Found, columns: Sequence[Column], key: tuple[str, ...]
) -> tuple[Arbiter, list[Hazard]]:
    knows_nulls = cursor.connection.server_version >= 150000
    nulls = "i.indnullsnotdistinct" if knows_nulls else "false"
    extra = ", i.indnullsnotdistinct" if knows_nulls else ""
    cursor.execute(
        _UNIQUE_INDEXES.format(nulls_not_distinct=nulls, extra_group=extra, equal=_BTREE_EQUAL), (found.oid,)
    )
    indexes = [_Index(*row) for row in cursor.fetchall()]
    usable = [index for index in indexes if index.can_arbitrate and index.covers(key, columns)]
    if not usable:
        deferrable = next((index for index in indexes if index.covers(key, columns) and not index.is_immediate), None)
        because = f" ({deferrable.name} is deferrable)" if deferrable else ""
        raise TargetError(
            f"{found.label} has no unique index on ({', '.join(key)}) that ON CONFLICT can use{because}; "
            f"create one (CREATE UNIQUE INDEX … ON {found.label} ({', '.join(key)})), or name another key"
        )
    chosen = min(usable, key=lambda index: (not index.is_plain, index.predicate is not None))
    arbiter = Arbiter(
        chosen.name,
        chosen.parts,
        tuple(chosen.equality),
        chosen.predicate,
        chosen.nulls_not_distinct,
        chosen.is_plain and not any(chosen.collations),
        tuple(chosen.reads),
    )
    hazards: list[Hazard] = []
    if not arbiter.is_plain or chosen.predicate or chosen.nulls_not_distinct or not chosen.is_deterministic:
        what = "expressions" if not chosen.is_plain else "a predicate" if chosen.predicate else "its own equality"
        hazards.append(Hazard(HazardKind.SERVER_KEY, f"index {chosen.name} has {what}", "server"))
    hazards += [
        Hazard(HazardKind.SERVER_KEY, f"equality of {column.type} keys ('{column.name}')", "server")
        for column in columns
        if column.name in key and arbiter.is_plain and key_type(column) is None
    ]
    hazards += [
        Hazard(HazardKind.SERVER_KEY, f"the key column '{column.name}' is generated", "server")
        for column in columns
        if column.name in key and column.is_generated
    ]
    others = [hazard for index in indexes if index is not chosen and (hazard := _coupling(index, key, columns))]
    return arbiter, hazards + others


def _not_hashable(cursor: Any, arbiter: Arbiter, found: _Found) -> str | None:
    """Say why the server cannot divide rows by a hash of their key (bit and money have no hash function), or None."""
    keys = sql.SQL(", ").join(map(sql.SQL, arbiter.expressions))
    try:
        cursor.execute(
            sql.SQL("SELECT pg_catalog.hash_record(ROW({})) FROM (SELECT (NULL::{}).*) AS etl_nothing").format(
                keys, sql.Identifier(found.schema, found.name)
            )
        )
    except psycopg2.errors.UndefinedFunction as error:
        cursor.connection.rollback()
        return str(error.diag.message_primary)
    return None


def _mentions(definitions: Sequence[str], key: tuple[str, ...], columns: Sequence[Column]) -> bool:
    """Whether an expression index is over exactly the key columns: every key column occurs in it, and no other."""
    text = " ".join(definitions)
    mentioned = {column.name for column in columns if f'"{column.name}"' in text or _has_word(text, column.name)}
    return mentioned == set(key)


def _has_word(text: str, word: str) -> bool:
    return re.search(rf"(?<![\w\"]){re.escape(word)}(?![\w\"(])", text) is not None
