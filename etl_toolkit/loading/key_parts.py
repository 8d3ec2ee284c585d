"""Names of the table and its columns in SQL, and the parts of the arbitrating index: their values, and when they are equal."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg2.sql import SQL, Composable, Composed, Identifier

from etl_toolkit.loading.naming import own_column
from etl_toolkit.model import TargetTable

NOTHING = SQL("")


def table(target: TargetTable) -> Identifier:
    """The target table, qualified: a temporary table of its name must not come first."""
    return Identifier(target.schema, target.name)


def key_items(target: TargetTable) -> Composed:
    """The values of the arbitrating index's key parts as items of a SELECT over the table's columns."""
    parts = zip(target.arbiter.expressions, key_aliases(target), strict=True)
    return SQL(", ").join(SQL("{} AS {}").format(SQL(expression), alias) for expression, alias in parts)


def match_keys(target: TargetTable, left: str, right: str) -> Composed:
    """A condition on two relations with `key_items`: their keys are the same to the index.

    By the operators of the index: another one may be found by name, if the schema of the type is not on the search path.
    Records are compared by those of their types as well, and NULLs in them are equal.
    """
    return equal_keys(target, [Identifier(left, *alias.strings) for alias in key_aliases(target)], right)


def equal_keys(target: TargetTable, parts: Sequence[Composable], right: str) -> Composed:
    """The same of the parts of a key and of a relation with `key_items`."""
    equal = SQL(
        "ROW({0})::record OPERATOR(pg_catalog.=) ROW({2})::record"
        if target.arbiter.nulls_not_distinct
        else "{0} {1} {2}"
    )
    return SQL(" AND ").join(
        equal.format(part, SQL(operator), Identifier(right, *alias.strings))
        for part, alias, operator in zip(parts, key_aliases(target), target.arbiter.equality, strict=True)
    )


def key_aliases(target: TargetTable) -> list[Identifier]:
    """Names for the values of the arbitrating index's key parts."""
    return [own_column(target, f"etl_k{number}") for number in range(len(target.arbiter.expressions))]


def names(columns: Sequence[str], qualifier: str | None = None) -> Composed:
    """Column names, quoted, as a list for SQL."""
    return SQL(", ").join(Identifier(qualifier, name) if qualifier else Identifier(name) for name in columns)
