"""The rows of a file that the server refuses by themselves, whatever the table holds; and how many may be."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from typing import TypeVar

import duckdb

from etl_toolkit.columns import layout_of
from etl_toolkit.loading.rejects import refused_records
from etl_toolkit.loading.run import Run
from etl_toolkit.loading.tombstones import narrow, tombstone_layout
from etl_toolkit.model import Reject, SourceFile
from etl_toolkit.sources import is_enough, locate, number_in_file, read_failure, too_many_rejects
from etl_toolkit.strategies.staging import marked_records_query, records_query

T = TypeVar("T")


def find_rejects(run: Run, file: SourceFile) -> tuple[Reject, ...]:
    """Ask the server about every record of a file; note those it refuses, and return them."""
    layout = layout_of(file, run.target)
    numbered = f"SELECT row_number() OVER () - 1, record FROM ({records_query(file, layout)})"
    asked = [(numbered, run.target, layout)]
    if delete := run.spec.write.delete:
        marked = tombstone_layout(run.target, layout, run.spec.order_by)
        asked = [
            (f"SELECT number, record FROM ({marked_records_query(file, some, delete, is_gone=is_gone)})", target, some)
            for is_gone, target, some in ((False, run.target, layout), (True, narrow(run.target), marked))
        ]
    found: tuple[Reject, ...] = ()
    for query, target, some in asked:
        with (
            run.phases.phase("rejects"),
            run.sessions.lend("rejects") as connection,
            run.workspace.cursor() as source,
        ):
            source.execute(query)
            chunks = _chunks(run, file, source)
            found += tuple(
                Reject(file.position, number_in_file(file, item.row), None, item.reason, item.sqlstate, item.record)
                for item in bounded(refused_records(connection, target, some, chunks), run.spec.max_rejects)
            )
    found = locate(file, found, run.workspace, max_line_bytes=run.config.max_line_bytes)
    run.note_rejects(found)
    return found


def bounded(refusals: Generator[T], limit: int) -> Iterator[T]:
    """Stop looking once there are more rejects than allowed, and more than a message names."""
    with closing(refusals):  # its transaction ends here, not when the garbage is collected
        for number, refusal in enumerate(refusals, start=1):
            yield refusal
            if is_enough(number, limit):
                return


def _chunks(run: Run, file: SourceFile, source: duckdb.DuckDBPyConnection) -> Iterator[list[tuple[int, str]]]:
    while True:
        try:
            chunk = source.fetchmany(run.config.sub_batch_size)
        except duckdb.Error as error:
            raise read_failure([file], error) from None
        if not chunk:
            return
        yield chunk


def check_reject_limit(run: Run) -> None:
    """Raise RejectLimitError, with the first rejects, where there are more of them than `max_rejects`."""
    rejects = [reject for found in run.refused.values() for reject in found]
    if len(rejects) > run.spec.max_rejects:
        rejects.sort(key=lambda reject: (reject.file, reject.record))
        raise too_many_rejects([item.named(run.file(item.file).name) for item in rejects], run.spec.max_rejects)
