"""Rows of one key put together before they are sent: what each of them, applied in turn, would leave.

A column that updates set comes from the last row, with `nulls = "keep"` from the last one where it is not NULL; any other from
the first row. That is the row to insert where the table lacks the key, and it has all that an update sets where the key is
there. Fields are taken over as they are spelled. The records are rows of `rows` behind those of the files, and win their keys.
Of rows that a tombstone deletes, nothing is left: only those behind the last one of a key count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import duckdb

from etl_toolkit.keys import fields_grammar
from etl_toolkit.loading.merge import Upsert
from etl_toolkit.loading.run import Run
from etl_toolkit.model import KeyOverlap, Layout
from etl_toolkit.scan import COMPOSED, FOUND_AT_ONCE, PROVEN, SPELLED_AT_ONCE, KeyScan
from etl_toolkit.workspace import literal, search_sql
from etl_toolkit.write_rules import may_compose


def compose_rows(run: Run, overlap: KeyOverlap) -> bool:
    """Give each key of several rows the record that these leave.

    False where a record cannot be taken apart: then the server has to do it.
    """
    if not (may_compose(run.spec) and overlap.has_losers):
        return True
    try:
        with run.phases.phase("collapse"):
            _compose(run, run.scanned)
    except duckdb.InvalidInputException:
        return False
    return True


def forget_composed(run: Run) -> None:
    """Leave only the rows of the files in `rows`."""
    if not run.scanned.composed:
        return
    run.workspace.query(f"DELETE FROM rows WHERE doubt = {COMPOSED}")
    run.scanned.records.drop_composed()
    run.scan = replace(run.scanned, composed=())


def _compose(run: Run, scan: KeyScan) -> None:
    """Create the records, and make them the winners in `keys`."""
    keys, work = scan.key_sql, run.workspace
    file = search_sql(sorted((first, position) for position, first in scan.first_place.items()), "winner")
    found = f"SELECT {keys}, first, winner, number FROM keys WHERE number > 1"
    if scan.has_gone:
        found += f" AND NOT gone AND NOT reset UNION ALL {_behind_tombstones(scan)}"
    work.query(
        f"CREATE OR REPLACE TABLE meeting AS SELECT {keys}, ({file})::INTEGER AS file, first, winner, number FROM ({found}) "
        "ORDER BY winner"
    )
    updated = frozenset(Upsert(run.target, run.record_layout, write=run.spec.write).values)
    kept = frozenset(run.record_layout.columns) - updated - set(run.target.key)
    columns = _Columns(run.record_layout, updated, kept, keeps_nulls=run.spec.write.nulls == "keep")
    _add_pairs(run, columns)
    if columns.keeps_nulls and work.query("SELECT 1 FROM meeting WHERE number > 2 LIMIT 1"):
        _add_several(run, columns)
    work.query("DROP TABLE meeting")
    composed = f"SELECT {keys}, place AS row FROM rows WHERE doubt = {COMPOSED}"
    work.query(
        "CREATE OR REPLACE TABLE grouped AS SELECT * EXCLUDE (first, number, row) REPLACE (coalesce(row, winner) AS winner) "
        f"FROM grouped LEFT JOIN ({composed}) USING ({keys})"
    )


def _behind_tombstones(scan: KeyScan) -> str:
    """A query of the keys whose winner comes after a tombstone and is not the first row that does."""
    keys, row = scan.key_sql, scan.row_sql
    rows = (
        f"SELECT {keys}, winner, {row} AS row, max({row}) FILTER (gone) OVER (PARTITION BY {keys}) AS last FROM rows "
        f"JOIN (SELECT {keys}, winner FROM keys WHERE reset) USING ({keys}) WHERE doubt = {PROVEN}"
    )
    return (
        f"SELECT {keys}, min(row) AS first, winner, count(*) AS number FROM ({rows}) WHERE row > last GROUP BY {keys}, winner "
        "HAVING number > 1"
    )


@dataclass(frozen=True)
class _Columns:
    """The columns of the records; those that a later row sets, and those that it leaves; whether a NULL of it leaves them too."""

    layout: Layout
    updated: frozenset[str]
    kept: frozenset[str]
    keeps_nulls: bool

    def fields(self, record: str) -> str:
        """The fields of a record as a list. Raises InvalidInputException where quotes do not enclose fields."""
        delimiter = literal(self.layout.delimiter)
        parts = f"regexp_extract_all({delimiter} || {record}, {literal(fields_grammar(self.layout))}, 1)"
        checked = (
            f"CASE WHEN array_to_string({parts}, {delimiter}) = {record} THEN {parts} ELSE error('not fields') END"
        )
        return f"CASE WHEN contains({record}, '\"') THEN {checked} ELSE string_split({record}, {delimiter}) END"

    def record(self, updated: str, kept: str) -> str:
        """A record whose fields are given by the number in `{0}`."""
        fields = [
            (updated if name in self.updated else kept).format(at)
            for at, name in enumerate(self.layout.columns, start=1)
        ]
        return f"concat_ws({literal(self.layout.delimiter)}, {', '.join(fields)})"

    @property
    def is_changed(self) -> str:
        """Whether the record `later` may not be what its key ends with: it has a NULL, or the first row counts as well."""
        if self.kept or not self.keeps_nulls:
            return "true"
        delimiter = literal(self.layout.delimiter)
        return f"contains({delimiter} || later || {delimiter}, {literal(self.layout.delimiter * 2)})"


def _add_pairs(run: Run, columns: _Columns) -> None:
    """Add what the first and the last row of a key leave; with `keeps_nulls` where these are all of its rows."""
    where = "number = 2" if columns.keeps_nulls else "true"
    later = "CASE WHEN l[{0}] = '' THEN e[{0}] ELSE l[{0}] END" if columns.keeps_nulls else "l[{0}]"
    fields = f"{columns.fields('earlier')} AS e, {columns.fields('later')} AS l"
    _add(
        run,
        ("earlier", "later"),
        f"SELECT {run.scanned.key_sql}, file, first AS earlier, winner AS later FROM meeting WHERE {where}",
        f"SELECT *, {columns.record(later, 'e[{0}]')} AS record FROM (SELECT *, {fields} FROM found WHERE {columns.is_changed})",
    )


def _add_several(run: Run, columns: _Columns) -> None:
    """Add what more than two rows of a key leave, which takes several times as long for each."""
    scan, work = run.scanned, run.workspace
    with _found(run, ("later",), "SELECT winner, winner AS later FROM meeting WHERE number > 2") as source:
        source.execute(f"CREATE OR REPLACE TABLE changed AS SELECT winner FROM found WHERE {columns.is_changed}")
    last = "coalesce(arg_max(nullif(l[{0}], ''), row), '')"
    _add(
        run,
        ("later",),
        f"SELECT {scan.key_sql}, changed.file, winner, place AS row, place AS later FROM rows "
        f"JOIN (FROM meeting SEMI JOIN changed USING (winner)) AS changed USING ({scan.key_sql}) "
        f"WHERE doubt = {PROVEN} AND place >= changed.first",
        f"SELECT {scan.key_sql}, file, {columns.record(last, 'arg_min(l[{0}], row)')} AS record "
        f"FROM (SELECT *, {columns.fields('later')} AS l FROM found) GROUP BY {scan.key_sql}, file, winner ORDER BY winner",
    )
    work.query("DROP TABLE changed")


def _add(run: Run, names: Sequence[str], query: str, select: str) -> None:
    """Add the rows (key, file, record) of a SELECT, in the order of their files; it reads what a query has `_found`."""
    scan, work = run.scanned, run.workspace
    columns = f"{scan.key_sql}, file"
    last = work.query("SELECT max(place) FROM rows")[0][0]
    with _found(run, names, query) as source, work.cursor() as sink:
        spelled = source.sql(f"SELECT {columns}, record || chr(10) AS record FROM ({select})")
        sink.register("composed", scan.records.take_composed(spelled.to_arrow_reader(SPELLED_AT_ONCE)))
        sink.execute(f"INSERT INTO rows ({columns}, place, doubt) SELECT {columns}, place, {COMPOSED} FROM composed")
    firsts = work.query(f"SELECT min(place), file FROM rows WHERE doubt = {COMPOSED} AND place > {last} GROUP BY file")
    run.scan = replace(scan, composed=(*scan.composed, *firsts))


@contextmanager
def _found(run: Run, names: Sequence[str], query: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A cursor with a relation `found`: the rows of a query, in the order of the last of the columns `names`.

    These are rows of the files; `found` has their records in their place.
    """
    with run.workspace.cursor() as places, run.workspace.cursor() as source:
        rows = places.sql(query).to_arrow_reader(run.scanned.records.rows_at_once(FOUND_AT_ONCE))
        source.register("found", run.scanned.records.with_records(rows, names=names))
        yield source
