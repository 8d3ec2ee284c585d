"""Conditions that hold after a load, or it fails: before the COMMIT where it is atomic, else when all batches are committed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg2
from psycopg2.sql import SQL, Composed, Identifier, Literal

from etl_toolkit.errors import AssertionFailedError, UsageError, driver_failure
from etl_toolkit.loading.run import Run
from etl_toolkit.model import Column, SourceFile, TargetTable, WriteOptions

RUN_ID_LIKE = "20260101T000000-000000"
LENGTH_BYTES = 4  # a type modifier of varchar counts the length word


def check_expressions(connection: Any, target: TargetTable, write: WriteOptions, files: Sequence[SourceFile]) -> None:
    """Raise UsageError where the server does not understand a condition or a value; nothing is evaluated."""
    asked = {f"assert {text!r}": _question(target, text, None) for text in write.assertions}
    if write.missing != "keep" and write.scope not in (None, "$path"):
        scoped = SQL("SELECT FROM {} AS present WHERE (\n{}\n)")
        asked[f"scope {write.scope!r}"] = scoped.format(Identifier(target.schema, target.name), SQL(write.scope))
    for name, text in write.set.items():
        if text not in ("now()", "$file", "$run"):
            asked[f"set.{name}"] = SQL("SELECT {}::{}").format(Literal(text), SQL(target.column(name).type))
        _check_length(target.column(name), text, files)
    with connection.cursor() as cursor:
        for place, question in asked.items():
            try:
                cursor.execute(SQL("EXPLAIN ") + question)
            except psycopg2.Error as error:
                raise UsageError(f"{place}: {driver_failure(error).message}") from None


def _check_length(column: Column, text: str, files: Sequence[SourceFile]) -> None:
    """Raise UsageError for a value of `set` that the column is too short for: the cast to its type would cut it off."""
    values = {"$file": [file.name for file in files], "$run": [RUN_ID_LIKE]}.get(text, [text])
    longest = max(values, key=len, default="")
    if column.base_type in ("varchar", "bpchar") and 0 < column.type_modifier - LENGTH_BYTES < len(longest):
        raise UsageError(f"set.{column.name}: {longest!r} is too long for {column.type}")


def assert_before_commit(run: Run, cursor: Any) -> None:
    """Evaluate the conditions of an atomic load behind its last statement, in its transaction, which can write no more."""
    if run.spec.atomic and run.spec.write.assertions:
        _evaluate(run, cursor, "nothing was written")


def assert_after_commit(run: Run, connection: Any) -> None:
    """Evaluate the conditions of a load that is not atomic, and of one without files."""
    if run.spec.write.assertions and (not run.spec.atomic or not run.files):
        with connection.cursor() as cursor:
            undo = f"`etl-toolkit undo {run.run_id}` takes them back"
            undo += "" if run.spec.undoable else " if none was overwritten or deleted, else it needs --undoable"
            _evaluate(run, cursor, f"its rows were committed; {undo}; --atomic asserts first")
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
