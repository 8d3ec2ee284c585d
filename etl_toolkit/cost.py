"""How long each strategy would take: a linear model per row and phase, whose coefficients a sweep can refit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from etl_toolkit.config import CostModel
from etl_toolkit.model import KeyOverlap, Strategy


def predict(
    overlap: KeyOverlap, *, workers: int, cores: int, target_is_empty: bool, model: CostModel
) -> Mapping[Strategy, float]:
    """Predicted seconds per strategy, by costs that were measured; workers beyond the cores of this machine are not counted on."""
    total, parallel = sum(file.rows for file in overlap.files), max(1, min(workers, cores))
    staged = model.staged_copy_microseconds + model.merge_microseconds
    absent = model.sort_microseconds + model.direct_copy_microseconds  # straight into the table, in key order
    scan = total * (model.read_microseconds + model.collapse_microseconds)
    direct = {
        file.position: file.rows * absent
        for file in overlap.files
        if target_is_empty and overlap.is_first(file.position) and not file.duplicates
    }
    files = {file.position: file.rows * staged for file in overlap.files} | direct
    one_by_one = sum(cost for position, cost in files.items() if position not in direct)
    in_order = one_by_one + _side_by_side(list(direct.values()), parallel)  # straight into the table, files go ahead
    chains = [sum(files[position] for position in group) for group in overlap.groups]
    overhead = model.batch_milliseconds * 1000 * len(files)
    microseconds = {
        Strategy.DETERMINISTIC: scan + in_order + overhead,
        Strategy.STREAMING: in_order * 1.05 + overhead,
        Strategy.FULL_PARALLEL: scan + _side_by_side(list(files.values()), parallel) + overhead / parallel,
        Strategy.HYBRID: scan + _side_by_side(chains, parallel) + overhead / parallel,
        Strategy.PARTITIONED: scan
        + overlap.distinct_keys * (absent if target_is_empty else model.sort_microseconds + staged) / parallel
        + model.batch_milliseconds * 1000,
    }
    return {strategy: value / 1e6 + model.load_milliseconds / 1e3 for strategy, value in microseconds.items()}


def _side_by_side(parts: Sequence[float], parallel: int) -> float:
    """The time of parts that each one worker takes: no less than the longest of them."""
    return max(sum(parts) / parallel, max(parts, default=0))
