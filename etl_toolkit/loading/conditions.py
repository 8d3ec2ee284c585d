"""What the target demands of a row by itself, as conditions on a table that holds copies of its columns.

Staging tables carry them, so that a bad row is refused there even if it would lose to a later row with its key; so does
the table that finds bad rows one by one. What needs a column the files do not carry is left to the target.
"""

from __future__ import annotations

from psycopg2.sql import SQL, Composable, Identifier

from etl_toolkit.model import Layout, TargetTable

# A row is held against each partition in turn, so beyond this many that costs more than it is worth while staging.
MOST_PARTITIONS = 64


def conditions(
    target: TargetTable, layout: Layout, *, most_partitions: int | None = MOST_PARTITIONS
) -> list[Composable]:
    """Return actions for ALTER TABLE on a table with the columns of `layout`; None: however many partitions there are."""
    present = set(layout.columns)
    required = {column.name for column in target.columns if column.not_null}
    if not target.arbiter.nulls_not_distinct:
        required |= set(target.key)
    actions: list[Composable] = [
        SQL("ALTER {} SET NOT NULL").format(Identifier(name)) for name in layout.columns if name in required
    ]
    if target.arbiter.predicate:
        actions.append(_add(target.arbiter.index, f"CHECK (({target.arbiter.predicate}) IS TRUE)"))
    if not target.arbiter.is_plain:  # an expression may fail on a row
        parts = " AND ".join(f"({part}) IS NOT DISTINCT FROM ({part})" for part in target.arbiter.expressions)
        actions.append(_add(f"{target.arbiter.index}_key", f"CHECK ({parts})"))
    return actions + [
        _add(check.name, check.definition)
        for check in target.checks
        if present.issuperset(check.columns) and (most_partitions is None or check.parts <= most_partitions)
    ]


def _add(name: str, definition: str) -> Composable:
    return SQL("ADD CONSTRAINT {} {}").format(Identifier(name), SQL(definition))
