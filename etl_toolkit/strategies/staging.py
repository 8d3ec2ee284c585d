"""A file's records on their way into a staging table, the rejected ones left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from psycopg2.sql import Composable

from etl_toolkit.errors import EtlError
from etl_toolkit.loading.conditions import LONG_ENTRY_BYTES
from etl_toolkit.loading.copy import RecordReader, copy_stream, open_body
from etl_toolkit.loading.merge import copy_into, staging_table
from etl_toolkit.loading.records import RecordStream
from etl_toolkit.loading.run import Run
from etl_toolkit.model import Layout, SourceFile
from etl_toolkit.sources import is_record, ordinals, record_expression, text_relation


def stage(
    run: Run, cursor: Any, file: SourceFile, layout: Layout, *, chunk_records: int | None = None,
    destination: Composable | None = None,
) -> Iterator[int]:  # fmt: skip
    """COPY one file into the staging table, its rejected records left out; yield the rows staged, after each chunk."""
    statement = copy_into(destination or staging_table(), layout)
    rejected = ordinals(file, run.refused.get(file.position, ()))
    if file.is_plain and is_record(file, layout) and not rejected:
        with open_body(file) as body:
            yield from _copy_chunks(run, cursor, statement, body, chunk_records)
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


def _copy_chunks(run: Run, cursor: Any, statement: Composable, body: Any, chunk_records: int | None) -> Iterator[int]:
    records = RecordStream(body) if chunk_records else None
    while True:
        stream = records.chunk(chunk_records) if records and chunk_records else body
        with run.phases.phase("copy"):
            rows = copy_stream(cursor, statement, stream, on_bytes=run.on_bytes)
        yield rows
        if records is None or records.at_end():
            return


def records_query(file: SourceFile, layout: Layout) -> str:
    """A DuckDB query of the file's records as COPY reads them, in file order."""
    relation, texts = text_relation([file], layout.columns)
    return f"SELECT {record_expression(file, texts, layout)} AS record FROM {relation}"


def may_be_long(file: SourceFile) -> bool:
    """Whether a record of the file may be too long for an index of the table."""
    return not 0 < file.longest_record_bytes <= LONG_ENTRY_BYTES


def has_unique_keys(run: Run, position: int) -> bool:
    """Whether the scan proved that no two rows of the file have the same key."""
    overlap = run.plan.overlap
    if overlap is None or run.plan.key_path == "server":
        return False
    return not overlap.file_at[position].duplicates
