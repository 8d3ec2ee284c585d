"""Rows that the server might refuse: those of a collapsed load that are never sent, or that it has turned down once.

A row whose text matches `record_grammar` is surely fine; all others are put to the server by one COPY, in a transaction that
is rolled back. Only if it refuses that are they looked at one by one. What it refuses is taken out of the load, so the set of
rejects is that of any other strategy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from etl_toolkit.keys import SHORT_RECORD_BYTES, record_grammar
from etl_toolkit.loading.conditions import LONG_ENTRY_BYTES
from etl_toolkit.loading.copy import RecordReader, copy_stream
from etl_toolkit.loading.rejects import Refusal, has_refused, refused_records
from etl_toolkit.loading.retry import run_with_retry
from etl_toolkit.loading.run import Run
from etl_toolkit.loading.session import Sessions
from etl_toolkit.model import Layout, Reject, TargetTable
from etl_toolkit.scan import NULL_KEY, PROVEN, REJECTED, UNPROVEN, KeyScan
from etl_toolkit.sources import located, number_in_file
from etl_toolkit.strategies.refused_rows import bounded, check_reject_limit
from etl_toolkit.workspace import Workspace, literal


class RefusedLosersError(Exception):
    """The server refuses rows that lost: without them, other rows may count as superseded by a later file."""


def check_losers(run: Run) -> None:
    """A row that loses is never sent, but may still be a bad one: check those whose text is not surely fine.

    Raises RefusedLosersError where there are any, RejectLimitError where they are too many.
    """
    assert run.scan is not None
    if _check(run, f"doubt = {PROVEN} AND {run.scan.row_sql} NOT IN (SELECT winner FROM keys)"):
        check_reject_limit(run)
        raise RefusedLosersError


def check_all(run: Run) -> bool:
    """After the server refused a row: find every row it would refuse. Returns whether there is any."""
    found = _check(run, f"doubt = {PROVEN}")
    check_reject_limit(run)
    return found > 0


def _check(run: Run, where: str) -> int:
    """Ask the server about the rows that are not surely fine, and take the refused ones out of the load."""
    assert run.scan is not None
    assert run.layout is not None
    is_short = all(file.is_plain and file.longest_record_bytes <= SHORT_RECORD_BYTES for file in run.files)
    grammar = record_grammar(run.target, run.layout, is_short=is_short, proven=run.target.key)
    doubtful = f"NOT regexp_full_match(record, {literal(grammar)})" if grammar else "true"
    if run.target.wide_indexes and not is_short:
        doubtful += f" OR strlen(record) > {LONG_ENTRY_BYTES}"
    with run.phases.phase("rejects"):
        found = Inquiry(run.scan, run.target, run.layout, run.workspace, run.sessions).refused(
            where, doubtful, limit=run.spec.max_rejects
        )
    for rejects in found.values():
        run.note_rejects(rejects)
    return len(found)


@dataclass(frozen=True)
class Inquiry:
    """Asks the server which scanned rows it would refuse."""

    scan: KeyScan
    target: TargetTable
    layout: Layout
    workspace: Workspace
    sessions: Sessions

    def doubtful_keys(self, *, limit: int) -> dict[int, tuple[Reject, ...]]:
        """The refused ones of the rows whose key is NULL or not surely spelled right, by file."""
        return self.refused(f"doubt IN ({NULL_KEY}, {UNPROVEN})", "true", limit=limit)

    def refused(self, where: str, doubtful: str, *, limit: int) -> dict[int, tuple[Reject, ...]]:
        """The refused ones of the rows that meet two conditions, by file; they are taken out of the load.

        The second one is the dearer, and is only put to rows that meet the first.

        More than `limit` + 1 are not looked for: one too many is enough to fail the load.
        """
        again = partial(self.sessions.note_retry, "rejects")
        asked = partial(self._refused, where, doubtful, limit=limit)
        return run_with_retry(asked, self.sessions.config, on_retry=again, sleep=self.sessions.stop.sleep)

    def _refused(self, where: str, doubtful: str, *, limit: int) -> dict[int, tuple[Reject, ...]]:
        few = f"SELECT rowid AS row, {self.scan.record_sql} FROM rows WHERE {where}"
        few = f"WITH few AS MATERIALIZED ({few}) SELECT * FROM few"
        if not self._has_refused(few, doubtful):
            return {}
        refusals = self._look_for_refused(few, doubtful, limit=limit)
        if not refusals:
            return {}
        mine = "rowid IN (SELECT unnest(?::BIGINT[]))"
        rows = [refusal.row for refusal in refusals]
        files = dict(self.workspace.query(f"SELECT rowid, file FROM rows WHERE {mine}", [rows]))
        found: dict[int, tuple[Reject, ...]] = {}
        for item in refusals:
            file = files[item.row]
            record = number_in_file(self.scan.file_at[file], item.row - self.scan.first_row[file])
            found[file] = (*found.get(file, ()), Reject(file, record, None, item.reason, item.sqlstate, item.record))
        longest = self.sessions.config.max_line_bytes
        found = {
            file: located(self.scan.file_at[file], items, self.workspace, max_line_bytes=longest)
            for file, items in found.items()
        }
        # Last, since another worker's failure may stop us anywhere: a row that is out of the load must be on the list.
        self.workspace.query(f"UPDATE rows SET doubt = {REJECTED} WHERE {mine}", [rows])
        return found

    def _has_refused(self, few: str, doubtful: str) -> bool:
        query = f"SELECT record FROM found WHERE {doubtful}"
        with (
            self.scan.with_records(self.workspace, few) as source,
            RecordReader(source, query, self.scan.files) as records,
        ):
            if records.is_empty():
                return False
            with self.sessions.session("rejects") as connection:
                return has_refused(connection, self.target, self.layout, partial(self._send, records))

    def _send(self, records: RecordReader, cursor: Any, statement: Any) -> int:
        copy_stream(cursor, statement, records, on_bytes=lambda *_: self.sessions.stop.check())
        return records.sent

    def _look_for_refused(self, few: str, doubtful: str, *, limit: int) -> list[Refusal]:
        with self.scan.with_records(self.workspace, few) as source, self.sessions.session("rejects") as connection:
            source.execute(f"SELECT row, record FROM found WHERE {doubtful}")
            chunks = iter(lambda: source.fetchmany(self.sessions.config.sub_batch_size), [])
            return list(bounded(refused_records(connection, self.target, self.layout, chunks), limit))
