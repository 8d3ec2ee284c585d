"""The keys of all files, read once into DuckDB: the table `rows`, whose rowid counts the rows of the whole input in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any

import duckdb
import numpy as np

from etl_toolkit.errors import UnknownColumnError
from etl_toolkit.hints import did_you_mean, has_no_header
from etl_toolkit.keys import KeyType
from etl_toolkit.model import Delete, Layout, SourceFile
from etl_toolkit.sources import (
    GUESSED_AGAIN,
    Cut,
    RecordStore,
    extract_expression,
    group_alike,
    is_in_reach,
    is_record,
    line_texts,
    read_failure,
    record_expression,
    records_bytes,
    split_streams,
    text_relation,
    tombstone_expression,
)
from etl_toolkit.workspace import Workspace, literal

FOUND_AT_ONCE = 65_536  # rows
SPELLED_AT_ONCE = 8_192  # rows, whose records may be long
RELATIONS_AT_ONCE = 64  # in one statement: DuckDB makes a pipeline of each, and opens all of them

PROVEN, NULL_KEY, UNPROVEN, REJECTED, COMPOSED = 0, 1, 2, 3, 4  # values of rows.doubt; the last is no row of a file


@dataclass(frozen=True)
class KeyScan:
    """The table `rows` in the workspace: (file, k0…, [o], [gone], [place], doubt), its rowid counting rows in order.

    `first_row` maps a file's position to the rowid of its first record, so that a record's number in its file is
    `rowid - first_row[file]`; `first_place` to what that record is known by (`row_sql`). `key_columns` are the names
    k0, k1, … for the key's parts. `store` has the records, each at its place, if they were asked for.
    """

    files: tuple[SourceFile, ...]
    key: tuple[str, ...]
    first_row: Mapping[int, int]
    first_place: Mapping[int, int]
    has_order: bool
    store: RecordStore | None = None
    has_gone: bool = False  # whether it is known which rows are tombstones
    has_doubts: bool = False  # whether a key, or an order value, is NULL or not surely spelled right
    composed: tuple[tuple[int, int], ...] = ()  # the same as `first_place`, of the rows that were put together

    @cached_property
    def file_at(self) -> Mapping[int, SourceFile]:
        """The files by their position."""
        return {file.position: file for file in self.files}

    @property
    def row_sql(self) -> str:
        """What a row is known by: a number that grows in the order of rows."""
        return "place" if self.store else "rowid"

    @property
    def records(self) -> RecordStore:
        """The store, where the records were asked for."""
        assert self.store is not None
        return self.store

    @contextmanager
    def with_records(
        self, workspace: Workspace, query: str, *, with_file: bool = False
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """A cursor with a relation `found`: the rows of a query, which has their `place`, with their `record` instead.

        Their `file` can be had as well.
        """
        # Closed in this order reversed: `source` may still be fetching what `places` finds, when something fails.
        with workspace.cursor() as places, workspace.cursor() as source:
            rows = places.sql(query).to_arrow_reader(self.records.rows_at_once(FOUND_AT_ONCE))
            source.register("found", self.records.with_records(rows, self.files_of if with_file else None))
            yield source

    def files_of(self, rows: Any) -> Any:
        """The positions of the files in which rows lie, as numpy arrays: rows are in file order."""
        return self._firsts[1][np.searchsorted(self._firsts[0], rows, side="right") - 1]

    @cached_property
    def _firsts(self) -> tuple[Any, Any]:
        in_order = sorted([*((first, position) for position, first in self.first_place.items()), *self.composed])
        firsts = np.array(in_order, dtype=np.int64).reshape(-1, 2)
        return np.ascontiguousarray(firsts[:, 0]), np.ascontiguousarray(firsts[:, 1])

    def count_by_file(self, workspace: Workspace, query: str) -> dict[int, int]:
        """How many of the rows that a query returns, known by `row_sql`, each file has."""
        counts = np.zeros(1 + max((file.position for file in self.files), default=0), dtype=np.int64)
        with workspace.cursor() as source:
            for batch in source.sql(query).to_arrow_reader(FOUND_AT_ONCE):
                rows = np.frombuffer(batch.column(0).buffers()[1], dtype=np.int64)[batch.column(0).offset :]
                counts += np.bincount(self.files_of(rows[: batch.num_rows]), minlength=len(counts))
        return {int(position): int(counts[position]) for position in np.flatnonzero(counts)}

    @property
    def key_columns(self) -> list[str]:
        return [f"k{number}" for number in range(len(self.key))]

    @property
    def key_sql(self) -> str:
        return ", ".join(self.key_columns)


def missing_key_error(file: SourceFile, missing: Sequence[str]) -> UnknownColumnError:
    """What is wrong with a file that lacks key columns, and what was probably meant."""
    words = f"{file.name}: has no key column {', '.join(map(repr, missing))}; its columns are {', '.join(file.carried)}"
    if file.format == "csv" and has_no_header(file.own_columns):
        return UnknownColumnError(f"{words}; if its first line is a row, name the columns with --headers")
    return UnknownColumnError(words + did_you_mean(missing[0], file.carried))


def scan(
    files: Sequence[SourceFile],
    key: Sequence[str],
    workspace: Workspace,
    *,
    key_types: Sequence[KeyType],
    layout: Layout | None = None,
    order: tuple[str, KeyType] | None = None,
    delete: Delete | None = None,
    is_composed: bool = False,
) -> KeyScan:
    """Read the keys of all files (and with `layout` their records) into the workspace's table `rows`.

    With `is_composed` there is room for records that are put together of them.
    Raises SourceError where a file cannot be read or lacks a key column: a scan that fails is never "no conflict".
    """
    for file in files:
        if missing := [name for name in key if name not in file.carried]:
            raise missing_key_error(file, missing)
    wanted = _Wanted(tuple(key), tuple(key_types), layout, order, delete)
    try:
        store = _read(files, wanted, workspace, is_composed=is_composed)
    except (duckdb.Error, OSError) as error:
        raise read_failure(files, error) from None
    scan_ = KeyScan(tuple(files), tuple(key), {}, {}, order is not None, store, delete is not None)
    found = workspace.query(
        f"SELECT file, min(rowid), min({scan_.row_sql}), bool_or(doubt <> {PROVEN}) FROM rows GROUP BY file"
    )
    return replace(
        scan_, first_row={row[0]: row[1] for row in found}, first_place={row[0]: row[2] for row in found},
        has_doubts=any(row[3] for row in found),
    )  # fmt: skip


@dataclass(frozen=True)
class _Wanted:
    """What is read of each row: its key, its order value, and its record in a layout."""

    key: tuple[str, ...]
    key_types: tuple[KeyType, ...]
    layout: Layout | None
    order: tuple[str, KeyType] | None
    delete: Delete | None = None

    @property
    def compared(self) -> list[str]:
        """The columns by which rows are compared, and the one that marks tombstones."""
        marked = [self.delete.column] if self.delete else []
        return [*self.key, *([self.order[0]] if self.order else []), *marked]

    @property
    def retyped(self) -> str:
        """The columns of `rows` that come back from Arrow, which has not all of DuckDB's types."""
        types = {f"k{number}": kind for number, (_, kind) in enumerate(zip(self.key, self.key_types, strict=False))}
        types |= {"o": self.order[1]} if self.order else {}
        return ", ".join(f"{name}::{kind.duckdb_type} AS {name}" for name, kind in types.items())


@dataclass(frozen=True)
class _Stream:
    """Neighbouring files that are read in the same way.

    `has_lines` says that their own lines are stored, else records are spelled for them; `cut` which fields of them are the record
    to send, if not all.
    """

    files: Sequence[SourceFile]
    has_lines: bool = False
    cut: Cut | None = None


def _group_streams(files: Sequence[SourceFile], wanted: _Wanted) -> list[_Stream]:
    streams = []
    for (has_lines, cut), some in groupby(files, lambda file: _form(file, wanted)):
        run = list(some)
        parts = split_streams(run) if has_lines else group_alike(run)
        streams += [_Stream(part, has_lines, cut) for part in parts]
    return streams


def _form(file: SourceFile, wanted: _Wanted) -> tuple[bool, Cut | None]:
    """Whether the lines of a file hold the records to send, and have what is wanted in reach; and where in them those are."""
    layout = wanted.layout
    if layout is None or not all(is_in_reach(file, name) for name in wanted.compared):
        return False, None
    if is_record(file, layout):
        return True, None
    cut = _find_cut(file, layout, wanted)
    return cut is not None, cut


def _find_cut(file: SourceFile, layout: Layout, wanted: _Wanted) -> Cut | None:
    """Where in a line the record to send is, if only fields in front of it and behind it are left out."""
    width = len(layout.columns)
    if not file.is_plain or layout.columns[0] not in file.columns or width == 1:
        return None
    first = file.columns.index(layout.columns[0])
    mark = wanted.delete.column if wanted.delete else None
    place = file.columns.index(mark) if mark in file.columns and mark not in layout.columns else None
    cut = Cut(len(file.columns), first, first + width - 1, place)
    is_there = set(wanted.compared) - {mark} <= set(layout.columns)
    return cut if is_there and is_record(_within(file, cut), layout) else None


def _within(file: SourceFile, cut: Cut) -> SourceFile:
    return replace(file, columns=file.columns[cut.first : cut.last + 1])


def _read(
    files: Sequence[SourceFile], wanted: _Wanted, workspace: Workspace, *, is_composed: bool
) -> RecordStore | None:
    """Create `rows`, and store the records if they are wanted: in memory where it is reserved, else in the directory."""
    if wanted.layout is None:
        _fill([_Stream(run) for run in group_alike(files)], wanted, workspace, None)
        return None
    streams = _group_streams(files, wanted)
    file, times = None if workspace.record_bytes else workspace.open_file(), 1
    while True:
        rooms = [records_bytes(stream.files) * (1 if stream.has_lines else times) for stream in streams]
        store = RecordStore(
            [stream.files for stream in streams], rooms, file=file, limit_bytes=workspace.limit_bytes,
            is_composed=is_composed,
        )  # fmt: skip
        try:
            _fill(streams, wanted, workspace, store)
        except duckdb.Error:
            if not store.is_full:  # else they take more than was thought
                raise
        else:
            return store
        if file:
            file.close()
        file, times = workspace.open_file(), times * GUESSED_AGAIN


def _fill(streams: Sequence[_Stream], wanted: _Wanted, workspace: Workspace, store: RecordStore | None) -> None:
    """Create `rows` from streams of files."""
    for first in range(0, len(streams), RELATIONS_AT_ONCE):
        some = streams[first : first + RELATIONS_AT_ONCE]
        with ExitStack() as stack:
            source = stack.enter_context(workspace.cursor())
            selects = []
            for number, stream in enumerate(some, start=first):
                name = f"stream_{number}"
                if store is None:
                    selects.append(_select(stream, wanted))
                elif stream.has_lines:
                    source.register(name, store.lines(number, cut=stream.cut))
                    selects.append(_select(stream, wanted, relation=name))
                else:
                    spelled = stack.enter_context(workspace.cursor()).sql(_select(stream, wanted, end=" || chr(10)"))
                    source.register(name, store.take_in(number, spelled.to_arrow_reader(SPELLED_AT_ONCE)))
                    selects.append(f"SELECT * REPLACE ({wanted.retyped}) FROM {name}")
            source.execute(
                ("INSERT INTO rows " if first else "CREATE OR REPLACE TABLE rows AS ") + " UNION ALL ".join(selects)
            )


def _select(stream: _Stream, wanted: _Wanted, *, relation: str | None = None, end: str = "") -> str:
    """The rows of a stream; `relation` has their lines if those are stored."""
    # Where one file of stored lines has quotes, the lines of all are read as its are: without any, they mean the same.
    file, layout, order = min(stream.files, key=lambda file: file.is_plain), wanted.layout, wanted.order
    names = [*wanted.compared, *(layout.columns if layout else ())]
    if stream.cut:
        file = _within(file, stream.cut)
    source, texts = (relation, line_texts(file, names)) if relation else text_relation(stream.files, names)
    if stream.cut and stream.cut.mark is not None:
        texts[len(wanted.compared) - 1] = "nullif(mark, '')"
    is_line = relation is not None or file.is_plain
    position = "file" if relation else f"file_index + {file.position}"
    items = [f"({position})::INTEGER AS file"]
    key_texts = list(zip(wanted.key, texts, wanted.key_types, strict=False))
    items += [f"{_typed(file, *item, is_line=is_line)} AS k{number}" for number, item in enumerate(key_texts)]
    proven = [f"k{number} IS NOT NULL" for number in range(len(wanted.key))]
    if order:
        order_text = texts[len(wanted.key)]
        items.append(f"{_typed(file, order[0], order_text, order[1], is_line=is_line)} AS o")
        # An order value the client cannot read would rank as NULL, and the wrong row would win.
        proven.append(f"(o IS NOT NULL OR {order_text} IS NULL)")
    if wanted.delete:
        items.append(f"{tombstone_expression(texts[len(wanted.compared) - 1], wanted.delete)} AS gone")
    nulls = " OR ".join(f"{text} IS NULL" for _, text, _ in key_texts)
    items.append(
        f"(CASE WHEN {' AND '.join(proven)} THEN {PROVEN} WHEN {nulls} THEN {NULL_KEY} ELSE {UNPROVEN} END)::UTINYINT AS doubt"
    )
    if relation:
        items.append("place")
    elif layout:
        record = record_expression(file, texts[len(names) - len(layout.columns) :], layout)
        items.append(f"{record}{end} AS record")
    return f"SELECT {', '.join(items)} FROM {source}"


def _typed(file: SourceFile, name: str, text: str, kind: KeyType, *, is_line: bool) -> str:
    """An expression of a key or order value: NULL where it is NULL, or spelled so that only the server can read it."""
    if kind.grammar is None:
        return text
    cast, proven = f"TRY_CAST({text} AS {kind.duckdb_type})", f"regexp_full_match({text}, {literal(kind.grammar)})"
    if kind.is_integer and name == file.columns[0]:
        proven = f"({cast}::VARCHAR = {text} OR {proven})"  # the usual spelling is recognized faster than by RE2
    elif is_line and kind.is_one_pass and (found := extract_expression(file, name, kind.grammar)):
        return f"TRY_CAST({found} AS {kind.duckdb_type})"
    return f"CASE WHEN {proven} THEN {cast} END"
