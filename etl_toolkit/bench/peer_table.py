"""The table of `make bench-peers`: seconds of each contender in each setting, and × the time of `auto`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etl_toolkit.bench.contenders import CONTENDERS
from etl_toolkit.bench.records import RunRecord, Sample
from etl_toolkit.bench.statistics import interval, paired_ratio, spread
from etl_toolkit.tables import Lines, Table, to_text

COLUMNS = {
    (0.0, "empty"): "disjoint, empty table",
    (0.5, "empty"): "50%, empty",
    (1.0, "empty"): "100%, empty",
    (0.0, "rewritten"): "every key present, all rows updated",
    (0.0, "unchanged"): "every key present, nothing changed",
}
Place = tuple[float, str]
Times = dict[tuple[str, Place], dict[int, float]]


def peer_text(record: RunRecord) -> str:
    """Return the table for people, and what was left out."""
    manifest, times = record.manifest, timings(record.samples)
    wrong = {
        (sample.strategy, (sample.overlap, sample.table_state))
        for sample in record.samples
        if sample.error and sample.wall_seconds is not None
    }
    names = [name for name in CONTENDERS if any(key[0] == name for key in times)]
    rows = [[name, *(_cell(times, wrong, name, place) for place in COLUMNS)] for name in names]
    facts = next(iter(manifest.workloads.values()))
    caption = (
        f"{facts['files']} files of {facts['rows']:,} rows, key {facts['key']}; {manifest.rounds} interleaved rounds. "
        "Seconds: median ± standard deviation, and × the time of auto. † wrong result in at least one run."
    )
    written = _rows_written(record.samples)
    notes = [
        f"Rows that `auto` wrote if nothing changed: {'not measured' if written is None else written}.",
        *(f"Left out: {name}: {reason}." for name, reason in manifest.skipped.items()),
        *(f"Declined: {case['case']}: {case['errors'][0]}." for case in record.report["cases"] if declined(case)),
    ]
    return to_text([Table(caption, ("contender", *COLUMNS.values()), rows), Lines("Notes", notes)])


def timings(samples: Sequence[Sample]) -> Times:
    """Return seconds by round, by contender and case; those of a racy baseline with a wrong answer included.

    Time is what a wrong answer costs, too: the naive way is in the table to be compared with, and marked.
    """
    found: Times = {}
    for sample in samples:
        may_be_wrong = sample.kind == "baseline"
        if sample.is_warm_up or sample.is_twin or sample.wall_seconds is None or not (sample.correct or may_be_wrong):
            continue
        found.setdefault((sample.strategy, (sample.overlap, sample.table_state)), {})[sample.round] = (
            sample.wall_seconds
        )
    return found


def declined(case: Mapping[str, Any]) -> bool:
    """Tell whether a strategy refused a case that it is not made for."""
    return bool(case["errors"]) and all(error.startswith("UnsafeStrategyError") for error in case["errors"])


def _rows_written(samples: Sequence[Sample]) -> int | None:
    """Return the rows that `auto` wrote into a table where nothing changed: the figure is none."""
    counts = [
        sample.rows_updated + sample.rows_inserted
        for sample in samples
        if sample.strategy == "auto" and sample.table_state == "unchanged" and sample.counts
        and sample.rows_updated is not None and sample.rows_inserted is not None
    ]  # fmt: skip
    return max(counts, default=None)


def _cell(times: Times, wrong: set[tuple[str, Place]], name: str, place: Place) -> str | None:
    runs = times.get((name, place))
    if not runs:
        return None
    values = list(runs.values())
    text = f"{interval(values).median:.2f} ± {spread(values):.0%}{' †' if (name, place) in wrong else ''}"
    against = times.get(("auto", place))
    ratio = paired_ratio(runs, against) if against and name != "auto" else None
    return f"{text} ({ratio.median:.1f} ×)" if ratio else text
