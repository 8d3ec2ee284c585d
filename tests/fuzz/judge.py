"""One case on a real server: the load, the oracle beside it, and what differs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import psycopg2
from psycopg2.sql import SQL, Literal

from tests.fuzz.bench import Bench, made
from tests.fuzz.case import Case, Content
from tests.fuzz.worker import Client, ClientDiedError
from tests.fuzz.writing import write_file
from tests.oracle import Rows

MAY_REFUSE = ("partitioned", "hybrid", "full_parallel")


def judge(case: Case, server: str, admin: Any, client: Client) -> list[str]:
    """Run a case and return what is wrong with it, each thing in a line."""
    try:
        with made(case, server, admin) as place:
            return list(_judged(place, client))
    except (psycopg2.Error, ClientDiedError, ValueError, LookupError) as error:
        return [f"machine: {type(error).__name__}: {error}"]


def _judged(bench: Bench, client: Client) -> Iterator[str]:
    case = bench.case
    if case.before.rows:
        good = tuple(row for at, row in enumerate(case.before.rows) if bench.refusal(case.before, at) is None)
        for table in ("loaded", "expected", "initial"):
            replace(bench.oracle(table), order_by=None, action="update").load(
                bench.connection, [Rows(case.before.columns, good)]
            )
    texts = [bench.expected(content) for content in case.contents]
    refused = {
        (number, at): reason
        for number, content in enumerate(case.contents)
        for at in range(len(content.rows))
        if (reason := bench.refusal(texts[number], at))
    }
    for content in case.contents:
        if content.form in ("csv", "parquet"):
            write_file(content, bench.directory)
    answer = _load(bench, client)
    if "error" in answer:
        yield from _refused(bench, answer, refused)
        return
    good_files = [
        Rows(text.columns, tuple(row for at, row in enumerate(text.rows) if (number, at) not in refused))
        for number, text in enumerate(texts)
    ]
    bench.oracle("expected").load(bench.connection, good_files)
    yield from _rows_differ(bench, "load", "expected")
    yield from _rejects_differ(bench, answer, refused)
    yield from _counts_differ(bench, answer, refused)
    run_id = answer["result"]["run_id"]
    if case.options["undoable"]:
        answer = client.ask("undo", case=case, dsn=bench.dsn, run_id=run_id)
        if "error" in answer:
            yield f"undo: {_in_words(answer)}"
        yield from _rows_differ(bench, "undo", "initial")
        return
    answer = _ask_load(bench, client, is_fatal=False)
    bench.oracle("expected").load(bench.connection, good_files)
    if "error" in answer:
        yield f"again: {_in_words(answer)}"
        return
    yield from _rows_differ(bench, "again", "expected")
    written = answer["result"]["counts"]["inserted"] + (
        answer["result"]["counts"]["updated"] if _is_collapsed(case, answer) else 0
    )
    if written:
        yield f"again: {written} rows written by a second load of the same"


def _is_collapsed(case: Case, answer: dict[str, Any]) -> bool:
    return answer["result"]["strategy"] == "partitioned" and not any(
        "TRIGGER" in text for text in case.table.statements
    )


def _load(bench: Bench, client: Client) -> dict[str, Any]:
    """Load; where the process is killed on the way, go on as the ledger says."""
    try:
        return _ask_load(bench, client, is_fatal=True)
    except ClientDiedError as death:
        if bench.case.fault is None or "no answer" in str(death):
            return {"error": "Died", "message": str(death)}
    try:
        runs = bench.execute("SELECT run_id, status FROM etl_toolkit.runs ORDER BY started_at DESC LIMIT 1")
    except psycopg2.errors.UndefinedTable:
        runs = []
    if not runs:
        return _ask_load(bench, client, is_fatal=False)
    return client.ask("resume", case=bench.case, dsn=bench.dsn, run_id=runs[0][0])


def _ask_load(bench: Bench, client: Client, *, is_fatal: bool) -> dict[str, Any]:
    return client.ask("load", case=bench.case, dsn=bench.dsn, directory=str(bench.directory), is_fatal=is_fatal)


# --- what is wrong -----------------------------------------------------------------------------------------------------


def _refused(bench: Bench, answer: dict[str, Any], refused: dict[tuple[int, int], str]) -> Iterator[str]:
    """A load that ended in an error: whether it deserved it."""
    case, kind = bench.case, answer["error"]
    if (
        kind == "RejectLimitError"
        and len({_identity(case, number, at) for number, at in refused}) > case.options["max_rejects"]
    ):
        if case.options["atomic"]:
            yield from _rows_differ(bench, "refused load", "initial")
    elif kind == "UnsafeStrategyError" and case.options["strategy"] in MAY_REFUSE:
        yield from _rows_differ(bench, "refused load", "initial")
    else:
        yield f"refused: {_in_words(answer)} (the oracle refuses {sorted(refused.values())})"


def _in_words(answer: dict[str, Any]) -> str:
    return f"{answer['error']}: {answer['message']}"


def _rows_differ(bench: Bench, after: str, table: str) -> Iterator[str]:
    if found := bench.differences("loaded", table):
        shown = "; ".join(
            f"{where.replace('only in b', 'missing').replace('only in a', 'wrong')} {row}"
            for where, row in _labelled(bench, found)[:4]
        )
        yield f"{after}: {len(found)} rows differ: {shown}"


def _labelled(bench: Bench, found: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(label.replace(bench.tables["loaded"].sql, "loaded"), row) for label, row in found]


def _identity(case: Case, number: int, at: int) -> tuple[int, int]:
    """The same row of the same content is the same reject, at whichever place that content is read."""
    contents = [replace(content, path="") for content in case.contents]
    return contents.index(contents[number]), at


def _rejects_differ(bench: Bench, answer: dict[str, Any], refused: dict[tuple[int, int], str]) -> Iterator[str]:
    case = bench.case
    run_id = answer["result"]["run_id"]
    found = {}
    for name, record, sqlstate in bench.execute(
        SQL(
            "SELECT name, record, sqlstate FROM etl_toolkit.rejects JOIN etl_toolkit.files USING (run_id) "
            "WHERE file = position AND run_id = {}"
        ).format(Literal(run_id))
    ):
        found[_identity(case, _number(bench, name), record)] = sqlstate
    expected = {_identity(case, number, at): reason for (number, at), reason in refused.items()}
    if missing := {place: reason for place, reason in expected.items() if place not in found}:
        yield f"rejects: not rejected {missing}"
    if wrong := {place: reason for place, reason in found.items() if place not in expected}:
        yield f"rejects: wrongly rejected {wrong}"


def _number(bench: Bench, name: str) -> int:
    """Which content a file of the ledger is."""
    if match := re.match(r"frame (\d+) \(", name):
        return int(match[1]) - 1
    paths = [str(bench.directory / content.path) for content in bench.case.contents]
    return paths.index(name)


def _counts_differ(bench: Bench, answer: dict[str, Any], refused: dict[tuple[int, int], str]) -> Iterator[str]:
    if not answer["is_true"]:
        yield "counts: the result is false"
    counts = answer["result"]["counts"]
    if bench.case.fault is None and counts["rejected"] < len({_identity(bench.case, *place) for place in refused}):
        yield f"counts: {counts['rejected']} rejected of {len(refused)}"
    rows = sum(len(content.rows) for content in _distinct(bench.case.contents))
    if (
        not rows <= counts["read"] <= sum(len(content.rows) for content in bench.case.contents)
        and bench.case.fault is None
    ):
        yield f"counts: {counts['read']} rows read of {rows}"
    grown = bench.execute(
        f"SELECT (SELECT count(*) FROM {bench.tables['loaded'].sql}) - (SELECT count(*) FROM {bench.tables['initial'].sql})"
    )[0][0]
    if bench.case.fault is None and counts["inserted"] != grown:
        yield f"counts: {counts['inserted']} inserted, but there are {grown} rows more"


def _distinct(contents: Sequence[Content]) -> list[Content]:
    return list({replace(content, path=""): content for content in contents}.values())
