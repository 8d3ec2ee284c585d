"""The beginning of each file, as `feed init` looks at it: dialect, columns, and the texts of some rows."""

from __future__ import annotations

import bz2
import csv
import gzip
import lzma
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from etl_toolkit.errors import SourceError
from etl_toolkit.hints import has_no_header

SAMPLE_BYTES = 2 << 20  # of all files together, but
LEAST_BYTES = 16 << 10  # of each
PARQUET_ROWS = 1_000
_DELIMITERS = ",;\t|"


@dataclass(frozen=True)
class Sample:
    """What the beginning of a file shows. `values` has the texts of each column, None where there is none."""

    path: Path
    columns: tuple[str, ...]
    values: dict[str, list[str | None]]
    rows: int
    is_whole: bool
    delimiter: str = ""
    encoding: str = ""
    skip: int = 0
    has_header: bool = True


def take_sample(path: Path, files: int) -> Sample:
    """Look at the beginning of one of so many files. Raises SourceError where it is no text and no Parquet."""
    try:
        if path.name.lower().endswith((".parquet", ".pq", ".parq")):
            return _of_parquet(path)
        return _of_text(path, max(LEAST_BYTES, SAMPLE_BYTES // files))
    except (OSError, EOFError, lzma.LZMAError, ValueError) as error:
        raise SourceError(f"{path}: cannot be looked at: {getattr(error, 'strerror', None) or error}") from None


def _of_parquet(path: Path) -> Sample:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        names = tuple(file.schema_arrow.names)
        batch = next(file.iter_batches(batch_size=PARQUET_ROWS), None)
        columns = batch.to_pydict() if batch is not None else {name: [] for name in names}
        values = {name: [None if item is None else str(item) for item in columns[name]] for name in names}
        rows = batch.num_rows if batch is not None else 0
        return Sample(path, names, values, rows, rows == file.metadata.num_rows)


def _of_text(path: Path, size: int) -> Sample:
    with _open(path) as stream:
        head = stream.read(size + 1)
    is_whole = len(head) <= size
    if not is_whole:
        head = head[: head.rfind(b"\n") + 1] or head
    text, encoding = _decoded(head)
    lines = text.splitlines(keepends=True)
    delimiter, skip = _dialect(lines[:200])
    records = [record for record in csv.reader(lines[skip:], delimiter=delimiter) if record]
    first = tuple(records[0]) if records else ()
    has_header = not has_no_header(first)
    columns = tuple(name.strip() for name in first) if has_header else tuple(f"c{n + 1}" for n in range(len(first)))
    rows = [record for record in records[int(has_header) :] if len(record) == len(columns)]
    by_column: list[Sequence[str]] = list(zip(*rows, strict=True)) or [[] for _ in columns]
    values = {name: [text or None for text in found] for name, found in zip(columns, by_column, strict=True)}
    return Sample(path, columns, values, len(rows), is_whole, delimiter, encoding, skip, has_header)


def _open(path: Path) -> IO[bytes]:
    suffix = path.suffix.lower()
    if suffix == ".zst":
        import zstandard

        packed: IO[bytes] = zstandard.open(path, "rb")
        return packed
    kinds: Mapping[str, Callable[[Path, str], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    opened: IO[bytes] = kinds.get(suffix, Path.open)(path, "rb")
    return opened


def _decoded(head: bytes) -> tuple[str, str]:
    """The text, and its encoding where that has to be said."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return head[: len(head) // 2 * 2].decode("utf-16", "replace"), ""
    if b"\0" in head:
        raise ValueError("it is no text")
    try:
        return head.decode("utf-8-sig"), ""
    except UnicodeDecodeError as error:
        if error.start >= len(head) - 3:  # a character that is cut in two
            return head[: error.start].decode("utf-8-sig"), ""
        return head.decode("cp1252", "replace"), "cp1252"


def _dialect(lines: Sequence[str]) -> tuple[str, int]:
    """The delimiter that divides most lines into the same number of fields, and the lines before the first such line."""
    best = (0, 0, ",", 0)
    for rank, delimiter in enumerate(_DELIMITERS):
        counts = [len(record) for record in csv.reader(lines, delimiter=delimiter)]
        usual, often = (
            Counter(count for count in counts if count > 1).most_common(1)[0] if max(counts, default=0) > 1 else (1, 0)
        )
        if (often, -rank) > best[:2]:
            best = (often, -rank, delimiter, counts.index(usual) if often else 0)
    return best[2], best[3]
