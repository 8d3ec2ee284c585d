"""Charts of what a load takes: memory and CPU over time for each strategy on the same axes, and time per phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from etl_toolkit.bench.records import PHASES, Sample
from etl_toolkit.reporting import draw
from etl_toolkit.reporting.palette import Look
from etl_toolkit.reporting.pictures import Figure, Panel
from etl_toolkit.reporting.run_data import Case, RunData, is_clean, setting_words

SIDES = {"client": Look("blue", "o"), "server": Look("vermilion", "s", "--")}
SMALL_INCHES = (2.5, 1.85)

Trace = tuple[str, Sample, Mapping[str, Sequence[tuple[float, float]]]]


def memory(data: RunData) -> Figure | None:
    """Proportional set size of client and server over time, a panel per strategy."""
    traces = _traces(data, "pss_bytes", 1e6)
    if not traces:
        return None
    ours = [(name, own["client"]) for name, sample, own in traces if sample.kind == "ours" and own["client"]]
    peaks = {name: max(value for _, value in readings) for name, readings in ours}
    ranked = {name: f"{peaks[name]:,.0f} MB" for name in sorted(peaks, key=lambda name: peaks[name])}
    finding = _name_extremes("Peak memory of the client", ranked)
    note = (
        f"{setting_words(data.main_setting[0])}; {_readings_words(traces)} Memory is the proportional set size: shared "
        "pages count once over all processes, and shared buffers count for the server. Dotted: the idle client before the "
        "load, with its libraries loaded."
    )
    return Figure(finding, _panels(traces, "memory", "MB"), note, kind="small")


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
    of_all = f" of {cores}" if cores else ""
    ranked = {name: f"{busy[name]:.1f}{of_all}" for name in sorted(busy, key=lambda name: busy[name])}
    finding = _name_extremes("Cores busy on average over the load", ranked)
    return Figure(finding, _panels(traces, "cpu", "cores"), "The same runs as above.", kind="small")


def _traces(data: RunData, name: str, divisor: float) -> list[Trace]:
    traces: list[Trace] = []
    for case in data.main_setting:
        found = data.timeline(case) if is_clean(case) else None
        if found is None:
            continue
        sample, readings = found
        own = {
            side: [
                (at, value / divisor)
                for at, value in zip(readings["at_seconds"], readings[f"{side}_{name}"], strict=True)
                if value is not None
            ]
            for side in SIDES
        }
        if any(own.values()):
            traces.append((case["strategy"], sample, own))
    return traces


def _readings_words(traces: Sequence[Trace]) -> str:
    counts = sorted(max(map(len, own.values())) for _, _, own in traces)
    watched = any(sample.is_profile for _, sample, _ in traces)
    run = "a run of its own that is read often and not timed" if watched else "the run with the median time"
    return f"for each strategy, {run} ({counts[0]} to {counts[-1]} readings)."


def _name_extremes(what: str, words: Mapping[str, str]) -> str:
    """Say the lowest and the highest of our strategies, given in that order."""
    if not words:
        return f"{what}: not available on this system."
    (lowest, least), *_, (highest, most) = [*words.items()] * 2
    if len(words) == 1:
        return f"{what}: {most} with {highest}."
    if least == most:
        return f"{what}: {most} with each of our strategies."
    return f"{what}: {most} with {highest}, the highest, and {least} with {lowest}, the lowest."


def _panels(traces: Sequence[Trace], name: str, unit: str) -> list[Panel]:
    longest = max(at for _, _, own in traces for readings in own.values() for at, _ in readings)
    highest = max(value for _, _, own in traces for readings in own.values() for _, value in readings)
    panels = []
    for number, (strategy, sample, own) in enumerate(traces):
        idle = sample.idle_client_pss_bytes if unit == "MB" else None
        digits = ",.0f" if unit == "MB" else ",.1f"
        peaks = [f"{side} {max(v for _, v in own[side]):{digits}} {unit}" for side in SIDES if own[side]]
        series = [
            draw.Line(side, seen, [(at, value, value, value) for at, value in _from_start(own[side], unit)],
                      drawstyle="steps-pre" if unit == "cores" else "default")
            for side, seen in SIDES.items() if own[side]
        ]  # fmt: skip
        panels.append(
            draw.lines(
                f"{name}-{number + 1}", series, title=f"{strategy}, {unit}", x_label="seconds", size=SMALL_INCHES, unit=unit,
                top=highest * 1.08, right=longest * 1.02, level=idle / 1e6 if idle else None,
                alt=f"{strategy}: {', '.join(peaks)} at most, over {sample.wall_seconds or 0:.2f} seconds.",
            )
        )  # fmt: skip
    return panels


def _from_start(readings: Sequence[tuple[float, float]], unit: str) -> list[tuple[float, float]]:
    """Cores are those since the reading before, so the first one holds from the start."""
    return [(0.0, readings[0][1]), *readings] if unit == "cores" else list(readings)


# --- phases -----------------------------------------------------------------------------------------------------------


def phases(data: RunData) -> Figure | None:
    """Seconds per phase and strategy; phases of parallel workers add up."""
    settings = [list(data.main_setting)]
    overlaps = data.values("overlap", data.at(table_state="empty"))
    if overlaps and overlaps[-1] != data.main_setting[0]["overlap"]:
        settings.append(data.at(table_state="empty", overlap=overlaps[-1]))
    shown = [[case for case in cases if is_clean(case) and any(case["phases"].values())] for cases in settings]
    shown = [cases for cases in shown if cases]
    if not shown:
        return None
    longest = max(seconds for cases in shown for case in cases for seconds in case["phases"].values())
    panels = [_phase_panel(cases, longest, f"phases-{number + 1}") for number, cases in enumerate(shown)]
    finding = "; ".join(_longest_phase(case) for case in shown[0][:3])
    note = (
        f"{setting_words(shown[0][0], overlap=False)}. Medians; seconds of parallel workers are summed, so a phase may be "
        "longer than the load took, and work that overlaps (reading while copying) counts in each phase. Lighter is better."
    )
    return Figure(f"{finding}.", panels, note)


def _longest_phase(case: Case) -> str:
    total = sum(case["phases"].values())
    name, seconds = max(case["phases"].items(), key=lambda item: float(item[1]))
    return f"{case['strategy']} spends {seconds / total:.0%} of its time in {name}"


def _phase_panel(cases: Sequence[Case], longest: float, name: str) -> Panel:
    used = [phase for phase in PHASES if any(case["phases"].get(phase) for case in cases)]
    rows = {case["strategy"]: [float(case["phases"].get(phase) or 0.0) for phase in used] for case in cases}
    cells = {
        strategy: [
            draw.Cell(f"{seconds:.2f}", seconds / longest, f"{strategy}, {phase}: {seconds:.3f} s")
            for phase, seconds in zip(used, own, strict=True)
        ]
        for strategy, own in rows.items()
    }
    words = [
        f"{strategy} {', '.join(f'{phase} {seconds:.2f}' for phase, seconds in zip(used, own, strict=True))}"
        for strategy, own in rows.items()
    ]
    return draw.matrix(
        name, cells, used, title=f"Seconds per phase at {cases[0]['overlap']:.0%} overlap", legend=("0", f"{longest:.1f} s"),
        alt=f"Seconds per phase. {'; '.join(words)}.",
    )  # fmt: skip
