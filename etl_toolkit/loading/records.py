"""CSV bytes in constant memory: cut at record ends, so that a file reaches the table in chunks; or nearly in key order."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Any, BinaryIO

from etl_toolkit.loading.copy import BUFFER_BYTES

RUN_BYTES = 1 << 20


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

    The next run is sorted while one is sent. The order is for speed alone, so keys are read roughly: `parse` says how, one
    for each of the key's `fields`; a run with a key that it cannot read stays in file order.
    """

    def __init__(
        self, body: BinaryIO, *, delimiter: bytes, fields: Sequence[int], parse: Sequence[Callable[[bytes], Any]]
    ) -> None:
        self._body = body
        self._delimiter = delimiter
        self._parts = list(zip(fields, parse, strict=True))
        self._last = max(fields)
        self._runs = _ahead(self._sorted())
        self.sent = 0

    def read(self, _size: int = -1) -> bytes:
        """The next run; empty at the end."""
        lines: list[bytes] = next(self._runs, [])
        self.sent += len(lines)
        return b"".join(lines)

    def _sorted(self) -> Iterator[list[bytes]]:
        while lines := self._body.readlines(RUN_BYTES):
            if not lines[-1].endswith(b"\n"):
                lines[-1] += b"\n"
            with suppress(ValueError, IndexError):
                lines.sort(key=self._key)
            yield lines

    def _key(self, line: bytes) -> Any:
        fields = line.rstrip(b"\n").split(self._delimiter, self._last + 1)
        if len(self._parts) == 1:
            return self._parts[0][1](fields[self._last])
        return [parse(fields[number]) for number, parse in self._parts]

    def __enter__(self) -> NearlySorted:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runs.close()


def _ahead(items: Iterator[Any]) -> Generator[Any]:
    """The same items, each made while the one before is in use."""
    with ThreadPoolExecutor(1, thread_name_prefix="etl-ahead") as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item
