"""What notebook 02 shows of loads: the same files with every strategy, and whether all tables end the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import psycopg2
from psycopg2 import sql

from etl_toolkit.bench.answer import Answer, table_answer
from etl_toolkit.bench.workload import Workload, table_sql
from etl_toolkit.errors import UnsafeStrategyError
from etl_toolkit.model import LoadResult, StrategyName
from etl_toolkit.processor import ingest
from etl_toolkit.reporting.trials import without_paths
from etl_toolkit.request import connection_string
from etl_toolkit.tables import Cell, Lines, Table, to_html

SCHEMA = "etl_notebook"


def new_table(dsn: str | None, workload: Workload, name: str) -> str:
    """Create the table that the files of `workload` belong to, replacing it, and return its name."""
    with closing(psycopg2.connect(connection_string(dsn))) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SET client_min_messages = warning")
        cursor.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(SCHEMA)))
        table = sql.Identifier(SCHEMA, name)
        cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(table))
        cursor.execute(table_sql(workload, table.as_string(connection)))
    return f"{SCHEMA}.{name}"


@dataclass(frozen=True)
class Walk:
    """The same files with several strategies: results, why a strategy declined, and what the tables hold."""

    results: dict[str, LoadResult] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)

    @property
    def is_right(self) -> bool:
        """Whether every load accounts for every row, and all tables hold the same rows."""
        return all(self.results.values()) and len(set(self.answers.values())) == 1

    def _repr_html_(self) -> str:
        rows: list[list[Cell]] = []
        for name, result in self.results.items():
            counts, answer = result.counts, self.answers[name]
            rows.append(
                [
                    name, str(result.strategy), counts.read, counts.inserted, counts.updated, counts.unchanged,
                    counts.superseded_same_file + counts.superseded_later_file, counts.rejected, result.wall_seconds,
                    f"{answer.rows:,} rows, {answer.first & 0xFFFFFFFF:08x}",
                ]
            )  # fmt: skip
        head = ("asked for", "ran", "read", "inserted", "updated", "unchanged", "superseded", "rejected", "seconds",
                "table afterwards: rows, hash")  # fmt: skip
        refused = [reason.split(";")[0] for reason in self.refused.values()]
        return to_html([Table("The same files with each strategy", head, rows), *map(Lines, refused)])


def with_every_strategy(
    files: Sequence[str], tables: Mapping[StrategyName, str], key: Sequence[str], dsn: str | None, *, concurrency: int
) -> Walk:
    """Load `files` once per strategy, into a table of its own, and read what each table holds afterwards."""
    walk = Walk()
    with closing(psycopg2.connect(connection_string(dsn))) as connection:
        connection.autocommit = True
        for strategy, table in tables.items():
            try:
                walk.results[strategy] = ingest(
                    list(files), table, key, dsn, strategy=strategy, concurrency=concurrency, progress=False
                )
            except UnsafeStrategyError as error:
                walk.refused[strategy] = without_paths(str(error), files)
                continue
            qualified = sql.Identifier(*table.split(".")).as_string(connection)
            walk.answers[strategy] = table_answer(connection, qualified)
    return walk
