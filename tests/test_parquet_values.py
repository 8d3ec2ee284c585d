"""Every logical type of Parquet arrives as the file has it, or its column is refused by name; damage is found."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit import ingest
from etl_toolkit.errors import RejectLimitError, SourceError
from etl_toolkit.sources.parts import parts_of
from tests import parquet_footer

WKB = bytes.fromhex("0101000000000000000000f03f0000000000000040")
GEO = {"version": "1.0.0", "primary_column": "v", "columns": {"v": {"encoding": "WKB", "geometry_types": []}}}


def by_arrow(values: Any, *, metadata: dict[str, str] | None = None, **options: Any) -> Callable[[Path], None]:
    """A writer of a file with the columns `id` and `v`."""

    def write(path: Path) -> None:
        table = pa.table({"id": pa.array(range(len(values)), pa.int32()), "v": values})
        pq.write_table(table.replace_schema_metadata(metadata), path, **options)

    return write


def by_duckdb(expression: str) -> Callable[[Path], None]:
    return lambda path: duckdb.sql(f"SELECT 0 AS id, {expression} AS v").write_parquet(str(path))


def by_pandas(values: Any) -> Callable[[Path], None]:
    return lambda path: pd.DataFrame({"id": range(len(values)), "v": values}).to_parquet(path)


def by_old_writers(values: Any, kind: Any, *schema: parquet_footer.Struct) -> Callable[[Path], None]:
    """A writer of a file whose column `v` has these elements in the place of a list of three levels: `repeated`, without more."""

    def write(path: Path) -> None:
        required = pa.list_(pa.field("element", kind, nullable=False))
        fields = [pa.field("id", pa.int32(), nullable=False), pa.field("v", required, nullable=False)]
        table = pa.table(
            [pa.array(range(len(values)), pa.int32()), pa.array(values, required)], schema=pa.schema(fields)
        )
        pq.write_table(table, path, store_schema=False)
        body, footer = parquet_footer.read_footer(path)
        elements = parquet_footer.field(footer, parquet_footer.SCHEMA)
        elements[2] = (parquet_footer.STRUCT, [*elements[2][1][:2], *schema])
        names = [parquet_footer.field(item, 4)[2] for item in schema]
        for group in parquet_footer.field(footer, parquet_footer.ROW_GROUPS)[2][1]:
            chunk = parquet_footer.field(group, 1)[2][1][1]
            parquet_footer.field(parquet_footer.field(chunk, 3)[2], 3)[2] = (parquet_footer.BINARY, names)
        parquet_footer.write_footer(path, body, footer)

    return write


REPEATED = {"repetition": parquet_footer.REPEATED}
IN_A_STRUCT = pa.struct([pa.field("a", pa.int32(), nullable=False)])
SPLIT: dict[str, Any] = {"use_dictionary": False, "column_encoding": {"id": "PLAIN", "v": "BYTE_STREAM_SPLIT"}}

VALUES: dict[str, tuple[Callable[[Path], None], str, list[str | None]]] = {
    "geometry by metadata": (by_arrow(pa.array([WKB]), metadata={"geo": json.dumps(GEO)}), "bytea", ["\\x" + WKB.hex()]),
    "geometry as a type": (by_duckdb("'POINT (1 2)'::GEOMETRY"), "bytea", ["\\x" + WKB.hex()]),
    "variant": (by_duckdb("{'a': 1, 'b': ['x']}::VARIANT"), "jsonb", ['{"a": 1, "b": ["x"]}']),
    "enumeration": (by_duckdb("'a'::ENUM('a', 'b')"), "text", ["a"]),
    "interval": (by_duckdb("INTERVAL '1 month 2 days 3.5 seconds'"), "interval", ["1 mon 2 days 00:00:03.5"]),
    "time with a zone": (by_duckdb("'01:02:03+05'::TIMETZ"), "timetz", ["20:02:03+00"]),
    "old timestamps": (
        by_arrow(pa.array([1_700_000_000_123_456_000], pa.timestamp("ns")), use_deprecated_int96_timestamps=True),
        "timestamp", ["2023-11-14 22:13:20.123456"],
    ),
    "nanoseconds": (by_arrow(pa.array([1600], pa.timestamp("ns"))), "timestamp", ["1970-01-01 00:00:00.000002"]),
    "half floats": (by_arrow(pa.array([0.5], pa.float16())), "float8", ["0.5"]),
    "floats": (by_arrow(pa.array([0.1], pa.float32())), "real", ["0.1"]),
    "floats in a wider column": (by_arrow(pa.array([0.1], pa.float32())), "float8", ["0.1"]),
    "decimals of 76 digits": (by_arrow(pa.array([Decimal(10**50)], pa.decimal256(60, 2))), "numeric", [f"{10**50}.00"]),
    "decimals": (by_arrow(pa.array([Decimal("1.10")], pa.decimal128(38, 2))), "numeric", ["1.10"]),
    "durations": (by_arrow(pa.array([1600], pa.duration("ns"))), "interval", ["00:00:00.000002"]),
    "json": (by_arrow(pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1.10}']))), "json", ['{"a": 1.10}']),
    "uuid": (
        by_arrow(pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"\x01" * 16], pa.binary(16)))), "uuid",
        ["01010101-0101-0101-0101-010101010101"],
    ),
    "booleans of a byte": (by_arrow(pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1], pa.int8()))), "text", ["true"]),
    "maps": (by_arrow(pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64()))), "jsonb", ['{"a": 1}']),
    "periods": (by_pandas(pd.period_range("2024-01", periods=2, freq="M")), "text", ["2024-01", "2024-02"]),
    "categories": (by_pandas(pd.Categorical(["a", None])), "text", ["a", None]),
    "split decimals": (by_arrow(pa.array([Decimal("1.10")], pa.decimal128(20, 2)), **SPLIT), "numeric", ["1.10"]),
    "split half floats": (by_arrow(pa.array([0.5], pa.float16()), **SPLIT), "float8", ["0.5"]),
    "repeated numbers": (
        by_old_writers([[1, 2], [], [3]], pa.int32(), parquet_footer.element("v", **REPEATED)), "int4[]", ["{1,2}", "{}", "{3}"],
    ),
    "repeated groups": (
        by_old_writers(
            [[{"a": 1}, {"a": 2}], []], IN_A_STRUCT, parquet_footer.element("v", children=1, **REPEATED), parquet_footer.element("a"),
        ), "jsonb", ['[{"a": 1}, {"a": 2}]', "[]"],
    ),
    "split bytes": (by_arrow(pa.array([b"ab"], pa.binary(2)), **SPLIT), "bytea", ["\\x6162"]),
}  # fmt: skip


@pytest.mark.parametrize("case", VALUES)
def test_values_arrive_as_the_file_has_them(shared: tuple[str, Connection], tmp_path: Path, case: str) -> None:
    dsn, connection = shared
    write, kind, texts = VALUES[case]
    write(tmp_path / "f.parquet")
    with connection.cursor() as cursor:
        cursor.execute(f"DROP TABLE IF EXISTS t; CREATE TABLE t (id int PRIMARY KEY, v {kind})")
        ingest(tmp_path / "f.parquet", "t", "id", dsn)
        cursor.execute("SELECT v::text FROM t ORDER BY id")
        assert [row[0] for row in cursor.fetchall()] == texts


@pytest.mark.parametrize(("case", "kind"), [
    ("geometry by metadata", "bytea"), ("geometry as a type", "bytea"), ("variant", "jsonb"), ("floats", "real"),
])  # fmt: skip
def test_a_new_table_has_a_column_that_takes_them(
    shared: tuple[str, Connection], tmp_path: Path, case: str, kind: str
) -> None:
    dsn, connection = shared
    VALUES[case][0](tmp_path / "f.parquet")
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS made")
        ingest(tmp_path / "f.parquet", "made", "id", dsn, create_table=True)
        cursor.execute("SELECT pg_typeof(v)::text, v::text FROM made")
        assert cursor.fetchall() == [(kind, VALUES[case][2][0])]


def test_bytes_inside_of_another_type_are_refused_by_name(shared: tuple[str, Connection], tmp_path: Path) -> None:
    dsn, connection = shared
    by_arrow(pa.array([{"a": b"\xff"}]))(tmp_path / "f.parquet")
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS t; CREATE TABLE t (id int PRIMARY KEY, v jsonb)")
    with pytest.raises(SourceError, match="column 'v' has bytes inside"):
        ingest(tmp_path / "f.parquet", "t", "id", dsn)


def test_periods_are_no_ordinals_where_pandas_is_not_there(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    by_pandas(pd.period_range("2024-01", periods=2, freq="M"))(tmp_path / "f.parquet")
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    command = [
        sys.executable,
        "-m",
        "etl_toolkit",
        "ingest",
        str(tmp_path / "f.parquet"),
        "-t",
        "t",
        "-k",
        "id",
        "--dsn",
        database,
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    with connection.cursor() as cursor:
        cursor.execute("SELECT v FROM t ORDER BY id")
        assert cursor.fetchall() in ([("2024-01",), ("2024-02",)], [])
    assert ended.returncode == 0 or "column 'v'" in ended.stderr


@pytest.mark.parametrize("nested", [False, True])
def test_instants_in_lists_become_local_times_of_the_server(
    database: str, connection: Connection, tmp_path: Path, nested: bool
) -> None:
    """Two instants of the night in which clocks go back, and one from before there were zones."""
    seconds = [1_730_610_000, 1_730_613_600, -4_000_000_000, None]
    kind: Any = pa.list_(pa.timestamp("s", "UTC"))
    values = pa.array([[seconds], None] if nested else [seconds, None], pa.list_(kind) if nested else kind)
    by_arrow(values)(tmp_path / "f.parquet")
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER DATABASE {connection.info.dbname} SET TimeZone = 'America/New_York'")
        cursor.execute("SET TimeZone = 'America/New_York'; CREATE TABLE t (id int PRIMARY KEY, v timestamp[])")
        cursor.execute("SELECT array_agg(to_timestamp(s)::timestamp)::text FROM unnest(%s) AS s", (seconds,))
        local = cursor.fetchone()[0]

        ingest(tmp_path / "f.parquet", "t", "id", database)

        cursor.execute("SELECT v::text FROM t ORDER BY id")
        assert cursor.fetchall() == [("{" + local + "}" if nested else local,), (None,)]


def test_a_footer_that_contradicts_itself_is_damage(database: str, connection: Connection, tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    by_arrow(["a", "b"])(path)
    body, footer = parquet_footer.read_footer(path)
    parquet_footer.field(footer, 3)[2] = 0
    parquet_footer.write_footer(path, body, footer)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    with pytest.raises(SourceError, match=r"f.parquet: is damaged: its footer counts 0 rows, its row groups 2"):
        ingest(path, "t", "id", database)


def test_what_duckdb_cannot_read_is_read_by_arrow(database: str, connection: Connection, tmp_path: Path) -> None:
    """A map without values, which is a set."""
    path = tmp_path / "f.parquet"
    by_arrow(
        pa.array([["a", "b"], []], pa.list_(pa.field("element", pa.string(), nullable=False))), store_schema=False
    )(path)
    parquet_footer.make_set(path, 2)
    with pytest.raises(duckdb.Error):
        duckdb.sql(f"SELECT * FROM read_parquet('{path}')")
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, v text[])")

        ingest(path, "t", "id", database)

        cursor.execute("SELECT v FROM t ORDER BY id")
        assert cursor.fetchall() == [(["a", "b"],), ([],)]


def write_with_checksums(path: Path, **options: Any) -> None:
    table = pa.table({"id": range(5_000), "v": [f"text {number}" for number in range(5_000)]})
    pq.write_table(table, path, write_page_checksum=True, data_page_size=4096, compression="none", **options)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_page_that_does_not_match_its_checksum_is_found(
    database: str, connection: Connection, tmp_path: Path, version: str
) -> None:
    path = tmp_path / "f.parquet"
    write_with_checksums(path, data_page_version=version)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    assert ingest(path, "t", "id", database).counts.read == 5_000
    data = path.read_bytes()
    path.write_bytes(data.replace(b"text 4321", b"text 9999", 1))
    with pytest.raises(SourceError, match=r"is damaged: a page of column 'v', row group 1"):
        ingest(path, "t", "id", database)


def test_without_checksums_nothing_is_verified(tmp_path: Path) -> None:
    from etl_toolkit.sources.pages import verify_checksums

    pq.write_table(pa.table({"id": [1]}), tmp_path / "f.parquet")
    verify_checksums(tmp_path / "f.parquet", pq.read_metadata(tmp_path / "f.parquet"))


STRATEGIES = ("auto", "full_parallel", "hybrid", "deterministic", "streaming", "partitioned")


def bad_texts(values: list[bytes]) -> pa.Array:
    """Bytes as text, unchecked."""
    (_, offsets, data) = pa.array(values, pa.binary()).buffers()
    return pa.Array.from_buffers(pa.string(), len(values), [None, offsets, data])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_text_that_is_not_utf_8_is_a_reject(
    database: str, connection: Connection, tmp_path: Path, strategy: str
) -> None:
    path, other = tmp_path / "f.parquet", tmp_path / "g.parquet"
    by_arrow(bad_texts([b"a", b"caf\xe9", b"b", b"\xff"]))(path)
    pq.write_table(pa.table({"id": pa.array([7], pa.int32()), "v": ["c"]}), other)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, v text CHECK (v <> 'b'))")
    with pytest.raises(RejectLimitError, match=r"record 2: invalid byte sequence.*0xe9 \(column v\)"):
        ingest([path, other], "t", "id", database, strategy=strategy)
    result = ingest([path, other], "t", "id", database, strategy=strategy, max_rejects=3)
    assert [result.counts.read, result.counts.rejected, result.counts.inserted] == [5, 3, 2]
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, v FROM t ORDER BY id")
        assert cursor.fetchall() == [(0, "a"), (7, "c")]
        cursor.execute(
            "SELECT record, sqlstate, raw FROM etl_toolkit.rejects WHERE run_id = %s ORDER BY record", (result.run_id,)
        )
        assert cursor.fetchall() == [(1, "22021", "1,caf\\xe9"), (2, "23514", "2,b"), (3, "22021", "3,\\xff")]


def test_text_that_is_not_loaded_may_be_anything(database: str, connection: Connection, tmp_path: Path) -> None:
    by_arrow(bad_texts([b"caf\xe9"]))(tmp_path / "f.parquet")
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY)")
    for strategy in ("auto", "streaming"):
        result = ingest(tmp_path / "f.parquet", "t", "id", database, extra_columns="ignore", strategy=strategy)
        assert (result.counts.read, result.counts.rejected) == (1, 0)


@pytest.mark.parametrize(
    ("spans", "parts"),
    [
        ([("a", 4, 10), ("b", 10, 30), ("a", 30, 40), ("b", 40, 90)], [(0, 10), (30, 40), (90, 100)]),
        ([("a", 4, 50), ("b", 20, 30)], [(0, 100)]),
        ([("a", 4, 50), ("b", 50, 130)], [(0, 100)]),
    ],
    ids=["a column left out", "inside of another", "beyond the end"],
)
def test_what_is_read_of_a_file_has_the_chunks_of_its_columns(
    tmp_path: Path, spans: list[tuple[str, int, int]], parts: list[tuple[int, int]]
) -> None:
    """By a footer that may say anything: a chunk is left out only where no other one has bytes of it."""
    (tmp_path / "f.parquet").write_bytes(bytes(100))
    chunks = [
        SimpleNamespace(
            path_in_schema=name, dictionary_page_offset=None, data_page_offset=begin, total_compressed_size=end - begin
        )
        for name, begin, end in spans
    ]
    group = SimpleNamespace(column=chunks.__getitem__)
    footer = SimpleNamespace(num_row_groups=1, num_columns=len(chunks), row_group=lambda _: group)

    assert parts_of(tmp_path / "f.parquet", footer, {"a"}) == parts
