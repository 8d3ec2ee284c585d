"""What a load is asked to do, and how its files are read and written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
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
        None, "regular expression; the data ends before the first line whose beginning matches it"
    )
    ragged: Ragged = option(
        "reject",
        "what happens to rows with too few or too many fields: `pad` fills up with NULL, `cut` cuts off, `fit` does both",
    )
    escape: str | None = option(None, "escape character, for example a backslash")
    null: PerColumn = option(
        (), "texts that are NULL: for all columns, where they are not quoted, or by column (`*`: all others)"
    )
    quoted_empty: QuotedEmpty = option("text", 'what `""` is; with `null`, quoted texts of `null` are NULL as well')
    trim: bool = option(False, "whether blanks around values are removed; a value that is then empty is NULL")
    decimal: Literal[".", ","] = option(".", "decimal separator of numbers")
    thousands: str = option("", "thousands separator of numbers, for example . , ' or a blank")
    currency: tuple[str, ...] = option(
        (), "currency signs and codes that may precede or follow a number, for example € or EUR"
    )
    date_format: PerColumn = option(
        (),
        "formats of dates and timestamps as of strptime (`%d.%m.%Y`), for all columns or by column (`*`: all others)",
    )
    true: tuple[str, ...] = option((), "words that mean true, in any case, in addition to those of the server")
    false: tuple[str, ...] = option((), "words that mean false, in any case, in addition to those of the server")
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
