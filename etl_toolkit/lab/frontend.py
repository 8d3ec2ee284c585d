"""The two widgets with a front end of their own: the overlap map, and the grid of rejected rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from etl_toolkit.clusters import order_files
from etl_toolkit.display import short_names
from etl_toolkit.lab.fixing import FixableRow
from etl_toolkit.lab.samples import lists_some_pairs
from etl_toolkit.model import KeyOverlap

_HERE = Path(__file__).parent


class OverlapMap(anywidget.AnyWidget):
    """Files against files, as zoomable as a map; `chosen` are the positions of the two files last clicked."""

    _esm = _HERE / "overlap_map.js"
    names: Any = traitlets.List().tag(sync=True)
    order: Any = traitlets.List().tag(sync=True)
    distinct: Any = traitlets.List().tag(sync=True)
    pairs: Any = traitlets.List().tag(sync=True)
    summary = traitlets.Unicode().tag(sync=True)
    is_cut = traitlets.Bool().tag(sync=True)  # there are more pairs than are listed
    chosen: Any = traitlets.List().tag(sync=True)

    @classmethod
    def of(cls, overlap: KeyOverlap) -> OverlapMap:
        """Draw an overlap; where it has more pairs than are listed, those that share most."""
        return cls(
            names=short_names([file.name for file in overlap.files]),
            order=order_files(overlap),
            distinct=[file.distinct_keys for file in overlap.files],
            pairs=[[left, right, shared] for (left, right), shared in overlap.pairs.items()],
            is_cut=lists_some_pairs(overlap),
            summary=f"{overlap.shared_keys:,} of {overlap.distinct_keys:,} distinct keys appear in more than one of "
            f"{len(overlap.files):,} files",
        )


class RejectsGrid(anywidget.AnyWidget):
    """Rejected rows of files with one header; `changes` maps `row-column` to the text that was typed there."""

    _esm = _HERE / "grid.js"
    head: Any = traitlets.List().tag(sync=True)
    rows: Any = traitlets.List().tag(sync=True)
    changes = traitlets.Dict().tag(sync=True)

    @classmethod
    def of(cls, rows: Sequence[FixableRow]) -> RejectsGrid:
        """Show rows that have the same header."""
        shown: list[dict[str, Any]] = [
            {"place": row.place, "reason": row.reject.reason, "cells": list(row.cells)} for row in rows
        ]
        width = max(len(row.cells) for row in rows)
        extra = [f"extra {n}" for n in range(1, width - len(rows[0].header) + 1)]
        grid = cls(head=[*rows[0].header, *extra], rows=shown)
        grid.fixable = list(rows)
        return grid

    fixable: Sequence[FixableRow] = ()

    def fixed(self) -> list[FixableRow]:
        """Return the rows in which a cell was changed, as they are now."""
        return [row for n, old in enumerate(self.fixable) if (row := self._row(n, old)) != old]

    def _row(self, number: int, row: FixableRow) -> FixableRow:
        cells = [self.changes.get(f"{number}-{column}", cell) for column, cell in enumerate(row.cells)]
        return row.with_cells(cells)
