"""The first rows of a table, to choose one from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg2.sql import SQL, Identifier

from etl_toolkit.target import read_target

SHOWN_ROWS = 200


def list_rows(connection: Any, table: str, key: Sequence[str]) -> list[dict[str, str | None]]:
    """Return the first rows of a table in the order of its key, each value as text, the key columns first."""
    target = read_target(connection, table, key)
    others = [column.name for column in target.columns if column.name not in target.key]
    names = [*target.key, *others]
    query = SQL("SELECT {} FROM {} AS t ORDER BY {} LIMIT {}").format(
        SQL(", ").join(SQL("t.{}::text").format(Identifier(name)) for name in names),
        Identifier(target.schema, target.name),
        SQL(", ").join(SQL("t.{}").format(Identifier(name)) for name in target.key),
        SQL(str(SHOWN_ROWS)),
    )
    with connection.cursor() as cursor:
        cursor.execute(query)
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
