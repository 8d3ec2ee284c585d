"""Records on their way into COPY some at a time: each chunk has as many as were wanted, and none is lost."""

from __future__ import annotations

import io

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl_toolkit.loading import records
from etl_toolkit.loading.copy import RecordReader
from etl_toolkit.loading.records import Chunk, LineReader, Records


def read(stream: Records, most: int) -> list[list[bytes]]:
    """The records of each chunk; those of RecordReader are longer than a line."""
    chunks = []
    while True:
        chunk, before = Chunk(stream, most), stream.sent
        found = list(iter(chunk.read, b""))
        chunks.append(found)
        assert stream.sent - before <= most
        if stream.is_empty():
            return chunks


@given(lengths=st.lists(st.integers(1, 9), max_size=30), most=st.integers(1, 12), is_ended=st.booleans())
def test_lines_come_in_chunks(lengths: list[int], most: int, is_ended: bool) -> None:
    data = b"".join(b"x" * length + b"\n" for length in lengths)
    data = data if is_ended else data[:-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "BUFFER_BYTES", 16)
        chunks = [b"".join(parts) for parts in read(LineReader(io.BytesIO(data)), most)]
    assert b"".join(chunks) == data
    assert [chunk.count(b"\n") for chunk in chunks[:-1]] == [most] * (len(chunks) - 1)


@pytest.mark.parametrize("most", [1, 3, 2_048, 2_049, 5_000])
def test_a_record_of_several_lines_is_one_of_its_chunk(most: int) -> None:
    query = "SELECT '\"' || n || chr(10) || n || '\"' AS record FROM range(5000) AS rows (n)"
    with duckdb.connect(config={"arrow_large_buffer_size": "true"}) as source, RecordReader(source, query) as stream:
        chunks = [b"".join(parts) for parts in read(stream, most)]
        assert stream.sent == 5_000
    assert b"".join(chunks) == b"".join(b'"%d\n%d"\n' % (n, n) for n in range(5_000))
    assert [chunk.count(b"\n") for chunk in chunks[:-1]] == [2 * most] * (len(chunks) - 1)
