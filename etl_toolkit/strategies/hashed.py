"""`partitioned` for keys that only the server can compare: staged in parallel, merged by hash partition.

Every file goes into an unlogged staging table in the table's types, of its own unless there are many; then each worker
merges the rows whose key hashes into its partition, by the hash operators of the key's own types, so equal keys always
meet in one partition.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from itertools import chain, pairwise, zip_longest
from typing import Any

import psycopg2
from psycopg2.sql import SQL, Composable

from etl_toolkit.columns import layout_of
from etl_toolkit.errors import DatabaseError
from etl_toolkit.loading.copy import is_row_error
from etl_toolkit.loading.failpoints import reach
from etl_toolkit.loading.rejects import refuse_staged
from etl_toolkit.loading.retry import run_with_retry
from etl_toolkit.loading.run import Run
from etl_toolkit.loading.staging_tables import create_shared_staging, set_file, shared_staging, staged_partition
from etl_toolkit.loading.tombstones import narrow, tombstone_layout
from etl_toolkit.loading.upsert import merge
from etl_toolkit.model import Batch, Counts, SourceFile
from etl_toolkit.sources import check_unchanged
from etl_toolkit.strategies.lanes import FileCounts, on_retry, run_all
from etl_toolkit.strategies.refused_rows import check_reject_limit, find_rejects
from etl_toolkit.strategies.staged import counts_of
from etl_toolkit.strategies.staging import may_be_long, stage
from etl_toolkit.strategies.together import RowsLostError, load_together
from etl_toolkit.strategies.written import upsert_of

MOST_TABLES = 16


def load_hashed(run: Run) -> dict[int, Counts]:
    """Stage every file, merge every partition, commit them together; return the counts per file.

    A server crash empties unlogged tables: then all files are staged again, and committed partitions stay committed.
    """
    groups = _groups(run.files)
    tables = [shared_staging(run.run_id, number) for number in range(len(groups) * (2 if run.spec.write.delete else 1))]
    try:
        for attempt in itertools.count(1):
            try:
                return _stage_and_merge(run, groups, tables)
            except (RowsLostError, psycopg2.errors.UndefinedTable) as error:
                if attempt >= run.config.retry_attempts:
                    raise
                run.failed.clear()
                on_retry(run, "staging")(attempt, error)
                run.take_all_back()
        raise AssertionError
    finally:
        drop_staging(run, tables)


def _groups(files: Sequence[SourceFile]) -> list[Sequence[SourceFile]]:
    """The files, in order, by the staging table that they share: a table for each of thousands would take a lock for each."""
    count = min(MOST_TABLES, len(files))
    edges = [len(files) * number // count for number in range(count + 1)]
    return [files[first:end] for first, end in pairwise(edges)]


def _stage_and_merge(
    run: Run, groups: Sequence[Sequence[SourceFile]], tables: Sequence[Composable]
) -> dict[int, Counts]:
    pairs = list(zip_longest(tables[: len(groups)], tables[len(groups) :]))
    tasks = [partial(_stage_with_retry, run, *each) for each in zip(groups, pairs, strict=True)]
    staged = list(chain.from_iterable(run_all(run, tasks, workers=run.plan.workers)))
    rejected = {file.position: len(run.refused.get(file.position, ())) for file in run.files}
    lost = {position: Counts(read=count, rejected=count) for position, count in rejected.items()}

    def check(counts: FileCounts) -> None:
        for file, rows in zip(run.files, staged, strict=True):
            if counts[file.position].read != rows + rejected[file.position]:
                merged = counts[file.position].read - rejected[file.position]
                raise RowsLostError(
                    f"{file.name}: {rows:,} rows were staged but {merged:,} merged; was the server restarted?"
                )

    return load_together(run, lambda cursor, batch: _merge(run, cursor, batch, tables), lost=lost, check=check)


def _merge(run: Run, cursor: Any, batch: Batch, tables: Sequence[Composable]) -> dict[int, Counts]:
    assert batch.partition is not None
    count = len(tables) // (2 if run.spec.write.delete else 1)
    source = staged_partition(
        run.target, run.record_layout, tables[:count], batch.partition, len(run.plan.batches), tombstones=tables[count:],
        kept=tombstone_layout(run.target, run.record_layout, run.spec.order_by).columns,
    )  # fmt: skip
    with run.phases.phase("merge"):
        merged = merge(cursor, upsert_of(run, run.record_layout, several_files=True), source)
    reach("merged")
    return {
        position: counts_of(item, staged=item.staged, distinct=item.distinct, rejected=0)
        for position, item in merged.items()
    }


def _stage_with_retry(run: Run, files: Sequence[SourceFile], tables: tuple[Composable, Composable | None]) -> list[int]:
    """Stage the files of one table in a transaction of its own; where the server refuses rows, find them all and go without."""
    table, dead = tables

    def attempt() -> list[int]:
        label = f"stage {files[0].position + 1}"
        with run.sessions.lend(label) as connection, connection.cursor() as cursor:
            layout = layout_of(files[0], run.target)
            first, is_marked = files[0].position, dead is not None
            cursor.execute(create_shared_staging(run.target, layout, table, file=first, is_numbered=is_marked))
            if dead is not None:
                marked = tombstone_layout(run.target, layout, run.spec.order_by)
                cursor.execute(create_shared_staging(narrow(run.target), marked, dead, file=first, is_numbered=True))
            rows = [_stage(run, cursor, file, table, dead) for file in files]
            refuse_staged(cursor, run.target, layout, table, may_be_long=any(map(may_be_long, files)))
            for file in files:
                check_unchanged(file)
            reach("copied")
            run.sessions.commit(connection)
        reach("staged")
        return rows

    def attempt_without_rejects() -> list[int]:
        sent_before = run.rows_sent()
        try:
            return attempt()
        except psycopg2.Error as error:
            if run.is_stopped or not is_row_error(error) or not sum(len(find_rejects(run, file)) for file in files):
                raise
        check_reject_limit(run)
        run.take_back(sent_before)
        return attempt()

    label = ", ".join(file.name for file in files[:2]) + (", …" if len(files) > 2 else "")
    return run_with_retry(attempt_without_rejects, run.config, on_retry=on_retry(run, label), sleep=run.sleep)


def _stage(run: Run, cursor: Any, file: SourceFile, table: Composable, dead: Composable | None) -> int:
    for each in [table, dead] if dead is not None else [table]:
        cursor.execute(set_file(run.target, file.position, table=each))
    return sum(stage(run, cursor, file, layout_of(file, run.target), destination=table, tombstones=dead))


def drop_staging(run: Run, tables: Sequence[Composable]) -> None:
    """Drop the staging tables; where the connection is gone they are left to the next run on this database."""
    reach("dropping")
    try:
        with run.sessions.session("cleanup", is_spared=True) as connection, connection.cursor() as cursor:
            for name in tables:
                cursor.execute(SQL("DROP TABLE IF EXISTS {}").format(name))
            connection.commit()
    except (psycopg2.Error, DatabaseError):
        run.tell("leftovers", tables=len(tables))
