"""Heat maps of how far each strategy is from the best one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etl_toolkit.reporting.content import Figure, Panel
from etl_toolkit.reporting.palette import draw_cell, draw_cells, stand_in, style, to_svg
from etl_toolkit.reporting.run_data import STATES, Case, RunData, fate, is_clean, strategy_place

WIDTH_INCHES = 4.3

Column = tuple[str, Sequence[Case]]


def ratio_map(data: RunData) -> Figure | None:
    """Heat maps of time over the time of the best: against overlap, table state, and the other axes."""
    maps: list[tuple[str, list[Column]]] = []
    empty = data.at(table_state="empty") or data.at()
    maps.append(
        ("overlap, empty table", [(f"{o:.0%}", _where(empty, overlap=o)) for o in data.values("overlap", empty)])
    )
    states = [state for state in STATES if data.at(table_state=state)]
    if len(states) > 1:
        shared = [o for o in data.values("overlap") if all(data.at(table_state=s, overlap=o) for s in states)]
        maps += [
            (f"table at {o:.0%} overlap", [(s, data.at(table_state=s, overlap=o)) for s in states]) for o in shared[:1]
        ]
    if (side := _side_columns(data)) and len(side) > 1:
        maps.append((f"other axes at {side[0][1][0]['overlap']:.0%} overlap", side))
    drawn = [_heat_map(title, columns, name=f"ratio-{number + 1}") for number, (title, columns) in enumerate(maps)]
    panels = [panel for panel in drawn if panel]
    if not panels:
        return None
    note = (
        "Time divided by that of the fastest correct one in the same column; lighter is faster. "
        "Cells without a number were refused as unsafe, ended with wrong rows, or were not measured."
    )
    return Figure(_ratio_finding(data), panels, note)


def _where(cases: Sequence[Case], **wanted: Any) -> list[Case]:
    return [case for case in cases if all(case[name] == value for name, value in wanted.items())]


def _side_columns(data: RunData) -> list[Column]:
    """A column for the middle, and for each other value of the axes around it."""
    columns: list[Column] = []
    for name in ("rows", "workers", "format", "key", "files"):
        for value in data.values(name):
            if value == data.middle[name]:
                continue
            cases = data.at(**{name: value}, table_state="empty")
            label = (
                f"{value / 1000:,.0f}k rows"
                if name == "rows"
                else f"{value} {name[:-1] if value == 1 else name}"
                if name in ("workers", "files")
                else value
            )
            if cases:
                columns.append((str(label).replace("_", "+"), _where(cases, overlap=cases[0]["overlap"])))
    if columns:
        columns.insert(0, ("middle", data.at(table_state="empty", overlap=columns[0][1][0]["overlap"])))
    return columns


def _ratio_finding(data: RunData) -> str:
    lines = [
        line
        for line in data.record.report.get("strategies", [])
        if line["worst_ratio_to_best"] and line["kind"] == "ours"
    ]
    lines = [line for line in lines if not line["failures"]] or lines
    if not lines:
        return "No strategy ended with the correct result."
    best = min(lines, key=lambda line: float(line["worst_ratio_to_best"]))
    return (
        f"Over its {best['cases']} settings {best['strategy']} took {best['mean_ratio_to_best']:.2f} × the time of "
        f"the fastest on average, {best['worst_ratio_to_best']:.2f} × at worst: the best worst case of all strategies."
    )


def _heat_map(title: str, columns: Sequence[Column], *, name: str) -> Panel | None:
    from matplotlib.figure import Figure as Drawing

    told = columns[1:] or columns  # the first column of a map is the middle, which every strategy has
    rows = list(dict.fromkeys(case["strategy"] for _, cases in told for case in cases if case["kind"] != "floor"))
    rows.sort(key=strategy_place)
    if not rows:
        return None
    with style():
        height = 0.98 + 0.27 * len(rows)
        drawing = Drawing(figsize=(WIDTH_INCHES, height))
        axes = drawing.subplots()
        drawing.subplots_adjust(left=0.28, right=0.985, bottom=0.36 / height, top=1 - 0.55 / height)
        labels = [label for label, _ in columns]
        if len(columns) > 5:
            labels = [label.replace(" ", "\n").replace("text+timestamp", "text,\ntime") for label in labels]
        draw_cells(axes, rows, labels)
        for x, (_, cases) in enumerate(columns):
            for y, strategy in enumerate(rows):
                case = next((case for case in cases if case["strategy"] == strategy), None)
                _cell(axes, x, y, case)
        if len(columns) > 5:
            axes.tick_params(axis="x", labelsize=6.5)
        drawing.text(0.02, 1 - 0.2 / height, f"Time / best time, by {title}", weight="bold", fontsize=9)
        _legend(drawing, height)
        words = [
            f"{label}: {', '.join(_cell_words(case) for case in cases if case['kind'] != 'floor')}"
            for label, cases in columns
        ]
        return Panel(name, to_svg(drawing, name), f"Time over best time by {title}. {'; '.join(words)}.")


def _legend(drawing: Any, height: float) -> None:
    """A legend that shows which end is faster."""
    axes = drawing.add_axes((0.44, 0.1 / height, 0.3, 0.13 / height))
    axes.set_axis_off()
    axes.imshow([[step / 40 for step in range(41)]], cmap="cividis_r", aspect="auto")
    drawing.text(0.43, 0.165 / height, "fastest 1.00", ha="right", va="center", fontsize=7.5)
    drawing.text(0.75, 0.165 / height, "4 × the time or more", ha="left", va="center", fontsize=7.5)


def _cell(axes: Any, x: int, y: int, case: Case | None) -> None:
    from matplotlib.patches import Rectangle

    if case is None or not is_clean(case):
        text = "" if case is None else {"wrong rows": "wrong", "not run": ""}.get(fate(case), fate(case))
        edge = stand_in("grid")
        axes.add_patch(
            Rectangle(
                (x - 0.47, y - 0.45), 0.94, 0.9, facecolor="none", edgecolor=edge, hatch="////" if not text else ""
            )
        )
        axes.text(x, y, text, ha="center", va="center", color=stand_in("vermilion"), fontsize=7.5)
        return
    ratio = float(case["ratio_to_best"])
    draw_cell(axes, x, y, min(1.0, max(0.0, ratio - 1) / 3), f"{ratio:.2f}")


def _cell_words(case: Case) -> str:
    return f"{case['strategy']} {case['ratio_to_best']:.2f}" if is_clean(case) else f"{case['strategy']} {fate(case)}"
