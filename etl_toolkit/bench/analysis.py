"""From samples to `report.json`: metrics per case, a summary per strategy, what was noise, one sentence up front."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from etl_toolkit.bench import fit, headline, recommend
from etl_toolkit.bench.metrics import case_metrics, compare_within_settings, compared, strategy_summary
from etl_toolkit.bench.records import RECORD_VERSION, Manifest, Sample


def report(manifest: Manifest, samples: Sequence[Sample]) -> dict[str, Any]:
    """Return the object that `report.json` holds; `records` describes it."""
    by_case: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_case[sample.case].append(sample)
    cases = [case_metrics(by_case[name]) for name in manifest.cases if name in by_case]
    compare_within_settings(cases, by_case)
    lines = headline.against_plain_ways(cases, by_case)
    shapes, by_shape = headline.main_shapes(lines), headline.by_shape(lines)
    supported, undecided = recommend.recommendations(cases, by_case)
    return {
        "version": RECORD_VERSION,
        "run_id": manifest.run_id,
        "status": manifest.status,
        "finding": headline.sentence(shapes, cases),
        "shapes": shapes,
        "by_shape": by_shape,
        "noise": _noise(cases, by_case),
        "cases": cases,
        "strategies": strategy_summary(cases),
        "recommendations": supported,
        "undecided": undecided,
        "cost": fit.refit(manifest, samples),
    }


def _noise(cases: Sequence[Mapping[str, Any]], by_case: Mapping[str, list[Sample]]) -> dict[str, Any] | None:
    for twin in cases:
        if twin["is_twin"]:
            original = twin["case"].removesuffix("#twin")
            return {"case": original} | compared(by_case[twin["case"]], by_case.get(original, []))
    return None
