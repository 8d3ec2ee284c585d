"""What a sweep found: our strategy against the best plain way that was right, setting by setting and shape by shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etl_toolkit.bench.metrics import compared, times_by_round
from etl_toolkit.bench.records import Sample
from etl_toolkit.bench.shapes import SHAPES
from etl_toolkit.bench.statistics import paired_ratio

PLAIN_WAYS = {
    "sequential": "file by file through a staging table",
    "naive_parallel": "one upsert per file, in parallel",
    "staged_merge": "a parallel COPY into a staging table, then one merge",
}
MIDDLE = ("files", "rows", "format", "key", "shape", "workers", "batch_rows", "executor")

Case = Mapping[str, Any]


def against_plain_ways(cases: Sequence[Case], by_case: Mapping[str, Sequence[Sample]]) -> list[dict[str, Any]]:
    """Return a line per case of ours that was right in every run: the best plain way in its setting, and the speed-up.

    `ratio` is our time over that of the plain way, `speed_up` the inverse, both paired by round. Ways that were wrong in a run
    are no rivals; `wrong` names them.
    """
    usable = [case for case in cases if case["wall_seconds"] and not case["failures"] and not case["is_twin"]]
    found = []
    for case in usable:
        rivals = [other for other in cases if other["setting"] == case["setting"] and other["strategy"] in PLAIN_WAYS]
        right = [other for other in rivals if other in usable]
        if case["strategy"] != our_strategy(usable) or not right:
            continue
        best = min(right, key=lambda other: float(other["wall_seconds"]["median"]))
        ours, theirs = by_case[case["case"]], by_case[best["case"]]
        speed_up = paired_ratio(times_by_round(theirs), times_by_round(ours))
        cpu = [_cpu_seconds(each) for each in (best, case)]
        found.append(
            {name: case[name] for name in ("case", "strategy", "shape", "overlap", "table_state", "rows_per_second")}
            | {"summary": SHAPES[case["shape"]].summary, "against": best["case"]}
            | {"plain_way": best["strategy"], "plain_rows_per_second": best["rows_per_second"]}
            | {"wrong": [other["strategy"] for other in rivals if other["failures"]]}
            | {"speed_up": speed_up.as_dict() if speed_up else None}
            | {"cpu_speed_up": cpu[0] / cpu[1] if cpu[0] and cpu[1] else None}
            | {"middle": [case[axis] for axis in MIDDLE]}
            | compared(ours, theirs)
        )
    return found


def main_shapes(lines: Sequence[Case]) -> list[Case]:
    """Return the lines of the setting measured most: overlaps and table states."""
    places = [line["middle"] for line in lines]
    main = [line for line in lines if line["middle"] == max(places, key=places.count)]
    return sorted(main, key=lambda line: (line["table_state"] != "empty", line["table_state"], line["overlap"]))


def by_shape(lines: Sequence[Case]) -> list[Case]:
    """Return the lines with the worst first; none where all have one shape."""
    if len({line["shape"] for line in lines}) < 2:
        return []
    return sorted(lines, key=lambda line: line["speed_up"]["median"] if line["speed_up"] else 0.0)


def our_strategy(usable: Sequence[Case]) -> str | None:
    """Return `auto`, or where it was not measured the strategy of ours that was right in most cases."""
    ours = [case["strategy"] for case in usable if case["kind"] == "ours"]
    return "auto" if "auto" in ours else max(ours, key=ours.count, default=None)


def sentence(found: Sequence[Case], cases: Sequence[Case]) -> str:
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
    doubt = "" if faster == len(found) else f" It is shown to be faster in {faster} of {len(found)} settings"
    doubt += f", and slower in {slower}." if slower else "." if doubt else ""
    return f"`{name}` is {span} × as fast as {against}.{doubt}"


def checked(samples: Sequence[Sample], strategy: str | None) -> tuple[int, int]:
    """Return the runs of a strategy, warm-ups included, and how many of them left exactly the rows they should."""
    runs = [sample for sample in samples if sample.strategy == strategy]
    return len(runs), sum(sample.correct for sample in runs)


def _cpu_seconds(case: Case) -> float | None:
    client, server = case["client_cpu_seconds"], case["server_cpu_seconds"]
    return None if client is None or server is None else client + server
