"""Two run directories side by side: what got faster, slower, or neither, drawn and described."""

from __future__ import annotations

from pathlib import Path

from etl_toolkit.bench.compare import Comparison, compare
from etl_toolkit.bench.records import load_manifest
from etl_toolkit.reporting.content import Bullets, Part, Section, Text
from etl_toolkit.reporting.pictures import Bar, BarGroup, Bars
from etl_toolkit.reporting.run_data import find_runs

DRAWN = 30
KINDS = {"faster": "ours", "slower": "bad", "no difference shown": ""}


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
    parts: list[Part] = [Text(text, "alert") for text in found.warnings]
    cases = found.cases[:DRAWN]
    more = f" The {DRAWN} largest changes of {len(found.cases)}." if len(found.cases) > DRAWN else ""
    bars = [
        Bar(case.case, case.ratio.median, case.ratio.words, case.ratio.low, case.ratio.high, KINDS[case.verdict])
        for case in cases
    ]
    note = f"Time after over time before, with its 95% interval; below 1 is faster.{more}"
    parts += [Bars(found.finding, [BarGroup("Time after / time before", bars)], note), found.table]
    parts += [Bullets(found.alone)] if found.alone else []
    return Section("What changed", parts)
