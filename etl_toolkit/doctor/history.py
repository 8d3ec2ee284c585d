"""Checks of how loads are set up and how the last ones went: conflict detection, error handling, baseline and SLA."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from etl_toolkit.doctor.patient import Patient
from etl_toolkit.doctor.report import Finding, passed, unproven, verdict
from etl_toolkit.errors import LedgerError
from etl_toolkit.loading import ledger
from etl_toolkit.loading.ledger import PastRun
from etl_toolkit.model import TargetTable
from etl_toolkit.observe.jsonlog import without_values

BASELINE_RUNS = 20
SLOW_RATIO = 0.5
SHORT_SECONDS = 5.0  # the time of a shorter run says nothing
MANY_REJECTS = 100_000


def check_conflict_detection(patient: Patient, target: TargetTable | None) -> Iterator[Finding]:
    """Off is a choice; off where files are known to share keys is a mistake."""
    if patient.config.conflict_detection:
        yield passed("conflict detection", "on")
        return
    overlapping = [run for run in _runs(patient, target) if (run.counts or {}).get("superseded_later_file")]
    advice = "set conflict_detection = true; without it, files are loaded in order or through staging tables"
    if overlapping:
        words = f"off, although files shared keys in run {overlapping[0].run_id} and {len(overlapping) - 1} others"
        yield verdict("conflict detection", words, fails=True, advice=advice)
    else:
        words = "off; no past run is known to have had shared keys"
        yield verdict("conflict detection", words, warns=True, advice=advice)


def check_error_handling(patient: Patient) -> Iterator[Finding]:
    """Retries, limits on waiting, and how many rows may be rejected."""
    config = patient.config
    words = f"{config.retry_attempts} attempts within {config.retry_budget_seconds:g} s"
    advice = "set retry_attempts to 3 or more: one deadlock or lost connection fails the whole load otherwise"
    yield verdict("retries", words, fails=config.retry_attempts < 2 or not config.retry_budget_seconds, advice=advice)
    limit = config.lock_timeout_seconds
    words = f"{limit:g} s" if limit else "none"
    advice = "set lock_timeout_seconds: a blocked load waits forever, and other sessions queue behind it"
    yield verdict("lock timeout", words, fails=not limit, advice=advice)
    allowed = patient.max_rejects
    words = f"{allowed:,} rows of a load may be rejected" if allowed else "0: the first bad row fails its file"
    advice = "lower --max-rejects: a load of a file in the wrong format would succeed with every row rejected"
    yield verdict("reject limit", words, warns=allowed >= MANY_REJECTS, advice=advice)


def check_ledger(patient: Patient) -> Iterator[Finding]:
    """Whether the ledger is there, and of our version; a load makes it where it may."""
    try:
        ledger.check_version(patient.connection)
    except LedgerError as error:
        advice = "until then, this release cannot load, resume or undo"
        yield verdict("ledger", str(error), fails=True, advice=advice)
        return
    (exists,) = patient.row("SELECT pg_catalog.to_regclass('etl_toolkit.before_images') IS NOT NULL")
    if not exists:
        advice = "an administrator may run what `etl-toolkit db grants ROLE` prints"
        yield unproven(
            "ledger", "does not exist yet; the first load creates it if the role may create a schema", advice
        )
        return
    unfinished = [run.run_id for run in ledger.past_runs(patient.connection, limit=100) if run.status == "interrupted"]
    words = f"exists; {len(unfinished)} interrupted runs" + (f", the latest {unfinished[0]}" if unfinished else "")
    advice = "`etl-toolkit resume RUN` continues a run; loading the same files again supersedes it"
    yield verdict("ledger", words, warns=bool(unfinished), advice=advice)


def check_memory_of_loads(patient: Patient, target: TargetTable) -> Iterator[Finding]:
    """How near the last loads came to the memory limit of where they ran: whatever used it, not only they."""
    seen = [(run.run_id, ratio) for run in _runs(patient, target) if (ratio := run.plan.get("memory_peak_ratio"))]
    limit = patient.config.memory_alert_ratio
    if not seen:
        yield unproven("memory of loads", "no run on this table has recorded it", "load once")
        return
    (last, ratio), largest = seen[0], max(ratio for _, ratio in seen)
    words = f"{ratio:.0%} of the limit in use in run {last}, {largest:.0%} at most in the last {len(seen)}; alert at {limit:.0%}"
    advice = "lower memory_limit_bytes or concurrency, or give the load a machine or cgroup of its own"
    yield verdict("memory of loads", words, fails=ratio > limit, warns=largest > limit, advice=advice)


def check_baseline(patient: Patient, target: TargetTable) -> Iterator[Finding]:
    """The last run against the SLA, where one is set, and against the runs before it."""
    runs = _runs(patient, target)
    complete = [run for run in runs if run.status == "complete" and run.counts and run.finished_at]
    if runs and runs[0].status == "failed":
        advice = "see `etl-toolkit runs`, fix the cause and load again"
        reason = without_values(runs[0].error or "no reason is known")
        yield verdict("last run", f"{runs[0].run_id} failed: {reason}", fails=True, advice=advice)
    elif runs:
        yield passed("last run", f"{runs[0].run_id} is {runs[0].status}")
    if not complete:
        advice = "load once, or measure with `etl-toolkit bench`; then set sla_seconds in the configuration"
        yield unproven("baseline", "no run on this table is complete", advice)
        return
    last, earlier = complete[0], complete[1:]
    took, promised = _seconds(last), patient.config.sla_seconds
    if promised:
        words = f"the last run took {took:.1f} s of the {promised:g} s allowed"
        yield verdict("SLA", words, fails=took > promised, advice="see where the time went: phases in the JSON log")
    else:
        words = f"sla_seconds is not set; the last run took {took:.1f} s"
        yield unproven("SLA", words, "set sla_seconds in the configuration")
    if len(earlier) < 3:
        yield unproven("baseline", f"{len(complete)} complete runs; 4 are needed for a comparison")
        return
    usual, now = median(_speed(run) for run in earlier), _speed(last)
    words = f"{now:,.0f} rows/s in the last run, {usual:,.0f} in the median of {len(earlier)} before it"
    advice = "smaller files are slower per row; otherwise look for lock waits, missing statistics, a larger table or another plan"
    is_slow = took >= SHORT_SECONDS and now < SLOW_RATIO * usual
    yield verdict("baseline", words, warns=is_slow, advice=advice)


def _runs(patient: Patient, target: TargetTable | None) -> list[PastRun]:
    """The latest runs into the table, or into any where none is named."""
    name = target.qualified_name if target else None
    return ledger.past_runs(patient.connection, target=name, limit=BASELINE_RUNS)


def _seconds(run: PastRun) -> float:
    return (run.finished_at - run.started_at).total_seconds() if run.finished_at else 0.0


def _speed(run: PastRun) -> float:
    return (run.counts or {}).get("read", 0) / max(_seconds(run), 1e-3)
