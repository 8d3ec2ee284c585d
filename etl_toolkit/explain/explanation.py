"""What an explanation consists of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Occurrence:
    """One row of a file of a run that carries the key.

    `record` counts the data records of the file from 0, `line` its lines from 1 (None where the file has no lines).
    """

    run_id: str
    file: str
    record: int
    values: Mapping[str, str | None]
    verdict: str
    line: int | None = None

    @property
    def place(self) -> str:
        """The name of the file, and where the row is in it."""
        where = f"line {self.line:,}" if self.line is not None else f"record {self.record + 1:,}"
        return f"{Path(self.file).name}, {where}"


@dataclass(frozen=True)
class Explanation:
    """The row as it is now (None: not there), and every row of the latest runs that carried its key, newest first."""

    table: str
    key: Mapping[str, str]
    row: Mapping[str, str | None] | None
    occurrences: tuple[Occurrence, ...]
    notes: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        from etl_toolkit.display import explanation_html

        return explanation_html(self)


@dataclass(frozen=True)
class Candidate:
    """One row of a file with the key, and why it had no part in the outcome (`out`).

    It `is_partial` if the row of the table need not have its values.
    """

    run_id: str
    file: str
    record: int
    values: Mapping[str, str | None]
    out: str | None
    key: tuple[str, ...] = ()
    is_gone: bool = False  # a tombstone
    is_partial: bool = False
    line: int | None = None

    @property
    def place(self) -> str:
        return f"{self.file}, record {self.record + 1}"
