"""Many small files in order: several of them to a transaction, each with its own claim and counts in the ledger.

What a transaction costs is more than such a file does. If anything goes wrong with one of them, all of its group are loaded
again one by one: what is committed, rejected or raised is what it is file by file.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import psycopg2

from etl_toolkit.errors import EtlError
from etl_toolkit.loading.run import Run
from etl_toolkit.model import Batch, Counts
from etl_toolkit.strategies.lanes import FileCounts, add_up, load_with_retry, report_batch, run_all
from etl_toolkit.strategies.staged import load_files, load_group

MANY_FILES = 100
SMALL_FILE_BYTES = 1 << 14  # on average
FILES_TOGETHER, BYTES_TOGETHER = 64, 1 << 18


def may_group(run: Run) -> bool:
    """Whether all is one lane of many small files, and nothing looks at the end of each transaction."""
    if len(run.plan.lanes) != 1 or len(run.plan.batches) < MANY_FILES:
        return False
    if sum(file.size_bytes for file in run.files) > SMALL_FILE_BYTES * len(run.files):
        return False
    is_plain = run.spec.write.is_plain and not run.spec.undoable and not run.target.foreign_keys
    return is_plain and not run.target.hazards and not any(batch.collapsed for batch in run.plan.batches)


def load_grouped(run: Run) -> dict[int, Counts]:
    """Load the batches of the one lane, group by group; return the counts per file."""

    def load() -> list[FileCounts]:
        return [counts for group in _groups(run) for counts in _load(run, group)]

    (loaded,) = run_all(run, [load], workers=1)
    return add_up(loaded)


def _groups(run: Run) -> Iterator[list[Batch]]:
    group: list[Batch] = []
    size = 0
    for batch in run.plan.lanes[0]:
        more = sum(run.file(position).size_bytes for position in batch.files)
        if group and (len(group) == FILES_TOGETHER or size + more > BYTES_TOGETHER):
            yield group
            group, size = [], 0
        group.append(batch)
        size += more
    if group:
        yield group


def _load(run: Run, group: list[Batch]) -> list[FileCounts]:
    sent_before = run.rows_sent()
    run.check()
    try:
        found = load_group(run, group)
    except (psycopg2.Error, EtlError):
        run.check()
        found = None
    if found is not None:
        return [report_batch(run, batch, partial(dict, counts)) for batch, counts in zip(group, found, strict=True)]
    run.take_back(sent_before)
    return [load_with_retry(run, batch, load_files) for batch in group]
