"""The table of `bench-peers`: seconds per contender and case, ratios to `auto`, and the figures to reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from etl_toolkit.bench.contenders import CONTENDERS
from etl_toolkit.bench.records import RunRecord, Sample
from etl_toolkit.bench.statistics import interval, interval_words, paired_ratio, spread
from etl_toolkit.bench.writing import write_json
from etl_toolkit.tables import Table, table_markdown, tabulate

COLUMNS = {
    (0.0, "empty"): "disjoint, empty table",
    (0.5, "empty"): "50 %, empty",
    (1.0, "empty"): "100 %, empty",
    (0.0, "rewritten"): "every key present, all rows updated",
    (0.0, "unchanged"): "every key present, nothing changed",
}
Place = tuple[float, str]
Times = dict[tuple[str, Place], dict[int, float]]


@dataclass(frozen=True)
class Figure:
    """A figure to reach: `slower` takes at least `at_least` times as long as `faster`."""

    what: str
    faster: str
    slower: str
    place: Place
    at_least: float


DISJOINT, HALF, FULL = (0.0, "empty"), (0.5, "empty"), (1.0, "empty")
FIGURES = (
    Figure("auto at most 1.35 × the sorted-COPY floor", "auto", "sorted_copy", DISJOINT, 1 / 1.35),
    Figure("auto at least 2.4 × the honest baseline", "auto", "staged_merge", DISJOINT, 2.4),
    Figure("auto at least 2.5 × the honest baseline", "auto", "staged_merge", HALF, 2.5),
    Figure("auto at least 2.3 × the honest baseline", "auto", "staged_merge", FULL, 2.3),
    Figure("auto at least 6 × naive parallel", "auto", "naive_parallel", FULL, 6.0),
    Figure("auto at least 1.5 × the honest baseline", "auto", "staged_merge", (0.0, "rewritten"), 1.5),
    Figure("auto at least as fast as naive parallel", "auto", "naive_parallel", (0.0, "rewritten"), 1.0),
    Figure("auto at least 4 × the honest baseline", "auto", "staged_merge", (0.0, "unchanged"), 4.0),
    Figure(
        "full_parallel at least as fast as the same written by hand", "full_parallel", "naive_parallel", DISJOINT, 1.0
    ),
    Figure("streaming at least 95 % of full_parallel", "streaming", "full_parallel", DISJOINT, 0.95),
)


def write(record: RunRecord) -> str:
    """Write `peers.md`, and `peers.json` with the figures, into the run directory and return the text."""
    times = timings(record.samples)
    figures = [reached(figure, times) for figure in FIGURES]
    text = _text(record, times, figures)
    (record.directory / "peers.md").write_text(text, encoding="utf-8")
    write_json(record.directory / "peers.json", {"run_id": record.manifest.run_id, "figures": figures})
    return text


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


def reached(figure: Figure, times: Times) -> dict[str, Any]:
    """Return the figure with what was measured for it, and whether it was reached."""
    slower, faster = times.get((figure.slower, figure.place)), times.get((figure.faster, figure.place))
    ratio = paired_ratio(slower, faster) if slower and faster else None
    outcome = "not measured" if ratio is None else "reached" if ratio.median >= figure.at_least else "missed"
    return asdict(figure) | {"ratio": ratio.as_dict() if ratio else None, "outcome": outcome}


def _rows_written(samples: Sequence[Sample]) -> int | None:
    """Return the rows that `auto` wrote into a table where nothing changed: the figure is none."""
    counts = [
        sample.rows_updated + sample.rows_inserted
        for sample in samples
        if sample.strategy == "auto" and sample.table_state == "unchanged" and sample.counts
        and sample.rows_updated is not None and sample.rows_inserted is not None
    ]  # fmt: skip
    return max(counts, default=None)


def _text(record: RunRecord, times: Times, figures: Sequence[Mapping[str, Any]]) -> str:
    manifest = record.manifest
    wrong = {(sample.strategy, (sample.overlap, sample.table_state)) for sample in record.samples
             if sample.error and sample.wall_seconds is not None}  # fmt: skip
    names = [name for name in CONTENDERS if any(key[0] == name for key in times)]
    rows = [[f"`{name}`", *(_cell(times, wrong, name, place) for place in COLUMNS)] for name in names]
    facts = next(iter(manifest.workloads.values()))
    written = _rows_written(record.samples)
    lines = [
        f"# {facts['files']} files of {facts['rows']:,} rows, key {facts['key']}",
        "",
        f"Run {manifest.run_id} on {manifest.machine['processor']}, {manifest.machine['cores']} cores, PostgreSQL "
        f"{manifest.server['version']}; {manifest.rounds} interleaved rounds.",
        "Seconds: median ± standard deviation, and × the time of auto. † wrong result in at least one run.",
        "",
        table_markdown(Table("", ("contender", *COLUMNS.values()), rows)),
        "",
        table_markdown(_figure_table(figures)),
        "",
        f"Rows that `auto` wrote if nothing changed: {'not measured' if written is None else written}.",
        *(f"Left out: {name}: {reason}." for name, reason in manifest.skipped.items()),
        *(f"Declined: {case['case']}: {case['errors'][0]}." for case in record.report["cases"] if declined(case)),
    ]
    return "\n".join(lines) + "\n"


def _cell(times: Times, wrong: set[tuple[str, Place]], name: str, place: Place) -> str:
    runs = times.get((name, place))
    if not runs:
        return "–"
    values = list(runs.values())
    text = f"{interval(values).median:.2f} ± {spread(values):.0%}{' †' if (name, place) in wrong else ''}"
    against = times.get(("auto", place))
    ratio = paired_ratio(runs, against) if against and name != "auto" else None
    return f"{text} ({ratio.median:.1f} ×)" if ratio else text


def _figure_table(figures: Sequence[Mapping[str, Any]]) -> Table:
    columns = {
        "figure": lambda figure: figure["what"],
        "case": lambda figure: COLUMNS[(figure["place"][0], figure["place"][1])],
        "wanted": lambda figure: f"{figure['at_least']:.2f}",
        "measured (95 % interval)": lambda figure: interval_words(figure["ratio"]),
        "": lambda figure: figure["outcome"],
    }
    return tabulate("", figures, columns)
