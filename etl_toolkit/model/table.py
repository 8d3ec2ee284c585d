"""The table, and what its catalog says about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Literal

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
    REFERENCED = "foreign key of another table"


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
    """A foreign key of the target table: own columns, referenced table (quoted SQL), referenced columns, operators (SQL).

    `parents` is where its rows are looked up (SQL): rows of tables that inherit do not count, those of partitions do.
    """

    name: str
    columns: tuple[str, ...]
    references: str
    parents: str
    referenced_columns: tuple[str, ...]
    equality: tuple[str, ...]  # the referenced column on the left
    is_self: bool = False
    is_full: bool = False  # MATCH FULL: all columns are NULL, or none

    @property
    def refusal(self) -> str:
        """Why a row that refers to no row is refused."""
        partly = ", or a part of the key is NULL" if self.is_full else ""
        return f"violates foreign key constraint {self.name}: no such row in {self.references}{partly}"


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
