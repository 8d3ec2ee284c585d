"""How many rows a load will probably insert, update, leave and delete: a sample, scaled up."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import partial

import psycopg2
from psycopg2.sql import SQL

from etl_toolkit.cost import expect_seconds
from etl_toolkit.errors import TooManyDeletesError
from etl_toolkit.loading.copy import is_row_error
from etl_toolkit.loading.judge import forecast
from etl_toolkit.loading.ledger import past_durations
from etl_toolkit.loading.merge import Upsert
from etl_toolkit.loading.naming import own_name
from etl_toolkit.loading.session import Sessions
from etl_toolkit.loading.staging_tables import copy_into, create_staging, staging_table
from etl_toolkit.loading.upsert import count_present
from etl_toolkit.model import Layout, Plan, SoftDelete
from etl_toolkit.prepare.ready import Ready
from etl_toolkit.strategies.mirror import check_missing, count_missing, find_missing, may_compare_here

FORECAST_ROWS = 2_000


def forecast_plan(ready: Ready, sessions: Sessions) -> Plan:
    """The plan with the rows that it will probably write, and how long it should take by earlier loads of this table."""
    plan = _with_rows(ready, sessions)
    if plan.overlap is None:
        return plan
    past = sessions.ask("forecast", partial(past_durations, target_oid=ready.target.oid, strategy=plan.strategy))
    written = None
    if plan.predicted_unchanged is not None and plan.predicted_inserts is not None:
        written = plan.predicted_inserts + (plan.predicted_updates or 0)
    return replace(plan, expected=expect_seconds(past, rows=plan.overlap.rows, written=written))


def _with_rows(ready: Ready, sessions: Sessions) -> Plan:
    """The plan with predicted inserts, updates and unchanged rows, scaled up from a sample of the rows to load.

    The sample is staged and compared with the table in a transaction that is rolled back.
    """
    if ready.created_sql and not ready.target.is_empty:
        return ready.plan  # columns would be added or widened: a sample would not fit the table as it is
    plan, overlap = _with_missing(ready, sessions), ready.plan.overlap
    if overlap is None or ready.layout is None or ready.scan is None or ready.scan.store is None:
        return plan
    if ready.is_standby:
        return plan
    if not overlap.distinct_keys:
        return plan
    written, live, dead = ready.spec.write, "keys", 0
    keys = overlap.distinct_keys
    if written.delete:
        live = "(FROM keys WHERE NOT gone)"
        keys = ready.workspace.query(f"SELECT count(*) FROM {live}")[0][0]
        dead = overlap.distinct_keys - keys
        plan = replace(plan, predicted_deletes=_forecast_deletes(ready, sessions, dead))
    if ready.target.is_empty:
        return replace(plan, predicted_unchanged=0, predicted_inserts=keys if written.rows != "update" else 0)
    query = (
        f"SELECT file, place FROM rows WHERE place IN "
        f"(SELECT winner FROM {live} USING SAMPLE reservoir({FORECAST_ROWS} ROWS) REPEATABLE (1))"
    )
    with ready.scan.with_records(ready.workspace, query) as source:
        sample = source.execute("SELECT file, record FROM found").fetchall()
    data = "".join(f"{file}{ready.layout.delimiter}{record}\n" for file, record in sample)
    layout = ready.layout.with_file(own_name(ready.target, "etl_file"))
    with sessions.session("forecast") as connection, connection.cursor() as cursor:
        cursor.execute(create_staging(ready.target, ready.layout))
        try:
            cursor.copy_expert(copy_into(staging_table(), layout), io.BytesIO(data.encode()))
        except psycopg2.Error:
            return plan  # a bad row in the sample: the load itself will say which
        _, differing, same = forecast(cursor, _upsert_of_live_rows(ready, ready.layout))
    scale = keys / max(1, len(sample))
    updates, unchanged = round(differing * scale), round(same * scale)
    inserts = keys - updates - unchanged if written.rows != "update" else 0
    return replace(plan, predicted_inserts=inserts, predicted_updates=updates, predicted_unchanged=unchanged)


def _upsert_of_live_rows(ready: Ready, layout: Layout) -> Upsert:
    """How rows are written that are no tombstones: they clear the column that marks deleted rows."""
    spec, target = ready.spec, ready.target
    write, marks = replace(spec.write, delete=None, missing="keep"), {}
    if cleared := spec.write.cleared:
        kind = target.column(cleared)
        write = replace(write, missing=SoftDelete(cleared))
        marks = {cleared: SQL("{}::{}").format(SQL("false" if kind.base_type == "bool" else "NULL"), SQL(kind.type))}
    return Upsert(target, layout, spec.conflict_action, spec.order_by, unique=True, write=write, marks=marks)


def _with_missing(ready: Ready, sessions: Sessions) -> Plan:
    """The plan with the number of keys that are in no file."""
    plan, scan = ready.plan, ready.scan
    if ready.spec.write.missing == "keep" or ready.target.is_empty:
        return plan
    if may_compare_here(ready.target, scan, plan.overlap):
        assert scan is not None
        found = find_missing(ready.spec, ready.target, scan, ready.workspace, sessions)
    elif ready.is_standby:
        return plan
    else:
        try:
            found = count_missing(ready.spec, ready.target, ready.files, ready.workspace, sessions)
        except psycopg2.Error as error:
            if not is_row_error(error):
                raise
            return plan  # a key that the server refuses: its row will be rejected, and then no key is deleted
    try:
        check_missing(ready.spec, ready.target, found)
    except TooManyDeletesError as refusal:
        plan = replace(plan, reasons=(*plan.reasons, f"the load would be refused: {refusal}"))
    return replace(plan, predicted_removals=found.keys)


def _forecast_deletes(ready: Ready, sessions: Sessions, dead: int) -> int:
    """How many keys of tombstones the table probably has."""
    if ready.target.is_empty:  # or only would be created
        return 0
    assert ready.scan is not None
    texts = ", ".join(f"{name}::VARCHAR" for name in ready.scan.key_columns)
    query = f"SELECT {texts} FROM (FROM keys WHERE gone) USING SAMPLE reservoir({FORECAST_ROWS} ROWS) REPEATABLE (1)"
    sample = ready.workspace.query(query)
    if not sample:
        return 0
    with sessions.session("forecast") as connection, connection.cursor() as cursor:
        return round(count_present(cursor, ready.target, sample) * dead / len(sample))
