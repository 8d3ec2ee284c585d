"""Rows that are in the table unchanged, found without sending any: the table is read out and compared with the files.

The server prints each row as the record that COPY would read it from, so a file's record that equals one of them, byte
for byte, would change nothing. That pays if most rows are unchanged and the table is not much larger than
the load; a sample decides. Every other row goes the ordinary way, even one that only looks different.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from io import BytesIO
from typing import Any

from psycopg2.sql import SQL, Composed, Identifier

from etl_toolkit.loading.run import Run
from etl_toolkit.loading.upsert import MOSTLY, probed_rows
from etl_toolkit.model import Column, ConflictAction, KeyOverlap
from etl_toolkit.scan import COMPOSED, PROVEN
from etl_toolkit.strategies.read_out import SMALLEST_LOAD, copy_out, is_too_large, read_table

SAMPLE_ROWS = 1_000

# Types of which the server reads the same value, in the same representation, out of what it prints.
ROUND_TRIP = frozenset((
    "bool", "int2", "int4", "int8", "float4", "float8", "numeric", "text", "varchar", "bpchar", "date", "time", "timetz",
    "timestamp", "timestamptz", "interval", "uuid", "json", "jsonb", "bytea", "inet", "cidr", "macaddr",
))  # fmt: skip
# How files spell a truth value: as the server prints it, as it casts it to text, as Python does.
TRUTH_VALUES = (SQL("{}"), SQL("{}::text"), SQL("pg_catalog.initcap({}::text)"))


def set_unchanged_apart(run: Run, overlap: KeyOverlap, *, keeps_others: bool = False) -> int | None:
    """Fill the workspace's table `unequal` (row) with the winners that the table may not hold as they are.

    With `keeps_others` it has the rows of the table as well that equal no winner, by their `record`. Returns how many rows the
    table has, or None if that does not pay; then there is no such table. Raises psycopg2.Error if the server does.
    """
    if not _may_compare(run):
        return None
    with run.phases.phase("compare"):
        printed = _printed(run)
        if printed is None:
            return None
        try:
            # All at once where rows of the table may go: of several snapshots each may miss a row that is moved meanwhile.
            count = read_table(run, printed, stretches=1 if keeps_others else run.plan.workers)
            if count is None:
                return None
            winners = "AND place IN (SELECT winner FROM keys)" if overlap.has_losers else ""
            query = f"SELECT place AS row, place FROM rows WHERE doubt IN ({PROVEN}, {COMPOSED}) {winners}"
            apart = "SELECT row FROM found ANTI JOIN present USING (record)"
            if keeps_others:
                apart = (
                    "SELECT row, present.record FROM found FULL JOIN present USING (record) "
                    "WHERE row IS NULL OR present.record IS NULL"
                )
            with run.scanned.with_records(run.workspace, query) as source:
                source.execute(f"CREATE OR REPLACE TABLE unequal AS {apart}")
                if run.scanned.has_gone:  # what a tombstone makes room for is written again
                    source.execute(
                        "INSERT INTO unequal (row) SELECT winner FROM keys WHERE reset EXCEPT SELECT row FROM unequal"
                    )
        finally:
            run.workspace.query("DROP TABLE IF EXISTS present")
    return count


def _may_compare(run: Run) -> bool:
    target, overlap = run.target, run.plan.overlap
    return (
        not run.plan.target_is_empty
        and not run.spec.write.cleared
        and run.spec.conflict_action is ConflictAction.UPDATE
        and not (target.hazards or target.is_partitioned)
        and all(target.column(name).base_type in ROUND_TRIP for name in run.record_layout.columns)
        and all(column.is_utf8 for column in target.columns)  # other encodings do not always print what they read
        and overlap is not None
        and overlap.distinct_keys >= SMALLEST_LOAD
    )


def _printed(run: Run) -> list[Composed] | None:
    """How the server must print the columns for most of a sample of the winners to equal it; None if nothing helps."""
    keys = ", ".join(f"{name}::VARCHAR" for name in run.scanned.key_columns)
    query = (
        f"SELECT place, {run.scanned.key_sql} FROM rows WHERE place IN "
        f"(SELECT winner FROM keys USING SAMPLE reservoir({SAMPLE_ROWS} ROWS) REPEATABLE (1))"
    )
    with run.scanned.with_records(run.workspace, query) as source:
        sample = source.execute(f"SELECT record, {keys} FROM found").fetchall()
    return run.sessions.ask("compare", partial(_spelling, run, sample), is_printing=True)


def _spelling(run: Run, sample: Sequence[tuple[str, ...]], connection: Any) -> list[Composed] | None:
    """How the server must print the columns for most of a sample of (record, key …) to equal what it prints."""
    assert run.plan.overlap is not None
    records = {row[0].encode() for row in sample}
    columns = [run.target.column(name) for name in run.record_layout.columns]
    with connection.cursor() as cursor:
        # Where a constraint is not validated, the server may refuse a row that the table has.
        cursor.execute(
            "SELECT FROM pg_catalog.pg_constraint WHERE conrelid = %s AND NOT convalidated", (run.target.oid,)
        )
        if cursor.rowcount:
            return None
        if is_too_large(cursor, run.target, run.plan.overlap):
            return None
        probed = SQL("({}) AS probed").format(probed_rows(run.target, [row[1:] for row in sample]))
        for spelling in TRUTH_VALUES if any(_is_truth(column) for column in columns) else TRUTH_VALUES[:1]:
            printed = [_spelled(column, spelling) for column in columns]
            found = BytesIO()
            cursor.copy_expert(copy_out(run, printed, probed), found)
            if len(records.intersection(found.getvalue().split(b"\n"))) > MOSTLY * len(sample):
                return printed
    return None


def _is_truth(column: Column) -> bool:
    return column.base_type == "bool"


def _spelled(column: Column, truth_value: SQL) -> Composed:
    return (truth_value if _is_truth(column) else SQL("{}")).format(Identifier(column.name))
