"""Everything that can be measured, under one signature: `load(files, dsn, table, workers)`.

Ours go through `ingest`, as a user's load does, and return the fields of a sample that only they know; the baselines are
plain psycopg2; the peers are other people's loaders, skipped with a reason where they do not install or cannot do the job.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg2

from etl_toolkit.bench import baselines, external, input_files
from etl_toolkit.bench.records import PHASES, STRATEGIES, Case, Kind
from etl_toolkit.errors import AccountingError, UsageError
from etl_toolkit.model import Strategy

Load = Callable[[Sequence[str], str, str, int], Mapping[str, Any] | None]


@dataclass(frozen=True)
class Contender:
    """One way to load. `prepare` runs before the clock starts and may hand `load` other files.

    `inserts_only` says that it cannot update: it is measured where no key comes twice. `collapsed` says that its files
    bring every key once. It needs `modules`; `missing` gives any other reason why it cannot run here.
    """

    name: str
    kind: Kind
    load: Load
    prepare: Callable[[Sequence[str], str, str, int], list[str]] | None = None
    inserts_only: bool = False
    collapsed: bool = False
    is_slow: bool = False
    modules: Sequence[str] = ()
    missing: Callable[[], str | None] = lambda: None

    def absence(self) -> str | None:
        """Say why this contender cannot run here, None when it can; what it needs is in this process afterwards."""
        for name in self.modules:
            try:
                import_module(name)
            except ImportError:
                return f"{name} is not installed; pip install {name}"
        return self.missing()

    def refusal(self, case: Case) -> str | None:
        """Say why this contender cannot do `case`; None when it can."""
        if case.executor.startswith("dask") and not find_spec("distributed"):
            return f"{case.executor} needs Dask: pip install 'etl-toolkit[cluster]'"
        if self.inserts_only and case.table_state != "empty":
            return f"{self.name} cannot update rows"
        if self.inserts_only and not self.collapsed and case.overlap:
            return f"{self.name} cannot update rows, and the files share keys"
        return None


def find(name: str) -> Contender:
    """Return the contender of that name."""
    if name not in CONTENDERS:
        raise UsageError(f"unknown contender {name!r}; choose from {', '.join(CONTENDERS)}")
    return CONTENDERS[name]


@contextmanager
def configured(name: str, dsn: str, *, batch_rows: int | None, executor: str) -> Iterator[Contender]:
    """The contender of that name; one of ours with so many rows per batch (None: the default), and loading elsewhere.

    `executor` is what `ingest` takes, "" for nothing, or `dask:N`: a cluster of N workers that is there before the clock starts.
    """
    contender = find(name)
    if absence := contender.absence():
        raise UsageError(absence)
    if contender.kind != "ours":
        yield contender
        return
    kind, _, count = executor.partition(":")
    with _dask(int(count), dsn) if kind == "dask" else nullcontext(executor or None) as place:
        yield replace(contender, load=partial(_ingest, Strategy(name), batch_rows=batch_rows, executor=place))


@contextmanager
def _dask(workers: int, dsn: str) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    os.environ["ETL_DSN"] = dsn  # a worker has it from its own environment, and this process is for one run
    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,  # type: ignore[no-untyped-call]
        Client(cluster) as client,  # type: ignore[no-untyped-call]
    ):
        client.run(import_module, "etl_toolkit.hosts.loading")
        yield client


def _ingest(
    strategy: Strategy, files: Sequence[str], dsn: str, table: str, workers: int, *, batch_rows: int | None = None,
    executor: Any = None,
) -> dict[str, Any]:  # fmt: skip
    from etl_toolkit import ParallelConfig, ingest

    config = ParallelConfig(concurrency=workers)
    if executor:
        config = replace(config, exchange=str(Path(files[0]).parent))
    if batch_rows is not None:
        config = replace(config, chunk_size=batch_rows)
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        key = list(baselines.primary_key(cursor, table))
    result = ingest(
        list(files),
        table=table,
        key=key,
        dsn=dsn,
        strategy=strategy.value,
        config=config,
        executor=executor,
        progress=False,
    )
    if not result:
        raise AccountingError("the load did not complete, or its counts do not add up")
    phases = dict.fromkeys(PHASES, 0.0)
    for name, seconds in result.phases.items():
        phases[PHASE_OF.get(name, "other")] += seconds
    return {f"phase_{name}_seconds": seconds for name, seconds in phases.items()} | {
        "retries": result.retries,
        "chosen_strategy": str(result.strategy),
        "predicted_seconds": result.plan.predicted_seconds.get(result.strategy),
    }


def _prepare_floor(files: Sequence[str], dsn: str, table: str, workers: int) -> list[str]:
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        return input_files.sorted_parts(files, baselines.primary_key(cursor, table), workers)


# A load names its phases more finely than a chart has room for.
PHASE_OF = {
    "sources": "plan",
    "target": "plan",
    "plan": "plan",
    "read": "read",
    "collapse": "sort",
    "compare": "read",
    "divide": "sort",
    "copy": "copy",
    "merge": "merge",
    "commit": "commit",
}

# Staging + DISTINCT ON + ON CONFLICT, file by file; the same for all files at once, which is a race; parallel COPY to unlogged
# staging tables, then one merge. The floor is a COPY of sorted, split files without duplicates.
_ALL = [
    *(Contender(str(name), "ours", partial(_ingest, name)) for name in STRATEGIES),
    Contender("sequential", "baseline", baselines.sequential),
    Contender("naive_parallel", "baseline", baselines.naive_parallel),
    Contender("staged_merge", "baseline", baselines.staged_merge),
    Contender("sorted_copy", "floor", baselines.sorted_copy, prepare=_prepare_floor, inserts_only=True, collapsed=True),
    Contender("duckdb_postgres", "peer", external.duckdb_postgres, missing=external.duckdb_postgres_missing),
    Contender("dlt", "peer", external.dlt_upsert, modules=("dlt",)),
    Contender(
        "pandas", "peer", external.pandas_to_sql, inserts_only=True, is_slow=True, modules=("pandas", "sqlalchemy")
    ),
]
CONTENDERS: Mapping[str, Contender] = {contender.name: contender for contender in _ALL}
