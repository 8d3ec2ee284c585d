"""`dt=2024-01-01/x.parquet`: what the directories of a path say is the value of a column, as Hive and Spark write it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit import ingest
from etl_toolkit.errors import EtlError
from etl_toolkit.processor import ConflictAwareProcessor
from etl_toolkit.rejected import export_rejects

STRATEGIES = ("auto", "full_parallel", "hybrid", "deterministic", "streaming", "partitioned")


def part(root: Path, directory: str, form: str, **columns: list[Any]) -> Path:
    path = root / directory / f"part.{form}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == "parquet":
        pq.write_table(pa.table(columns), path)
    else:
        rows = [",".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
        path.write_text("\n".join([",".join(columns), *rows]) + "\n")
    return path


def rows(connection: Connection, query: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return list(cursor.fetchall())


def run(connection: Connection, statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_column_that_only_the_path_has_takes_its_value(
    database: str, connection: Connection, tmp_path: Path, form: str, strategy: str
) -> None:
    run(connection, "CREATE TABLE t (id int PRIMARY KEY, v text, dt date, region text)")
    files = [
        part(tmp_path, "dt=2024-01-01/region=a%2Fb %C3%A9", form, id=[1, 2], v=["a", "b"]),
        part(tmp_path, "dt=2024-01-02/region=__HIVE_DEFAULT_PARTITION__", form, id=[3], v=["c"]),
    ]
    result = ingest(files, "t", "id", database, strategy=strategy)
    assert result
    assert "dt, region of a row is what the directory of its file says" in result.reasons
    assert rows(connection, "SELECT id, v, dt::text, region FROM t ORDER BY id") == [
        (1, "a", "2024-01-01", "a/b é"), (2, "b", "2024-01-01", "a/b é"), (3, "c", "2024-01-02", None),
    ]  # fmt: skip


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_column_of_the_path_may_be_part_of_the_key(
    database: str, connection: Connection, tmp_path: Path, form: str, strategy: str
) -> None:
    """The bytes of both files are the same, and yet they are not the same content."""
    run(connection, "CREATE TABLE t (id int, v text, DT date, PRIMARY KEY (id, dt))")
    files = [part(tmp_path, f"dt=2024-01-0{day}", form, id=[1, 2], v=["a", "b"]) for day in (1, 2)]
    result = ingest(files, "t", ["id", "dt"], database, strategy=strategy)
    assert result.duplicates == ()
    assert rows(connection, "SELECT dt::text, count(*) FROM t GROUP BY dt ORDER BY dt") == [
        ("2024-01-01", 2), ("2024-01-02", 2),
    ]  # fmt: skip


def test_the_key_overlap_knows_the_columns_of_paths(tmp_path: Path) -> None:
    files = [part(tmp_path, f"dt=2024-01-0{day}", "csv", id=[1, 2], v=["a", "b"]) for day in (1, 2)]
    overlap = ConflictAwareProcessor().analyze(files, ["id", "dt"])
    assert (overlap.distinct_keys, overlap.shared_keys) == (4, 0)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_file_that_has_the_column_itself_says_it_row_by_row(
    database: str, connection: Connection, tmp_path: Path, form: str
) -> None:
    run(connection, "CREATE TABLE t (id int PRIMARY KEY, dt text)")
    ingest(part(tmp_path, "dt=of the path", form, id=[1], DT=["of the file"]), "t", "id", database)
    assert rows(connection, "TABLE t") == [(1, "of the file")]


def test_a_directory_that_names_no_column_of_the_table_means_nothing(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    run(connection, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    first, second = (part(tmp_path, f"run={number}", "csv", id=[1], v=["a"]) for number in (1, 2))
    result = ingest([first, second], "t", "id", database)
    assert result.duplicates == ((str(first), str(second)),)
    assert rows(connection, "TABLE t") == [(1, "a")]


def test_a_table_is_created_with_the_columns_of_the_paths(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    files = [part(tmp_path, f"dt=2024-01-0{day}/n={day}", "parquet", id=[1]) for day in (1, 2)]
    ingest(files, "t", ["id", "dt"], database, create_table=True)
    assert rows(connection, "SELECT id, dt::text, n, pg_typeof(dt)::text, pg_typeof(n)::text FROM t ORDER BY dt") == [
        (1, "2024-01-01", 1, "date", "bigint"), (1, "2024-01-02", 2, "date", "bigint"),
    ]  # fmt: skip


def test_a_value_that_the_column_cannot_take_rejects_the_rows(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    run(connection, "CREATE TABLE t (id int PRIMARY KEY, dt date)")
    files = [
        part(tmp_path, f"dt={day}", "csv", id=[number], v=["x"]) for number, day in enumerate(["soon", "2024-01-01"])
    ]
    with pytest.raises(EtlError, match="soon"):
        ingest(files, "t", "id", database, extra_columns="ignore")
    result = ingest(files, "t", "id", database, extra_columns="ignore", max_rejects=1)
    assert rows(connection, "SELECT id, dt::text FROM t") == [(1, "2024-01-01")]
    assert rows(connection, "SELECT file, record, line, raw FROM etl_toolkit.rejects WHERE run_id = "
                f"'{result.run_id}'") == [(0, 0, 2, "0,x")]  # fmt: skip


def test_exported_rejects_keep_the_columns_of_their_paths(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    run(connection, "CREATE TABLE t (id int PRIMARY KEY, n int, dt date)")
    files = [part(tmp_path, f"dt=2024-01-0{day}", "csv", id=[day], n=[f"bad{day}"]) for day in (1, 2)]
    result = ingest(files, "t", "id", database, max_rejects=9)
    (tmp_path / "out").mkdir()
    assert export_rejects(connection, result.run_id, tmp_path / "out" / "fix.csv") == 2
    fixed = sorted((tmp_path / "out").rglob("fix.csv"))
    for path in fixed:
        path.write_text(path.read_text().replace("bad", ""))
    ingest(fixed, "t", "id", database)
    assert rows(connection, "SELECT id, n, dt::text FROM t ORDER BY id") == [(1, 1, "2024-01-01"), (2, 2, "2024-01-02")]
