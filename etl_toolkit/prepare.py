"""The steps before the first write: sources, target, scan, overlap, plan. Their result is a `Ready`."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import duckdb
import psycopg2

from etl_toolkit.config import ParallelConfig, available_cores
from etl_toolkit.create import create_missing, marks_only
from etl_toolkit.drift import Change, add_columns, widen_columns
from etl_toolkit.errors import TooManyDeletesError
from etl_toolkit.keys import fold_name
from etl_toolkit.loading.assertions import check_conditions
from etl_toolkit.loading.conventions import conventions_in_words, offsets_at, refuse_lost_nulls
from etl_toolkit.loading.failpoints import reach
from etl_toolkit.loading.judge import forecast
from etl_toolkit.loading.ledger import PastRun, loaded_before, staging_refusal, taken_files
from etl_toolkit.loading.merge import Upsert
from etl_toolkit.loading.naming import own_name
from etl_toolkit.loading.run import Phases, Run
from etl_toolkit.loading.session import Sessions
from etl_toolkit.loading.staging_tables import copy_into, create_staging, staging_table
from etl_toolkit.loading.tombstones import describe_references
from etl_toolkit.loading.upsert import count_present
from etl_toolkit.loading.writable import is_standby
from etl_toolkit.model import (
    Batch,
    ConflictAction,
    Layout,
    LoadedBefore,
    LoadSpec,
    Plan,
    Reject,
    SourceFile,
    Sources,
    Strategy,
    TargetTable,
)
from etl_toolkit.overlap import measure
from etl_toolkit.plan import (
    Question,
    common_layout,
    key_types,
    make_plan,
    match_columns,
    may_read_once,
    order_type,
)
from etl_toolkit.ranking import collapse
from etl_toolkit.scan import KeyScan, scan
from etl_toolkit.sources import (
    UnreadableTextError,
    check_texts,
    check_unchanged,
    escape_name,
    leave_out_taken,
    read_once,
    reading_in_words,
    resolve,
    resource_failure,
    with_offsets,
    without_bad_texts,
)
from etl_toolkit.strategies.couplings import drop_harmless
from etl_toolkit.strategies.lanes import FileCounts
from etl_toolkit.strategies.mirror import check_missing, find_missing, may_compare_here
from etl_toolkit.strategies.suspects import Inquiry
from etl_toolkit.target import fire_once, read_target
from etl_toolkit.workspace import Workspace, open_workspace
from etl_toolkit.write_rules import count_origins, may_compose, relax, spell_write_options

FORECAST_ROWS = 2_000
STANDBY = (
    "the server is a standby, which has no temporary tables, so no rows were tried out: the plan does not show which rows would "
    "change or be refused; load on its primary"
)


@dataclass(frozen=True)
class Ready:
    """A prepared load: everything is known, and nothing has been written."""

    sources: Sources
    files: tuple[SourceFile, ...]
    target: TargetTable
    layout: Layout | None
    scan: KeyScan | None
    spec: LoadSpec  # with key and order column as the table spells them
    plan: Plan
    workspace: Workspace
    refused: dict[int, tuple[Reject, ...]]
    created_sql: str | None = None
    is_standby: bool = False
    load: Callable[[Run], FileCounts] | None = None  # None: as the strategy does


@dataclass(frozen=True)
class Resumed:
    """What a resumed run keeps of its first attempt; an earlier release read all values by its own conventions."""

    past: PastRun
    lanes: tuple[tuple[Batch, ...], ...]
    bounds: list[str] | None
    conventions: Mapping[str, str]
    force: bool


@contextmanager
def resource_failures_told() -> Iterator[None]:
    """Raise SourceError with the remedy where DuckDB runs out of memory or disk, wherever in a load that is."""
    try:
        yield
    except duckdb.Error as error:
        if shortage := resource_failure(error, "the load"):
            raise shortage from None
        raise


@contextmanager
def prepare_load(
    files: Any,
    spec: LoadSpec,
    sessions: Sessions,
    phases: Phases,
    *,
    lanes: tuple[tuple[Batch, ...], ...] | None = None,
    is_trial: bool = False,
) -> Iterator[Ready]:
    """Read files and table, find the overlap, make the plan. `lanes` are those of a run that is resumed.

    A missing table is created if requested; a trial rolls that back.
    """
    config, cores = sessions.config, available_cores()
    with (
        resource_failures_told(),
        open_workspace(
            config, threads=1 if spec.strategy is Strategy.STREAMING else cores, stop=sessions.stop
        ) as workspace,
    ):
        with phases.phase("sources"):
            sources = resolve_files(files, spec, config, workspace, phases)
        with phases.phase("target"):
            look = partial(
                _look_at_table, sources, spec, workspace, sessions, is_resumed=lanes is not None, is_trial=is_trial
            )
            found = sessions.ask("catalog", look)
        spec = found.spec
        created, target, sources, refusal = found.created, found.target, found.sources, found.refusal
        is_changed = created is not None or bool(found.changes)
        before = found.loaded_before
        matched = sources.files
        refuse_lost_nulls(matched, sessions.conventions)
        layout = common_layout(matched, target)
        is_scanned = bool(matched) and config.conflict_detection and spec.strategy is not Strategy.STREAMING
        with phases.phase("read"):
            # Records are read along where DuckDB may come to collapse them, or has to show the server a doubtful key.
            in_order = spec.strategy is Strategy.DETERMINISTIC or target.forced("server") or not is_scanned
            matched, scanned = read_files(
                matched, target, spec, None if in_order else layout, workspace=workspace, is_scanned=is_scanned
            )
        harmless: tuple[str, ...] = ()
        overlap, refused = None, {file.position: file.malformed for file in matched if file.malformed}
        if scanned is not None:
            if layout is not None and scanned.has_records and not (is_changed and is_trial) and not found.is_standby:
                inquiry = Inquiry(scanned, target, layout, workspace, sessions, spec.order_by)
                with phases.phase("rejects"):
                    doubtful = inquiry.doubtful_keys(limit=spec.max_rejects)
                    refused |= {file: (*refused.get(file, ()), *rejects) for file, rejects in doubtful.items()}
                # Put together of several rows, the values of an index on several columns would be others than in the files.
                is_mixed = any(count_origins(spec, target, hazard.columns) > 1 for hazard in target.hazards)
                if target.hazards and spec.strategy is not Strategy.DETERMINISTIC and not (spec.write.set or is_mixed):
                    with phases.phase("target"):
                        target, harmless = drop_harmless(inquiry)
            with phases.phase("collapse"):
                collapse(scanned, workspace, action=spec.conflict_action, is_composed=may_compose(spec))
                overlap = measure(scanned, workspace)
        with phases.phase("plan"):
            plan = make_plan(
                Question(
                    spec,
                    target,
                    matched,
                    overlap,
                    config.workers,
                    cores,
                    config.deterministic_processing,
                    lanes,
                    refusal,
                    config.cost,
                )
            )
        plan = replace(plan, duplicates=sources.duplicates, skipped=sources.skipped, loaded_before=before)
        plan = replace(plan, reasons=(*plan.reasons, *found.references, *harmless))
        plan = replace(plan, added=tuple(name for change in found.changes for name in change.added))
        if is_trial:
            plan = replace(plan, reasons=(*plan.reasons, *_changes_in_words(found, spec)))
        if found.is_standby:
            plan = replace(plan, reasons=(*plan.reasons, STANDBY))
        plan = with_words_on_values(plan, matched, target, sessions.conventions)
        reach("scanned")
        yield Ready(
            sources, matched, target, layout, scanned, spec, plan, workspace, refused,
            created or "; ".join(change.statement for change in found.changes) or None, found.is_standby,
        )  # fmt: skip


def _changes_in_words(found: _Table, spec: LoadSpec) -> list[str]:
    """Say how the table would be created or changed."""
    words = [
        f"columns would be {'added' if change.added else 'widened'}: {change.statement}" for change in found.changes
    ]
    if found.created:
        without = f" (without {mark}, which only marks deleted rows)" if (mark := marks_only(spec)) else ""
        words.append(f"the table does not exist and would be created{without}: {' '.join(found.created.split())}")
    return words


def _marks_in_words(files: Sequence[SourceFile]) -> list[str]:
    """Say of the first file that has such a field that a backslash and N are loaded as they are."""
    return [
        f"{escape_name(file.name)}, line {file.marked_line:,}: a field is \\N, which is loaded as these characters; if it is NULL, "
        "load with --read 'null=\\N'"
        for file in files
        if file.marked_line is not None
    ][:1]


def with_words_on_values(
    plan: Plan, files: tuple[SourceFile, ...], target: TargetTable, conventions: Mapping[str, str]
) -> Plan:
    """The plan with what is said of the values: those that paths carry, and the settings under which texts are read."""
    plan = replace(plan, reasons=(*plan.reasons, *reading_in_words(files), *_marks_in_words(files)))
    if of_paths := sorted({name for file in files for name, _ in file.path_values}):
        reason = f"{', '.join(of_paths)} of a row is what the directory of its file says"
        plan = replace(plan, reasons=(*plan.reasons, reason))
    if words := conventions_in_words(files, target, conventions):
        plan = replace(plan, reasons=(*plan.reasons, words))
    return plan


def read_files(
    files: tuple[SourceFile, ...], target: TargetTable, spec: LoadSpec, layout: Layout | None, *, workspace: Workspace,
    is_scanned: bool = True,
) -> tuple[tuple[SourceFile, ...], KeyScan | None]:  # fmt: skip
    """Scan the keys of the files, with `layout` their records as well, and check that none has changed meanwhile."""
    read = partial(_read, target=target, spec=spec, layout=layout, workspace=workspace, is_scanned=is_scanned)
    return _with_good_texts(files, read, spec, workspace)


def _with_good_texts(
    files: tuple[SourceFile, ...], read: Callable[[tuple[SourceFile, ...]], KeyScan | None], spec: LoadSpec,
    workspace: Workspace,
) -> tuple[tuple[SourceFile, ...], KeyScan | None]:  # fmt: skip
    """Read the files; one with text that is not UTF-8 is read again without the rows that have it, which are rejected."""
    while True:
        try:
            return files, read(files)
        except UnreadableTextError as error:
            bad = next(file for file in files if file.position == error.position)
            good = without_bad_texts(bad, workspace, max_rejects=spec.max_rejects)
            files = tuple(good if file is bad else file for file in files)


def _read(
    files: tuple[SourceFile, ...], *, target: TargetTable, spec: LoadSpec, layout: Layout | None, workspace: Workspace,
    is_scanned: bool,
) -> KeyScan | None:  # fmt: skip
    if layout is None:
        check_texts(files, workspace)  # else they are read along
    if not is_scanned:
        return None
    scanned = _scan(files, target, spec, layout, workspace)
    for file in files:
        check_unchanged(file)
    return scanned


@dataclass(frozen=True)
class _Table:
    """What the catalog says, and the files as they fit it."""

    created: str | None
    target: TargetTable
    spec: LoadSpec
    sources: Sources
    refusal: str
    is_standby: bool
    loaded_before: tuple[LoadedBefore, ...]
    references: Sequence[str] = ()
    changes: Sequence[Change] = ()


def _look_at_table(
    sources: Sources, spec: LoadSpec, workspace: Workspace, sessions: Sessions, connection: Any, *,
    is_resumed: bool, is_trial: bool,
) -> _Table:  # fmt: skip
    created = create_missing(connection, spec, sources.files, workspace) if spec.create_table else None
    target = read_target(connection, spec.table, spec.key)
    added = widened = None
    if spec.write.new_columns == "add" and not created:
        added = add_columns(connection, spec, target, sources.files, workspace)
        target = read_target(connection, spec.table, spec.key) if added else target
    order_by = spec.order_by and fold_name(spec.order_by, (column.name for column in target.columns))
    spec = spell_write_options(replace(spec, key=target.key, order_by=order_by), target)
    if spec.write.widen and not created:
        matched = localize_instants(match_columns(sources.files, target, spec), connection, workspace)
        target, widened = widen_columns(connection, spec, target, matched, workspace, is_trial=is_trial)
        target = read_target(connection, spec.table, spec.key) if widened and not is_trial else target
    changes = [change for change in (added, widened) if change]
    if spec.write.triggers == "once":
        target = fire_once(target)
    sources = replace(
        sources, files=localize_instants(match_columns(sources.files, target, spec), connection, workspace)
    )
    if spec.write.loaded == "skip" and not is_resumed:  # what is resumed is what the ledger lists
        contents = [file.content_hash for file in sources.files]
        taken = {file.content_hash: file for file in taken_files(connection, target.oid, contents)}
        sources = leave_out_taken(sources, taken, workspace)
    target = relax(target, spec, sources.files)
    if not is_resumed and may_read_once(sources.files, target, spec):  # what is resumed is what the ledger lists
        is_first_kept = spec.conflict_action is ConflictAction.IGNORE
        sources = read_once(sources, workspace, is_first_kept=is_first_kept)
    check_conditions(connection, target, spec.write.assertions)
    refusal = staging_refusal(connection)
    if changes and not is_trial:
        sessions.commit(connection, note=f"columns of {target.qualified_name} were added or widened")
    if created and not is_trial:
        # Else the table is gone with the session, and was only needed to be read.
        sessions.commit(connection, note=f"the table {target.qualified_name} was created")
    may_turn_back = not created and not spec.force and spec.conflict_action is ConflictAction.UPDATE
    before = loaded_before(connection, target.oid, sources.files) if may_turn_back else ()
    references: Sequence[str] = ()
    if spec.write.deletes:
        with connection.cursor() as cursor:
            references = describe_references(cursor, target)
    return _Table(created, target, spec, sources, refusal, is_standby(connection), before, references, changes)


def localize_instants(files: tuple[SourceFile, ...], connection: Any, workspace: Workspace) -> tuple[SourceFile, ...]:
    """The files, with the offsets of the session's zone where instants of theirs become local times."""
    with connection.cursor() as cursor:
        return with_offsets(files, workspace, partial(offsets_at, cursor))


def resolve_files(files: Any, spec: LoadSpec, config: ParallelConfig, workspace: Workspace, phases: Phases) -> Sources:
    """Look at the files that are named, under the limits of the configuration."""
    return resolve(
        as_list(files), spec.read, workspace, max_rejects=spec.max_rejects, max_line_bytes=config.max_line_bytes,
        is_composed=may_compose(spec),
        on_look=lambda size, total: phases.tell("looked", bytes=size, total_bytes=total),
    )  # fmt: skip


def _scan(
    files: tuple[SourceFile, ...], target: TargetTable, spec: LoadSpec, layout: Layout | None, workspace: Workspace
) -> KeyScan:
    order = None
    if spec.order_by and (kind := order_type(target.column(spec.order_by))):
        order = (spec.order_by, kind)
    delete = spec.write.delete
    return scan(
        files, spec.key, workspace,
        key_types=key_types(target), layout=layout, order=order, delete=delete, is_composed=may_compose(spec),
    )  # fmt: skip


def forecast_plan(ready: Ready, sessions: Sessions) -> Plan:
    """The plan with predicted inserts, updates and unchanged rows, scaled up from a sample of the rows to load.

    The sample is staged and compared with the table in a transaction that is rolled back.
    """
    if ready.created_sql and not ready.target.is_empty:
        return ready.plan  # columns would be added or widened: a sample would not fit the table as it is
    plan, overlap = _with_missing(ready, sessions), ready.plan.overlap
    if overlap is None or ready.layout is None or ready.scan is None or not ready.scan.has_records:
        return plan
    if ready.is_standby:
        return plan
    if not overlap.distinct_keys:
        return plan
    written, live, dead = ready.spec.write, "keys", 0
    keys = overlap.distinct_keys
    if written.delete:
        live = "(FROM keys WHERE NOT gone)"
        keys = ready.workspace.query(f"SELECT count(*) FROM {live}")[0][0]
        dead = overlap.distinct_keys - keys
        plan = replace(plan, predicted_deletes=_forecast_deletes(ready, sessions, dead))
    if ready.target.is_empty:
        return replace(plan, predicted_unchanged=0, predicted_inserts=keys if written.rows != "update" else 0)
    query = (
        f"SELECT file, {ready.scan.record_sql} FROM rows WHERE {ready.scan.row_sql} IN "
        f"(SELECT winner FROM {live} USING SAMPLE reservoir({FORECAST_ROWS} ROWS) REPEATABLE (1))"
    )
    with ready.scan.with_records(ready.workspace, query) as source:
        sample = source.execute("SELECT file, record FROM found").fetchall()
    data = "".join(f"{file}{ready.layout.delimiter}{record}\n" for file, record in sample)
    layout = ready.layout.with_file(own_name(ready.target, "etl_file"))
    with sessions.session("forecast") as connection, connection.cursor() as cursor:
        cursor.execute(create_staging(ready.target, ready.layout))
        try:
            cursor.copy_expert(copy_into(staging_table(), layout), io.BytesIO(data.encode()))
        except psycopg2.Error:
            return plan  # a bad row in the sample: the load itself will say which
        write = replace(written, delete=None)
        _, differing, same = forecast(cursor, Upsert(ready.target, ready.layout, unique=True, write=write))
    scale = keys / max(1, len(sample))
    updates, unchanged = round(differing * scale), round(same * scale)
    inserts = keys - updates - unchanged if written.rows != "update" else 0
    return replace(plan, predicted_inserts=inserts, predicted_updates=updates, predicted_unchanged=unchanged)


def _with_missing(ready: Ready, sessions: Sessions) -> Plan:
    """The plan with the number of keys that are in no file, where DuckDB can find them."""
    plan, scan = ready.plan, ready.scan
    if (
        ready.spec.write.missing == "keep"
        or ready.target.is_empty
        or not may_compare_here(ready.target, scan, plan.overlap)
    ):
        return plan
    assert scan is not None
    found = find_missing(ready.spec, ready.target, scan, ready.workspace, sessions)
    try:
        check_missing(ready.spec, ready.target, found)
    except TooManyDeletesError as refusal:
        plan = replace(plan, reasons=(*plan.reasons, f"the load would be refused: {refusal}"))
    return replace(plan, predicted_removals=found.keys)


def _forecast_deletes(ready: Ready, sessions: Sessions, dead: int) -> int:
    """How many keys of tombstones the table probably has."""
    if ready.target.is_empty:  # or only would be created
        return 0
    assert ready.scan is not None
    texts = ", ".join(f"{name}::VARCHAR" for name in ready.scan.key_columns)
    query = f"SELECT {texts} FROM (FROM keys WHERE gone) USING SAMPLE reservoir({FORECAST_ROWS} ROWS) REPEATABLE (1)"
    sample = ready.workspace.query(query)
    if not sample:
        return 0
    with sessions.session("forecast") as connection, connection.cursor() as cursor:
        return round(count_present(cursor, ready.target, sample) * dead / len(sample))


def as_list(files: Any) -> list[Any]:
    """One path, glob or frame, or several of them, as a list."""
    is_one = isinstance(files, str | bytes | Mapping) or not isinstance(files, Iterable)
    # An open file yields its lines: it is refused as what it is.
    if is_one or any(hasattr(files, name) for name in ("columns", "schema", "read")):
        return [files]
    return list(files)
