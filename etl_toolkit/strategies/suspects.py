"""Rows that the server might refuse: those of a collapsed load that are never sent, or that it has turned down once.

A row whose text matches `record_grammar` is surely fine; all others are put to the server by one COPY, in a transaction that
is rolled back. Columns that have no grammar, or on which a CHECK or a foreign key depends, go there by themselves. Only if the
server refuses anything are the rows looked at one by one. What it refuses is taken out of the load, so the set of rejects is
that of any other strategy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from etl_toolkit.keys import SHORT_RECORD_BYTES, field_grammar, record_grammar
from etl_toolkit.loading.apart import Part, set_apart
from etl_toolkit.loading.conditions import LONG_ENTRY_BYTES
from etl_toolkit.loading.copy import RecordReader, copy_stream
from etl_toolkit.loading.rejects import Refusal, has_refused, refused_records
from etl_toolkit.loading.retry import run_with_retry
from etl_toolkit.loading.run import Run
from etl_toolkit.loading.session import Sessions
from etl_toolkit.loading.tombstones import narrow
from etl_toolkit.model import Layout, Reject, TargetTable
from etl_toolkit.scan import NULL_KEY, PROVEN, REJECTED, UNPROVEN, KeyScan
from etl_toolkit.sources import has_no_quotes, locate, number_in_file
from etl_toolkit.strategies.refused_rows import bounded, check_reject_limit
from etl_toolkit.workspace import Workspace, literal


class RefusedLosersError(Exception):
    """The server refuses rows that lost: without them, other rows may count as superseded by a later file."""


def check_losers(run: Run) -> None:
    """A row that loses is never sent, but may still be a bad one: check those whose text is not surely fine.

    Raises RefusedLosersError where there are any, RejectLimitError where they are too many.
    """
    # Of a tombstone only the key counts, which is proven.
    mine = f"doubt = {PROVEN} AND NOT gone" if run.scanned.has_gone else f"doubt = {PROVEN}"
    if _find_refused(run, f"{mine} AND place NOT IN (SELECT winner FROM keys)"):
        check_reject_limit(run)
        raise RefusedLosersError


def check_all(run: Run) -> None:
    """After the server refused a row: find every row it would refuse."""
    find_refused(run)
    check_reject_limit(run)


def find_refused(run: Run) -> int:
    """Find every row that the server would refuse, until there are too many, and return how many there are."""
    return _find_refused(run, f"doubt = {PROVEN}{' AND NOT gone' if run.scanned.has_gone else ''}")


def _find_refused(run: Run, where: str) -> int:
    """Ask the server about the rows that are not surely fine, and take the refused ones out of the load."""
    layout = run.record_layout
    is_unquoted = all(has_no_quotes(file, layout) for file in run.files)
    is_short = all(file.is_plain and file.longest_record_bytes <= SHORT_RECORD_BYTES for file in run.files)
    grammar = partial(record_grammar, layout=layout, is_short=is_short, is_unquoted=is_unquoted, proven=run.target.key)
    long = f" OR strlen(record) > {LONG_ENTRY_BYTES}" if run.target.wide_indexes and not is_short else ""
    whole = grammar(run.target)
    apart = None if whole else set_apart(run.target, layout)
    rest = grammar(apart.rest, apart=apart.columns - set(run.target.key)) if apart else None
    fields = (
        [Fields(part, _fields_query(layout, part, is_unquoted=is_unquoted)) for part in apart.parts]
        if apart and rest
        else []
    )
    doubt = Doubt(_unlike(whole) + long, _unlike(whole or rest) + long, fields)
    with run.phases.phase("rejects"):
        inquiry = Inquiry(run.scanned, run.target, layout, run.workspace, run.sessions)
        found = inquiry.refused(where, doubt, limit=run.spec.max_rejects)
    for rejects in found.values():
        run.note_rejects(rejects)
    return len(found)


def _unlike(grammar: str | None) -> str:
    return f"NOT regexp_full_match(record, {literal(grammar)})" if grammar else "true"


def _fields_query(layout: Layout, part: Part, *, is_unquoted: bool) -> str:
    """The different combinations of the fields of a part, each spelled as a record."""
    return f"SELECT DISTINCT {fields_of(layout, part.layout, is_unquoted=is_unquoted)} AS record FROM found"


def fields_of(layout: Layout, part: Layout, *, is_unquoted: bool) -> str:
    """The fields of a part of a record, spelled as a record: an expression."""
    delimiter = literal(layout.delimiter)
    fields = [
        f"split_part(record, {delimiter}, {layout.columns.index(name) + 1})"
        if is_unquoted
        else f"regexp_extract(record, {literal(field_grammar(layout, name))}, 1)"
        for name in part.columns
    ]
    return f" || {delimiter} || ".join(fields)


@dataclass(frozen=True)
class Fields:
    """Columns that are put to the server by themselves, and the query of their values."""

    part: Part
    query: str


@dataclass(frozen=True)
class Doubt:
    """Which rows the server may refuse: a condition on their record.

    `whole` are those it may refuse at all; it refuses none of them if it takes the records of the `rest` and all `fields`.
    """

    whole: str = "true"
    rest: str = "true"
    fields: Sequence[Fields] = ()


@dataclass(frozen=True)
class Inquiry:
    """Asks the server which scanned rows it would refuse; of their records, the `fields` that are read."""

    scan: KeyScan
    target: TargetTable
    layout: Layout
    workspace: Workspace
    sessions: Sessions
    order_by: str | None = None
    fields: str = "record"

    def doubtful_keys(self, *, limit: int) -> dict[int, tuple[Reject, ...]]:
        """The refused ones of the rows whose key is NULL or not surely spelled right, by file."""
        if not self.scan.has_doubts:
            return {}
        doubtful = f"doubt IN ({NULL_KEY}, {UNPROVEN})"
        if not self.scan.has_gone:
            return self.refused(doubtful, Doubt(), limit=limit)
        found = self.refused(f"{doubtful} AND NOT gone", Doubt(), limit=limit)
        kept = {*self.scan.key, self.order_by}
        part = Part(
            narrow(self.target),
            replace(self.layout, columns=tuple(name for name in self.layout.columns if name in kept)),
        )
        is_unquoted = all(has_no_quotes(file, self.layout) for file in self.scan.files)
        alone = replace(
            self,
            target=part.target,
            layout=part.layout,
            fields=fields_of(self.layout, part.layout, is_unquoted=is_unquoted),
        )
        for file, rejects in alone.refused(f"{doubtful} AND gone", Doubt(), limit=limit).items():
            found[file] = (*found.get(file, ()), *rejects)
        return found

    def refused(self, where: str, doubt: Doubt, *, limit: int) -> dict[int, tuple[Reject, ...]]:
        """The refused ones of the rows that meet a condition and are in doubt, by file; they are taken out of the load.

        The search ends with more than `limit`, and more than the message of a load that fails names.
        """
        again = partial(self.sessions.note_retry, "rejects")
        asked = partial(self._refused, where, doubt, limit=limit)
        return run_with_retry(asked, self.sessions.config, on_retry=again, sleep=self.sessions.stop.sleep)

    def _refused(self, where: str, doubt: Doubt, *, limit: int) -> dict[int, tuple[Reject, ...]]:
        few = f"SELECT rowid AS row, place FROM rows WHERE {where}"
        few = f"WITH few AS MATERIALIZED ({few}) SELECT * FROM few"
        if not any(
            self._has_refused(few, query, target, layout)
            for query, target, layout in [
                (f"SELECT {self.fields} AS record FROM found WHERE {doubt.rest}", self.target, self.layout),
                *((fields.query, fields.part.target, fields.part.layout) for fields in doubt.fields),
            ]
        ):
            return {}
        refusals = self._look_for_refused(few, doubt.whole, limit=limit)
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
            file: locate(self.scan.file_at[file], items, self.workspace, max_line_bytes=longest)
            for file, items in found.items()
        }
        # Last, since another worker's failure may stop us anywhere: a row that is out of the load must be on the list.
        self.workspace.query(f"UPDATE rows SET doubt = {REJECTED} WHERE {mine}", [rows])
        return found

    def _has_refused(self, few: str, query: str, target: TargetTable, layout: Layout) -> bool:
        with (
            self.scan.with_records(self.workspace, few) as source,
            RecordReader(source, query, self.scan.files) as records,
        ):
            if records.is_empty():
                return False
            with self.sessions.session("rejects") as connection:
                return has_refused(connection, target, layout, partial(self._send, records))

    def _send(self, records: RecordReader, cursor: Any, statement: Any) -> int:
        copy_stream(cursor, statement, records, on_bytes=lambda *_: self.sessions.stop.check())
        return records.sent

    def _look_for_refused(self, few: str, doubtful: str, *, limit: int) -> list[Refusal]:
        with self.scan.with_records(self.workspace, few) as source, self.sessions.session("rejects") as connection:
            source.execute(f"SELECT row, {self.fields} AS record FROM found WHERE {doubtful}")
            chunks = iter(lambda: source.fetchmany(self.sessions.config.sub_batch_size), [])
            return list(bounded(refused_records(connection, self.target, self.layout, chunks), limit))
