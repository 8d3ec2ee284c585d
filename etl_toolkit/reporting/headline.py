"""The first screen of the page: one picture, one sentence, and a badge that the answers were checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etl_toolkit.bench.headline import checked
from etl_toolkit.reporting.content import Figure, Panel, Part, Text
from etl_toolkit.reporting.palette import stand_in, style, to_svg
from etl_toolkit.reporting.run_data import STATES, RunData, thousands

WIDTH_INCHES = 4.6
MOST_SHAPES = 6

Shape = Mapping[str, Any]


def headline(data: RunData) -> list[Part]:
    """The parts at the top: badge, sentence, chart."""
    report = data.record.report
    shapes = _chosen(report.get("shapes", []))
    parts: list[Part] = [*_badge(data, shapes), Text(report.get("finding", ""), "lead")]
    return [*parts, _picture(data, shapes)] if shapes else parts


def _chosen(shapes: Sequence[Shape]) -> list[Shape]:
    """Leave out overlaps in between where there are more shapes than a first screen has room for."""
    empty = [shape for shape in shapes if shape["table_state"] == "empty"]
    others = [shape for shape in shapes if shape not in empty]
    room = max(3, MOST_SHAPES - len(others))
    if len(empty) > room:
        empty = [empty[round(place * (len(empty) - 1) / (room - 1))] for place in range(room)]
    return [*empty, *others][: MOST_SHAPES + 1]


def _badge(data: RunData, shapes: Sequence[Shape]) -> list[Part]:
    names = {case["strategy"] for case in data.cases if case["kind"] == "ours"}
    name = shapes[0]["strategy"] if shapes else "auto" if "auto" in names else next(iter(sorted(names)), None)
    runs, right = checked(data.record.samples, name)
    if not runs:
        return []
    if right == runs:
        return [
            Text(f"✓ Results checked: all {runs} loads by `{name}` left exactly the rows of a sequential load", "badge")
        ]
    return [Text(f"✗ {runs - right} of {runs} loads by `{name}` were refused, failed or left other rows", "alert")]


def shape_words(shape: Shape) -> str:
    """Say what was loaded into what, in a few words."""
    overlap = float(shape["overlap"])
    keys = (
        "distinct keys" if not overlap else "all keys shared" if overlap == 1 else f"{overlap:.0%} of the keys shared"
    )
    state = str(shape["table_state"])
    return f"{keys}, {STATES.get(state, state)}" if state in ("empty", "half") else STATES.get(state, state)


def _picture(data: RunData, shapes: Sequence[Shape]) -> Figure:
    name = shapes[0]["strategy"]
    middle = data.middle
    wrong = sorted({way for shape in shapes for way in shape["wrong"]})
    note = (
        f"{middle['rows']:,} rows in {middle['files']} files, {middle['workers']} workers. Medians; whiskers are 95 % "
        "intervals where there are three runs or more. A way that left wrong rows is not compared"
        + (f": {', '.join(wrong)}." if wrong else ".")
    )
    return Figure(
        f"Rows per second: {name} and the best correct hand-written way", [_panel(name, shapes)], note, "hero"
    )


def _panel(name: str, shapes: Sequence[Shape]) -> Panel:
    from matplotlib.figure import Figure as Drawing

    height = 0.12 + 0.52 * len(shapes)
    fastest = max(shape[which]["high"] for shape in shapes for which in ("rows_per_second", "plain_rows_per_second"))
    right = 1.6 * fastest  # room for the labels, which follow the bars
    with style():
        drawing = Drawing(figsize=(WIDTH_INCHES, height))
        axes = drawing.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_axis_off()
        axes.set_xlim(0, right)
        axes.set_ylim(len(shapes) * 3 + 0.2, -0.4)
        words = []
        for row, shape in enumerate(shapes):
            times = 1 / shape["ratio"]["median"]
            bars = ((name, shape["rows_per_second"]), (shape["plain_way"], shape["plain_rows_per_second"]))
            axes.text(0, 3 * row + 0.05, _capital(shape_words(shape)), va="center", fontsize=8, color=stand_in("soft"))
            for place, (who, speed) in enumerate(bars):
                y = 3 * row + 0.85 + 0.9 * place
                color, alpha = (stand_in("blue"), 1.0) if place == 0 else (stand_in("gray"), 0.55)
                axes.barh(y, speed["median"], height=0.8, color=color, alpha=alpha)
                if speed["low"] < speed["high"]:
                    axes.plot([speed["low"], speed["high"]], [y, y], color=stand_in("ink"), linewidth=0.9)
                end = max(speed["median"], speed["high"]) + fastest * 0.015
                axes.text(
                    end,
                    y,
                    f"{who}  {speed['median'] / 1000:,.0f} k",
                    va="center",
                    fontsize=8,
                    weight="bold" if place == 0 else "normal",
                )
            axes.text(
                right, 3 * row + 1.3, f"{times:.1f} ×", va="center", ha="right", fontsize=13, weight="bold",
                color=stand_in("blue" if shape["verdict"] == "faster" else "soft"),
            )  # fmt: skip
            words.append(
                f"{shape_words(shape)}: {name} {thousands(shape['rows_per_second']['median'])}, {shape['plain_way']} "
                f"{thousands(shape['plain_rows_per_second']['median'])}, {times:.1f} × as fast"
            )
        return Panel("headline", to_svg(drawing, "headline"), f"Rows per second. {'; '.join(words)}.")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
