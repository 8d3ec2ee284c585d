"""Rejected rows as cells, and back: written under the header of their file, to be loaded again.

A cell holds its text as the file has it, quotes included, because an empty cell is NULL and `""` is not.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from etl_toolkit.explain import Explanation
from etl_toolkit.model import RejectedRow
from etl_toolkit.sources import partition_of

DELIMITERS = ",;\t|"


@dataclass(frozen=True)
class FixableRow:
    """A rejected row of the file at `position` in its run, split into cells under `header`."""

    position: int
    reject: RejectedRow
    header_line: str
    header: tuple[str, ...]
    cells: tuple[str, ...]
    delimiter: str

    @property
    def place(self) -> str:
        line = f"line {self.reject.line}" if self.reject.line is not None else f"record {self.reject.record + 1}"
        return f"{Path(self.reject.file).name}, {line}"

    def with_cells(self, cells: Sequence[str]) -> FixableRow:
        return replace(self, cells=tuple(cells))

    def key_texts(self, key: Sequence[str]) -> Mapping[str, str] | None:
        """The values of its key columns, without quotes; None where it has no such columns or an empty one."""
        folded = {name.casefold(): cell for name, cell in zip(self.header, self.cells, strict=False)}
        found = {name: _unquoted(folded.get(name.casefold(), "")) for name in key}
        return found if all(found.values()) else None


def split_row(reject: RejectedRow, header_line: str, position: int) -> FixableRow:
    """Split a rejected record into cells; those that are missing are empty."""
    delimiter = max(DELIMITERS, key=lambda mark: len(_split(header_line, mark)))
    header = tuple(next(csv.reader([header_line], delimiter=delimiter)))
    cells = _split(reject.raw, delimiter)
    cells += [""] * (len(header) - len(cells))
    return FixableRow(position, reject, header_line, header, tuple(cells), delimiter)


def write_rows(rows: Sequence[FixableRow], place: Path) -> dict[Path, list[FixableRow]]:
    """Write rows into new files below `place`, one for each header and each directory that carries columns (`dt=…`)."""
    by_path: dict[tuple[Path, str], list[FixableRow]] = {}
    for row in rows:
        by_path.setdefault((place / partition_of(row.reject.file), row.header_line), []).append(row)
    written: dict[Path, list[FixableRow]] = {}
    for number, ((directory, header), found) in enumerate(by_path.items(), start=1):
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"fixed-{number}.csv"
        with path.open("x", encoding="utf-8", newline="") as stream:
            stream.writelines(line + "\n" for line in (header, *map(_join, found)))
        written[path] = found
    return written


def loses_to(row: FixableRow, found: Explanation, run_id: str, files: Sequence[str]) -> str | None:
    """Where a later row of the run with the key of `row` is: that one wins, so `row` must not be loaded after it."""
    order = {name: position for position, name in enumerate(files)}
    for item in found.occurrences:
        is_in_run = item.run_id == run_id and item.file in order and not item.verdict.startswith("rejected")
        if is_in_run and (order[item.file], item.record) > (row.position, row.reject.record):
            return item.place
    return None


def _split(record: str, delimiter: str) -> list[str]:
    cells, start, is_quoted = [], 0, False
    for at, char in enumerate(record):
        if char == '"':
            is_quoted = not is_quoted
        elif char == delimiter and not is_quoted:
            cells.append(record[start:at])
            start = at + 1
    return [*cells, record[start:]]


def _join(row: FixableRow) -> str:
    cells = list(row.cells)
    while len(cells) > len(row.header) and not cells[-1]:
        cells.pop()  # a surplus cell that was emptied
    return row.delimiter.join(_quoted(cell, row.delimiter) for cell in cells)


def _quoted(cell: str, delimiter: str) -> str:
    is_quoted = len(cell) > 1 and cell[0] == cell[-1] == '"'
    if is_quoted or not any(char in cell for char in (delimiter, '"', "\n", "\r")):
        return cell
    return '"' + cell.replace('"', '""') + '"'


def _unquoted(cell: str) -> str:
    return cell[1:-1].replace('""', '"') if len(cell) > 1 and cell[0] == cell[-1] == '"' else cell
