"""Records in constant memory: some at a time, so that a file reaches the table in chunks; or nearly in key order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from etl_toolkit.loading.copy import BUFFER_BYTES

RUN_BYTES = 9 << 19
PART_BYTES = 1 << 19  # fits the second-level cache
LOOKED_AT_BYTES = 24  # of a key's field
LINES_AT_ONCE = 2_048


class Records(Protocol):
    """A stream of records that are counted as they are `sent`, and can be taken some at a time."""

    sent: int

    def take(self, most: int, /) -> bytes: ...

    def is_empty(self) -> bool: ...


class Chunk:
    """A reader over the next `most` records of a stream."""

    def __init__(self, records: Records, most: int) -> None:
        self._records = records
        self._end = records.sent + most

    @property
    def sent(self) -> int:
        return self._records.sent

    def read(self, _size: int = -1) -> bytes:
        left = self._end - self._records.sent
        return self._records.take(left) if left else b""


class LineReader:
    """The lines of a plain file, each of them a record. The last one may lack its end."""

    def __init__(self, body: BinaryIO) -> None:
        self._body = body
        self._block = b""
        self.sent = 0

    def is_empty(self) -> bool:
        """Whether no byte is left. Reads ahead to find out."""
        self._block = self._block or self._body.read(BUFFER_BYTES)
        return not self._block

    def take(self, most: int) -> bytes:
        """The next bytes, with at most `most` ends of lines; empty at the end."""
        if self.is_empty():
            return b""
        block, count = self._block, self._block.count(b"\n")
        end = len(block)
        if count > most:
            end, count = int(_places(np.frombuffer(block, dtype=np.uint8), ord("\n"))[most - 1]), most
        self._block = block[end:]
        self.sent += count
        return block[:end]


@dataclass(frozen=True)
class KeyField:
    """A part of the key: the number of the field that holds it, and whether it is sorted as an integer or as a text."""

    number: int
    is_integer: bool


class NearlySorted:
    """The lines of a plain file nearly in key order, within runs of RUN_BYTES: neighbours in the index are sent together.

    The order is for speed alone, so of a field only some bytes are looked at.
    """

    def __init__(self, body: BinaryIO, *, delimiter: bytes, key: Sequence[KeyField]) -> None:
        self._body = body
        self._delimiter = ord(delimiter)
        self._key = key
        self._rest = b""  # of the run before: the beginning of a line
        self._lines: list[bytes] = []  # of the run, without their ends
        self._order: Any = np.arange(0)  # the numbers of those that are still to be sent, in order
        self.sent = 0

    def read(self, _size: int = -1) -> bytes:
        """The next lines of the run, or the first of the next one; empty at the end."""
        while not len(self._order) and self._next_run():
            pass
        numbers, self._order = self._order[:LINES_AT_ONCE].tolist(), self._order[LINES_AT_ONCE:]
        self.sent += len(numbers)
        return b"\n".join([*map(self._lines.__getitem__, numbers), b""]) if numbers else b""

    def _next_run(self) -> bool:
        """Read a run of lines, and find their order; false at the end. The last line of the file may lack its end."""
        self._lines = []
        run = b"".join((self._rest, self._body.read(RUN_BYTES), bytes(LOOKED_AT_BYTES)))
        size = len(run) - LOOKED_AT_BYTES
        if size and size < len(self._rest) + RUN_BYTES and run[size - 1] != ord("\n"):
            run, size = run[:size] + b"\n" + run[size:], size + 1
        end = run.rfind(b"\n", 0, size) + 1
        self._rest = run[end:size]
        if end:
            self._order = self._sorted(np.frombuffer(run, dtype=np.uint8), end)
            self._lines = run.split(b"\n", len(self._order))
        return size > 0

    def _sorted(self, data: Any, end: int) -> Any:
        """The numbers of the lines that lie before `end`, in the order of their keys."""
        begins = _places(data[: end - 1], ord("\n"), first=0)
        order = np.arange(len(begins))
        for number, field in reversed(list(enumerate(self._key, start=1))):
            fields = begins
            if field.number:
                delimiters = _places(data[:end], self._delimiter)
                if len(delimiters) % len(begins):
                    return order  # not the file that was inspected: another check reports that
                fields = delimiters.reshape(len(begins), -1)[:, field.number - 1]
            texts = sliding_window_view(data, LOOKED_AT_BYTES)[fields[order]]
            is_last = number == len(self._key)
            if not is_last:  # of the last part, what follows the field in its line may decide between equal ones
                texts[np.logical_or.accumulate((texts == self._delimiter) | (texts == ord("\n")), axis=1)] = 0
            order = order[
                _sortable(texts, is_integer=field.is_integer).argsort(kind="quicksort" if is_last else "stable")
            ]
        return order


def _places(data: Any, byte: int, *, first: int | None = None) -> Any:
    """The places behind each such byte, and before them `first` where it is given."""
    parts = [np.flatnonzero(data[at : at + PART_BYTES] == byte) + at + 1 for at in range(0, len(data), PART_BYTES)]
    return np.concatenate([np.array([] if first is None else [first], dtype=np.int64), *parts])


def _sortable(texts: Any, *, is_integer: bool) -> Any:
    """A number for each text, a row of bytes: in the order of the texts or the integers, judged by seven or eight bytes.

    Integers are compared by length first; of texts, the bytes at the start that all have in common are left out.
    """
    if is_integer:
        lengths = (texts - ord("0") < 10).argmin(axis=1).astype(np.uint64)
        return lengths << np.uint64(56) | texts[:, :8].copy().view(">u8").ravel() >> np.uint64(8)
    first = min(int((texts == texts[0]).all(axis=0).argmin()), LOOKED_AT_BYTES - 8)
    return texts[:, first : first + 8].copy().view(">u8").ravel()
