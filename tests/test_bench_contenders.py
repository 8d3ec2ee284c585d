"""The baselines do what they are compared as, and the answer check tells right from wrong."""

from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import patch

import duckdb
import psycopg2
import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit.bench import baselines, contenders, runner
from etl_toolkit.bench.answer import table_answer
from etl_toolkit.bench.records import Case
from etl_toolkit.bench.workload import GeneratedFiles, Workload, generate, table_sql
from etl_toolkit.errors import SourceError, UsageError

RIGHT_WAYS = [
    "sequential",
    "staged_merge",
    "sorted_copy",
    "auto",
    "partitioned",
    "hybrid",
    "deterministic",
    "streaming",
]


def load(name: str, made: GeneratedFiles, dsn: str, *, workers: int = 2, executor: str = "") -> None:
    files = [str(path) for path in made.files]
    with contenders.configured(name, dsn, batch_rows=None, executor=executor) as contender:
        if contender.prepare is not None:
            files = contender.prepare(files, dsn, "target", workers)
        contender.load(files, dsn, "target", workers)


def rows_of(dsn: str) -> list[str]:
    with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute("SET TimeZone = 'UTC'")
        cursor.execute("SELECT t::text FROM target AS t ORDER BY 1")
        rows = [str(text) for (text,) in cursor.fetchall()]
    connection.close()
    return rows


def last_rows(made: GeneratedFiles, connection: Connection) -> list[str]:
    """The last row of the last file of every key, found without any of our SQL for the server."""
    files = " UNION ALL ".join(
        f"SELECT {number} AS file, * FROM read_csv('{path}', header = true, all_varchar = true)"
        for number, path in enumerate(made.files)
    )
    with duckdb.connect() as duck:
        duck.execute(f"CREATE TABLE a AS {files}")
        rows = duck.execute(
            "SELECT * EXCLUDE file FROM a "
            "QUALIFY row_number() OVER (PARTITION BY id ORDER BY file DESC, rowid DESC) = 1"
        ).fetchall()
    with connection.cursor() as cursor:
        cursor.execute("SET TimeZone = 'UTC'")
        cursor.execute(table_sql(made.workload, "expected"))
        values = b",".join(cursor.mogrify("(%s,%s,%s,%s,%s,%s,%s)", row) for row in rows)
        cursor.execute(b"INSERT INTO expected VALUES " + values)
        cursor.execute("SELECT t::text FROM expected AS t ORDER BY 1")
        return [str(text) for (text,) in cursor.fetchall()]


@pytest.mark.parametrize(
    ("name", "executor"),
    [*((name, "") for name in RIGHT_WAYS), ("partitioned", "processes:2"), ("partitioned", "dask:2")],
)
def test_the_last_row_of_the_last_file_wins(
    name: str, executor: str, tmp_path: Path, database: str, connection: Connection
) -> None:
    made = generate(tmp_path, Workload(files=3, rows=300, overlap=0.5, duplicates_within=0.1))
    with connection.cursor() as cursor:
        cursor.execute(table_sql(made.workload, "target"))
    with patch.dict(os.environ):  # in which a cluster finds, and leaves, what its workers need
        load(name, made, database, executor=executor)
    assert rows_of(database) == last_rows(made, connection)


@pytest.mark.parametrize("name", ["staged_merge", "sorted_copy", "partitioned"])
@pytest.mark.parametrize("key", ["bigint", "text_timestamp"])
def test_mixed_formats_end_as_after_the_sequential_load(
    name: str, key: str, tmp_path: Path, database: str, connection: Connection
) -> None:
    made = generate(tmp_path, Workload(files=3, rows=300, overlap=0.5, format="mixed", key=key))
    with connection.cursor() as cursor:
        cursor.execute(table_sql(made.workload, "target"))
        load("sequential", made, database)
        expected = table_answer(connection, "target")
        cursor.execute("TRUNCATE target")
    load(name, made, database)
    assert table_answer(connection, "target") == expected


def test_the_naive_way_lets_the_last_commit_win(tmp_path: Path, database: str, connection: Connection) -> None:
    """The control: without a guard the large first file commits after the small second one, and its rows stay."""
    large, small = tmp_path / "1.csv", tmp_path / "2.csv"
    large.write_text("id,name\n" + "".join(f"{number},first\n" for number in range(100_000)))
    small.write_text("id,name\n" + "".join(f"{number},second\n" for number in range(10)))
    second = "SELECT count(*) FROM target WHERE name = 'second'"
    found = {}
    with connection.cursor() as cursor:
        for load_files in (baselines.sequential, baselines.naive_parallel):
            cursor.execute("DROP TABLE IF EXISTS target; CREATE TABLE target (id bigint PRIMARY KEY, name text)")
            load_files([str(large), str(small)], database, "target", 2)
            cursor.execute(second)
            found[load_files.__name__] = cursor.fetchone()
    assert found == {"sequential": (10,), "naive_parallel": (0,)}


def test_the_naive_way_is_right_when_files_share_no_key(tmp_path: Path, database: str, connection: Connection) -> None:
    made = generate(tmp_path, Workload(files=3, rows=300))
    with connection.cursor() as cursor:
        cursor.execute(table_sql(made.workload, "target"))
    load("naive_parallel", made, database)
    assert rows_of(database) == last_rows(made, connection)


def test_the_answer_does_not_depend_on_the_order_of_rows(connection: Connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE a AS SELECT i, i * 7 AS j FROM generate_series(1, 100) AS i")
        cursor.execute("CREATE TABLE b AS SELECT i, i * 7 AS j FROM generate_series(100, 1, -1) AS i")
    assert table_answer(connection, "a") == table_answer(connection, "b")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE b SET j = 1.00 WHERE i = 1",
        "DELETE FROM b WHERE i = 1",
        "INSERT INTO b VALUES (2, 2.0)",
        "UPDATE b SET j = NULL",
    ],
)
def test_the_answer_tells_any_difference(connection: Connection, change: str) -> None:
    with connection.cursor() as cursor:
        for table in ("a", "b"):
            cursor.execute(f"CREATE TABLE {table} (i int, j numeric)")
            cursor.execute(f"INSERT INTO {table} VALUES (1, 1.0), (2, 2.0), (2, 2.0)")
        right = table_answer(connection, "a")
        assert table_answer(connection, "b").difference(right) is None
        cursor.execute(change)
    assert str(table_answer(connection, "b").difference(right)).startswith("wrong answer: ")


def test_columns_that_a_loader_adds_are_left_out_of_the_answer(connection: Connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE a (i int, t text); INSERT INTO a VALUES (1, 'x')")
        cursor.execute("CREATE TABLE b (load_id text, i int, t text); INSERT INTO b VALUES ('17', 1, 'x')")
    assert table_answer(connection, "a") == table_answer(connection, "b", ("i", "t"))


def test_a_contender_says_what_it_cannot_do() -> None:
    case = Case("sorted_copy", "floor", "csv", 4, 400, 0.0, "rewritten", 2)
    assert contenders.find("sorted_copy").refusal(case) == "sorted_copy cannot update rows"
    assert contenders.find("sequential").refusal(case) is None


def test_an_unknown_contender_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="unknown contender 'paralel'; choose from auto, partitioned"):
        contenders.find("paralel")


def test_the_reason_of_a_failure_holds_no_row(connection: Connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (name text PRIMARY KEY); INSERT INTO t VALUES ('secret')")
        with pytest.raises(psycopg2.errors.UniqueViolation) as caught:
            cursor.execute("INSERT INTO t VALUES ('secret')")
    assert "secret" in str(caught.value)
    assert runner.reason(caught.value) == 'duplicate key value violates unique constraint "t_pkey" (SQLSTATE 23505)'
    assert runner.reason(ValueError("secret")) == "builtins.ValueError"
    assert runner.reason(SourceError("a.csv: no such file")) == "SourceError: a.csv: no such file"
