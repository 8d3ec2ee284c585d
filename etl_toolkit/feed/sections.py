"""The tables of a feed file, as dataclasses that describe themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from etl_toolkit.config import ParallelConfig
from etl_toolkit.errors import UsageError
from etl_toolkit.model import ConflictAction, LoadSpec, OnConflict, ReadOptions, WriteOptions
from etl_toolkit.typed_options import option


@dataclass(frozen=True)
class Top:
    """What stands before the first table."""

    table: str = option("", "target table, `name` or `schema.name`")
    key: tuple[str, ...] = option((), "columns of the unique index that decides which rows are the same")
    dsn: str | None = option(None, "server, without a password; ETL_DSN, PG* or the embedded server if not given")


@dataclass(frozen=True)
class Files:
    """`[files]`: what is loaded, in this order."""

    paths: tuple[str, ...] = option((), "files and globs in loading order, relative to the feed file")


@dataclass(frozen=True)
class Write(WriteOptions):
    """`[write]`: the options of writing, and those that are parameters of `ingest` as well."""

    order_by: str | None = option(None, "the row with the greatest value of this column wins, instead of the last one")
    on_conflict: OnConflict = option(
        "update", "what happens to a row whose key is in the table already; `newer` needs `order_by`"
    )
    create_table: bool = option(False, "create the table if it does not exist, with types that fit the values")

    def __post_init__(self) -> None:
        if self.on_conflict == "newer" and not self.order_by:
            raise UsageError('on_conflict = "newer" needs order_by, the column that decides which row is newer')
        if self.scope is not None and self.missing == "keep":
            raise UsageError(
                'scope says which rows `missing` may delete; give missing = "delete" or { soft = … }, or no scope'
            )


@dataclass(frozen=True)
class Load:
    """`[load]`: how a load runs, beside the settings of `ParallelConfig`."""

    max_rejects: int = option(0, "number of rows that may be rejected before the load fails", minimum=0)
    atomic: bool = option(False, "let readers see all rows or none")
    undoable: bool = option(False, "keep overwritten rows, for `undo`")


@dataclass(frozen=True)
class After:
    """`[after]`: what happens once the load has ended."""

    on_success: tuple[str, ...] = option(
        (), "command, as a list of arguments, run after a load without a failure; it reads the result as JSON"
    )
    on_failure: tuple[str, ...] = option(
        (), "command, as a list of arguments, run after a load that failed; it reads the failure as JSON"
    )
    lineage: str | None = option(
        None, "directory, relative to the feed file, to which an OpenLineage event is written for each load"
    )

    def __post_init__(self) -> None:
        for name in ("on_success", "on_failure"):
            command = getattr(self, name)
            if len(command) == 1 and len(command[0].split()) > 1:
                raise UsageError(f"{name} is a list of arguments, not one text: {json.dumps(command[0].split())}")


SECTIONS = {"files": Files, "read": ReadOptions, "write": Write, "load": Load, "after": After}


def spec_of_sections(sections: Mapping[str, Any]) -> LoadSpec:
    """What the tables of a feed ask for; its strategy is a setting of `[load]`."""
    top, write, load = sections["top"], sections["write"], sections["load"]
    return LoadSpec(
        table=top.table, key=top.key, order_by=write.order_by, conflict_action=ConflictAction(write.on_conflict),
        create_table=write.create_table, max_rejects=load.max_rejects, atomic=load.atomic, undoable=load.undoable,
        read=sections["read"], write=WriteOptions(**{item.name: getattr(write, item.name) for item in fields(WriteOptions)}),
    )  # fmt: skip


def describe_settings() -> dict[str, str]:
    """What each setting of `ParallelConfig` means, by its name, from the lines of its docstring."""
    described: dict[str, str] = {}
    names = {item.name for item in fields(ParallelConfig)}
    current = ""
    for line in (ParallelConfig.__doc__ or "").splitlines():
        name, colon, text = line.strip().partition(": ")
        if colon and name in names:
            current = name
            described[name] = text
        elif current and line.strip():
            described[current] += " " + line.strip()
    return {name: text.removesuffix(".") for name, text in described.items()}
