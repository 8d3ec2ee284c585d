"""The steps before the first write: sources, target, scan, overlap, plan. Their result is a `Ready`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import duckdb

from etl_toolkit.columns import common_layout
from etl_toolkit.config import available_cores
from etl_toolkit.loading.conventions import refuse_lost_nulls
from etl_toolkit.loading.failpoints import reach
from etl_toolkit.loading.ledger import PastRun
from etl_toolkit.loading.run import Phases, Run
from etl_toolkit.loading.session import Sessions
from etl_toolkit.model import (
    Batch,
    Layout,
    LoadSpec,
    Plan,
    Reject,
    SourceFile,
    Sources,
    Strategy,
    TargetTable,
)
from etl_toolkit.overlap import measure
from etl_toolkit.plan import Question, make_plan
from etl_toolkit.prepare.looking import look_at_table
from etl_toolkit.prepare.reading import read_files, resolve_files
from etl_toolkit.prepare.words import with_words
from etl_toolkit.ranking import collapse
from etl_toolkit.scan import KeyScan
from etl_toolkit.sources import (
    resource_failure,
)
from etl_toolkit.strategies.couplings import drop_harmless
from etl_toolkit.strategies.lanes import FileCounts
from etl_toolkit.strategies.suspects import Inquiry
from etl_toolkit.workspace import Workspace, open_workspace
from etl_toolkit.write_rules import may_compose


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
def resource_failures_mapped() -> Iterator[None]:
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
        resource_failures_mapped(),
        open_workspace(
            config, threads=1 if spec.strategy is Strategy.STREAMING else cores, stop=sessions.stop
        ) as workspace,
    ):
        with phases.phase("sources"):
            sources = resolve_files(files, spec, config, workspace, phases)
        with phases.phase("target"):
            look = partial(
                look_at_table, sources, spec, workspace, sessions, is_resumed=lanes is not None, is_trial=is_trial
            )
            found = sessions.ask("catalog", look)
        spec, target, matched = found.spec, found.target, found.sources.files
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
            if layout is not None and scanned.store and not found.is_missing and not found.is_standby:
                inquiry = Inquiry(scanned, target, layout, workspace, sessions, spec.order_by)
                with phases.phase("rejects"):
                    doubtful = inquiry.doubtful_keys(limit=spec.max_rejects)
                    refused |= {file: (*refused.get(file, ()), *rejects) for file, rejects in doubtful.items()}
                with phases.phase("target"):
                    target, harmless = drop_harmless(inquiry, spec)
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
                    config.concurrency > 0,
                    config.deterministic_processing,
                    lanes,
                    found.refusal,
                    config.cost,
                )
            )
        plan = with_words(plan, found, matched, harmless, sessions.conventions, is_trial=is_trial)
        reach("scanned")
        yield Ready(
            found.sources, matched, target, layout, scanned, spec, plan, workspace, refused, found.changed_sql,
            found.is_standby,
        )  # fmt: skip
