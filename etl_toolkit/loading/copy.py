"""Bytes into COPY: a file's own bytes, or records that DuckDB writes into a pipe."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, BinaryIO

import duckdb
import psycopg2

from etl_toolkit.errors import EtlError, SourceError
from etl_toolkit.model import SourceFile
from etl_toolkit.sources import LINE_SEPARATOR, read_failure

BUFFER_BYTES = 1 << 18

OnBytes = Callable[[bytes], None]


class CountingReader:
    """A binary stream that shows every block to `on_bytes`, which may stop the reading by raising."""

    def __init__(self, stream: Any, on_bytes: OnBytes) -> None:
        self._stream = stream
        self._on_bytes = on_bytes

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._stream.read(size)
        self._on_bytes(data)
        return data


class RecordPipe:
    """The one text column of a DuckDB query as a byte stream, a record a line, in the query's order.

    A producer that fails closes the pipe, which looks like the end of the data; leaving the context raises SourceError
    then, so nothing may be committed before.
    """

    def __init__(self, source: duckdb.DuckDBPyConnection, query: str, files: Sequence[SourceFile] = ()) -> None:
        read_end, self._write_end = os.pipe()
        self.stream: BinaryIO = os.fdopen(read_end, "rb", buffering=0)
        self._source = source
        self._query = query
        self._files = files
        self._failure: BaseException | None = None
        self.sent = 0
        self._producer = threading.Thread(target=self._produce, name="etl-read", daemon=True)

    def _produce(self) -> None:
        try:
            # A field separator that no record holds and no quote character: records go out as they are.
            statement = (
                f"COPY ({self._query}) TO '/dev/fd/{self._write_end}' "
                f"(FORMAT csv, HEADER false, DELIMITER '{LINE_SEPARATOR}', QUOTE '', ESCAPE '')"
            )
            self.sent = self._source.execute(statement).fetchall()[0][0]
        except BaseException as error:  # told to the consuming thread
            self._failure = error
        finally:
            os.close(self._write_end)

    def __enter__(self) -> RecordPipe:
        self._producer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stream.close()
        self._producer.join()
        if self._failure is not None and kind is None:
            raise read_failure(self._files, self._failure) from None


def copy_records(
    cursor: Any, source: duckdb.DuckDBPyConnection, query: str, statement: Any, *, on_bytes: OnBytes
) -> int:
    """COPY the records of a DuckDB query, in its order; return the rows sent.

    Raises psycopg2.Error as the server says, SourceError where DuckDB fails, EtlError where the two counts differ.
    """
    with RecordPipe(source, query) as pipe:
        cursor.copy_expert(statement, CountingReader(pipe.stream, on_bytes), size=BUFFER_BYTES)
    if pipe.sent != cursor.rowcount:
        raise EtlError(f"{pipe.sent} rows were sent to COPY but it took {cursor.rowcount}; nothing is written")
    return pipe.sent


def copy_file(cursor: Any, file: SourceFile, statement: Any, *, on_bytes: OnBytes) -> int:
    """COPY the bytes of a plain CSV file as they are, past its header; return the rows that COPY took."""
    with open_body(file) as stream:
        cursor.copy_expert(statement, CountingReader(stream, on_bytes), size=BUFFER_BYTES)
    return int(cursor.rowcount)


@contextmanager
def open_body(file: SourceFile) -> Iterator[BinaryIO]:
    """The bytes of a plain CSV file behind its header."""
    assert file.readable is not None
    try:
        opened = file.readable.open("rb", buffering=BUFFER_BYTES)
    except OSError as error:
        raise SourceError(
            f"{file.name}: cannot be read any more: {error.strerror}; was it removed meanwhile?"
        ) from None
    with opened as stream:
        if file.dialect.has_header:
            stream.readline()
        yield stream


def is_row_error(error: psycopg2.Error) -> bool:
    """Whether the server refused a row (its values or a constraint on it), rather than the statement or the session."""
    code = error.pgcode or ""
    return code.startswith("22") or code in ("23502", "23514", "23503")
