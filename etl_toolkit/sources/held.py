"""Plain files held in memory: DuckDB keeps a number for each line, its *place*, and the bytes are fetched when they are sent.

Grouping, joining and sorting then move 8 bytes a row instead of the row (late materialization: Abadi et al., ICDE 2007).
A place is where the line begins, counted in bytes over all files, and its size: places are in the order of the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import Any

import numpy as np
import pyarrow as pa

from etl_toolkit.model import SourceFile

SIZE_BITS = 15
LONGEST_LINE_BYTES = (1 << SIZE_BITS) - 1  # a batch of 2,048 of them is 64 MB
LINES_AT_ONCE = 2 << 20  # bytes; what is found in them fits the second-level cache
INLINE_BYTES = 12  # Arrow keeps a shorter text in the view itself
BUFFER_BITS = 30  # Arrow counts in a buffer with 32 bits


def held_bytes(files: Sequence[SourceFile]) -> int:
    """The memory it takes to hold the files; 0 where they cannot be held: one is not plain, or has too long a line."""
    if not all(file.is_plain and file.longest_record_bytes < LONGEST_LINE_BYTES for file in files):
        return 0
    return sum(_room_for(file) for file in files)


def _room_for(file: SourceFile) -> int:
    assert file.readable is not None
    is_theirs = file.readable.is_symlink()  # and may be gone by now; else it is a copy of ours
    return (file.size_bytes if is_theirs else file.readable.stat().st_size) + 1  # the last line may lack its end


class HeldLines:
    """The bytes of plain files, in their order. `lines` reads a file in, `lines_at` and `with_records` find lines again."""

    def __init__(self, files: Sequence[SourceFile]) -> None:
        self._files = {file.position: file for file in files}
        ends = list(accumulate(_room_for(file) for file in files))
        self._spans = {file.position: (start, end) for file, start, end in zip(files, [0, *ends], ends, strict=False)}
        # Not numpy's own memory: it asks for huge pages, which a virtual machine may first have to get from its host.
        # Private: pages that could be shared take half as long again to get, and three times as long to give back.
        self._bytes = np.frombuffer(mmap(-1, ends[-1], flags=MAP_PRIVATE | MAP_ANONYMOUS), dtype=np.uint8)
        data, step = pa.py_buffer(self._bytes), 1 << BUFFER_BITS
        # Each holds whole every line that begins in its stretch.
        self._buffers = [
            data.slice(at, min(step + LONGEST_LINE_BYTES, ends[-1] - at)) for at in range(0, ends[-1], step)
        ]

    def lines(self, position: int) -> pa.RecordBatchReader:
        """Read a file in, and return its lines: batches of (place, line), the line without its end.

        Raises OSError (as DuckDB's error, for it is DuckDB that reads) where the file cannot be read or has shrunk.
        """
        schema = pa.schema([("place", pa.int64()), ("line", pa.string_view())])
        return pa.RecordBatchReader.from_batches(schema, self._batches(position, schema))

    def _batches(self, position: int, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        file = self._files[position]
        begin, _ = self._spans[position]
        for filled in self._read(file):
            ends = np.flatnonzero(self._bytes[begin:filled] == ord("\n"))
            sizes = np.diff(ends, prepend=-1)
            if not len(ends) or sizes.max() > LONGEST_LINE_BYTES:
                raise OSError(f"{file.readable} has changed")
            places = (begin + ends + 1 - sizes) << SIZE_BITS | sizes
            yield pa.RecordBatch.from_arrays([_int64(places), self._view(places, sizes - 1)], schema=schema)
            begin += int(ends[-1]) + 1

    def _read(self, file: SourceFile) -> Iterator[int]:
        """Fill a file's span with its lines, a block at a time; return up to where it is filled."""
        assert file.readable is not None
        start, end = self._spans[file.position]
        with file.readable.open("rb") as stream:
            header = stream.readline() if file.dialect.has_header else b""
            last = end - 1 - len(header)
            while start < last:
                count = stream.readinto(self._bytes[start : min(start + LINES_AT_ONCE, last)].data)
                if not count:
                    raise OSError(f"{file.readable} has shrunk")
                start += count
                if start == last and self._bytes[last - 1] != ord("\n"):
                    self._bytes[last] = ord("\n")
                    start += 1
                yield start

    def with_records(self, rows: pa.RecordBatchReader) -> pa.RecordBatchReader:
        """The same rows, with a `record` where they have a `place`."""
        at = rows.schema.get_field_index("place")
        schema = rows.schema.set(at, pa.field("record", pa.string_view()))

        def batches() -> Iterator[pa.RecordBatch]:
            for batch in rows:
                numbers = _numbers(batch.column(at))
                records = self._view(numbers, (numbers & LONGEST_LINE_BYTES) - 1)
                columns = [records if number == at else column for number, column in enumerate(batch.columns)]
                yield pa.RecordBatch.from_arrays(columns, schema=schema)

        return pa.RecordBatchReader.from_batches(schema, batches())

    def lines_at(self, places: pa.Array) -> pa.Array:
        """The lines at these places with their ends, one after the other in one piece of memory."""
        numbers = _numbers(places)
        return self._view(numbers, numbers & LONGEST_LINE_BYTES).cast(pa.large_string())

    def _view(self, places: Any, sizes: Any) -> pa.Array:
        """An Arrow array of texts that lie in our buffers."""
        begins = places >> SIZE_BITS
        views = np.empty((len(places), 4), dtype=np.int32)
        views[:, 0] = sizes
        views[:, 1] = 0  # the first four bytes of the text, for comparing: nobody compares these
        views[:, 2] = begins >> BUFFER_BITS
        views[:, 3] = begins & ((1 << BUFFER_BITS) - 1)
        short = np.flatnonzero(sizes <= INLINE_BYTES)
        if len(short):
            within = np.arange(INLINE_BYTES)
            texts = self._bytes.take(begins[short, None] + within, mode="clip")
            views[short, 1:] = np.where(within < sizes[short, None], texts, 0).astype(np.uint8).view(np.int32)
        buffers = [None, pa.py_buffer(views), *self._buffers]
        return pa.Array.from_buffers(pa.string_view(), len(places), buffers)


def _numbers(places: pa.Array) -> Any:
    """The numbers of an Arrow array, which stay where they are; its own conversion would import pandas."""
    return np.frombuffer(places.buffers()[1], dtype=np.int64)[places.offset : places.offset + len(places)]


def _int64(numbers: Any) -> pa.Array:
    return pa.Array.from_buffers(pa.int64(), len(numbers), [None, pa.py_buffer(numbers)])
