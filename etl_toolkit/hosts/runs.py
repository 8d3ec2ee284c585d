"""Sorted runs: the rows of one file, one per key, in key order, as Parquet in the exchange directory.

A run has the parts of the key (k0, k1, …) and `record`, the record that COPY reads. Its row groups are small and carry
the smallest and greatest key, so reading a range reads little else.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from etl_toolkit.errors import SourceError
from etl_toolkit.model import FileKeys, Layout, SourceFile
from etl_toolkit.scan import FOUND_AT_ONCE, PROVEN, SPELLED_AT_ONCE, KeyScan
from etl_toolkit.sources import RecordStore, read_failure, resource_failure
from etl_toolkit.workspace import Workspace, literal

ROWS_A_GROUP, LEAST_ROWS_A_GROUP = 8_192, 512
GROUPS = 32  # of a smaller run: a range reads whole ones
RECORD = "record"


def write_run(scan: KeyScan, workspace: Workspace, directory: Path, keys: FileKeys) -> tuple[Path, int]:
    """Write the winners of a scanned file in key order.

    Returns the path, which no other attempt at this file has, and the room that its records take. Raises SourceError where
    the exchange directory is full.
    """
    path = directory / f"{keys.position:05d}-{secrets.token_hex(4)}.parquet"
    group = min(ROWS_A_GROUP, max(LEAST_ROWS_A_GROUP, keys.distinct_keys // GROUPS))
    assert scan.store is not None
    try:
        with workspace.cursor() as source:
            stored = ", ".join(_stored(source, name) for name in scan.key_columns)
            found = source.sql(f"SELECT {stored}, winner AS place FROM keys ORDER BY {scan.key_sql}")
            rows = scan.store.with_records(found.to_arrow_reader(scan.store.rows_at_once(FOUND_AT_ONCE)))
            with pq.ParquetWriter(
                path, rows.schema, compression="lz4", use_dictionary=False, write_statistics=scan.key_columns
            ) as run:
                for batch in rows:
                    run.write_batch(batch, group)
    except OSError as error:
        path.unlink(missing_ok=True)
        if resource_failure(error, ""):
            raise SourceError(
                f"the exchange directory {directory.parent} is full; free space, or name another with --exchange"
            ) from None
        raise SourceError(f"{path}: cannot be written: {error.strerror or error}") from None
    return path, sum(size for _, _, size in _groups(str(path)))


def _stored(source: Any, name: str) -> str:
    """A part of the key as a run keeps it; a UUID as text, which sorts alike and has a smallest and a greatest value."""
    kind = source.sql(f"SELECT {name} FROM keys LIMIT 0").types[0]
    return f"{name}::VARCHAR AS {name}" if str(kind) == "UUID" else name


def sample_keys(scan: KeyScan, workspace: Workspace, count: int) -> tuple[list[tuple[str, ...]], list[str]]:
    """Return at most `count` of the keys, as texts of their parts, and the types that these have in a run."""
    texts = ", ".join(f"{name}::VARCHAR" for name in scan.key_columns)
    sampled = f"(SELECT {scan.key_sql} FROM keys) USING SAMPLE reservoir({count} ROWS) REPEATABLE (1)"
    found = workspace.query(f"SELECT {texts} FROM {sampled}")
    kinds = [row[1] for row in workspace.query(f"DESCRIBE SELECT {scan.key_sql} FROM keys")]
    return found, ["VARCHAR" if kind == "UUID" else kind for kind in kinds]


def gather(
    runs: Sequence[tuple[int, str]],
    bound: str,
    layout: Layout,
    key: Sequence[str],
    workspace: Workspace,
    *,
    record_bytes: int,
) -> KeyScan:
    """Read one key range of all runs into the workspace's table `rows`, as `scan` reads files.

    `record_bytes` is the room that the records of all runs take: if there is memory for it, nothing is read to find out more.
    """
    names = [f"k{number}" for number in range(len(key))]
    files = [SourceFile(position, path, "parquet", layout.columns, "", 0, path=Path(path)) for position, path in runs]
    paths = ", ".join(literal(path) for _, path in runs)
    read = f"read_parquet([{paths}]) WHERE {bound}"
    most = workspace.limit_bytes // 2
    room = 1 + (record_bytes if record_bytes < most else _record_bytes(runs, read, workspace))
    file = None if room <= most else workspace.open_file()
    store = RecordStore([files], [room], file=file, limit_bytes=workspace.limit_bytes)
    file_at = f"{[position for position, _ in runs]}[file_index::BIGINT + 1]::INTEGER AS file"
    select = f"SELECT {file_at}, {', '.join(names)},"
    try:
        _fill(select, read, workspace, store)
    except duckdb.Error as error:
        raise read_failure(files, error) from None
    firsts = workspace.query("SELECT file, min(rowid), min(place) FROM rows GROUP BY file")
    return KeyScan(
        tuple(files), tuple(key), {row[0]: row[1] for row in firsts}, {row[0]: row[2] for row in firsts},
        has_order=False, store=store,
    )  # fmt: skip


def _fill(select: str, read: str, workspace: Workspace, store: RecordStore) -> None:
    query = f"{select} record || chr(10) AS record, {PROVEN}::UTINYINT AS doubt FROM {read}"
    with workspace.cursor() as source, workspace.cursor() as reader:
        source.register("spelled", store.take_in(0, reader.sql(query).to_arrow_reader(SPELLED_AT_ONCE)))
        source.execute("CREATE OR REPLACE TABLE rows AS FROM spelled")


def _record_bytes(runs: Sequence[tuple[int, str]], read: str, workspace: Workspace) -> int:
    """Room enough for the records of a range of all runs: that of the row groups which have them.

    A run keeps each with four bytes for its length, where we need one for its end.
    """
    found = workspace.query(
        f"SELECT file_index, min(file_row_number), max(file_row_number) FROM {read} GROUP BY file_index"
    )
    return sum(
        size
        for number, first, last in found
        for begin, end, size in _groups(runs[number][1])
        if begin <= last and end > first
    )


def _groups(path: str) -> Iterator[tuple[int, int, int]]:
    """The row groups of a run: where each begins and ends, and the bytes of its records."""
    found, begin = pq.read_metadata(path), 0
    at = found.schema.names.index(RECORD)
    for group in map(found.row_group, range(found.num_row_groups)):
        yield begin, (begin := begin + group.num_rows), group.column(at).total_uncompressed_size
