"""Which cases a sweep measures: slices through the grid of its axes.

A full grid of six axes takes days. Every shape is loaded at every overlap into an empty table, and into every other table
state at the first overlap. The other axes are varied one at a time around a middle case. The first value of each axis is the
middle one.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

from etl_toolkit.bench.contenders import find
from etl_toolkit.bench.records import Case
from etl_toolkit.bench.sweep_config import SweepConfig
from etl_toolkit.bench.workload import Workload

SIDE_OVERLAP = 0.5
# Other strategies take a file or a key range at a time, and load in one process.
ONLY = {"batch_rows": ("streaming",), "executor": ("partitioned",)}


def planned_cases(config: SweepConfig) -> tuple[list[Case], dict[str, str]]:
    """Return the cases of a sweep, and those that a contender cannot do, with the reason."""
    return _doable(dict.fromkeys([*_corners(config), *_slices(config)]))


def workload_of(case: Case, seed: int) -> Workload:
    """Return the generated files of `case`."""
    return Workload(
        files=case.files, rows=case.rows // case.files, overlap=case.overlap, format=case.format,  # type: ignore[arg-type]
        key=case.key, seed=seed, shape=case.shape,  # type: ignore[arg-type]
    )  # fmt: skip


def schedule(cases: list[Case], config: SweepConfig) -> Iterator[tuple[int, int, Case]]:
    """Yield (run index, round, case): round 0 warms up; every round has an order of its own."""
    blocks = [cases]
    if config.order == "settings":
        blocks = [[case for case in cases if case.setting == name] for name in dict.fromkeys(c.setting for c in cases)]
    run_index = 0
    for block in blocks:
        for number in rounds(config):
            order = list(block)
            random.Random(f"{config.seed}/{number}").shuffle(order)  # noqa: S311 - reproducible on purpose
            for case in order:
                yield run_index, number, case
                run_index += 1


def main_cases(cases: Sequence[Case]) -> list[Case]:
    """Of the cases that have a right run, return those of the setting that most of them share: empty tables, more overlap first."""
    settings: dict[str, list[Case]] = {}
    for case in cases:
        if not case.is_twin:
            settings.setdefault(case.setting, []).append(case)
    return max(settings.values(), key=lambda own: (own[0].table_state == "empty", len(own), own[0].overlap), default=[])


def rounds(config: SweepConfig) -> range:
    """Return the numbers of the rounds; 0 is the warm-up."""
    return range(0 if config.warm_up else 1, config.rounds + 1)


def _corners(config: SweepConfig) -> Iterator[Case]:
    for shape in config.shapes:
        for overlap, strategy in itertools.product(config.overlaps, config.strategies):
            yield _case(config, strategy, overlap=overlap, shape=shape)
        for state, strategy in itertools.product(config.table_states[1:], config.state_strategies or config.strategies):
            yield _case(config, strategy, overlap=config.overlaps[0], table_state=state, shape=shape)


def _slices(config: SweepConfig) -> Iterator[Case]:
    side_axes: dict[str, tuple[Any, ...]] = {
        "rows": config.rows[1:],
        "workers": config.workers[1:],
        "format": config.formats[1:],
        "key": config.keys[1:],
        "files": config.files[1:],
        "batch_rows": config.batch_rows,
        "executor": config.executors,
    }
    for name, values in side_axes.items():
        for value, strategy in itertools.product(values, config.side_strategies):
            if strategy in ONLY.get(name, config.side_strategies):
                yield _case(config, strategy, **{name: value})
    if config.twin:
        yield _case(config, config.twin, is_twin=True)


def _case(config: SweepConfig, strategy: str, **changes: Any) -> Case:
    files = changes.pop("files", config.files[0])
    rows = changes.pop("rows", config.rows[0])
    middle: dict[str, Any] = {
        "format": config.formats[0],
        "overlap": SIDE_OVERLAP if SIDE_OVERLAP in config.overlaps else config.overlaps[0],
        "table_state": config.table_states[0],
        "workers": config.workers[0],
        "key": config.keys[0],
        "shape": config.shapes[0],
    }
    return Case(strategy=strategy, kind=find(strategy).kind, files=files, rows=rows * files, **middle | changes)


def _doable(wanted: dict[Case, None]) -> tuple[list[Case], dict[str, str]]:
    cases, skipped = [], {}
    missing = {name: find(name).absence() for name in {case.strategy for case in wanted}}
    for case in wanted:
        if absent := missing[case.strategy]:
            skipped[case.strategy] = absent
        elif refusal := find(case.strategy).refusal(case):
            skipped[case.name] = refusal
        else:
            cases.append(case)
    return cases, skipped
