"""What the ledger is made of, which version of it this release works with, and who may use it how."""

from __future__ import annotations

from typing import Any

import psycopg2
from psycopg2.sql import SQL, Identifier

from etl_toolkit.errors import LedgerError, map_driver_error

SCHEMA = "etl_toolkit"
CREATION_LOCK = 0x65746C5F746B  # "etl_tk"

# Increase it with every change that another release could not work with. The first release wrote no version.
VERSION = 1

DEFINITION = """
CREATE SCHEMA IF NOT EXISTS etl_toolkit;
CREATE TABLE IF NOT EXISTS etl_toolkit.runs (
    run_id text PRIMARY KEY,
    target text NOT NULL,
    target_oid oid NOT NULL,
    status text NOT NULL CHECK (status IN ('running', 'complete', 'failed', 'interrupted', 'undone')),
    strategy text NOT NULL,
    spec jsonb NOT NULL,
    plan jsonb NOT NULL,
    counts jsonb,
    error text,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    undone_by xid8
);
CREATE TABLE IF NOT EXISTS etl_toolkit.files (
    run_id text NOT NULL REFERENCES etl_toolkit.runs ON DELETE CASCADE,
    position integer NOT NULL,
    name text NOT NULL,
    content_hash text NOT NULL,
    size_bytes bigint NOT NULL,
    header text NOT NULL DEFAULT '',
    counts jsonb,
    PRIMARY KEY (run_id, position)
);
CREATE TABLE IF NOT EXISTS etl_toolkit.batches (
    run_id text NOT NULL REFERENCES etl_toolkit.runs ON DELETE CASCADE,
    number integer NOT NULL,
    label text NOT NULL,
    counts jsonb,
    claimed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    transaction_id xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
    version xid,
    PRIMARY KEY (run_id, number)
);
CREATE TABLE IF NOT EXISTS etl_toolkit.rejects (
    run_id text NOT NULL REFERENCES etl_toolkit.runs ON DELETE CASCADE,
    file integer NOT NULL,
    record bigint NOT NULL,
    line bigint,
    reason text NOT NULL,
    sqlstate text NOT NULL,
    raw text NOT NULL,
    PRIMARY KEY (run_id, file, record)
);
CREATE TABLE IF NOT EXISTS etl_toolkit.before_images (
    transaction_id xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
    version xid NOT NULL,
    image text NOT NULL
);
CREATE INDEX IF NOT EXISTS before_images_transaction ON etl_toolkit.before_images (transaction_id);
CREATE TABLE IF NOT EXISTS etl_toolkit.version (
    number integer NOT NULL,
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only)
);
INSERT INTO etl_toolkit.version (number) VALUES (1) ON CONFLICT DO NOTHING;
GRANT SELECT ON etl_toolkit.version TO PUBLIC;
"""

_MAY_READ = """
SELECT coalesce(bool_and(pg_catalog.has_table_privilege(oid, 'SELECT')), false) AND count(*) = 3
FROM pg_catalog.pg_class WHERE relnamespace = pg_catalog.to_regnamespace('etl_toolkit')
AND relname IN ('runs', 'files', 'batches') AND pg_catalog.has_schema_privilege(relnamespace, 'USAGE')
"""


def prepare(connection: Any) -> None:
    """Create the ledger unless it is there. One creator at a time: CREATE IF NOT EXISTS races.

    Raises DatabaseError where the role may neither use the ledger nor create it, LedgerError where it is of another
    version.
    """
    try:
        if not check_version(connection):
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s)", (CREATION_LOCK,))
                cursor.execute(DEFINITION)
        connection.commit()
    except psycopg2.Error as error:
        doing = (
            f"opening the ledger (schema {SCHEMA}; `etl-toolkit db grants ROLE` prints what an administrator runs once)"
        )
        raise map_driver_error(error, doing=doing) from None


def check_version(connection: Any) -> bool:
    """Return whether the ledger is there; raise LedgerError for one that another release made and this one cannot work with.

    One without a version is that of the first release, which is version 1.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_catalog.to_regclass('etl_toolkit.version') IS NOT NULL, "
            "pg_catalog.to_regclass('etl_toolkit.before_images') IS NOT NULL"
        )
        has_version, is_there = cursor.fetchone()
        if not has_version:
            return bool(is_there)
        cursor.execute("SELECT coalesce(max(number), 1) FROM etl_toolkit.version")
        found = cursor.fetchone()[0]
    if found == VERSION:
        return bool(is_there)
    remedy = (
        "install the release of etl-toolkit that created it, or a later one"
        if found > VERSION
        else f"let its owner rename it (ALTER SCHEMA {SCHEMA} RENAME TO {SCHEMA}_{found}): the next load creates a new one, "
        "and the earlier runs can be looked at, but not resumed or undone"
    )
    raise LedgerError(
        f"the ledger (schema {SCHEMA} of database {connection.info.dbname}) has version {found}, and this release of "
        f"etl-toolkit works with version {VERSION}; {remedy}"
    )


def is_readable(connection: Any) -> bool:
    """Whether there is a ledger that this release can work with and this role may read: a plan goes without one."""
    with connection.cursor() as cursor:
        cursor.execute(_MAY_READ)
        if not cursor.fetchone()[0]:
            return False
    try:
        check_version(connection)
    except LedgerError:  # what begins the load says so
        return False
    return True


def staging_refusal(connection: Any) -> str:
    """Return why this role may not make staging tables that several workers share, and the grant; empty where it may.

    A ledger that is not there yet will be this role's own, or come with the grants.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_user, coalesce(pg_catalog.has_schema_privilege("
            "pg_catalog.to_regnamespace('etl_toolkit')::oid, 'CREATE'), true)"
        )
        role, may = cursor.fetchone()
        if may:
            return ""
        grant = SQL("GRANT CREATE ON SCHEMA {} TO {}").format(Identifier(SCHEMA), Identifier(role)).as_string(cursor)
    return f"the role may not create staging tables in schema {SCHEMA}; an administrator can run: {grant}"
