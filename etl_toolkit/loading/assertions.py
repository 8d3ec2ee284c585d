"""Conditions that hold after a load, or it fails: before the COMMIT where it is atomic, else when all batches are committed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg2
from psycopg2.sql import SQL, Composed, Identifier, Literal

from etl_toolkit.errors import AssertionFailedError, UsageError, driver_failure
from etl_toolkit.loading.run import Run
from etl_toolkit.model import TargetTable


def check_conditions(connection: Any, target: TargetTable, conditions: Sequence[str]) -> None:
    """Raise UsageError where the server does not understand a condition; nothing is evaluated."""
    with connection.cursor() as cursor:
        for condition in conditions:
            try:
                cursor.execute(SQL("EXPLAIN ") + _question(target, condition, None))
            except psycopg2.Error as error:
                raise UsageError(f"assert {condition!r}: {driver_failure(error).message}") from None


def assert_before_commit(run: Run, cursor: Any) -> None:
    """Evaluate the conditions of an atomic load behind its last statement, in its transaction, which can write no more."""
    if run.spec.atomic and run.spec.write.assertions:
        _evaluate(run, cursor, "nothing was written")


def assert_after_commit(run: Run, connection: Any) -> None:
    """Evaluate the conditions of a load that is not atomic, and of one without files."""
    if run.spec.write.assertions and (not run.spec.atomic or not run.files):
        with connection.cursor() as cursor:
            _evaluate(
                run,
                cursor,
                f"its rows were committed; `etl-toolkit undo {run.run_id}` takes them back, --atomic asserts first",
            )
        connection.rollback()


def _evaluate(run: Run, cursor: Any, outcome: str) -> None:
    with run.phases.phase("assert"):
        cursor.execute("SET TRANSACTION READ ONLY")
        failed = []
        for condition in run.spec.write.assertions:
            cursor.execute(_question(run.target, condition, run.run_id))
            if not cursor.fetchone()[0]:
                failed.append(condition)
    if failed:
        raise AssertionFailedError(
            f"{run.target.qualified_name}: after the load, {' and '.join(f'`{condition}`' for condition in failed)} "
            f"{'does' if len(failed) == 1 else 'do'} not hold; {outcome}"
        )


def _question(target: TargetTable, condition: str, run_id: str | None) -> Composed:
    """The condition as a query; `loaded` are the rows of the table that the run has inserted or updated."""
    ours = SQL("false")
    if run_id is not None:
        ours = SQL("xmin IN (SELECT version FROM etl_toolkit.batches WHERE run_id = {})").format(Literal(run_id))  # type: ignore[assignment]
    return SQL("WITH loaded AS (SELECT * FROM {} WHERE {}) SELECT (\n{}\n) IS TRUE").format(
        Identifier(target.schema, target.name), ours, SQL(condition)
    )
