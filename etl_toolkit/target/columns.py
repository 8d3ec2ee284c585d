"""The columns of a table as the catalog describes them."""

from __future__ import annotations

from typing import Any

from etl_toolkit.model import Column

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


def read_columns(cursor: Any, oid: int) -> tuple[Column, ...]:
    """Read the columns of a table, in its order."""
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


def unique_keys(cursor: Any, oid: int) -> tuple[dict[str, str], list[tuple[str, ...]]]:
    """The columns of a table with the names of their types, and those of its plain unique indexes, the primary key first."""
    types = {column.name: column.base_type for column in read_columns(cursor, oid)}
    cursor.execute(
        "SELECT (SELECT array_agg(a.attname::text ORDER BY k.n) FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, n) "
        "JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum WHERE k.n <= i.indnkeyatts) "
        "FROM pg_catalog.pg_index i WHERE i.indrelid = %s AND i.indisunique AND i.indexprs IS NULL AND i.indpred IS NULL "
        "ORDER BY i.indisprimary DESC, i.indexrelid",
        (oid,),
    )
    return types, [tuple(names) for (names,) in cursor.fetchall()]
