"""Which files share keys, read off the distinct keys that `ranking` has found.

The method is that of a hash intersection of all files at once: every key is counted in exactly one combination of
files, from which shared keys, pairs and connected groups follow. Cost grows with the rows, not with the files, and
DuckDB spills under its memory limit; what reaches Python is a number per file, and lists that are cut off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

from etl_toolkit.model import FileKeys, Intersection, KeyOverlap
from etl_toolkit.ranking import file_set, has_masks
from etl_toolkit.scan import FOUND_AT_ONCE, NULL_KEY, PROVEN, REJECTED, UNPROVEN, KeyScan
from etl_toolkit.workspace import Workspace

MAX_INTERSECTIONS = 1_000
MAX_PAIRS = 5_000  # all of them for 100 files
PAIRS_AT_ONCE = 10_000  # are counted here rather than in DuckDB
COUNTED_PAIRS = 10_000_000  # of files in the sets of files: more take too long to be counted


@dataclass(frozen=True)
class _Totals:
    """What follows from the sets of files that share keys; each two files that share one are connected by `links`."""

    distinct_in: Mapping[int, int]
    distinct: int
    shared: int
    pairs: Mapping[tuple[int, int], int]
    links: Iterable[tuple[int, int]]


def measure(scan_: KeyScan, workspace: Workspace) -> KeyOverlap:
    """Read the overlap off the table `keys` that `ranking.collapse` made."""
    sets = _read_masks(scan_, workspace) if has_masks(scan_) else None
    if sets is None or not _are_few(sets):
        sets = _find_sets(scan_, workspace)
    # As a rule there are few sets: then it takes no further query to add them up.
    totals = _add_up(sets) if _are_few(sets) else _add_up_in_duckdb(workspace)
    files = count_rows(scan_, workspace, totals.distinct_in)
    groups = connected_groups([file.position for file in scan_.files], totals.links)
    return KeyOverlap(
        files, totals.distinct, totals.shared, sets, dict(totals.pairs), groups, key=scan_.key
    )  # fmt: skip


def count_rows(scan_: KeyScan, workspace: Workspace, distinct_in: Mapping[int, int]) -> tuple[FileKeys, ...]:
    """The rows of each file and how many of them are in doubt, beside its distinct keys."""
    doubts = ", ".join(f"count(*) FILTER (WHERE doubt = {doubt})" for doubt in (NULL_KEY, UNPROVEN, REJECTED))
    counted = {row[0]: row[1:] for row in workspace.query(f"SELECT file, count(*), {doubts} FROM rows GROUP BY file")}
    files = []
    for file in scan_.files:
        rows, *doubtful = counted.get(file.position, (0, 0, 0, 0))
        files.append(FileKeys(file.position, file.name, rows, distinct_in.get(file.position, 0), *doubtful))
    return tuple(files)


def _read_masks(scan_: KeyScan, workspace: Workspace) -> tuple[Intersection, ...]:
    """The largest combinations of files that share keys."""
    positions = [file.position for file in scan_.files]
    found = workspace.query(
        f"SELECT files, count(*) AS keys FROM keys GROUP BY files ORDER BY keys DESC, files LIMIT {MAX_INTERSECTIONS}"
    )
    return tuple(Intersection(tuple(at for at in positions if mask >> at & 1), keys) for mask, keys in found)


def _find_sets(scan_: KeyScan, workspace: Workspace) -> tuple[Intersection, ...]:
    """The same; create `sets` (files, keys, winner of one of them), the combinations of files, and `members` (files, file)."""
    workspace.query(
        "CREATE OR REPLACE TABLE sets AS SELECT files, count(*) AS keys, min(winner) AS winner FROM keys GROUP BY files"
    )
    if has_masks(scan_):
        positions = ", ".join(f"({file.position})" for file in scan_.files)
        members = f"SELECT files, file FROM sets JOIN (VALUES {positions}) AS files (file) ON sets.files & {file_set(scan_)} <> 0"
    else:
        known = f"SELECT {scan_.key_sql}, files FROM keys SEMI JOIN sets USING (winner)"
        members = f"SELECT DISTINCT files, file FROM rows JOIN ({known}) USING ({scan_.key_sql}) WHERE doubt = {PROVEN}"
    workspace.query(f"CREATE OR REPLACE TABLE members AS {members}")
    found = workspace.query(
        "SELECT list(file ORDER BY file), any_value(keys) AS most FROM members JOIN "
        f"(FROM sets ORDER BY keys DESC, files LIMIT {MAX_INTERSECTIONS}) USING (files) "
        "GROUP BY files ORDER BY most DESC, files"
    )
    return tuple(Intersection(tuple(places), keys) for places, keys in found)


def _are_few(sets: Sequence[Intersection]) -> bool:
    """Whether these are all sets there are, and quickly added up."""
    return len(sets) < MAX_INTERSECTIONS and sum(comb(len(item.files), 2) for item in sets) <= PAIRS_AT_ONCE


def _add_up(sets: Sequence[Intersection]) -> _Totals:
    """The totals of all sets there are."""
    distinct_in: Counter[int] = Counter()
    pairs: Counter[tuple[int, int]] = Counter()
    for item in sets:
        distinct_in.update(dict.fromkeys(item.files, item.keys))
        pairs.update(dict.fromkeys(combinations(item.files, 2), item.keys))
    largest = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_PAIRS]
    return _Totals(
        distinct_in, sum(item.keys for item in sets), sum(item.keys for item in sets if len(item.files) > 1),
        dict(largest), [(item.files[0], file) for item in sets for file in item.files[1:]],
    )  # fmt: skip


def _add_up_in_duckdb(workspace: Workspace) -> _Totals:
    """The totals of sets that are too many to be listed."""
    distinct_in = dict(
        workspace.query("SELECT file, sum(keys)::BIGINT FROM members JOIN sets USING (files) GROUP BY file")
    )
    distinct, shared, pairs = workspace.query(
        "SELECT coalesce(sum(keys), 0)::BIGINT, coalesce(sum(keys) FILTER (size > 1), 0)::BIGINT, "
        "coalesce(sum(size * (size - 1) // 2), 0)::BIGINT "
        "FROM sets JOIN (SELECT files, count(*) AS size FROM members GROUP BY files) USING (files)"
    )[0]
    largest = _largest_pairs(workspace) if 0 < pairs <= COUNTED_PAIRS else {}
    return _Totals(distinct_in, distinct, shared, largest, _links(workspace) if shared else ())


def _largest_pairs(workspace: Workspace) -> dict[tuple[int, int], int]:
    """The keys that two files share, for those that share most."""
    found = workspace.query(
        "SELECT l.file, r.file, sum(keys)::BIGINT AS shared FROM members AS l JOIN members AS r "
        "ON l.files = r.files AND l.file < r.file JOIN sets ON sets.files = l.files GROUP BY ALL "
        f"ORDER BY shared DESC, l.file, r.file LIMIT {MAX_PAIRS}"
    )
    return {(left, right): keys for left, right, keys in found}


def _links(workspace: Workspace) -> Iterator[tuple[int, int]]:
    """Two files that share a key, as often as it takes to connect all that do: the first file of a set with each other."""
    with workspace.cursor() as source:
        source.execute(
            "SELECT DISTINCT first, file FROM members JOIN (SELECT files, min(file) AS first FROM members GROUP BY files) "
            "USING (files) WHERE file > first"
        )
        while links := source.fetchmany(FOUND_AT_ONCE):
            yield from links


def connected_groups(positions: Sequence[int], links: Iterable[tuple[int, int]]) -> tuple[tuple[int, ...], ...]:
    """The connected components of files over shared keys, by union-find; each in order, the first file first."""
    parent = {position: position for position in positions}
    left_over = len(parent) - 1  # links that can still connect anything

    def root(position: int) -> int:
        while parent[position] != position:
            parent[position] = parent[parent[position]]
            position = parent[position]
        return position

    for left, right in links:
        a, b = root(left), root(right)
        if a == b:
            continue
        parent[max(a, b)] = min(a, b)
        left_over -= 1
        if not left_over:
            break
    groups: dict[int, list[int]] = {}
    for position in positions:
        groups.setdefault(root(position), []).append(position)
    return tuple(tuple(members) for members in groups.values())
