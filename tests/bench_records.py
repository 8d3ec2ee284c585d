"""Records made up for the tests of what is read off a record: cases with given times, no run behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from etl_toolkit.bench.records import TIMELINE_SCHEMA, Case, Manifest, RunRecord, Sample, planned

MACHINE = {"fingerprint": "one", "processor": "test", "cores": 2}


def case(strategy: str, *, kind: str = "ours", overlap: float = 0.0, **changes: Any) -> Case:
    values: dict[str, Any] = {"format": "csv", "files": 4, "rows": 4_000, "table_state": "empty", "workers": 2}
    return Case(strategy=strategy, kind=kind, overlap=overlap, **values | changes)  # type: ignore[arg-type]


def samples(times: Mapping[Case, Sequence[float]], *, wrong: Sequence[Case] = ()) -> list[Sample]:
    """A warm-up that takes 99 s, then one right run per time, in rounds."""
    made = []
    for number, (one, seconds) in enumerate(times.items()):
        for turn, wall_seconds in enumerate([99.0, *seconds]):
            sample = planned(one, run_index=turn * len(times) + number, number=turn)
            is_right = one not in wrong
            chosen = "partitioned" if one.strategy == "auto" else one.strategy
            made.append(
                replace(
                    sample, wall_seconds=wall_seconds, rows_per_second=one.rows / wall_seconds, correct=is_right,
                    error=None if is_right else "wrong answer: 1 row is missing",
                    chosen_strategy=chosen if one.kind == "ours" else None,
                )
            )  # fmt: skip
    return made


def manifest(cases: Sequence[Case], **changes: Any) -> Manifest:
    made = Manifest("run-1", "test", 0, "finished", "2026-01-01T00:00:00+00:00", machine=MACHINE)
    return replace(made, cases=tuple(one.name for one in cases), **changes)


def record(times: Mapping[Case, Sequence[float]], **changes: Any) -> RunRecord:
    return RunRecord(Path(), manifest(list(times), **changes), tuple(samples(times)), TIMELINE_SCHEMA.empty_table(), {})
