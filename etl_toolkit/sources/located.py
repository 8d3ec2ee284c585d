"""Where a rejected record is in its file: its number, its line, and its original text.

Records are counted twice: in the file, malformed ones included, as every `Reject` and the ledger does; and among the
records that can be read, as DuckDB does. The two differ by the malformed records before.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace

from etl_toolkit.errors import SourceError
from etl_toolkit.model import Layout, Reject, SourceFile
from etl_toolkit.sources.csv_file import reopen, shape_in_file
from etl_toolkit.sources.inputs import escape_name
from etl_toolkit.sources.json_lines import reopen_json
from etl_toolkit.sources.records import Scanner
from etl_toolkit.sources.relation import record_expression, text_relation
from etl_toolkit.stopping import Stop
from etl_toolkit.workspace import Workspace


def number_in_file(file: SourceFile, ordinal: int) -> int:
    """Return the number in the file of the record that is the `ordinal`-th (from 0) of those that can be read."""
    # The n-th malformed record (from 0) has `record - n` readable ones before it.
    before = bisect_right(range(len(file.malformed)), ordinal, key=lambda n: file.malformed[n].record - n)
    return ordinal + before


def ordinals(file: SourceFile, rejects: Iterable[Reject]) -> list[int]:
    """Return the places, among the records of a file that can be read, of those rejects that are among them."""
    malformed = [reject.record for reject in file.malformed]
    known = set(malformed)
    numbers = [reject.record for reject in rejects if reject.record not in known]
    return [number - bisect_right(malformed, number) for number in numbers]


def locate(
    file: SourceFile, rejects: Sequence[Reject], workspace: Workspace, *, max_line_bytes: int
) -> tuple[Reject, ...]:
    """Return the rejects with line and text as their file has them, from another pass over it.

    A record of a Parquet file or frame has no line; its text is the CSV record of all of the file's columns, of which those
    left out are empty. Raises SourceError if the file has changed.
    """
    wanted = sorted({reject.record for reject in rejects})
    if not wanted:
        return ()
    places = (
        _csv_places(file, wanted, max_line_bytes, workspace.stop)
        if file.format == "csv"
        else _rows(file, wanted, workspace)
    )
    if len(places) < len(wanted):
        raise SourceError(
            f"{escape_name(file.name)}: record {wanted[-1] + 1:,} is gone; did the file change during the load?"
        )
    return tuple(replace(item, line=places[item.record][0], raw=places[item.record][1]) for item in rejects)


def _csv_places(
    file: SourceFile, wanted: Sequence[int], max_line_bytes: int, stop: Stop
) -> dict[int, tuple[int | None, str]]:
    dialect = file.dialect
    reopened = reopen_json if dialect.is_json else reopen
    scanner = Scanner(shape_in_file(file, max_line_bytes))
    places: dict[int, tuple[int | None, str]] = {}
    with closing(reopened(file, max_line_bytes)) as all_pieces:
        for piece in all_pieces:
            stop.check()
            here = wanted[len(places) : bisect_left(wanted, piece.first_record + piece.count)]
            if here:
                records = piece.records or scanner.scan(piece.source, at_end=True).records
                for number in here:
                    record = records[number - piece.first_record]
                    before = number - piece.first_record if dialect.copy_text else record.lines_before
                    places[number] = (piece.first_line + before, record.text)
            if len(places) == len(wanted):
                break
    return places


def _rows(file: SourceFile, wanted: Sequence[int], workspace: Workspace) -> dict[int, tuple[int | None, str]]:
    relation, texts = text_relation([file], file.columns)
    record = record_expression(file, texts, Layout(file.columns))
    numbered = f"SELECT row_number() OVER () - 1 AS number, {record} AS record FROM {relation}"
    query = f"SELECT number, record FROM ({numbered}) WHERE number IN (SELECT unnest(?::BIGINT[]))"
    malformed = [reject.record for reject in file.malformed]  # these are not in the relation
    numbers = {number - bisect_left(malformed, number): number for number in wanted if number not in malformed}
    found: dict[int, tuple[int | None, str]] = {
        numbers[at]: (None, text) for at, text in workspace.query(query, [list(numbers)])
    }
    return found | {reject.record: (None, reject.raw) for reject in file.malformed if reject.record in wanted}
