"""Results as pandas frames, for further analysis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from etl_toolkit.display import short_names
from etl_toolkit.model import KeyOverlap
from etl_toolkit.reporting.run_data import RunData

INTERVALS = ("wall_seconds", "rows_per_second", "mb_per_second")


def shared_keys(overlap: KeyOverlap) -> pd.DataFrame:
    """Keys that each two files share; the diagonal shows the distinct keys of each file."""
    place = {file.position: index for index, file in enumerate(overlap.files)}
    matrix = np.diag([file.distinct_keys for file in overlap.files])
    for (left, right), keys in overlap.pairs.items():
        matrix[place[left], place[right]] = matrix[place[right], place[left]] = keys
    names = short_names([file.name for file in overlap.files])
    return pd.DataFrame(matrix, index=names, columns=names)


def samples(data: RunData) -> pd.DataFrame:
    """Every run of a sweep, warm-ups and failures included."""
    return pd.DataFrame([asdict(sample) for sample in data.record.samples])


def cases(data: RunData) -> pd.DataFrame:
    """Medians of every case, with the ends of the intervals."""
    return pd.DataFrame([_flat(case) for case in data.cases])


def _flat(case: Mapping[str, Any]) -> dict[str, Any]:
    flat = {name: value for name, value in case.items() if not isinstance(value, dict | list)}
    for name in INTERVALS:
        interval = case[name] or dict.fromkeys(("median", "low", "high"))
        flat |= {name: interval["median"], f"{name}_low": interval["low"], f"{name}_high": interval["high"]}
    return flat
