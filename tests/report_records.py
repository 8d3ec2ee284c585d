"""A made-up run directory for the tests of charts and page: every strategy, every axis, refusals, wrong answers."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from etl_toolkit.bench import analysis
from etl_toolkit.bench.records import TIMELINE_SCHEMA, Case, Sample, planned
from etl_toolkit.bench.workload import Workload
from etl_toolkit.bench.writing import write_json, write_manifest, write_samples, write_table
from etl_toolkit.reporting.report import render
from tests import bench_records as made

SPEED = {
    "auto": 1.0, "partitioned": 1.02, "hybrid": 1.6, "full_parallel": 1.3, "deterministic": 2.0, "streaming": 2.2,
    "sequential": 2.4, "naive_parallel": 1.5, "staged_merge": 1.4, "sorted_copy": 0.5,
}  # fmt: skip
KINDS = {"sequential": "baseline", "naive_parallel": "baseline", "staged_merge": "baseline", "sorted_copy": "floor"}
REFUSAL = "UnsafeStrategyError: files overlap <script>alert('x')</script> /tmp/etl_toolkit-bench-ab12/w/part1.csv"
ROUNDS = 3


def write_run(directory: Path, *, status: str = "finished") -> Path:
    """Write a run directory as a sweep leaves it, all but the journal; numbers by formula, no run behind them."""
    cases = _cases()
    samples = [_sample(case, index, number) for number in range(ROUNDS + 1) for index, case in enumerate(cases)]
    workloads = {case.workload: _workload(case) for case in cases}
    manifest = made.manifest(
        cases, status=status, rounds=ROUNDS, workloads=workloads, versions={"python": "3"}, git_commit="0" * 40,
        server={"version": "18", "is_on_this_machine": True}, pg_settings={"work_mem": "4 MB"},
        monitor={"cpu_share_of_one_core": 0.05, "interval_seconds": 0.1}, skipped={"x": "<b>cannot</b>"},
    )  # fmt: skip
    write_manifest(directory, manifest)
    write_samples(directory, samples)
    write_table(directory / "timeline.parquet", pa.Table.from_pylist(_timeline(samples), TIMELINE_SCHEMA))
    write_json(directory / "report.json", analysis.report(manifest, samples))
    return directory


@cache
def rendered(base: Path) -> tuple[Path, Path]:
    """Write a run and render its page below `base`, once; return run directory and page."""
    run_directory = write_run(base / "made-up-run")
    write_json(run_directory / "demonstrations.json", _demonstrations())
    return run_directory, render(run_directory, base / "made-up-page" / "page.html")


def _demonstrations() -> dict[str, Any]:
    said = [(f"worker {1 + step % 2}", f"UPDATE t SET n = {step}", f"UPDATE {step}") for step in range(5)]
    sent = [{"session": "file 1", "statement": f"SELECT {step}", "copy_bytes": 7 * step} for step in range(3)]
    trial = {"strategy": "auto", "outcome": "right", "detail": "rows: 5", "statements": sent}
    race = {"title": "A race", "what": "Two write.", "seen": "one lost", "happened": True, "prevention": ["all: locks"],
            "steps": [dict(zip(("session", "statement", "outcome"), step, strict=True)) for step in said],
            "trials": [trial]}  # fmt: skip
    return {"version": 1, "made_at": "2026-01-01", "server_version": "18", "races": [race], "strategies": []}


def _cases() -> list[Case]:
    def one(strategy: str, **changes: Any) -> Case:
        return made.case(strategy, kind=KINDS.get(strategy, "ours"), **changes)

    cases = [one(name, overlap=overlap) for overlap in (0.0, 0.5, 1.0) for name in SPEED]
    cases += [one(name, table_state=state) for state in ("half", "unchanged") for name in ("partitioned", "hybrid")]
    cases += [one(name, overlap=0.5, workers=n) for n in (1, 4) for name in ("partitioned", "hybrid", "staged_merge")]
    cases += [one(name, overlap=0.5, format="parquet") for name in ("partitioned", "hybrid")]
    return [case for case in cases if case.strategy != "sorted_copy" or not case.overlap] + [
        one("partitioned", overlap=0.5, is_twin=True)
    ]


def _sample(case: Case, index: int, number: int) -> Sample:
    sample = planned(case, run_index=number * 100 + index, number=number)
    if case.strategy == "full_parallel" and case.overlap:
        return replace(sample, error=REFUSAL)
    wall = SPEED[case.strategy] * (1 - 0.4 * case.overlap) * (1 + 0.02 * number) / case.workers**0.3
    right = not (case.strategy == "naive_parallel" and case.overlap and number != 2)
    phases = {"phase_plan_seconds": 0.1 * wall, "phase_copy_seconds": 0.5 * wall, "phase_merge_seconds": 0.3 * wall}
    ours = case.kind == "ours"
    return replace(
        sample, wall_seconds=wall, rows_per_second=case.rows / wall, mb_per_second=1.0 / wall, correct=right,
        error=None if right else "wrong answer: 4000 rows as after the sequential load, but not with the same values",
        client_cpu_user_seconds=0.4 * wall, client_cpu_system_seconds=0.1 * wall, server_cpu_seconds=0.7 * wall,
        peak_client_pss_bytes=90_000_000, idle_client_pss_bytes=60_000_000, peak_server_pss_bytes=70_000_000,
        wal_bytes=5_000_000, dead_tuples=0, lock_waits=0, deadlocks=0, retries=0 if ours else None,
        chosen_strategy=("partitioned" if case.strategy == "auto" else case.strategy) if ours else None,
        **(phases if ours else {}),
    )  # fmt: skip


def _workload(case: Case) -> dict[str, Any]:
    files = Workload(files=case.files, rows=case.rows // case.files, overlap=case.overlap)
    names = [f"part{number + 1}.csv" for number in range(case.files)]
    return {
        "files": case.files, "rows": files.rows, "overlap": case.overlap, "duplicates_within": 0.0, "file_names": names,
        "total_rows": case.rows, "distinct_keys": files.total_distinct, "shared_keys": files.shared,
    }  # fmt: skip


def _timeline(samples: list[Sample]) -> list[dict[str, Any]]:
    return [
        {
            "run_index": sample.run_index, "case": sample.case, "strategy": sample.strategy, "round": sample.round,
            "at_seconds": (sample.wall_seconds or 0) * step / 3, "client_cpu_cores": 0.5 if step else None,
            "server_cpu_cores": 0.8 if step else None, "client_pss_bytes": 60_000_000 + 10_000_000 * step,
            "server_pss_bytes": 70_000_000,
        }
        for sample in samples
        if sample.wall_seconds
        for step in range(4)
    ]  # fmt: skip
