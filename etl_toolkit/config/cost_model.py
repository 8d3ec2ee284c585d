"""What the phases of a load cost on a machine: the table `[load.cost]` of a configuration file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from etl_toolkit.errors import ConfigError


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

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < float("inf"):
                raise ConfigError(f"cost: {item.name} must be a number, 0 or more, not {value!r}")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> CostModel:
        """Build from a mapping; what it leaves out is as in the defaults. Raises ConfigError on unknown names."""
        known = [item.name for item in fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise ConfigError(f"cost has no {', '.join(unknown)}; known are {', '.join(known)}")
        return cls(**values)
