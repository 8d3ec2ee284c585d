"""A small Parquet file that would unpack to something enormous is refused by its footer, before its data is read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from etl_toolkit import ConflictAwareProcessor, ParallelConfig, ReadOptions
from etl_toolkit.errors import SourceError
from etl_toolkit.sources.footer import unpacked_bytes

ROOT = Path(__file__).parent.parent


def write(path: Path, group: pa.Table, *, groups: int, **options: Any) -> Path:
    with pq.ParquetWriter(path, group.schema, compression="zstd", **options) as writer:
        for _ in range(groups):
            writer.write_table(group, row_group_size=len(group))
    return path


def overlap(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "etl_toolkit", "overlap", str(path), "--key", "id"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One number 150 million times: a dictionary of one entry, and runs of it."""
    group = pa.table({"id": pa.repeat(pa.scalar(7, pa.int64()), 5_000_000)})
    return write(tmp_path_factory.mktemp("bomb") / "repeated.parquet", group, groups=30)


def test_one_of_repeated_values_is_refused_though_its_pages_are_small(repeated: Path) -> None:
    metadata = pq.read_metadata(repeated)
    pages = sum(metadata.row_group(group).column(0).total_uncompressed_size for group in range(30))
    assert (repeated.stat().st_size < 1_000_000, pages < 1_000_000) == (True, True)
    done = overlap(repeated)
    assert (done.returncode, done.stdout, done.stderr) == (
        1,
        "",
        f"etl-toolkit: {repeated}: by its footer it unpacks to 1,200,000,000 bytes or more, over 200 times its size, as a "
        "decompression bomb does; if it is meant to, write it again with compression and dictionaries off, or as CSV\n",
    )


def test_without_the_guard_all_of_it_would_be_read(repeated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the same file is not refused by anything else."""
    from etl_toolkit.sources import typed

    monkeypatch.setattr(typed, "check_unpacked_size", lambda path, metadata: None)
    assert typed.examine_parquet(repeated, repeated.with_suffix(".copy"), ReadOptions()).records == 150_000_000


def test_one_of_compressed_text_is_refused_by_the_size_of_its_pages(tmp_path: Path) -> None:
    group = pa.table({"id": range(150), "v": pa.array(["x" * (1 << 20)] * 150)})
    path = write(tmp_path / "text.parquet", group, groups=8, use_dictionary=False)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(SourceError, match=r"text\.parquet: by its footer it unpacks to 1,2"):
        ConflictAwareProcessor().analyze(path, ["id"])


def test_one_long_text_in_a_dictionary_that_no_footer_tells_of_ends_at_the_memory_limit(
    database: str, connection: Any, tmp_path: Path
) -> None:
    """Only the pages show how long the text of a row is."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id bigint PRIMARY KEY, v text)")
    once = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), 3000), ["x" * (1 << 20)])
    path = write(
        tmp_path / "in.parquet", pa.table({"id": range(3000), "v": once}), groups=1, dictionary_pagesize_limit=4 << 20
    )
    assert path.stat().st_size < 20_000
    config = ParallelConfig(memory_limit_bytes=64 << 20)
    with pytest.raises(SourceError, match="DuckDB needs more memory than it may use; raise memory_limit_bytes"):
        ConflictAwareProcessor(database, config=config).plan(path, "t", ["id"])


def test_one_that_compresses_well_and_is_not_large_is_read(tmp_path: Path) -> None:
    group = pa.table({"id": range(100_000), "v": ["x" * 1000] * 100_000})
    path = write(tmp_path / "in.parquet", group, groups=1)
    assert unpacked_bytes(pq.read_metadata(path)) < 1 << 30
    assert ConflictAwareProcessor().analyze(path, ["id"]).distinct_keys == 100_000


def test_a_null_and_a_text_count_as_a_byte_and_a_number_by_its_width(tmp_path: Path) -> None:
    count = 1_000_000
    table = pa.table({
        "i": pa.repeat(pa.scalar(1, pa.int32()), count), "d": pa.repeat(pa.scalar(1.0), count),
        "n": pa.nulls(count, pa.int64()), "t": pa.repeat(pa.scalar("x"), count), "b": pa.repeat(pa.scalar(True), count),
    })  # fmt: skip
    path = write(tmp_path / "in.parquet", table, groups=1)
    assert unpacked_bytes(pq.read_metadata(path)) == count * (4 + 8 + 1 + 1 + 1)
