"""The record of one sweep: an immutable, versioned run directory, written by `sweep`, read by charts and notebooks.

    <run directory>/
    ├── manifest.json      how it was measured (`Manifest`): command, seed, git commit, versions, machine,
    │                      server settings that are not the default, cases, cost of the monitor, status
    ├── samples.parquet    one row per run (`Sample`, `SAMPLE_SCHEMA`), warm-ups and failed runs included
    ├── timeline.parquet   many rows per run: CPU, memory, I/O, WAL and lock waits over time (`TIMELINE_SCHEMA`)
    ├── report.json        metrics per case, summary per strategy, recommendations with evidence (`analysis.report`)
    ├── recommended.toml   the recommendation as a file that `etl-toolkit ingest --config` takes
    ├── demonstrations.json  races made to happen and the SQL of each strategy (`reporting.demonstrations`)
    ├── executed/          notebooks that were run over this directory, with their outputs (`reporting.notebooks`)
    └── journal/           while the sweep runs: a file per finished run, sample and timeline; gone at the end

`report.json` is one object:
    version, run_id, status
    finding            one sentence
    shapes[]           the settings measured most, a line per overlap and table state: {case, strategy, shape, summary, overlap,
                        table_state, rows_per_second: I, against (case), plain_way (its strategy), plain_rows_per_second: I,
                        wrong[] (plain ways that left other rows), ratio: I, speed_up: I (time of the plain way over ours:
                        below 1 we are slower), cpu_speed_up (the same of CPU seconds, client and server), verdict, runs, middle}
    by_shape[]         such lines of every shape of table and files, the worst first; empty where the sweep has one shape
    noise              the same strategy twice: {case, ratio: I, verdict, runs}; null when there was no such case
    cases[]            {case, setting, strategy, kind, is_twin, format, files, rows, overlap, table_state, workers, key,
                        shape, batch_rows, executor, runs, failures, errors[], spread, is_unstable, chosen_strategy,
                        wall_seconds: I, rows_per_second: I, mb_per_second: I, client_cpu_seconds, server_cpu_seconds,
                        peak_client_pss_bytes, peak_server_pss_bytes, wal_bytes, dead_tuples, lock_waits, deadlocks,
                        retries, phases: {name: seconds}, predicted_seconds,
                        ratio_to_best, is_among_fastest}
    strategies[]       {strategy, kind, cases, wins (among the fastest), failures, mean_ratio_to_best,
                        worst_ratio_to_best, best_rows_per_second, peak_client_pss_bytes, peak_server_pss_bytes}
    recommendations[]  {when: {overlap: [low, high], rows: [low, high], table_state}, then: {strategy, workers,
                        batch_rows (of streaming)}, because,
                        evidence: [{case, seconds: I, against, ratio: I, verdict, runs}]}
    undecided[]        the same, for rules that the evidence speaks against
    cost               {coefficients: {name: value}, error_before, error_after, runs, left_out: {error, low, high}}: the
                       planner's cost model, fitted; errors as median of |predicted / measured - 1|; null when there were
                       too few runs. `left_out` is for settings it was not fitted to, `low` and `high` the multiples of the
                       predicted time between which 95% of their loads were; null when there were too few settings
I is {median, low, high}: a median and its 95% bootstrap interval. A ratio is time / time of the other, paired by
round: below 1 is faster. A case without a correct run has null metrics, and its `errors` say why.

Units are in the names. `overlap` and `spread` run from 0 to 1, `mb_per_second` counts 10^6 bytes of input files.
null is "not available" (a remote server, another system than Linux), never zero.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from etl_toolkit.bench.statistics import interval_words
from etl_toolkit.errors import UsageError
from etl_toolkit.model import Strategy
from etl_toolkit.tables import Lines, tabulate, to_html

RECORD_VERSION = 1

# In the order in which they are listed everywhere.
STRATEGIES = (
    Strategy.AUTO,
    Strategy.PARTITIONED,
    Strategy.HYBRID,
    Strategy.FULL_PARALLEL,
    Strategy.DETERMINISTIC,
    Strategy.STREAMING,
)
Kind = Literal["ours", "baseline", "peer", "floor"]
TableState = Literal["empty", "half", "tenth", "rewritten", "unchanged"]
Status = Literal["running", "finished", "interrupted", "failed"]
PROFILE_ROUND = -1
PHASES = ("plan", "read", "sort", "copy", "merge", "commit", "other")


@dataclass(frozen=True)
class Case:
    """One point of the sweep. `rows` counts the rows of all files together, `overlap` runs from 0 to 1.

    `table_state` before the run: `empty`; `half` (every second key is there, with other values); `tenth` (every key, every
    tenth with other values); `rewritten` (every key, other values); `unchanged` (every key, the values that the load ends
    with). `shape` is what table and files look like (`bench.shapes`), `executor` where they are loaded ("": in one
    process). `is_twin` marks the second half of the A/A case: the same strategy in the same setting, measured as if it were
    another.
    """

    strategy: str
    kind: Kind
    format: str
    files: int
    rows: int
    overlap: float
    table_state: TableState
    workers: int
    key: str = "bigint"
    batch_rows: int | None = None
    is_twin: bool = False
    shape: str = "base"
    executor: str = ""

    @property
    def workload(self) -> str:
        """The files of the case, in words that serve as a file name."""
        shape = "" if self.shape == "base" else f"-{self.shape}"
        return (
            f"{self.format}-{self.files}x{self.rows // max(self.files, 1)}-ov{self.overlap * 100:g}-{self.key}{shape}"
        )

    @property
    def setting(self) -> str:
        """Everything but the strategy: cases of one setting can be compared."""
        batch = f"-b{self.batch_rows}" if self.batch_rows else ""
        executor = f"-{self.executor.replace(':', '')}" if self.executor else ""
        return f"{self.workload}-{self.table_state}-w{self.workers}{batch}{executor}"

    @property
    def name(self) -> str:
        """The name of the case, unique in a sweep."""
        return f"{self.setting}/{self.strategy}{'#twin' if self.is_twin else ''}"


@dataclass(frozen=True)
class Sample:
    """One run of one case. Fields that are None were not available, or the run failed before they were known.

    `correct` says that the table ended as the sequential load leaves it; only then does the time count. `round` 0 is
    the warm-up, `PROFILE_ROUND` a run for the curves, which counts as little. `lock_waits` counts the waits that the
    monitor saw: shorter ones than its interval may be missing.
    """

    run_index: int
    case: str
    setting: str
    strategy: str
    kind: str
    format: str
    files: int
    rows: int
    overlap: float
    table_state: str
    workers: int
    key: str
    batch_rows: int | None
    is_twin: bool
    round: int
    is_warm_up: bool
    correct: bool
    shape: str = "base"
    executor: str = ""
    error: str | None = None
    wall_seconds: float | None = None
    rows_per_second: float | None = None
    mb_per_second: float | None = None
    input_bytes: int | None = None
    client_cpu_user_seconds: float | None = None
    client_cpu_system_seconds: float | None = None
    server_cpu_seconds: float | None = None
    peak_client_pss_bytes: int | None = None
    idle_client_pss_bytes: int | None = None
    peak_server_pss_bytes: int | None = None
    client_read_bytes: int | None = None
    client_written_bytes: int | None = None
    server_read_bytes: int | None = None
    server_written_bytes: int | None = None
    wal_bytes: int | None = None
    dead_tuples: int | None = None
    rows_inserted: int | None = None
    rows_updated: int | None = None
    lock_waits: int | None = None
    deadlocks: int | None = None
    retries: int | None = None
    chosen_strategy: str | None = None
    predicted_seconds: float | None = None
    phase_plan_seconds: float | None = None
    phase_read_seconds: float | None = None
    phase_sort_seconds: float | None = None
    phase_copy_seconds: float | None = None
    phase_merge_seconds: float | None = None
    phase_commit_seconds: float | None = None
    phase_other_seconds: float | None = None

    @property
    def is_profile(self) -> bool:
        """Whether this run was made for the curves of memory and CPU: it is read often, and not timed."""
        return self.round == PROFILE_ROUND

    @property
    def counts(self) -> bool:
        """Whether the time of this run may be used: a measured run with the right answer."""
        return self.correct and not self.is_warm_up

    @property
    def is_refusal(self) -> bool:
        """Whether the strategy declined the case, as it would every time."""
        return self.error is not None and self.error.startswith(("UnsafeStrategyError", "UsageError"))


_ARROW_TYPES = {"int": pa.int64(), "float": pa.float64(), "str": pa.string(), "bool": pa.bool_()}

SAMPLE_SCHEMA = pa.schema(
    [
        pa.field(item.name, _ARROW_TYPES[str(item.type).split(" ")[0]], nullable="None" in str(item.type))
        for item in fields(Sample)
    ]
)

# Cumulative byte counts start at zero with the run; `…_cpu_cores` is CPU time over wall time since the row before.
_OF_RUN = {
    "run_index": pa.int64(),
    "case": pa.string(),
    "strategy": pa.string(),
    "round": pa.int64(),
    "at_seconds": pa.float64(),
}
_CORES = ("client_cpu_cores", "server_cpu_cores")
_COUNTS = ("client_pss_bytes", "server_pss_bytes", "client_read_bytes", "client_written_bytes", "server_read_bytes",
           "server_written_bytes", "wal_bytes", "lock_waiting")  # fmt: skip
TIMELINE_SCHEMA = pa.schema(
    [pa.field(name, kind, nullable=False) for name, kind in _OF_RUN.items()]
    + [pa.field(name, pa.float64()) for name in _CORES]
    + [pa.field(name, pa.int64()) for name in _COUNTS]
)


@dataclass(frozen=True)
class Manifest:
    """How a sweep was measured. `machine` has a `fingerprint`: only runs with the same one can be compared.

    `notebooks` says of each notebook that was run over the directory how that went: {status, error, wall_seconds}.
    """

    run_id: str
    command: str
    seed: int
    status: Status
    started_at: str
    finished_at: str | None = None
    reason: str | None = None
    git_commit: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    server: Mapping[str, Any] = field(default_factory=dict)
    pg_settings: Mapping[str, str] = field(default_factory=dict)
    monitor: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    workloads: Mapping[str, Any] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    cases: tuple[str, ...] = ()
    rounds: int = 0
    notebooks: Mapping[str, Any] = field(default_factory=dict)
    version: int = RECORD_VERSION


@dataclass(frozen=True)
class RunRecord:
    """A run directory, read. `timeline` is an Arrow table of `TIMELINE_SCHEMA`, `report` the object described above."""

    directory: Path
    manifest: Manifest
    samples: tuple[Sample, ...]
    timeline: pa.Table
    report: Mapping[str, Any]

    def _repr_html_(self) -> str:
        columns = {
            "case": lambda case: case["case"],
            "seconds, median (95% interval)": lambda case: interval_words(case["wall_seconds"]),
            "runs": lambda case: case["runs"],
            "failed": lambda case: case["failures"],
        }
        cases = tabulate("Cases", self.report.get("cases", []), columns)
        title = f"{self.manifest.run_id}: {self.manifest.status}"
        return to_html([Lines(title, [str(self.report.get("finding", ""))]), cases])


def load(directory: Path | str) -> RunRecord:
    """Read a run directory; of one that was interrupted, what there is.

    Raises:
        UsageError: not a run directory, or one of a newer version of this package.
    """
    path = Path(directory)
    manifest = load_manifest(path)
    samples: tuple[Sample, ...] = ()
    if (path / "samples.parquet").exists():
        samples = tuple(Sample(**row) for row in pq.read_table(path / "samples.parquet").to_pylist())
    timeline = TIMELINE_SCHEMA.empty_table()
    if (path / "timeline.parquet").exists():
        timeline = pq.read_table(path / "timeline.parquet")
    report = json.loads((path / "report.json").read_text()) if (path / "report.json").exists() else {}
    return RunRecord(path, manifest, samples, timeline, report)


def load_manifest(directory: Path) -> Manifest:
    """Read `manifest.json` alone."""
    try:
        values = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{str(directory)!r} is not a run directory: it has no manifest.json") from None
    version = values.get("version")
    if version != RECORD_VERSION:
        raise UsageError(
            f"{str(directory)!r} is a record of version {version}, this is {RECORD_VERSION}; "
            "use the etl-toolkit that wrote it, or run the sweep again"
        )
    return Manifest(**values | {"cases": tuple(values["cases"])})


def planned(case: Case, *, run_index: int, number: int) -> Sample:
    """Return the sample of a run that has not been made: not correct, nothing measured."""
    shared = {item.name: getattr(case, item.name) for item in fields(Case)}
    return Sample(
        run_index=run_index, case=case.name, setting=case.setting, round=number, is_warm_up=number <= 0, correct=False,
        **shared,
    )  # fmt: skip
