"""Columns that an undone run added or widened: they are dropped, and as narrow again as they were."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from psycopg2.sql import SQL, Composable, Identifier, Literal

from etl_toolkit.errors import LedgerError
from etl_toolkit.loading.dependents import find_dependent
from etl_toolkit.loading.key_parts import table
from etl_toolkit.model import TargetTable

_BITS = {"smallint": 15, "integer": 31, "bigint": 63}
_LENGTH = re.compile(r"character varying\((\d+)\)")


def check_unused(cursor: Any, target: TargetTable, added: Sequence[str]) -> None:
    """Raise where a column that the run added has values of others by now, or something depends on it."""
    for name in added:
        column = Identifier(name)
        cursor.execute(SQL("SELECT count(*) FROM {} WHERE {} IS NOT NULL").format(table(target), column))
        if count := cursor.fetchone()[0]:
            raise LedgerError(
                f"column {name!r} of {target.qualified_name}, which the run added, has {count:,} values that others wrote "
                "since, so nothing was undone; set them to NULL if they may be lost"
            )
    if added and (dependent := find_dependent(cursor, target.oid, added, keeps_column=False)):
        name, what = dependent
        raise LedgerError(
            f"{what} depends on column {name!r} of {target.qualified_name}, which the run added, so nothing was undone; "
            "drop that first"
        )


def drop_columns(cursor: Any, target: TargetTable, added: Sequence[str]) -> None:
    """Drop the columns that the run added."""
    for name in added:
        cursor.execute(SQL("ALTER TABLE {} DROP COLUMN {}").format(table(target), Identifier(name)))


def narrow_columns(cursor: Any, target: TargetTable, widened: Mapping[str, str]) -> None:
    """Give columns the types back that they had."""
    if widened:
        items = [SQL("ALTER COLUMN {} TYPE {}").format(Identifier(name), SQL(kind)) for name, kind in widened.items()]
        cursor.execute(SQL("ALTER TABLE {} {}").format(table(target), SQL(", ").join(items)))


def find_narrow(cursor: Any, target: TargetTable, widened: Mapping[str, str]) -> dict[str, str]:
    """Those of the widened columns whose values fit their types before, and on which nothing depends by now."""
    fitting = {}
    for name, kind in widened.items():
        cursor.execute(
            SQL("SELECT NOT EXISTS (SELECT FROM {} WHERE NOT ({}))").format(table(target), _fits(name, kind))
        )
        if cursor.fetchone()[0] and not find_dependent(cursor, target.oid, [name], keeps_column=True):
            fitting[name] = kind
    return fitting


def _fits(name: str, kind: str) -> Composable:
    """A condition: the server would neither round nor cut the value of a column, nor refuse it."""
    column = Identifier(name)
    if match := _LENGTH.match(kind):
        return SQL("pg_catalog.length({}) <= {}").format(column, Literal(int(match[1])))
    limit = 1 << _BITS[kind]
    return SQL("{0} BETWEEN {1} AND {2} AND {0} = pg_catalog.trunc({0}::pg_catalog.numeric)").format(
        column, Literal(-limit), Literal(limit - 1)
    )
