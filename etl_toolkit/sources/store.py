"""The record store: every record once, as COPY takes it, in memory or, beyond the limit, in a file of the workspace.

DuckDB keeps a number for each record, its *place*, and the bytes are fetched when they are sent. Grouping, joining and
sorting then move 8 bytes a row instead of the row (late materialization: Abadi et al., ICDE 2007). A place is where the
record begins, counted in bytes over all files, and its size: places are in the order of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from etl_toolkit.model import SourceFile
from etl_toolkit.sources.cuts import Cut, cut_lines
from etl_toolkit.sources.quoting import drop_idle_quotes
from etl_toolkit.sources.rooms import room_for
from etl_toolkit.sources.space import Space

PLACE_BITS = 62  # where a record begins, and its size; one is left for a mark beside it (`ranking.collapse`)
PIECE_BYTES = 1 << 20  # of records that are fetched at once, or one record; of a file more, if there is memory for it
PIECES = 64  # of the memory limit
SPAN_BYTES = 16 << 20  # of a file that are looked at together
RECORD_BYTES = 64  # of a file: rows of as many records are read at once as a piece may take
LINES_AT_ONCE = 2 << 20  # bytes; what is found in them fits the second-level cache
QUOTED_AT_ONCE = 1 << 19  # bytes; of quotes more has to be found
INLINE_BYTES = 12  # Arrow keeps a shorter text in the view itself
TOO_LONG = "a record is too long beside so many others"
GUESSED_AGAIN = 64  # times as much, where a guess was too low
BUFFER_BITS = 30  # Arrow counts in a buffer with 32 bits


class RecordStore:
    """The records of files, in their order. `lines` and `take_in` fill a stream, `lines_at` and `with_records` find them again.

    A line is a record: where it has quotes, line breaks may be in them. Quotes that say nothing are left out. `rooms` are the
    bytes that each stream may take, where these are known better than by the files. Records are kept in `file`, which is empty,
    if that is given: the higher the memory limit `limit_bytes` is, the more are fetched at once, and the less often most of
    the file is looked at. `is_composed` says that records may be put
    together of several lines: the room behind the streams is as large as all of them, and costs nothing until it is used.
    """

    def __init__(
        self, streams: Sequence[Sequence[SourceFile]], rooms: Sequence[int] | None = None, *,
        file: BinaryIO | None = None, limit_bytes: int = 0, is_composed: bool = False,
    ) -> None:  # fmt: skip
        self.streams = streams
        self.is_full = False  # once records were spelled that had no room
        ends = list(accumulate(rooms or (sum(map(room_for, stream)) for stream in self.streams)))
        if is_composed:
            ends.append(2 * ends[-1])
        self._begins = [0, *ends]
        self._taken = self._begins[len(streams)]  # up to where the room of composed records is filled
        self._size_bits = PLACE_BITS - ends[-1].bit_length()
        self._longest = min((1 << self._size_bits) - 1, (1 << 30) - 1)  # the server takes none of a gigabyte
        self._piece_bytes = max(PIECE_BYTES, limit_bytes // PIECES)
        self._space = Space(ends[-1], file)
        self._bytes = self._space.bytes
        data, step = pa.py_buffer(self._bytes), 1 << BUFFER_BITS
        # Each holds whole every line that begins in its stretch.
        self._buffers = [data.slice(at, min(step + self._longest, ends[-1] - at)) for at in range(0, ends[-1], step)]

    def lines(self, number: int, *, cut: Cut | None = None) -> pa.RecordBatchReader:
        """Read the files of a stream in, and return their lines: batches of (file, place, line), the line without its end.

        With `cut` some fields at either end are no part of the line, one of them a `mark` beside it: the files have no quotes.
        Raises OSError (as DuckDB's error, for it is DuckDB that reads) where a file cannot be read or has shrunk.
        """
        schema = pa.schema([("file", pa.int32()), ("place", pa.int64()), ("line", pa.string_view())])
        if cut and cut.mark is not None:
            schema = schema.append(pa.field("mark", pa.string()))
        return pa.RecordBatchReader.from_batches(schema, self._batches(number, schema, cut))

    def _batches(self, number: int, schema: pa.Schema, cut: Cut | None) -> Iterator[pa.RecordBatch]:
        begin = self._begins[number]
        for read, filled in self._read(number):
            block = self._bytes[begin:filled]
            if all(file.is_plain for file, _ in read):
                ends_read = ends = np.flatnonzero(block == ord("\n"))
            else:
                ends_read, ends = drop_idle_quotes(block, read[0][0].dialect.delimiter)
            begins = np.concatenate(([0], ends[:-1] + 1))
            if not len(ends):
                raise OSError(f"{read[-1][0].readable} has changed")
            self._check_sizes(ends + 1 - begins)
            files = np.full(len(ends), read[0][0].position, dtype=np.int32)
            for file, first in read[1:]:
                files[np.searchsorted(ends_read, first - begin) :] = file.position
            marks = None
            if cut:
                begins, ends, marks = cut_lines(block, ends, read[0][0].dialect.delimiter, cut)
            places = begin + begins << self._size_bits | ends + 1 - begins
            columns = [_array(files, pa.int32()), _array(places, pa.int64()), self._view(places, ends - begins)]
            if marks is not None:
                columns.append(marks)
            self._space.note_touched(filled - begin)
            yield pa.RecordBatch.from_arrays(columns, schema=schema)
            begin += int(ends_read[-1]) + 1

    def _read(self, number: int) -> Iterator[tuple[list[tuple[SourceFile, int]], int]]:
        """Fill the span of a stream with the lines of its files, a block at a time.

        Yields the files that the block has lines of, each with where those begin, and up to where the span is filled.
        """
        start = block = self._begins[number]
        at_once = LINES_AT_ONCE if all(file.is_plain for file in self.streams[number]) else QUOTED_AT_ONCE
        at_once = max(at_once, *(2 * file.longest_record_bytes for file in self.streams[number]))  # one has an end
        read: list[tuple[SourceFile, int]] = []
        for file in self.streams[number]:
            assert file.readable is not None
            first, last = start, start + room_for(file) - 1
            self._space.allocate(first, last + 1)
            read.append((file, start))
            with file.readable.open("rb") as stream:
                last -= len(stream.readline()) if file.dialect.has_header else 0
                while start < last:
                    count = stream.readinto(self._bytes[start : min(block + at_once, last)].data)
                    if not count:
                        raise OSError(f"{file.readable} has shrunk")
                    start += count
                    if start == last and self._bytes[last - 1] != ord("\n"):
                        self._bytes[last] = ord("\n")
                        start += 1
                    if start >= block + at_once:
                        yield read, start
                        block, read = start, [(file, start)]
            if start == first:
                read.pop()  # it has no line
        if start > block:
            yield read, start

    def take_in(self, number: int, rows: pa.RecordBatchReader) -> pa.RecordBatchReader:
        """The same rows with a `place` for their `record`: a text that ends with LF, and is the next one of a stream.

        Raises OSError, and then `is_full`, where there is no room for one.
        """
        return self._taken_in(rows, self._begins[number], self._begins[number + 1])

    def take_composed(self, rows: pa.RecordBatchReader) -> pa.RecordBatchReader:
        """The same, behind the streams and what was taken there before."""
        return self._taken_in(rows, self._taken, self._begins[-1])

    def drop_composed(self) -> None:
        """Make the room of composed records free again."""
        self._taken = self._begins[len(self.streams)]

    def _taken_in(self, rows: pa.RecordBatchReader, begin: int, limit: int) -> pa.RecordBatchReader:
        at = rows.schema.get_field_index("record")
        schema = rows.schema.set(at, pa.field("place", pa.int64()))
        return pa.RecordBatchReader.from_batches(schema, self._placed(rows, at, schema, begin, limit))

    def _placed(
        self, rows: pa.RecordBatchReader, at: int, schema: pa.Schema, begin: int, limit: int
    ) -> Iterator[pa.RecordBatch]:
        for batch in rows:
            _, offsets, data = batch.column(at).buffers()
            ends = np.frombuffer(offsets, dtype=np.int64)[batch.column(at).offset :][: len(batch) + 1]
            sizes, end = np.diff(ends), begin + int(ends[-1] - ends[0])
            self._check_sizes(sizes)
            if end > limit:
                self.is_full = True
                raise OSError("no room for these records")
            self._space.allocate(begin, end)
            self._bytes[begin:end] = np.frombuffer(data, dtype=np.uint8)[ends[0] : ends[-1]]
            places = begin + ends[:-1] - ends[0] << self._size_bits | sizes
            columns = [*batch.columns[:at], _array(places, pa.int64()), *batch.columns[at + 1 :]]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)
            begin = end
            self._taken = max(begin, self._taken)
            self._space.note_touched(int(sizes.sum()))

    def rows_at_once(self, usual: int) -> int:
        """How many rows to fetch records for at once, where it is `usual` if they are in memory."""
        return max(usual, self._piece_bytes // RECORD_BYTES) if self._space.is_file else usual

    def with_records(
        self, rows: pa.RecordBatchReader, files_of: Callable[[Any], Any] | None = None, *, names: Sequence[str] = ()
    ) -> pa.RecordBatchReader:
        """The same rows, with a `record` where they have a `place`, and with the `file` that `files_of` finds of places.

        `names` are columns of places, if there are several: each has its records under the same name.
        """
        schema, places = rows.schema, [rows.schema.get_field_index(name) for name in names or ("place",)]
        kind = pa.large_string() if self._space.is_file else pa.string_view()
        for at in places:
            schema = schema.set(at, pa.field(schema.field(at).name if names else "record", kind))
        if files_of:
            schema = schema.append(pa.field("file", pa.int64()))

        def batches() -> Iterator[pa.RecordBatch]:
            for batch in rows:
                for begin, end in self._pieces(_numbers(batch.column(places[-1]))):
                    columns = batch.slice(begin, end - begin).columns
                    for at in places:
                        numbers = _numbers(columns[at])
                        columns[at] = self._fetched(numbers, self._sizes(numbers) - 1)
                    if files_of:
                        columns.append(_array(files_of(numbers), pa.int64()))
                    yield pa.RecordBatch.from_arrays(columns, schema=schema)

        return pa.RecordBatchReader.from_batches(schema, batches())

    def lines_at(self, places: pa.Array) -> Iterator[pa.Array]:
        """The lines at these places with their ends, in pieces, each of which is one piece of memory."""
        numbers = _numbers(places)
        for begin, end in self._pieces(numbers):
            some = numbers[begin:end]
            yield self._fetched(some, self._sizes(some)).cast(pa.large_string())

    def _pieces(self, places: Any) -> Iterator[tuple[int, int]]:
        """Where to cut, so that the records of a piece take about as much memory as they may."""
        pieces = np.cumsum(self._sizes(places)) // self._piece_bytes
        cuts = np.flatnonzero(np.diff(pieces)) + 1 if len(pieces) and pieces[-1] else ()
        return pairwise([0, *map(int, cuts), len(places)])

    def _fetched(self, places: Any, sizes: Any) -> pa.Array:
        """The texts at these places: where they lie in memory; out of a file, which is looked at from front to back."""
        if not self._space.is_file:
            return self._view(places, sizes)
        import pyarrow.compute as pc

        order = places.argsort()
        spans = np.flatnonzero(np.diff((places[order] >> self._size_bits) // SPAN_BYTES)) + 1
        pool = pa.system_memory_pool()  # the default one keeps what was freed
        parts = [pa.array([], pa.large_string())]
        for begin, end in pairwise([0, *map(int, spans), len(order)]):
            some = order[begin:end]
            parts.append(pc.cast(self._view(places[some], sizes[some]), pa.large_string(), memory_pool=pool))
            self._space.unmap()
        turns = np.empty_like(order)
        turns[order] = np.arange(len(order))
        return pc.take(pa.concat_arrays(parts, pool), _array(turns, pa.int64()), memory_pool=pool)

    def _sizes(self, places: Any) -> Any:
        return places & ((1 << self._size_bits) - 1)

    def _check_sizes(self, sizes: Any) -> None:
        if sizes.max(initial=0) > self._longest:
            raise OSError(f"{TOO_LONG}: {sizes.max():,} bytes; load fewer files at a time")

    def _view(self, places: Any, sizes: Any) -> pa.Array:
        """An Arrow array of texts that lie in our buffers."""
        begins = places >> self._size_bits
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


def _array(numbers: Any, kind: pa.DataType) -> pa.Array:
    return pa.Array.from_buffers(kind, len(numbers), [None, pa.py_buffer(numbers)])
