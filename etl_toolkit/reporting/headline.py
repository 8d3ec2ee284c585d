"""The first screen of the page: one picture, one sentence, and a badge that the answers were checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etl_toolkit.bench.headline import checked
from etl_toolkit.reporting.content import Part, Text
from etl_toolkit.reporting.pictures import BarGroup, Bars, speed_bar
from etl_toolkit.reporting.run_data import STATES, RunData

MOST_SHAPES = 6

Shape = Mapping[str, Any]


def headline(data: RunData) -> list[Part]:
    """The parts at the top: sentence, badge, picture."""
    report = data.record.report
    shapes = _chosen(report.get("shapes", []))
    words, is_right = checked_words(data)
    badge = [Text(f"✓ {words}", "badge") if is_right else Text(f"✗ {words}", "alert")] if words else []
    parts: list[Part] = [*badge, Text(report.get("finding", ""), "lead")]
    return [*parts, _picture(data, shapes)] if shapes else parts


def checked_words(data: RunData) -> tuple[str, bool]:
    """Say how many loads of ours were checked and what came of it, and whether all were right; empty without any."""
    names = [case["strategy"] for case in data.cases if case["kind"] == "ours"]
    shapes = data.record.report.get("shapes", [])
    name = shapes[0]["strategy"] if shapes else "auto" if "auto" in names else next(iter(sorted(names)), None)
    runs, right = checked(data.record.samples, name)
    if not runs:
        return "", True
    if right == runs:
        loads = f"all {runs} loads" if runs > 1 else "the only load"
        return f"Results checked: {loads} by `{name}` left exactly the rows of a sequential load", True
    return f"{runs - right} of {runs} loads by `{name}` were refused, failed or left other rows", False


def _chosen(shapes: Sequence[Shape]) -> list[Shape]:
    """Leave out overlaps in between where there are more shapes than a first screen has room for."""
    empty = [shape for shape in shapes if shape["table_state"] == "empty"]
    others = [shape for shape in shapes if shape not in empty]
    room = max(3, MOST_SHAPES - len(others))
    if len(empty) > room:
        empty = [empty[round(place * (len(empty) - 1) / (room - 1))] for place in range(room)]
    return [*empty, *others][: MOST_SHAPES + 1]


def shape_words(shape: Shape) -> str:
    """Say what was loaded into what, in a few words."""
    overlap = float(shape["overlap"])
    keys = (
        "distinct keys" if not overlap else "all keys shared" if overlap == 1 else f"{overlap:.0%} of the keys shared"
    )
    state = str(shape["table_state"])
    return f"{keys}, {STATES.get(state, state)}" if state in ("empty", "half") else STATES.get(state, state)


def shapes_words(lines: Sequence[Shape]) -> str:
    """Say how ours does over tables and files as people have them; `lines` come worst first."""
    slower = sum(line["verdict"] == "slower" for line in lines)
    count = len({line["shape"] for line in lines})
    return (
        f"The worst of {count} shapes is {lines[0]['shape'].replace('_', ' ')}, at {lines[0]['speed_up']['median']:.2f} × the "
        f"speed of the best correct hand-written way; shown to be slower in {slower} of {len(lines)} settings."
    )


def _picture(data: RunData, shapes: Sequence[Shape]) -> Bars:
    name = shapes[0]["strategy"]
    middle = data.middle
    wrong = sorted({way for shape in shapes for way in shape["wrong"]})
    note = (
        f"{middle['rows']:,} rows in {middle['files']} files, {middle['workers']} workers; thousand rows per second. Medians; "
        "whiskers are 95% intervals where there are three runs or more. A way that left wrong rows is not compared"
        + (f": {', '.join(wrong)}." if wrong else ".")
    )
    groups = []
    for shape in shapes:
        bars = [
            speed_bar(name, shape["rows_per_second"], "ours"),
            speed_bar(shape["plain_way"], shape["plain_rows_per_second"]),
        ]
        words = shape_words(shape)
        times = f"{1 / shape['ratio']['median']:.1f} ×"
        groups.append(BarGroup(words[:1].upper() + words[1:], bars, times, is_shown=shape["verdict"] == "faster"))
    return Bars(f"Rows per second: {name} and the best correct hand-written way", groups, note)
