"""The table, or columns of it, read out into DuckDB: to find what need not be sent, or which keys are there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from psycopg2.sql import SQL, Composable, Composed, Literal

from etl_toolkit.loading.failpoints import reach
from etl_toolkit.loading.merge import present_rows
from etl_toolkit.loading.naming import ours
from etl_toolkit.loading.retry import run_with_retry
from etl_toolkit.loading.run import Run
from etl_toolkit.loading.second_result import first_reason_kept
from etl_toolkit.model import KeyOverlap, TargetTable
from etl_toolkit.strategies.lanes import on_retry, run_all

SMALLEST_LOAD = 5_000  # rows; fewer are staged in less time than it takes to look
LARGEST_TABLE = 2  # times the rows to load: beyond, reading the table takes longer than staging rows in vain
BLOCK_BYTES = 8 << 20


def is_too_large(cursor: Any, target: TargetTable, overlap: KeyOverlap) -> bool:
    """Whether the server's planner thinks that the table has too many rows to be read out for this load."""
    cursor.execute(SQL("EXPLAIN (FORMAT json) {}").format(present_rows(target)))
    return bool(cursor.fetchone()[0][0]["Plan"]["Plan Rows"] > LARGEST_TABLE * overlap.distinct_keys)


def copy_out(run: Run, printed: Sequence[Composable], source: Composable) -> Composed:
    """Compose the COPY of columns as records of the layout; under the session's conventions for printing."""
    return SQL("COPY (SELECT {} FROM {}) TO STDOUT (FORMAT csv, DELIMITER {}, QUOTE '\"', NULL '')").format(
        SQL(", ").join(printed), source, Literal(run.record_layout.delimiter)
    )


def read_table(run: Run, printed: Sequence[Composable], *, stretches: int) -> int | None:
    """Read columns of the table into the workspace's table `present` (record), `stretches` of its pages side by side.

    Returns how many rows these are; None where a value spans lines, for then a line is no record, and where the working
    directory has no room.
    """
    run.workspace.query("CREATE OR REPLACE TABLE present (record VARCHAR)")
    pages = run.sessions.ask("compare", partial(_pages, run.target.oid))
    edges = [pages * number // stretches for number in range(stretches)]

    def read(worker: int) -> int | None:
        first, last = edges[worker], edges[worker + 1] if worker + 1 < len(edges) else 2**32 - 1
        where = ours(run.target, "etl_place >= {}::tid AND etl_place < {}::tid").format(
            Literal(f"({first},0)"), Literal(f"({last},0)")
        )
        rows = present_rows(run.target, system_columns=True)
        source = SQL("({}) AS present WHERE {}").format(rows, where)
        path = run.workspace.directory / f"present_{worker}"
        with (
            run.sessions.session(f"compare {worker + 1}", is_printing=True) as connection,
            connection.cursor() as cursor,
        ):
            try:
                with path.open("wb", buffering=BLOCK_BYTES) as sink, first_reason_kept():
                    cursor.copy_expert(copy_out(run, printed, source), sink)
            except OSError:
                return None
            total = int(cursor.rowcount)
        reach("compared")
        lines = _take_in(run, path)
        path.unlink()
        return total if lines == total else None

    def read_with_retry(worker: int) -> int | None:
        note = on_retry(run, f"compare {worker + 1}")
        return run_with_retry(lambda: read(worker), run.config, on_retry=note, sleep=run.sleep)

    readers = [partial(read_with_retry, worker) for worker in range(len(edges))]
    counts = [count for count in run_all(run, readers, workers=run.plan.workers) if count is not None]
    return sum(counts) if len(counts) == len(edges) else None


def _pages(oid: int, connection: Any) -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_catalog.pg_relation_size(%s::oid) / pg_catalog.current_setting('block_size')::int", (oid,)
        )
        return int(cursor.fetchone()[0])


def _take_in(run: Run, path: Path) -> int:
    """Append the lines of a file to `present`; return how many."""
    count = 0
    with path.open("rb") as stream, run.workspace.cursor() as cursor:
        for lines in _blocks_of_lines(stream):
            cursor.register("lines", lines)
            cursor.execute("INSERT INTO present SELECT record FROM lines")
            cursor.unregister("lines")
            count += lines.num_rows
    return count


def _blocks_of_lines(stream: BinaryIO) -> Iterator[Any]:
    """The lines of a stream, which ends in one, as Arrow tables (record) of about BLOCK_BYTES."""
    import numpy as np
    import pyarrow as pa

    while block := stream.read(BLOCK_BYTES):
        block += stream.readline()
        data = np.frombuffer(block, dtype=np.uint8)
        ends = np.flatnonzero(data == ord("\n"))
        kept = np.delete(data, ends)
        offsets = np.concatenate([[0], ends - np.arange(len(ends))]).astype(np.int32)
        yield pa.table({"record": pa.StringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(kept))})
