"""The sweep: every case, in rounds, each run in a process of its own with its answer checked, into a run directory.

    run(SweepConfig.quick(), directory="runs/today")  ──►  RunRecord

An interrupted sweep continues when it is run again with the same directory and configuration.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from etl_toolkit.bench import journal, records, run_directory, workloads
from etl_toolkit.bench.cases import main_cases, rounds, schedule
from etl_toolkit.bench.databases import ScratchDatabases, StartingPoint, server_of
from etl_toolkit.bench.measure import Timeline, measure
from etl_toolkit.bench.monitor import INTERVAL_SECONDS, LARGEST_CPU_SHARE
from etl_toolkit.bench.records import PROFILE_ROUND, Case, RunRecord, Sample
from etl_toolkit.bench.statistics import FEWEST_RUNS_FOR_AN_INTERVAL
from etl_toolkit.bench.sweep_config import SweepConfig
from etl_toolkit.bench.writing import write_manifest

CURVE_CPU_SHARE = 0.6  # such a run is not timed


@dataclass(frozen=True)
class Progress:
    """One run is done: the `done`th of `total`, `elapsed_seconds` of `limit_seconds` after this process began to sweep."""

    done: int
    total: int
    elapsed_seconds: float
    limit_seconds: float
    sample: Sample

    def __str__(self) -> str:
        left = self.elapsed_seconds / max(1, self.done) * (self.total - self.done)
        left = min(left, max(0.0, self.limit_seconds - self.elapsed_seconds))
        outcome = f"{self.sample.wall_seconds:.2f} s" if self.sample.correct else f"failed: {self.sample.error}"
        return f"[{self.done}/{self.total}, {left:.0f} s left] {self.sample.case}: {outcome}"


def run(
    config: SweepConfig,
    *,
    directory: Path | str,
    dsn: str | None = None,
    command: Sequence[str] | str = (),
    on_progress: Callable[[Progress], None] | None = None,
) -> RunRecord:
    """Measure what `config` says and write the run directory; continue it when it was interrupted.

    `dsn` names a server where the role may create databases: the sweep works in databases of its own and drops them.
    None starts a temporary server with the `durable` settings. `command`, words or text, goes into the manifest
    without its DSN.
    A KeyboardInterrupt leaves a readable directory with the status `interrupted`, and is raised again.

    Raises:
        UsageError: the directory holds another sweep, or a finished one; the files cannot be read; no role to create
            databases.
    """
    path = Path(directory)
    manifest = run_directory.begin(path, config, command.split() if isinstance(command, str) else command)
    with (
        server_of(dsn, profile="durable") as place,
        tempfile.TemporaryDirectory(prefix="etl_toolkit-bench-") as scratch,
    ):
        databases = ScratchDatabases(place, f"etl_bench_{manifest.run_id[-8:]}_")
        try:
            prepared = workloads.prepare(config, Path(scratch), place)
            manifest = run_directory.described(manifest, prepared, place)
            write_manifest(path, manifest)
            reason = _Sweep(path, config, prepared, databases, on_progress).make_runs()
            manifest = replace(manifest, status="finished", reason=reason)
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt)
            manifest = replace(manifest, status="interrupted" if stopped else "failed")
            if not stopped:
                manifest = replace(manifest, reason=f"{type(error).__name__}: {error}".splitlines()[0])
            raise
        finally:
            run_directory.finish(path, manifest)
            databases.close()
    return records.load(path)


class _Sweep:
    """The loop over all rounds. What the journal holds already is not measured again."""

    def __init__(
        self,
        directory: Path,
        config: SweepConfig,
        prepared: workloads.Prepared,
        databases: ScratchDatabases,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self._directory = directory
        self._config = config
        self._prepared = prepared
        self._databases = databases
        self._on_progress = on_progress
        self._starts: dict[tuple[str, str], StartingPoint] = {}
        self._done = {sample.run_index: sample for sample in journal.samples(directory)}
        self._refused = {sample.case for sample in self._done.values() if sample.is_refusal}
        self._began = time.monotonic()

    def make_runs(self) -> str | None:
        """Make every run that is not in the journal; return why it ended early, None when it did not."""
        cases = self._prepared.cases
        total = len(cases) * len(rounds(self._config))
        reason = None
        for run_index, number, case in schedule(cases, self._config):
            if run_index in self._done or case.name in self._refused:
                continue
            if reason := self._out_of_time(number, case):
                break
            self._keep(*self._one_run(case, run_index, number), total)
        if self._config.curve_readings:
            self._make_curves(total)
        return reason

    def _keep(self, sample: Sample, timeline: Timeline, total: int) -> None:
        journal.keep(self._directory, sample, timeline)
        self._done[sample.run_index] = sample
        if sample.is_refusal:
            self._refused.add(sample.case)
        if self._on_progress is not None:
            elapsed, limit = time.monotonic() - self._began, self._config.time_limit_seconds
            self._on_progress(Progress(len(self._done), total, elapsed, limit, sample))

    def _make_curves(self, first_index: int) -> None:
        """Run each case of the main setting once more, read as often as a curve needs; the time of such a run is not used."""
        seconds: dict[str, list[float]] = {}
        for sample in self._done.values():
            if sample.counts and sample.wall_seconds:
                seconds.setdefault(sample.case, []).append(sample.wall_seconds)
        cases = main_cases([case for case in self._prepared.cases if case.name in seconds])
        for run_index, case in enumerate(cases, first_index):
            if run_index not in self._done:
                interval = statistics.median(seconds[case.name]) / self._config.curve_readings
                self._keep(*self._one_run(case, run_index, PROFILE_ROUND, interval), first_index + len(cases))

    def _out_of_time(self, number: int, case: Case) -> str | None:
        """Say why no further run begins: a case has three runs or none, and a setting begins where it will end in time."""
        elapsed, limit = time.monotonic() - self._began, self._config.time_limit_seconds
        if self._config.order == "rounds":
            late = elapsed > limit and number > FEWEST_RUNS_FOR_AN_INTERVAL
            return f"time limit of {limit:.0f} s reached in round {number} of {self._config.rounds}" if late else None
        measured = {sample.setting for sample in self._done.values()}
        if not measured or case.setting in measured or elapsed * (len(measured) + 1) / len(measured) <= limit:
            return None
        wanted = {case.setting for case in self._prepared.cases}
        return f"out of time after {len(measured)} of {len(wanted)} settings (limit {limit:.0f} s)"

    def _one_run(
        self, case: Case, run_index: int, number: int, curve_interval: float | None = None
    ) -> tuple[Sample, Timeline]:
        files = self._prepared.files[case.workload]
        planned = replace(records.planned(case, run_index=run_index, number=number), input_bytes=files.size_bytes)
        return measure(
            planned,
            files.paths,
            self._databases,
            self._start_of(case),
            log=journal.place(self._directory) / "loaders.log",
            interval_seconds=curve_interval or INTERVAL_SECONDS,
            cpu_share=CURVE_CPU_SHARE if curve_interval else LARGEST_CPU_SHARE,
        )

    def _start_of(self, case: Case) -> StartingPoint:
        which = (case.workload, case.table_state)
        if which not in self._starts:
            files = self._prepared.files[case.workload]
            self._starts[which] = self._databases.prepare(files.table_sql, files.paths, case.table_state)
        return self._starts[which]
