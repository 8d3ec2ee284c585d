"""Two run directories: what got faster, what slower, and where no difference is shown."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from etl_toolkit.bench import records
from etl_toolkit.bench.records import RunRecord
from etl_toolkit.bench.statistics import Interval, Verdict, ratio_of_medians, verdict
from etl_toolkit.errors import UsageError
from etl_toolkit.tables import Block, Lines, Table, tabulate, to_html, to_text


@dataclass(frozen=True)
class ComparedCase:
    """One case of both runs. `ratio` is the time in the second run over that in the first: below 1 is faster now."""

    case: str
    before_seconds: float
    after_seconds: float
    ratio: Interval
    verdict: Verdict
    runs: int


@dataclass(frozen=True)
class Comparison:
    """All cases that both runs measured, the largest change first; `only_before` and `only_after` name the others."""

    before: str
    after: str
    cases: tuple[ComparedCase, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def count(self, wanted: Verdict) -> int:
        """Return how many cases have this verdict."""
        return sum(case.verdict == wanted for case in self.cases)

    @property
    def finding(self) -> str:
        """One sentence."""
        return (
            f"{self.count('faster')} of {len(self.cases)} cases got faster, {self.count('slower')} slower; "
            f"no difference shown in {self.count('no difference shown')}."
        )

    @property
    def table(self) -> Table:
        """The cases, a line each."""
        ratio = "after / before (95% interval)"
        columns = {
            "case": lambda case: case.case,
            "seconds before": lambda case: case.before_seconds,
            "seconds after": lambda case: case.after_seconds,
            ratio: lambda case: case.ratio.words,
            "verdict": lambda case: case.verdict,
            "runs": lambda case: case.runs,
        }
        return tabulate(f"{self.before} → {self.after}", self.cases, columns, right=(ratio,))

    @property
    def alone(self) -> list[str]:
        """The cases of one run alone."""
        only = {"before": self.only_before, "after": self.only_after}
        return [f"only {which}: {name}" for which, names in only.items() for name in names]

    def __str__(self) -> str:
        return to_text(self._blocks())

    def _repr_html_(self) -> str:
        return to_html(self._blocks())

    def _blocks(self) -> list[Block]:
        return [self.table, Lines(self.finding, [*self.alone, *(f"note: {text}" for text in self.warnings)])]


def compare(before: Path | str | RunRecord, after: Path | str | RunRecord, *, any_machine: bool = False) -> Comparison:
    """Compare two sweeps case by case: medians, their ratio with a bootstrap interval, and a verdict.

    Raises:
        UsageError: they were measured on different machines, and `any_machine` does not allow that; or they have no
            case in common.
    """
    first, second = (item if isinstance(item, RunRecord) else records.load(item) for item in (before, after))
    warnings = _differences(first, second)
    if first.manifest.machine.get("fingerprint") != second.manifest.machine.get("fingerprint"):
        if not any_machine:
            raise UsageError(
                "the two runs were measured on different machines, so a difference says nothing about the code; "
                "measure both on one machine, or use --any-machine"
            )
        warnings = ("measured on different machines, which may explain differences", *warnings)
    times, others = _times(first), _times(second)
    shared = [name for name in times if name in others]
    if not shared:
        raise UsageError("the two runs have no case in common with a correct result in both")
    cases = [_compared(name, times[name], others[name]) for name in shared]
    return Comparison(
        before=first.manifest.run_id,
        after=second.manifest.run_id,
        cases=tuple(
            sorted(cases, key=lambda case: (case.verdict == "no difference shown", -abs(case.ratio.median - 1)))
        ),
        only_before=tuple(name for name in times if name not in others),
        only_after=tuple(name for name in others if name not in times),
        warnings=warnings,
    )


def _compared(name: str, times: list[float], others: list[float]) -> ComparedCase:
    ratio = ratio_of_medians(others, times)
    runs = min(len(times), len(others))
    before, after = statistics.median(times), statistics.median(others)
    return ComparedCase(name, before, after, ratio, verdict(ratio, runs=runs), runs)


def _times(record: RunRecord) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for sample in record.samples:
        if sample.counts and sample.wall_seconds is not None:
            found.setdefault(sample.case, []).append(sample.wall_seconds)
    return found


def _differences(first: RunRecord, second: RunRecord) -> tuple[str, ...]:
    """Say what else differs between the two runs, besides the code."""
    found = []
    for what in ("versions", "pg_settings", "server"):
        before, after = (dict(getattr(record.manifest, what)) for record in (first, second))
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        found += [
            f"{what}: {name} was {before.get(name, 'absent')}, is {after.get(name, 'absent')}" for name in changed
        ]
    if first.manifest.seed != second.manifest.seed:
        found.append(f"seed: was {first.manifest.seed}, is {second.manifest.seed}: not the same files")
    return tuple(found)
