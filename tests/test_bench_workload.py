"""Generated files: reproducible to the byte, and with exactly the keys that their manifest says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit.bench.input_files import reader
from etl_toolkit.bench.workload import GeneratedFiles, Workload, generate, table_sql
from etl_toolkit.errors import UsageError

SMALL = Workload(files=3, rows=2_000, overlap=0.5)


def counted(made: GeneratedFiles) -> tuple[int, int, int]:
    """Rows, distinct keys and keys in more than one file, counted by DuckDB."""
    key = ", ".join(made.workload.primary_key)
    files = " UNION ALL BY NAME ".join(
        f"SELECT {number} AS file, {key} FROM {reader(str(path))}" for number, path in enumerate(made.files)
    )
    if made.workload.key == "text_timestamp":  # one text for one instant, whatever the format says
        files = f"SELECT file, device, measured_at::TIMESTAMPTZ AS measured_at FROM ({files})"
    counts = f"SELECT {key}, count(*) AS rows, count(DISTINCT file) AS files FROM ({files}) GROUP BY ALL"
    query = f"SELECT sum(rows), count(*), count(*) FILTER (files > 1) FROM ({counts})"
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        found = connection.execute(query).fetchone()
    assert found is not None
    return int(found[0]), int(found[1]), int(found[2])


def content(made: GeneratedFiles) -> list[bytes]:
    return [path.read_bytes() for path in made.files]


@pytest.mark.parametrize("kind", ["csv", "parquet", "mixed"])
def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, kind: str) -> None:
    workload = replace(SMALL, format=kind, seed=7)
    assert content(generate(tmp_path / "a", workload)) == content(generate(tmp_path / "b", workload))


def test_another_seed_gives_other_files(tmp_path: Path) -> None:
    first, second = (content(generate(tmp_path / str(seed), replace(SMALL, seed=seed))) for seed in (1, 2))
    assert not set(first) & set(second)


@pytest.mark.parametrize(
    "workload",
    [
        Workload(files=4, rows=1_000, overlap=0.0),
        Workload(files=4, rows=1_000, overlap=0.25),
        Workload(files=4, rows=1_000, overlap=0.75),
        Workload(files=4, rows=1_000, overlap=1.0),
        Workload(files=1, rows=1_000, overlap=0.5),
        Workload(files=3, rows=1_001, overlap=0.5, duplicates_within=0.2),
        Workload(files=3, rows=1_000, overlap=0.5, format="mixed", key="text_timestamp"),
    ],
    ids=str,
)
def test_the_manifest_counts_what_is_in_the_files(tmp_path: Path, workload: Workload) -> None:
    made = generate(tmp_path, workload)
    assert (made.rows, made.distinct_keys, made.shared_keys) == counted(made)


def test_the_workloads_of_the_performance_notes_have_the_keys_that_are_written_there() -> None:
    keys = {overlap: Workload(overlap=overlap).total_distinct for overlap in (0.0, 0.5, 1.0)}
    assert keys == {0.0: 2_000_000, 0.5: 1_250_000, 1.0: 500_000}


def test_files_with_the_same_keys_hold_them_in_different_orders(tmp_path: Path) -> None:
    made = generate(tmp_path, Workload(files=2, rows=2_000, overlap=1.0))
    first, second = ([line.split(",")[0] for line in path.read_text().splitlines()[1:]] for path in made.files)
    assert sorted(first) == sorted(second)
    assert sum(one == other for one, other in zip(first, second, strict=True)) < 20


def test_nothing_but_the_files_is_left_behind(tmp_path: Path) -> None:
    made = generate(tmp_path, SMALL)
    assert sorted(tmp_path.iterdir()) == sorted(made.files)


def test_names_sort_in_load_order(tmp_path: Path) -> None:
    made = generate(tmp_path, Workload(files=12, rows=10))
    assert sorted(path.name for path in made.files) == [path.name for path in made.files]


@pytest.mark.parametrize("key", ["bigint", "text_timestamp"])
def test_the_server_takes_the_table_and_every_row(tmp_path: Path, connection: Connection, key: str) -> None:
    made = generate(tmp_path, Workload(files=1, rows=500, key=key))
    with connection.cursor() as cursor, made.files[0].open() as file:
        cursor.execute(table_sql(made.workload, "t"))
        cursor.copy_expert("COPY t FROM STDIN (FORMAT csv, HEADER)", file)
        cursor.execute("SELECT count(*) FROM t")
        assert cursor.fetchone() == (500,)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"overlap": 50}, "overlap is 50; it must be a fraction from 0 to 1"),
        ({"format": "xlsx"}, "choose from"),
        ({"files": 0}, "at least 1"),
        ({"files": 10_000, "rows": 1_000_000}, "more than 2\\^32"),
    ],
)
def test_what_cannot_be_generated_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        replace(SMALL, **changes)
