"""`partitioned`: rows collapsed across files, then disjoint key ranges side by side, each loaded in key order.

Where DuckDB can compare the keys it collapses and sorts, and each key is sent once. Where only the server can, see
`hashed`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg2

from etl_toolkit.errors import map_driver_error
from etl_toolkit.loading import ledger
from etl_toolkit.loading.copy import copy_records, is_row_error
from etl_toolkit.loading.failpoints import reach
from etl_toolkit.loading.merge import Merged, Upsert, copy_into, create_staging, drop_staging, staging_table
from etl_toolkit.loading.run import Run
from etl_toolkit.loading.tripwire import own_rivals
from etl_toolkit.loading.upsert import merge
from etl_toolkit.model import Batch, ConflictAction, Counts, Layout
from etl_toolkit.overlap import PROVEN, collapse, distinct_keys
from etl_toolkit.strategies.compare import set_unchanged_apart
from etl_toolkit.strategies.direct import copy_absent
from etl_toolkit.strategies.hashed import load_hashed
from etl_toolkit.strategies.lanes import add_up
from etl_toolkit.strategies.suspects import RefusedLosersError, check_all, check_losers, has_losers
from etl_toolkit.strategies.together import load_together
from etl_toolkit.workspace import Workspace, literal

SAMPLE_KEYS = 20_000
UNEVEN = 1.2  # a range this many times as large as its share, and a worker would wait for another


@dataclass(frozen=True)
class Division:
    """How the rows are divided: per key range the relation of the rows to send (a FROM and WHERE), and their number per file.

    `won` are the winners per file: those that are not sent stand in the table as they are.
    """

    chosen: Sequence[str]
    rows: Sequence[Mapping[int, int]]
    won: Sequence[Mapping[int, int]]


def load_partitioned(run: Run) -> dict[int, Counts]:
    """Load all partitions and commit them together; return the counts per file."""
    doing = f"loading into {run.target.qualified_name}"
    if run.plan.key_path == "server":
        return load_hashed(run)
    assert run.scan is not None
    try:
        # Looked at while the others load: few loads have a bad row among those that lose, and the others lose no time.
        return _load_ranges(run, meanwhile=partial(check_losers, run) if has_losers(run.workspace) else None)
    except RefusedLosersError:
        check_all(run)
    except psycopg2.Error as error:
        if not is_row_error(error) or not check_all(run):
            raise map_driver_error(error, doing=doing) from None
    run.failed.clear()
    with run.phases.phase("collapse"):
        collapse(run.scan, run.workspace, action=run.spec.conflict_action)
    try:
        return _load_ranges(run)
    except psycopg2.Error as error:
        raise map_driver_error(error, doing=doing) from None


def _load_ranges(run: Run, *, meanwhile: Callable[[], None] | None = None) -> dict[int, Counts]:
    compared = set_unchanged_apart(run)
    with run.phases.phase("divide"):
        if run.bounds is None:
            run.bounds = partition_bounds(run, len(run.plan.batches))
            with run.sessions.session("ledger") as connection:
                ledger.pin_bounds(connection, run.run_id, run.bounds)
        division = _divide(run, compared=compared)
        lost = lost_rows(run, division)
    return load_together(
        run, lambda cursor, batch: _write(run, cursor, batch, division), lost=lost, meanwhile=meanwhile
    )


def _divide(run: Run, *, compared: bool) -> Division:
    assert run.bounds is not None
    assert run.scan is not None
    won = _counted(run.workspace, run.bounds, f"(SELECT *, {run.scan.file_sql('winner')} AS file FROM keys)")
    if compared:
        rows = _counted(run.workspace, run.bounds, "unequal")
        return Division([f"unequal WHERE {bound}" for bound in run.bounds], rows, won)
    relations = ["rows" for _ in run.bounds]
    if has_losers(run.workspace):
        relations = [f"rows SEMI JOIN (SELECT winner FROM keys WHERE {bound}) AS won ON rows.rowid = won.winner"
                     for bound in run.bounds]  # fmt: skip
    chosen = [f"{relation} WHERE doubt = {PROVEN} AND {bound}"
              for relation, bound in zip(relations, run.bounds, strict=True)]  # fmt: skip
    return Division(chosen, won, won)


def _counted(workspace: Workspace, bounds: Sequence[str], relation: str) -> list[dict[int, int]]:
    """The rows of a relation (with the keys and `file`) per key range, by file."""
    ranges = " ".join(f"WHEN {bound} THEN {number}" for number, bound in enumerate(bounds))
    counted: list[dict[int, int]] = [{} for _ in bounds]
    for part, file, count in workspace.query(f"SELECT CASE {ranges} END, file, count(*) FROM {relation} GROUP BY 1, 2"):
        counted[part][file] = count
    return counted


def _write(run: Run, cursor: Any, batch: Batch, division: Division) -> dict[int, Counts]:
    """Load one key range: by COPY into the table itself where its keys are absent, else by way of the staging table."""
    assert batch.partition is not None
    chosen = division.chosen[batch.partition]
    per_file = division.rows[batch.partition]
    same = {file: rows - per_file.get(file, 0) for file, rows in division.won[batch.partition].items()}
    counts = [{file: Counts(read=rows, unchanged=rows) for file, rows in same.items()}]
    if per_file:
        absent = copy_absent(run, cursor, batch, chosen, per_file)
        counts.append(_copy_staged(run, cursor, batch, chosen, per_file) if absent is None else absent)
    return add_up(counts)


def _copy_staged(run: Run, cursor: Any, batch: Batch, chosen: str, per_file: Mapping[int, int]) -> dict[int, Counts]:
    assert run.scan is not None
    assert run.layout is not None
    layout = Layout(("etl_file", *run.layout.columns), run.layout.delimiter)
    cursor.execute(create_staging(run.target, run.layout))
    query = f"SELECT file || {literal(layout.delimiter)} || record AS record FROM {chosen} ORDER BY {run.scan.key_sql}"
    with run.phases.phase("copy"), run.workspace.cursor() as source:
        copy_records(cursor, source, query, copy_into(staging_table(), layout), on_bytes=run.on_bytes)
    reach("copied")
    upsert = Upsert(
        run.target,
        run.layout,
        run.spec.conflict_action,
        run.spec.order_by,
        unique=True,
        sorted=True,
        undoable=run.spec.undoable,
        rivals=own_rivals(cursor, run.run_id, batch) if run.spec.conflict_action is not ConflictAction.IGNORE else None,
    )
    with run.phases.phase("merge"):
        merged = merge(cursor, upsert, staged=per_file)
        cursor.execute(drop_staging())  # the next range of this worker makes its own
    reach("merged")
    return {file: _counts(item) for file, item in merged.items()}


def _counts(item: Merged) -> Counts:
    return Counts(item.rows, item.inserted, item.updated, item.unchanged, stale=item.stale)


def lost_rows(run: Run, division: Division) -> dict[int, Counts]:
    """Counts of the rows that are not sent, per file: superseded and rejected."""
    assert run.scan is not None
    usable = dict(run.workspace.query(f"SELECT file, count(*) FROM rows WHERE doubt = {PROVEN} GROUP BY file"))
    distinct = distinct_keys(run.scan, run.workspace)
    lost = {}
    for file in run.files:
        rejected = len(run.refused.get(file.position, ()))
        rows, keys = usable.get(file.position, 0), distinct[file.position]
        won = sum(part.get(file.position, 0) for part in division.won)
        lost[file.position] = Counts(
            read=rows - won + rejected,
            superseded_same_file=rows - keys,
            superseded_later_file=keys - won,
            rejected=rejected,
        )
    return lost


def partition_bounds(run: Run, count: int) -> list[str]:
    """Conditions on the key columns that split the distinct keys into `count` ranges of even size.

    The bounds are quantiles of a fixed-seed reservoir sample of the distinct keys, so that one skewed key, however many
    rows carry it, weighs as much as any other. They are of the first column alone where that splits the keys well: to
    compare rows of columns takes DuckDB many times as long.
    """
    assert run.scan is not None
    run.workspace.query(
        f"CREATE OR REPLACE TABLE sample AS SELECT {run.scan.key_sql} FROM keys "
        f"USING SAMPLE reservoir({SAMPLE_KEYS} ROWS) REPEATABLE (1)"
    )
    first, every = run.scan.key_columns[:1], run.scan.key_columns
    bounds = _quantiles(run.workspace, first, count)
    if every != first and not _is_even(run.workspace, bounds):
        bounds = _quantiles(run.workspace, every, count)
    run.workspace.query("DROP TABLE sample")
    return bounds


def _quantiles(workspace: Workspace, columns: Sequence[str], count: int) -> list[str]:
    """Conditions on these columns that split the table `sample` into `count` ranges, as evenly as its values allow."""
    names = ", ".join(columns)
    edges = workspace.query(
        f"WITH placed AS (SELECT {names}, row_number() OVER (ORDER BY {names}) AS place, count(*) OVER () AS total FROM sample) "
        f"SELECT {', '.join(f'{name}::VARCHAR' for name in columns)} FROM placed "
        f"WHERE place IN (SELECT 1 + total * step // {count} FROM range(1, {count}) steps(step)) ORDER BY place"
    )
    types = [row[0] for row in workspace.query(f"SELECT column_type FROM (DESCRIBE SELECT {names} FROM sample)")]
    values = [", ".join(f"{literal(text)}::{kind}" for text, kind in zip(row, types, strict=True)) for row in edges]
    conditions = []
    for number in range(count):
        parts = []
        if number:
            parts.append(f"({names}) >= ({values[number - 1]})" if number <= len(values) else "false")
        if number < count - 1 and number < len(values):
            parts.append(f"({names}) < ({values[number]})")
        conditions.append(" AND ".join(parts) or "true")
    return conditions


def _is_even(workspace: Workspace, bounds: Sequence[str]) -> bool:
    """Whether no range holds much more of the table `sample` than its share."""
    counted = workspace.query(
        "SELECT count(*), " + ", ".join(f"count(*) FILTER (WHERE {bound})" for bound in bounds) + " FROM sample"
    )
    total, *parts = counted[0]
    return bool(max(parts) * len(bounds) <= UNEVEN * total)
