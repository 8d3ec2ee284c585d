"""Did the table end as the sequential load leaves it? Decided by a hash over every row's text, computed on the server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2 import sql

# What a value's text depends on. With `extra_float_digits` 1 a float is the shortest text that reads back as the same.
PINNED = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "xmloption": "content",
}


@dataclass(frozen=True)
class Answer:
    """The rows of a table, whatever their order: their number, and two sums of 64-bit hashes with different seeds."""

    rows: int
    first: int
    second: int

    def difference(self, right: Answer) -> str | None:
        """Say how this answer differs from the `right` one; None when it does not."""
        if self == right:
            return None
        if self.rows != right.rows:
            return f"wrong answer: the table has {self.rows} rows, the sequential load leaves {right.rows}"
        return f"wrong answer: {right.rows} rows as after the sequential load, but not with the same values"


def table_answer(
    connection: psycopg2.extensions.connection, table: str, columns: tuple[str, ...] | None = None
) -> Answer:
    """Return the answer that `table` (SQL) gives, over `columns` or all it has.

    Naming the columns leaves out those that a loader has added of its own. Planned in parallel where the server can.
    """
    what: sql.Composable = sql.SQL("whole_row_")  # an alias that no column should have
    if columns is not None:
        what = sql.SQL("ROW({})").format(sql.SQL(", ").join(map(sql.Identifier, columns)))
    query = sql.SQL(
        "SELECT count(*), coalesce(sum(hashtextextended(x, 0)::numeric), 0), "
        "coalesce(sum(hashtextextended(x, 1)::numeric), 0) FROM (SELECT ({})::text AS x FROM {} AS whole_row_) AS rows"
    ).format(what, sql.SQL(table))
    with connection.cursor() as cursor:
        for name, value in PINNED.items():
            cursor.execute("SELECT set_config(%s, %s, false)", (name, value))
        cursor.execute(query)
        row: tuple[Any, ...] = cursor.fetchone() or (0, 0, 0)
    return Answer(int(row[0]), int(row[1]), int(row[2]))
