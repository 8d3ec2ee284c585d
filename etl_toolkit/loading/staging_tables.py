"""Staging tables, and COPY into them.

A staging table is made in the transaction that fills it, so PostgreSQL appends to it without looking for free space
(COPY skips the free space map in a relation created in the same transaction), and `ctid` is the order of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg2 import sql
from psycopg2.sql import SQL, Composable, Composed, Identifier

from etl_toolkit.loading.conditions import conditions, copied_columns, generated_keys
from etl_toolkit.loading.key_parts import NOTHING, names, table
from etl_toolkit.loading.naming import ours
from etl_toolkit.model import Layout, TargetTable

STAGING = "etl_staging"
# The server refuses them in the text format (ProcessCopyOptions).
NO_TEXT_DELIMITERS = frozenset("\\.abcdefghijklmnopqrstuvwxyz0123456789")


def create_staging(target: TargetTable, layout: Layout, *, name: str = STAGING, is_numbered: bool = False) -> Composed:
    """A private table in the target's own types, gone at the end of the transaction, that takes no row the target refuses.

    Its first column, `etl_file`, holds the position of the file a row comes from; `etl_n`, where rows are numbered, its number
    there.
    """
    statement = ours(
        target, "CREATE TEMP TABLE {name} ON COMMIT DROP AS SELECT 0 AS etl_file, {number}{columns} FROM {table} WITH NO DATA"
    ).format(
        name=Identifier(name), columns=names(copied_columns(target, layout)), table=table(target),
        number=_number(target, is_numbered=is_numbered),
    )  # fmt: skip
    if actions := conditions(target, layout):
        statement += SQL("; ALTER TABLE {} {}").format(Identifier("pg_temp", name), SQL(", ").join(actions))
    return statement


def _number(target: TargetTable, *, is_numbered: bool) -> SQL:
    return ours(target, "0::bigint AS etl_n, ") if is_numbered else SQL("")


def shared_staging(run_id: str, number: int) -> Identifier:
    """The name of a staging table that other sessions can read: one of a run's, in the ledger's schema."""
    return Identifier("etl_toolkit", f"stage_{run_id}_{number}")


def create_shared_staging(
    target: TargetTable, layout: Layout, destination: Composable, *, file: int, is_numbered: bool = False
) -> Composed:
    """An unlogged staging table, at first for one `file`. The ledger never counts on it: crash recovery empties it."""
    return ours(target,
        "DROP TABLE IF EXISTS {name}; CREATE UNLOGGED TABLE {name} AS SELECT {file} AS etl_file, {number}{columns} "
        "FROM {table} WITH NO DATA; ALTER TABLE {name} {actions}"
    ).format(
        number=_number(target, is_numbered=is_numbered), name=destination, file=sql.Literal(file),
        columns=names(copied_columns(target, layout)), table=table(target),
        actions=SQL(", ").join(
            [ours(target, "ALTER etl_file SET DEFAULT {}").format(sql.Literal(file)), *conditions(target, layout)]
        ),
    )  # fmt: skip


def staged_partition(
    target: TargetTable, layout: Layout, tables: Sequence[Composable], part: int, parts: int,
    *, tombstones: Sequence[Composable] = (), kept: Sequence[str] = (),
) -> Composed:  # fmt: skip
    """The rows of several staging tables whose key hashes, by the operators of its types, into one of `parts`.

    `tombstones` are the tables of rows that delete their key, which have the columns `kept` alone.
    """
    keys = SQL(", ").join(SQL(expression) for expression in target.arbiter.expressions)
    mine: Composable = SQL("")
    if parts > 1:
        mine = SQL(" WHERE pg_catalog.abs(pg_catalog.hash_record(ROW({})) % {}) = {}").format(
            keys, sql.Literal(parts), sql.Literal(part)
        )
    every = [*layout.columns, *generated_keys(target, layout)]
    if tombstones:
        return marked_rows(target, every, tables, tombstones, kept, where=mine)
    rows = [ours(target, "SELECT etl_file, {}, ctid FROM {}{}").format(names(every), name, mine) for name in tables]
    return SQL("({}) AS staged").format(SQL(" UNION ALL ").join(rows))


def marked_rows(
    target: TargetTable, columns: Sequence[str], tables: Sequence[Composable], tombstones: Sequence[Composable],
    kept: Sequence[str], *, where: Composable = NOTHING,
) -> Composed:  # fmt: skip
    """The staged rows and the tombstones among them (`etl_gone`), which have only the columns `kept`."""
    given = SQL(", ").join(Identifier(name) if name in kept else SQL("NULL") for name in columns)
    rows = [
        ours(target, "SELECT etl_file, {gone} AS etl_gone, {columns}, etl_n AS ctid FROM {name}{where}").format(
            gone=sql.Literal(is_gone), columns=items, name=name, where=where
        )
        for is_gone, items, some in ((False, names(columns), tables), (True, given, tombstones))
        for name in some
    ]
    return SQL("({}) AS staged").format(SQL(" UNION ALL ").join(rows))


def set_file(target: TargetTable, position: int, *, table: Composable | None = None) -> Composed:
    """Let the rows staged from now on belong to the file at `position`; `table` is the session's own staging table."""
    return ours(target, "ALTER TABLE {} ALTER etl_file SET DEFAULT {}").format(
        table or staging_table(), sql.Literal(position)
    )


def empty_staging(name: str = STAGING) -> Composed:
    """Empty the staging table for the next chunk or file; it stays append-only, being new in this transaction."""
    return SQL("TRUNCATE {}").format(staging_table(name))


def drop_staging(name: str = STAGING) -> Composed:
    """Make room for the staging table of a file with other columns."""
    return SQL("DROP TABLE {}").format(staging_table(name))


def copy_into(destination: Composable, layout: Layout) -> Composed:
    """COPY records of `layout` into a table, by column list; unquoted empty is NULL, quoted empty is the empty text.

    Bare records are read as text: that takes the server 5 % less CPU than to look for quotes.
    """
    is_text = layout.is_bare and layout.delimiter not in NO_TEXT_DELIMITERS
    return SQL("COPY {} ({}) FROM STDIN ({}, DELIMITER {}, NULL '')").format(
        destination,
        names(layout.columns),
        SQL("FORMAT text" if is_text else "FORMAT csv, QUOTE '\"'"),
        sql.Literal(layout.delimiter),
    )


def staging_table(name: str = STAGING) -> Identifier:
    """The session's own staging table."""
    return Identifier("pg_temp", name)


def count_keys(cursor: Any, target: TargetTable, source: Composable) -> dict[int, tuple[int, int]]:
    """Return rows and distinct keys of each file, by position, under the arbitrating index's own equality."""
    keys = SQL(", ").join(SQL(expression) for expression in target.arbiter.expressions)
    cursor.execute(
        ours(
            target,
            "SELECT etl_file, sum(n)::bigint, count(*) FROM (SELECT etl_file, count(*) AS n FROM {} GROUP BY etl_file, {}) "
            "AS by_key GROUP BY etl_file",
        ).format(source, keys)
    )
    return {file: (int(rows), int(distinct)) for file, rows, distinct in cursor.fetchall()}
