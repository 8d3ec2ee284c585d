"""How long each strategy would take: a linear model per row and phase, whose coefficients a sweep can refit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from etl_toolkit.model import KeyOverlap, Strategy


@dataclass(frozen=True)
class CostModel:
    """Microseconds per row of one worker, and what a load and a batch cost however small they are.

    The defaults were fitted to a full sweep (628 loads) on a 2-core machine that ran the server as well; a sweep fits them to
    another.
    """

    read_microseconds: float = 0.77  # CSV or Parquet into DuckDB, both cores
    collapse_microseconds: float = 0.17  # GROUP BY key
    sort_microseconds: float = 0.4  # a worker's range in key order, as text into the pipe
    direct_copy_microseconds: float = 2.9  # COPY into the table in key order
    staged_copy_microseconds: float = 0.92  # COPY into a temporary table
    merge_microseconds: float = 5.7  # upsert of staged rows in key order
    load_milliseconds: float = 140.0  # the load itself: catalog, ledger, workspace
    batch_milliseconds: float = 5.0  # a transaction: session, staging table, ledger


def predict(
    overlap: KeyOverlap, *, workers: int, cores: int, target_is_empty: bool, model: CostModel | None = None
) -> Mapping[Strategy, float]:
    """Predicted seconds per strategy; workers beyond the cores of this machine are not counted on."""
    model = model or CostModel()
    total, parallel = sum(file.rows for file in overlap.files), max(1, min(workers, cores))
    staged = model.staged_copy_microseconds + model.merge_microseconds
    absent = model.sort_microseconds + model.direct_copy_microseconds  # straight into the table, in key order
    scan = total * (model.read_microseconds + model.collapse_microseconds)
    direct = {
        file.position: file.rows * absent
        for file in overlap.files
        if target_is_empty and overlap.is_alone(file.position) and not file.duplicates
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
