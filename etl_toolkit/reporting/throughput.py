"""Charts of speed: rows per second against overlap, and how far each strategy is from the best one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etl_toolkit.reporting.content import Figure, Panel
from etl_toolkit.reporting.labels import label_ends
from etl_toolkit.reporting.palette import look, stand_in, style, to_svg
from etl_toolkit.reporting.run_data import (
    STATES,
    Case,
    RunData,
    fate,
    is_clean,
    setting_words,
    strategy_place,
    thousands,
)

PANEL_INCHES = (4.3, 3.2)


def throughput(data: RunData) -> Figure | None:
    """Rows per second against overlap: a band for the interval, a dot for every run; for one overlap, dots alone."""
    clean = [case for case in data.at(table_state="empty") or data.at() if is_clean(case)]
    if not clean:
        return None
    overlaps = data.values("overlap", clean)
    ours = [case for case in clean if case["kind"] == "ours"]
    best = min(ours or clean, key=lambda case: float(case["wall_seconds"]["median"]))["strategy"]
    others = [case for case in clean if case["kind"] != "ours" or case["strategy"] in ("auto", best)]
    groups = [("our strategies", ours), (f"{best} and other ways", others)]
    top = max(sample.rows_per_second or 0 for case in clean for sample in data.samples(case)) / 1000 * 1.05
    draw = _lines if len(overlaps) > 1 else _dots
    panels = [
        draw(data, title, cases, top, name=f"throughput-{number + 1}")
        for number, (title, cases) in enumerate(groups)
        if cases and (number == 0 or any(case["kind"] != "ours" for case in cases))
    ]
    note = (
        f"{setting_words(clean[0], overlap=False)}. Lines join medians, bands are 95 % bootstrap intervals, dots are "
        f"single runs.{_left_out(data)}"
    )
    return Figure(_throughput_finding(clean, overlaps), panels, note)


def _throughput_finding(clean: Sequence[Case], overlaps: Sequence[float]) -> str:
    sentences = []
    for overlap in dict.fromkeys((overlaps[0], overlaps[-1])):
        rivals = [case for case in clean if case["overlap"] == overlap and case["kind"] != "floor"]
        rivals.sort(key=lambda case: -case["rows_per_second"]["median"])
        ours = next((case for case in rivals if case["kind"] == "ours"), None)
        other = next((case for case in rivals if case["kind"] != "ours"), None)
        words = [f"{case['strategy']} {thousands(case['rows_per_second']['median'])}" for case in (ours, other) if case]
        if words:
            told = f"{words[0]} rows a second" + (
                f", against {words[1]} of the fastest other way" if ours and other else ""
            )
            sentences.append(f"at {overlap:.0%} overlap our highest median is {told}")
    text = "; ".join(sentences)
    return text[:1].upper() + text[1:] + "."


def _left_out(data: RunData) -> str:
    """Name what is not drawn because it went wrong."""
    gone: dict[tuple[str, str], list[str]] = {}
    for case in data.at(table_state="empty") or data.at():
        if fate(case) not in ("right", "not run"):
            gone.setdefault((case["strategy"], fate(case)), []).append(f"{case['overlap']:.0%}")
    words = [f"{name} at {', '.join(at)} ({what})" for (name, what), at in gone.items()]
    return f" Not drawn: {'; '.join(words)}." if words else ""


def _lines(data: RunData, title: str, cases: Sequence[Case], top: float, *, name: str) -> Panel:
    from matplotlib.figure import Figure as Drawing

    with style():
        drawing = Drawing(figsize=PANEL_INCHES)
        axes = drawing.add_axes((0.115, 0.135, 0.6, 0.765))
        overlaps = data.values("overlap", data.at())
        axes.set_xlim(100 * overlaps[0] - 3, 100 * overlaps[-1] + 3)
        axes.set_ylim(0, top)
        ends, words = [], []
        for strategy in dict.fromkeys(case["strategy"] for case in cases):
            own = sorted(
                (case for case in cases if case["strategy"] == strategy), key=lambda case: float(case["overlap"])
            )
            seen = look(strategy)
            x = [100 * case["overlap"] for case in own]
            speeds = [case["rows_per_second"] for case in own]
            middle, low, high = ([speed[part] / 1000 for speed in speeds] for part in ("median", "low", "high"))
            axes.fill_between(x, low, high, color=seen.stand_in, alpha=0.15, linewidth=0)
            axes.plot(x, middle, color=seen.stand_in, marker=seen.marker, linestyle=seen.dash)
            for case, place in zip(own, x, strict=True):
                _raw(axes, data, case, place, seen.stand_in)
            ends.append((x[-1], middle[-1], strategy, seen.stand_in))
            told = f"{middle[0]:,.0f} at {x[0]:.0f}% only" if len(x) == 1 else f"{middle[0]:,.0f} to {middle[-1]:,.0f}"
            words.append(f"{strategy} {told}")
        axes.set_xticks([100 * overlap for overlap in overlaps])
        axes.set_xlabel("overlap: keys shared with the file before, %")
        axes.set_title(f"Thousand rows per second, {title}")
        label_ends(axes, ends)
        alt = f"Thousand rows per second from {overlaps[0]:.0%} to {overlaps[-1]:.0%} overlap: {', '.join(words)}."
        return Panel(name, to_svg(drawing, name), alt)


def _raw(axes: Any, data: RunData, case: Case, x: float, color: str) -> None:
    speeds = [(sample.rows_per_second or 0) / 1000 for sample in data.samples(case)]
    axes.plot([x] * len(speeds), speeds, linestyle="", marker=".", markersize=3, color=color, alpha=0.55)


def _dots(data: RunData, title: str, cases: Sequence[Case], top: float, *, name: str) -> Panel:
    return dot_plot(data, cases, name=name, title=title, top=top)


def dot_plot(
    data: RunData, cases: Sequence[Case], *, name: str, title: str = "", top: float | None = None, chosen: str = ""
) -> Panel:
    """Rows per second of several strategies at one point: median, interval, every run. `chosen` stands out."""
    from matplotlib.figure import Figure as Drawing

    ranked = sorted(cases, key=lambda case: float(case["rows_per_second"]["median"]))
    with style():
        drawing = Drawing(figsize=(PANEL_INCHES[0], 0.8 + 0.26 * len(ranked)))
        axes = drawing.subplots()
        drawing.subplots_adjust(left=0.29, right=0.97, bottom=0.42 / drawing.get_figheight(), top=0.88)
        for place, case in enumerate(ranked):
            seen, speed = look(case["strategy"]), case["rows_per_second"]
            ends = [speed["low"] / 1000, speed["high"] / 1000]
            axes.plot(ends, [place, place], color=seen.stand_in, linewidth=5, alpha=0.3)
            axes.plot([speed["median"] / 1000], [place], color=seen.stand_in, marker=seen.marker)
            raw = [(sample.rows_per_second or 0) / 1000 for sample in data.samples(case)]
            axes.plot(raw, [place] * len(raw), linestyle="", marker=".", markersize=3, color=seen.stand_in, alpha=0.55)
            if case["strategy"] == chosen:
                axes.axhspan(place - 0.45, place + 0.45, color=stand_in("grid"), alpha=0.6, linewidth=0)
        axes.set_xlim(0, top)
        axes.set_yticks(range(len(ranked)), [case["strategy"] for case in ranked])
        axes.set_xlabel("thousand rows per second")
        axes.set_title(title)
        words = [f"{case['strategy']} {case['rows_per_second']['median'] / 1000:,.0f}" for case in reversed(ranked)]
        alt = f"Thousand rows per second, the fastest first: {', '.join(words)}."
        return Panel(name, to_svg(drawing, name), alt)


# --- ratio to the best ------------------------------------------------------------------------------------------------

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
        "Time divided by the time of the fastest right one in the same column; 1.00 is the fastest. Light is good. "
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
                else f"{value} {name}"
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
        return "No strategy of ours ended right."
    best = min(lines, key=lambda line: float(line["worst_ratio_to_best"]))
    return (
        f"Over its {best['cases']} settings {best['strategy']} took {best['mean_ratio_to_best']:.2f} × the time of the "
        f"fastest on the mean, {best['worst_ratio_to_best']:.2f} × at worst: the smallest worst case of ours."
    )


def _heat_map(title: str, columns: Sequence[Column], *, name: str) -> Panel | None:
    from matplotlib import colormaps
    from matplotlib.figure import Figure as Drawing

    told = columns[1:] or columns  # the first column of a map is the middle, which every strategy has
    rows = list(dict.fromkeys(case["strategy"] for _, cases in told for case in cases if case["kind"] != "floor"))
    rows.sort(key=strategy_place)
    if not rows:
        return None
    paint = colormaps["cividis_r"]
    with style():
        drawing = Drawing(figsize=(PANEL_INCHES[0], 0.72 + 0.27 * len(rows)))
        axes = drawing.subplots()
        drawing.subplots_adjust(
            left=0.28, right=0.985, bottom=0.1 / drawing.get_figheight(), top=1 - 0.55 / drawing.get_figheight()
        )
        axes.grid(visible=False)
        for x, (_, cases) in enumerate(columns):
            for y, strategy in enumerate(rows):
                case = next((case for case in cases if case["strategy"] == strategy), None)
                _cell(axes, x, y, case, paint)
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xticks(range(len(columns)), [label for label, _ in columns])
        axes.set_yticks(range(len(rows)), rows)
        axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
        if len(columns) > 5:
            axes.tick_params(axis="x", labelsize=6.5)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_title(f"Time / best time, by {title}", pad=8)
        words = [
            f"{label}: {', '.join(_cell_words(case) for case in cases if case['kind'] != 'floor')}"
            for label, cases in columns
        ]
        return Panel(name, to_svg(drawing, name), f"Time over best time by {title}. {'; '.join(words)}.")


def _cell(axes: Any, x: int, y: int, case: Case | None, paint: Any) -> None:
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
    depth = min(1.0, max(0.0, ratio - 1) / 3)
    red, green, blue, _ = paint(depth)
    dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.5
    axes.add_patch(Rectangle((x - 0.47, y - 0.45), 0.94, 0.9, facecolor=(red, green, blue), edgecolor="none"))
    axes.text(x, y, f"{ratio:.2f}", ha="center", va="center", color="#ffffff" if dark else "#101010")


def _cell_words(case: Case) -> str:
    return f"{case['strategy']} {case['ratio_to_best']:.2f}" if is_clean(case) else f"{case['strategy']} {fate(case)}"
