"""Two run directories side by side: what got faster, slower, or neither, drawn and described."""

from __future__ import annotations

from pathlib import Path

from etl_toolkit.bench.compare import ComparedCase, Comparison, compare
from etl_toolkit.bench.records import load_manifest
from etl_toolkit.reporting.content import Bullets, Figure, Panel, Part, Section, Text
from etl_toolkit.reporting.palette import stand_in, style, to_svg
from etl_toolkit.reporting.run_data import find_runs

DRAWN = 30
COLORS = {"faster": "green", "slower": "vermilion", "no difference shown": "gray"}


def compare_runs(before: str = "", after: str = "", *, any_machine: bool = False) -> Comparison:
    """Compare two run directories; without names the latest with the one before it on the same machine, else with itself.

    Raises UsageError for runs of different machines, unless that is allowed.
    """
    new = Path(after) if after else find_runs()[0]
    old = Path(before) if before else _run_before(new)
    return compare(old, new, any_machine=any_machine)


def _run_before(run: Path) -> Path:
    this = load_manifest(run)
    for other in find_runs():
        manifest = load_manifest(other)
        same_machine = manifest.machine.get("fingerprint") == this.machine.get("fingerprint")
        if same_machine and manifest.started_at < this.started_at:
            return other
    return run


def comparison_section(found: Comparison) -> Section:
    """The verdicts: in a sentence, drawn, and in a table."""
    parts: list[Part] = [Text(found.finding, "lead")]
    parts += [Text(text, "alert") for text in found.warnings]
    parts.append(_ratios(found))
    parts.append(found.table)
    parts += [Bullets(found.alone)] if found.alone else []
    return Section("What changed", parts)


def _ratios(found: Comparison) -> Figure:
    cases = found.cases[:DRAWN]
    more = f" The {DRAWN} largest changes of {len(found.cases)}." if len(found.cases) > DRAWN else ""
    note = f"Time after over time before, with its 95 % interval; left of 1 is faster.{more}"
    return Figure(found.finding, [_panel(cases)], note)


def _panel(cases: tuple[ComparedCase, ...] | list[ComparedCase]) -> Panel:
    from matplotlib.figure import Figure as Drawing

    height = 0.75 + 0.22 * len(cases)
    with style():
        drawing = Drawing(figsize=(6.4, height))
        axes = drawing.add_axes((0.55, 0.42 / height, 0.42, 1 - 0.75 / height))
        for place, case in enumerate(reversed(cases)):
            color = stand_in(COLORS[case.verdict])
            axes.plot([case.ratio.low, case.ratio.high], [place, place], color=color, linewidth=4, alpha=0.4)
            marker = {"faster": "<", "slower": ">", "no difference shown": "o"}[case.verdict]
            axes.plot([case.ratio.median], [place], color=color, marker=marker)
        axes.axvline(1, color=stand_in("ink"), linewidth=0.8)
        axes.set_yticks(range(len(cases)), [case.case.split("#")[0] for case in reversed(cases)], fontsize=6.5)
        axes.set_xlabel("after / before")
        axes.set_title("Time after / time before")
        words = "; ".join(f"{case.case} {case.ratio.median:.2f}, {case.verdict}" for case in cases)
        return Panel("compared-1", to_svg(drawing, "compared-1"), f"Time after over time before. {words}.")
