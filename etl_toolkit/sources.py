"""Names, globs and frames become an ordered list of `SourceFile`s; the DuckDB relation over each of them."""

from __future__ import annotations

import codecs
import csv
import glob
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
from blake3 import blake3

from etl_toolkit.errors import SourceError, UsageError
from etl_toolkit.model import CsvDialect, ReadOptions, SourceFile, Sources
from etl_toolkit.workspace import Workspace, literal, lock_down

CSV_SUFFIXES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz", ".csv.zst", ".tsv.zst", ".txt.zst")
PARQUET_SUFFIXES = (".parquet", ".pq", ".parq")
DELIMITERS = ",\t;|"
LINE_SEPARATOR = "\x1f"  # stands for "no delimiter": a plain file has none of it
_BLOCK = 1 << 20


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """A sort key in which `part2` comes before `part10`."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def expand(inputs: Iterable[Any]) -> list[Any]:
    """Expand globs in natural order; what is not text or a path is taken to be a frame."""
    found: list[Any] = []
    for item in inputs:
        if not isinstance(item, str | Path):
            found.append(item)
        elif Path(item).exists():
            found.append(Path(item))
        elif matches := sorted(glob.glob(str(item), recursive=True), key=natural_order):
            found.extend(Path(match) for match in matches)
        else:
            raise SourceError(f"{item}: no such file, and no file matches it; check the path or quote the glob")
    if not found:
        raise UsageError("no files given; name at least one CSV or Parquet file, or a frame")
    return found


def resolve(inputs: Sequence[Any], options: ReadOptions, workspace: Workspace) -> Sources:
    """Return the files to load, in order, each looked at once: content hash, columns, dialect.

    A file whose content stands at an earlier place already is left out, and listed. Afterwards the workspace's DuckDB
    can read these files and nothing else. Raises SourceError naming the file, its fault and a remedy.
    """
    items = expand(inputs)
    with ThreadPoolExecutor(max_workers=4) as pool:
        examined = list(pool.map(lambda item: _examine(item, options, workspace), items))
    files: list[SourceFile] = []
    first_of: dict[str, str] = {}
    duplicates: list[tuple[str, str]] = []
    for file in examined:
        if (first := first_of.setdefault(file.content_hash, file.name)) != file.name or first in (f.name for f in files):
            duplicates.append((file.name, first))
            continue
        files.append(_placed(file, len(files), workspace))
    lock_down(workspace, [file.path for file in files if file.path is not None])
    return Sources(tuple(_with_columns(file, workspace) for file in files), tuple(duplicates))


def _examine(item: Any, options: ReadOptions, workspace: Workspace) -> SourceFile:
    if not isinstance(item, Path):
        return _examine_frame(item)
    name = str(item)
    if item.is_dir():
        raise SourceError(f"{name}: is a directory; name its files, for example {name}/*.csv")
    lowered = item.name.lower()
    try:
        if lowered.endswith(PARQUET_SUFFIXES):
            hashed = blake3(max_threads=1).update_mmap(name).hexdigest() if item.stat().st_size else blake3().hexdigest()
            return SourceFile(0, name, "parquet", (), hashed, item.stat().st_size, path=item)
        if lowered.endswith(CSV_SUFFIXES):
            return _examine_csv(item, options)
    except OSError as error:
        raise SourceError(f"{name}: cannot be read: {error.strerror}") from None
    raise SourceError(f"{name}: unknown kind of file; known are {', '.join(CSV_SUFFIXES + PARQUET_SUFFIXES)}")


def _examine_frame(frame: Any) -> SourceFile:
    import pyarrow as pa

    if hasattr(frame, "__arrow_c_stream__") and not isinstance(frame, pa.Table):
        frame = pa.table(frame)
    elif isinstance(frame, pa.RecordBatch):
        frame = pa.Table.from_batches([frame])
    if not isinstance(frame, pa.Table):
        raise UsageError(f"cannot load a {type(frame).__name__}; give a path, a glob, a pandas frame or an Arrow table")
    frame = frame.select([name for name in frame.column_names if not name.startswith("__index_level_")])
    digest = blake3()
    with pa.ipc.new_stream(_HashSink(digest), frame.schema.remove_metadata()) as writer:
        writer.write_table(frame.replace_schema_metadata(None))
    columns = tuple(str(name) for name in frame.column_names)
    label = f"frame of {frame.num_rows} rows"
    return SourceFile(0, label, "frame", columns, digest.hexdigest(), frame.nbytes, frame=frame)


class _HashSink(io.RawIOBase):
    """A file that hashes what is written to it."""

    def __init__(self, digest: Any) -> None:
        self._digest = digest

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._digest.update(bytes(data))
        return len(data)


def _examine_csv(path: Path, options: ReadOptions) -> SourceFile:
    digest = blake3()
    is_plain, size = not path.name.lower().endswith((".gz", ".zst")), 0
    tail = b""
    with path.open("rb") as stream:
        head = stream.read(_BLOCK)
        block = head
        while block:
            size += len(block)
            digest.update(block)
            if is_plain and (b'"' in block or b"\r" in block or b"\x1f" in block or b"\x00" in block):
                is_plain = False
            if is_plain and b"\n\\.\n" in tail + block:
                is_plain = False
            tail = block[-4:]
            block = stream.read(_BLOCK)
    encoding = options.encoding or ("utf-16" if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8")
    if head.startswith(codecs.BOM_UTF8) or codecs.lookup(encoding).name != "utf-8" or options.quote != '"':
        is_plain = False
    first_lines = _first_lines(path, encoding)
    if not first_lines and options.headers is None:
        raise SourceError(f"{path}: is empty; a CSV file needs a header line (or name its columns with --headers)")
    delimiter = options.delimiter or detect_delimiter(first_lines, path)
    header = next(csv.reader(first_lines[:1], delimiter=delimiter, quotechar=options.quote), []) if first_lines else []
    has_header = options.headers is None or tuple(header) == options.headers
    columns = options.headers or tuple(name.strip() for name in header)
    dialect = CsvDialect(delimiter, options.quote, encoding, has_header)
    is_plain = is_plain and len(columns) > 1
    return SourceFile(0, str(path), "csv", columns, digest.hexdigest(), size, path=path, dialect=dialect, is_plain=is_plain)


def _first_lines(path: Path, encoding: str) -> list[str]:
    """The first lines of a CSV file, decompressed and decoded, without a byte order mark."""
    import gzip

    import zstandard

    lowered = path.name.lower()
    opener: Any = gzip.open if lowered.endswith(".gz") else zstandard.open if lowered.endswith(".zst") else open
    try:
        with opener(path, "rb") as stream:
            data = stream.read(1 << 16)
    except (OSError, EOFError, zstandard.ZstdError) as error:
        raise SourceError(f"{path}: cannot be decompressed: {error}; is the file complete?") from None
    text = codecs.getincrementaldecoder(encoding)(errors="replace").decode(data).removeprefix("\ufeff")
    return text.splitlines()[:20]


def detect_delimiter(lines: Sequence[str], path: Path) -> str:
    """Return the delimiter that splits the first lines into the same number of fields, the most fields first."""
    if path.name.lower().startswith(".tsv") or ".tsv" in path.suffixes:
        return "\t"

    def fields_per_line(delimiter: str) -> list[int]:
        return [len(row) for row in csv.reader(lines, delimiter=delimiter) if row]

    def quality(delimiter: str) -> tuple[int, int]:
        counts = fields_per_line(delimiter)
        return (sum(count == counts[0] for count in counts) if counts and counts[0] > 1 else 0, counts[0] if counts else 0)

    return max(DELIMITERS, key=quality)


def _placed(file: SourceFile, position: int, workspace: Workspace) -> SourceFile:
    """Give the file its position, and a name in the working directory that no path can spoil."""
    if file.frame is not None:
        workspace.duckdb.register("incoming", file.frame)
        workspace.duckdb.execute(f"CREATE TABLE frame_{position} AS SELECT * FROM incoming")
        workspace.duckdb.unregister("incoming")
        return replace(file, position=position, name=f"{file.name} #{position + 1}")
    assert file.path is not None
    suffix = "".join(file.path.suffixes[-2:] if file.path.suffix.lower() in (".gz", ".zst") else file.path.suffixes[-1:])
    link = workspace.directory / f"{position:05d}{suffix.lower()}"
    link.symlink_to(file.path.resolve())
    return replace(file, position=position, readable=link)


def _with_columns(file: SourceFile, workspace: Workspace) -> SourceFile:
    columns = file.columns
    if file.format == "parquet":
        try:
            described = workspace.query(f"DESCRIBE SELECT * FROM read_parquet({literal(str(file.readable))})")
        except duckdb.Error as error:
            raise SourceError(f"{file.name}: not a readable Parquet file: {_first_line(error)}") from None
        columns = tuple(row[0] for row in described)
    seen: set[str] = set()
    for number, name in enumerate(columns, start=1):
        if not name:
            raise SourceError(f"{file.name}: column {number} of the header has no name; mend the header or give --headers")
        if name in seen:
            raise SourceError(f"{file.name}: column '{name}' stands twice in the header; mend the header or give --headers")
        seen.add(name)
    return replace(file, columns=columns)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


# --- the relation over a file ------------------------------------------------------------------------------------------


def text_relation(file: SourceFile, names: Sequence[str], workspace: Workspace) -> tuple[str, list[str]]:
    """Return a FROM item over `file`, and an expression of its text (VARCHAR, NULL for NULL) for each name.

    A name the file does not have comes out as NULL. Rows come in file order.
    """
    if file.format == "csv":
        relation = line_relation([file]) if file.is_plain else _csv_relation(file)
        index = {name: position for position, name in enumerate(file.columns)}
        if file.is_plain:
            split = f"split_part(line, {literal(file.dialect.delimiter)}, "
            texts = {name: f"nullif({split}{position + 1}), '')" for name, position in index.items()}
        else:
            texts = {name: f"c{position}" for name, position in index.items()}
        return relation, [texts.get(name, "NULL::VARCHAR") for name in names]
    relation = f"frame_{file.position}" if file.format == "frame" else f"read_parquet({literal(str(file.readable))})"
    types = {row[0]: row[1] for row in workspace.query(f"DESCRIBE SELECT * FROM {relation}")}
    own = dict(zip(file.columns, file.source_columns or file.columns, strict=True))
    return relation, [_typed_text(own[name], types[own[name]]) if name in own else "NULL::VARCHAR" for name in names]


def line_relation(files: Sequence[SourceFile]) -> str:
    """A relation (file_index, line) over plain files that are alike: every line one record, blank lines left out."""
    names = ", ".join(literal(str(file.readable)) for file in files)
    header = "true" if files[0].dialect.has_header else "false"
    return (
        f"(SELECT file_index, line FROM read_csv([{names}], auto_detect = false, columns = {{'line': 'VARCHAR'}}, "
        f"delim = '{LINE_SEPARATOR}', quote = '', escape = '', header = {header}, new_line = '\\n', strict_mode = true) "
        "WHERE line IS NOT NULL)"
    )


def _csv_relation(file: SourceFile) -> str:
    columns = ", ".join(f"'c{position}': 'VARCHAR'" for position in range(len(file.columns)))
    dialect = file.dialect
    return (
        f"read_csv({literal(str(file.readable))}, auto_detect = false, columns = {{{columns}}}, "
        f"delim = {literal(dialect.delimiter)}, quote = {literal(dialect.quote)}, escape = {literal(dialect.quote)}, "
        f"header = {'true' if dialect.has_header else 'false'}, allow_quoted_nulls = false, null_padding = false, "
        "strict_mode = true)"
    )


def _typed_text(name: str, kind: str) -> str:
    """The text, as PostgreSQL reads it, of a typed DuckDB column."""
    column = '"' + name.replace('"', '""') + '"'
    if kind == "BLOB":
        return rf"('\x' || lower(hex({column})))"
    if kind in ("DOUBLE", "FLOAT"):
        # A nullable integer column of pandas is a float column; its whole numbers must still fit integer columns.
        whole = f"{column} = trunc({column}) AND abs({column}) < 1e15"
        return f"CASE WHEN {whole} THEN {column}::BIGINT::VARCHAR ELSE {column}::VARCHAR END"
    if kind.endswith("]"):
        return f"CASE WHEN {column} IS NULL THEN NULL ELSE to_json({column})::VARCHAR END"
    if kind.startswith(("STRUCT", "MAP", "UNION")):
        return f"to_json({column})::VARCHAR"
    return f"{column}::VARCHAR"


def record_expression(file: SourceFile, texts: Sequence[str], columns: Sequence[str], delimiter: str) -> str:
    """The CSV record that COPY reads for the columns: the line itself where that is already it."""
    if file.is_plain and tuple(columns) == file.columns and delimiter == file.dialect.delimiter:
        return "line"
    special = f'[{re.escape(delimiter)}"\\r\\n]'
    quoted = [
        f"CASE WHEN {text} IS NULL THEN '' WHEN {text} = '' OR {text} = '\\.' OR regexp_matches({text}, {literal(special)}) "
        f"""THEN '"' || replace({text}, '"', '""') || '"' ELSE {text} END"""
        for text in texts
    ]
    return f" || {literal(delimiter)} || ".join(quoted)


def alike(files: Sequence[SourceFile]) -> Iterator[list[SourceFile]]:
    """Split the files into runs of neighbours that one `line_relation` can read, every other file on its own."""
    run: list[SourceFile] = []
    for file in files:
        if run and file.is_plain and run[0].is_plain and (file.columns, file.dialect) == (run[0].columns, run[0].dialect):
            run.append(file)
            continue
        if run:
            yield run
        run = [file]
    if run:
        yield run
