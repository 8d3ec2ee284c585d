"""The row as it is in the table, and as it would be with the values of a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg2.sql import SQL, Identifier, Literal

from etl_toolkit.explain.explanation import Candidate
from etl_toolkit.loading.conventions import PRINTED, set_locally
from etl_toolkit.loading.ledger import PastRun
from etl_toolkit.model import TargetTable


def read_as(connection: Any, run: PastRun) -> None:
    """Read texts, and print values, as the run did, until the next one or the end of the transaction."""
    with connection.cursor() as cursor:
        set_locally(cursor, run.plan.get("conventions", PRINTED))


def read_present_row(connection: Any, target: TargetTable, key: Mapping[str, str]) -> dict[str, str | None] | None:
    """The row with the key, its values as text; None where it is not there."""
    equality = dict(zip(target.arbiter.expressions, target.arbiter.equality, strict=True))
    condition = SQL(" AND ").join(
        SQL("{} {} {}::{}").format(
            column, SQL(equality.get(name) or equality.get(column.as_string(connection), "=")), Literal(value),
            SQL(target.column(name).type),
        )
        for name, value in key.items()
        for column in [Identifier(name)]
    )  # fmt: skip
    if target.arbiter.predicate:
        condition += SQL(" AND ({})").format(SQL(target.arbiter.predicate))
    texts = SQL(", ").join(SQL("{}::text").format(Identifier(column.name)) for column in target.columns)
    with connection.cursor() as cursor:
        cursor.execute(
            SQL("SELECT {} FROM {} WHERE {}").format(texts, Identifier(target.schema, target.name), condition)
        )
        found = cursor.fetchone()
    return dict(zip((column.name for column in target.columns), found, strict=True)) if found else None


def spell_as_stored(
    connection: Any, target: TargetTable, row: Mapping[str, str | None] | None, holder: Candidate
) -> dict[str, str | None] | None:
    """The row as it would be with the values of a file's row, each as its column spells it; the key stays as it is."""
    if holder.is_gone:
        return None
    if row is None:
        return {}
    names = [name for name in holder.values if name in row and name not in holder.key]
    texts = [SQL("{}::{}::text").format(Literal(holder.values[name]), SQL(target.column(name).type)) for name in names]
    with connection.cursor() as cursor:
        cursor.execute(SQL("SELECT {}").format(SQL(", ").join(texts or [SQL("NULL")])))
        return {**row, **dict(zip(names, cursor.fetchone(), strict=False))}
