"""The privileges of a role that loads: what an administrator runs once, as SQL text. Nothing here connects anywhere.

A loading role needs no membership, no CREATEDB, and never superuser. The ledger is made by the administrator, so that
the role cannot change its tables' definitions.
"""

from __future__ import annotations

from collections.abc import Sequence

from etl_toolkit.loading.ledger import DEFINITION, SCHEMA

# What a load does to each table of the ledger. Deleting is the administrator's (retention).
LEDGER_PRIVILEGES = {
    "runs": "SELECT, INSERT, UPDATE",
    "files": "SELECT, INSERT, UPDATE",
    "batches": "SELECT, INSERT, UPDATE",
    "rejects": "SELECT, INSERT",
    "before_images": "SELECT, INSERT",
}


def ledger_sql(role: str | None = None) -> str:
    """Return the SQL that makes the ledger and, where a role is named, lets it load.

    CREATE on the schema is for the staging tables that several workers share; without it, files whose keys only the
    server can compare are loaded one after the other.
    """
    statements = [DEFINITION.strip()]
    if role is not None:
        grantee = quoted(role)
        statements.append(f"GRANT USAGE, CREATE ON SCHEMA {SCHEMA} TO {grantee};")
        statements += [f"GRANT {what} ON {SCHEMA}.{table} TO {grantee};" for table, what in LEDGER_PRIVILEGES.items()]
    return "\n".join(statements) + "\n"


def table_sql(
    role: str, table: str, *, schema: str = "public", sequences: Sequence[str] = (), references: Sequence[str] = (),
    undo: bool = False, deletes: bool = False,
) -> str:  # fmt: skip
    """Return the SQL that lets `role` load into one table.

    `sequences` are those behind serial columns the files do not carry (identity columns need none), `references` the
    tables its foreign keys point to, both in the same schema. `undo` adds what `undo RUN` needs,
    `deletes` what loads need that delete rows (`WriteOptions.deletes`).
    """
    grantee, space = quoted(role), quoted(schema)
    privileges = "SELECT, INSERT, UPDATE" + (", DELETE" if undo or deletes else "")
    statements = [
        f"GRANT USAGE ON SCHEMA {space} TO {grantee};",
        f"GRANT {privileges} ON {space}.{quoted(table)} TO {grantee};",
        *(f"GRANT USAGE ON SEQUENCE {space}.{quoted(name)} TO {grantee};" for name in sequences),
        *(f"GRANT SELECT ON {space}.{quoted(name)} TO {grantee};" for name in references),
    ]
    return "\n".join(statements) + "\n"


def database_sql(role: str, database: str) -> str:
    """Return the SQL that lets `role` connect and have temporary tables: both are PUBLIC's unless revoked."""
    return f"GRANT CONNECT, TEMPORARY ON DATABASE {quoted(database)} TO {quoted(role)};\n"


def quoted(name: str) -> str:
    """Return `name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
