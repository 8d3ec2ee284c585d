"""Which columns of a record the server must check, if the texts of the others are certainly valid.

A CHECK or a foreign key depends on a few columns, which have far fewer different values than there are rows; a type without
a grammar concerns one column. So these go to the server by themselves, each combination once, and not whole records.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from etl_toolkit.keys import value_grammar
from etl_toolkit.model import Column, Layout, TargetTable

MOST_COLUMNS = 200  # of a record; RE2 repeats at most 1,000 times, and to count so many fields takes long
MOST_PARTS = 4  # each takes a pass over the records; if there were more of them, all columns go together


@dataclass(frozen=True)
class Part:
    """Columns that are shown to the server together: the layout of their values, and the table with their conditions only."""

    target: TargetTable
    layout: Layout


@dataclass(frozen=True)
class Apart:
    """The parts, and the table without their conditions: what it demands of the rest of the record."""

    rest: TargetTable
    parts: tuple[Part, ...]

    @property
    def columns(self) -> frozenset[str]:
        """The columns whose texts are shown to the server."""
        return frozenset(name for part in self.parts for name in part.layout.columns)


def set_apart(target: TargetTable, layout: Layout) -> Apart | None:
    """Split what the table demands of a row by itself; None where whole records have to be shown."""
    read = [check.columns for check in target.checks]
    read += [key.columns for key in target.foreign_keys if not key.is_self]
    if len(layout.columns) > MOST_COLUMNS or target.arbiter.predicate:
        return None
    if any(column.is_generated and column.not_null for column in target.columns):
        return None
    if not all(set(layout.columns).issuperset(names) for names in read):
        return None
    alone = [name for name in layout.columns if value_grammar(target.column(name)) is None]
    if not all(_may_repeat(target.column(name)) for name in alone):
        return None
    groups = _joined([*read, *((name,) for name in alone)])
    if len(groups) > MOST_PARTS:
        groups = [set().union(*groups)]
    parts = [_part(target, layout, group) for group in groups]
    return Apart(replace(target, checks=(), foreign_keys=()), tuple(parts))


def _may_repeat(column: Column) -> bool:
    """Whether a column without a grammar has few values: to find the different ones costs more than to send all, if not."""
    return column.is_enum or column.base_type == "domain"


def _joined(groups: Iterable[Iterable[str]]) -> list[set[str]]:
    """The same, those that have a column in common made one."""
    joined: list[set[str]] = []
    for names in groups:
        group = set(names)
        met = [other for other in joined if other & group]
        joined = [other for other in joined if not other & group] + [group.union(*met)]
    return [group for group in joined if group]


def _part(target: TargetTable, layout: Layout, group: set[str]) -> Part:
    narrow = replace(
        target,
        key=(),
        checks=tuple(check for check in target.checks if group.issuperset(check.columns)),
        foreign_keys=tuple(key for key in target.foreign_keys if not key.is_self and group.issuperset(key.columns)),
        wide_indexes=(),  # long records are shown whole
    )
    return Part(narrow, replace(layout, columns=tuple(name for name in layout.columns if name in group)))
