"""Charts of where time goes: speed-up and efficiency against workers, and time per phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from etl_toolkit.bench.metrics import times_by_round
from etl_toolkit.bench.records import PHASES
from etl_toolkit.bench.statistics import Interval, paired_ratio
from etl_toolkit.reporting.content import Figure, Panel
from etl_toolkit.reporting.labels import label_ends
from etl_toolkit.reporting.palette import draw_line, look, stand_in, style, to_svg
from etl_toolkit.reporting.run_data import Case, RunData, is_clean, setting_words

PANEL_INCHES = (4.3, 3.0)
PHASE_COLORS = {
    "plan": "gray", "read": "blue", "sort": "green", "copy": "gold", "merge": "vermilion", "commit": "purple",
    "other": "grid",
}  # fmt: skip

SpeedUps = Mapping[str, Mapping[int, Interval]]


def scaling(data: RunData) -> Figure | None:
    """Speed-up and efficiency against workers, relative to the fewest that were measured."""
    found, cases = speed_ups(data)
    if not found:
        return None
    counts = sorted({count for own in found.values() for count in own})
    fewest, most = counts[0], counts[-1]
    best = max(found, key=lambda name: max(ratio.median for ratio in found[name].values()))
    at, gain = max(found[best].items(), key=lambda item: item[1].median)
    cores = data.record.manifest.machine.get("cores")
    finding = (
        f"{best} gains the most from additional workers: {gain.median:.2f} × with {at} compared with "
        f"{fewest}{f', on {cores} cores shared with the server' if cores else ''}."
    )
    note = (
        f"{setting_words({**cases[0], 'workers': fewest})} and up. Speed-up is the time with {fewest} over the time "
        "with n, paired by round, with its 95 % interval; efficiency is speed-up over the growth in workers. "
        "Dotted: perfect scaling."
    )
    panels = [
        _scaling_panel(found, counts, name="scaling-1", is_efficiency=False),
        _scaling_panel(found, counts, name="scaling-2", is_efficiency=True),
    ]
    return Figure(finding, panels, note) if most > fewest else None


def speed_ups(data: RunData) -> tuple[SpeedUps, Sequence[Case]]:
    """Speed-up by strategy and workers, and the cases it comes from, for the overlap with most worker counts."""
    counts = data.values("workers")
    options: dict[float, list[Case]] = {}
    for case in data.cases:
        alike = all(case[name] == value for name, value in data.middle.items() if name != "workers")
        if alike and case["table_state"] == "empty" and is_clean(case) and case["kind"] != "floor":
            options.setdefault(case["overlap"], []).append(case)
    if len(counts) < 2 or not options:
        return {}, []
    cases = max(options.values(), key=lambda own: (len({case["workers"] for case in own}), len(own)))
    times = {(case["strategy"], case["workers"]): times_by_round(data.samples(case)) for case in cases}
    fewest = min(case["workers"] for case in cases)
    found: dict[str, dict[int, Interval]] = {}
    for (strategy, workers), own in times.items():
        base = times.get((strategy, fewest))
        ratio = paired_ratio(base, own) if base else None
        if ratio:
            found.setdefault(strategy, {})[workers] = ratio
    return {name: dict(sorted(ratios.items())) for name, ratios in found.items() if len(ratios) > 1}, cases


def _scaling_panel(found: SpeedUps, counts: Sequence[int], *, name: str, is_efficiency: bool) -> Panel:
    from matplotlib.figure import Figure as Drawing

    fewest, what = counts[0], "efficiency" if is_efficiency else "speed-up"
    perfect = [1.0 if is_efficiency else count / fewest for count in counts]
    with style():
        drawing = Drawing(figsize=PANEL_INCHES)
        axes = drawing.add_axes((0.1, 0.145, 0.6, 0.75))
        axes.plot(counts, perfect, color=stand_in("soft"), linestyle=":", linewidth=1.2)
        ends, words = [], []
        for strategy, ratios in found.items():
            seen = look(strategy)
            x = list(ratios)
            middle, low, high = (
                [getattr(ratio, part) * (fewest / n if is_efficiency else 1.0) for n, ratio in ratios.items()]
                for part in ("median", "low", "high")
            )
            draw_line(axes, seen, x, (middle, low, high))
            ends.append((x[-1], middle[-1], strategy, seen.stand_in))
            words.append(f"{strategy} {middle[-1]:.2f} with {x[-1]} workers")
        axes.set_ylim(0, max(axes.get_ylim()[1], 1.1))
        axes.set_xticks(list(counts))
        axes.set_xlabel("workers")
        axes.set_title(f"{what.capitalize()} against {counts[0]} worker{'s' if counts[0] != 1 else ''}")
        label_ends(axes, ends)
        return Panel(name, to_svg(drawing, name), f"{what.capitalize()}: {', '.join(words)}.")


# --- phases -----------------------------------------------------------------------------------------------------------


def phases(data: RunData) -> Figure | None:
    """Seconds per phase and strategy, as stacked bars; phases of parallel workers add up."""
    settings = [list(data.main_setting)]
    overlaps = data.values("overlap", data.at(table_state="empty"))
    if overlaps and overlaps[-1] != data.main_setting[0]["overlap"]:
        settings.append(data.at(table_state="empty", overlap=overlaps[-1]))
    shown = [[case for case in cases if is_clean(case) and any(case["phases"].values())] for cases in settings]
    shown = [cases for cases in shown if cases]
    if not shown:
        return None
    longest = max(sum(case["phases"].values()) for cases in shown for case in cases)
    panels = [_phase_panel(cases, longest, f"phases-{number + 1}") for number, cases in enumerate(shown)]
    finding = "; ".join(_longest_phase(case) for case in shown[0][:3])
    note = (
        f"{setting_words(shown[0][0], overlap=False)}. Medians; seconds of parallel workers are summed, so a bar may be "
        "longer than the load took, and work that overlaps (reading while copying) counts in each phase."
    )
    return Figure(f"{finding}.", panels, note)


def _longest_phase(case: Case) -> str:
    total = sum(case["phases"].values())
    name, seconds = max(case["phases"].items(), key=lambda item: float(item[1]))
    return f"{case['strategy']} spends {seconds / total:.0%} of its time in {name}"


def _phase_panel(cases: Sequence[Case], longest: float, name: str) -> Panel:
    from matplotlib.figure import Figure as Drawing

    rows = list(reversed(cases))
    height = 1.15 + 0.27 * len(rows)
    with style():
        drawing = Drawing(figsize=(PANEL_INCHES[0], height))
        axes = drawing.add_axes((0.25, 0.42 / height, 0.72, 0.27 * len(rows) / height))
        left = [0.0] * len(rows)
        used = [phase for phase in PHASES if any(case["phases"].get(phase) for case in rows)]
        for phase in used:
            widths = [float(case["phases"].get(phase) or 0.0) for case in rows]
            axes.barh(
                range(len(rows)), widths, left=left, height=0.68, color=stand_in(PHASE_COLORS[phase]), label=phase,
                edgecolor=stand_in("paper"), linewidth=0.8,
            )  # fmt: skip
            left = [start + width for start, width in zip(left, widths, strict=True)]
        axes.set_xlim(0, longest * 1.03)
        axes.set_yticks(range(len(rows)), [case["strategy"] for case in rows])
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("seconds, summed over workers")
        place = (0.25, 1 - 0.24 / height)
        drawing.text(
            *place, f"Time per phase at {rows[0]['overlap']:.0%} overlap", weight="bold", fontsize=9, ha="left"
        )
        drawing.legend(
            loc="upper left",
            bbox_to_anchor=(0.2, 1 - 0.22 / height),
            ncols=4,
            fontsize=7.5,
            handlelength=1,
            columnspacing=1,
        )
        words = [f"{case['strategy']} {_in_words(case, used)}" for case in cases]
        return Panel(name, to_svg(drawing, name), f"Seconds per phase. {'; '.join(words)}.")


def _in_words(case: Case, used: Sequence[str]) -> str:
    return ", ".join(f"{phase} {case['phases'].get(phase) or 0:.2f}" for phase in used)
