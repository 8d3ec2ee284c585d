"""The files that a sweep loads: generated ones, or the user's own with the definition of their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg2

from etl_toolkit import sources
from etl_toolkit.bench import table_definition
from etl_toolkit.bench.cases import planned_cases, workload_of
from etl_toolkit.bench.databases import TABLE
from etl_toolkit.bench.records import Case
from etl_toolkit.bench.sweep_config import SweepConfig
from etl_toolkit.bench.workload import generate, table_sql
from etl_toolkit.errors import UsageError
from etl_toolkit.processor import ConflictAwareProcessor
from etl_toolkit.sources.linking import link_or_copy


@dataclass(frozen=True)
class Files:
    """The files of one workload in load order, the SQL that creates their table, and what a manifest says of them."""

    paths: tuple[str, ...]
    table_sql: str
    size_bytes: int
    summary: Mapping[str, Any]


@dataclass(frozen=True)
class Prepared:
    """The cases of a sweep, their files by `Case.workload`, and the cases that cannot be done, with the reason."""

    cases: list[Case]
    files: dict[str, Files] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def prepare(config: SweepConfig, scratch: Path, dsn: str) -> Prepared:
    """Generate the files of all cases below `scratch`, or look at the user's own."""
    if config.own_files:
        return _own(config, scratch, dsn)
    cases, skipped = planned_cases(config)
    files = {}
    for case in cases:
        if case.workload not in files:
            workload = workload_of(case, config.seed)
            made = generate(scratch / case.workload, workload)
            paths = tuple(map(str, made.files))
            files[case.workload] = Files(paths, table_sql(workload, TABLE), made.size_bytes, made.summary())
    return Prepared(cases, files, skipped)


def _own(config: SweepConfig, scratch: Path, dsn: str) -> Prepared:
    """Describe the user's files: the overlap is the share of the distinct keys that appear in more than one file."""
    if config.own_table is not None:
        with closing(psycopg2.connect(dsn)) as connection:
            create, key = table_definition.of_table(connection, config.own_table, TABLE)
    else:
        if not config.own_key:
            raise UsageError("name the table that the files belong to, or the key columns to infer one (--key)")
        create, key = table_definition.inferred(sources.expand(config.own_files), config.own_key, dsn, TABLE)
    paths = _linked(sources.expand(config.own_files), scratch / "own")
    overlap = ConflictAwareProcessor(dsn).analyze(list(paths), pk_columns=list(key))
    kinds = {"parquet" if path.endswith(".parquet") else "csv" for path in paths}
    kind = kinds.pop() if len(kinds) == 1 else "mixed"
    described = replace(
        config, formats=(kind,), files=(len(paths),), rows=(overlap.rows // len(paths),), keys=("own",), shapes=("base",),
        overlaps=(round(overlap.overlap_ratio, 3),), batch_rows=(), executors=(),
    )  # fmt: skip
    cases, skipped = planned_cases(described)
    cases = [replace(case, rows=overlap.rows) for case in cases]
    size_bytes = sum(Path(path).stat().st_size for path in paths)
    summary = {
        "file_names": [Path(path).name for path in paths],
        "rows_per_file": [file.rows for file in overlap.files],
        "total_rows": overlap.rows,
        "distinct_keys": overlap.distinct_keys,
        "shared_keys": overlap.shared_keys,
        "groups": [list(group) for group in overlap.groups],
        "distinct_keys_per_file": [file.distinct_keys for file in overlap.files],
        "pairs": [[left, right, keys] for (left, right), keys in sorted(overlap.pairs.items())],
        "size_bytes": size_bytes,
    }
    files = Files(paths, create, size_bytes, summary)
    return Prepared(cases, {case.workload: files for case in cases}, skipped)


def _linked(files: Sequence[Any], place: Path) -> tuple[str, ...]:
    """Link to the files from `place`, in order: the floor keeps its sorted parts beside the files that it is given."""
    place.mkdir(parents=True)
    links = []
    for number, name in enumerate(files):
        source = Path(name).resolve()
        link = place / f"{number:04}-{source.name}"
        link_or_copy(source, link)
        links.append(str(link))
    return tuple(links)
