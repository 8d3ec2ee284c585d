"""Rows of one key put together: what they leave if each is applied in turn, as one row that meets the table once.

To put two neighbours together is associative. So the rows of each key are paired, then the pairs, and so on: a key that comes a
thousand times takes ten rounds. A row that no other one shares its key with only passes through.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from psycopg2.sql import SQL, Composable, Composed, Identifier

from etl_toolkit.loading.conditions import generated_keys
from etl_toolkit.loading.key_parts import key_aliases, names
from etl_toolkit.loading.merge import Upsert, latest_rows, staged_rows
from etl_toolkit.loading.naming import ours
from etl_toolkit.model import ConflictAction

_COMPOSED, _NEXT = Identifier("pg_temp", "etl_composed"), Identifier("pg_temp", "etl_paired")


def composes(upsert: Upsert) -> bool:
    """Whether rows of one key have to be put together, since the last of them does not say it all."""
    return not upsert.unique and (upsert.write.delete is not None or upsert.write.keeps_values)


def compose(cursor: Any, upsert: Upsert, source: Composable) -> tuple[Upsert, Composed]:
    """Put the staged rows of each key together; return the upsert of the rows that are left, and where they are.

    Each has the `etl_file` and `etl_row` of the row that decides. It is `etl_gone` if that is a tombstone, `etl_live` if there are
    values to write, and `etl_reset` if the row that is there has to go first, because a tombstone came before the values.
    """
    cursor.execute(SQL("DROP TABLE IF EXISTS {}, {}").format(_COMPOSED, _NEXT))
    if upsert.order_by:
        cursor.execute(_winners(upsert, source))
    else:
        cursor.execute(_ranked(upsert, source))
        cursor.execute(ours(upsert.target, "SELECT coalesce(max(etl_rank), 0) FROM {}").format(_COMPOSED))
        most = cursor.fetchone()[0]
        while most > 0:
            cursor.execute(_paired(upsert))
            cursor.execute(SQL("DROP TABLE {}; ALTER TABLE {} RENAME TO etl_composed").format(_COMPOSED, _NEXT))
            most //= 2
    composed = ours(
        upsert.target,
        "(SELECT etl_file, etl_gone, etl_live, etl_reset, {}, etl_row AS ctid FROM {}) AS staged",
    ).format(names(row_columns(upsert)), _COMPOSED)
    return replace(upsert, unique=True, sorted=False, several_files=False), composed


def row_columns(upsert: Upsert) -> list[str]:
    """The columns of a staged row: those of its file, and generated ones that are part of the key."""
    return [*upsert.layout.columns, *generated_keys(upsert.target, upsert.layout)]


def _winners(upsert: Upsert, source: Composable) -> Composed:
    """By an order column one row of each key counts."""
    return ours(
        upsert.target,
        "CREATE TEMP TABLE etl_composed ON COMMIT DROP AS SELECT etl_file, {gone} AS etl_gone, NOT {gone} AS etl_live, "
        "false AS etl_reset, {columns}, etl_row FROM ({latest}) AS latest",
    ).format(
        gone=_gone(upsert), columns=names(row_columns(upsert)), latest=latest_rows(replace(upsert, marks={}), source)
    )


def _gone(upsert: Upsert) -> SQL:
    return ours(upsert.target, "etl_gone" if upsert.write.delete else "false")


def _ranked(upsert: Upsert, source: Composable) -> Composed:
    keys = SQL(", ").join(key_aliases(upsert.target))
    return ours(
        upsert.target,
        "CREATE TEMP TABLE etl_composed ON COMMIT DROP AS SELECT etl_file, {gone} AS etl_gone, NOT {gone} AS etl_live, "
        "false AS etl_reset, {columns}, etl_row, dense_rank() OVER (ORDER BY {keys}) AS etl_key, "
        "row_number() OVER (PARTITION BY {keys} ORDER BY etl_file, etl_row) - 1 AS etl_rank FROM ({staged}) AS staged",
    ).format(gone=_gone(upsert), columns=names(row_columns(upsert)), keys=keys, staged=staged_rows(upsert, source))


def _paired(upsert: Upsert) -> Composed:
    """Each row `a` of an even rank with the next one of its key, `b`, if there is one."""
    is_soft = upsert.soft is not None
    stays_dead = SQL("false") if is_soft or upsert.write.rows != "update" else ours(upsert.target, "a.etl_gone")
    if is_soft:
        gone = ours(upsert.target, "b.etl_gone")
        live, reset = ours(upsert.target, "(a.etl_live OR b.etl_live)"), SQL("false")
        is_whole = ours(upsert.target, "NOT a.etl_live")
        is_nothing = ours(upsert.target, "NOT b.etl_live")
    else:
        gone = ours(upsert.target, "b.etl_gone")
        live = ours(upsert.target, "b.etl_live")
        reset = ours(upsert.target, "(b.etl_live AND (b.etl_reset OR a.etl_gone OR a.etl_reset))")
        is_whole = ours(upsert.target, "(a.etl_gone OR b.etl_gone OR b.etl_reset)")
        is_nothing = SQL("false")
    # Whose the row is that decides: the first one where rows that are there are not updated.
    keeps = SQL("{} AND NOT {}").format(SQL("true" if upsert.action is ConflictAction.IGNORE else "false"), is_whole)
    alone = ours(upsert.target, "b.etl_key IS NULL OR ({stays_dead} AND NOT b.etl_gone)").format(stays_dead=stays_dead)

    def choose(name: str, both: Composable) -> Composed:
        return ours(upsert.target, "CASE WHEN {alone} THEN a.{name} ELSE {both} END AS {name}").format(
            alone=alone, name=SQL(own(name)), both=both
        )

    def own(name: str) -> str:
        return ours(upsert.target, name).string

    flags = [choose(name, both) for name, both in (("etl_gone", gone), ("etl_live", live), ("etl_reset", reset))]
    places = [
        choose(name, SQL("CASE WHEN {} THEN a.{} ELSE b.{} END").format(keeps, SQL(own(name)), SQL(own(name))))
        for name in ("etl_file", "etl_row")
    ]
    values = [
        SQL(
            "CASE WHEN {alone} THEN a.{name} WHEN {is_whole} THEN b.{name} WHEN {is_nothing} THEN a.{name} "
            "ELSE {both} END AS {name}"
        ).format(
            alone=alone,
            is_whole=is_whole,
            is_nothing=is_nothing,
            name=Identifier(name),
            both=_put_together(upsert, name),
        )
        for name in row_columns(upsert)
    ]
    return ours(
        upsert.target,
        "CREATE TEMP TABLE etl_paired ON COMMIT DROP AS SELECT {items}, a.etl_key, a.etl_rank / 2 AS etl_rank FROM {composed} AS a "
        "LEFT JOIN {composed} AS b ON b.etl_key = a.etl_key AND b.etl_rank = a.etl_rank + 1 WHERE a.etl_rank % 2 = 0",
    ).format(items=SQL(", ").join([*flags, *places, *values]), composed=_COMPOSED)


def _put_together(upsert: Upsert, name: str) -> Composable:
    """What a column holds after the row `a` was written and the row `b` applied to it."""
    if upsert.action is ConflictAction.IGNORE or name not in upsert.values:
        return SQL("a.{}").format(Identifier(name))
    return upsert.value(name, "b", "a")
