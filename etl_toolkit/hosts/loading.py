"""`load_range`: one key range of all sorted runs into the table, or several of them in one transaction."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from etl_toolkit.hosts.here import Here, at_host
from etl_toolkit.hosts.meeting import role_of, take_over, wait_for_decision
from etl_toolkit.hosts.runs import gather
from etl_toolkit.hosts.tasks import LoadedRange, LoadRange
from etl_toolkit.loading.failpoints import reach
from etl_toolkit.loading.retry import run_with_retry
from etl_toolkit.loading.run import Event, Run
from etl_toolkit.model import Batch, Counts, Plan, Strategy
from etl_toolkit.ranking import collapse, put_in_order
from etl_toolkit.strategies.lanes import add_up, on_retry
from etl_toolkit.strategies.partitioned import whole_range, write_range
from etl_toolkit.strategies.together import load_partitions


def load_range(task: LoadRange) -> LoadedRange:
    """Load the ranges of a task, commit, and return the counts; where the ledger has them already, only return these.

    May run anywhere and more than once: an earlier attempt that is still alive is ended first, and one that has committed
    is found in the ledger. Raises DatabaseError, LedgerError where the run was taken over, StoppedError where the
    coordinator has ended.
    """
    started = time.perf_counter()
    with at_host(task.job) as here:
        run = _begin(task, here)
        counts = run_with_retry(
            partial(_attempt, task, run, set()), here.config, on_retry=on_retry(run, role_of(task)), sleep=run.sleep
        )
        return LoadedRange(
            counts, run.rows_sent(), run.retries, here.name, time.perf_counter() - started, here.phases.as_dict()
        )


def _begin(task: LoadRange, here: Here) -> Run:
    job = task.job
    here.workspace.lock_down([Path(path) for _, path in task.runs])
    plan = Plan(
        Strategy.PARTITIONED, (), tuple((batch,) for batch in task.batches), 1, "client",
        target_is_empty=task.target_is_empty,
    )  # fmt: skip

    def ignore(event: Event) -> None:
        """Discard an event: the coordinator reports what comes back."""

    return Run(
        run_id=job.run_id, spec=job.spec, config=here.config, target=job.target, files=(), plan=plan,
        layout=task.layout, scan=None, workspace=here.workspace, sessions=here.sessions, phases=here.phases,
        notify=ignore, stop=here.stop, refused=dict(task.rejects),
    )  # fmt: skip


def _attempt(task: LoadRange, run: Run, mine: set[int]) -> dict[int, Counts]:
    """Load the ranges in one transaction and commit it, once the coordinator has decided so where it holds."""
    role = role_of(task)
    run.sessions.ask(role, partial(take_over, run_id=run.run_id, role=role, mine=mine))

    def write(cursor: Any, batch: Batch) -> dict[int, Counts]:
        return _write(task, run, cursor, batch)

    loaded = load_partitions(run, role, task.batches, write, task.lost)
    assert loaded is not None
    try:
        if task.holds:
            rows = sum(counts.read for counts in loaded.counts.values())
            with run.phases.phase("commit"):
                wait_for_decision(loaded.connection, run, role, rows=rows)
        with run.sessions.committing([loaded.connection]):
            loaded.connection.commit()
        reach("committed")
        return dict(loaded.counts)
    finally:
        run.sessions.close(loaded.connection)


def _write(task: LoadRange, run: Run, cursor: Any, batch: Batch) -> dict[int, Counts]:
    """Read one range of all runs, let their rows compete, and write the winners."""
    bound = task.bounds[task.batches.index(batch)]
    with run.phases.phase("read"):
        run.scan = gather(task.runs, bound, task.layout, run.spec.key, run.workspace, record_bytes=task.record_bytes)
    with run.phases.phase("collapse"):
        collapse(run.scan, run.workspace, action=run.spec.conflict_action)
    with run.phases.phase("divide"):
        put_in_order(run.scan, run.workspace)
        own = whole_range(run)
        rows = dict(run.workspace.query("SELECT file, count(*) FROM rows GROUP BY file"))
    return add_up([write_range(run, cursor, batch, own), _beaten(rows, own.won.rows)])


def _beaten(rows: Mapping[int, int], won: Mapping[int, int]) -> dict[int, Counts]:
    """The rows that lost to another file."""
    lost = {file: count - won.get(file, 0) for file, count in rows.items()}
    return {file: Counts(read=count, superseded_later_file=count) for file, count in lost.items()}
