"""A file's records on their way into a staging table, the rejected ones left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from psycopg2.sql import Composable

from etl_toolkit.errors import EtlError
from etl_toolkit.loading.conditions import LONG_ENTRY_BYTES, generated_keys
from etl_toolkit.loading.copy import RecordReader, copy_stream, open_body
from etl_toolkit.loading.naming import own_name
from etl_toolkit.loading.records import Chunk, LineReader
from etl_toolkit.loading.run import Run
from etl_toolkit.loading.staging_tables import (
    STAGING,
    copy_into,
    create_staging,
    drop_staging,
    empty_staging,
    marked_rows,
    set_file,
    staging_table,
)
from etl_toolkit.loading.tombstones import TOMBSTONES, narrow, tombstone_layout, tombstone_table
from etl_toolkit.model import Delete, Layout, SourceFile
from etl_toolkit.sources import is_record, ordinals, record_expression, text_relation, tombstone_expression
from etl_toolkit.workspace import literal


def stage(
    run: Run, cursor: Any, file: SourceFile, layout: Layout, *, chunk_records: int | None = None,
    destination: Composable | None = None, tombstones: Composable | None = None,
) -> Iterator[int]:  # fmt: skip
    """COPY one file into the staging table, its rejected records left out; yield the rows staged, after each chunk.

    Where rows may be tombstones, those go into a table of their own, and all are numbered.
    """
    rejected = ordinals(file, run.refused.get(file.position, ()))
    if delete := run.spec.write.delete:
        marked = tombstone_layout(run.target, layout, run.spec.order_by)
        queries = [
            (layout, destination or staging_table(), marked_records_query(file, layout, delete, is_gone=False)),
            (marked, tombstones or tombstone_table(), marked_records_query(file, marked, delete, is_gone=True)),
        ]
        yield sum(_stage_numbered(run, cursor, file, copy, rejected) for copy in queries)
        return
    statement = copy_into(destination or staging_table(), layout)
    if file.is_plain and is_record(file, layout) and not rejected:
        with open_body(file) as body:
            yield from _copy_chunks(run, cursor, statement, LineReader(body) if chunk_records else body, chunk_records)
        return
    with run.workspace.cursor() as source:
        query = records_query(file, layout)
        if rejected:
            name = f"rejected_{file.position}"
            source.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT unnest(?::BIGINT[]) AS record", [rejected])
            query = (
                f"SELECT record FROM (SELECT record, row_number() OVER () - 1 AS number FROM ({query})) "
                f"WHERE number NOT IN (SELECT record FROM {name})"
            )
        total = 0
        with RecordReader(source, query, [file]) as records:
            for rows in _copy_chunks(run, cursor, statement, records, chunk_records):
                total += rows
                yield rows
        if records.sent != total:
            raise EtlError(
                f"{file.name}: {records.sent} rows were sent to COPY but it took {total}; nothing is written"
            )


def _stage_numbered(
    run: Run, cursor: Any, file: SourceFile, copy: tuple[Layout, Composable, str], rejected: Sequence[int]
) -> int:
    """COPY the (record, number) of a query into a table with a number for each row, which is that in the file."""
    layout, destination, query = copy
    numbered = Layout((own_name(run.target, "etl_n"), *layout.columns), layout.delimiter)
    with run.workspace.cursor() as source:
        source.execute("CREATE OR REPLACE TEMP TABLE rejected AS SELECT unnest(?::BIGINT[]) AS number", [rejected])
        query = f"SELECT number || {literal(layout.delimiter)} || record AS record FROM ({query}) ANTI JOIN rejected USING (number)"
        with RecordReader(source, query, [file]) as records, run.phases.phase("copy"):
            taken = copy_stream(cursor, copy_into(destination, numbered), records, on_bytes=run.on_bytes)
        if records.sent != taken:
            raise EtlError(
                f"{file.name}: {records.sent} rows were sent to COPY but it took {taken}; nothing is written"
            )
    return taken


def create_tables(run: Run, cursor: Any, layout: Layout) -> None:
    """Make the session's staging table, and the one of tombstones where rows may be such."""
    delete = run.spec.write.delete
    cursor.execute(create_staging(run.target, layout, is_numbered=delete is not None))
    if delete:
        marked = tombstone_layout(run.target, layout, run.spec.order_by)
        cursor.execute(create_staging(narrow(run.target), marked, name=TOMBSTONES, is_numbered=True))


def set_tables_file(run: Run, cursor: Any, position: int) -> None:
    """Let the rows staged from now on belong to the file at `position`."""
    cursor.execute(set_file(run.target, position))
    if run.spec.write.delete:
        cursor.execute(set_file(run.target, position, table=tombstone_table()))


def drop_tables(run: Run, cursor: Any) -> None:
    """Make room for the staging tables of a file with other columns."""
    for name in _names(run):
        cursor.execute(drop_staging(name))


def _names(run: Run) -> list[str]:
    return [STAGING, TOMBSTONES] if run.spec.write.delete else [STAGING]


class Tables:
    """The staging tables of a session, for one file after the other: emptied where the next one has the same columns."""

    def __init__(self, run: Run, cursor: Any) -> None:
        self._run = run
        self.cursor = cursor
        self._layout: Layout | None = None

    def make(self, layout: Layout, position: int) -> None:
        """Have empty ones for the file at `position`."""
        if layout == self._layout:
            for name in _names(self._run):
                self.cursor.execute(empty_staging(name))
        else:
            if self._layout is not None:
                drop_tables(self._run, self.cursor)
            create_tables(self._run, self.cursor, layout)
        self._layout = layout
        set_tables_file(self._run, self.cursor, position)


def staged_source(run: Run, layout: Layout) -> Composable:
    """The relation of all staged rows."""
    if not run.spec.write.delete:
        return staging_table()
    kept = tombstone_layout(run.target, layout, run.spec.order_by).columns
    every = [*layout.columns, *generated_keys(run.target, layout)]
    return marked_rows(run.target, every, [staging_table()], [tombstone_table()], kept)


def _copy_chunks(
    run: Run, cursor: Any, statement: Composable, records: Any, chunk_records: int | None
) -> Iterator[int]:
    while True:
        stream = Chunk(records, chunk_records) if chunk_records else records
        with run.phases.phase("copy"):
            rows = copy_stream(cursor, statement, stream, on_bytes=run.on_bytes)
        yield rows
        if not chunk_records or records.is_empty():
            return


def records_query(file: SourceFile, layout: Layout) -> str:
    """A DuckDB query of the file's records as COPY reads them, in file order."""
    relation, texts = text_relation([file], layout.columns)
    return f"SELECT {record_expression(file, texts, layout)} AS record FROM {relation}"


def marked_records_query(file: SourceFile, layout: Layout, delete: Delete, *, is_gone: bool) -> str:
    """The same, each with its `number` among those that can be read, of the tombstones or of all others."""
    relation, texts = text_relation([file], [*layout.columns, delete.column])
    record = record_expression(file, texts[:-1], layout)
    every = f"SELECT {record} AS record, row_number() OVER () - 1 AS number, {tombstone_expression(texts[-1], delete)} AS gone"
    return f"SELECT record, number FROM ({every} FROM {relation}) WHERE {'gone' if is_gone else 'NOT gone'}"


def may_be_long(file: SourceFile) -> bool:
    """Whether a record of the file may be too long for an index of the table."""
    return not 0 < file.longest_record_bytes <= LONG_ENTRY_BYTES


def has_unique_keys(run: Run, position: int) -> bool:
    """Whether the scan proved that no two rows of the file have the same key."""
    overlap = run.plan.overlap
    if overlap is None or run.plan.key_path == "server":
        return False
    return not overlap.file_at[position].duplicates
