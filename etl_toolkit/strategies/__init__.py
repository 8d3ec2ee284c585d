"""The strategies: each a function from a run to the counts of its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from etl_toolkit.loading.run import Run
from etl_toolkit.model import Counts, Strategy
from etl_toolkit.strategies.ahead import load_in_order
from etl_toolkit.strategies.lanes import run_lanes
from etl_toolkit.strategies.partitioned import load_partitioned
from etl_toolkit.strategies.staged import load_files


def load_lanes(run: Run) -> dict[int, Counts]:
    """All but `partitioned` differ in their lanes alone, which the plan has drawn."""
    return load_in_order(run) if len(run.plan.lanes) == 1 else run_lanes(run, load_files)


STRATEGIES: Mapping[Strategy, Callable[[Run], dict[int, Counts]]] = {
    Strategy.DETERMINISTIC: load_lanes,
    Strategy.HYBRID: load_lanes,
    Strategy.FULL_PARALLEL: load_lanes,
    Strategy.STREAMING: load_lanes,
    Strategy.PARTITIONED: load_partitioned,
}
