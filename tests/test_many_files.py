"""Loads of many files: what is known of them is right however many there are, and cost grows with rows, not with files."""

from __future__ import annotations

import csv
import resource
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg2.extensions import connection as Connection

from etl_toolkit import ConflictAwareProcessor, ParallelConfig, overlap, ranking, scan
from etl_toolkit.display import result_text
from etl_toolkit.keys import KEY_TYPES
from etl_toolkit.model import (
    ConflictAction,
    Counts,
    KeyOverlap,
    LoadResult,
    Plan,
    ReadOptions,
    Strategy,
)
from etl_toolkit.request import load_spec
from etl_toolkit.sources import resolve
from etl_toolkit.strategies import hashed
from etl_toolkit.workspace import open_workspace

KEYS = st.lists(st.lists(st.integers(0, 12), max_size=8), min_size=1, max_size=9)


def write(directory: Path, keys: list[list[int]]) -> list[Path]:
    """A file of (k, file) for each list of keys. The second column keeps their contents apart."""
    paths = []
    for number, own in enumerate(keys):
        paths.append(directory / f"{number}.csv")
        with paths[-1].open("w", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows([("k", "file"), *((key, number) for key in own)])
    return paths


def expected_overlap(keys: list[list[int]]) -> dict[str, Any]:
    """What of an overlap depends on nothing but the sets of keys, counted in Python."""
    owners: dict[int, list[int]] = {}
    for number, own in enumerate(keys):
        for key in sorted(set(own)):
            owners.setdefault(key, []).append(number)
    sets = Counter(tuple(files) for files in owners.values())
    groups = {number: {number} for number in range(len(keys))}
    for files in owners.values():
        merged = set().union(*(groups[file] for file in files))
        groups |= dict.fromkeys(merged, merged)
    return {
        "distinct": [len(set(own)) for own in keys],
        "distinct_keys": len(owners),
        "shared_keys": sum(len(files) > 1 for files in owners.values()),
        "intersections": dict(sets),
        "pairs": dict(Counter(pair for files in owners.values() for pair in combinations(files, 2))),
        "groups": sorted({tuple(sorted(group)) for group in groups.values()}),
    }


def found_overlap(found: KeyOverlap) -> dict[str, Any]:
    return {
        "distinct": [file.distinct_keys for file in found.files],
        "distinct_keys": found.distinct_keys,
        "shared_keys": found.shared_keys,
        "intersections": {item.files: item.keys for item in found.intersections},
        "pairs": dict(found.pairs),
        "groups": sorted(found.groups),
    }


@pytest.mark.parametrize(
    ("mask_bits", "pairs_at_once"), [(62, 10_000), (62, -1), (0, -1)], ids=["few sets", "masks", "hashes"]
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=KEYS)
@example(keys=[[1], [1], [2], [2, 3], [3]])
@example(keys=[[], [1], []])
@example(keys=[[1, 2], [2, 1], [1, 2, 2]])  # the same set of files for all keys
def test_the_overlap_is_that_of_the_sets_of_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mask_bits: int, pairs_at_once: int, keys: list[list[int]]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ranking, "MASK_BITS", mask_bits)
        patch.setattr(overlap, "PAIRS_AT_ONCE", pairs_at_once)
        found = ConflictAwareProcessor("").analyze(write(tmp_path, keys), ["k"])
    assert found_overlap(found) == expected_overlap(keys)


def test_files_at_positions_beyond_16_bits_are_distinguished(tmp_path: Path) -> None:
    with open_workspace(ParallelConfig(), threads=1) as workspace:
        files = resolve(write(tmp_path, [[1, 2], [2, 3], [4]]), ReadOptions(), workspace).files
        far = [replace(file, position=position) for position, file in enumerate(files, start=65_535)]
        scanned = scan.scan(far, ["k"], workspace, key_types=[KEY_TYPES["int8"]])
        ranking.collapse(scanned, workspace, action=ConflictAction.UPDATE)
        found = overlap.measure(scanned, workspace)
        won = scanned.count_by_file(workspace, "SELECT winner FROM keys")
    assert found.pairs == {(65_535, 65_536): 1}
    assert found.groups == ((65_535, 65_536), (65_537,))
    assert won == {65_535: 1, 65_536: 2, 65_537: 1}


def test_pairs_are_left_out_where_they_are_too_many_to_be_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlap, "COUNTED_PAIRS", 2)
    monkeypatch.setattr(overlap, "PAIRS_AT_ONCE", 2)
    found = ConflictAwareProcessor("").analyze(write(tmp_path, [[1, 2], [2, 3], [2, 4]]), ["k"])
    assert (found.pairs, found.shared_keys, found.groups) == ({}, 1, ((0, 1, 2),))
    assert "1 of 4 distinct keys" in found._repr_html_()


@pytest.mark.parametrize("strategy", ["partitioned", "deterministic", "streaming", "full_parallel"])
def test_a_load_of_many_files_takes_no_more_memory_than_its_rows_need(
    database: str, connection: Connection, tmp_path: Path, strategy: str
) -> None:
    """Control: with a word of a mask for 62 files and a relation for each file, 500 files took 480 MB."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (k int PRIMARY KEY, file int)")
    paths = write(tmp_path, [[2 * number, 2 * number + 1] for number in range(500)])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = ConflictAwareProcessor(database).load(paths, load_spec("t", ["k"], strategy=strategy))
    grown_bytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert result
    assert (result.counts.inserted, len(result.files)) == (1_000, 500)
    assert grown_bytes < 150_000_000


def test_many_files_share_a_few_staging_tables_and_keep_their_counts(
    database: str, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that only the server compares. Control: with a table for each file, thousands of them run out of locks."""
    made: list[Any] = []
    create = hashed.create_shared_staging
    monkeypatch.setattr(
        hashed, "create_shared_staging", lambda *given, **named: made.append(given) or create(*given, **named)
    )
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (k numeric PRIMARY KEY, file int)")
        paths = write(tmp_path, [[number // 2, 100 + number] for number in range(50)])
        paths[7].write_text("k,file\n3,7\nx,7\n107,7\n")
        result = ConflictAwareProcessor(database).load(
            paths, load_spec("t", ["k"], strategy="partitioned", max_rejects=1)
        )
        assert result
        assert len(made) <= 2 * hashed.MOST_TABLES  # one of them twice, because of the reject
        cursor.execute("SELECT k::int, file FROM t ORDER BY k")
        last = {number // 2: number for number in range(50)}
        assert cursor.fetchall() == [*last.items(), *((100 + number, number) for number in range(50))]
        assert [counts.read for counts in result.files.values()] == [2] * 7 + [3] + [2] * 42
        assert (result.counts.rejected, result.counts.superseded_later_file) == (1, 25)


def test_a_result_of_many_files_lists_the_first_and_adds_the_others_up() -> None:
    counts = {f"/d/{number:03d}.csv": Counts(read=number, inserted=number) for number in range(300)}
    plan = Plan(Strategy.PARTITIONED, (), (), 1, "client")
    total = sum(range(300))
    result = LoadResult(
        "r", "t", Strategy.PARTITIONED, (), Counts(read=total, inserted=total), counts, 1.0, {}, plan, completed=True
    )
    listed = [line.split() for line in result_text(result).splitlines() if ".csv" in line or "more files" in line]
    assert [line[0] for line in listed[:20]] == [f"{number:03d}.csv" for number in range(20)]
    assert (len(listed), listed[20][:2]) == (21, ["…", "280"])
    assert f"{sum(range(20, 300)):,}" in listed[20]
    assert result_text(result, all_files=True).count(".csv") == 300
