"""Rows that are in the table unchanged, found without sending any: the table is read out and compared with the files.

The server prints each row as the record that COPY would read it from, so a file's record that equals one of them, byte
for byte, would change nothing. That pays if most rows are unchanged and the table is not much larger than
the load; a sample decides. Every other row goes the ordinary way, even one that only looks different.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from psycopg2.sql import SQL, Composable, Composed, Identifier, Literal

from etl_toolkit.loading.failpoints import reach
from etl_toolkit.loading.merge import present_rows
from etl_toolkit.loading.naming import ours
from etl_toolkit.loading.retry import run_with_retry
from etl_toolkit.loading.run import Run
from etl_toolkit.loading.second_result import first_reason_kept
from etl_toolkit.loading.upsert import MOSTLY, probed_rows
from etl_toolkit.model import Column, ConflictAction, KeyOverlap
from etl_toolkit.scan import PROVEN
from etl_toolkit.strategies.lanes import on_retry, run_all

SMALLEST_LOAD = 5_000  # rows; fewer are staged in less time than it takes to look
SAMPLE_ROWS = 1_000
LARGEST_TABLE = 2  # times the rows to load: beyond, reading the table takes longer than staging its unchanged rows
BLOCK_BYTES = 8 << 20

# Types of which the server reads the same value, in the same representation, out of what it prints.
ROUND_TRIP = frozenset((
    "bool", "int2", "int4", "int8", "float4", "float8", "numeric", "text", "varchar", "bpchar", "date", "time", "timetz",
    "timestamp", "timestamptz", "interval", "uuid", "json", "jsonb", "bytea", "inet", "cidr", "macaddr",
))  # fmt: skip
# How files spell a truth value: as the server prints it, as it casts it to text, as Python does.
TRUTH_VALUES = (SQL("{}"), SQL("{}::text"), SQL("pg_catalog.initcap({}::text)"))


def set_unchanged_apart(run: Run, overlap: KeyOverlap) -> bool:
    """Fill the workspace's table `unequal` (row) with the winners that the table may not hold as they are.

    False if that does not pay; then there is no such table. Raises psycopg2.Error if the server does.
    """
    if not _may_compare(run):
        return False
    assert run.scan is not None
    with run.phases.phase("compare"):
        printed = _printed(run)
        if printed is None:
            return False
        run.workspace.query("CREATE OR REPLACE TABLE present (record VARCHAR)")
        try:
            if not _read_table(run, printed):
                return False
            row, record = run.scan.row_sql, run.scan.record_sql
            winners = f"AND {row} IN (SELECT winner FROM keys)" if overlap.has_losers else ""
            query = f"SELECT {row} AS row, {record} FROM rows WHERE doubt = {PROVEN} {winners}"
            with run.scan.with_records(run.workspace, query) as source:
                source.execute(
                    "CREATE OR REPLACE TABLE unequal AS SELECT row FROM found ANTI JOIN present USING (record)"
                )
                if run.scan.has_gone:  # what a tombstone makes room for is written again
                    source.execute(
                        "INSERT INTO unequal SELECT winner FROM keys WHERE reset EXCEPT SELECT row FROM unequal"
                    )
        finally:
            run.workspace.query("DROP TABLE present")
    return True


def _may_compare(run: Run) -> bool:
    target, overlap = run.target, run.plan.overlap
    assert run.layout is not None
    return (
        not run.plan.target_is_empty
        and not run.spec.write.cleared
        and run.spec.conflict_action is ConflictAction.UPDATE
        and not (target.hazards or target.is_partitioned)
        and all(target.column(name).base_type in ROUND_TRIP for name in run.layout.columns)
        and all(column.is_utf8 for column in target.columns)  # other encodings do not always print what they read
        and overlap is not None
        and overlap.distinct_keys >= SMALLEST_LOAD
    )


def _printed(run: Run) -> list[Composed] | None:
    """How the server must print the columns for most of a sample of the winners to equal it; None if nothing helps."""
    assert run.scan is not None
    keys = ", ".join(f"{name}::VARCHAR" for name in run.scan.key_columns)
    query = (
        f"SELECT {run.scan.record_sql}, {run.scan.key_sql} FROM rows WHERE {run.scan.row_sql} IN "
        f"(SELECT winner FROM keys USING SAMPLE reservoir({SAMPLE_ROWS} ROWS) REPEATABLE (1))"
    )
    with run.scan.with_records(run.workspace, query) as source:
        sample = source.execute(f"SELECT record, {keys} FROM found").fetchall()
    return run.sessions.ask("compare", partial(_spelling, run, sample), is_printing=True)


def _spelling(run: Run, sample: Sequence[tuple[str, ...]], connection: Any) -> list[Composed] | None:
    """How the server must print the columns for most of a sample of (record, key …) to equal what it prints."""
    assert run.layout is not None
    assert run.plan.overlap is not None
    records = {row[0].encode() for row in sample}
    columns = [run.target.column(name) for name in run.layout.columns]
    with connection.cursor() as cursor:
        # Where a constraint is not validated, the server may refuse a row that the table has.
        cursor.execute(
            "SELECT FROM pg_catalog.pg_constraint WHERE conrelid = %s AND NOT convalidated", (run.target.oid,)
        )
        if cursor.rowcount:
            return None
        cursor.execute(SQL("EXPLAIN (FORMAT json) {}").format(present_rows(run.target)))
        if cursor.fetchone()[0][0]["Plan"]["Plan Rows"] > LARGEST_TABLE * run.plan.overlap.distinct_keys:
            return None
        probed = SQL("({}) AS probed").format(probed_rows(run.target, [row[1:] for row in sample]))
        for spelling in TRUTH_VALUES if any(_is_truth(column) for column in columns) else TRUTH_VALUES[:1]:
            printed = [_spelled(column, spelling) for column in columns]
            found = BytesIO()
            cursor.copy_expert(_copy_out(run, printed, probed), found)
            if len(records.intersection(found.getvalue().split(b"\n"))) > MOSTLY * len(sample):
                return printed
    return None


def _is_truth(column: Column) -> bool:
    return column.base_type == "bool"


def _spelled(column: Column, truth_value: SQL) -> Composed:
    return (truth_value if _is_truth(column) else SQL("{}")).format(Identifier(column.name))


def _copy_out(run: Run, printed: list[Composed], source: Composable) -> Composed:
    assert run.layout is not None
    return SQL("COPY (SELECT {} FROM {}) TO STDOUT (FORMAT csv, DELIMITER {}, QUOTE '\"', NULL '')").format(
        SQL(", ").join(printed), source, Literal(run.layout.delimiter)
    )


def _read_table(run: Run, printed: list[Composed]) -> bool:
    """Read the table into the workspace's table `present` (record), a stretch of its pages a worker.

    False where a value spans lines, for then a line is no record, and where the working directory has no room.
    """
    pages = run.sessions.ask("compare", partial(_pages, run.target.oid))
    edges = [pages * number // run.plan.workers for number in range(run.plan.workers)]

    def read(worker: int) -> bool:
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
                    cursor.copy_expert(_copy_out(run, printed, source), sink)
            except OSError:
                return False
            total = cursor.rowcount
        reach("compared")
        lines = _take_in(run, path)
        path.unlink()
        return bool(lines == total)

    def read_with_retry(worker: int) -> bool:
        note = on_retry(run, f"compare {worker + 1}")
        return run_with_retry(lambda: read(worker), run.config, on_retry=note, sleep=run.sleep)

    readers = [partial(read_with_retry, worker) for worker in range(len(edges))]
    return all(run_all(run, readers, workers=run.plan.workers))


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
