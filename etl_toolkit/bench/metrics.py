"""What the samples of one case come to, and how cases of one setting compare."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etl_toolkit.bench.records import PHASES, Sample
from etl_toolkit.bench.statistics import LARGEST_STEADY_SPREAD, interval, paired_ratio, spread, verdict

DESCRIPTION = ("case", "setting", "strategy", "kind", "is_twin", "format", "files", "rows", "overlap", "table_state",
               "workers", "key", "shape", "batch_rows", "executor")  # fmt: skip
MEDIANS = ("client_cpu_seconds", "server_cpu_seconds", "peak_client_pss_bytes", "peak_server_pss_bytes", "wal_bytes",
           "dead_tuples", "lock_waits", "deadlocks", "retries", "predicted_seconds")  # fmt: skip


def case_metrics(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return the metrics of one case; medians over its measured runs with the right answer."""
    right = [sample for sample in samples if sample.counts]
    failures = [sample for sample in samples if not sample.correct]
    times = [sample.wall_seconds for sample in right if sample.wall_seconds is not None]
    first = samples[0]
    metrics: dict[str, Any] = {name: getattr(first, name) for name in DESCRIPTION}
    metrics |= {
        "runs": len(times),
        "failures": len(failures),
        "errors": sorted({sample.error for sample in failures if sample.error}),
        "spread": spread(times) if times else None,
        "is_unstable": bool(times) and spread(times) > LARGEST_STEADY_SPREAD,
        "chosen_strategy": next((sample.chosen_strategy for sample in right if sample.chosen_strategy), None),
        "wall_seconds": _interval(times),
        "rows_per_second": _interval([sample.rows_per_second for sample in right]),
        "mb_per_second": _interval([sample.mb_per_second for sample in right]),
        "ratio_to_best": None,
        "is_among_fastest": False,
    }
    metrics |= {name: _median(_value(sample, name) for sample in right) for name in MEDIANS}
    phases = {name: _median(getattr(sample, f"phase_{name}_seconds") for sample in right) for name in PHASES}
    metrics["phases"] = {name: seconds for name, seconds in phases.items() if seconds is not None}
    return metrics


def strategy_summary(cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one line per strategy over all its cases; twins are left out, they are there for the noise."""
    summary = []
    for name in dict.fromkeys(case["strategy"] for case in cases):
        own = [case for case in cases if case["strategy"] == name and not case["is_twin"]]
        ratios = [case["ratio_to_best"] for case in own if case["ratio_to_best"] is not None]
        speeds = [case["rows_per_second"]["median"] for case in own if case["rows_per_second"]]
        summary.append(
            {
                "strategy": name,
                "kind": own[0]["kind"] if own else None,
                "cases": len(own),
                "wins": sum(case["is_among_fastest"] for case in own),
                "failures": sum(case["failures"] for case in own),
                "mean_ratio_to_best": statistics.geometric_mean(ratios) if ratios else None,
                "worst_ratio_to_best": max(ratios, default=None),
                "best_rows_per_second": max(speeds, default=None),
                "peak_client_pss_bytes": _largest(own, "peak_client_pss_bytes"),
                "peak_server_pss_bytes": _largest(own, "peak_server_pss_bytes"),
            }
        )
    return sorted(summary, key=lambda line: (line["mean_ratio_to_best"] is None, line["mean_ratio_to_best"] or 0.0))


def times_by_round(samples: Iterable[Sample]) -> dict[int, float]:
    """Return the seconds of the runs that count, by round."""
    return {sample.round: sample.wall_seconds for sample in samples if sample.counts and sample.wall_seconds}


def compare_within_settings(cases: list[dict[str, Any]], by_case: Mapping[str, list[Sample]]) -> None:
    """Fill in what a case is against others: the floor, a twin and failed cases do not count."""
    for setting in dict.fromkeys(case["setting"] for case in cases):
        rivals = [case for case in cases if case["setting"] == setting and case["wall_seconds"]]
        fair = [case for case in rivals if case["kind"] != "floor" and not case["is_twin"] and not case["failures"]]
        if not fair:
            continue
        best = min(fair, key=lambda case: float(case["wall_seconds"]["median"]))
        for case in rivals:
            case["ratio_to_best"] = case["wall_seconds"]["median"] / best["wall_seconds"]["median"]
            slower = compared(by_case[case["case"]], by_case[best["case"]])["verdict"] == "slower"
            case["is_among_fastest"] = case in fair and not slower


def compared(samples: Sequence[Sample], others: Sequence[Sample]) -> dict[str, Any]:
    """Return the paired ratio of two cases, the verdict, and the number of pairs."""
    mine, theirs = times_by_round(samples), times_by_round(others)
    ratio = paired_ratio(mine, theirs)
    runs = len(mine.keys() & theirs.keys())
    return {"ratio": ratio.as_dict() if ratio else None, "verdict": verdict(ratio, runs=runs), "runs": runs}


def _value(sample: Sample, name: str) -> float | None:
    if name != "client_cpu_seconds":
        value: float | None = getattr(sample, name)
        return value
    user, system = sample.client_cpu_user_seconds, sample.client_cpu_system_seconds
    return None if user is None or system is None else user + system


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _interval(values: Iterable[float | None]) -> dict[str, float] | None:
    known = [value for value in values if value is not None]
    return interval(known).as_dict() if known else None


def _largest(cases: Sequence[Mapping[str, Any]], name: str) -> float | None:
    return max((case[name] for case in cases if case[name] is not None), default=None)
