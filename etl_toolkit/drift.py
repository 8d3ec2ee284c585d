"""Drift: columns of the files that the table lacks are added, and columns that are too narrow for their values are widened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import duckdb
import psycopg2
from psycopg2.sql import SQL, Composed, Identifier

from etl_toolkit.create import infer_columns, marks_only, retype
from etl_toolkit.errors import TargetError, map_driver_error
from etl_toolkit.loading.assertions import LENGTH_BYTES
from etl_toolkit.loading.dependents import find_dependent
from etl_toolkit.model import Column, Delete, LoadSpec, SourceFile, TargetTable
from etl_toolkit.sources import group_alike, read_failure, text_relation, tombstone_expression
from etl_toolkit.workspace import Workspace

_INTEGERS = {"int2": "smallint", "int4": "integer", "int8": "bigint", "numeric": "numeric"}
_LONGEST_VARCHAR = 10_485_760
_COLUMNS_PER_QUERY = 50


@dataclass(frozen=True)
class Change:
    """The statement that changes the table, the columns that it adds, and the types before of those that it widens."""

    statement: str
    added: tuple[str, ...] = ()
    widened: Mapping[str, str] = field(default_factory=dict)


def add_columns(
    connection: Any, spec: LoadSpec, target: TargetTable, files: Sequence[SourceFile], workspace: Workspace
) -> Change | None:
    """Add the columns of the files that the table lacks, or return None where it has them all.

    A column that only marks tombstones is none of them. The caller commits, or rolls back to leave no trace.
    """
    known = {column.name.casefold() for column in target.columns}
    known |= {mark.casefold()} if (mark := marks_only(spec)) else set()
    if all(name.casefold() in known for file in files for name in file.columns):
        return None
    # What only a directory says is taken where there is a column for it.
    own = {name for file in files for name in file.columns}
    new = [
        column for column in infer_columns(files, spec.key, workspace)
        if column.name.casefold() not in known and column.name in own
    ]  # fmt: skip
    items = [
        SQL("ADD COLUMN IF NOT EXISTS {} {}").format(Identifier(column.name), SQL(column.type))
        for column in retype(new, spec.write.types, [column.name for column in target.columns])
    ]
    statement = _execute(connection, target, items)
    return Change(statement, tuple(column.name for column in new))


def widen_columns(
    connection: Any, spec: LoadSpec, target: TargetTable, files: Sequence[SourceFile], workspace: Workspace, *,
    is_trial: bool,
) -> tuple[TargetTable, Change | None]:  # fmt: skip
    """Widen integers and varchar(n) to what the matched files hold; return the table with its columns as they are then.

    A trial executes nothing: the statement may rewrite the table. Raises TargetError for a column on which something depends.
    """
    narrow = [column for column in target.columns if _may_be_widened(column)]
    wider = _find_wider(narrow, files, spec.write.delete, workspace)
    if not wider:
        return target, None
    with connection.cursor() as cursor:
        dependent = find_dependent(cursor, target.oid, [*wider], keeps_column=True)
    if dependent:
        name, what = dependent
        raise TargetError(
            f"column {name!r} of {target.qualified_name} is {target.column(name).type}, and its values need {wider[name].type}; "
            f"it is not widened, because {what} depends on it: widen it yourself, or load without widen, which rejects these rows"
        )
    items = [
        SQL("ALTER COLUMN {} TYPE {}").format(Identifier(column.name), SQL(_spelled(column)))
        for column in wider.values()
    ]
    columns = tuple(wider.get(column.name, column) for column in target.columns)
    statement = _execute(connection, target, items, is_trial=is_trial)
    before = {name: _spelled(target.column(name)) for name in wider}
    return replace(target, columns=columns), Change(statement, widened=before)


def _execute(connection: Any, target: TargetTable, items: Sequence[Composed], *, is_trial: bool = False) -> str:
    statement = SQL("ALTER TABLE {} {}").format(Identifier(target.schema, target.name), SQL(", ").join(items))
    if not is_trial:
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
        except psycopg2.Error as error:
            raise map_driver_error(error, doing=f"changing the columns of {target.qualified_name}") from None
    return str(statement.as_string(connection))


def _spelled(column: Column) -> str:
    """The type with the column's own collation, which it would lose otherwise."""
    return f"{column.type} COLLATE {column.collation}" if column.collation else column.type


def _may_be_widened(column: Column) -> bool:
    is_varchar = column.base_type == "varchar" and column.type_modifier > 0
    return not column.is_generated and (is_varchar or column.base_type in ("int2", "int4", "int8"))


def _find_wider(
    columns: Sequence[Column], files: Sequence[SourceFile], delete: Delete | None, workspace: Workspace
) -> dict[str, Column]:
    """The columns that are too narrow, by name, as wide as they have to be."""
    needs: dict[str, int] = {}
    for group in group_alike(files):
        carried = [column for column in columns if column.name in group[0].carried]
        for start in range(0, len(carried), _COLUMNS_PER_QUERY):
            part = carried[start : start + _COLUMNS_PER_QUERY]
            for column, need in zip(part, _measure(part, group, delete, workspace), strict=True):
                needs[column.name] = max(needs.get(column.name, 0), need)
    return {column.name: wide for column in columns if (wide := _widened(column, needs.get(column.name, 0))) != column}


def _measure(
    columns: Iterable[Column], files: Sequence[SourceFile], delete: Delete | None, workspace: Workspace
) -> Sequence[int]:
    """What the values of each column need, in the rows that are no tombstones: characters, or the place of an integer type."""
    columns = list(columns)
    names = [column.name for column in columns]
    relation, texts = text_relation(files, [*names, delete.column] if delete else names)
    counts = f" FILTER (NOT {tombstone_expression(texts[-1], delete)})" if delete else ""
    needs = ", ".join(
        f"coalesce(max({_need(column, text)}){counts}, 0)"
        for column, text in zip(columns, texts[: len(columns)], strict=True)
    )
    try:
        return tuple(workspace.query(f"SELECT {needs} FROM {relation}")[0])
    except duckdb.Error as error:
        raise read_failure(files, error) from None


def _need(column: Column, text: str) -> str:
    """A DuckDB expression; a text that is no integer needs nothing, since no type that we choose takes it."""
    if column.base_type == "varchar":
        return f"length(rtrim({text}, ' '))"  # the server cuts off blanks that are too many
    number = f"ltrim(trim({text}), '+')"
    return (
        f"CASE WHEN regexp_full_match(trim({text}), '[+-]?[0-9]{{1,1000}}') THEN "
        f"CASE WHEN TRY_CAST({number} AS SMALLINT) IS NOT NULL THEN 0 WHEN TRY_CAST({number} AS INTEGER) IS NOT NULL THEN 1 "
        f"WHEN TRY_CAST({number} AS BIGINT) IS NOT NULL THEN 2 ELSE 3 END END"
    )


def _widened(column: Column, need: int) -> Column:
    """The column as wide as needed: a length is doubled, so that the next longer value does not change the table again."""
    if column.base_type != "varchar":
        base = list(_INTEGERS)[max(need, list(_INTEGERS).index(column.base_type))]
        return replace(column, base_type=base, type=_INTEGERS[base])
    length = column.type_modifier - LENGTH_BYTES
    while length < need:
        length *= 2
    if length == column.type_modifier - LENGTH_BYTES:
        return column
    if length > _LONGEST_VARCHAR:
        return replace(column, base_type="text", type="text", type_modifier=-1)
    return replace(column, type=f"character varying({length})", type_modifier=length + LENGTH_BYTES)
