"""Which keys of a load the table has, where it has some of them: the rest go straight into the table, as into an empty one.

The table's keys are read out, which costs a fraction of staging and merging the rows that it lacks. The answer only has to be
right most of the time: a COPY that meets a key is undone, and a row that was thought to be there is merged like any other.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from psycopg2.sql import Identifier

from etl_toolkit.columns import key_types
from etl_toolkit.loading.run import Run
from etl_toolkit.loading.upsert import count_present
from etl_toolkit.model import KeyOverlap
from etl_toolkit.strategies.direct import sample_keys
from etl_toolkit.strategies.read_out import SMALLEST_LOAD, is_too_large, read_table
from etl_toolkit.workspace import literal
from etl_toolkit.write_rules import may_copy

FEWEST = 0.05  # of the keys of the load that must be there, and that must be absent, for the search to pay


def set_absent_apart(run: Run, overlap: KeyOverlap) -> bool:
    """Fill the workspace's table `absent` (row) with the winners whose keys the table lacks; false if that does not pay."""
    if run.plan.target_is_empty or run.target.forced("staged") or not may_copy(run.spec):
        return False
    if overlap.distinct_keys < SMALLEST_LOAD:
        return False
    with run.phases.phase("compare"):
        return run.sessions.ask("compare", partial(_is_mixed, run, overlap)) and _find_absent(run)


def _is_mixed(run: Run, overlap: KeyOverlap, connection: Any) -> bool:
    sample = sample_keys(run, "keys")
    with connection.cursor() as cursor:
        share = count_present(cursor, run.target, sample) / max(1, len(sample))
        return FEWEST < share < 1 - FEWEST and not is_too_large(cursor, run.target, overlap)


def _find_absent(run: Run) -> bool:
    """Create `absent`; false where a key is printed in quotes, which nothing here takes apart."""
    delimiter = literal(run.record_layout.delimiter)
    parts = ", ".join(
        f"TRY_CAST(split_part(record, {delimiter}, {number}) AS {kind.duckdb_type}) AS {name}"
        for number, (name, kind) in enumerate(zip(run.scanned.key_columns, key_types(run.target), strict=True), start=1)
    )
    try:
        key = [Identifier(name) for name in run.target.key]
        if read_table(run, key, stretches=run.plan.workers) is None:
            return False
        if run.workspace.query("SELECT 1 FROM present WHERE contains(record, '\"') LIMIT 1"):
            return False
        run.workspace.query(
            f"CREATE OR REPLACE TABLE absent AS SELECT winner AS row FROM keys ANTI JOIN (SELECT {parts} FROM present) "
            f"USING ({run.scanned.key_sql})"
        )
        if run.scanned.has_gone:  # what a tombstone makes room for is absent by then
            run.workspace.query("INSERT INTO absent SELECT winner FROM keys WHERE reset EXCEPT SELECT row FROM absent")
    finally:
        run.workspace.query("DROP TABLE IF EXISTS present")
    return True
