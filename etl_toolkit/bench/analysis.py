"""From samples to `report.json`: metrics per case, a summary per strategy, what was noise, one sentence up front."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from etl_toolkit.bench import fit, recommend
from etl_toolkit.bench.metrics import BASELINE, case_metrics, compare_within_settings, compared, strategy_summary
from etl_toolkit.bench.records import RECORD_VERSION, Manifest, Sample
from etl_toolkit.bench.statistics import geometric_mean


def report(manifest: Manifest, samples: Sequence[Sample]) -> dict[str, Any]:
    """Return the object that `report.json` holds; `records` describes it."""
    by_case: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_case[sample.case].append(sample)
    cases = [case_metrics(by_case[name]) for name in manifest.cases if name in by_case]
    compare_within_settings(cases, by_case)
    noise = _noise(cases, by_case)
    recommendations = recommend.recommendations(cases, by_case)
    summary = strategy_summary(cases)
    return {
        "version": RECORD_VERSION,
        "run_id": manifest.run_id,
        "status": manifest.status,
        "finding": _finding(cases, summary, noise),
        "noise": noise,
        "cases": cases,
        "strategies": summary,
        "recommendations": recommendations,
        "cost": fit.refit(manifest, samples),
    }


def _noise(cases: Sequence[Mapping[str, Any]], by_case: Mapping[str, list[Sample]]) -> dict[str, Any] | None:
    for twin in cases:
        if twin["is_twin"]:
            original = twin["case"].removesuffix("#twin")
            return {"case": original} | compared(by_case[twin["case"]], by_case.get(original, []))
    return None


def _finding(
    cases: Sequence[Mapping[str, Any]], summary: Sequence[Mapping[str, Any]], noise: Mapping[str, Any] | None
) -> str:
    measured = [line for line in summary if line["mean_ratio_to_best"] is not None and line["kind"] != "floor"]
    if not measured:
        return "No run ended with the right answer, so there is nothing to compare."
    best = next((line for line in measured if line["strategy"] == "auto"), measured[0])
    own = [case for case in cases if case["strategy"] == best["strategy"] and not case["is_twin"]]
    sentence = (
        f"{best['strategy']} took {best['mean_ratio_to_best']:.2f} × the time of the fastest on the mean and "
        f"{best['worst_ratio_to_best']:.2f} × at worst, in {len(own)} settings; it was the fastest, or not shown to be "
        f"slower, in {best['wins']} of them"
    )
    ratios = [case["against_baseline"]["ratio"]["median"] for case in own
              if case["against_baseline"] and case["against_baseline"]["ratio"]]  # fmt: skip
    if ratios:
        sentence += (
            f", and {1 / geometric_mean(ratios):.1f} × as fast as {BASELINE} on the mean "
            f"({1 / max(ratios):.1f} to {1 / min(ratios):.1f} ×)"
        )
    if noise and noise["verdict"] != "no difference shown":
        sentence += ". The same strategy measured twice differed, so small differences here mean nothing"
    return sentence + "."
