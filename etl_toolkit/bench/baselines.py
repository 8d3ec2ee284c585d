"""What people write by hand: plain psycopg2, each in the shortest form that a careful engineer would accept.

`sequential` is right by construction, so it is the oracle of every answer as well. `naive_parallel` is the tempting
one: the same statements, all files at once, and the last COMMIT wins instead of the last file.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg2
from psycopg2 import sql

from etl_toolkit.bench.input_files import as_csv, column_names

Cursor = psycopg2.extensions.cursor


def sequential(files: Sequence[str], dsn: str, table: str, workers: int) -> None:  # noqa: ARG001 - one signature for all
    """Load file by file, each in one transaction: staging table, last duplicate wins, ON CONFLICT DO UPDATE."""
    with closing(psycopg2.connect(dsn)) as connection:
        for file in files:
            _upsert_file(connection, file, table)


def naive_parallel(files: Sequence[str], dsn: str, table: str, workers: int) -> None:
    """Do the same with all files at once. Wrong as soon as two files share a key, and it may deadlock."""

    def load(file: str) -> None:
        with closing(psycopg2.connect(dsn)) as connection:
            _upsert_file(connection, file, table)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(load, files))


def staged_merge(files: Sequence[str], dsn: str, table: str, workers: int) -> None:
    """COPY all files at once into unlogged staging, then one merge in which the last row of the last file wins."""

    def stage(number: int) -> None:
        with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
            name = sql.Identifier(f"staging_{number}")
            _copy(cursor, files[number], table, sql.SQL("UNLOGGED TABLE {}").format(name), name)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(stage, range(len(files))))
    with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        columns = _identifiers(column_names(files[0]))
        union = sql.SQL(" UNION ALL ").join(
            sql.SQL("SELECT {}, {} AS file, line FROM {}").format(
                columns, sql.Literal(number), sql.Identifier(f"staging_{number}")
            )
            for number in range(len(files))
        )
        merge(
            cursor,
            table,
            column_names(files[0]),
            source=sql.SQL("({}) AS s").format(union),
            order="file DESC, line DESC",
        )
        names = sql.SQL(", ").join(sql.Identifier(f"staging_{number}") for number in range(len(files)))
        cursor.execute(sql.SQL("DROP TABLE {}").format(names))


def sorted_copy(files: Sequence[str], dsn: str, table: str, workers: int) -> None:
    """COPY what `input_files.sorted_parts` made, one connection per part: the floor, not a way to load."""

    def copy(part: str) -> None:
        with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
            _copy_into(cursor, part, sql.SQL(table))

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(copy, files))


def primary_key(cursor: Cursor, table: str) -> dict[str, str]:
    """Return the columns of the primary key of `table` (SQL) with their types, in the order of the index."""
    cursor.execute(
        "SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_index AS i "
        "CROSS JOIN unnest(i.indkey) WITH ORDINALITY AS k (attnum, n) "
        "JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum "
        "WHERE i.indrelid = %s::regclass AND i.indisprimary ORDER BY k.n",
        (table,),
    )
    return dict(cursor.fetchall())


def _upsert_file(connection: psycopg2.extensions.connection, file: str, table: str) -> None:
    with connection, connection.cursor() as cursor:
        staging = sql.Identifier("staging")
        _copy(cursor, file, table, sql.SQL("TEMP TABLE staging ON COMMIT DROP"), staging)
        merge(cursor, table, column_names(file), source=staging, order="line DESC")


def _copy(cursor: Cursor, file: str, table: str, create: sql.Composable, staging: sql.Composable) -> None:
    """Create a staging table with the columns of `file`, and a number for every line, and COPY the file into it."""
    columns = _identifiers(column_names(file))
    cursor.execute(sql.SQL("CREATE {} AS SELECT {} FROM {} WITH NO DATA").format(create, columns, sql.SQL(table)))
    cursor.execute(sql.SQL("ALTER TABLE {} ADD line bigint GENERATED ALWAYS AS IDENTITY").format(staging))
    _copy_into(cursor, file, staging)


def _copy_into(cursor: Cursor, file: str, target: sql.Composable) -> None:
    command = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv, HEADER)").format(target, _identifiers(column_names(file)))
    with as_csv(file) as stream:
        cursor.copy_expert(command, stream, 1 << 18)


def merge(cursor: Cursor, table: str, columns: Sequence[str], *, source: sql.Composable, order: str) -> None:
    """Upsert what `source` (SQL) holds into `table`: of the rows of one key the first in `order` (SQL) wins."""
    key = tuple(primary_key(cursor, table))
    rest = [name for name in columns if name not in key]
    assignments = sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in rest)
    action = sql.SQL("DO UPDATE SET {}").format(assignments) if rest else sql.SQL("DO NOTHING")
    statement = "INSERT INTO {} ({}) SELECT DISTINCT ON ({}) {} FROM {} ORDER BY {}, {} ON CONFLICT ({}) {}"
    keys, names = _identifiers(key), _identifiers(columns)
    cursor.execute(
        sql.SQL(statement).format(sql.SQL(table), names, keys, names, source, keys, sql.SQL(order), keys, action)
    )


def _identifiers(names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))
