"""What the rooms pass to each other: frozen dataclasses, with no behaviour beyond arithmetic on their own fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from etl_toolkit.typed_options import make_options, option


class Strategy(StrEnum):
    """How the files of one load reach the table."""

    AUTO = "auto"
    FULL_PARALLEL = "full_parallel"
    HYBRID = "hybrid"
    DETERMINISTIC = "deterministic"
    STREAMING = "streaming"
    PARTITIONED = "partitioned"


class ConflictAction(StrEnum):
    """What happens to a row whose key is in the target table already."""

    UPDATE = "update"
    IGNORE = "ignore"
    NEWER = "newer"


# The same choices as callers write them.
StrategyName = Literal["auto", "full_parallel", "hybrid", "deterministic", "streaming", "partitioned"]
OnConflict = Literal["update", "ignore", "newer"]
ExtraColumns = Literal["error", "ignore"]
QuotedEmpty = Literal["text", "null"]
Names = Literal["exact", "snake"]
PerColumn = tuple[str, ...] | Mapping[str, tuple[str, ...]]  # for all columns, or by their names
Ragged = Literal["reject", "pad", "cut", "fit"]
FileFormat = Literal["csv", "pgtext", "jsonl", "parquet", "arrow"]
Loaded = Literal["again", "skip"]
Nulls = Literal["overwrite", "keep"]
RowsWritten = Literal["all", "update", "insert"]
Triggers = Literal["each", "once"]

LEFT_OUT = "\0"  # begins the name of a file's column that is not loaded


# --- sources -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReadOptions:
    """How files are read; None means: find out. Each field says what it is."""

    delimiter: str | None = option(
        None,
        "delimiter of CSV files, of one character or several, `\\s+` for any number of blanks; detected if not given",
        spellings={"\\t": "\t", "tab": "\t"},
    )
    quote: str = option('"', "quote character of CSV files; an empty text if they have none")
    encoding: str | None = option(None, "encoding of CSV files; UTF-8, or according to a byte order mark, if not given")
    headers: tuple[str, ...] | None = option(None, "column names of CSV files without a header")
    extra_columns: ExtraColumns = option("error", "what happens to a file column that the table does not have")
    date_style: str | None = option(
        None, "PostgreSQL's DateStyle (`DMY`, `ISO, DMY`) under which texts become dates; the server's if not given"
    )
    timezone: str | None = option(
        None, "time zone of timestamps without one; the TimeZone of the server, the database or the role if not given"
    )
    format: FileFormat | None = option(
        None, "format of the files, whatever their names; `pgtext` is the text format of COPY"
    )
    skip: int = option(
        0, "number of lines before the header of CSV files, or before the data if `headers` are given", minimum=0
    )
    header: int | bool | None = option(
        None,
        "number of lines of the header: 0 or false for none, 1 or true; detected if not given; with `headers`, their names count",
        minimum=0,
    )
    comment: str | None = option(None, "lines that begin with this text are left out")
    footer: int = option(0, "number of lines at the end of each CSV file that are left out", minimum=0)
    until: str | None = option(
        None, "a regular expression: the first line that it matches from its beginning ends the data"
    )
    ragged: Ragged = option(
        "reject",
        "what happens to rows with too few or too many fields: `pad` fills up with NULL, `cut` cuts off, `fit` does both",
    )
    escape: str | None = option(None, "character that takes the meaning of the one behind it, for example a backslash")
    null: PerColumn = option(
        (), "texts that are NULL: for all columns, where they are not quoted, or by column (`*`: all others)"
    )
    quoted_empty: QuotedEmpty = option("text", 'what `""` is; with `null`, quoted texts of `null` are NULL as well')
    trim: bool = option(False, "whether blanks around values are left out; a value of nothing else is NULL")
    decimal: Literal[".", ","] = option(".", "what is before the decimals of a number")
    thousands: str = option("", "what is between the thousands of a number, for example . , ' or a blank")
    currency: tuple[str, ...] = option(
        (), "signs and codes that may stand before or behind a number, for example € or EUR"
    )
    date_format: PerColumn = option(
        (),
        "formats of dates and timestamps as of strptime (`%d.%m.%Y`), for all columns or by column (`*`: all others)",
    )
    true: tuple[str, ...] = option((), "words for true, in any case, beside those of the server")
    false: tuple[str, ...] = option((), "words for false, in any case, beside those of the server")
    names: Names = option("exact", "`snake` names columns in lower case, with _ for whatever is no letter or digit")
    rename: Mapping[str, str] | None = option(
        None, "other names for columns of the files: name in the file, name in the table"
    )
    columns: tuple[str, ...] = option(
        (), "columns to load, by their new names; others are left out; all if none is given"
    )


@dataclass(frozen=True)
class Delete:
    """Which rows of the files are tombstones, that is delete their key, and what happens to the row of the table."""

    column: str = field(metadata={"doc": "column of the files that marks tombstones"})
    values: tuple[str, ...] = option(
        (), "texts of it that mark one; if not given, it holds truth values, or the times at which rows were deleted"
    )
    soft: str | None = option(
        None,
        "boolean or timestamp column of the table that is set instead of deleting the row, and cleared if its key comes back",
    )


@dataclass(frozen=True)
class SoftDelete:
    """Rows are marked instead of deleted."""

    soft: str = field(metadata={"doc": "boolean or timestamp column of the table that is set"})


@dataclass(frozen=True)
class WriteOptions:
    """What rows do to the table, beyond the key and the conflict action. Each field says what it is."""

    loaded: Loaded = option(
        "again", "what happens to files whose content the table has taken: they are loaded again, or skipped"
    )
    triggers: Triggers = option(
        "each",
        "row triggers fire for each row of each file, in order, or once for each key, with the row that wins: in parallel",
    )
    delete: Delete | None = option(None, "which rows of the files delete their key instead of being written")
    update: tuple[str, ...] | None = option(None, "columns that an update sets; the others are set by inserts only")
    insert_only: tuple[str, ...] = option((), "columns that an update leaves as they are")
    set: Mapping[str, str] = field(
        default_factory=dict,
        metadata={"doc": "columns that get a value with every row written: a text, `now()`, `$file` or `$run`"},
    )
    nulls: Nulls = option("overwrite", "whether NULL overwrites a value, or keeps it")
    rows: RowsWritten = option(
        "all",
        "which rows are written: all, those whose key is in the table (update), or those whose key is not (insert)",
    )
    assertions: tuple[str, ...] = option(
        (),
        "SQL conditions that must hold after the load, else it fails, and an atomic one is rolled back; "
        "`loaded` are the rows that it has inserted or updated",
        name="assert",
    )
    analyze: bool = option(False, "ANALYZE the table after the load")

    missing: Literal["keep", "delete"] | SoftDelete = option(
        "keep", "what happens to keys of the table that are in no file, once all files are loaded"
    )
    scope: str | None = option(
        None,
        "rows of the table that the files speak for, with `missing`: an SQL condition, or `$path` for their directories",
    )
    max_deletes: int | float = option(
        0.1, "how many keys `missing` may delete: a number, or as a decimal a share of the scope"
    )

    new_columns: Literal["error", "ignore", "add"] = option(
        "error",
        "what happens to a file column that the table does not have; `add` adds it, with a type that fits its values",
    )
    widen: bool = option(
        False,
        "whether integer and varchar columns of the table that are too narrow for values of the files are widened",
    )
    types: Mapping[str, str] = field(
        default_factory=dict, metadata={"doc": "SQL types of columns that are created or added; others are inferred"}
    )

    @property
    def keeps_values(self) -> bool:
        """Whether a column may keep the value that an earlier row of the load gave it: rows do not replace each other whole."""
        return self.update is not None or bool(self.insert_only) or self.nulls == "keep"

    @property
    def is_plain(self) -> bool:
        """Whether each row is written as it is, whatever its key holds."""
        return not (self.keeps_values or self.delete or self.set or self.rows != "all" or self.cleared)

    @property
    def cleared(self) -> str | None:
        """The column of the table that marks deleted rows, which a row of their key clears."""
        if self.delete and self.delete.soft:
            return self.delete.soft
        return self.missing_soft

    @property
    def missing_soft(self) -> str | None:
        """The column that marks rows whose key is in no file, where they are not deleted."""
        return self.missing.soft if isinstance(self.missing, SoftDelete) else None

    @property
    def deletes(self) -> bool:
        """Whether rows of the table may be deleted, and not just marked."""
        return self.missing == "delete" or (self.delete is not None and not self.delete.soft)


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
    names. DuckDB knows them as c0, c1, …: `relation_columns` are all columns of a Parquet file so named, `relation_types`
    the DuckDB types of `columns` where these have any. `is_plain` says that the file is UTF-8 CSV without a quote
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
    read: ReadOptions = ReadOptions()
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


# --- target ------------------------------------------------------------------------------------------------------------


OWN_PREFIX = "etl_"


@dataclass(frozen=True)
class Column:
    """One column of the target table. `type` is the SQL type as the server spells it, `base_type` its pg_type name.

    A type that PostgreSQL did not bring has its schema's oid before the name: it may be named like one that it brought.
    `is_utf8` says that the database keeps text as UTF-8, so it has every character, each of them once.
    `expression` is, as SQL, its default or, where it is `generated` (stored or virtual), what it is generated from: the
    columns it `reads`. A default that `is_repeatable` may be evaluated once more without a trace, and two rows may get the
    same. `collation` is named where it is not the type's own. The `base_type` of a
    domain is `domain`, and `domain_of` the name of the type that it narrows.
    """

    name: str
    type: str
    base_type: str
    type_modifier: int = -1
    not_null: bool = False
    expression: str | None = None
    generated: Literal["", "s", "v"] = ""
    reads: tuple[str, ...] = ()
    is_repeatable: bool = True
    identity: Literal["", "a", "d"] = ""
    is_deterministic: bool = True
    is_utf8: bool = True
    collation: str | None = None
    is_enum: bool = False
    domain_of: str = ""

    @property
    def is_generated(self) -> bool:
        return self.generated != ""

    @property
    def is_required(self) -> bool:
        """A file must carry this column: NOT NULL, and nothing fills it in."""
        return self.not_null and self.expression is None and not self.identity


@dataclass(frozen=True)
class Arbiter:
    """The unique index that decides whether two rows have the same key.

    `expressions` are its key parts as SQL (a quoted column name, or an expression), with the collation where it
    differs from the column's; `equality` are the operators by which it compares them, as SQL. `is_plain` says that every
    part is a bare column with the type's default equality. `reads` are the columns that its parts and its predicate
    depend on.
    """

    index: str
    expressions: tuple[str, ...]
    equality: tuple[str, ...]
    predicate: str | None = None
    nulls_not_distinct: bool = False
    is_plain: bool = True
    reads: tuple[str, ...] = ()


class HazardKind(StrEnum):
    """Something in the catalog that couples rows beyond the key, or that changes what an upsert does."""

    SECOND_UNIQUE = "second unique index"
    EXCLUSION = "exclusion constraint"
    SELF_REFERENCE = "self-referencing foreign key"
    ROW_TRIGGER = "row trigger"
    STATEMENT_TRIGGER = "statement trigger"
    ROW_SECURITY = "row-level security"
    PARTITION = "partition with rules of its own"
    RULE = "rewrite rule"
    DEFERRABLE_KEY = "deferrable key"
    SERVER_KEY = "key equality only the server can tell"
    KEPT_IDENTITY = "identity column beside the key"


@dataclass(frozen=True)
class Hazard:
    """One hazard, and what it forces: `sequential` loading, `server` key comparison, staging only, or refusal.

    With `judged` it only matters that each row has a verdict before it is written. Where `columns` are given, it holds
    only for files that carry one of them.
    """

    kind: HazardKind
    detail: str
    forces: Literal["sequential", "server", "staged", "refuse", "judged"]
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key of the target table: own columns, referenced table (quoted SQL), referenced columns, operators (SQL)."""

    name: str
    columns: tuple[str, ...]
    references: str
    referenced_columns: tuple[str, ...]
    equality: tuple[str, ...]  # the referenced column on the left
    is_self: bool = False


@dataclass(frozen=True)
class RowCheck:
    """What the table demands of a row by itself: a name for messages or "", `CHECK (…)` as SQL, and the columns it reads.

    An expression that the server evaluates for each row, of an index or a generated column, is one too: it may fail.
    `parts` is the number of conditions in it: a partitioned table demands that one of its partitions takes the row.
    """

    name: str
    definition: str
    columns: tuple[str, ...]
    parts: int = 1


@dataclass(frozen=True)
class WideIndex:
    """A B-tree index whose entries may be too large: its parts as SQL, those of any length, and the columns they read.

    `included` are the columns that it only carries, whose types need no order. `long_parts` is empty where their length is
    no condition of an index: the text of an array or a composite value may depend on settings.
    """

    name: str
    parts: tuple[str, ...]
    included: tuple[str, ...]
    long_parts: tuple[str, ...]
    columns: tuple[str, ...]


@dataclass(frozen=True)
class TargetTable:
    """The target table as the catalog describes it.

    `distribution` says how Citus distributes it, in words: `by customer`, `as a reference table`; empty: not at all.
    """

    schema: str
    name: str
    oid: int
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    arbiter: Arbiter
    hazards: tuple[Hazard, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    is_partitioned: bool = False
    is_empty: bool = False
    checks: tuple[RowCheck, ...] = ()
    wide_indexes: tuple[WideIndex, ...] = ()
    created: bool = False
    server_version: int = 0
    distribution: str = ""

    @property
    def qualified_name(self) -> str:
        return f"{self.schema}.{self.name}"

    @cached_property
    def own_prefix(self) -> str:
        """What the columns that a load adds beside the table's begin with, and none of the table's does."""
        prefix, number = OWN_PREFIX, 1
        while any(column.name.startswith(prefix) for column in self.columns):
            number += 1
            prefix = f"etl{number}_"
        return prefix

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)

    @property
    def kept_identities(self) -> tuple[str, ...]:
        """The GENERATED ALWAYS identity columns beside the key: no UPDATE can set them, so a row keeps its values."""
        return tuple(column.name for column in self.columns if column.identity == "a" and column.name not in self.key)

    def forced(self, consequence: str) -> tuple[Hazard, ...]:
        return tuple(hazard for hazard in self.hazards if hazard.forces == consequence)


# --- overlap -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FileKeys:
    """Keys of one file. `unproven` rows carry a key whose equality the client cannot tell; NULL keys are apart.

    `rejected` are the rows among `rows` that were refused when they were looked at.
    """

    position: int
    name: str
    rows: int
    distinct_keys: int
    null_keys: int = 0
    unproven: int = 0
    rejected: int = 0

    @property
    def duplicates(self) -> int:
        """Rows that lose to a later row of the same file."""
        return self.rows - self.null_keys - self.unproven - self.rejected - self.distinct_keys


@dataclass(frozen=True)
class Intersection:
    """The number of keys that appear in exactly these files (positions) and no others."""

    files: tuple[int, ...]
    keys: int


@dataclass(frozen=True)
class KeyOverlap:
    """Which files share primary keys.

    `intersections` are exact (every key is counted in one of them), largest first, at most 1,000 of them. `pairs` maps two
    positions to the keys they share, for the 5,000 pairs that share most (all of 100 files); it is empty where there are
    too many to be counted, as where thousands of files share their keys. `groups` are the connected components: files of
    different groups share no key. `existing_keys` is the number of keys in the target table already, None where it was
    not looked up; `existing_is_estimate` says that it was scaled up from a sample.
    """

    files: tuple[FileKeys, ...]
    distinct_keys: int
    shared_keys: int
    intersections: tuple[Intersection, ...]
    pairs: Mapping[tuple[int, int], int]
    groups: tuple[tuple[int, ...], ...]
    existing_keys: int | None = None
    existing_is_estimate: bool = False
    key: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    @cached_property
    def file_at(self) -> Mapping[int, FileKeys]:
        """The files by their position."""
        return {file.position: file for file in self.files}

    def rows_of(self, positions: Iterable[int]) -> int:
        return sum(self.file_at[position].rows for position in positions)

    def is_alone(self, position: int) -> bool:
        """Whether a file shares no key with another one."""
        return position in self._alone

    @cached_property
    def _alone(self) -> frozenset[int]:
        return frozenset(group[0] for group in self.groups if len(group) == 1)

    @property
    def overlap_ratio(self) -> float:
        """Share of the distinct keys that appear in more than one file, 0 to 1."""
        return self.shared_keys / self.distinct_keys if self.distinct_keys else 0.0

    @property
    def has_duplicates(self) -> bool:
        return any(file.duplicates for file in self.files)

    @property
    def has_losers(self) -> bool:
        """Whether any row loses to another one with its key."""
        return self.has_duplicates or self.shared_keys > 0

    @property
    def unproven(self) -> int:
        return sum(file.unproven for file in self.files)

    def _repr_html_(self) -> str:
        from etl_toolkit.display import overlap_html

        return overlap_html(self)


# --- plan --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """The columns, in order, of the records that go to COPY, and the delimiter between them.

    Records that are `is_bare` have neither quote nor backslash: COPY's text format reads them as its CSV format does.
    """

    columns: tuple[str, ...]
    delimiter: str = ","
    is_bare: bool = False

    def with_file(self, name: str) -> Layout:
        """The same records with the position of their file before them, in a column of this name."""
        return replace(self, columns=(name, *self.columns))


@dataclass(frozen=True)
class Batch:
    """The rows of one claim in the ledger: some files, a transaction of their own, or one key range over all files.

    A worker loads one key range after the other in the same transaction.

    `collapsed` says that rows of several files compete before they meet the table; else the files are merged in order.
    """

    number: int
    files: tuple[int, ...]
    partition: int | None = None
    collapsed: bool = False

    @property
    def label(self) -> str:
        if not self.files:
            return "missing keys"
        if self.partition is not None:
            return f"partition {self.partition + 1}"
        return "file " + ", ".join(str(position + 1) for position in self.files)


@dataclass(frozen=True)
class LoadedBefore:
    """A file whose content was loaded into the table at `loaded_at`, before newer content, which loading it again reverts.

    `newer_runs` have written `newer_rows` rows of other content since: at most that many are reverted. `turned_back`
    is known after the load, None before: the rows of the file that changed a row of the table, at most `newer_rows`.
    """

    file: str
    run_id: str
    loaded_at: str
    newer_runs: tuple[str, ...]
    newer_rows: int
    turned_back: int | None = None

    def __str__(self) -> str:
        since = f"since it was loaded on {self.loaded_at[:16]} (run {self.run_id})"
        runs = f"run{'s' if len(self.newer_runs) > 1 else ''} {', '.join(self.newer_runs[-3:])}"
        if self.turned_back is not None:
            return f"{self.file}: reverted at most {self.turned_back:,} rows that {runs} wrote {since}"
        return (
            f"{self.file}: {runs} wrote {self.newer_rows:,} rows {since}; loading it again may revert at most that many. "
            "To keep them, give --on-conflict newer with --order-by; to turn them back without this warning, --force"
        )


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
class Plan:
    """What will be done, and why. `lanes` run side by side; the batches of one lane run in order.

    `commit` says how key ranges that hosts load are committed: `together` or `per_range`; empty for a load in one process.
    """

    strategy: Strategy
    reasons: tuple[str, ...]
    lanes: tuple[tuple[Batch, ...], ...]
    workers: int
    key_path: Literal["client", "server"]
    overlap: KeyOverlap | None = None
    predicted_seconds: Mapping[Strategy, float] = field(default_factory=dict)
    predicted_inserts: int | None = None
    predicted_updates: int | None = None
    predicted_unchanged: int | None = None
    predicted_deletes: int | None = None
    predicted_removals: int | None = None
    target_is_empty: bool = False
    loaded_before: tuple[LoadedBefore, ...] = ()
    duplicates: tuple[tuple[str, str], ...] = ()  # those of `Sources`
    skipped: tuple[SkippedFile, ...] = ()  # those of `Sources`
    commit: Literal["", "together", "per_range"] = ""
    added: tuple[str, ...] = ()  # columns of the files that the table lacked

    @property
    def batches(self) -> tuple[Batch, ...]:
        return tuple(batch for lane in self.lanes for batch in lane)

    @cached_property
    def lane_of(self) -> Mapping[int, tuple[Batch, ...]]:
        """The lane of each batch, by its number."""
        return {batch.number: lane for lane in self.lanes for batch in lane}

    def _repr_html_(self) -> str:
        from etl_toolkit.display import plan_html

        return plan_html(self)


# --- result ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """What happened to the rows; `read` must equal the sum of the others, but for `removed`: rows of the table in no file."""

    read: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    superseded_same_file: int = 0
    superseded_later_file: int = 0
    rejected: int = 0
    stale: int = 0
    deleted: int = 0
    absent: int = 0
    removed: int = 0

    @property
    def accounted(self) -> int:
        return int(sum(getattr(self, name) for name in _COUNTED)) - self.read - self.removed

    @property
    def balances(self) -> bool:
        return self.read == self.accounted

    @property
    def written(self) -> int:
        return self.inserted + self.updated + self.deleted + self.removed

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in _COUNTED})


_COUNTED = tuple(item.name for item in fields(Counts))


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


@dataclass(frozen=True)
class LoadResult:
    """The outcome of one load: true only when every row is accounted for and every batch is committed.

    `files` maps a name to the counts of its file: their sum, where the same file is loaded at several places. `duplicates`
    are files left out, each with the one of the same content that counts instead; `skipped` those whose content the table has
    taken. `phases` maps a phase (`read`, `plan`,
    `copy`, `merge`, `commit`, …) to seconds; phases of parallel workers add up, so their sum may exceed `wall_seconds`.
    """

    run_id: str
    table: str
    strategy: Strategy
    reasons: tuple[str, ...]
    counts: Counts
    files: Mapping[str, Counts]
    wall_seconds: float
    phases: Mapping[str, float]
    plan: Plan
    completed: bool
    duplicates: tuple[tuple[str, str], ...] = ()
    retries: int = 0
    created_sql: str | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    loaded_before: tuple[LoadedBefore, ...] = ()
    rejects: tuple[RejectedRow, ...] = ()
    skipped: tuple[SkippedFile, ...] = ()
    missing_kept: str = ""  # why keys that are in no file were not deleted, although that was asked for

    def __bool__(self) -> bool:
        return self.completed and self.counts.balances and all(counts.balances for counts in self.files.values())

    @property
    def rows_per_second(self) -> float:
        return self.counts.read / self.wall_seconds if self.wall_seconds else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON can hold it; the plan is reduced to its strategy and reasons."""
        return {
            "run_id": self.run_id,
            "complete": bool(self),
            "table": self.table,
            "strategy": str(self.strategy),
            "reasons": list(self.reasons),
            "counts": asdict(self.counts),
            "files": {name: asdict(counts) for name, counts in self.files.items()},
            "wall_seconds": self.wall_seconds,
            "rows_per_second": self.rows_per_second,
            "phases": dict(self.phases),
            "predicted_seconds": {str(name): seconds for name, seconds in self.plan.predicted_seconds.items()},
            "workers": self.plan.workers,
            "duplicates": [{"left_out": name, "same_as": kept} for name, kept in self.duplicates],
            "skipped": [asdict(item) | {"taken_at": item.taken_at and str(item.taken_at)} for item in self.skipped],
            "retries": self.retries,
            "created_sql": self.created_sql,
            "resources": dict(self.resources),
            "missing_kept": self.missing_kept,
            "loaded_before": [asdict(item) for item in self.loaded_before],
        }

    def to_frame(self) -> Any:
        """Return a pandas frame: a row a file, named by `file`, and a column a count (`read`, `inserted`, …)."""
        import pandas as pd

        return pd.DataFrame([{"file": name, **asdict(counts)} for name, counts in self.files.items()]).set_index("file")

    def __repr__(self) -> str:
        from etl_toolkit.display import cut_to_screen

        return cut_to_screen(str(self))

    def __str__(self) -> str:
        from etl_toolkit.display import result_text

        return result_text(self)

    def _repr_html_(self) -> str:
        from etl_toolkit.display import result_html

        return result_html(self)


@dataclass(frozen=True)
class LoadSpec:
    """What was requested: everything that decides the outcome of a load besides the files and the table."""

    table: str
    key: tuple[str, ...]
    order_by: str | None = None
    conflict_action: ConflictAction = ConflictAction.UPDATE
    strategy: Strategy = Strategy.AUTO
    create_table: bool = False
    max_rejects: int = 0
    atomic: bool = False
    force: bool = False
    undoable: bool = False
    read: ReadOptions = ReadOptions()
    write: WriteOptions = WriteOptions()

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> LoadSpec:
        """Build a spec from its `asdict`, as the ledger keeps it."""
        typed = {
            "key": tuple(values["key"]),
            "conflict_action": ConflictAction(values["conflict_action"]),
            "strategy": Strategy(values["strategy"]),
            "read": make_options(ReadOptions, values["read"]),
            "write": make_options(WriteOptions, values.get("write", {})),
        }
        return cls(**{**values, **typed})
