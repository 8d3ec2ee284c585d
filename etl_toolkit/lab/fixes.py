"""Rejected rows of a load: shown in a grid, and loaded again as they were fixed, where no later row has their key."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from etl_toolkit.errors import LedgerError
from etl_toolkit.explain import explain
from etl_toolkit.lab.fixing import FixableRow, loses_to, write_rows
from etl_toolkit.lab.frontend import RejectsGrid
from etl_toolkit.loading import ledger
from etl_toolkit.model import LoadResult, LoadSpec
from etl_toolkit.tables import spell_count

MOST_FIXED = 100  # rejected rows in the grid at a time


def show_rejects(
    rows: Sequence[FixableRow], notes: Sequence[str], on_fixed: Callable[[list[RejectsGrid]], None]
) -> tuple[Any, ...]:
    """Show rejected rows, those with the same header in one grid, and a button that loads the fixed ones."""
    noted = widgets.HTML("".join(f"<p>{escape(note)}</p>" for note in notes))
    if not rows:
        return (noted,)
    by_header: dict[str, list[FixableRow]] = {}
    for row in rows[:MOST_FIXED]:
        by_header.setdefault(row.header_line, []).append(row)
    grids = [RejectsGrid.of(found) for found in by_header.values()]
    again = widgets.Button(description="Load fixed rows", icon="upload", layout=widgets.Layout(width="12rem"))
    again.on_click(lambda _: on_fixed(grids))
    more = f"; the first {MOST_FIXED} are shown" if len(rows) > MOST_FIXED else ""
    found = spell_count(len(rows), "row was", "rows were")
    title = widgets.HTML(f"<p><b>{found} rejected{more}.</b> Edit cells, then load the rows that you changed.</p>")
    return (noted, title, *grids, again)


@dataclass(frozen=True)
class Fixes:
    """The rows that a load rejected, on their way into its table.

    `runs` are that of the load and those of the rows that were fixed since; `ask` asks the database, `send` loads files.
    """

    result: LoadResult
    runs: list[str]
    place: Path
    dsn: str
    ask: Callable[[Callable[[Any], Any]], Any]
    send: Callable[[Sequence[str], LoadSpec], LoadResult]

    def load(
        self, changed: Sequence[FixableRow], rows: Sequence[FixableRow], spec: LoadSpec
    ) -> tuple[list[FixableRow], list[str]]:
        """Load fixed rows; return those that are still rejected, and what is to be said."""
        spec = replace(spec, table=self.result.table, create_table=False, max_rejects=len(changed))
        self._check_latest(self.result.table)
        notes, wanted = [], []
        for row in changed:
            winner = self._find_winner(row, spec.key)
            if winner:
                notes.append(f"{row.place}: not loaded, because {winner} has the same key and is later: it wins")
            else:
                wanted.append(row)
        taken = {(row.position, row.reject.record) for row in changed}
        left = [row for row in rows if (row.position, row.reject.record) not in taken]
        if wanted:
            parent = self.place if self.place.is_dir() else self.place.parent
            written = write_rows(wanted, parent / "fixed" / f"{self.runs[0]}-{secrets.token_hex(2)}")
            plain = replace(spec.read, headers=None, skip=0, delimiter=None, encoding=None, format=None)
            result = self.send([str(path) for path in written], replace(spec, read=plain))
            self.runs.append(result.run_id)
            places = ", ".join(str(path) for path in written)
            notes.append(
                f"{result.counts.written:,} of {result.counts.read:,} fixed rows written; they come from {places}"
            )
            for item in result.rejects:
                row = written[Path(item.file)][item.record]
                left.append(replace(row, reject=replace(row.reject, reason=item.reason, sqlstate=item.sqlstate)))
        return left, notes

    def _find_winner(self, row: FixableRow, key: Sequence[str]) -> str | None:
        texts = row.key_texts(key)
        if texts is None:
            return None  # the load will say so
        found = explain(self.dsn, self.result.table, texts, runs=len(self.runs))
        return loses_to(row, found, self.result.run_id, list(self.result.files))

    def _check_latest(self, table: str) -> None:
        """Refuse to load rows of a run after something newer: they would turn it back."""
        (latest,) = self.ask(lambda connection: ledger.past_runs(connection, target=table, limit=1)) or (None,)
        if latest is None or latest.run_id not in self.runs:
            raise LedgerError(f"another run has loaded into {table} since; load the corrected files as a whole instead")
