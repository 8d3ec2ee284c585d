"""What the notebooks show of loads: the same files with every strategy, the same load again, and one conflict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import psycopg2
from psycopg2 import sql

from etl_toolkit.bench.answer import Answer, table_answer
from etl_toolkit.bench.workload import Workload, table_sql
from etl_toolkit.errors import UnsafeStrategyError
from etl_toolkit.explain import Explanation, explain
from etl_toolkit.model import LoadResult, StrategyName
from etl_toolkit.processor import ingest
from etl_toolkit.reporting.content import Bullets, Section, Text
from etl_toolkit.request import connection_string
from etl_toolkit.tables import Cell, Table


def new_table(dsn: str | None, workload: Workload, name: str, *, schema: str = "etl_notebook") -> str:
    """Create the table that the files of `workload` belong to, replacing it, and return its name."""
    with closing(psycopg2.connect(connection_string(dsn))) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SET client_min_messages = warning")
        cursor.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
        table = sql.Identifier(schema, name)
        cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(table))
        cursor.execute(table_sql(workload, table.as_string(connection)))
    return f"{schema}.{name}"


@dataclass(frozen=True)
class Walk:
    """The same files with several strategies.

    `refused` says why a strategy declined, `answers` what the tables hold.
    """

    results: Mapping[str, LoadResult]
    refused: Mapping[str, str] = field(default_factory=dict)
    answers: Mapping[str, Answer] = field(default_factory=dict)

    @property
    def is_right(self) -> bool:
        """Whether every load accounts for every row, and all tables hold the same rows."""
        return all(self.results.values()) and len(set(self.answers.values())) == 1

    @property
    def written(self) -> int:
        """Rows inserted and updated by all loads."""
        return sum(result.counts.written for result in self.results.values())

    def _repr_html_(self) -> str:
        from etl_toolkit.tables import to_html

        return to_html([self._table()])

    def _table(self) -> Table:
        rows: list[list[Cell]] = []
        for name, result in self.results.items():
            counts = result.counts
            answer = self.answers[name]
            rows.append(
                [
                    name, str(result.strategy), counts.read, counts.inserted, counts.updated, counts.unchanged,
                    counts.superseded_same_file + counts.superseded_later_file, counts.rejected, result.wall_seconds,
                    f"{answer.rows:,} rows, {answer.first & 0xFFFFFFFF:08x}",
                ]
            )  # fmt: skip
        nothing: list[Cell] = [None] * 7
        rows += [[name, "refused", *nothing, reason.split(";")[0]] for name, reason in self.refused.items()]
        head = ("asked for", "ran", "read", "inserted", "updated", "unchanged", "superseded", "rejected", "seconds",
                "table afterwards: rows, hash")  # fmt: skip
        return Table("The same files with each strategy", head, rows)


def with_every_strategy(
    files: Sequence[str], tables: Mapping[StrategyName, str], key: Sequence[str], dsn: str | None, *,
    concurrency: int | None = None, progress: bool | None = None,
) -> Walk:  # fmt: skip
    """Load `files` once per strategy, into a table of its own, and read what each table holds afterwards."""
    results: dict[str, LoadResult] = {}
    refused: dict[str, str] = {}
    answers: dict[str, Answer] = {}
    with closing(psycopg2.connect(connection_string(dsn))) as connection:
        connection.autocommit = True
        for strategy, table in tables.items():
            try:
                results[strategy] = ingest(
                    list(files), table, key, dsn, strategy=strategy, concurrency=concurrency, progress=progress
                )
            except UnsafeStrategyError as error:
                refused[strategy] = _short(str(error), files)
                continue
            schema, name = table.split(".")
            answers[strategy] = table_answer(connection, sql.Identifier(schema, name).as_string(connection))
    return Walk(results, refused, answers)


def shared_key(files: Sequence[str], key: Sequence[str]) -> dict[str, str]:
    """Return a key that appears in most of the files, as texts; empty if no two files share one."""
    columns = ", ".join(f'"{name}"' for name in key)
    reads = [
        f"SELECT {columns}, {number} AS file FROM {'read_parquet' if name.endswith('.parquet') else 'read_csv'}(?)"
        for number, name in enumerate(files)
    ]
    with duckdb.connect() as connection:
        connection.execute("SET enable_progress_bar = false")
        row = connection.execute(
            f"SELECT {', '.join(f'{column}::VARCHAR' for column in columns.split(', '))} FROM "
            f"({' UNION ALL '.join(reads)}) GROUP BY {columns} HAVING count(DISTINCT file) > 1 ORDER BY "
            f"count(DISTINCT file) DESC, {columns} LIMIT 1",
            list(files),
        ).fetchone()
    return dict(zip(key, row, strict=True)) if row else {}


def one_conflict(files: Sequence[str], table: str, key: Sequence[str], dsn: str | None) -> Section:
    """Pick a key that several files carry, and explain why its row holds what it holds."""
    found = shared_key(files, key)
    if not found:
        return Section("One conflict", [Text("No two files share a key, so there is no conflict to explain.")])
    return conflict_section(explain(connection_string(dsn), table, found))


def conflict_section(found: Explanation) -> Section:
    """Show an explanation: the row as it is, every row of the files with its key, and the verdicts."""
    name = ", ".join(f"{column} = {value}" for column, value in found.key.items())
    row: list[Cell] = list(found.row.values()) if found.row else []
    now = [Table(f"The row of {found.table} with {name}", list(found.row), [row])] if found.row else []
    columns = list(found.occurrences[0].values) if found.occurrences else []
    rows: list[list[Cell]] = [
        [Path(item.file).name, item.record + 1, item.verdict, *(item.values.get(column) for column in columns)]
        for item in found.occurrences
    ]
    there = [Table("Rows with this key in the files, the latest first", ["file", "record", "verdict", *columns], rows)]
    notes = [Bullets(found.notes)] if found.notes else []
    return Section("One conflict", [*now, *there, *notes])


def _short(text: str, files: Sequence[str]) -> str:
    for name in files:
        text = text.replace(str(name), Path(name).name)
    return text
