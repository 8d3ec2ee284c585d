"""How long a load should take: by what the loads before it took, or by costs per row and phase that a sweep has measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import StatisticsError, linear_regression, median

from etl_toolkit.config import CostModel
from etl_toolkit.model import ExpectedDuration, KeyOverlap, PastDuration, Strategy

FEWEST_LOADS = 5  # that say anything
REACH = 3.0  # how many times larger or smaller than those before it a load may be
LARGEST_ERROR = 1.0  # off by two times: no prediction is better


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


def expect_seconds(past: Sequence[PastDuration], *, rows: int, written: int | None) -> ExpectedDuration | None:
    """The seconds that a load of `rows` rows, of which `written` change the table, should take by those `past`.

    Of a few simple forms the one is taken that predicts each past load best by the others. Its error is the share that four of
    five of these predictions kept to. None where the past loads are too few, too different, or say too little.
    """
    past = [load for load in past if load.rows and load.seconds]
    sizes = [load.rows for load in past]
    if len(sizes) < FEWEST_LOADS or not min(sizes) / REACH <= rows <= max(sizes) * REACH:
        return None
    now = PastDuration(rows, written or 0, 0)
    forms = [_by_share, _by_rows] if written is None else [_by_share, _by_rows, _by_written]
    errors = {form: _error(form, past) for form in forms}
    best = min(forms, key=lambda form: round(errors[form], 2))  # the simplest of those that are as good
    error, seconds = errors[best], best(past, now)
    return ExpectedDuration(seconds, error, len(past)) if seconds > 0 and error < LARGEST_ERROR else None


_Form = Callable[[Sequence[PastDuration], PastDuration], float]


def _by_share(past: Sequence[PastDuration], load: PastDuration) -> float:
    return load.rows * median(one.seconds / one.rows for one in past)


def _by_rows(past: Sequence[PastDuration], load: PastDuration) -> float:
    return _on_line([(one.rows, one.seconds) for one in past], load.rows)


def _by_written(past: Sequence[PastDuration], load: PastDuration) -> float:
    return _on_line([(one.written, one.seconds) for one in past], load.written)


def _on_line(points: Sequence[tuple[int, float]], at: int) -> float:
    """The value of the line through the points; where all are at one place, their median."""
    try:
        slope, intercept = linear_regression(*zip(*points, strict=True))
    except StatisticsError:
        return median(seconds for _, seconds in points)
    return intercept + slope * at


def _error(form: _Form, past: Sequence[PastDuration]) -> float:
    """The relative error that four of five loads stay within, each predicted by the others (leave-one-out)."""
    errors = sorted(
        abs(form([*past[:at], *past[at + 1 :]], load) - load.seconds) / load.seconds for at, load in enumerate(past)
    )
    return errors[(4 * len(errors) - 1) // 5]


def _side_by_side(parts: Sequence[float], parallel: int) -> float:
    """The time of parts that each one worker takes: no less than the longest of them."""
    return max(sum(parts) / parallel, max(parts, default=0))
