"""The checksums of a Parquet file's pages, verified where the file carries them: DuckDB does not look at them.

Only the headers of pages are decoded (Thrift's compact protocol), never their values, so that it costs one CRC over the bytes.
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etl_toolkit.errors import SourceError
from etl_toolkit.sources.inputs import escape_name
from etl_toolkit.sources.parts import chunks_of, span_of

_PACKED_BYTES, _CHECKSUM = 3, 4  # fields of PageHeader: compressed_page_size and crc
_STOP, _TRUE, _FALSE, _BYTE, _I64, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 0, 1, 2, 3, 6, 7, 8, 9, 10, 12


def verify_checksums(path: Path, metadata: Any, chosen: Collection[str] | None = None) -> None:
    """Raise SourceError where the bytes of a page are not those that its checksum was taken of; of some columns, or of all."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for group, column in chunks_of(metadata, chosen):
            for page in _pages(data, *span_of(column)):
                if zlib.crc32(data[page.begin : page.end]) != page.checksum:
                    raise SourceError(
                        f"{escape_name(path)}: is damaged: a page of column {column.path_in_schema!r}, row group {group + 1}, "
                        "does not match its checksum; copy it again from where it was written, or write it again"
                    )


@dataclass(frozen=True)
class _Page:
    """The bytes of a page behind its header, and the checksum they should have."""

    begin: int
    end: int
    checksum: int


def _pages(data: mmap.mmap, at: int, end: int) -> Iterator[_Page]:
    """The pages of a column chunk; none where the first one has no checksum, or a header cannot be read."""
    while at < end:
        try:
            header = _Reader(data, at)
            fields = header.numbers()
            begin, size, checksum = header.at, fields[_PACKED_BYTES], fields[_CHECKSUM]
        except (KeyError, IndexError, ValueError):
            return
        if size < 0 or begin + size > end:
            return
        yield _Page(begin, begin + size, checksum & 0xFFFFFFFF)
        at = begin + size


class _Reader:
    """Reads one struct of Thrift's compact protocol."""

    def __init__(self, data: mmap.mmap, at: int) -> None:
        self._data = data
        self.at = at

    def numbers(self) -> dict[int, int]:
        """The integer fields of a struct, by their number; others are skipped."""
        found, number = {}, 0
        while (head := self._byte()) != _STOP:
            kind = head & 15
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            if _BYTE < kind <= _I64:
                found[number] = self._zigzag()
            else:
                self._skip(kind)
        return found

    def _byte(self) -> int:
        value = self._data[self.at]
        self.at += 1
        return value

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 70:
                raise ValueError("no such number")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _skip(self, kind: int) -> None:
        if kind in (_TRUE, _FALSE):
            return
        if kind == _BYTE:
            self.at += 1
        elif _BYTE < kind <= _I64:
            self._varint()
        elif kind == _DOUBLE:
            self.at += 8
        elif kind == _BINARY:
            size = self._varint()
            self.at += size
        elif kind == _STRUCT:
            self.numbers()
        elif kind in (_LIST, _SET):
            head = self._byte()
            for _ in range(head >> 4 if head >> 4 < 15 else self._varint()):
                # An element that is a boolean takes a byte, unlike a field.
                self._skip(_BYTE if head & 15 in (_TRUE, _FALSE) else head & 15)
        else:
            raise ValueError("no such type")
