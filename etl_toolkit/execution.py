"""A prepared load: it begins in the ledger, the files are loaded, the counts are checked, and it ends in the ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import psycopg2
from psycopg2.sql import SQL, Identifier

from etl_toolkit.errors import (
    AccountingError,
    DatabaseError,
    StoppedError,
    TakenMeanwhileError,
    driver_errors_mapped,
    map_driver_error,
)
from etl_toolkit.loading import ledger
from etl_toolkit.loading.assertions import assert_after_commit
from etl_toolkit.loading.coordinator import Coordinator
from etl_toolkit.loading.failpoints import reach
from etl_toolkit.loading.run import Run
from etl_toolkit.model import Counts, LoadedBefore, RejectedRow
from etl_toolkit.observe import Watch
from etl_toolkit.prepare import Resumed
from etl_toolkit.strategies.lanes import FileCounts, add_up
from etl_toolkit.strategies.mirror import delete_missing, forecast_missing, missing_batch
from etl_toolkit.strategies.refused_rows import check_reject_limit

NOTHING = Counts()


def begin_run(run: Run, resumed: Resumed | None, connection: Any) -> None:
    """Take the lock on the table and record the run as running."""
    ledger.prepare(connection)
    ledger.lock_table(
        connection, run.target.oid, run.target.qualified_name, wait_seconds=run.config.lock_wait_seconds,
        sleep=run.sleep,
        on_wait=lambda holder, seconds: run.tell(
            "waiting", on="another run", blocked_by=holder, seconds=round(seconds, 1)
        ),
    )  # fmt: skip
    run.check()
    if run.spec.write.loaded == "skip" and not resumed:
        contents = [file.content_hash for file in run.files]
        if ledger.taken_files(connection, run.target.oid, contents):
            raise TakenMeanwhileError(f"another run has loaded files of run {run.run_id}; start it again")
    if resumed:
        ledger.resume(connection, resumed.past, run.target, run.files, force=resumed.force)
    else:
        ledger.begin(
            connection, run.run_id, spec=run.spec, plan=run.plan, target=run.target, files=run.files,
            conventions=run.sessions.conventions,
        )  # fmt: skip


def execute_run(
    run: Run, coordinator: Coordinator, watch: Watch, load: Callable[[Run], FileCounts]
) -> tuple[dict[int, Counts], Counts]:
    """Load, check the counts, and close the run in the ledger; return the counts per file, and those of no file."""
    try:
        check_reject_limit(run)
        forecast_missing(run)
        counts = add_up([{file.position: Counts() for file in run.files}, load(run)])
        _check_accounting(run, counts)
        removed = delete_missing(run, sum(counts.values(), Counts()))
        coordinator.do(partial(assert_after_commit, run))
        reach("finishing")
        _close(coordinator, run, "complete", counts, removed=removed, observed=_collect_observations(watch))
    except BaseException as error:
        stopped = _explain_stop(coordinator, run) if run.stop.is_set() else None
        status = "interrupted" if stopped or not isinstance(error, Exception) else "failed"
        words = str(stopped) if stopped else f"{type(error).__name__}: {error}"
        _close(coordinator, run, status, {}, error=words, observed=_collect_observations(watch))
        if stopped:
            raise stopped from None
        if isinstance(error, psycopg2.Error):
            raise map_driver_error(error, doing=f"loading into {run.target.qualified_name}") from None
        raise
    if run.spec.write.analyze and run.files:
        with driver_errors_mapped(doing=f"ANALYZE of {run.target.qualified_name} (run {run.run_id} is complete)"):
            coordinator.do(partial(_analyze, run))
    return counts, removed


def _analyze(run: Run, connection: Any) -> None:
    with run.phases.phase("analyze"), connection.cursor() as cursor:
        cursor.execute(SQL("ANALYZE {}").format(Identifier(run.target.schema, run.target.name)))
    connection.commit()


def _explain_stop(coordinator: Coordinator, run: Run) -> StoppedError:
    """The error of a load that was stopped, with what was committed before."""
    try:
        with run.sessions.sparing(coordinator.connection):
            read = partial(ledger.committed, run_id=run.run_id)
            batches, counts = coordinator.do(read, is_last_word=True)
        done = "nothing was committed"
        if batches:
            done = (
                f"{batches} of {len(run.plan.batches)} batches were committed before ({counts.written:,} rows written)"
            )
    except (psycopg2.Error, DatabaseError):
        counts, done = Counts(), "the server does not answer, so only its ledger shows what was committed before"
    done = "; ".join([*run.sessions.notes, done])
    return StoppedError(
        f"the load into {run.target.qualified_name} was stopped ({run.stop.reason}): {done}; see `etl-toolkit runs`, and "
        f"continue with `etl-toolkit resume {run.run_id}`",
        reason=run.stop.reason, run_id=run.run_id, committed_rows=counts.written,
    )  # fmt: skip


def collect_rejects(run: Run) -> tuple[RejectedRow, ...]:
    """The rejected rows, in the order of the files."""
    return tuple(
        item.named(run.file(item.file).name)
        for _, found in sorted(run.refused.items())
        for item in sorted(found, key=lambda item: item.record)
    )


def add_up_by_name(run: Run, counts: Mapping[int, Counts]) -> dict[str, Counts]:
    """The counts of each file, in order; added up where the same file is loaded at several places."""
    named: dict[str, Counts] = {}
    for position, found in sorted(counts.items()):
        name = run.file(position).name
        named[name] = named.get(name, Counts()) + found
    return named


def count_reverted(run: Run, counts: Mapping[int, Counts]) -> tuple[LoadedBefore, ...]:
    """The files that were loaded before something newer, with how many rows they changed again."""
    changed = {name: count.updated for name, count in add_up_by_name(run, counts).items()}
    return tuple(
        replace(item, turned_back=min(changed.get(item.file, 0), item.newer_rows)) for item in run.plan.loaded_before
    )


def _collect_observations(watch: Watch) -> dict[str, float]:
    """What the doctor checks about this run, and what later plans expect by it."""
    seen = {"seconds": watch.seconds, "memory_peak_ratio": watch.memory_peak_ratio}
    return {name: round(value, 3) for name, value in seen.items() if value is not None}


def _check_accounting(run: Run, counts: Mapping[int, Counts]) -> None:
    """Every row read is accounted for, and as many were read as there were when the file was looked at and scanned."""
    for position, count in counts.items():
        if not count.balances or count.removed:  # a key in no file is no row of one
            raise AccountingError(
                f"{run.file(position).name}: {count.read:,} rows read but {count.accounted:,} accounted for ({asdict(count)}); "
                f"the load into {run.target.qualified_name} is not known to be correct"
            )
    scanned = {file.position: file.rows for file in run.plan.overlap.files} if run.plan.overlap else {}
    for file in run.files:
        read = counts[file.position].read - len(file.malformed)
        for who, seen in (("key scan", scanned.get(file.position)), ("first look", file.records)):
            if seen is not None and read != seen:
                raise AccountingError(
                    f"{file.name}: the {who} saw {seen:,} rows, the load {read:,}; did the file change?"
                )


def _close(
    coordinator: Coordinator, run: Run, status: str, counts: Mapping[int, Counts], *, removed: Counts = NOTHING,
    error: str | None = None, observed: Mapping[str, float],
) -> None:  # fmt: skip
    def record(connection: Any) -> None:
        if status == "complete":
            last = [missing_batch(run)] if removed != NOTHING else []
            ledger.check_committed(connection, run.run_id, [*run.plan.batches, *last])
        if status == "failed":  # no data, but what was found wrong with it
            with connection.cursor() as cursor:
                ledger.record_rejects(
                    cursor, run.run_id, [reject for found in run.refused.values() for reject in found]
                )
        total = sum(counts.values(), removed) if counts else None
        ledger.finish(connection, run.run_id, status=status, counts=total, files=counts, error=error, observed=observed)

    try:
        with run.sessions.sparing(coordinator.connection):
            coordinator.do(record, is_last_word=status != "complete")
    except (psycopg2.Error, DatabaseError) as failure:
        if status != "complete":
            return
        if isinstance(failure, psycopg2.Error):
            raise map_driver_error(failure, doing="recording the end of the run") from None
        raise
