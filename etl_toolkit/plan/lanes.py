"""Who loads what, when: the batches of a strategy in lanes, which run side by side."""

from __future__ import annotations

from collections.abc import Sequence

from etl_toolkit.model import Batch, ConflictAction, Strategy
from etl_toolkit.plan.question import Question

# More ranges than workers keep all of them busy to the end, and let one range be sorted while another is sent. Small ones
# would not pay for the scan of all rows that each of them takes.
RANGES_PER_WORKER = 4
SMALLEST_RANGE = 50_000  # keys

# One worker is done with a tiny load before another one would have opened its session.
TINY_ROWS, TINY_BYTES = 10_000, 1 << 20
IN_TURN = 2  # workers of files in order: one merges a file, and one stages the next


def make_lanes(strategy: Strategy, question: Question, key_path: str) -> tuple[tuple[Batch, ...], ...]:
    """The batches of a strategy, those of a lane in order."""
    spec, overlap = question.spec, question.overlap
    positions = tuple(file.position for file in question.files)
    if strategy is Strategy.PARTITIONED:
        count = count_workers(question)
        # Several ranges a worker keep COPY into an empty table near the end of its index; a merge into one with rows reads
        # that table once a range. Ranges of one transaction that met on a key are told by what DO UPDATE meets
        # (`tripwire`); nothing else tells.
        many = question.target.is_empty and key_path == "client" and spec.conflict_action is ConflictAction.UPDATE
        if many and overlap is not None:
            count *= min(RANGES_PER_WORKER, max(1, overlap.distinct_keys // (count * SMALLEST_RANGE)))
        return tuple((Batch(number, positions, partition=number),) for number in range(count))
    groups: Sequence[tuple[int, ...]] = [positions]
    if spec.atomic:  # one transaction, so one batch
        pass
    elif strategy is Strategy.FULL_PARALLEL:
        groups = overlap.groups if spec.order_by and overlap else [(position,) for position in positions]
    elif strategy is Strategy.HYBRID and overlap is not None:
        groups = sorted(overlap.groups, key=lambda group: -overlap.rows_of(group))
    if question.competes_across_files:
        # The greatest value over all files wins, so files that share keys must meet before they meet the table.
        return tuple((Batch(number, tuple(group), collapsed=True),) for number, group in enumerate(groups))
    if spec.atomic:
        return ((Batch(0, positions),),)
    return tuple(tuple(Batch(position, (position,)) for position in group) for group in groups)


def count_workers(question: Question, lanes: Sequence[Sequence[Batch]] | None = None) -> int:
    """How many workers a load may use, and how many of them its lanes keep busy."""
    workers = 1 if question.spec.atomic or is_left_to_one(question) else question.workers
    if lanes is None:
        return workers
    if len(lanes) != 1:
        return min(workers, len(lanes))
    return min(workers, len(lanes[0]), workers if _may_go_ahead(question) else 1 if question.spec.undoable else IN_TURN)


def is_left_to_one(question: Question) -> bool:
    """Whether one worker loads all, because that is little and no number of workers was asked for."""
    overlap = question.overlap
    is_small = sum(file.size_bytes for file in question.files) <= TINY_BYTES
    is_short = overlap is None or sum(file.rows for file in overlap.files) <= TINY_ROWS
    return is_small and is_short and not question.are_workers_given


def _may_go_ahead(question: Question) -> bool:
    """Whether files of the one lane may be loaded before their turn: none is known to share keys with each other one."""
    overlap = question.overlap
    return not question.target.hazards and (overlap is None or len(overlap.groups) > 1)
