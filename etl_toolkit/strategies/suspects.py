"""Rows that the server might refuse: those of a collapsed load that are never sent, or that it has turned down once.

A row whose text matches `record_grammar` is surely fine; every other one is put to the server, in a transaction that is
rolled back. What it refuses is taken out of the load, so the set of rejects is that of any other strategy.
"""

from __future__ import annotations

from itertools import chain

from etl_toolkit.keys import record_grammar
from etl_toolkit.loading.rejects import refused_records
from etl_toolkit.loading.run import Run
from etl_toolkit.loading.session import Sessions
from etl_toolkit.model import Layout, Reject, TargetTable
from etl_toolkit.overlap import NULL_KEY, PROVEN, REJECTED, UNPROVEN, KeyScan
from etl_toolkit.strategies.staged import bounded, check_reject_limit
from etl_toolkit.workspace import Workspace, literal


def check_losers(run: Run) -> None:
    """A row that loses is never sent, but may still be a bad one: check those whose text is not surely fine."""
    if not has_losers(run.workspace):
        return
    _check(run, f"doubt = {PROVEN} AND rowid NOT IN (SELECT winner FROM keys)")
    check_reject_limit(run)


def check_all(run: Run) -> bool:
    """After the server refused a row: find every row it would refuse. Returns whether there is any."""
    found = _check(run, f"doubt = {PROVEN}")
    check_reject_limit(run)
    return found > 0


def _check(run: Run, where: str) -> int:
    """Ask the server about the rows that are not surely fine, and take the refused ones out of the load."""
    assert run.scan is not None and run.layout is not None
    grammar = record_grammar(run.target, run.layout)
    doubtful = f"{where} AND NOT regexp_full_match(record, {literal(grammar)})" if grammar else where
    with run.phases.phase("rejects"):
        found = ask_server(
            doubtful, run.scan, run.target, run.layout, run.workspace, run.sessions, limit=run.spec.max_rejects
        )
    for rejects in found.values():
        run.note_rejects(rejects)
    return len(found)


def mark_doubtful(
    scan: KeyScan, target: TargetTable, layout: Layout, workspace: Workspace, sessions: Sessions, *, limit: int
) -> dict[int, tuple[Reject, ...]]:
    """Ask the server about rows whose key is NULL or not surely spelled right; return those it refuses, by file."""
    return ask_server(f"doubt IN ({NULL_KEY}, {UNPROVEN})", scan, target, layout, workspace, sessions, limit=limit)


def ask_server(
    where: str, scan: KeyScan, target: TargetTable, layout: Layout, workspace: Workspace, sessions: Sessions, *, limit: int
) -> dict[int, tuple[Reject, ...]]:
    """Ask the server about the rows that meet a condition; take the refused ones out of the load and return them by file.

    More than `limit` + 1 refusals are not looked for: one too many is enough to fail the load.
    """
    with workspace.cursor() as source:
        source.execute(f"SELECT rowid, record FROM rows WHERE {where}")
        chunks = iter(lambda: source.fetchmany(sessions.config.sub_batch_size), [])
        first = next(chunks, None)
        if first is None:
            return {}
        with sessions.session("rejects") as connection:
            refusals = list(bounded(refused_records(connection, target, layout, chain([first], chunks)), limit))
    if not refusals:
        return {}
    rows = [refusal.row for refusal in refusals]
    files = dict(workspace.query("SELECT rowid, file FROM rows WHERE rowid IN (SELECT unnest(?::BIGINT[]))", [rows]))
    workspace.query(f"UPDATE rows SET doubt = {REJECTED} WHERE rowid IN (SELECT unnest(?::BIGINT[]))", [rows])
    found: dict[int, tuple[Reject, ...]] = {}
    for item in refusals:
        file = files[item.row]
        reject = Reject(file, item.row - scan.first_row[file], None, item.reason, item.sqlstate, item.record)
        found[file] = (*found.get(file, ()), reject)
    return found


def has_losers(workspace: Workspace) -> bool:
    """Whether any row lost to another one with its key."""
    return bool(workspace.query("SELECT count(*) <> sum(n) FROM keys")[0][0])
