"""What the target demands of a row by itself, as columns and conditions of a table that holds copies of its columns.

Staging tables carry them, so that a bad row is refused there even if it would lose to a later row with its key; so does
the table that finds bad rows one by one. Columns that the files do not carry are there as the target would fill them in:
by default or generated. What depends on a sequence, or on another default with a trace, is left to the target.
"""

from __future__ import annotations

from collections.abc import Iterable

from psycopg2.sql import SQL, Composable, Identifier, Literal

from etl_toolkit.model import Column, ForeignKey, Layout, RowCheck, TargetTable, WideIndex

# A row is held against each partition in turn, so beyond this many that costs more than it is worth while staging.
MOST_PARTITIONS = 64
LONG_ENTRY_BYTES = 2_000  # the server takes 2,704 bytes


def copied_columns(target: TargetTable, layout: Layout) -> list[str]:
    """Return the columns to copy from the target: those of `layout`, and plain ones that the conditions depend on."""
    return [*layout.columns, *(column.name for column in _added(target, layout) if not column.is_generated)]


def generated_keys(target: TargetTable, layout: Layout) -> list[str]:
    """Return the columns of the key that no file can carry."""
    return [name for name in target.key if name not in layout.columns]


def conditions(
    target: TargetTable, layout: Layout, *, most_partitions: int | None = MOST_PARTITIONS
) -> list[Composable]:
    """Return actions for ALTER TABLE on a table with the `copied_columns`; None: however many partitions there are."""
    added = _added(target, layout)
    required = {column.name for column in target.columns if column.not_null}
    if not target.arbiter.nulls_not_distinct:
        required |= set(target.key)
    names = [*layout.columns, *(column.name for column in added if column.is_generated)]
    actions: list[Composable] = [_fill_in(column) for column in added if column.expression is not None]
    actions += [SQL("ALTER {} SET NOT NULL").format(Identifier(name)) for name in names if name in required]
    checks = [
        (check.name, check.definition)
        for check in _checks(target, layout)
        if not check.name or most_partitions is None or check.parts <= most_partitions
    ]
    if _is_known(target, layout, target.arbiter.reads) and target.arbiter.predicate:
        checks.append((target.arbiter.index, f"CHECK (({target.arbiter.predicate}) IS TRUE)"))
    taken: set[str] = {""}
    for name, check in checks:  # an index may be named like a constraint: the second one goes without its name
        named = SQL("") if name in taken else SQL("CONSTRAINT {} ").format(Identifier(name))
        actions.append(SQL("ADD {}{}").format(named, SQL(check)))
        taken.add(name)
    return actions


def index_long_entries(target: TargetTable, layout: Layout, name: Composable) -> list[Composable]:
    """Return statements that let a table refuse entries too large for the target's indexes; short ones cost next to nothing."""
    return [
        SQL("CREATE INDEX ON {} USING btree ({}){}{}").format(
            name,
            SQL(", ").join(SQL("({})").format(SQL(part)) for part in index.parts),
            SQL(f" INCLUDE ({', '.join(index.included)})" if index.included else ""),
            SQL(" WHERE {} > {}").format(_length(index), Literal(LONG_ENTRY_BYTES)) if index.long_parts else SQL(""),
        )
        for index in _long_indexes(target, layout)
    ]


def _length(index: WideIndex) -> Composable:
    lengths = [SQL("coalesce(pg_catalog.octet_length(({})::text), 0)").format(SQL(part)) for part in index.long_parts]
    return SQL(" + ").join(lengths)


def _long_indexes(target: TargetTable, layout: Layout) -> list[WideIndex]:
    return [index for index in target.wide_indexes if _is_known(target, layout, index.columns)]


def foreign_keys(target: TargetTable, layout: Layout) -> list[ForeignKey]:
    """Return the foreign keys to look up; which rows of the table itself there will be is not known before."""
    carried = {*layout.columns, *(column.name for column in target.columns if column.is_generated)}
    return [
        key
        for key in target.foreign_keys
        if not key.is_self and carried.intersection(key.columns) and _is_known(target, layout, key.columns)
    ]


def _checks(target: TargetTable, layout: Layout) -> list[RowCheck]:
    return [check for check in target.checks if _is_known(target, layout, check.columns)]


def _added(target: TargetTable, layout: Layout) -> list[Column]:
    """The columns beside those of `layout` that the conditions depend on."""
    wanted = {name for check in _checks(target, layout) for name in check.columns} | set(target.key)
    if target.arbiter.predicate:
        wanted |= set(target.arbiter.reads)
    wanted |= {name for key in foreign_keys(target, layout) for name in key.columns}
    wanted |= {column.name for column in target.columns if column.is_generated and column.not_null}
    wanted |= {name for index in _long_indexes(target, layout) for name in index.columns}
    wanted = {name for name in wanted if _is_known(target, layout, [name])}
    wanted |= {name for column in target.columns if column.name in wanted for name in column.reads}
    return [column for column in target.columns if column.name in wanted and column.name not in layout.columns]


def _is_known(target: TargetTable, layout: Layout, names: Iterable[str]) -> bool:
    """Whether the values of all these columns are known before a row is inserted."""
    columns = {column.name: column for column in target.columns}
    return all(
        name in layout.columns
        or (name in columns and columns[name].is_repeatable and _is_known(target, layout, columns[name].reads))
        for name in names
    )


def _fill_in(column: Column) -> Composable:
    """How a column gets its value that no file carries."""
    name, expression = Identifier(column.name), SQL(column.expression or "NULL")
    if not column.is_generated:
        return SQL("ALTER {} SET DEFAULT {}").format(name, expression)
    return SQL("ADD COLUMN {} {}{} GENERATED ALWAYS AS ({}) {}").format(
        name,
        SQL(column.type),
        SQL(f" COLLATE {column.collation}" if column.collation else ""),
        expression,
        SQL("VIRTUAL" if column.generated == "v" else "STORED"),
    )
