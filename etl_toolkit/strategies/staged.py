"""One batch of whole files: claim, stage and merge (or COPY into the table itself), complete, commit.

The work of every strategy but `partitioned`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import psycopg2

from etl_toolkit.columns import layout_of
from etl_toolkit.errors import driver_errors_mapped
from etl_toolkit.loading import ledger
from etl_toolkit.loading.assertions import assert_before_commit
from etl_toolkit.loading.citus import allow_parallel_writes
from etl_toolkit.loading.copy import is_row_error
from etl_toolkit.loading.failpoints import reach
from etl_toolkit.loading.merge import Merged
from etl_toolkit.loading.rejects import refuse_identities, refuse_staged
from etl_toolkit.loading.run import Run
from etl_toolkit.loading.staging_tables import empty_staging, staging_table
from etl_toolkit.loading.tripwire import Rivals, rivals
from etl_toolkit.loading.upsert import merge
from etl_toolkit.model import Batch, ConflictAction, Counts, SourceFile, Strategy
from etl_toolkit.row_checks import half_read_checks, whole_row_checks
from etl_toolkit.scan import PROVEN
from etl_toolkit.sources import check_unchanged, is_record
from etl_toolkit.strategies.direct import are_absent, copy_absent, copy_unseen
from etl_toolkit.strategies.lanes import FileCounts
from etl_toolkit.strategies.refused_rows import check_reject_limit, find_rejects
from etl_toolkit.strategies.refused_writes import find_refused_writes
from etl_toolkit.strategies.staging import (
    Tables,
    create_tables,
    has_unique_keys,
    may_be_long,
    set_tables_file,
    stage,
    staged_source,
)
from etl_toolkit.strategies.written import upsert_of
from etl_toolkit.write_rules import may_copy


def load_files(run: Run, batch: Batch) -> FileCounts:
    """Load the files of one batch in one transaction; where the server refuses rows, find them all and go without."""
    sent_before = run.rows_sent()
    with driver_errors_mapped(doing=f"loading {_names(run, batch)}"):
        try:
            return load_once(run, batch)
        except psycopg2.Error as error:
            found = is_row_error(error) and not run.is_stopped and _find_refused(run, batch)
            if not found:
                raise
        run.take_back(sent_before)
        try:
            return load_once(run, batch)
        except psycopg2.Error as error:
            if not is_row_error(error) or run.is_stopped or not find_refused_writes(run, batch):
                raise
        run.take_back(sent_before)
        return load_once(run, batch)


def _find_refused(run: Run, batch: Batch) -> int:
    """Find the rows that the server refuses by themselves or, where there are none, for others; return how many."""
    found = sum(len(find_rejects(run, run.file(position))) for position in batch.files)
    check_reject_limit(run)
    return found or find_refused_writes(run, batch)


def load_once(run: Run, batch: Batch, *, wait: Callable[[Any], None] | None = None) -> FileCounts:
    """Load the files of one batch in one transaction.

    With `wait`, nothing is written to the table before it returns, which is called with the cursor once rows are staged.
    """
    with run.sessions.lend(batch.label) as connection, connection.cursor() as cursor:
        claimed = ledger.claim(cursor, run.run_id, batch, undoable=run.spec.undoable)
        if not claimed.is_ours:
            run.sessions.commit(connection)
            return claimed.counts
        reach("claimed")
        allow_parallel_writes(cursor, run.target)
        files = [run.file(position) for position in batch.files]
        others = _rivals(run, cursor, batch)
        counts = load_absent(run, cursor, batch) if wait is None else None
        if counts is None and batch.collapsed:
            counts = _load_collapsed(run, cursor, files, others)
        elif counts is None:
            counts = _load_in_order(run, Tables(run, cursor), files, others, wait)
        finish(run, connection, cursor, [(batch, counts)])
        return counts


def load_group(run: Run, batches: Sequence[Batch]) -> list[FileCounts] | None:
    """Load batches in one transaction, in order; None where one of them is committed already.

    Raises psycopg2.Error and EtlError where one of them cannot be loaded like this: then none is.
    """
    with run.sessions.lend(batches[0].label) as connection, connection.cursor() as cursor:
        if not ledger.claim_all(cursor, run.run_id, batches):
            return None
        reach("claimed")
        allow_parallel_writes(cursor, run.target)
        tables, loaded = Tables(run, cursor), []
        for batch in batches:
            counts = load_absent(run, cursor, batch)
            if counts is None:
                counts = _load_in_order(run, tables, [run.file(position) for position in batch.files], None)
            loaded.append((batch, counts))
        finish(run, connection, cursor, loaded)
        return [counts for _, counts in loaded]


def finish(run: Run, connection: Any, cursor: Any, loaded: Sequence[tuple[Batch, FileCounts]]) -> None:
    """Record what was loaded, and commit it."""
    for position in [position for batch, _ in loaded for position in batch.files]:
        check_unchanged(run.file(position))
        ledger.record_rejects(cursor, run.run_id, run.refused.get(position, ()))
    ledger.complete_all(cursor, run.run_id, loaded)
    assert_before_commit(run, cursor)
    reach("completed")
    with run.phases.phase("commit"):
        run.sessions.commit(connection)
    reach("committed")


def _rivals(run: Run, cursor: Any, batch: Batch) -> Rivals | None:
    """Who must not have written a key of ours, where there are other lanes."""
    if run.horizon is None or run.target.distribution:
        return None
    return rivals(cursor, run.run_id, batch, run.plan.lane_of[batch.number], run.horizon)


def load_absent(run: Run, cursor: Any, batch: Batch) -> dict[int, Counts] | None:
    """COPY the files into the table itself, where no row is known to share its key with another of them, or of a file before."""
    if run.spec.write.delete or not may_copy(run.spec):
        return None
    if run.target.hazards or any(run.refused.get(position) for position in batch.files):
        return None
    overlap = run.plan.overlap
    files = [overlap.file_at[position] for position in batch.files] if overlap else []
    if overlap and any(file.duplicates or not overlap.is_first(file.position) for file in files):
        return None
    if overlap and run.scan and run.plan.key_path == "client":
        own = f"rows WHERE doubt = {PROVEN} AND file IN ({', '.join(str(file.position) for file in files)})"
        if not are_absent(run, cursor, own):
            return None
        if run.scan.store:
            query = f"SELECT place FROM {own} ORDER BY {run.scan.key_sql}"
            return copy_absent(run, cursor, batch, query, {file.position: file.rows for file in files})
    file = run.file(batch.files[0])
    if len(batch.files) > 1 or not file.is_plain or not is_record(file, layout_of(file, run.target)):
        return None
    if not all(run.target.column(name).not_null for name in run.target.key):
        return None  # its rows were not scanned, and the table would take one whose key is NULL
    return copy_unseen(run, cursor, batch, file)


def _load_in_order(
    run: Run, tables: Tables, files: Sequence[SourceFile], others: Rivals | None,
    wait: Callable[[Any], None] | None = None,
) -> dict[int, Counts]:  # fmt: skip
    """Stage and merge one file after the other."""
    counts = {}
    for file in files:
        tables.make(layout_of(file, run.target), file.position)
        staged, merged = _load_file(run, tables.cursor, file, others, wait)
        rejected = len(run.refused.get(file.position, ()))
        counts[file.position] = counts_of(merged, staged=staged, distinct=None, rejected=rejected)
    return counts


def _load_file(
    run: Run, cursor: Any, file: SourceFile, others: Rivals | None, wait: Callable[[Any], None] | None
) -> tuple[int, Merged]:
    """Stage and merge one file, in chunks where the strategy and the key allow it; return the rows staged and the counts."""
    layout = layout_of(file, run.target)
    upsert = upsert_of(run, layout, unique=has_unique_keys(run, file.position), rivals=others)
    source = staged_source(run, layout)
    total, staged = Merged(), 0
    chunk_records = run.config.chunk_size if _may_chunk(run, file) else None
    for rows in stage(run, cursor, file, layout, chunk_records=chunk_records):
        if wait:
            wait(cursor)
        if not upsert.unique:
            refuse_staged(cursor, run.target, layout, staging_table(), may_be_long=may_be_long(file))
        refuse_identities(cursor, upsert, source)
        reach("copied")
        with run.phases.phase("merge"):
            total = total + merge(cursor, upsert, source, staged={file.position: rows}).get(file.position, Merged())
        reach("merged")
        if chunk_records:
            cursor.execute(empty_staging())
        staged += rows
    return staged, total


def _may_chunk(run: Run, file: SourceFile) -> bool:
    """Whether a file may be merged in several statements without a visible difference.

    Not where the spelling of a key is kept from the first writer (each chunk would be one), nor where rows of one file
    depend on each other (a child that comes before its parent), a trigger sees the statement, or a check looks at the row
    in the table (it would see rows that lose to later ones of the file), nor where a file's own rows compete by `order_by`
    (in the table they look like older rows).
    """
    competes = run.spec.order_by is not None and run.spec.conflict_action is not ConflictAction.NEWER
    coupled = run.target.forced("server") or run.target.forced("sequential")
    is_streaming = run.plan.strategy is Strategy.STREAMING and not coupled and not competes and run.spec.write.is_plain
    return is_streaming and not (
        half_read_checks(run.target, layout_of(file, run.target)) or whole_row_checks(run.target)
    )


def _load_collapsed(run: Run, cursor: Any, files: Sequence[SourceFile], others: Rivals | None) -> dict[int, Counts]:
    """Stage all files, then merge the winners of all of them at once."""
    staged = {}
    layout = layout_of(files[0], run.target)  # one set of columns: the plan refuses `order_by` otherwise
    create_tables(run, cursor, layout)
    for file in files:
        set_tables_file(run, cursor, file.position)
        staged[file.position] = sum(stage(run, cursor, file, layout_of(file, run.target)))
    refuse_staged(cursor, run.target, layout, staging_table(), may_be_long=any(map(may_be_long, files)))
    reach("copied")
    upsert = upsert_of(run, layout, several_files=True, rivals=others)
    source = staged_source(run, layout)
    refuse_identities(cursor, upsert, source)
    with run.phases.phase("merge"):
        merged = merge(cursor, upsert, source)
    reach("merged")
    return {
        position: counts_of(
            merged.get(position, Merged()), staged=rows, distinct=merged.get(position, Merged()).distinct,
            rejected=len(run.refused.get(position, ())),
        )
        for position, rows in staged.items()
    }  # fmt: skip


def counts_of(merged: Merged, *, staged: int, distinct: int | None, rejected: int) -> Counts:
    """The counts of one file; `distinct` keys separate rows that lost within the file from those that lost to another file."""
    lost = staged - merged.rows
    same_file = lost if distinct is None else staged - distinct
    return Counts(
        read=staged + rejected,
        inserted=merged.inserted,
        updated=merged.updated,
        unchanged=merged.unchanged,
        superseded_same_file=same_file,
        superseded_later_file=lost - same_file,
        rejected=rejected,
        stale=merged.stale,
        deleted=merged.deleted,
        absent=merged.absent,
    )


def _names(run: Run, batch: Batch) -> str:
    return ", ".join(run.file(position).name for position in batch.files)
