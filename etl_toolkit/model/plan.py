"""How the files are loaded, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from etl_toolkit.model.files import SkippedFile
from etl_toolkit.model.options import Strategy
from etl_toolkit.model.overlap import KeyOverlap
from etl_toolkit.tables import spell_count


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
            return f"{self.file}: reverted at most {spell_count(self.turned_back, 'row')} that {runs} wrote {since}"
        return (
            f"{self.file}: {runs} wrote {spell_count(self.newer_rows, 'row')} {since}; loading it again may revert at most "
            "that many. To keep them, give --on-conflict newer with --order-by; to turn them back without this warning, --force"
        )


@dataclass(frozen=True)
class PastDuration:
    """The seconds that a load took, and the rows that it read and wrote."""

    rows: int
    written: int
    seconds: float


@dataclass(frozen=True)
class ExpectedDuration:
    """How long a load should take by earlier ones: four of five of these took within `error` (a share) of such a prediction."""

    seconds: float
    error: float
    loads: int

    def __str__(self) -> str:
        seconds = f"{self.seconds:,.0f}" if self.seconds >= 10 else f"{self.seconds:.2g}"
        return f"about {seconds} s, ± {self.error:.0%} by the last {self.loads} loads of this table"


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
    expected: ExpectedDuration | None = None
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
    widened: Mapping[str, str] = field(default_factory=dict)  # columns that were too narrow, and their types before

    @property
    def batches(self) -> tuple[Batch, ...]:
        return tuple(batch for lane in self.lanes for batch in lane)

    @cached_property
    def lane_of(self) -> Mapping[int, tuple[Batch, ...]]:
        """The lane of each batch, by its number."""
        return {batch.number: lane for lane in self.lanes for batch in lane}

    def __repr__(self) -> str:
        from etl_toolkit.display import cut_to_screen

        return cut_to_screen(str(self))

    def __str__(self) -> str:
        from etl_toolkit.display import plan_text

        return plan_text(self)

    def _repr_html_(self) -> str:
        from etl_toolkit.display import plan_html

        return plan_html(self)
