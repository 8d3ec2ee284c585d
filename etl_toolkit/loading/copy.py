"""Bytes into COPY: a file's own bytes, or the records of a DuckDB query."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, BinaryIO

import duckdb
import psycopg2

from etl_toolkit.errors import EtlError, SourceError
from etl_toolkit.loading.second_result import first_reason_kept
from etl_toolkit.model import SourceFile
from etl_toolkit.sources import RecordStore, read_failure

BUFFER_BYTES = 1 << 18
RECORDS_AT_ONCE = 2_048  # as many as DuckDB itself handles at once

# Classes of SQLSTATE that concern the statement, the session or the server, or several rows at once (21).
_NOT_OF_A_ROW = frozenset((
    "03", "08", "0A", "0B", "21", "24", "25", "26", "28", "34", "3B", "3D", "3F", "40", "42", "53", "54", "55", "57", "58", "72",
    "F0", "HV", "XX",
))  # fmt: skip
# "COPY t, line 3, column v: …", in the language of the server. Without a column, it is not about a value.
_IN_A_VALUE = re.compile(r"""^[^\n"«»]*(?:COPY|복사)[^\n]*?[,、] ?[^\d,、:\n]*\d+[^,、:\n"]*[,、] ?\S""", re.MULTILINE)
_POLICY_CHECK = "ExecWithCheckOptions"  # the function of the server that refuses a row by row-level security

OnBytes = Callable[[int, int], None]  # bytes, rows


class _Watched:
    """A binary stream that tells `on_bytes` of every block, which may stop the reading by raising.

    How many rows are in a block is asked of a stream that counts what it has `sent`; else its lines are counted.
    """

    def __init__(self, stream: Any, on_bytes: OnBytes) -> None:
        self._stream = stream
        self._on_bytes = on_bytes
        self.failure: Exception | None = None

    def read(self, size: int = -1) -> bytes:
        try:
            before = getattr(self._stream, "sent", None)
            data: bytes = self._stream.read(size)
            rows = data.count(b"\n") if before is None else self._stream.sent - before
            self._on_bytes(len(data), rows)
        except Exception as error:
            self.failure = error
            raise
        return data


def copy_stream(cursor: Any, statement: Any, stream: Any, *, on_bytes: OnBytes) -> int:
    """COPY what `stream` reads; return the rows that the server took.

    Raises what `stream` or `on_bytes` raised, which psycopg2 would report as an error of the server.
    """
    watched = _Watched(stream, on_bytes)
    try:
        with first_reason_kept():
            cursor.copy_expert(statement, watched, size=BUFFER_BYTES)
    except psycopg2.Error:
        if watched.failure is not None:
            raise watched.failure from None
        raise
    return int(cursor.rowcount)


class RecordReader:
    """The one column of a DuckDB query as a byte stream, in the query's order: `record`, or its `place` in a `store`.

    Leaving the context raises what DuckDB raised in a `read` as SourceError.
    """

    def __init__(
        self,
        source: duckdb.DuckDBPyConnection,
        query: str,
        files: Sequence[SourceFile] = (),
        store: RecordStore | None = None,
    ) -> None:
        self._source = source
        self._query = query if store else f"SELECT record || chr(10) FROM ({query})"
        self._files = files
        self._store = store
        self._rows_at_once = store.rows_at_once(RECORDS_AT_ONCE) if store else RECORDS_AT_ONCE
        self._batches: Any = None
        self._pieces: Iterator[Any] = iter(())
        self._lines: Any = None  # read already, not given out
        self._failure: Exception | None = None
        self.sent = 0

    def is_empty(self) -> bool:
        """Whether no records are left. Reads the next of them to find out."""
        while self._lines is None:
            self._lines = next(self._pieces, None)
            if self._lines is None:
                batch = self._next_batch()
                if batch is None:
                    return True
                self._pieces = self._store.lines_at(batch) if self._store else iter([batch])
        return False

    def _next_batch(self) -> Any:
        try:
            self._batches = self._batches or self._source.sql(self._query).to_arrow_reader(self._rows_at_once)
            return next((batch.column(0) for batch in self._batches if batch.num_rows), None)
        except Exception as error:
            self._failure = error
            raise

    def read(self, _size: int = -1) -> bytes:
        """The next records, however many bytes they take; empty at the end."""
        return self.take()

    def take(self, most: int | None = None) -> bytes:
        """The same, at most so many records."""
        if self.is_empty():
            return b""
        lines, self._lines = self._lines, None
        if most is not None and most < len(lines):
            lines, self._lines = lines[:most], lines[most:]
        self.sent += len(lines)
        _, offsets, data = lines.buffers()
        ends = memoryview(offsets).cast("q")  # 64 bits: see `arrow_large_buffer_size`
        return memoryview(data)[ends[lines.offset] : ends[lines.offset + len(lines)]].tobytes()

    def __enter__(self) -> RecordReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._batches is not None:
            self._batches.close()
        if self._failure is not None:
            raise read_failure(self._files, self._failure) from None


def copy_records(
    cursor: Any, source: duckdb.DuckDBPyConnection, query: str, statement: Any, *, on_bytes: OnBytes,
    store: RecordStore | None = None,
) -> int:  # fmt: skip
    """COPY the records of a DuckDB query, or those at its places in a store, in its order; return the rows sent.

    Raises psycopg2.Error as the server says, SourceError where DuckDB fails, EtlError where the two counts differ.
    """
    with RecordReader(source, query, store=store) as records:
        taken = copy_stream(cursor, statement, records, on_bytes=on_bytes)
    if records.sent != taken:
        raise EtlError(f"{records.sent} rows were sent to COPY but it took {taken}; nothing is written")
    return records.sent


@contextmanager
def open_body(file: SourceFile) -> Iterator[BinaryIO]:
    """The bytes of a plain CSV file behind its header."""
    assert file.readable is not None
    try:
        with file.readable.open("rb", buffering=BUFFER_BYTES) as stream:
            if file.dialect.has_header:
                stream.readline()
            yield stream
    except OSError as error:
        raise SourceError(
            f"{file.name}: cannot be read any more: {error.strerror}; was it removed in the meantime?"
        ) from None


def is_row_error(error: psycopg2.Error) -> bool:
    """Whether the server refused a row (its values or a constraint on it), rather than the statement or the session."""
    code = error.pgcode or ""
    if code and code[:2] not in _NOT_OF_A_ROW:
        return True  # triggers and functions may raise any code of their own
    if code in ("54000", "428C9"):
        return True  # a row or an index entry that is too large; a value for a column that takes none
    if code == "42501" and error.diag.source_function == _POLICY_CHECK:
        return True  # else it is a privilege that the role lacks
    # What the input function of a type says concerns one value, whatever class of error it calls that: jsonpath has syntax
    # errors (42601), regclass unknown tables (42P01), tsvector positions beyond its limit (54000).
    return code[:2] in ("0A", "3D", "3F", "42", "54") and _IN_A_VALUE.search(error.diag.context or "") is not None
