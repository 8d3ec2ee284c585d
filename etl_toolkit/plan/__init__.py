"""Chooses a strategy, with reasons, lanes and batches, from what is known about the files and the table. Pure: no I/O."""

from __future__ import annotations

from etl_toolkit.cost import predict
from etl_toolkit.errors import TargetError, UnsafeStrategyError, UsageError
from etl_toolkit.model import ConflictAction, HazardKind, KeyOverlap, Plan, Strategy, TargetTable
from etl_toolkit.plan.lanes import RANGES_PER_WORKER, SMALLEST_RANGE, count_workers, is_left_to_one, make_lanes
from etl_toolkit.plan.obstacles import ROWS_MEET, find_obstacles, find_range_obstacle
from etl_toolkit.plan.question import Question
from etl_toolkit.tables import spell_count

__all__ = [
    "ONE_WORKER",
    "RANGES_PER_WORKER",
    "ROWS_COMPOSED",
    "SMALLEST_RANGE",
    "Question",
    "find_range_obstacle",
    "make_plan",
]

ONE_WORKER = "one worker: the load is too small for a second session to pay off; set concurrency (--jobs) to use more"
ROWS_COMPOSED = "columns of rows that share a key are put together before they are sent: each key is sent once"


def make_plan(question: Question) -> Plan:
    """Choose a strategy, or check the one asked for. Raises UnsafeStrategyError and TargetError with the reason."""
    spec, target, overlap = question.spec, question.target, question.overlap
    _check_possible(question)
    if not question.files:
        return Plan(Strategy.DETERMINISTIC, ("the table has taken all of these files before",), (), 0, "client")
    key_path = question.key_path
    predicted = (
        predict(
            overlap,
            workers=question.workers,
            cores=question.cores,
            target_is_empty=target.is_empty,
            model=question.cost,
        )
        if overlap and question.cost  # the costs of another machine would mislead
        else {}
    )
    strategy, reasons = _choose(question) if spec.strategy is Strategy.AUTO else _check_asked(question)
    if strategy is Strategy.PARTITIONED and key_path == "client" and question.rows_meet:
        if question.may_compose:
            reasons.append(ROWS_COMPOSED)
        else:
            key_path = "server"
            reasons.append(ROWS_MEET)
    reasons += _about_triggers(question, strategy)
    lanes = question.lanes or make_lanes(strategy, question, key_path)
    if is_left_to_one(question) and min(question.workers, len(question.files)) > 1:
        reasons.append(ONE_WORKER)
    distinct, existing = (overlap.distinct_keys, overlap.existing_keys) if overlap else (None, None)
    if target.is_empty and overlap:
        existing = 0
    inserts = distinct - existing if distinct is not None and existing is not None else None
    return Plan(
        strategy=strategy,
        reasons=tuple(reasons),
        lanes=lanes,
        workers=count_workers(question, lanes),
        key_path=key_path,
        overlap=overlap,
        predicted_seconds=predicted,
        predicted_inserts=0 if spec.write.rows == "update" else inserts,
        predicted_updates=existing,
        target_is_empty=target.is_empty,
    )


def _check_possible(question: Question) -> None:
    """Refuse what no strategy can do with this table and these files: raises TargetError and UsageError."""
    spec, target = question.spec, question.target
    if refusing := target.forced("refuse"):
        raise TargetError(f"cannot load into {target.qualified_name}: {refusing[0].detail}")
    if target.distribution and spec.undoable:
        raise UsageError(
            f"{target.qualified_name} is distributed by Citus, whose rows do not show which transaction wrote them, so a load "
            "into it cannot be undone; leave --undoable out"
        )
    if spec.conflict_action is ConflictAction.NEWER and not spec.order_by:
        raise UsageError("--on-conflict newer needs --order-by COLUMN to decide which row is newer")
    if spec.order_by and spec.conflict_action is ConflictAction.IGNORE:
        asked = "rows=insert" if spec.write.rows == "insert" else "--on-conflict ignore"
        raise UsageError(f"{asked} keeps the first row, --order-by the greatest; give one of them, or 'newer'")
    if question.competes_across_files and question.files and question.layout is None:
        raise UsageError(
            f"--order-by {spec.order_by} picks one whole row per key over all files, but these have different columns; "
            "give them the same columns, or use --on-conflict newer, which updates file by file"
        )


def _check_asked(question: Question) -> tuple[Strategy, list[str]]:
    """The requested strategy. Raises UsageError where it is not available, UnsafeStrategyError where it is not safe."""
    spec, strategy = question.spec, question.spec.strategy
    reasons = [f"{strategy} was requested"]
    if strategy is Strategy.PARTITIONED and question.server_reason and question.staging_refusal:
        raise UsageError(f"{strategy} is not available here: {question.server_reason}, and {question.staging_refusal}")
    if obstacle := find_obstacles(question).get(strategy):
        if not spec.force or strategy is Strategy.PARTITIONED:
            # `force` may load wrong rows, so no message recommends it.
            raise UnsafeStrategyError(f"{strategy} is not safe here: {obstacle}; choose auto or deterministic")
        reasons.append(f"forced although {obstacle}")
    return strategy, reasons


def _choose(question: Question) -> tuple[Strategy, list[str]]:
    """The fastest strategy that gives the sequential result, with the reasons in words."""
    overlap, obstacles = question.overlap, find_obstacles(question)
    reasons = [_describe_overlap(overlap, question.target)] if overlap is not None else []
    if len(question.files) == 1 and (overlap is None or overlap.rows < 50_000):
        return Strategy.DETERMINISTIC, [*reasons, "one small file: one transaction is fastest"]
    if obstacle := obstacles.get(Strategy.PARTITIONED):
        reasons.append(f"not partitioned: {obstacle}")
        for strategy in (Strategy.FULL_PARALLEL, Strategy.HYBRID):
            if strategy not in obstacles and overlap is not None and len(overlap.groups) > 1:
                return strategy, [
                    *reasons,
                    f"{len(overlap.groups)} groups of files share no keys and are loaded in parallel",
                ]
        return Strategy.DETERMINISTIC, [*reasons, "files are loaded in order, one transaction each"]
    if reason := question.server_reason:
        reasons.append(reason)
        if overlap is None and question.deterministic_processing:
            return Strategy.DETERMINISTIC, [*reasons, "files are loaded in order, one transaction each"]
        return Strategy.PARTITIONED, [
            *reasons,
            "files are staged in parallel, and each worker merges one hash partition of the keys",
        ]
    return Strategy.PARTITIONED, [
        *reasons,
        "rows are collapsed across files first, so each key is sent and written once",
        "workers load disjoint key ranges in key order: no lock waits, no deadlocks, no random index access",
    ]


def _describe_overlap(overlap: KeyOverlap, target: TargetTable) -> str:
    if not overlap.shared_keys:
        keys, files = spell_count(overlap.distinct_keys, "distinct key"), spell_count(len(overlap.files), "file")
        how = "no spelling of a key" if target.forced("server") else "no key"
        return f"{how} appears in more than one file ({keys} in {files})"
    return (
        f"{overlap.shared_keys:,} of {overlap.distinct_keys:,} keys ({overlap.overlap_ratio:.0%}) appear in more than one file; "
        f"{spell_count(len(overlap.groups), 'group')} of files share keys"
    )


def _about_triggers(question: Question, strategy: Strategy) -> list[str]:
    """What row triggers cost, or what they miss."""
    if strategy is Strategy.PARTITIONED and question.target.forced("judged"):
        return ["row triggers fire once for each key, with the row that wins: they do not see the rows that lose to it"]
    if question.sequential and all(hazard.kind is HazardKind.ROW_TRIGGER for hazard in question.sequential):
        return [
            "with --write triggers=once each key would be written once, with the row that wins, by several workers; the triggers "
            "would not see rows that lose, and would see one INSERT or UPDATE where files share a key"
        ]
    return []
