"""What a case is: plain data that says all there is to say about a load, and can be printed, kept and replayed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.oracle import Row, Rows


@dataclass(frozen=True)
class Column:
    """A column of the target table. `more` follows its type in the definition; `is_free` says that a file may carry it.

    It may be `declared` as a domain over its type.
    """

    name: str
    type: str
    more: str = ""
    is_free: bool = True
    declared: str = ""


@dataclass(frozen=True)
class Table:
    """The target table: `{table}` in `more` and `statements` is its quoted name, `{schema}` its quoted schema."""

    schema: str
    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]  # columns, as the load names them
    arbiter: tuple[str, ...]  # key parts as SQL
    predicate: str | None = None
    more: tuple[str, ...] = ()
    tail: str = ""
    statements: tuple[str, ...] = ()

    @property
    def is_coupled(self) -> bool:
        """Whether writing a row may show what the row alone does not: a trigger, a second unique index."""
        uniques = [text for text in (*self.more, *self.statements) if "UNIQUE" in text or "PRIMARY KEY" in text]
        return len(uniques) > 1 or any("TRIGGER" in text for text in self.statements)

    @property
    def sql(self) -> str:
        """Its qualified name as SQL."""
        return f"{quoted(self.schema)}.{quoted(self.name)}"

    @property
    def ddl(self) -> str:
        """What makes it, in a schema of this name that is there."""
        columns = [f"{quoted(column.name)} {column.declared or column.type} {column.more}" for column in self.columns]
        create = f"CREATE TABLE {self.sql} ({', '.join((*columns, *self.more))}) {self.tail}"
        places = {"{table}": self.sql, "{schema}": quoted(self.schema)}
        made = [create]
        for statement in self.statements:
            for place, name in places.items():
                statement = statement.replace(place, name)  # noqa: PLW2901
            made.append(statement)
        return "; ".join(made)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True)
class Dialect:
    """How a CSV file is spelled."""

    delimiter: str = ","
    quote_all: bool = False
    line_end: str = "\n"
    has_bom: bool = False
    ends: bool = True  # the last line does
    blank_every: int = 0  # a blank line behind every so many records
    encoding: str = "utf-8"


@dataclass(frozen=True)
class Feed:
    """What all CSV files of a case have in common that plain CSV has not, and the options that say so."""

    delimiter: str = ""
    escape: str = ""
    null: str = ""
    comment: str = ""
    until: str = ""
    skip: int = 0
    footer: int = 0
    is_fitted: bool = False  # records lack empty fields at their end

    @property
    def options(self) -> dict[str, Any]:
        """The options of reading that say so."""
        given = {
            "delimiter": self.delimiter, "escape": self.escape, "comment": self.comment, "until": self.until, "skip": self.skip,
            "footer": self.footer, "null": (self.null,) if self.null else (), "ragged": "pad" if self.is_fitted else "",
        }  # fmt: skip
        return {name: value for name, value in given.items() if value}


@dataclass(frozen=True)
class Content:
    """One file or frame. `kinds` are the Arrow types of its columns; `path_values` come from the directories of its path."""

    path: str
    form: str
    columns: tuple[str, ...]
    kinds: tuple[str, ...]
    rows: tuple[Row, ...]
    dialect: Dialect = Dialect()
    path_values: tuple[tuple[str, str | None], ...] = ()
    flavour: str = ""  # of the frame or Parquet file
    feed: Feed = Feed()

    @property
    def expected(self) -> Rows:
        """What `\\copy` would be given: the file's rows, and on each of them the values of the path."""
        more = tuple(value for _, value in self.path_values)
        return Rows((*self.columns, *(name for name, _ in self.path_values)), tuple((*row, *more) for row in self.rows))


@dataclass(frozen=True)
class Fault:
    """The process is killed when `point` is reached for the `number`th time; then the run is resumed."""

    point: str
    number: int


@dataclass(frozen=True)
class Writing:
    """The options of writing of a case. `options` are those of the load; `mark` is a column of the files, "D" in tombstones."""

    options: Mapping[str, Any] = field(default_factory=dict)
    mark: str = ""

    def __bool__(self) -> bool:
        return bool(self.options)


@dataclass(frozen=True)
class Case:
    """One load, and all that it meets."""

    seed: int
    environment: str
    encoding: str
    settings: tuple[tuple[str, str], ...]
    table: Table
    before: Rows
    contents: tuple[Content, ...]
    options: Mapping[str, Any]
    config: Mapping[str, Any] = field(default_factory=dict)
    fault: Fault | None = None
    feed: Feed = Feed()
    writing: Writing = Writing()
