"""An object becomes a file of ours: all of it, or, of a Parquet file, the parts that are read, at their places."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

from etl_toolkit.errors import SourceError
from etl_toolkit.model import ReadOptions
from etl_toolkit.sources.fetched import room_wanted
from etl_toolkit.sources.inputs import kind_by_name
from etl_toolkit.sources.stores import (
    RETRY_SECONDS,
    PartsRefusedError,
    changed,
    open_store,
    read_object,
    without_secrets,
)
from etl_toolkit.sources.typed import find_parts
from etl_toolkit.stopping import Stop

if TYPE_CHECKING:
    from obstore.store import ObjectStore

TAIL_BYTES = 1 << 20  # of a Parquet file, read first: as a rule its footer is in it
GAP_BYTES = 1 << 20  # between two parts: another request takes longer
_LENGTH_AND_MAGIC = 8  # bytes behind a footer


def copy_object(
    url: str, below: Path, stop: Stop, options: ReadOptions, *, e_tag: str | None = None, size: int = 0
) -> Path:
    """Write an object to a file of ours; connections that break off are taken up again by obstore.

    Raises SourceError where its ETag is another. `size` is known where that is.
    """
    store, _, name = open_store(url, RETRY_SECONDS)
    copy = below.with_name(below.name + "".join(PurePosixPath(name.lower()).suffixes[-2:]))
    is_parquet = (options.format or kind_by_name(name)) == "parquet"
    with copy.open("w+b") as output:
        copied = _Copy(store, name, without_secrets(url), output, stop, e_tag, size)
        if not (is_parquet and options.columns and copied.write_tail()):
            copied.write()
            return copy
        for part in _joined(copied.find_parts(options)):
            copied.write(part)
    return copy


@dataclass
class _Copy:
    """The copy of an object, as long as that; parts that were not written read as zeros."""

    store: ObjectStore
    name: str
    shown: str
    output: BinaryIO
    stop: Stop
    e_tag: str | None
    size: int
    tail: int = 0  # where what is written of its end begins
    seen: str | None = None  # the ETag with which that came

    def write(self, part: tuple[int, int] | None = None) -> None:
        """Write a part of the object, or all of it."""
        blocks = read_object(self.store, self.name, self.shown, e_tag=self.e_tag, part=part)
        found = next(blocks)
        if self.seen not in (None, found["e_tag"]):  # by a server that ignores what is asked for
            raise changed(self.shown)
        self._write(part[0] if part else 0, blocks)

    def write_tail(self) -> bool:
        """Write the end of the object; False where it is to be read as a whole, which is small or has no version."""
        if self.e_tag is not None and self.size <= TAIL_BYTES:
            return False
        part = (self.size - TAIL_BYTES, self.size) if self.size else {"suffix": TAIL_BYTES}
        blocks = read_object(self.store, self.name, self.shown, e_tag=self.e_tag, part=part)
        try:
            found = next(blocks)
        except PartsRefusedError:
            return False
        self.size, self.seen = found["size"], found["e_tag"]
        if self.seen is None:
            return False
        self.e_tag = self.e_tag or self.seen
        self.tail = max(0, self.size - TAIL_BYTES)
        self._write(self.tail, blocks)
        return True

    def find_parts(self, options: ReadOptions) -> Sequence[tuple[int, int]]:
        """What is read of the object, by its footer, and is not written yet; all of it where there is no such footer."""
        self.output.seek(-_LENGTH_AND_MAGIC, os.SEEK_END)
        footer = self.size - _LENGTH_AND_MAGIC - int.from_bytes(self.output.read(4), "little")
        if 0 < footer < self.tail:
            self.write((footer, self.tail))
            self.tail = footer
        try:
            parts = find_parts(Path(self.output.name), options)
        except SourceError:  # what is wrong is seen when it is looked at
            parts = [(0, self.size)]
        return [(begin, min(end, self.tail)) for begin, end in parts if begin < self.tail]

    def _write(self, at: int, blocks: Iterator[Any]) -> None:
        self.output.seek(at)
        for block in blocks:
            self.stop.check()
            with room_wanted(Path(self.output.name)):
                self.output.write(block)
        self.output.flush()


def _joined(parts: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The parts, as one those that are close to each other."""
    spans: list[tuple[int, int]] = []
    for begin, end in parts:
        if spans and begin - spans[-1][1] <= GAP_BYTES:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((begin, end))
    return spans
