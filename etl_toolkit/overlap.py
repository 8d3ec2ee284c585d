"""Which files share keys: one read over all of them into DuckDB, then one GROUP BY over a bit mask of files.

The method is that of a hash intersection of all files at once: every key is counted in exactly one combination of
files, from which pairs, shared keys and connected groups follow. Nothing here grows with the number of keys in Python;
DuckDB spills under its memory limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import combinations, pairwise

import duckdb

from etl_toolkit.errors import SourceError
from etl_toolkit.keys import KeyType
from etl_toolkit.model import ConflictAction, FileKeys, Intersection, KeyOverlap, Layout, SourceFile
from etl_toolkit.sources import (
    HeldLines,
    alike,
    extract_expression,
    is_record,
    line_relation,
    read_failure,
    record_expression,
    text_relation,
)
from etl_toolkit.workspace import Workspace, literal, search_sql

MASK_BITS = 62  # bits of a BIGINT word that are safe to shift into
MAX_INTERSECTIONS = 1_000
FOUND_AT_ONCE = 65_536  # rows
SORTED_PARTS = (
    4  # of the memory limit: what is sorted at once takes a quarter of it, and DuckDB's sort about as much again
)
SAMPLED = 64  # one key of so many, before all of them are looked at
KEYS_TO_A_TEXT = 10  # on average, for its rank to be worth finding

PROVEN, NULL_KEY, UNPROVEN, REJECTED = 0, 1, 2, 3  # values of rows.doubt


@dataclass(frozen=True)
class KeyScan:
    """The table `rows` in the workspace: (file, k0…, [o], [record or place], doubt), its rowid counting rows in order.

    `first_row` maps a file's position to the rowid of its first record, so that a record's number in its file is
    `rowid - first_row[file]`; `first_place` to what that record is known by (`row_sql`). `key_columns` are the names
    k0, k1, … for the key's parts. Where `held` has the lines of the files, a row has the line's place instead of a record.
    """

    files: tuple[SourceFile, ...]
    key: tuple[str, ...]
    first_row: Mapping[int, int]
    first_place: Mapping[int, int]
    has_records: bool
    has_order: bool
    held: HeldLines | None = None

    def file(self, position: int) -> SourceFile:
        return next(file for file in self.files if file.position == position)

    @property
    def row_sql(self) -> str:
        """What a row is known by: a number that grows in the order of rows."""
        return "place" if self.held else "rowid"

    @property
    def record_sql(self) -> str:
        """The column by which a row has its record: see `with_records`."""
        return "place" if self.held else "record"

    @contextmanager
    def with_records(self, workspace: Workspace, query: str) -> Iterator[duckdb.DuckDBPyConnection]:
        """A cursor with a relation `found`: the rows of a query, which has `record_sql`, with their `record`."""
        with workspace.cursor() as source, workspace.cursor() as places:
            if self.held:
                source.register("found", self.held.with_records(places.sql(query).to_arrow_reader(FOUND_AT_ONCE)))
            else:
                source.execute(f"CREATE TEMP VIEW found AS {query}")
            yield source

    def file_sql(self, row: str) -> str:
        """An expression of the file that a row lies in, since the rows stand in file order."""
        return search_sql(sorted((first, position) for position, first in self.first_place.items()), row)

    @property
    def key_columns(self) -> list[str]:
        return [f"k{number}" for number in range(len(self.key))]

    @property
    def key_sql(self) -> str:
        return ", ".join(self.key_columns)


def scan(
    files: Sequence[SourceFile],
    key: Sequence[str],
    workspace: Workspace,
    *,
    key_types: Sequence[KeyType],
    layout: Layout | None = None,
    order: tuple[str, KeyType] | None = None,
) -> KeyScan:
    """Read the keys of all files (and with `layout` their records) into the workspace's table `rows`.

    Raises SourceError where a file cannot be read or lacks a key column: a scan that fails is never "no conflict".
    """
    held = _held(files, layout, workspace)
    runs = [[file] for file in files] if held else list(alike(files))
    selects = [_select(run, key, workspace, key_types=key_types, layout=layout, order=order, held=held) for run in runs]
    try:
        with workspace.cursor() as source:
            if held:
                for file in files:
                    source.register(f"lines_{file.position}", held.lines(file.position))
            source.execute("CREATE TABLE rows AS " + " UNION ALL ".join(selects))
    except duckdb.Error as error:
        raise read_failure(files, error) from None
    scan_ = KeyScan(tuple(files), tuple(key), {}, {}, layout is not None, order is not None, held)
    firsts = workspace.query(f"SELECT file, min(rowid), min({scan_.row_sql}) FROM rows GROUP BY file")
    return replace(scan_, first_row={row[0]: row[1] for row in firsts}, first_place={row[0]: row[2] for row in firsts})


def _held(files: Sequence[SourceFile], layout: Layout | None, workspace: Workspace) -> HeldLines | None:
    """The files' lines in memory, where there is room for them and each is the record to send."""
    if layout is None or not workspace.held_bytes or not all(is_record(file, layout) for file in files):
        return None
    return HeldLines(files)


def _select(
    run: Sequence[SourceFile],
    key: Sequence[str],
    workspace: Workspace,
    *,
    key_types: Sequence[KeyType],
    layout: Layout | None,
    order: tuple[str, KeyType] | None,
    held: HeldLines | None,
) -> str:
    """The rows of neighbouring files that are read alike."""
    file = run[0]
    names = [*key, *([order[0]] if order else []), *(layout.columns if layout else ())]
    if missing := [name for name in key if name not in file.carried]:
        raise SourceError(
            f"{file.name}: has no key column {', '.join(map(repr, missing))}; its columns are {', '.join(file.carried)}"
        )
    relation, texts = text_relation(file, names, workspace)
    position = f"{file.position}"
    if held:
        relation = f"lines_{file.position}"
    elif file.is_plain:
        relation, position = line_relation(run), f"file_index + {file.position}"
    items = [f"({position})::USMALLINT AS file"]
    key_texts = list(zip(key, texts, key_types, strict=False))
    items += [f"{_typed(file, *item)} AS k{number}" for number, item in enumerate(key_texts)]
    proven = [f"k{number} IS NOT NULL" for number in range(len(key))]
    if order:
        order_text = texts[len(key)]
        items.append(f"{_typed(file, order[0], order_text, order[1])} AS o")
        # An order value the client cannot read would rank as NULL, and the wrong row would win.
        proven.append(f"(o IS NOT NULL OR {order_text} IS NULL)")
    nulls = " OR ".join(f"{text} IS NULL" for _, text, _ in key_texts)
    items.append(
        f"(CASE WHEN {' AND '.join(proven)} THEN {PROVEN} WHEN {nulls} THEN {NULL_KEY} ELSE {UNPROVEN} END)::UTINYINT AS doubt"
    )
    if held:
        items.append("place")
    elif layout:
        record = record_expression(file, texts[len(names) - len(layout.columns) :], layout)
        items.append(f"{record} AS record")
    return f"SELECT {', '.join(items)} FROM {relation}"


def _typed(file: SourceFile, name: str, text: str, kind: KeyType) -> str:
    """An expression of a key or order value: NULL where it is NULL, or spelled so that only the server can read it."""
    if kind.grammar is None:
        return text
    cast, proven = f"TRY_CAST({text} AS {kind.duckdb_type})", f"regexp_full_match({text}, {literal(kind.grammar)})"
    if kind.is_integer and name == file.columns[0]:
        proven = f"({cast}::VARCHAR = {text} OR {proven})"  # the usual spelling is told faster than by RE2
    elif kind.is_one_pass and (found := extract_expression(file, name, kind.grammar)):
        return f"TRY_CAST({found} AS {kind.duckdb_type})"
    return f"CASE WHEN {proven} THEN {cast} END"


def collapse(scan_: KeyScan, workspace: Workspace, *, action: ConflictAction) -> None:
    """Create `keys`: (k0…, w0… words of the file mask, winner), one row per distinct key.

    The winner, as `scan_.row_sql` knows it, is the last row, the first one for `ignore`, or the greatest order column
    with ties to the last. Where no key stands in two rows, `keys` is a view of `rows`.
    """
    workspace.query(f"DROP {'TABLE' if _is_table('keys', workspace) else 'VIEW'} IF EXISTS keys")
    workspace.query("DROP TABLE IF EXISTS ordered")
    if _is_unique(scan_, workspace):
        workspace.query(
            f"CREATE VIEW keys AS SELECT {scan_.key_sql}, {_masks(scan_, '({})')}, {scan_.row_sql} AS winner "
            f"FROM rows WHERE doubt = {PROVEN}"
        )
        return
    pick = f"{'min' if action is ConflictAction.IGNORE else 'max'}({scan_.row_sql})"
    if scan_.has_order:
        # arg_max skips NULLs, so NULL order values rank below every other by way of a pair.
        pick = f"max({{'present': o IS NOT NULL, 'o': o, 'row': {scan_.row_sql}}}).row"
    workspace.query(
        f"CREATE TABLE keys AS SELECT {scan_.key_sql}, {_masks(scan_, 'bit_or({})')}, {pick} AS winner "
        f"FROM rows WHERE doubt = {PROVEN} GROUP BY {scan_.key_sql}"
    )


def put_in_order(scan_: KeyScan, workspace: Workspace) -> None:
    """Create `ordered`: (row, [file, record]), the winners in key order, unless `collapse` has made it on its way.

    Records that are not held are brought into that order as well, so many at a time that they fit into memory.
    """
    if _is_table("ordered", workspace):
        return
    keys, by = _sortable("keys", scan_, workspace)
    in_order = f"SELECT winner AS row FROM {keys} ORDER BY {', '.join(by)}"
    if scan_.held:
        workspace.query(f"CREATE TABLE ordered AS {in_order}")
        return
    workspace.query(f"CREATE OR REPLACE TABLE turns AS {in_order}")
    rows = workspace.query("SELECT count(*) FROM turns")[0][0]
    size = workspace.query("SELECT coalesce(sum(strlen(record)), 0) FROM rows")[0][0]
    parts = SORTED_PARTS * size // workspace.limit_bytes + 1
    workspace.query("CREATE TABLE ordered (row BIGINT, file USMALLINT, record VARCHAR)")
    for first, end in pairwise(rows * number // parts for number in range(parts + 1)):
        turns = f"(SELECT row, rowid AS turn FROM turns WHERE rowid >= {first} AND rowid < {end})"
        workspace.query(
            f"INSERT INTO ordered SELECT row, file, record FROM rows JOIN {turns} ON rows.rowid = row ORDER BY turn"
        )
    workspace.query("DROP TABLE turns")


def _is_table(name: str, workspace: Workspace) -> bool:
    return bool(workspace.query("SELECT count(*) FROM duckdb_tables() WHERE table_name = ?", [name])[0][0])


def _is_unique(scan_: KeyScan, workspace: Workspace) -> bool:
    """Whether no key stands in two rows; if so, and lines are held, `ordered` is made.

    A sample of the keys tells of most loads with duplicates. Else the rows are sorted and neighbours compared: that costs
    no more than to count the keys, and rows that are sorted can be loaded.
    """
    usable = f"SELECT {scan_.key_sql}, {scan_.row_sql} AS winner FROM rows WHERE doubt = {PROVEN}"
    sampled = f"hash({scan_.key_sql}) % {SAMPLED} = 0"
    for share in [sampled] if scan_.held else [sampled, "true"]:
        rows, keys = workspace.query(
            f"WITH part AS (SELECT {scan_.key_sql} FROM ({usable}) WHERE {share}) "
            "SELECT count(*), (SELECT count(*) FROM (SELECT DISTINCT * FROM part)) FROM part"
        )[0]
        if rows != keys:
            return False
    if not scan_.held:
        return True
    found, by = _sortable(f"({usable})", scan_, workspace)
    workspace.query(
        f"CREATE TABLE ordered AS SELECT winner AS row, {', '.join(by)} FROM {found} ORDER BY {', '.join(by)}"
    )
    same = " AND ".join(f"{name} = lag({name}) OVER ()" for name in by)
    if workspace.query(f"SELECT count(*) FROM (SELECT {same} AS same FROM ordered) WHERE same")[0][0]:
        workspace.query("DROP TABLE ordered")
        return False
    return True


def _sortable(keys: str, scan_: KeyScan, workspace: Workspace) -> tuple[str, list[str]]:
    """A relation of `keys` and what to sort it by to have it in key order.

    A text that begins a key of several columns is sorted by its rank, where there are many keys to each: DuckDB sorts
    numbers several times as fast as rows with a text in them.
    """
    first, *others = scan_.key_columns
    if others:
        kind, texts, count = workspace.query(
            f"SELECT any_value(typeof({first})), approx_count_distinct({first}), count(*) FROM {keys}"
        )[0]
        if kind == "VARCHAR" and texts * KEYS_TO_A_TEXT < count:
            workspace.query(
                f"CREATE OR REPLACE TABLE ranks AS SELECT {first}, row_number() OVER (ORDER BY {first}) AS rank "
                f"FROM (SELECT DISTINCT {first} FROM {keys})"
            )
            return f"{keys} JOIN ranks USING ({first})", ["rank", *others]
    return keys, scan_.key_columns


def _masks(scan_: KeyScan, wrap: str) -> str:
    """The words of the file mask, each wrapped."""
    if _words(scan_) == 1:
        return f"{wrap.format('1::BIGINT << file')} AS w0"
    shifted = f"1::BIGINT << (file % {MASK_BITS})"
    return ", ".join(
        wrap.format(f"CASE WHEN file // {MASK_BITS} = {word} THEN ({shifted}) ELSE 0::BIGINT END") + f" AS w{word}"
        for word in range(_words(scan_))
    )


def _words(scan_: KeyScan) -> int:
    return max(file.position for file in scan_.files) // MASK_BITS + 1


def measure(scan_: KeyScan, workspace: Workspace) -> KeyOverlap:
    """Read the overlap off the table `keys` that `collapse` made."""
    columns = ", ".join(_word_names(scan_))
    distinct_in = _distinct_keys(scan_, workspace)
    doubts = ", ".join(f"count(*) FILTER (WHERE doubt = {doubt})" for doubt in (NULL_KEY, UNPROVEN, REJECTED))
    counted = {row[0]: row[1:] for row in workspace.query(f"SELECT file, count(*), {doubts} FROM rows GROUP BY file")}

    files = []
    for file in scan_.files:
        rows, *doubtful = counted.get(file.position, (0, 0, 0, 0))
        files.append(FileKeys(file.position, file.name, rows, distinct_in[file.position], *doubtful))
    top = workspace.query(f"SELECT {columns}, keys FROM masks ORDER BY keys DESC, {columns} LIMIT {MAX_INTERSECTIONS}")
    intersections = [Intersection(_positions(row[:-1]), row[-1]) for row in top]
    pairs = _pairs(scan_, workspace, intersections)
    distinct = int(workspace.query("SELECT coalesce(sum(keys), 0) FROM masks")[0][0])
    several = " + ".join(f"bit_count({word})" for word in _word_names(scan_))
    shared = int(workspace.query(f"SELECT coalesce(sum(keys), 0) FROM masks WHERE {several} > 1")[0][0])
    groups = connected_groups([file.position for file in scan_.files], pairs)
    return KeyOverlap(tuple(files), distinct, shared, tuple(intersections), pairs, groups, key=scan_.key)


def _distinct_keys(scan_: KeyScan, workspace: Workspace) -> dict[int, int]:
    """Return the distinct keys of each file, by position, off the masks of the table `keys` (left in `masks`)."""
    columns = ", ".join(_word_names(scan_))
    workspace.query(f"CREATE OR REPLACE TABLE masks AS SELECT {columns}, count(*) AS keys FROM keys GROUP BY {columns}")
    positions = [file.position for file in scan_.files]
    sums = ", ".join(
        f"coalesce(sum(keys) FILTER (WHERE (w{at // MASK_BITS} & (1::BIGINT << {at % MASK_BITS})) <> 0), 0)"
        for at in positions
    )
    return {at: int(keys) for at, keys in zip(positions, workspace.query(f"SELECT {sums} FROM masks")[0], strict=True)}


def _word_names(scan_: KeyScan) -> list[str]:
    return [f"w{word}" for word in range(_words(scan_))]


def _positions(words: Sequence[int]) -> tuple[int, ...]:
    return tuple(
        word * MASK_BITS + bit for word, mask in enumerate(words) for bit in range(MASK_BITS) if mask & (1 << bit)
    )


def _pairs(scan_: KeyScan, workspace: Workspace, intersections: Sequence[Intersection]) -> dict[tuple[int, int], int]:
    """Keys shared by each two files; from the intersections while they are all known, else from the masks."""
    pairs: dict[tuple[int, int], int] = {}
    if len(intersections) < MAX_INTERSECTIONS:
        for intersection in intersections:
            for pair in combinations(intersection.files, 2):
                pairs[pair] = pairs.get(pair, 0) + intersection.keys
        return pairs
    positions = " UNION ALL ".join(f"SELECT {file.position} AS p" for file in scan_.files)

    def has(alias: str) -> str:
        words = range(_words(scan_))
        return " OR ".join(
            f"({alias}.p // {MASK_BITS} = {word} AND (w{word} & (1::BIGINT << ({alias}.p % {MASK_BITS})::BIGINT)) <> 0)"
            for word in words
        )

    found = workspace.query(
        f"WITH p AS ({positions}) SELECT a.p, b.p, sum(keys) FROM masks, p a, p b "
        f"WHERE a.p < b.p AND ({has('a')}) AND ({has('b')}) GROUP BY 1, 2"
    )
    return {(left, right): int(keys) for left, right, keys in found}


def connected_groups(positions: Sequence[int], pairs: Iterable[tuple[int, int]]) -> tuple[tuple[int, ...], ...]:
    """The connected components of files over shared keys, by union-find; each in order, the first file first."""
    parent = {position: position for position in positions}

    def root(position: int) -> int:
        while parent[position] != position:
            parent[position] = parent[parent[position]]
            position = parent[position]
        return position

    for left, right in pairs:
        a, b = root(left), root(right)
        parent[max(a, b)] = min(a, b)
    groups: dict[int, list[int]] = {}
    for position in positions:
        groups.setdefault(root(position), []).append(position)
    return tuple(tuple(members) for members in groups.values())
