"""A run directory as the charts see it: which cases belong together, what became of each, and it in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from etl_toolkit.bench.records import STRATEGIES, RunRecord, Sample, load, load_manifest
from etl_toolkit.errors import UsageError
from etl_toolkit.tables import spell_count

Case = Mapping[str, Any]

SIDE_AXES = ("rows", "workers", "format", "key", "files", "batch_rows", "executor")
STATES = {
    "empty": "empty table",
    "half": "half of the keys present",
    "tenth": "every key present, one row in ten changes",
    "rewritten": "every key present, all rows change",
    "unchanged": "every key present, no row changes",
}
ORDER = tuple(map(str, STRATEGIES))


@dataclass(frozen=True)
class RunData:
    """The cases of a run, grouped. Twins are left out: they are there for the noise."""

    record: RunRecord

    @cached_property
    def cases(self) -> list[Case]:
        found = [case for case in self.record.report.get("cases", []) if not case["is_twin"]]
        return sorted(found, key=lambda case: strategy_place(case["strategy"]))

    @cached_property
    def by_shape(self) -> list[Mapping[str, Any]]:
        """The shapes of this run, or of the sweep of shapes in its directory `shapes`; the worst first."""
        lines = self.record.report.get("by_shape", [])
        inside = self.record.directory / "shapes"
        if not lines and (inside / "manifest.json").exists():
            lines = load(inside).report.get("by_shape", [])
        return sorted((line for line in lines if line["speed_up"]), key=lambda line: float(line["speed_up"]["median"]))

    @cached_property
    def strategies(self) -> list[str]:
        return list(dict.fromkeys(case["strategy"] for case in self.cases))

    @cached_property
    def middle(self) -> dict[str, Any]:
        """The values of the side axes that most cases share: what the other axes were varied around."""
        if not self.cases:
            return {}
        common = Counter(tuple(case[name] for name in SIDE_AXES) for case in self.cases).most_common(1)[0][0]
        return dict(zip(SIDE_AXES, common, strict=True))

    def at(self, **wanted: Any) -> list[Case]:
        """The cases of the middle that have the `wanted` values as well."""
        values = self.middle | wanted
        return [case for case in self.cases if all(case[name] == value for name, value in values.items())]

    def values(self, name: str, cases: Sequence[Case] | None = None) -> list[Any]:
        """The different values of an axis, in order."""
        return sorted({case[name] for case in (self.cases if cases is None else cases) if case[name] is not None})

    def samples(self, case: Case) -> list[Sample]:
        """The runs of a case that count: measured, and with the right answer."""
        return [sample for sample in self.record.samples if sample.case == case["case"] and sample.counts]

    @cached_property
    def main_setting(self) -> Sequence[Case]:
        """The cases of the middle setting in which most strategies ended right; of those, the most overlap."""
        settings: dict[str, list[Case]] = {}
        for case in self.at(table_state="empty") or self.at() or self.cases:
            settings.setdefault(case["setting"], []).append(case)
        watched = {sample.setting for sample in self.record.samples if sample.is_profile}
        ranked = sorted(
            settings.values(),
            key=lambda own: (own[0]["setting"] in watched, sum(map(is_clean, own)), own[0]["overlap"]),
        )
        return ranked[-1] if ranked else []

    def timeline(self, case: Case) -> tuple[Sample, dict[str, list[Any]]] | None:
        """The run of a case that was made for its curves, else the one whose time is the median, and its readings over time."""
        import pyarrow.compute as pc

        runs = sorted(
            (sample for sample in self.samples(case) if sample.wall_seconds),
            key=lambda sample: sample.wall_seconds or 0,
        )
        profiles = [one for one in self.record.samples if one.case == case["case"] and one.is_profile and one.correct]
        if not runs:
            return None
        sample = profiles[0] if profiles else runs[len(runs) // 2]
        readings = self.record.timeline.filter(pc.equal(self.record.timeline["run_index"], sample.run_index))
        return (sample, readings.to_pydict()) if readings.num_rows else None


def read(directory: Path | str = "") -> RunData:
    """Read a run directory; without a name the latest below `runs`, `reports` or `demo`, here or one level up.

    Raises UsageError where there is none.
    """
    return RunData(load(directory or find_runs()[0]))


def find_runs(names: Sequence[str] = ("runs", "demo", "reports")) -> list[Path]:
    """Return the run directories below those `names`, here or one level up, the latest first.

    Raises UsageError where there is none.
    """
    places = [Path(up) / name for up in (".", "..") for name in names]
    found = [path.parent for place in places for path in place.glob("*/manifest.json")]
    if not found:
        below = " or ".join(f"{name}/" for name in names[:2])
        raise UsageError(
            f"there is no run directory in {below}; run `etl-toolkit bench --quick` first, or name a run directory"
        )
    return sorted(found, key=lambda path: load_manifest(path).started_at, reverse=True)


def strategy_place(strategy: str) -> tuple[int, str]:
    """The position of a strategy in every list: ours first, in the order of the documentation."""
    return (ORDER.index(strategy), "") if strategy in ORDER else (len(ORDER), strategy)


def is_clean(case: Case) -> bool:
    """Whether every run of the case ended with the right answer: only then is it drawn as speed."""
    return bool(case["wall_seconds"]) and not case["failures"]


def fate(case: Case) -> str:
    """Say in a word or two what became of a case: `right`, `refused`, `wrong rows`, `failed` or `not run`."""
    if is_clean(case):
        return "right"
    errors = " ".join(case["errors"])
    if "UnsafeStrategyError" in errors or "UsageError" in errors:
        return "refused"
    if "wrong answer" in errors:
        return "wrong rows"
    return "failed" if errors else "not run"


def setting_words(case: Case, *, overlap: bool = True) -> str:
    """Say what was loaded into what, with how many workers."""
    format_name = str(case["format"])
    kind = {"csv": "CSV", "parquet": "Parquet", "mixed": "CSV and Parquet"}.get(format_name, format_name)
    words = [f"{case['files']} × {case['rows'] // max(case['files'], 1):,} rows {kind}"]
    words += [f"{case['overlap']:.0%} overlap"] if overlap else []
    words += [STATES.get(str(case["table_state"]), str(case["table_state"]))]
    words += [spell_count(case["workers"], "worker")]
    words += [f"key {case['key'].replace('_', ' + ')}"] if case["key"] not in ("bigint", "own") else []
    words += [f"batches of {case['batch_rows']:,}"] if case["batch_rows"] else []
    words += [case["executor"]] if case["executor"] else []
    return ", ".join(words)


def thousands(rate: float) -> str:
    """Say rows per second, rounded to what is worth reading."""
    return (
        f"{rate:,.0f}"
        if rate < 1_000
        else f"{rate / 1000:,.0f} thousand"
        if rate < 1e6
        else f"{rate / 1e6:.2f} million"
    )
