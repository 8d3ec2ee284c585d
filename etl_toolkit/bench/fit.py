"""Fit the planner's cost model to measured times.

The model predicts seconds as a sum of coefficients times known counts. What each coefficient is multiplied with is
found by asking the model itself, with that coefficient 1 and all others 0; so this follows the model when it changes.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from etl_toolkit.bench.records import Manifest, Sample
from etl_toolkit.config import CostModel
from etl_toolkit.cost import predict
from etl_toolkit.model import FileKeys, KeyOverlap, Strategy

COEFFICIENTS = tuple(item.name for item in fields(CostModel))
FEWEST_RUNS = 2 * len(COEFFICIENTS)
FEWEST_SETTINGS = 4
# Coefficients that always occur together cannot be separated by times; this keeps them near their old values.
PULL_TO_DEFAULT = 0.05


def refit(manifest: Manifest, samples: Sequence[Sample]) -> dict[str, Any] | None:
    """Return the coefficients that fit the measured times best, and how far the predictions are off with them.

    The error is the median of |predicted / measured - 1|, before (the model as shipped) and after. `left_out` is the error
    on settings that the model was not fitted to, and between which multiples of the prediction 95% of their loads were:
    each setting in turn is predicted from the others. None when there are too few runs, or none of ours.
    """
    cores = int(manifest.machine.get("cores", 1))
    rows, seconds, settings = [], [], []
    for sample in samples:
        features = _features(sample, manifest.workloads.get(_workload(sample)), cores)
        if (
            features is not None
            and sample.counts
            and sample.wall_seconds
            and sample.shape == "base"
            and not sample.executor
        ):
            rows.append(features)
            seconds.append(sample.wall_seconds)
            settings.append(sample.setting)
    if len(rows) < FEWEST_RUNS:
        return None
    matrix, measured = np.asarray(rows), np.asarray(seconds)
    start = np.asarray([getattr(CostModel(), name) for name in COEFFICIENTS])
    fitted = _least_squares(matrix, measured, start)
    return {
        "coefficients": {name: round(float(value), 4) for name, value in zip(COEFFICIENTS, fitted, strict=True)},
        "error_before": _error(matrix @ start, measured),
        "error_after": _error(matrix @ fitted, measured),
        "runs": len(rows),
        "left_out": _left_out(matrix, measured, np.asarray(settings), start),
    }


def _left_out(matrix: Any, measured: Any, settings: Any, start: Any) -> dict[str, float] | None:
    """Predict each setting from the others; None where there are too few settings to say anything."""
    names = sorted(set(settings))
    if len(names) < FEWEST_SETTINGS:
        return None
    ratios = np.empty(len(measured))
    for name in names:
        own = settings == name
        ratios[own] = measured[own] / (matrix[own] @ _least_squares(matrix[~own], measured[~own], start))
    low, high = np.quantile(ratios, (0.025, 0.975))
    return {"error": float(np.median(np.abs(1 / ratios - 1))), "low": float(low), "high": float(high)}


def known_overlap(facts: Mapping[str, Any]) -> KeyOverlap:
    """Return the key overlap of files that a manifest describes: generated ones, or the user's own."""
    names = facts["file_names"]
    counts = facts.get("rows_per_file") or [facts["rows"]] * len(names)
    positions = range(len(names))
    groups = facts.get("groups") or ([list(positions)] if facts["shared_keys"] else [[number] for number in positions])
    files = tuple(FileKeys(number, names[number], counts[number], counts[number]) for number in positions)
    return KeyOverlap(files, facts["distinct_keys"], facts["shared_keys"], (), {}, tuple(map(tuple, groups)))


def _features(sample: Sample, facts: Mapping[str, Any] | None, cores: int) -> list[float] | None:
    """Return what each coefficient is multiplied with in the prediction for this run."""
    if facts is None or sample.chosen_strategy is None or sample.chosen_strategy not in set(Strategy):
        return None
    overlap = known_overlap(facts)
    features = []
    for name in COEFFICIENTS:
        unit = CostModel(**{other: float(other == name) for other in COEFFICIENTS})
        predicted = predict(
            overlap, workers=sample.workers, cores=cores, target_is_empty=sample.table_state == "empty", model=unit
        )
        if Strategy(sample.chosen_strategy) not in predicted:
            return None
        features.append(predicted[Strategy(sample.chosen_strategy)])
    return features


def _least_squares(matrix: Any, measured: Any, start: Any) -> Any:
    """Fit relative errors, with no coefficient below zero."""
    from scipy.optimize import lsq_linear

    pull = np.diag(PULL_TO_DEFAULT * np.sqrt(len(measured)) / np.maximum(start, 1e-9))
    weighted = np.vstack([matrix / measured[:, None], pull])
    wanted = np.concatenate([np.ones(len(measured)), pull @ start])
    return lsq_linear(weighted, wanted, bounds=(0, np.inf)).x


def _error(predicted: Any, measured: Any) -> float:
    return statistics.median(abs(float(value)) for value in predicted / measured - 1)


def _workload(sample: Sample) -> str:
    # A setting is its workload, the state of the table and the number of workers.
    return sample.setting.split(f"-{sample.table_state}-w")[0]
