"""The table in the same state before every run: a database per state, copied file by file into a new one for each run.

Copying restores the table to the byte, and brings a clean ledger, fresh statistics and an empty cache with it. The
user's own database is never written to. Autovacuum is off for the table, because it would start in some runs and not in
others; a preloaded table is packed (VACUUM FULL) and its heap in the order of arrival, as after earlier loads.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import make_dsn

from etl_toolkit import server
from etl_toolkit.bench import baselines
from etl_toolkit.bench.answer import Answer, table_answer
from etl_toolkit.bench.records import TableState
from etl_toolkit.errors import EtlError, UsageError
from etl_toolkit.loading import ledger
from etl_toolkit.server.settings import Profile

TABLE = "target"

# Another value of the same type and length, for any row that holds one; key columns and other types are left alone.
OTHER_VALUES = {
    "bool": "NOT {0}",
    "int2": "{0} # 1::int2",
    "date": "{0} - 1",
    **dict.fromkeys(("int4", "int8"), "{0} # 1"),
    **dict.fromkeys(("float4", "float8", "numeric"), "-{0}"),
    **dict.fromkeys(("text", "varchar"), "reverse({0})"),
    **dict.fromkeys(("timestamp", "timestamptz"), "{0} - interval '1 day'"),
}
# Columns that a key, a CHECK or a reference reads: another value might not fit.
BOUND_COLUMNS = """
SELECT a.attname FROM pg_attribute AS a JOIN pg_constraint AS c ON c.conrelid = a.attrelid AND a.attnum = ANY (c.conkey)
WHERE a.attrelid = %s::regclass AND c.contype <> 'n'
UNION SELECT a.attname FROM pg_attribute AS a JOIN pg_index AS i ON i.indrelid = a.attrelid AND a.attnum = ANY (i.indkey)
WHERE a.attrelid = %s::regclass AND i.indisunique
"""


@dataclass(frozen=True)
class StartingPoint:
    """A database to copy before a run, and the answer that a right load of the files leaves in the copy."""

    template: str
    expected: Answer
    columns: tuple[str, ...]


@contextmanager
def server_of(dsn: str | None, *, profile: Profile) -> Iterator[str]:
    """The server of `dsn`; without one a temporary server with the settings of `profile`, for the length of a block."""
    if dsn is not None:
        yield dsn
        return
    with server.temporary(profile=profile) as embedded:
        yield embedded.dsn


class ScratchDatabases:
    """The databases of one sweep. Their names begin with `prefix`; `close` drops them all."""

    def __init__(self, dsn: str, prefix: str) -> None:
        self._dsn = dsn
        self._prefix = prefix
        self._made = 0
        self._admin = psycopg2.connect(dsn, application_name="etl_toolkit bench")
        self._admin.autocommit = True
        with self._admin.cursor() as cursor:
            cursor.execute("SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user")
            if cursor.fetchone() != (True,):
                self._admin.close()
                raise UsageError(
                    "a sweep measures in databases of its own and this role may not create any; "
                    "ALTER ROLE … CREATEDB, or leave out the DSN to use the embedded server"
                )
        self._drop_all()  # what an interrupted sweep of the same name has left

    def prepare(self, table_sql: str, files: Sequence[str], state: TableState) -> StartingPoint:
        """Make the table in `state` for `files` and find out, by loading them one after the other, what is right."""
        template = self._create(None)
        dsn = self.dsn_of(template)
        with closing(psycopg2.connect(dsn)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                ledger.prepare(connection)  # made once in the life of a database, so no run of ours pays for it
                cursor.execute(table_sql)
                for leaf in _leaves(cursor):
                    cursor.execute(f"ALTER TABLE {leaf} SET (autovacuum_enabled = false)")
                columns = _column_types(cursor)
                key = tuple(baselines.primary_key(cursor, TABLE))
            if not key:
                raise UsageError("the sweep needs a table with a primary key; its baselines need one for ON CONFLICT")
            if state != "empty":
                baselines.sequential(files, dsn, TABLE, 1)
                self._put_into_state(connection, state, columns, key)
        run = self._create(template)
        baselines.sequential(files, self.dsn_of(run), TABLE, 1)
        names = tuple(columns)
        with closing(psycopg2.connect(self.dsn_of(run))) as connection:
            expected = table_answer(connection, TABLE, names)
        self._drop(run)
        return StartingPoint(template, expected, names)

    def reset(self, start: StartingPoint) -> str:
        """Return the DSN of a new copy of `start`; the copy before it is dropped."""
        run = f"{self._prefix}run"
        self._drop(run)
        return self.dsn_of(self._create(start.template, run))

    def new(self) -> str:
        """Return the DSN of a new, empty database."""
        return self.dsn_of(self._create(None))

    def dsn_of(self, database: str) -> str:
        """Return a DSN for one of the databases."""
        return str(make_dsn(self._dsn, dbname=database))

    def close(self) -> None:
        """Drop every database of this sweep."""
        self._drop_all()
        self._admin.close()

    def _create(self, template: str | None, name: str | None = None) -> str:
        self._made += 1
        name = name or f"{self._prefix}{self._made}"
        # Servers before 15 know no other strategy.
        strategy = " STRATEGY file_copy" if self._admin.server_version >= 150_000 else ""
        command = sql.SQL("CREATE DATABASE {} TEMPLATE {}" + strategy).format(
            sql.Identifier(name), sql.Identifier(template or "template0")
        )
        with self._admin.cursor() as cursor:
            for attempt in range(50):
                try:
                    cursor.execute(command)
                except psycopg2.errors.ObjectInUse:
                    # A session that has been closed takes a moment to leave the template.
                    if attempt == 49:
                        raise
                    time.sleep(0.1)
                else:
                    return name
        raise EtlError(f"database {name!r} could not be created: its template is still in use")

    def _drop(self, name: str) -> None:
        with self._admin.cursor() as cursor:
            cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _drop_all(self) -> None:
        with self._admin.cursor() as cursor:
            cursor.execute("SELECT datname FROM pg_database WHERE starts_with(datname, %s)", (self._prefix,))
            names = [name for (name,) in cursor.fetchall()]
        for name in names:
            self._drop(name)

    def _put_into_state(
        self,
        connection: psycopg2.extensions.connection,
        state: TableState,
        columns: dict[str, str],
        key: tuple[str, ...],
    ) -> None:
        keys = sql.SQL(", ").join(map(sql.Identifier, key))
        table = sql.SQL(TABLE)
        with connection.cursor() as cursor:
            if state == "half":
                half = sql.SQL("DELETE FROM {} WHERE hashtext(ROW({})::text) % 2 = 0")
                cursor.execute(half.format(table, keys))
            if state in ("half", "tenth", "rewritten"):
                cursor.execute(BOUND_COLUMNS, (TABLE, TABLE))
                bound = {name for (name,) in cursor.fetchall()}
                changes = [
                    sql.SQL("{0} = " + OTHER_VALUES[kind]).format(sql.Identifier(name))
                    for name, kind in columns.items()
                    if kind in OTHER_VALUES and name not in bound
                ]
                if not changes:
                    raise UsageError(
                        "no column outside the key has a type that the sweep can change; leave out the state"
                    )
                tenth = sql.SQL(" WHERE hashtext(ROW({})::text) % 10 = 0").format(keys)
                some = tenth if state == "tenth" else sql.SQL("")
                cursor.execute(sql.SQL("UPDATE {} SET {}{}").format(table, sql.SQL(", ").join(changes), some))
            cursor.execute(sql.SQL("VACUUM (FULL) {}").format(table))
            cursor.execute(sql.SQL("VACUUM (ANALYZE) {}").format(table))


def _leaves(cursor: psycopg2.extensions.cursor) -> list[str]:
    """Return the table, or where it is partitioned the tables that hold its rows, as SQL."""
    cursor.execute(
        "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND (oid = %s::regclass OR relispartition)",
        (TABLE,),
    )
    return [str(name) for (name,) in cursor.fetchall()]


def _column_types(cursor: psycopg2.extensions.cursor) -> dict[str, str]:
    cursor.execute(
        "SELECT a.attname, t.typname FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid "
        "WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' "
        "ORDER BY a.attnum",
        (TABLE,),
    )
    return dict(cursor.fetchall())
