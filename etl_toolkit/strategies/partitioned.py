"""`partitioned`: rows collapsed across files in DuckDB, then a disjoint key range per worker, loaded in key order.

All partitions commit together, after the last of them is loaded: a row that the server refuses undoes every partition,
so nothing of any file is written. Between the first and the last COMMIT only a lost connection can interfere, and then
the ledger tells the retry which partitions are done.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any

import psycopg2

from etl_toolkit.errors import EtlError, map_driver_error
from etl_toolkit.keys import record_grammar
from etl_toolkit.loading import ledger
from etl_toolkit.loading.copy import copy_records, is_row_error
from etl_toolkit.loading.merge import Merged, Upsert, copy_into, create_staging, merge, staging_table, table
from etl_toolkit.loading.rejects import refused_records
from etl_toolkit.loading.run import Run
from etl_toolkit.model import Batch, Counts, Layout, Reject, TargetTable
from etl_toolkit.loading.session import Sessions
from etl_toolkit.overlap import NULL_KEY, PROVEN, REJECTED, UNPROVEN, KeyScan, collapse
from etl_toolkit.strategies.lanes import FileCounts, add_up, await_all, load_with_retry
from etl_toolkit.strategies.staged import bounded, check_reject_limit
from etl_toolkit.workspace import Workspace, literal

SAMPLE_KEYS = 20_000


@dataclass(frozen=True)
class Division:
    """How the rows are divided: the relation of winners, a condition per key range, and the counts of rows not sent."""

    winners: str
    bounds: Sequence[str]
    lost: FileCounts


@dataclass
class OpenPartition:
    """A partition loaded but not committed."""

    batch: Batch
    connection: Any
    counts: FileCounts


def load_partitioned(run: Run) -> dict[int, Counts]:
    """Load all partitions and commit them together; return the counts per file."""
    assert run.scan is not None and run.layout is not None
    check_losers(run)
    try:
        return _load_all(run)
    except psycopg2.Error as error:
        if not is_row_error(error):
            raise map_driver_error(error, doing=f"loading into {run.target.qualified_name}") from None
        run.stop.clear()
        if not check_all(run):
            raise map_driver_error(error, doing=f"loading into {run.target.qualified_name}") from None
    with run.phases.phase("collapse"):
        collapse(run.scan, run.workspace, action=run.spec.conflict_action)
    try:
        return _load_all(run)
    except psycopg2.Error as error:
        raise map_driver_error(error, doing=f"loading into {run.target.qualified_name}") from None


def _load_all(run: Run) -> dict[int, Counts]:
    batches = run.plan.batches
    opened: list[OpenPartition] = []
    with run.phases.phase("divide"):
        has_losers = _has_losers(run)
        if run.bounds is None:
            run.bounds = partition_bounds(run, len(batches))
            with run.sessions.session("ledger") as connection:
                ledger.pin_bounds(connection, run.run_id, run.bounds)
        division = Division(_winners(has_losers), run.bounds, lost_rows(run, has_losers))
    try:
        with ThreadPoolExecutor(max_workers=len(batches), thread_name_prefix="etl-worker") as pool:
            futures = [
                pool.submit(load_with_retry, run, batch, lambda run, batch: _open(run, batch, division, opened))
                for batch in batches
            ]
            await_all(run, futures)
        with run.phases.phase("commit"):
            done = [_commit(run, partition, division) for partition in sorted(opened, key=lambda item: item.batch.number)]
    finally:
        for partition in opened:
            run.sessions.close(partition.connection)
    return add_up(done)


def _commit(run: Run, partition: OpenPartition, division: Division) -> FileCounts:
    """Commit one partition; where the answer is lost, load it again, which finds it in the ledger if it was done."""
    try:
        partition.connection.commit()
        return partition.counts
    except psycopg2.Error as error:
        if error.pgcode is not None:
            raise
    run.tell("commit_lost", batch=partition.batch.label)
    again: list[OpenPartition] = []

    def load_and_commit(run: Run, batch: Batch) -> FileCounts:
        again.clear()
        counts = _open(run, batch, division, again)
        for item in again:
            item.connection.commit()
            run.sessions.close(item.connection)
        return counts

    return load_with_retry(run, partition.batch, load_and_commit)


def _open(run: Run, batch: Batch, division: Division, opened: list[OpenPartition]) -> FileCounts:
    """Load one partition and leave its transaction open in `opened`; a partition done before only returns its counts."""
    direct = run.plan.target_is_empty and not run.target.forced("staged")
    while True:
        connection = run.sessions.connect(batch.label)
        try:
            with connection.cursor() as cursor:
                claimed = ledger.claim(cursor, run.run_id, batch)
                if not claimed.is_ours:
                    counts = claimed.counts
                else:
                    counts = _write(run, cursor, batch, division, direct=direct)
                    if batch.partition == 0:
                        counts = add_up([counts, division.lost])
                        ledger.record_rejects(cursor, run.run_id, [r for found in run.refused.values() for r in found])
                    ledger.complete(cursor, run.run_id, batch, counts)
                    cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        except psycopg2.errors.UniqueViolation:
            run.sessions.close(connection)
            if not direct:
                raise
            direct = False  # somebody else wrote one of our keys: upsert instead
            run.tell("fallback", batch=batch.label)
            continue
        except BaseException:
            run.sessions.close(connection)
            raise
        with run.lock:
            opened.append(OpenPartition(batch, connection, counts))
        return counts


def _write(run: Run, cursor: Any, batch: Batch, division: Division, *, direct: bool) -> dict[int, Counts]:
    """COPY the winners of one key range, in key order: into the table itself, or by way of the staging table."""
    assert run.scan is not None and run.layout is not None and batch.partition is not None
    chosen = f"{division.winners} WHERE {division.bounds[batch.partition]}"
    with run.workspace.cursor() as source:
        if direct:
            per_file = dict(source.execute(f"SELECT file, count(*) FROM {chosen} GROUP BY file").fetchall())
            query = f"SELECT record FROM {chosen} ORDER BY {run.scan.key_sql}"
            with run.phases.phase("copy"):
                rows = copy_records(cursor, source, query, copy_into(table(run.target), run.layout), on_bytes=run.on_bytes)
            if rows != sum(per_file.values()):
                raise EtlError(f"{batch.label}: {sum(per_file.values())} rows to load, {rows} loaded; nothing is written")
            return {file: Counts(read=count, inserted=count) for file, count in per_file.items()}
        layout = Layout(("etl_file", *run.layout.columns), run.layout.delimiter)
        cursor.execute(create_staging(run.target, run.layout))
        query = (
            f"SELECT file || {literal(layout.delimiter)} || record FROM {chosen} ORDER BY {run.scan.key_sql}"
        )
        with run.phases.phase("copy"):
            copy_records(cursor, source, query, copy_into(staging_table(), layout), on_bytes=run.on_bytes)
    with run.phases.phase("merge"):
        merged = merge(
            cursor, Upsert(run.target, run.layout, run.spec.conflict_action, run.spec.order_by, unique=True)
        )
    return {file: _counts(item) for file, item in merged.items()}


def _counts(item: Merged) -> Counts:
    return Counts(item.rows, item.inserted, item.updated, item.unchanged, stale=item.stale)


def _has_losers(run: Run) -> bool:
    return bool(run.workspace.query("SELECT count(*) <> sum(n) FROM keys")[0][0])


def _winners(has_losers: bool) -> str:
    """The relation of the rows to load."""
    if has_losers:
        return f"(SELECT rows.* FROM rows SEMI JOIN keys ON rows.rowid = keys.winner WHERE doubt = {PROVEN}) AS winners"
    return f"(SELECT * FROM rows WHERE doubt = {PROVEN}) AS winners"


def lost_rows(run: Run, has_losers: bool) -> dict[int, Counts]:
    """Counts of the rows that are not sent, per file: superseded and rejected."""
    assert run.scan is not None
    found = run.workspace.query(
        "WITH usable AS (SELECT file, count(*) AS n, count(DISTINCT ({keys})) AS d FROM rows WHERE doubt = {ok} GROUP BY file), "
        "won AS (SELECT rows.file, count(*) AS n FROM rows SEMI JOIN keys ON rows.rowid = keys.winner GROUP BY rows.file) "
        "SELECT usable.file, usable.n, d, coalesce(won.n, 0) FROM usable LEFT JOIN won USING (file)".format(
            keys=run.scan.key_sql, ok=PROVEN
        )
    ) if has_losers else []  # fmt: skip
    lost = {
        file: Counts(read=rows - winners, superseded_same_file=rows - distinct, superseded_later_file=distinct - winners)
        for file, rows, distinct, winners in found
    }
    for file, rejects in run.refused.items():
        lost[file] = lost.get(file, Counts()) + Counts(read=len(rejects), rejected=len(rejects))
    return lost


def partition_bounds(run: Run, count: int) -> list[str]:
    """Conditions on the key columns that split the distinct keys into `count` ranges of even size.

    The bounds are quantiles of a fixed-seed reservoir sample of the distinct keys, so that one skewed key, however many
    rows carry it, weighs as much as any other.
    """
    assert run.scan is not None
    keys = run.scan.key_sql
    sample = run.workspace.query(
        f"WITH sample AS (SELECT {keys} FROM keys USING SAMPLE reservoir({SAMPLE_KEYS} ROWS) REPEATABLE (1)), "
        f"placed AS (SELECT {keys}, row_number() OVER (ORDER BY {keys}) AS place, count(*) OVER () AS total FROM sample) "
        f"SELECT {', '.join(f'{name}::VARCHAR' for name in run.scan.key_columns)} FROM placed "
        f"WHERE place IN (SELECT 1 + total * step // {count} FROM range(1, {count}) steps(step)) ORDER BY place"
    )
    types = [row[0] for row in run.workspace.query(f"SELECT column_type FROM (DESCRIBE SELECT {keys} FROM keys)")]
    edges = [", ".join(f"{literal(text)}::{kind}" for text, kind in zip(row, types, strict=True)) for row in sample]
    left = f"({keys})" if len(types) > 1 else keys

    def edge(values: str) -> str:
        return f"({values})" if len(types) > 1 else values

    conditions = []
    for number in range(count):
        parts = []
        if number:
            parts.append(f"{left} >= {edge(edges[number - 1])}" if number <= len(edges) else "false")
        if number < count - 1 and number < len(edges):
            parts.append(f"{left} < {edge(edges[number])}")
        conditions.append(" AND ".join(parts) or "true")
    return conditions


# --- rows the server would refuse --------------------------------------------------------------------------------------


def check_losers(run: Run) -> None:
    """A row that loses is never sent, but may still be a bad one: check those whose text is not surely fine."""
    if not _has_losers(run):
        return
    _check(run, f"doubt = {PROVEN} AND rowid NOT IN (SELECT winner FROM keys)")
    check_reject_limit(run)


def check_all(run: Run) -> bool:
    """After the server refused a row: find every row it would refuse. Returns whether there is any."""
    found = _check(run, f"doubt = {PROVEN}")
    check_reject_limit(run)
    return found > 0


def _check(run: Run, where: str) -> int:
    """Ask the server about the rows that are not surely fine, and take the refused ones out of the load."""
    assert run.scan is not None and run.layout is not None
    grammar = record_grammar(run.target, run.layout)
    doubtful = f"{where} AND NOT regexp_full_match(record, {literal(grammar)})" if grammar else where
    with run.phases.phase("rejects"):
        found = ask_server(
            doubtful, run.scan, run.target, run.layout, run.workspace, run.sessions, limit=run.spec.max_rejects
        )
    for rejects in found.values():
        run.note_rejects(rejects)
    return len(found)


def mark_doubtful(
    scan: KeyScan, target: TargetTable, layout: Layout, workspace: Workspace, sessions: Sessions, *, limit: int
) -> dict[int, tuple[Reject, ...]]:
    """Ask the server about rows whose key is NULL or not surely spelled right; return those it refuses, by file."""
    return ask_server(f"doubt IN ({NULL_KEY}, {UNPROVEN})", scan, target, layout, workspace, sessions, limit=limit)


def ask_server(
    where: str, scan: KeyScan, target: TargetTable, layout: Layout, workspace: Workspace, sessions: Sessions, *, limit: int
) -> dict[int, tuple[Reject, ...]]:
    """Ask the server about the rows that meet a condition; take the refused ones out of the load and return them by file.

    More than `limit` + 1 refusals are not looked for: one too many is enough to fail the load.
    """
    with workspace.cursor() as source:
        source.execute(f"SELECT rowid, record FROM rows WHERE {where}")
        chunks = iter(lambda: source.fetchmany(sessions.config.sub_batch_size), [])
        first = next(chunks, None)
        if first is None:
            return {}
        with sessions.session("rejects") as connection:
            refusals = list(bounded(refused_records(connection, target, layout, chain([first], chunks)), limit))
    if not refusals:
        return {}
    rows = [refusal.row for refusal in refusals]
    files = dict(workspace.query("SELECT rowid, file FROM rows WHERE rowid IN (SELECT unnest(?::BIGINT[]))", [rows]))
    workspace.query(f"UPDATE rows SET doubt = {REJECTED} WHERE rowid IN (SELECT unnest(?::BIGINT[]))", [rows])
    found: dict[int, tuple[Reject, ...]] = {}
    for item in refusals:
        file = files[item.row]
        reject = Reject(file, item.row - scan.first_row[file], None, item.reason, item.sqlstate, item.record)
        found[file] = (*found.get(file, ()), reject)
    return found
