"""Charts of what a load takes: memory and CPU over time, for each strategy on the same axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from etl_toolkit.bench.records import Sample
from etl_toolkit.reporting.content import Figure, Panel
from etl_toolkit.reporting.labels import spread
from etl_toolkit.reporting.palette import stand_in, style, to_svg
from etl_toolkit.reporting.run_data import RunData, is_clean, setting_words

PANEL_INCHES = (2.5, 1.85)


@dataclass(frozen=True)
class Trace:
    """One run of one strategy over time; `values` are client and server, None where not available."""

    strategy: str
    sample: Sample
    seconds: Sequence[float]
    client: Sequence[float | None]
    server: Sequence[float | None]


def memory(data: RunData) -> Figure | None:
    """Proportional set size of client and server over time, a panel per strategy."""
    traces = _traces(data, "pss_bytes", 1e6)
    if not traces:
        return None
    peaks = {
        trace.strategy: max(filter(None, trace.client), default=0.0) for trace in traces if trace.sample.kind == "ours"
    }
    lowest, highest = _extremes(peaks)
    finding = (
        "All strategies have about the same peak."
        if peaks and peaks[lowest] == peaks[highest]
        else f"{highest} has the highest peak, with {peaks[highest]:,.0f} MB in the client; {lowest} has the lowest, "
        f"with {peaks[lowest]:,.0f} MB."
        if peaks
        else "Client memory was not available on this system."
    )
    note = (
        f"{setting_words(data.main_setting[0])}; for each strategy, the run with the median time. Memory is the "
        "proportional set size: shared pages count once over all processes, and shared buffers count for the server. Dotted: "
        "the idle client before the load, with its libraries loaded."
    )
    return Figure(finding, _panels(traces, "memory", "MB", _idle_line), note, kind="small")


def cpu(data: RunData) -> Figure | None:
    """Cores kept busy by client and server over time, a panel per strategy."""
    traces = _traces(data, "cpu_cores", 1)
    if not traces:
        return None
    cores = data.record.manifest.machine.get("cores")
    busy = {}
    for case in data.main_setting:
        if is_clean(case) and case["client_cpu_seconds"] is not None and case["kind"] == "ours":
            spent = case["client_cpu_seconds"] + (case["server_cpu_seconds"] or 0.0)
            busy[case["strategy"]] = spent / case["wall_seconds"]["median"]
    lowest, highest = _extremes(busy)
    of_all = f" of {cores}" if cores else ""
    finding = (
        f"All of our strategies keep {busy[highest]:.1f}{of_all} cores busy on average."
        if busy and round(busy[lowest], 1) == round(busy[highest], 1)
        else f"{highest} keeps the most cores busy, {busy[highest]:.1f}{of_all} on average over the load; {lowest} "
        f"keeps the fewest busy, {busy[lowest]:.1f}."
        if busy
        else "CPU time was not available on this system."
    )
    return Figure(finding, _panels(traces, "cpu", "cores", _no_line), "The same runs as above.", kind="small")


def _traces(data: RunData, name: str, divisor: float) -> list[Trace]:
    traces = []
    for case in data.main_setting:
        found = data.timeline(case) if is_clean(case) else None
        if found is None:
            continue
        sample, readings = found
        client, server = (
            [None if value is None else value / divisor for value in readings[f"{side}_{name}"]]
            for side in ("client", "server")
        )
        traces.append(Trace(case["strategy"], sample, readings["at_seconds"], client, server))
    return [trace for trace in traces if any(value is not None for value in [*trace.client, *trace.server])]


def _extremes(values: dict[str, float]) -> tuple[str, str]:
    """The names with the lowest and the highest value; empty names where there is none."""
    return (min(values, key=values.__getitem__), max(values, key=values.__getitem__)) if values else ("", "")


def _panels(traces: Sequence[Trace], name: str, unit: str, extra: Callable[[Any, Trace], None]) -> list[Panel]:
    longest = max(max(trace.seconds) for trace in traces)
    highest = max(value for trace in traces for value in [*trace.client, *trace.server] if value is not None)
    limits = (longest * 1.32, highest * 1.08)  # room for the names of the lines at the right
    return [_panel(trace, f"{name}-{number + 1}", unit, limits, extra) for number, trace in enumerate(traces)]


def _panel(
    trace: Trace, name: str, unit: str, limits: tuple[float, float], extra: Callable[[Any, Trace], None]
) -> Panel:
    from matplotlib.figure import Figure as Drawing

    with style():
        drawing = Drawing(figsize=PANEL_INCHES)
        axes = drawing.add_axes((0.14, 0.19, 0.83, 0.68))
        axes.set_xlim(0, limits[0])
        axes.set_ylim(0, limits[1])
        ends: list[tuple[float, float, str, str]] = []
        words = []
        for side, values, color, dash in (
            ("client", trace.client, "blue", "-"),
            ("server", trace.server, "vermilion", "--"),
        ):
            known = [(at, value) for at, value in zip(trace.seconds, values, strict=True) if value is not None]
            if known:
                if unit == "cores":  # a reading tells of the time since the one before
                    known.insert(0, (0.0, known[0][1]))
                draws = "steps-pre" if unit == "cores" else "default"
                axes.plot(*zip(*known, strict=True), color=stand_in(color), linestyle=dash, drawstyle=draws)
                peak = max(value for _, value in known)
                words.append(f"{side} {peak:,.1f} {unit}" if unit == "cores" else f"{side} {peak:,.0f} {unit}")
                ends.append((*known[-1], side, stand_in(color)))
        _name_lines(axes, ends, limits)
        extra(axes, trace)
        axes.set_title(f"{trace.strategy}, {unit}", pad=4)
        axes.set_xlabel("seconds", labelpad=1)
        alt = f"{trace.strategy}: {', '.join(words)} at most, over {trace.sample.wall_seconds or 0:.2f} seconds."
        return Panel(name, to_svg(drawing, name), alt)


def _name_lines(axes: Any, ends: Sequence[tuple[float, float, str, str]], limits: tuple[float, float]) -> None:
    """Write `client` and `server` after the ends of their lines, apart from each other."""
    places = spread([value for _, value, _, _ in ends], 0.12 * limits[1], 0.05 * limits[1], 0.95 * limits[1])
    for (at, _, side, color), place in zip(ends, places, strict=True):
        axes.annotate(
            side, xy=(at, place), xytext=(3, 0), textcoords="offset points", va="center", color=color, fontsize=7.5
        )


def _idle_line(axes: Any, trace: Trace) -> None:
    if trace.sample.idle_client_pss_bytes:
        axes.axhline(trace.sample.idle_client_pss_bytes / 1e6, color=stand_in("soft"), linestyle=":", linewidth=1)


def _no_line(axes: Any, trace: Trace) -> None:
    """CPU has no idle line."""
