"""CSV bytes cut at record ends, for `streaming`: a file reaches the table in chunks, in constant memory."""

from __future__ import annotations

from typing import BinaryIO

from etl_toolkit.loading.copy import BUFFER_BYTES


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
