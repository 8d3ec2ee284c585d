"""CSV bytes in constant memory: cut at record ends, so that a file reaches the table in chunks; or nearly in key order."""

from __future__ import annotations

from errno import ESTALE
from io import BufferedReader
from typing import Any, BinaryIO

import pyarrow as pa
from duckdb import DuckDBPyConnection

from etl_toolkit.loading.copy import BUFFER_BYTES, in_one_piece
from etl_toolkit.sources import Lines

RUN_BYTES = 8 << 20
LINES_AT_ONCE = 4_096


class Chunk:
    """A reader over the next `records` records of a RecordStream."""

    def __init__(self, stream: RecordStream, records: int) -> None:
        self._stream = stream
        self._left = records

    def read(self, _size: int = -1) -> bytes:
        if self._left <= 0:
            return b""
        data, records = self._stream.take(self._left)
        self._left -= records
        return data


class RecordStream:
    """CSV bytes, handed out in blocks that end at a given record.

    A line break inside quotes does not end a record: the quote characters before it are odd in number.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._rest = b""
        self._in_quotes = False
        self.ended = False

    def take(self, most: int) -> tuple[bytes, int]:
        """Return the next bytes, holding at most `most` record ends, and how many they hold."""
        block = self._rest or self._stream.read(BUFFER_BYTES)
        self._rest = b""
        if not block:
            self.ended = True
            return b"", 0
        if b'"' not in block and not self._in_quotes:
            count = block.count(b"\n")
            if count <= most:
                return block, count
            cut = -1
            for _ in range(most):
                cut = block.index(b"\n", cut + 1)
            self._rest = block[cut + 1 :]
            return block[: cut + 1], most
        return self._take_quoted(block, most)

    def _take_quoted(self, block: bytes, most: int) -> tuple[bytes, int]:
        count, offset = 0, 0
        for number, part in enumerate(block.split(b'"')):
            if number:
                self._in_quotes = not self._in_quotes
                offset += 1
            if not self._in_quotes:
                cut = -1
                while count < most and (cut := part.find(b"\n", cut + 1)) >= 0:
                    count += 1
                    if count == most:
                        end = offset + cut + 1
                        self._rest = block[end:]
                        return block[:end], count
            offset += len(part)
        return block, count

    def chunk(self, records: int) -> Chunk:
        return Chunk(self, records)

    def at_end(self) -> bool:
        """Whether no byte is left; reads ahead to find out."""
        if not self._rest and not self.ended:
            self._rest = self._stream.read(BUFFER_BYTES)
            self.ended = not self._rest
        return self.ended


class NearlySorted:
    """The lines of a plain file in key order within runs of RUN_BYTES: neighbours in the index are sent together.

    `order` is what DuckDB sorts a `line` by. It is for speed alone, so keys may be read roughly. No line may be longer than
    LONGEST_LINE_BYTES.
    """

    def __init__(self, body: BufferedReader, source: DuckDBPyConnection, order: str) -> None:
        self._body = body
        self._source = source
        self._order = order
        self._lines = Lines(RUN_BYTES + 1)
        self._rest = b""  # of the last run: the beginning of a line
        self._places: Any = ()
        self.sent = 0

    def read(self, _size: int = -1) -> bytes:
        """The next lines of the run, or the first of the next one; empty at the end."""
        if not len(self._places):
            self._places = self._next_run()
        places, self._places = self._places[:LINES_AT_ONCE], self._places[LINES_AT_ONCE:]
        self.sent += len(places)
        return in_one_piece(self._lines.lines_at(places)) if len(places) else b""

    def _next_run(self) -> Any:
        """The places of the next run's lines, in order."""
        filled = self._fill(self._lines.bytes.data)
        if not filled:
            return ()
        try:
            batch, end = self._lines.between(0, filled)
        except ValueError:
            raise OSError(ESTALE, "it has changed") from None
        self._rest = self._lines.bytes[end:filled].tobytes()
        self._source.register("lines", pa.RecordBatchReader.from_batches(Lines.schema, [batch]))
        found = self._source.table("lines").order(self._order).project("place")
        return found.to_arrow_table()["place"].combine_chunks()

    def _fill(self, room: memoryview) -> int:
        """Read a run; return its size. The last line of the file gets its end if it lacks it."""
        filled = len(self._rest)
        room[:filled] = self._rest
        while filled < RUN_BYTES and (count := self._body.readinto(room[filled:RUN_BYTES])):
            filled += count
        if 0 < filled < RUN_BYTES and room[filled - 1] != ord("\n"):
            room[filled] = ord("\n")
            filled += 1
        return filled
