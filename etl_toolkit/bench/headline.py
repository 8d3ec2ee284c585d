"""What a sweep found in one sentence: our strategy against the best plain way that was right, shape by shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etl_toolkit.bench.metrics import compared
from etl_toolkit.bench.records import Sample

PLAIN_WAYS = {
    "sequential": "file by file through a staging table",
    "naive_parallel": "one upsert per file, in parallel",
    "staged_merge": "a parallel COPY into a staging table, then one merge",
}
MIDDLE = ("files", "rows", "format", "key", "shape", "workers", "batch_rows", "executor")


def shapes(cases: Sequence[Mapping[str, Any]], by_case: Mapping[str, list[Sample]]) -> list[dict[str, Any]]:
    """Return a line per overlap and table state of the setting measured most: ours, the best plain way, the speed-up.

    `ratio` is time over the plain way's time, paired by round. Ways that were wrong in a run are no rivals; `wrong`
    names them.
    """
    own = our_cases(cases)
    places = [tuple(case[axis] for axis in MIDDLE) for case in own]
    found = []
    for case in own:
        if tuple(case[axis] for axis in MIDDLE) != max(places, key=places.count):
            continue
        best, wrong = plain_ways(case, cases)
        if best is None:
            continue
        found.append(
            {"case": case["case"], "against": best["case"], "overlap": case["overlap"], "wrong": wrong}
            | {"table_state": case["table_state"], "strategy": case["strategy"], "plain_way": best["strategy"]}
            | {"rows_per_second": case["rows_per_second"], "plain_rows_per_second": best["rows_per_second"]}
            | compared(by_case[case["case"]], by_case[best["case"]])
        )
    return sorted(found, key=lambda shape: (shape["table_state"] != "empty", shape["table_state"], shape["overlap"]))


def our_cases(cases: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the cases of our strategy that were right in every run."""
    usable = _usable(cases)
    name = our_strategy(usable)
    return [case for case in usable if case["strategy"] == name]


def plain_ways(
    case: Mapping[str, Any], cases: Sequence[Mapping[str, Any]]
) -> tuple[Mapping[str, Any] | None, list[str]]:
    """Return the fastest plain way in the setting of `case` that was right in every run, and the ways that were not."""
    rivals = [other for other in cases if other["setting"] == case["setting"] and other["strategy"] in PLAIN_WAYS]
    best = min(_usable(rivals), key=lambda other: float(other["wall_seconds"]["median"]), default=None)
    return best, [other["strategy"] for other in rivals if other["failures"]]


def _usable(cases: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [case for case in cases if case["wall_seconds"] and not case["failures"] and not case["is_twin"]]


def our_strategy(usable: Sequence[Mapping[str, Any]]) -> str | None:
    """Return `auto`, or where it was not measured the strategy of ours that was right in most cases."""
    ours = [case["strategy"] for case in usable if case["kind"] == "ours"]
    return "auto" if "auto" in ours else max(ours, key=ours.count, default=None)


def sentence(found: Sequence[Mapping[str, Any]], cases: Sequence[Mapping[str, Any]]) -> str:
    """Say how fast our strategy is against the best plain way; in backquotes what is a name."""
    if not found:
        usable = [case for case in cases if case["wall_seconds"] and not case["failures"]]
        if not usable:
            return "No run ended with the correct result, so there is nothing to compare."
        name = our_strategy(usable)
        if name is None:
            return "No strategy produced the correct result in every run, so nothing is recommended."
        return f"`{name}` produced the correct result in every run; no correct hand-written way was measured for comparison."
    name, ways = found[0]["strategy"], list(dict.fromkeys(shape["plain_way"] for shape in found))
    speeds = sorted(1 / shape["ratio"]["median"] for shape in found)
    low, high = f"{speeds[0]:.1f}", f"{speeds[-1]:.1f}"
    span = low if low == high else f"{low} to {high}"
    against = "the best correct hand-written way"
    if len(ways) == 1:
        against += f": {PLAIN_WAYS[ways[0]]} (`{ways[0]}`)"
    verdicts = [shape["verdict"] for shape in found]
    faster, slower = verdicts.count("faster"), verdicts.count("slower")
    doubt = "" if faster == len(found) else f" It is shown to be faster in {faster} of {len(found)} shapes"
    doubt += f", and slower in {slower}." if slower else "." if doubt else ""
    return f"`{name}` is {span} × as fast as {against}.{doubt}"


def checked(samples: Sequence[Sample], strategy: str | None) -> tuple[int, int]:
    """Return the runs of a strategy, warm-ups included, and how many of them left exactly the rows they should."""
    runs = [sample for sample in samples if sample.strategy == strategy]
    return len(runs), sum(sample.correct for sample in runs)
