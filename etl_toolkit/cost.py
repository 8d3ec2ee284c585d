"""What each strategy would take: a linear model per row and phase, whose coefficients the sweep can refit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from etl_toolkit.model import KeyOverlap, Strategy


@dataclass(frozen=True)
class CostModel:
    """Microseconds per row of one worker, and what a load and a batch cost however small they are.

    The defaults come from the figures of four files of 500,000 rows on a 2-core machine; a sweep fits them to another.
    """

    read_microseconds: float = 0.5  # CSV or Parquet into DuckDB, both cores
    collapse_microseconds: float = 0.15  # GROUP BY key
    sort_microseconds: float = 0.35  # a worker's range in key order, as text into the pipe
    direct_copy_microseconds: float = 1.9  # COPY into the table in key order
    staged_copy_microseconds: float = 0.9  # COPY into a temporary table
    merge_microseconds: float = 5.0  # upsert of staged rows in key order
    load_milliseconds: float = 80.0  # the load itself: catalog, ledger, workspace
    batch_milliseconds: float = 5.0  # a transaction: session, staging table, ledger


def predict(
    overlap: KeyOverlap, *, workers: int, cores: int, target_is_empty: bool, model: CostModel | None = None
) -> Mapping[Strategy, float]:
    """Predicted seconds per strategy; workers beyond the cores of this machine are not counted on."""
    model = model or CostModel()
    rows = [file.rows for file in overlap.files]
    total, parallel = sum(rows), max(1, min(workers, cores))
    staged = model.staged_copy_microseconds + model.merge_microseconds
    scan = total * (model.read_microseconds + model.collapse_microseconds)
    chains = [sum(rows[_index(overlap, position)] for position in group) for group in overlap.groups]
    longest = max(chains, default=0)
    write = model.direct_copy_microseconds if target_is_empty else staged
    overhead = model.batch_milliseconds * 1000 * len(rows)
    microseconds = {
        Strategy.DETERMINISTIC: scan + total * staged + overhead,
        Strategy.STREAMING: scan + total * staged * 1.05 + overhead,
        Strategy.FULL_PARALLEL: scan + max(total / parallel, max(rows, default=0)) * staged + overhead / parallel,
        Strategy.HYBRID: scan + max(total / parallel, longest) * staged + overhead / parallel,
        Strategy.PARTITIONED: scan
        + overlap.distinct_keys * (model.sort_microseconds + write) / parallel
        + model.batch_milliseconds * 1000,
    }
    return {strategy: value / 1e6 + model.load_milliseconds / 1e3 for strategy, value in microseconds.items()}


def _index(overlap: KeyOverlap, position: int) -> int:
    return next(index for index, file in enumerate(overlap.files) if file.position == position)
