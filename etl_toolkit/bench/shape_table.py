"""Shape by shape, ours against the best plain way that was right: what a report holds of it, and the table that is printed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from etl_toolkit.bench.headline import our_cases, plain_ways
from etl_toolkit.bench.metrics import compared, times_by_round
from etl_toolkit.bench.records import RunRecord, Sample
from etl_toolkit.bench.shapes import SHAPES
from etl_toolkit.bench.statistics import Interval, geometric_mean, paired_ratio
from etl_toolkit.tables import Cell, Lines, Table, to_text


def by_shape(cases: Sequence[Mapping[str, Any]], by_case: Mapping[str, list[Sample]]) -> list[dict[str, Any]]:
    """Return a line per shape, overlap and table state, the worst first; none where all cases have one shape."""
    found = []
    own = our_cases(cases)
    for case in own if len({case["shape"] for case in own}) > 1 else ():
        best, wrong = plain_ways(case, cases)
        if best is None:
            continue
        ours, theirs = by_case[case["case"]], by_case[best["case"]]
        speed_up = paired_ratio(times_by_round(theirs), times_by_round(ours))
        cpu = [_cpu_seconds(each) for each in (best, case)]
        found.append(
            {"shape": case["shape"], "summary": SHAPES[case["shape"]].summary, "overlap": case["overlap"]}
            | {"table_state": case["table_state"], "strategy": case["strategy"], "plain_way": best["strategy"]}
            | {"speed_up": speed_up.as_dict() if speed_up else None, "wrong": wrong}
            | {"cpu_speed_up": cpu[0] / cpu[1] if cpu[0] and cpu[1] else None}
            | {name: value for name, value in compared(ours, theirs).items() if name != "ratio"}
        )
    return sorted(found, key=lambda line: line["speed_up"]["median"] if line["speed_up"] else 0.0)


def shape_means(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the geometric mean over the shapes for each overlap and table state, and the worst shape of each."""
    places: dict[tuple[str, float], list[Mapping[str, Any]]] = defaultdict(list)
    for line in lines:
        if line["speed_up"]:
            places[line["table_state"], line["overlap"]].append(line)
    return [
        {"overlap": overlap, "table_state": state, "shapes": len(some), "worst": some[0]["shape"]}
        | {"speed_up": geometric_mean([line["speed_up"]["median"] for line in some])}
        for (state, overlap), some in sorted(places.items())
    ]


def shape_text(record: RunRecord) -> str:
    """Return the table for people: each shape, the worst first, then the means."""
    rows: list[list[Cell]] = [
        [
            line["shape"], f"{line['overlap']:.0%}", line["table_state"], line["plain_way"],
            Interval(**line["speed_up"]).words if line["speed_up"] else None,
            None if line["cpu_speed_up"] is None else f"{line['cpu_speed_up']:.2f}", line["verdict"],
        ]
        for line in record.report["by_shape"]
    ]  # fmt: skip
    means: list[list[Cell]] = [
        [f"{mean['overlap']:.0%}", mean["table_state"], f"{mean['speed_up']:.2f}", mean["shapes"], mean["worst"]]
        for mean in record.report["shape_means"]
    ]
    failed = [f"{case['case']}: {case['errors'][0]}" for case in record.report["cases"] if case["failures"]]
    return to_text([
        Table(f"Ours against the best plain way that was right, {record.manifest.rounds} rounds", HEADERS, rows,
              right=HEADERS[4:6]),
        Table("Geometric means over the shapes", MEANS, means, right=MEANS[2:4]),
        *([Lines("Wrong or failed in a run:", failed)] if failed else []),
    ])  # fmt: skip


HEADERS = ("shape", "keys shared", "table before", "plain way", "plain / ours (95 %)", "CPU", "ours is")
MEANS = ("keys shared", "table before", "plain / ours", "shapes", "worst")


def _cpu_seconds(case: Mapping[str, Any]) -> float | None:
    client, server = case["client_cpu_seconds"], case["server_cpu_seconds"]
    return None if client is None or server is None else client + server
