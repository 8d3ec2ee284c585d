"""The files of a load, as they were found."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from etl_toolkit.model.options import ReadOptions

LEFT_OUT = "\0"  # begins the name of a file's column that is not loaded


@dataclass(frozen=True)
class CsvDialect:
    """The agreed shape of one CSV file, as DuckDB and COPY read it.

    `copy_text` is the delimiter of the COPY text that it was made of, if it was; `own_delimiter` that of the file, if it
    was made of another kind of CSV, `is_json` of JSON lines.
    `blanks` are those that may be around its values.
    """

    delimiter: str = ","
    quote: str = '"'
    encoding: str = "utf-8"
    has_header: bool = True
    skip: int = 0
    copy_text: str = ""
    own_delimiter: str = ""
    is_json: bool = False
    blanks: str = " "


@dataclass(frozen=True)
class SourceFile:
    """One file of a load, at its position in the order of files.

    `columns` are its columns in its own order, named as in the table once it is matched; `source_columns` keep its own
    names. `chosen` are those of a Parquet file that may be read, if not all: others may not be there. DuckDB knows them as
    c0, c1, …: `relation_columns` are all columns of a Parquet file so named, `relation_types` the DuckDB types of `columns`
    where these have any. `is_plain` says that the file is UTF-8 CSV without a quote
    character, so that every line is one record and both DuckDB and the server split it alike; only then may its bytes go
    to COPY as they are. `is_copyable` says that its records, line breaks in quotes and all, are what COPY reads.
    `is_bare` says that it is plain and has no backslash either, so that its lines mean the same in COPY's text format.
    `found` says what was not given and had to be found out, and how sure it is.
    `is_unquoted` says that it has no quotes, whatever its values mean, so that those that are texts need none either.
    `frame` holds the Arrow table of an in-memory source until DuckDB has it; its `path` is None. `readable` is the path to
    read: the file itself, or the corrected / transcoded copy in the working directory, which is UTF-8 with LF line ends
    whatever the `encoding` of its `dialect`. `malformed` records are not in it; it has `records` of them, the longest of
    `longest_record_bytes`. `marked_line` is the first line with a field of a backslash and N alone, if nothing says
    what that means. `target_types` are the server's types of `columns`, once matched. `header` is the line under
    which its records can be loaded as a CSV file. `path_values` are columns that its path carries (`dt=2024-01-01/…`), with
    their text, and it has not itself; once matched, those that the table has. `read` is how it was asked to be read. The name
    of a column that is not to be loaded begins with `LEFT_OUT`.
    `offsets` are those of the server's zone, in seconds, and the second of the epoch from which on each holds: for its
    instants that go into columns without a time zone.
    """

    position: int
    name: str
    format: Literal["csv", "parquet", "frame"]
    columns: tuple[str, ...]
    content_hash: str
    size_bytes: int
    path: Path | None = None
    dialect: CsvDialect = CsvDialect()
    is_plain: bool = False
    is_copyable: bool = False
    is_bare: bool = False
    is_unquoted: bool = False
    frame: Any = field(default=None, compare=False, repr=False)
    readable: Path | None = None
    source_columns: tuple[str, ...] = ()
    chosen: tuple[str, ...] = ()
    malformed: tuple[Reject, ...] = ()
    records: int | None = None
    longest_record_bytes: int = 0
    marked_line: int | None = None
    relation_columns: tuple[str, ...] = ()
    relation_types: tuple[str, ...] = ()
    target_types: tuple[str, ...] = ()
    header: str = ""
    stamp: tuple[int, ...] = ()
    path_values: tuple[tuple[str, str | None], ...] = ()
    offsets: tuple[tuple[int, int], ...] = ()
    read: ReadOptions = field(default_factory=ReadOptions)
    found: str = field(default="", compare=False)

    @property
    def carried(self) -> tuple[str, ...]:
        """The columns that it has a value for: its own, and those of its path."""
        return (
            *(name for name in self.columns if not name.startswith(LEFT_OUT)),
            *(name for name, _ in self.path_values),
        )

    @property
    def own_columns(self) -> tuple[str, ...]:
        """The columns as the file itself names them."""
        return self.source_columns or self.columns


@dataclass(frozen=True)
class Sources:
    """The files of one load, in order, and the ones left out because their content is given at another place as well."""

    files: tuple[SourceFile, ...]
    duplicates: tuple[tuple[str, str], ...] = ()  # (name left out, name of the file that counts instead)
    skipped: tuple[SkippedFile, ...] = ()  # left out because the table has their content

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True)
class TakenFile:
    """A file that a table has taken: its name then, its content hash, bytes and rows, and which run took it when."""

    name: str
    content_hash: str
    size_bytes: int
    rows: int
    run_id: str
    taken_at: datetime


@dataclass(frozen=True)
class SkippedFile:
    """A file that is left out because the table has its content: as `taken_as`, by a run, or earlier in this load."""

    file: str
    taken_as: str
    run_id: str | None = None
    taken_at: datetime | None = None

    def __str__(self) -> str:
        name = "" if self.taken_as == self.file else f" as {self.taken_as}"
        if self.taken_at is None:
            return f"{self.file}: this load has its content already{name}"
        return f"{self.file}: the table took its content on {self.taken_at:%Y-%m-%d %H:%M}{name} (run {self.run_id})"


@dataclass(frozen=True)
class Reject:
    """A row that could not be loaded. `record` counts the file's data records from 0; `line` its lines from 1."""

    file: int
    record: int
    line: int | None
    reason: str
    sqlstate: str
    raw: str

    def named(self, file: str) -> RejectedRow:
        """The same with the name of its file."""
        return RejectedRow(file, self.record, self.line, self.reason, self.sqlstate, self.raw)


@dataclass(frozen=True)
class RejectedRow:
    r"""A row that could not be loaded.

    `record` counts the data records of the file from 0, `line` its lines from 1 (None where the file has no lines);
    `raw` is the record as it appears in the file, with bytes that are not UTF-8 spelled `\xe9`.
    """

    file: str
    record: int
    line: int | None
    reason: str
    sqlstate: str
    raw: str
