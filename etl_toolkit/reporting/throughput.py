"""Charts of speed: rows per second against overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etl_toolkit.reporting.content import Figure, Panel
from etl_toolkit.reporting.labels import label_ends
from etl_toolkit.reporting.palette import draw_line, look, stand_in, style, to_svg
from etl_toolkit.reporting.run_data import (
    Case,
    RunData,
    fate,
    is_clean,
    setting_words,
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
    # A floor loads what others had to find out first, and is so fast that the others would lie flat beneath it.
    measured = [case for case in clean if case["kind"] != "floor"] or clean
    top = max(sample.rows_per_second or 0 for case in measured for sample in data.samples(case)) / 1000 * 1.05
    draw = _lines if len(overlaps) > 1 else _dots
    panels = [
        draw(data, title, cases, top, name=f"throughput-{number + 1}")
        for number, (title, cases) in enumerate(groups)
        if cases and (number == 0 or any(case["kind"] != "ours" for case in cases))
    ]
    note = (
        f"{setting_words(clean[0], overlap=False)}. Lines join medians, bands are 95 % bootstrap intervals, dots are "
        f"single runs; a line that leaves the chart is labelled with its end.{_left_out(data)}"
    )
    return Figure(_throughput_finding(clean, overlaps), panels, note)


def _throughput_finding(clean: Sequence[Case], overlaps: Sequence[float]) -> str:
    sentences = []
    for overlap in dict.fromkeys((overlaps[0], overlaps[-1])):
        rivals = [case for case in clean if case["overlap"] == overlap and case["kind"] != "floor"]
        rivals.sort(key=lambda case: -case["rows_per_second"]["median"])
        ours = next((case for case in rivals if case["kind"] == "ours"), None)
        other = next((case for case in rivals if case["kind"] != "ours"), None)
        if fastest := ours or other:
            speed = thousands(fastest["rows_per_second"]["median"])
            told = f"at {overlap:.0%} overlap {fastest['strategy']} is our fastest, {speed} rows a second"
            if ours and other:
                told += (
                    f" (the fastest other way, {other['strategy']}: {thousands(other['rows_per_second']['median'])})"
                )
            sentences.append(told)
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
            middle, low, high = _with_gaps(own, overlaps)
            draw_line(axes, seen, [100 * overlap for overlap in overlaps], (middle, low, high))
            middle = [case["rows_per_second"]["median"] / 1000 for case in own]
            for case, place in zip(own, x, strict=True):
                _raw(axes, data, case, place, seen.stand_in)
            beyond = f" {middle[-1]:,.0f}" if middle[-1] > top else ""
            ends.append((x[-1], min(middle[-1], top), strategy + beyond, seen.stand_in))
            told = f"{middle[0]:,.0f} at {x[0]:.0f}% only" if len(x) == 1 else f"{middle[0]:,.0f} to {middle[-1]:,.0f}"
            words.append(f"{strategy} {told}")
        axes.set_xticks([100 * overlap for overlap in overlaps])
        axes.set_xlabel("overlap: keys shared with the file before, %")
        axes.set_title(f"Thousand rows / second, {title}", fontsize=8.5)
        label_ends(axes, ends)
        alt = f"Thousand rows per second from {overlaps[0]:.0%} to {overlaps[-1]:.0%} overlap: {', '.join(words)}."
        return Panel(name, to_svg(drawing, name), alt)


def _with_gaps(own: Sequence[Case], overlaps: Sequence[float]) -> list[list[float]]:
    """Return median, low and high at every overlap; NaN, where a line breaks off, at those that were not right."""
    found = {case["overlap"]: case["rows_per_second"] for case in own}
    nothing = dict.fromkeys(("median", "low", "high"), float("nan"))
    return [[found.get(o, nothing)[part] / 1000 for o in overlaps] for part in ("median", "low", "high")]


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
