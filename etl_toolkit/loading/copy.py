"""Bytes into COPY: a file's own bytes, or records that DuckDB writes into a pipe."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, BinaryIO

import duckdb
import psycopg2

from etl_toolkit.errors import EtlError, SourceError
from etl_toolkit.model import SourceFile
from etl_toolkit.sources import LINE_SEPARATOR

BUFFER_BYTES = 1 << 18


class CountingReader:
    """A binary file that reports the bytes read through it, and stops when told to."""

    def __init__(self, stream: BinaryIO, on_bytes: Callable[[int], None]) -> None:
        self._stream = stream
        self._on_bytes = on_bytes

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._on_bytes(len(data))
        return data


def copy_records(
    cursor: Any, source: duckdb.DuckDBPyConnection, query: str, statement: Any, *, on_bytes: Callable[[int], None]
) -> int:
    """COPY the one text column of a DuckDB query, a record a row, in the query's order; return the rows sent.

    Raises psycopg2.Error as the server says, SourceError where DuckDB fails or the two counts differ. A pipe that ends
    early looks like the end of the data to COPY, so the caller must not commit before this function has returned.
    """
    read_end, write_end = os.pipe()
    sent: list[int] = []
    failure: list[BaseException] = []

    def produce() -> None:
        try:
            sent.append(
                source.execute(
                    f"COPY ({query}) TO '/dev/fd/{write_end}' "
                    f"(FORMAT csv, HEADER false, DELIMITER '{LINE_SEPARATOR}', QUOTE '', ESCAPE '')"
                ).fetchall()[0][0]
            )
        except BaseException as error:  # handed to the consuming thread
            failure.append(error)
        finally:
            os.close(write_end)

    producer = threading.Thread(target=produce, name="etl-read", daemon=True)
    producer.start()
    try:
        with os.fdopen(read_end, "rb", buffering=0) as stream:
            cursor.copy_expert(statement, CountingReader(stream, on_bytes), size=BUFFER_BYTES)  # type: ignore[arg-type]
    finally:
        producer.join()
    if failure:
        raise SourceError(f"reading failed: {str(failure[0]).strip().splitlines()[0]}") from None
    if sent[0] != cursor.rowcount:
        raise EtlError(f"{sent[0]} rows were sent to COPY but it took {cursor.rowcount}; nothing is written")
    return sent[0]


def copy_file(cursor: Any, file: SourceFile, statement: Any, *, on_bytes: Callable[[int], None]) -> int:
    """COPY the bytes of a plain CSV file as they are, past its header; return the rows that COPY took."""
    assert file.readable is not None
    with file.readable.open("rb", buffering=BUFFER_BYTES) as stream:
        if file.dialect.has_header:
            stream.readline()
        cursor.copy_expert(statement, CountingReader(stream, on_bytes), size=BUFFER_BYTES)  # type: ignore[arg-type]
    return int(cursor.rowcount)


def is_row_error(error: psycopg2.Error) -> bool:
    """Whether the server refused a row (its values or a constraint on it), rather than the statement or the session."""
    code = error.pgcode or ""
    return code.startswith("22") or code in ("23502", "23514", "23503")
