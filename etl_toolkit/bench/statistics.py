"""Medians with 95% bootstrap intervals, paired ratios, and the verdict that may be drawn from them.

With five runs an interval is hardly narrower than the range of the runs; that is as it should be. Fewer than three runs
have no interval. "No difference shown" is a verdict, and the usual one when a strategy is compared with itself.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from etl_toolkit.errors import UsageError

Verdict = Literal["faster", "slower", "no difference shown"]

LARGEST_STEADY_SPREAD = 0.10
SMALLEST_DIFFERENCE = 0.05  # less than this is what a machine in use does not hold steady from run to run
LARGE_DIFFERENCE = 0.25  # more than this in every one of three rounds is no accident
FEWEST_RUNS = 5
FEWEST_RUNS_FOR_AN_INTERVAL = 3
RESAMPLES = 5_000


@dataclass(frozen=True)
class Interval:
    """A median and its 95% bootstrap interval; both ends are the median where there are too few values for one."""

    median: float
    low: float
    high: float

    @property
    def words(self) -> str:
        """The median, with the interval where there is one."""
        ends = f" ({self.low:.2f}–{self.high:.2f})" if self.low < self.high else ""
        return f"{self.median:.2f}{ends}"

    def as_dict(self) -> dict[str, float]:
        """Return it as a record keeps it."""
        return asdict(self)


def interval_words(found: Mapping[str, float] | None) -> str:
    """Say an interval as a record keeps it; a dash where there is none."""
    return Interval(**found).words if found else "–"


def interval(values: Sequence[float]) -> Interval:
    """Return the median of `values` with its percentile bootstrap interval; the same values give the same interval."""
    if not values:
        raise ValueError("no values")
    middle = statistics.median(values)
    if len(values) < FEWEST_RUNS_FOR_AN_INTERVAL or min(values) == max(values):
        return Interval(middle, middle, middle)
    return _bootstrap(middle, np.median, values)


def paired_ratio(times: Mapping[int, float], others: Mapping[int, float]) -> Interval | None:
    """Return time / other time over the rounds that have both; below 1 is faster. None when no round has both.

    Both maps are by round: what slows a whole round down drops out.
    """
    shared = sorted(times.keys() & others.keys())
    return interval([times[number] / others[number] for number in shared]) if shared else None


def ratio_of_medians(times: Sequence[float], others: Sequence[float]) -> Interval:
    """Return the ratio of two medians that were not measured in the same rounds, with its bootstrap interval."""
    middle = statistics.median(times) / statistics.median(others)
    if min(len(times), len(others)) < FEWEST_RUNS_FOR_AN_INTERVAL:
        return Interval(middle, middle, middle)

    def ratio(first: Any, second: Any, axis: int = -1) -> Any:
        return np.median(first, axis=axis) / np.median(second, axis=axis)

    return _bootstrap(middle, ratio, times, others)


def spread(values: Sequence[float]) -> float:
    """Return standard deviation over mean; 0 for a single value."""
    return statistics.stdev(values) / statistics.fmean(values) if len(values) > 1 else 0.0


def verdict(ratio: Interval | None, *, runs: int) -> Verdict:
    """Return what a ratio of times shows.

    A difference is shown when the whole interval lies on one side of 1, its median by more than `SMALLEST_DIFFERENCE`,
    and there were at least `FEWEST_RUNS`: fewer lie all on one side by chance too often (three do one time in four).
    From three runs on a difference is shown where every run differs by more than `LARGE_DIFFERENCE`.
    """
    if ratio is None or runs < FEWEST_RUNS_FOR_AN_INTERVAL or abs(ratio.median - 1) <= SMALLEST_DIFFERENCE:
        return "no difference shown"
    margin = 1.0 if runs >= FEWEST_RUNS else 1 + LARGE_DIFFERENCE
    if ratio.high < 1 / margin:
        return "faster"
    return "slower" if ratio.low > margin else "no difference shown"


def _bootstrap(middle: float, statistic: Callable[..., Any], *samples: Sequence[float]) -> Interval:
    """Return `middle` with the 95% percentile interval of `statistic`; the same samples give the same interval."""
    try:
        from scipy import stats
    except ImportError:
        raise UsageError("the intervals need scipy; pip install 'etl-toolkit[notebooks]'") from None
    arrays = [np.asarray(values, dtype=float) for values in samples]
    found = stats.bootstrap(
        arrays, statistic, n_resamples=RESAMPLES, method="percentile", vectorized=True,
        rng=np.random.default_rng(20_240_101),
    ).confidence_interval  # fmt: skip
    return Interval(middle, float(found.low), float(found.high))
