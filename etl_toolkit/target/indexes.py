"""The unique index that arbitrates, and how those beside it couple rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2 import sql

from etl_toolkit.errors import TargetError
from etl_toolkit.keys import key_type
from etl_toolkit.model import Arbiter, Column, Hazard, HazardKind
from etl_toolkit.target.tables import FoundTable

_QUOTED = re.compile(r"""'(?:[^']|'')*'|"((?:[^"]|"")*)\"""")  # a text, or a name
_BTREE_EQUAL = 3  # BTEqualStrategyNumber: unique indexes are B-trees

# One row per unique index, its key parts in order. A part is a column (attnum > 0) or an expression (0).
_UNIQUE_INDEXES = """
SELECT i.indexrelid, ic.relname, i.indimmediate, {nulls_not_distinct},
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


@dataclass(frozen=True)
class _Index:
    """A unique index or exclusion constraint, a row of `_UNIQUE_INDEXES`."""

    oid: int
    name: str
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
        return set(self.names) == set(key) if self.is_plain else _is_over_exactly(self.definitions, key, columns)


def read_arbiter(
    cursor: Any, found: FoundTable, columns: Sequence[Column], key: tuple[str, ...]
) -> tuple[Arbiter, list[Hazard]]:
    """Choose the unique index that arbitrates, and say what it and the others force. Raises TargetError where there is none."""
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
    others = [hazard for index in indexes if index is not chosen and (hazard := _find_coupling(index, key, columns))]
    return arbiter, hazards + others


def _find_coupling(index: _Index, key: tuple[str, ...], columns: Sequence[Column]) -> Hazard | None:
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


def why_not_hashable(cursor: Any, arbiter: Arbiter, found: FoundTable) -> str | None:
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


def _is_over_exactly(definitions: Sequence[str], key: tuple[str, ...], columns: Sequence[Column]) -> bool:
    """Whether an expression index is over exactly the key columns: every key column occurs in it, and no other."""
    text = " ".join(definitions)
    quoted = {name.replace('""', '"') for name in _QUOTED.findall(text)}
    plain = _QUOTED.sub(" ", text)
    return {column.name for column in columns if column.name in quoted or _has_word(plain, column.name)} == set(key)


def _has_word(text: str, word: str) -> bool:
    return re.search(rf"(?<![\w\"]){re.escape(word)}(?![\w\"(])", text) is not None
