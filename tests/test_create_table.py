"""`--create-table`: the types it gives over all files, what it leaves behind, and that `plan` leaves nothing."""

from __future__ import annotations

import datetime as dt
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit import ConflictAwareProcessor, ParallelConfig, ingest
from etl_toolkit.errors import RejectLimitError, SourceError, TargetError

# Values of one CSV column (None: nothing) and the type it gets.
INFERRED: dict[str, tuple[list[str | None], str]] = {
    "integers": (["1", "-20", "0", None], "bigint"),
    "leading zeros": (["7", "007"], "text"),
    "plus sign": (["1", "+1"], "text"),
    "blanks": (["1", " 1"], "text"),
    "minus zero": (["1", "-0"], "text"),
    "18 digits": (["9" * 18], "bigint"),
    "20 digits": (["1", "9" * 20], "numeric"),
    "200 digits": (["9" * 200], "text"),
    "decimals": (["1.50", "-0.5", "3"], "numeric"),
    "decimals without a digit in front": (["1.5", ".5"], "text"),
    "decimal comma": (['"1,5"'], "text"),
    "exponents with decimals": (["0.5", "1e-07"], "numeric"),
    "exponents alone": (["1e5", "2"], "text"),
    "not a number": (["1.5", "NaN"], "text"),
    "booleans": (["true", "False", "TRUE", None], "boolean"),
    "letters": (["t", "f"], "text"),
    "yes": (["true", "yes"], "text"),
    "dates": (["2024-02-29", "1999-12-31"], "date"),
    "no such day": (["2023-02-29"], "text"),
    "american dates": (["12/31/2024"], "text"),
    "timestamps": (["2024-02-29 01:02:03.123456", "2024-02-29T01:02"], "timestamp without time zone"),
    "more digits than a timestamp has": (["2024-02-29 01:02:03.1234567"], "text"),
    "nothing but zeros more": (["2024-02-29 01:02:03.123456000"], "timestamp without time zone"),
    "dates and timestamps": (["2024-02-29", "2024-02-29 01:02:03"], "timestamp without time zone"),
    "offsets": (["2024-02-29 01:02:03+00:00", "2024-02-29T01:02:03Z", "2024-02-29 01:02:03-0530"], "timestamp with time zone"),
    "offsets on some": (["2024-02-29 01:02:03+00", "2024-02-29 01:02:03"], "text"),
    "hour 25": (["2024-02-29 25:00:00"], "text"),
    "uuids": (["6f1ab8e6-3d5c-4a4d-9d6e-2f8a1f0c1b2a", "6F1AB8E6-3D5C-4A4D-9D6E-2F8A1F0C1B2A"], "uuid"),
    "uuid without dashes": (["6f1ab8e63d5c4a4d9d6e2f8a1f0c1b2a"], "text"),
    "empty text": (["1", '""'], "text"),
    "numbers and words": (["1", "n/a"], "text"),
    "nothing": ([None, None], "text"),
    "times": (["01:02:03"], "text"),
}  # fmt: skip


def columns_of(connection: Connection, table: str = "t") -> dict[str, str]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
            "WHERE attrelid = to_regclass(%s) AND attnum > 0 ORDER BY attnum", (table,)
        )  # fmt: skip
        return dict(cursor.fetchall())


def rows_of(connection: Connection, query: str = "SELECT t::text FROM t ORDER BY 1") -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("SET TimeZone = 'UTC'")
        cursor.execute(query)
        return [row[0] for row in cursor.fetchall()]


def test_types_are_no_narrower_than_the_values(database: str, connection: Connection, tmp_path: Path) -> None:
    """All columns of `INFERRED` as one file, whose values stand spelled as they are in the table."""
    height = max(len(values) for values, _ in INFERRED.values())
    lines = [",".join(["id", *(f'"{name}"' for name in INFERRED)])]
    for row in range(height):
        cells = [values[row] if row < len(values) else None for values, _ in INFERRED.values()]
        lines.append(",".join([str(row), *(cell or "" for cell in cells)]))
    path = tmp_path / "f.csv"
    path.write_text("\n".join(lines) + "\n")
    result = ingest(path, "t", "id", database, create_table=True)
    assert columns_of(connection) == {"id": "bigint", **{name: kind for name, (_, kind) in INFERRED.items()}}
    assert result.counts.inserted == height


TYPED: dict[str, tuple[Any, str]] = {
    "int8": (pa.array([1], pa.int8()), "bigint"),
    "uint64": (pa.array([2**64 - 1], pa.uint64()), "numeric"),
    "decimal": (pa.array([Decimal("1.5")]), "numeric"),
    "float": (pa.array([1.5], pa.float32()), "real"),
    "double": (pa.array([1.5]), "double precision"),
    "boolean": (pa.array([True]), "boolean"),
    "text": (pa.array(["1"]), "text"),
    "category": (pa.array(["1"]).dictionary_encode(), "text"),
    "date": (pa.array([dt.date(2024, 1, 1)]), "date"),
    "time": (pa.array([dt.time(1, 2)]), "time without time zone"),
    "nanoseconds": (pa.array([1], pa.timestamp("ns")), "timestamp without time zone"),
    "zoned": (pa.array([1], pa.timestamp("us", "UTC")), "timestamp with time zone"),
    "bytes": (pa.array([b"a"]), "bytea"),
    "integers": (pa.array([[1]]), "bigint[]"),
    "texts": (pa.array([["a"]]), "text[]"),
    "matrix": (pa.array([[[1]]]), "jsonb"),
    "struct": (pa.array([{"a": 1}]), "jsonb"),
    "nothing": (pa.nulls(1), "text"),
}  # fmt: skip


@pytest.mark.parametrize("form", ["parquet", "frame"])
def test_parquet_and_frames_keep_their_types(form: str, database: str, connection: Connection, tmp_path: Path) -> None:
    table = pa.table({"id": [1], **{name: values for name, (values, _) in TYPED.items()}})
    pq.write_table(table, tmp_path / "f.parquet")
    assert ingest(table if form == "frame" else tmp_path / "f.parquet", "t", "id", database, create_table=True)
    assert columns_of(connection) == {"id": "bigint", **{name: kind for name, (_, kind) in TYPED.items()}}


@pytest.mark.parametrize(
    ("csv_values", "arrow_values", "expected"),
    [
        (["1"], [2], "bigint"),
        (["007"], [2], "text"),
        (["1"], ["2"], "text"),
        (["1.5"], [2.5], "numeric"),
        (["1"], [2.5], "numeric"),
        (["2024-01-01"], [dt.datetime.fromisoformat("2024-01-01")], "timestamp without time zone"),
        (["2024-01-01 00:00:00"], [dt.datetime(2024, 1, 1, tzinfo=dt.UTC)], "text"),
        ([""], [2], "bigint"),
        (["x"], [[2]], "text"),
    ],
)  # fmt: skip
def test_types_are_found_over_all_files(
    csv_values: list[str], arrow_values: list[Any], expected: str, database: str, connection: Connection, tmp_path: Path
) -> None:
    path = tmp_path / "f.csv"
    path.write_text("id,v\n" + "".join(f"{number},{text}\n" for number, text in enumerate(csv_values)))
    frame = pa.table({"id": range(100, 100 + len(arrow_values)), "v": arrow_values})
    assert ingest([path, frame], "t", "id", database, create_table=True)
    assert columns_of(connection)["v"] == expected


def test_files_with_different_columns_make_one_table(database: str, connection: Connection, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Id,a\n1,x\n")
    (tmp_path / "b.csv").write_text("b,ID,A\n7,2,y\n")
    result = ingest([tmp_path / "a.csv", tmp_path / "b.csv"], "t", "id", database, create_table=True)
    assert columns_of(connection) == {"id": "bigint", "a": "text", "b": "bigint"}
    assert rows_of(connection) == ["(1,x,)", "(2,y,7)"]
    assert (
        result.created_sql
        == 'CREATE TABLE "t" (\n    "id" bigint,\n    "a" text,\n    "b" bigint,\n    PRIMARY KEY ("id")\n)'
    )


def test_composite_key_and_odd_names(database: str, connection: Connection, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('"Kéy 1","k""2",select\n1,a,x\n1,b,y\n1,b,z\n')
    table = 'public."My Table"'
    assert ingest(tmp_path / "a.csv", table, ["Kéy 1", 'k"2'], database, create_table=True)
    assert rows_of(connection, 'SELECT t::text FROM "My Table" t ORDER BY 1') == ["(1,a,x)", "(1,b,z)"]


def test_bare_name_with_a_blank_is_taken_literally(database: str, connection: Connection, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,v\n1,a\n")
    for _ in range(2):
        assert ingest(tmp_path / "a.csv", "my table", "id", database, create_table=True)
    assert rows_of(connection, 'SELECT t::text FROM "my table" t') == ["(1,a)"]


def test_table_that_exists_is_left_as_it_is(database: str, connection: Connection, tmp_path: Path) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, v varchar(9))")
    (tmp_path / "a.csv").write_text("id,v\n1,a\n")
    result = ingest(tmp_path / "a.csv", "t", "id", database, create_table=True)
    assert (result.created_sql, columns_of(connection)) == (None, {"id": "integer", "v": "character varying(9)"})


def test_plan_shows_the_table_and_creates_nothing(database: str, connection: Connection, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,v\n1,a\n2,b\n")
    (tmp_path / "b.csv").write_text("id,v\n2,c\n3,\n")
    plan = ConflictAwareProcessor(database).plan(
        [tmp_path / "a.csv", tmp_path / "b.csv"], "t", ["id"], create_table=True
    )
    assert (plan.predicted_inserts, plan.predicted_updates) == (3, 0)
    assert 'CREATE TABLE "t"' in plan.reasons[-1]
    assert columns_of(connection) == {}
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_class WHERE relname IN ('t', 'runs')")
        assert cursor.fetchone() == (0,)


def test_without_the_option_a_missing_table_is_an_error(database: str, connection: Connection, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,v\n1,a\n")
    with pytest.raises(TargetError, match="--create-table"):
        ingest(tmp_path / "a.csv", "t", "id", database)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("nr,v\n1,a\n", SourceError, "has no key column 'id'; its columns are nr, v"),
        ("id,v\n,a\n,b\n", SourceError, "key column 'id' is NULL in every row"),
        ("id," + "x" * 64 + "\n1,a\n", SourceError, "longer than the 63 bytes"),
        ("id," + ",".join(f"c{n}" for n in range(1600)) + "\n1" + "," * 1600 + "\n", SourceError, "1,601 columns"),
    ],
    ids=["no key", "null key", "long name", "many columns"],
)
def test_files_no_table_can_hold_create_none(
    text: str, error: type[Exception], message: str, database: str, connection: Connection, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(error, match=message):
        ingest(tmp_path / "a.csv", "t", "id", database, create_table=True)
    assert columns_of(connection) == {}


def test_null_in_a_key_is_a_reject_as_always(database: str, connection: Connection, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,v\n1,a\n,b\n")
    with pytest.raises(RejectLimitError, match="line 3"):
        ingest(tmp_path / "a.csv", "t", "id", database, create_table=True)
    result = ingest(tmp_path / "a.csv", "t", "id", database, create_table=True, max_rejects=1)
    assert (rows_of(connection), result.counts.rejected) == (["(1,a)"], 1)


def test_several_loads_that_create_the_same_table_at_once_all_succeed(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{number}.csv" for number in range(4)]
    for number, path in enumerate(paths):
        path.write_text(f"id,v\n{number},a\n")
    results: list[Any] = []
    config = ParallelConfig(lock_wait_seconds=60)

    def load(path: Path) -> None:
        results.append(ingest(path, "t", "id", database, create_table=True, config=config))

    threads = [threading.Thread(target=load, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result.created_sql is None for result in results) == [False, True, True, True]
    assert rows_of(connection) == [f"({number},a)" for number in range(4)]
