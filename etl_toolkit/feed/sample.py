"""The beginning of each file, as `feed init` looks at it: dialect, columns, and the texts of some rows."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from etl_toolkit.errors import SourceError
from etl_toolkit.feed.layout import Layout, find_layout
from etl_toolkit.hints import has_no_header
from etl_toolkit.sources.csv_file import EXCEL_SEPARATOR
from etl_toolkit.sources.expanding import split_member
from etl_toolkit.sources.inputs import PACKED_SUFFIXES, kind_by_name
from etl_toolkit.sources.naming import are_names, snake_names

SAMPLE_BYTES = 2 << 20  # of all files together, but
LEAST_BYTES = 16 << 10  # of each
PARQUET_ROWS = 1_000
TAIL_BYTES = 4 << 10  # less than LEAST_BYTES
MOST_HEADER_LINES, MOST_FOOTER_LINES = 3, 5
LEAST_ROWS = 2  # below a header of several lines
MARKERS = ("NULL", "null", "Null", "NA", "N/A", "n/a", "#N/A", "\\N", "-", "None", "NaN", "nan")


@dataclass(frozen=True)
class Sample:
    """What the beginning of a file shows. `values` has the texts of each column, None where there is none."""

    path: Path
    columns: tuple[str, ...]
    values: dict[str, list[str | None]]
    rows: int
    is_whole: bool
    layout: Layout | None = None  # of a text file
    encoding: str = ""
    has_header: bool = True
    header_lines: int = 1
    footer: tuple[str, ...] = ()  # lines at the end that are no rows
    is_unnamed: bool = False  # whether its columns need `names = "snake"` to be columns of a table


def in_normal_form(sample: Sample) -> Sample:
    """The sample with its columns named as `names = "snake"` names them."""
    columns = snake_names(sample.columns)
    return replace(sample, columns=columns, values=dict(zip(columns, sample.values.values(), strict=True)))


def take_sample(path: Path, files: int) -> Sample:
    """Look at the beginning of one of so many files. Raises SourceError where it is no text and no Parquet."""
    try:
        if path.name.lower().endswith((".parquet", ".pq", ".parq")):
            return _of_parquet(path)
        if kind_by_name(path.name) == "json":
            return _of_json(path, max(LEAST_BYTES, SAMPLE_BYTES // files))
        return _of_text(path, max(LEAST_BYTES, SAMPLE_BYTES // files))
    except (OSError, EOFError, lzma.LZMAError, ValueError, csv.Error) as error:
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


def _head(path: Path, size: int) -> tuple[bytes, bool]:
    """The whole lines at the beginning of a file, and whether they are all there are."""
    with _open(path) as stream:
        head = stream.read(size + 1)
    is_whole = len(head) <= size
    return head if is_whole else head[: head.rfind(b"\n") + 1] or head, is_whole


def _of_json(path: Path, size: int) -> Sample:
    head, is_whole = _head(path, size)
    objects = [json.loads(line) for line in head.decode("utf-8-sig").splitlines() if line.strip()]
    if not all(isinstance(item, dict) for item in objects):
        raise ValueError("a line is no JSON object")
    columns = tuple(dict.fromkeys(name for item in objects for name in item))
    values = {name: [_json_text(item.get(name)) for item in objects] for name in columns}
    return Sample(path, columns, values, len(objects), is_whole)


def _json_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _of_text(path: Path, size: int) -> Sample:
    head, is_whole = _head(path, size)
    text, encoding = _decoded(head)
    lines = text.splitlines(keepends=True)
    if EXCEL_SEPARATOR.match(text[:20].encode()) and not find_layout(lines[1:]).skip:
        lines = lines[1:]  # a load skips it without an option
    layout = find_layout(lines)
    records = [record for record in layout.read(lines[layout.skip :]) if record]
    first = tuple(records[0]) if records else ()
    footer = _footer(lines if is_whole else _last_lines(path, encoding), layout, len(first))
    if is_whole and footer:
        records = [record for record in layout.read(lines[layout.skip : -len(footer)]) if record]
    has_header = not has_no_header(first)
    header_lines = _header_lines(records) if has_header else 1
    names = [" ".join(filter(None, map(str.strip, cells))) for cells in zip(*records[:header_lines], strict=True)]
    columns = tuple(names) if has_header else tuple(f"c{n + 1}" for n in range(len(first)))
    if is_unnamed := has_header and not are_names(columns):
        columns = snake_names(columns)
    rows = [record for record in records[header_lines if has_header else 0 :] if len(record) == len(columns)]
    by_column: list[Sequence[str]] = list(zip(*rows, strict=True)) or [[] for _ in columns]
    values = {name: [text or None for text in found] for name, found in zip(columns, by_column, strict=True)}
    return Sample(
        path, columns, values, len(rows), is_whole, layout, encoding, has_header, header_lines, footer, is_unnamed
    )


def _header_lines(records: Sequence[Sequence[str]]) -> int:
    """How many lines the header has: its lower lines have no value in columns of nothing but numbers or dates.

    One such column may be one bad value of the first row, which must not be lost.
    """
    width = len(records[0]) if records else 0
    for count in range(MOST_HEADER_LINES, 1, -1):
        head, rows = records[1:count], [record for record in records[count:] if len(record) == width]
        if len(rows) < LEAST_ROWS or any(len(record) != width or _has_values(record) for record in head):
            continue
        columns = [at for at, column in enumerate(zip(*rows, strict=True)) if all(map(_is_value, column))]
        if all(len(columns) > 1 and any(record[at].strip() for at in columns) for record in head):
            return count
    return 1


def _has_values(record: Sequence[str]) -> bool:
    """Whether a record has a cell as rows have them; a marker of NULL is one."""
    return any(_is_value(cell) or cell.strip() in MARKERS for cell in record if cell.strip())


def _is_value(cell: str) -> bool:
    return bool(cell.strip()) and has_no_header([cell.strip()])


def _footer(lines: Sequence[str], layout: Layout, width: int) -> tuple[str, ...]:
    """The last lines, as far as they have other numbers of fields than the header.

    None if a quoted field may end there, or if no row would be left.
    """
    count = 0
    while width > 1 and count < min(MOST_FOOTER_LINES + 1, len(lines)):
        line = lines[-count - 1]
        if layout.quote in line or any(len(record) == width for record in layout.read([line])):
            break
        count += 1
    found = tuple(line.strip() for line in lines[len(lines) - count :])
    return found if count <= min(MOST_FOOTER_LINES, len(lines) - layout.skip - 2) and any(found) else ()


def _last_lines(path: Path, encoding: str) -> Sequence[str]:
    """The lines at the end of a file that can be read from there."""
    if path.name.lower().endswith(PACKED_SUFFIXES) or not path.is_file():
        return ()
    with path.open("rb") as file:
        file.seek(-TAIL_BYTES, os.SEEK_END)
        tail = file.read()
    if b"\0" in tail:  # UTF-16
        return ()
    return tail[tail.find(b"\n") + 1 :].decode(encoding or "utf-8", "replace").splitlines(keepends=True)


def _open(path: Path) -> IO[bytes]:
    archive, member = split_member(str(path))
    if member and not path.exists():
        with zipfile.ZipFile(archive) as packed_files:
            return packed_files.open(member)  # keeps the archive open
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
