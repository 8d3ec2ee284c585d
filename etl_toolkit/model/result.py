"""What happened to the rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from operator import add
from typing import Any

from etl_toolkit.model.files import RejectedRow, SkippedFile
from etl_toolkit.model.options import Strategy
from etl_toolkit.model.plan import LoadedBefore, Plan


@dataclass(frozen=True)
class Counts:
    """What happened to the rows; `read` must equal the sum of the others, but for `removed`: rows of the table in no file."""

    read: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    superseded_same_file: int = 0
    superseded_later_file: int = 0
    rejected: int = 0
    stale: int = 0
    deleted: int = 0
    absent: int = 0
    removed: int = 0

    @property
    def accounted(self) -> int:
        return sum(self.as_dict().values()) - self.read - self.removed

    @property
    def balances(self) -> bool:
        return self.read == self.accounted

    @property
    def written(self) -> int:
        return self.inserted + self.updated + self.deleted + self.removed

    def __add__(self, other: Counts) -> Counts:
        return Counts(*map(add, self.as_dict().values(), other.as_dict().values()))

    def as_dict(self) -> dict[str, int]:
        """The counts by name. There are some for every file and batch, and `asdict` takes thirty times as long."""
        return dict(vars(self))


@dataclass(frozen=True)
class LoadResult:
    """The outcome of one load: true only when every row is accounted for and every batch is committed.

    `files` maps a name to the counts of its file: their sum, where the same file is loaded at several places. `duplicates`
    are files left out, each with the one of the same content that counts instead; `skipped` those whose content the table has
    taken. `phases` maps a phase (`read`, `plan`,
    `copy`, `merge`, `commit`, …) to seconds; phases of parallel workers add up, so their sum may exceed `wall_seconds`.
    """

    run_id: str
    table: str
    strategy: Strategy
    reasons: tuple[str, ...]
    counts: Counts
    files: Mapping[str, Counts]
    wall_seconds: float
    phases: Mapping[str, float]
    plan: Plan
    completed: bool
    duplicates: tuple[tuple[str, str], ...] = ()
    retries: int = 0
    created_sql: str | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    loaded_before: tuple[LoadedBefore, ...] = ()
    rejects: tuple[RejectedRow, ...] = ()
    skipped: tuple[SkippedFile, ...] = ()
    missing_kept: str = ""  # why keys that are in no file were not deleted, although that was asked for

    def __bool__(self) -> bool:
        return self.completed and self.counts.balances and all(counts.balances for counts in self.files.values())

    @property
    def rows_per_second(self) -> float:
        return self.counts.read / self.wall_seconds if self.wall_seconds else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON can hold it; the plan is reduced to its strategy and reasons."""
        return {
            "run_id": self.run_id,
            "complete": bool(self),
            "table": self.table,
            "strategy": str(self.strategy),
            "reasons": list(self.reasons),
            "counts": self.counts.as_dict(),
            "files": {name: counts.as_dict() for name, counts in self.files.items()},
            "wall_seconds": self.wall_seconds,
            "rows_per_second": self.rows_per_second,
            "phases": dict(self.phases),
            "predicted_seconds": {str(name): seconds for name, seconds in self.plan.predicted_seconds.items()},
            "workers": self.plan.workers,
            "duplicates": [{"left_out": name, "same_as": kept} for name, kept in self.duplicates],
            "skipped": [asdict(item) | {"taken_at": item.taken_at and str(item.taken_at)} for item in self.skipped],
            "retries": self.retries,
            "created_sql": self.created_sql,
            "resources": dict(self.resources),
            "missing_kept": self.missing_kept,
            "loaded_before": [asdict(item) for item in self.loaded_before],
        }

    def to_frame(self) -> Any:
        """Return a pandas frame: a row a file, named by `file`, and a column a count (`read`, `inserted`, …)."""
        import pandas as pd

        return pd.DataFrame([{"file": name, **counts.as_dict()} for name, counts in self.files.items()]).set_index(
            "file"
        )

    def __repr__(self) -> str:
        from etl_toolkit.display import cut_to_screen

        return cut_to_screen(str(self))

    def __str__(self) -> str:
        from etl_toolkit.display import result_text

        return result_text(self)

    def _repr_html_(self) -> str:
        from etl_toolkit.display import result_html

        return result_html(self)
