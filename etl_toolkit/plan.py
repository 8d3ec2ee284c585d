"""Chooses a strategy, with reasons, lanes and batches, from what is known about the files and the table. Pure: no I/O."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from blake3 import blake3

from etl_toolkit.config import CostModel
from etl_toolkit.cost import predict
from etl_toolkit.errors import SourceError, TargetError, UnknownColumnError, UnsafeStrategyError, UsageError
from etl_toolkit.hints import did_you_mean, has_no_header
from etl_toolkit.keys import KEY_TYPES, KeyType, fold_name, key_type
from etl_toolkit.model import (
    LEFT_OUT,
    Batch,
    Column,
    ConflictAction,
    Hazard,
    HazardKind,
    KeyOverlap,
    Layout,
    LoadSpec,
    Plan,
    SourceFile,
    Strategy,
    TargetTable,
)
from etl_toolkit.row_checks import half_read_checks, whole_row_checks
from etl_toolkit.scan import missing_key_error
from etl_toolkit.sources.typed import LOCAL_TYPES
from etl_toolkit.write_rules import check_files, count_origins, may_compose, rows_meet

# More ranges than workers keep all of them busy to the end, and let one range be sorted while another is sent. Small ones
# would not pay for the scan of all rows that each of them takes.
RANGES_PER_WORKER = 4
SMALLEST_RANGE = 50_000  # keys

ROWS_MEET = "rows that a later row replaces leave values behind, so all rows are sent and the server puts them together"
ROWS_COMPOSED = "columns of rows that share a key are put together before they are sent: each key is sent once"
_DELETE_MARK = re.compile(
    r"_*(?:cdc_|dms_|dml_|row_)?(?:op|op_?type|operation|operation_type|action|change_?type|is_?deleted?|deleted?|deleted?_flag"
    r"|tombstone|row_?kind|row_?status)_*", re.IGNORECASE,
)  # fmt: skip
ORDERED_TYPES = ("int2", "int4", "int8", "date", "timestamp", "timestamptz")


@dataclass(frozen=True)
class Question:
    """Everything that a plan is made from. `overlap` is None if conflict detection is off or not possible."""

    spec: LoadSpec
    target: TargetTable
    files: tuple[SourceFile, ...]
    overlap: KeyOverlap | None
    workers: int
    cores: int
    deterministic_processing: bool = True
    lanes: tuple[tuple[Batch, ...], ...] | None = None  # of a run that is resumed
    staging_refusal: str = ""  # why the role may not make staging tables that workers share
    cost: CostModel | None = None  # of this machine, where it was measured


def match_columns(files: Sequence[SourceFile], target: TargetTable, spec: LoadSpec) -> tuple[SourceFile, ...]:
    """Name the columns of each file as the table does: exactly, else the only one that differs in case alone.

    A column that only the path of a file carries is taken where the table has it, and ignored where it has not. Raises
    SourceError for a column the table lacks (unless `extra_columns='ignore'`), for a missing key column and for a missing
    column that the table requires.
    """
    matched = tuple(_matched(file, target, spec) for file in files)
    check_files(spec, matched)
    return matched


def _matched(file: SourceFile, target: TargetTable, spec: LoadSpec) -> SourceFile:
    names = {column.name for column in target.columns}
    mark = spec.write.delete.column if spec.write.delete else None
    names |= {mark} if mark else set()
    folded: dict[str, list[str]] = {}
    for name in names:
        folded.setdefault(name.casefold(), []).append(name)
    taken = {name for name in file.columns if name in names}
    renamed = []
    for name in file.columns:
        candidates = [other for other in folded.get(name.casefold(), []) if other not in taken]
        renamed.append(name if name in names or len(candidates) != 1 else candidates[0])
    if len(set(renamed)) < len(renamed):
        raise SourceError(f"{file.name}: two of its columns differ only in case and match the same column of the table")
    where = f"{file.name}: "
    unknown = [name for name in renamed if name not in names and not name.startswith(LEFT_OUT)]
    if (extra := unknown) and spec.read.extra_columns == "error" and spec.write.new_columns != "ignore":
        free = [column.name for column in target.columns if column.name not in taken]
        words = (
            f"{where}column {', '.join(map(repr, extra))} is not in {target.qualified_name}, which has "
            f"{', '.join(column.name for column in target.columns)}{did_you_mean(extra[0], free)}"
        )
        if file.format == "csv" and has_no_header(extra):
            raise UnknownColumnError(f"{words}; if its first line is a row, name the columns with --headers")
        raise UnknownColumnError(f"{words}; {_remedy(extra)}")
    path_values = _path_values(file, folded, taken=set(renamed))
    present = {*renamed, *dict(path_values)}
    if missing := [name for name in target.key if name not in present]:
        raise missing_key_error(file, missing)
    if mark and mark not in present:
        raise UnknownColumnError(
            f"{where}lacks the column {mark!r} that marks deleted rows (delete){did_you_mean(mark, present)}"
        )
    required = [column.name for column in target.columns if column.is_required and spec.write.rows != "update"]
    if missing := [name for name in required if name not in present | set(spec.write.set)]:
        raise UnknownColumnError(
            f"{where}lacks column {', '.join(map(repr, missing))}, which {target.qualified_name} requires (NOT NULL, no default)"
        )
    if spec.order_by and spec.order_by not in present:
        raise UnknownColumnError(
            f"{where}lacks the column '{spec.order_by}' that decides which row wins (--order-by)"
            f"{did_you_mean(spec.order_by, present)}"
        )
    # Of a domain, the type below decides what texts mean, and what an instant becomes; how other values are spelled, not.
    below = {
        column.name: column.domain_of
        for column in target.columns
        if column.domain_of and (file.format == "csv" or column.domain_of.removeprefix("_") in LOCAL_TYPES)
    }
    types = {column.name: column.base_type for column in target.columns} | below
    target_types = tuple(types.get(name, "") for name in renamed)
    return replace(
        file,
        columns=tuple(renamed),
        source_columns=file.own_columns,
        target_types=target_types,
        path_values=path_values,
        content_hash=_with_path(file.content_hash, path_values),
    )


def _with_path(content_hash: str, path_values: tuple[tuple[str, str | None], ...]) -> str:
    """The content hash of a file whose path gives its rows a value: below another directory, it has other rows."""
    return blake3(f"{content_hash}{path_values}".encode()).hexdigest() if path_values else content_hash


def _remedy(extra: Sequence[str]) -> str:
    """What to do about columns that the table lacks; to leave one out may turn deletes into rows."""
    if marks := [name for name in extra if _DELETE_MARK.fullmatch(name)]:
        return (
            f"{marks[0]!r} seems to mark deleted rows, which would be loaded like any others without it: say which values do, "
            f'as in --write \'delete={{column = "{marks[0]}", values = ["D"]}}\', or add the column to the table'
        )
    return "fix the header, or leave out these columns with --extra-columns ignore"


def _path_values(
    file: SourceFile, folded: Mapping[str, Sequence[str]], *, taken: Collection[str]
) -> tuple[tuple[str, str | None], ...]:
    """The columns of the table that the file's path carries and the file has not, with their texts."""
    found: dict[str, str | None] = {}
    for name, text in file.path_values:
        candidates = folded.get(name.casefold(), ())
        exact = name if name in candidates else candidates[0] if len(candidates) == 1 else None
        if exact is not None and exact not in taken:
            found[exact] = text
    return tuple(found.items())


def spelled_as(file: SourceFile, names: Sequence[str]) -> SourceFile:
    """The file with those of its columns named like one of the names that differ from it in case alone."""
    columns = tuple(fold_name(name, names) for name in file.columns)
    if len(set(columns)) < len(columns):
        return file
    path_values = tuple((fold_name(name, names), text) for name, text in file.path_values)
    return replace(file, columns=columns, source_columns=file.own_columns, path_values=path_values)


def layout_of(file: SourceFile, target: TargetTable) -> Layout:
    """The record layout of one file: its own columns that the table has and that can be written."""
    writable = {column.name for column in target.columns if not column.is_generated}
    columns = tuple(name for name in file.carried if name in writable)
    delimiter = file.dialect.delimiter if file.is_copyable or file.is_unquoted else ","
    return Layout(columns, delimiter, is_bare=file.is_bare and columns == file.columns)


def common_layout(files: Sequence[SourceFile], target: TargetTable) -> Layout | None:
    """One layout for all files, or None where they carry different columns: a later file changes only its own."""
    layouts = [layout_of(file, target) for file in files]
    if len({frozenset(layout.columns) for layout in layouts}) != 1:
        return None
    sent = Counter(layout for layout, file in zip(layouts, files, strict=True) if file.is_copyable)
    layout = sent.most_common(1)[0][0] if sent else layouts[0]
    return replace(layout, is_bare=set(layouts) == {layout} and layout.is_bare)  # others are written again


def may_read_once(files: Sequence[SourceFile], target: TargetTable, spec: LoadSpec) -> bool:
    """Whether content that is given several times may be read at one place alone, the last (the first for `ignore`).

    Between two places, other files find the rows of the first one. That shows in the end where they carry other columns
    (a constraint may look at both), where rows meet beyond the key, and where equal keys are spelled in several ways,
    since the key stays as its first writer spells it. A key that the client may compare has one spelling when stored.
    """
    return not rows_meet(spec) and not target.hazards and common_layout(files, target) is not None


def key_types(target: TargetTable) -> list[KeyType]:
    """How the client reads each key part; a type it cannot compare is read as text, for display only."""
    return [key_type(target.column(name)) or KEY_TYPES["text"] for name in target.key]


def order_type(column: Column) -> KeyType | None:
    """How the client orders values of `column`, or None where only the server can."""
    return key_type(column) if column.base_type in ORDERED_TYPES else None


def make_plan(question: Question) -> Plan:
    """Choose a strategy, or check the one asked for. Raises UnsafeStrategyError and TargetError with the reason."""
    spec, target, overlap = question.spec, question.target, question.overlap
    _check_possible(spec, target)
    _check_order(question)
    if not question.files:
        return Plan(Strategy.DETERMINISTIC, ("the table has taken all of these files before",), (), 0, "client")
    sequential = _sequential(question)
    key_path, key_reason = _key_path(question)
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
    obstacles = _obstacles(question, sequential, key_path, key_reason)
    if spec.strategy is Strategy.AUTO:
        strategy, reasons = _choose(question, obstacles, key_reason)
    else:
        strategy, reasons = spec.strategy, [f"{spec.strategy} was requested"]
        if strategy is Strategy.PARTITIONED and key_path == "server" and question.staging_refusal:
            raise UsageError(f"{strategy} is not available here: {key_reason}, and {question.staging_refusal}")
        if obstacle := obstacles.get(strategy):
            if not spec.force or strategy is Strategy.PARTITIONED:
                # `force` may load wrong rows, so no message recommends it.
                raise UnsafeStrategyError(f"{strategy} is not safe here: {obstacle}; choose auto or deterministic")
            reasons.append(f"forced although {obstacle}")
    if strategy is Strategy.PARTITIONED and key_path == "client" and _rows_meet(question):
        if _may_compose(question):
            reasons.append(ROWS_COMPOSED)
        else:
            key_path = "server"
            reasons.append(ROWS_MEET)
    reasons += _about_triggers(target, sequential, strategy)
    lanes = question.lanes or _lanes(strategy, question, key_path)
    distinct, existing = (overlap.distinct_keys, overlap.existing_keys) if overlap else (None, None)
    if target.is_empty and overlap:
        existing = 0
    return Plan(
        strategy=strategy,
        reasons=tuple(reasons),
        lanes=lanes,
        workers=min(_workers(question), len(lanes[0]) if _may_go_ahead(question, lanes) else len(lanes)),
        key_path=key_path,
        overlap=overlap,
        predicted_seconds=predicted,
        predicted_inserts=distinct - existing if distinct is not None and existing is not None else None,
        predicted_updates=existing,
        target_is_empty=target.is_empty,
    )


def competes_across_files(spec: LoadSpec) -> bool:
    """Whether rows of all files compete by the order column before one of them meets the table.

    With `newer`, file by file leaves the same, unless an option of writing lets rows that lose leave something behind.
    """
    return spec.order_by is not None and (spec.conflict_action is ConflictAction.UPDATE or not spec.write.is_plain)


def _about_triggers(target: TargetTable, sequential: Sequence[Hazard], strategy: Strategy) -> list[str]:
    """What row triggers cost, or what they miss."""
    if strategy is Strategy.PARTITIONED and target.forced("judged"):
        return ["row triggers fire once for each key, with the row that wins: they do not see the rows that lose to it"]
    if sequential and all(hazard.kind is HazardKind.ROW_TRIGGER for hazard in sequential):
        return [
            "with --write triggers=once each key would be written once, with the row that wins, by several workers; the triggers "
            "would not see rows that lose, would see one INSERT or UPDATE where files share a key, and a row they refuse fails "
            "the load"
        ]
    return []


def _check_possible(spec: LoadSpec, target: TargetTable) -> None:
    """Refuse what no strategy can do with this table: raises TargetError and UsageError."""
    if refusing := target.forced("refuse"):
        raise TargetError(f"cannot load into {target.qualified_name}: {refusing[0].detail}")
    if target.distribution and spec.undoable:
        raise UsageError(
            f"{target.qualified_name} is distributed by Citus, whose rows do not show which transaction wrote them, so a load "
            "into it cannot be undone; leave --undoable out"
        )
    if spec.conflict_action is ConflictAction.NEWER and not spec.order_by:
        raise UsageError("--on-conflict newer needs --order-by COLUMN to decide which row is newer")


def _check_order(question: Question) -> None:
    """Refuse an order column where it could not decide: raises UsageError."""
    spec = question.spec
    if spec.order_by and spec.conflict_action is ConflictAction.IGNORE:
        raise UsageError(
            "--on-conflict ignore keeps the first row, --order-by the greatest; give one of them, or 'newer'"
        )
    if competes_across_files(spec) and common_layout(question.files, question.target) is None:
        raise UsageError(
            f"--order-by {spec.order_by} picks one whole row per key over all files, but these have different columns; "
            "give them the same columns, or use --on-conflict newer, which updates file by file"
        )


def _sequential(question: Question) -> list[Hazard]:
    carried = {name for file in question.files for name in file.carried}
    return [
        hazard for hazard in question.target.forced("sequential") if not hazard.columns or carried & set(hazard.columns)
    ]


def _key_path(question: Question) -> tuple[Literal["client", "server"], str]:
    """Who may compare keys, and why not the client."""
    if hazards := question.target.forced("server"):
        return "server", f"only the server can compare these keys ({hazards[0].detail})"
    if question.overlap is None:
        return "server", "conflict detection is off"
    if question.overlap.unproven:
        return (
            "server",
            f"{question.overlap.unproven} keys or order values are spelled in a way that only the server can compare",
        )
    return "client", ""


def _obstacles(question: Question, sequential: list[Hazard], key_path: str, key_reason: str) -> dict[Strategy, str]:
    """For each strategy that would not give the sequential result here, why."""
    obstacles: dict[Strategy, str] = {}
    parallel = (Strategy.FULL_PARALLEL, Strategy.HYBRID, Strategy.PARTITIONED)
    if sequential:
        detail = "; ".join(f"{hazard.kind}: {hazard.detail}" for hazard in sequential)
        return dict.fromkeys(parallel, detail)
    if key_path == "server":
        disjoint = (Strategy.FULL_PARALLEL, Strategy.HYBRID)
        obstacles |= dict.fromkeys(disjoint, f"files cannot be proven disjoint: {key_reason}")
        if question.staging_refusal:
            obstacles[Strategy.PARTITIONED] = f"{key_reason}, and {question.staging_refusal}"
    elif question.overlap is not None and question.overlap.shared_keys:
        obstacles[Strategy.FULL_PARALLEL] = (
            f"files overlap: {_sharing(question.overlap)}, and whichever commits last would win"
        )
    if obstacle := _writing_obstacle(question, key_path):
        obstacles.setdefault(Strategy.PARTITIONED, obstacle)
    if common_layout(question.files, question.target) is None:
        obstacles.setdefault(
            Strategy.PARTITIONED, "the files have different columns, so rows cannot be collapsed across files"
        )
    layout = common_layout(question.files, question.target)
    if layout and not question.target.is_empty and (half_read := half_read_checks(question.target, layout)):
        reads = ", ".join(name for name in half_read[0].columns if name not in layout.columns)
        obstacles.setdefault(
            Strategy.PARTITIONED,
            f"{half_read[0].name or 'an expression of the table'} reads columns that are not in the files ({reads}), so "
            "a row that loses to a later file may be refused because of the row in the table",
        )
    if whole := whole_row_checks(question.target):
        obstacles.setdefault(
            Strategy.PARTITIONED,
            f"{whole[0].name} reads the whole row, so a row that loses to a later file cannot be checked without writing it",
        )
    order_by = question.spec.order_by
    if order_by and key_path == "client" and order_type(question.target.column(order_by)) is None:
        kind = question.target.column(order_by).type
        obstacles.setdefault(Strategy.PARTITIONED, f"only the server can order {kind} values")
    return obstacles


def range_obstacle(question: Question) -> str:
    """Why the client cannot collapse these files and divide them into key ranges; empty where it can."""
    key_path, key_reason = _key_path(question)
    sequential = _sequential(question)
    return key_reason or _obstacles(question, sequential, key_path, key_reason).get(Strategy.PARTITIONED, "")


def _writing_obstacle(question: Question, key_path: str) -> str:
    """Why an option of writing needs files to be loaded in order, empty where it does not."""
    spec, overlap = question.spec, question.overlap
    may_share = len(question.files) > 1 and (key_path == "server" or overlap is None or overlap.shared_keys > 0)
    if spec.write.set and not spec.order_by and may_share:
        return "set says which file changed a row last, so files that may share keys are loaded in order"
    if _rows_meet(question) and (reads := _mixed_columns(question)):
        return (
            f"{' and '.join(reads)} of a key may come from different rows, and the table has a rule about them together"
        )
    if _rows_meet(question) and question.staging_refusal and not (key_path == "client" and _may_compose(question)):
        return f"{ROWS_MEET}, and {question.staging_refusal}"
    return ""


def _rows_meet(question: Question) -> bool:
    return rows_meet(question.spec) and (question.overlap is None or question.overlap.has_losers)


def _may_compose(question: Question) -> bool:
    """Whether the client may put rows of one key together: nothing but the rows themselves decides what that leaves."""
    return may_compose(question.spec) and not question.target.hazards


def _mixed_columns(question: Question) -> Sequence[str]:
    """The columns of a CHECK, foreign key or expression that may come from several rows of a key.

    File by file, each row on the way is judged; put together, the last one alone, and as a row to insert.
    """
    spec, target = question.spec, question.target
    if not spec.write.keeps_values:
        return ()
    plain = {column.name: column.reads or (column.name,) for column in target.columns}
    for read in [*(check.columns for check in target.checks), *(key.columns for key in target.foreign_keys)]:
        columns = list(dict.fromkeys(source for name in read for source in plain.get(name, (name,))))
        if count_origins(spec, target, columns) > 1:
            return [name for name in columns if name not in target.key]
    return ()


def _sharing(overlap: KeyOverlap) -> str:
    """Which files share the most keys; if there are too many pairs to count, how many keys are shared."""
    if not overlap.pairs:
        return f"{overlap.shared_keys:,} keys appear in more than one file"
    (left, right), keys = max(overlap.pairs.items(), key=lambda item: item[1])
    return f"{overlap.file_at[left].name} and {overlap.file_at[right].name} share {keys:,} keys"


def _choose(question: Question, obstacles: dict[Strategy, str], key_reason: str) -> tuple[Strategy, list[str]]:
    """The fastest strategy that gives the sequential result, with the reasons in words."""
    overlap = question.overlap
    reasons: list[str] = []
    if overlap is not None:
        reasons.append(_overlap_in_words(overlap))
    if len(question.files) == 1 and (overlap is None or overlap.rows < 50_000):
        return Strategy.DETERMINISTIC, [*reasons, "one small file: one transaction is fastest"]
    if Strategy.PARTITIONED in obstacles:
        reasons.append(f"not partitioned: {obstacles[Strategy.PARTITIONED]}")
        for strategy in (Strategy.FULL_PARALLEL, Strategy.HYBRID):
            if strategy not in obstacles and overlap is not None and len(overlap.groups) > 1:
                return strategy, [
                    *reasons,
                    f"{len(overlap.groups)} groups of files share no keys and are loaded in parallel",
                ]
        return Strategy.DETERMINISTIC, [*reasons, "files are loaded in order, one transaction each"]
    if key_reason:
        reasons.append(key_reason)
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


def _overlap_in_words(overlap: KeyOverlap) -> str:
    if not overlap.shared_keys:
        return f"no key appears in more than one file ({overlap.distinct_keys:,} distinct keys in {len(overlap.files)} files)"
    return (
        f"{overlap.shared_keys:,} of {overlap.distinct_keys:,} keys ({overlap.overlap_ratio:.0%}) appear in more than one file; "
        f"{len(overlap.groups)} group{'s' if len(overlap.groups) != 1 else ''} of files share keys"
    )


def _workers(question: Question) -> int:
    return 1 if question.spec.atomic else question.workers


def _may_go_ahead(question: Question, lanes: Sequence[Sequence[Batch]]) -> bool:
    """Whether files of the one lane may be loaded before their turn: none is known to share keys with each other one."""
    overlap = question.overlap
    return len(lanes) == 1 and not question.target.hazards and (overlap is None or len(overlap.groups) > 1)


def _lanes(strategy: Strategy, question: Question, key_path: str) -> tuple[tuple[Batch, ...], ...]:
    """The batches of a strategy, those of a lane in order."""
    spec, overlap = question.spec, question.overlap
    positions = tuple(file.position for file in question.files)
    if strategy is Strategy.PARTITIONED:
        count = _workers(question)
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
    if competes_across_files(spec):
        # The greatest value over all files wins, so files that share keys must meet before they meet the table.
        return tuple((Batch(number, tuple(group), collapsed=True),) for number, group in enumerate(groups))
    if spec.atomic:
        return ((Batch(0, positions),),)
    return tuple(tuple(Batch(position, (position,)) for position in group) for group in groups)
