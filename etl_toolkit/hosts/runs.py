"""Sorted runs: rows in key order, one per key of each file, as Parquet in the exchange directory.

A run is of one file or of several small ones. It has the parts of the key (k0, k1, …), `file`, which of its files a row is
from, and `record`, the record that COPY reads. Its row groups are small and carry the smallest and greatest key, so reading a
range reads little else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from etl_toolkit.errors import SourceError
from etl_toolkit.model import ConflictAction, Layout, SourceFile
from etl_toolkit.scan import FOUND_AT_ONCE, PROVEN, SPELLED_AT_ONCE, KeyScan
from etl_toolkit.sources import RecordStore, read_failure, resource_failure
from etl_toolkit.workspace import Workspace, literal

ROWS_A_GROUP, LEAST_ROWS_A_GROUP = 8_192, 512
GROUPS = 32  # of a smaller run: a range reads whole ones
RECORD = "record"


def find_winners(scan: KeyScan, workspace: Workspace, *, action: ConflictAction) -> dict[int, int]:
    """Create `winners`, the place of the row of each key that wins in its file, and return how many each file has."""
    best = "min" if action is ConflictAction.IGNORE else "max"
    workspace.query(
        f"CREATE OR REPLACE TABLE winners AS SELECT {scan.key_sql}, file, {best}(place) AS place FROM rows "
        f"WHERE doubt = {PROVEN} GROUP BY {scan.key_sql}, file"
    )
    return dict(workspace.query("SELECT file, count(*) FROM winners GROUP BY file"))


def write_run(scan: KeyScan, workspace: Workspace, path: Path, rows: int) -> int:
    """Write the winners in key order, and return the room that their records take.

    Raises SourceError where the exchange directory is full.
    """
    group = min(ROWS_A_GROUP, max(LEAST_ROWS_A_GROUP, rows // GROUPS))
    first = scan.files[0].position
    assert scan.store is not None
    try:
        with workspace.cursor() as source:
            stored = ", ".join(_stored(source, name) for name in scan.key_columns)
            found = source.sql(
                f"SELECT {stored}, file - {first} AS file, place FROM winners ORDER BY {scan.key_sql}, file"
            )
            records = scan.store.with_records(found.to_arrow_reader(scan.store.rows_at_once(FOUND_AT_ONCE)))
            with pq.ParquetWriter(
                path, records.schema, compression="lz4", use_dictionary=["file"], write_statistics=scan.key_columns
            ) as run:
                for batch in records:
                    run.write_batch(batch, group)
    except OSError as error:
        path.unlink(missing_ok=True)
        if resource_failure(error, ""):
            raise SourceError(
                f"the exchange directory {path.parents[1]} is full; free space, or name another with --exchange"
            ) from None
        raise SourceError(f"{path}: cannot be written: {error.strerror or error}") from None
    return sum(size for _, _, size in _groups(str(path)))


def _stored(source: Any, name: str) -> str:
    """A part of the key as a run keeps it; a UUID as text, which sorts alike and has a smallest and a greatest value."""
    kind = source.sql(f"SELECT {name} FROM winners LIMIT 0").types[0]
    return f"{name}::VARCHAR AS {name}" if str(kind) == "UUID" else name


def sample_keys(scan: KeyScan, workspace: Workspace, count: int) -> tuple[list[tuple[str, ...]], list[str]]:
    """Return at most `count` of the keys, as texts of their parts, and the types that these have in a run."""
    texts = ", ".join(f"{name}::VARCHAR" for name in scan.key_columns)
    sampled = f"(SELECT {scan.key_sql} FROM winners) USING SAMPLE reservoir({count} ROWS) REPEATABLE (1)"
    found = workspace.query(f"SELECT {texts} FROM {sampled}")
    kinds = [row[1] for row in workspace.query(f"DESCRIBE SELECT {scan.key_sql} FROM winners")]
    return found, ["VARCHAR" if kind == "UUID" else kind for kind in kinds]


def gather(
    runs: Sequence[tuple[Sequence[int], str]],
    bound: str,
    layout: Layout,
    key: Sequence[str],
    workspace: Workspace,
    *,
    record_bytes: int,
) -> KeyScan:
    """Read one key range of all runs into the workspace's table `rows`, as `scan` reads files: in the order of these.

    `record_bytes` is the room that the records of all runs take: if there is memory for it, nothing is read to find out more.
    """
    names = [f"k{number}" for number in range(len(key))]
    files = [
        SourceFile(position, path, "parquet", layout.columns, "", 0, path=Path(path))
        for positions, path in runs for position in positions if position >= 0
    ]  # fmt: skip
    paths = ", ".join(literal(path) for _, path in runs)
    read = f"read_parquet([{paths}]) WHERE {bound}"
    most = workspace.limit_bytes // 2
    room = 1 + (record_bytes if record_bytes < most else _record_bytes([path for _, path in runs], read, workspace))
    store_file = None if room <= most else workspace.open_file()
    store = RecordStore([files], [room], file=store_file, limit_bytes=workspace.limit_bytes)
    positions, firsts = list(chain.from_iterable(found for found, _ in runs)), [0]
    firsts += accumulate(len(found) for found, _ in runs[:-1])
    file_at = f"{positions}[{firsts}[file_index::BIGINT + 1] + file + 1]::INTEGER"
    rows = f"SELECT {file_at} AS file, {', '.join(names)}, record FROM {read}"
    if min(positions) < 0:
        rows = f"SELECT * FROM ({rows}) WHERE file >= 0"
    if len(positions) > len(runs):  # the rows of a file are in several places
        rows += " ORDER BY file"
    try:
        _fill(rows, workspace, store)
    except duckdb.Error as error:
        raise read_failure(files, error) from None
    found = workspace.query("SELECT file, min(rowid), min(place) FROM rows GROUP BY file")
    return KeyScan(
        tuple(files), tuple(key), {row[0]: row[1] for row in found}, {row[0]: row[2] for row in found},
        has_order=False, store=store,
    )  # fmt: skip


def _fill(rows: str, workspace: Workspace, store: RecordStore) -> None:
    query = f"SELECT * REPLACE (record || chr(10) AS record), {PROVEN}::UTINYINT AS doubt FROM ({rows})"
    with workspace.cursor() as source, workspace.cursor() as reader:
        source.register("spelled", store.take_in(0, reader.sql(query).to_arrow_reader(SPELLED_AT_ONCE)))
        source.execute("CREATE OR REPLACE TABLE rows AS FROM spelled")


def _record_bytes(runs: Sequence[str], read: str, workspace: Workspace) -> int:
    """Room enough for the records of a range of all runs: that of the row groups which have them.

    A run keeps each with four bytes for its length, where we need one for its end.
    """
    found = workspace.query(
        f"SELECT file_index, min(file_row_number), max(file_row_number) FROM {read} GROUP BY file_index"
    )
    return sum(
        size
        for number, first, last in found
        for begin, end, size in _groups(runs[number])
        if begin <= last and end > first
    )


def _groups(path: str) -> Iterator[tuple[int, int, int]]:
    """The row groups of a run: where each begins and ends, and the bytes of its records."""
    found, begin = pq.read_metadata(path), 0
    at = found.schema.names.index(RECORD)
    for group in map(found.row_group, range(found.num_row_groups)):
        yield begin, (begin := begin + group.num_rows), group.column(at).total_uncompressed_size
