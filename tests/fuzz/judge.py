"""One case on a real server: the load, the oracle beside it, and what differs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import psycopg2
from psycopg2.sql import SQL, Literal

from tests.fuzz.bench import Bench, made
from tests.fuzz.case import Case
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
    _load_before(bench)
    texts = [bench.expected(content) for content in case.contents]
    refused = {(number, at): reason for number, text in enumerate(texts) for at, reason in bench.refusals(text).items()}
    by_itself = len(refused)
    good_files = _load_expected(bench, texts, refused)
    for content in case.contents:
        if content.form in ("csv", "parquet"):
            write_file(content, bench.directory)
    answer = _load(bench, client)
    if "error" in answer:
        yield from _refused(bench, answer, refused)
        return
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
    if len(refused) > by_itself:  # another time, other rows may be refused
        return
    answer = _ask_load(bench, client, is_fatal=False)
    _load_one_by_one(bench, good_files, has_rejects=bool(refused))
    if "error" in answer:
        yield f"again: {_in_words(answer)}"
        return
    yield from _rows_differ(bench, "again", "expected")
    written = answer["result"]["counts"]["inserted"] + (
        answer["result"]["counts"]["updated"] if _is_collapsed(case, answer) else 0
    )
    if written and not case.writing:
        yield f"again: {written} rows written by a second load of the same"


def _load_before(bench: Bench) -> None:
    """What is in the table before the load, in all that are to be compared."""
    before = bench.case.before
    bad = set(bench.refusals(before)) if before.rows else set()
    if bench.case.table.is_coupled:
        bad |= set(bench.refused_writes(before, [at for at in range(len(before.rows)) if at not in bad]))
    good = tuple(row for at, row in enumerate(before.rows) if at not in bad)
    for table in ("loaded", "expected", "initial"):
        oracle = replace(bench.oracle(table), order_by=None, action="update")
        oracle.load(bench.connection, [Rows(before.columns, good)] if good else [])


def _load_expected(bench: Bench, texts: Sequence[Rows], refused: dict[tuple[int, int], str]) -> list[Rows]:
    """Load the oracle's table; return what of the files was not refused. What only writing refuses is added to `refused`."""
    good_files = []
    for number, text in enumerate(texts):
        left = [at for at in range(len(text.rows)) if (number, at) not in refused]
        if bench.case.table.is_coupled:
            refused.update({(number, at): "written" for at in bench.refused_writes(text, left)})
            left = [at for at in left if (number, at) not in refused]
        good_files.append(Rows(text.columns, tuple(text.rows[at] for at in left)))
        if bench.case.table.is_coupled:
            bench.oracle("expected").load(bench.connection, good_files[-1:])
    if not bench.case.table.is_coupled:
        _load_one_by_one(bench, good_files, has_rejects=bool(refused))
    return good_files


def _load_one_by_one(bench: Bench, good_files: Sequence[Rows], *, has_rejects: bool) -> None:
    if not bench.case.writing:
        bench.oracle("expected").load(bench.connection, good_files)
        return
    replay = bench.replay("expected")
    # A mirror deletes nothing if rows are rejected.
    replace(replay, missing=None if has_rejects else replay.missing).load(bench.connection, good_files)


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
    if kind == "RejectLimitError" and len(refused) > case.options["max_rejects"]:
        if case.options["atomic"]:
            yield from _rows_differ(bench, "refused load", "initial")
    elif "array_nulls is off" in answer["message"] or (
        kind == "UnsafeStrategyError" and case.options["strategy"] in MAY_REFUSE
    ):
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


def _rejects_differ(bench: Bench, answer: dict[str, Any], refused: dict[tuple[int, int], str]) -> Iterator[str]:
    found = {
        (_number(bench, name), record): sqlstate
        for name, record, sqlstate in _of_run(
            bench,
            answer,
            "name, record, sqlstate FROM etl_toolkit.rejects JOIN etl_toolkit.files USING (run_id) WHERE file = position",
        )
    }
    read = _read_contents(bench, answer)
    expected = {place: reason for place, reason in refused.items() if place[0] in read}
    if missing := {place: reason for place, reason in expected.items() if place not in found}:
        yield f"rejects: not rejected {missing}"
    if wrong := {place: reason for place, reason in found.items() if place not in expected}:
        yield f"rejects: wrongly rejected {wrong}"


def _of_run(bench: Bench, answer: dict[str, Any], query: str) -> list[Any]:
    return bench.execute(SQL(f"SELECT {query} AND run_id = {{}}").format(Literal(answer["result"]["run_id"])))


def _read_contents(bench: Bench, answer: dict[str, Any]) -> set[int]:
    """The contents that were read: one that is there twice may be read once."""
    return {_number(bench, name) for (name,) in _of_run(bench, answer, "name FROM etl_toolkit.files WHERE true")}


def _number(bench: Bench, name: str) -> int:
    """Which content a file of the ledger is."""
    if match := re.match(r"frame (\d+) \(", name):
        return int(match[1]) - 1
    if match := re.fullmatch(r"U&'(.*)'", name):  # what the database's encoding lacks, as an SQL literal
        name = re.sub(r"\\(?:\+([0-9A-F]{6})|([0-9A-F]{4}))", lambda code: chr(int(code[1] or code[2], 16)), match[1])
        name = name.replace("''", "'").replace("\\\\", "\\")
    paths = [str(bench.directory / content.path) for content in bench.case.contents]
    return paths.index(name)


def _counts_differ(bench: Bench, answer: dict[str, Any], refused: dict[tuple[int, int], str]) -> Iterator[str]:
    if not answer["is_true"]:
        yield "counts: the result is false"
    if bench.case.fault is not None:  # what was done before the kill is not in the result
        return
    counts, read = answer["result"]["counts"], _read_contents(bench, answer)
    loaded, initial = (f"(SELECT count(*) FROM {bench.tables[table].sql})" for table in ("loaded", "initial"))
    should = {
        "read": sum(len(bench.case.contents[number].rows) for number in read),
        "rejected": sum(number in read for number, _ in refused),
        "inserted": bench.execute(f"SELECT {loaded} - {initial}")[0][0],
    }
    if bench.case.writing.mark or "missing" in bench.case.writing.options:
        del should["inserted"]  # what was deleted is not there to be counted
    for name, number in should.items():
        if counts[name] != number:
            yield f"counts: {counts[name]} {name}, not {number}"
