"""Tables by their names: found as SQL finds them, or missed with a word about what was meant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg2

from etl_toolkit.errors import TargetError, UnknownTableError
from etl_toolkit.hints import did_you_mean

_FIND = """
SELECT c.oid, n.nspname, c.relname, c.relkind::text, c.relrowsecurity, c.relforcerowsecurity,
       c.relhasrules, pg_catalog.pg_get_userbyid(c.relowner) = current_user, c.relhastriggers,
       c.relkind = 'p' OR c.relchecks > 0
       OR EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attgenerated = 's')
       OR EXISTS (SELECT FROM pg_catalog.pg_index i
                  WHERE i.indrelid = c.oid AND (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL)),
       EXISTS (SELECT FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indexrelid
               WHERE i.indrelid = c.oid AND a.attlen = -1),
       pg_catalog.to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = %s
"""


@dataclass(frozen=True)
class FoundTable:
    """A table that was found: its row of pg_class, and what it may have, so that only that is read of the catalog."""

    oid: int
    schema: str
    name: str
    kind: str
    row_security: bool
    forced_security: bool
    has_rules: bool
    is_owner: bool
    has_triggers: bool  # or had some; foreign keys are enforced by triggers
    has_checks: bool  # of rows: CHECK constraints, partitions, expressions
    has_wide_indexes: bool  # indexes over values of no fixed length
    has_citus: bool  # the database

    @property
    def label(self) -> str:
        return f"{self.schema}.{self.name}"


def require_table(cursor: Any, table: str) -> FoundTable:
    """Find a table that can be upserted into. Raises UnknownTableError and TargetError."""
    oid = find_table(cursor, table)
    if oid is None:
        raise UnknownTableError(f"table {table} does not exist{_suggest(cursor, table)}")
    cursor.execute(_FIND, (oid,))
    found = FoundTable(*cursor.fetchone())
    if found.kind not in ("r", "p"):
        what = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}.get(found.kind, "not a table")
        raise TargetError(
            f"{found.label} is {what}, and ON CONFLICT needs an ordinary or partitioned table; name that one"
        )
    return found


def find_table(cursor: Any, table: str) -> int | None:
    """Return the oid of a table named as in SQL; a bare name that only exists in the literal case is found as well."""
    try:
        cursor.execute("SELECT pg_catalog.to_regclass(%s)::oid", (table,))
        oid = cursor.fetchone()[0]
    except psycopg2.errors.InvalidName:
        oid = None
    if oid is None:
        cursor.execute(
            "SELECT pg_catalog.to_regclass(%s)::oid", (".".join(_quote_part(part) for part in table.split(".")),)
        )
        oid = cursor.fetchone()[0]
    return int(oid) if oid else None


def _quote_part(part: str) -> str:
    return part if part.startswith('"') else '"' + part.replace('"', '""') + '"'


def _suggest(cursor: Any, table: str) -> str:
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
