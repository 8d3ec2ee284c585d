"""What a cell of a frame means: what its library prints, or writes as JSON; else the column is refused by name."""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit import ingest
from etl_toolkit.errors import SourceError

TOKYO = ZoneInfo("Asia/Tokyo")


class Thing:
    """Something that no library can print."""


def stored(dsn: str, connection: Connection, frame: Any, kind: str) -> list[str | None]:
    """The texts of the column `v` once the frame is loaded into a table that has it as `kind`."""
    with connection.cursor() as cursor:
        cursor.execute(f"DROP TABLE IF EXISTS t; CREATE TABLE t (id int PRIMARY KEY, v {kind})")
    ingest(frame, "t", "id", dsn)
    with connection.cursor() as cursor:
        cursor.execute("SET timezone = 'UTC'; SELECT v::text FROM t ORDER BY id")
        return [row[0] for row in cursor.fetchall()]


def pandas_frame(values: Any) -> pd.DataFrame:
    return pd.DataFrame({"id": range(len(values)), "v": values})


def arrow_frame(values: pa.Array) -> pa.Table:
    return pa.table({"id": pa.array(range(len(values)), pa.int32()), "v": values})


def polars_frame(values: list[Any], kind: Any) -> pl.DataFrame:
    return pl.DataFrame({"id": range(len(values)), "v": pl.Series(values, dtype=kind)})


def extension(kind: Any, storage: pa.Array) -> pa.Array:
    return pa.ExtensionArray.from_storage(kind, storage)


PANDAS: dict[str, tuple[Callable[[], Any], str, list[str | None]]] = {
    "mappings of different keys": (lambda: [{"a": 1}, {"b": None}, None], "jsonb", ['{"a": 1}', '{"b": null}', None]),
    "mappings in lists": (lambda: [[{"a": 1}], [{"b": 2}]], "jsonb", ['[{"a": 1}]', '[{"b": 2}]']),
    "mappings as json": (
        lambda: [{"d": decimal.Decimal("1.10"), "x": float("nan"), "t": dt.date(2024, 1, 2), "é": [True, "q\""]}], "json",
        ['{"d": 1.10, "x": null, "t": "2024-01-02", "é": [true, "q\\""]}'],
    ),
    "lists": (lambda: [[1], [2, 3]], "int[]", ["{1}", "{2,3}"]),
    "periods": (lambda: pd.period_range("2024-01", periods=2, freq="M"), "text", ["2024-01", "2024-02"]),
    "missing periods": (lambda: pd.PeriodIndex(["2024-01", None], freq="M"), "text", ["2024-01", None]),
    "intervals": (lambda: pd.interval_range(0, 2), "text", ["(0, 1]", "(1, 2]"]),
    "categories": (lambda: pd.Categorical(["a", None, "b"]), "text", ["a", None, "b"]),
    "categories of numbers": (lambda: pd.Categorical([10, 20]), "int", ["10", "20"]),
    "categories of periods": (lambda: pd.Categorical(pd.period_range("2024-01", periods=2, freq="M")), "text", ["2024-01", "2024-02"]),
    "sparse": (lambda: pd.arrays.SparseArray([1, 0]), "int", ["1", "0"]),
    "large integers": (lambda: [2**70, 1], "numeric", [str(2**70), "1"]),
    "decimals": (lambda: [decimal.Decimal("1.10"), decimal.Decimal("2.20")], "numeric", ["1.10", "2.20"]),
    "uuids": (lambda: [uuid.UUID(int=1)], "uuid", ["00000000-0000-0000-0000-000000000001"]),
    "bytes": (lambda: [b"\x00\xff"], "bytea", ["\\x00ff"]),
    "times of several zones": (
        lambda: [dt.datetime(2024, 1, 1, tzinfo=TOKYO), dt.datetime(2024, 1, 1, tzinfo=dt.UTC)], "timestamptz",
        ["2023-12-31 15:00:00+00", "2024-01-01 00:00:00+00"],
    ),
    "what they print": (
        lambda: [dt.datetime(2024, 1, 1, tzinfo=TOKYO), dt.datetime(2024, 1, 1, tzinfo=dt.UTC)], "text",
        ["2024-01-01T00:00:00+09:00", "2024-01-01T00:00:00+00:00"],
    ),
    "times of day with a zone": (lambda: [dt.time(1, 2, tzinfo=dt.UTC)], "timetz", ["01:02:00+00"]),
    "spans": (lambda: pd.to_timedelta([1500, None], unit="us"), "interval", ["00:00:00.0015", None]),
}  # fmt: skip

PANDAS_REFUSED: dict[str, Callable[[], Any]] = {
    "sets": lambda: [{1, 2}],
    "frozen sets": lambda: [frozenset({1})],
    "sets in mappings": lambda: [{"a": {1}}],
    "objects": lambda: [Thing()],
    "objects in mappings": lambda: [{"a": Thing()}],
    "times with and without a zone": lambda: [dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 1, tzinfo=TOKYO)],  # noqa: DTZ001
    "complex numbers": lambda: [1j],
    "numbers and texts": lambda: [1, "a"],
}

ARROW: dict[str, tuple[Callable[[], pa.Array], str, list[str | None]]] = {
    "half floats": (lambda: pa.array([0.5, None], pa.float16()), "float8", ["0.5", None]),
    "half floats in lists": (lambda: pa.array([[0.5]], pa.list_(pa.float16())), "float8[]", ["{0.5}"]),
    "decimals of 76 digits": (lambda: pa.array([decimal.Decimal(10**50)], pa.decimal256(60, 2)), "numeric", [f"{10**50}.00"]),
    "small decimals": (lambda: pa.array([decimal.Decimal("1.10")], pa.decimal32(5, 2)), "numeric", ["1.10"]),
    "dictionaries": (lambda: pa.array(["a", None, "b"]).dictionary_encode(), "text", ["a", None, "b"]),
    "dictionaries of half floats": (
        lambda: pa.DictionaryArray.from_arrays(pa.array([0, None], pa.int8()), pa.array([0.5], pa.float16())), "float8", ["0.5", None],
    ),
    "run ends": (lambda: pa.RunEndEncodedArray.from_arrays([2, 3], ["a", None]), "text", ["a", "a", None]),
    "views of text": (lambda: pa.array(["x" * 20], pa.string_view()), "text", ["x" * 20]),
    "views of bytes": (lambda: pa.array([b"\xff"], pa.binary_view()), "bytea", ["\\xff"]),
    "views of lists": (lambda: pa.array([[1, 2], [3]], pa.list_view(pa.int64())), "int[]", ["{1,2}", "{3}"]),
    "intervals": (lambda: pa.array([pa.MonthDayNano([1, -2, 1500000])]), "interval", ["1 mon -2 days +00:00:00.0015"]),
    "nanoseconds": (lambda: pa.array([1600, -1600], pa.duration("ns")), "interval", ["00:00:00.000002", "-00:00:00.000002"]),
    "maps": (lambda: pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), "jsonb", ['{"a": 1}']),
    "structs": (lambda: pa.array([{"a": 1, "b": None}]), "jsonb", ['{"a": 1, "b": null}']),
    "bytes of 8 bits that are booleans": (lambda: extension(pa.bool8(), pa.array([1, 0], pa.int8())), "bool", ["true", "false"]),
    "json": (lambda: extension(pa.json_(), pa.array(['{"a": 1.10}'])), "json", ['{"a": 1.10}']),
    "uuids": (lambda: extension(pa.uuid(), pa.array([b"\x01" * 16], pa.binary(16))), "uuid", ["01010101-0101-0101-0101-010101010101"]),
    "bytes of a fixed size": (lambda: pa.array([b"ab"], pa.binary(2)), "bytea", ["\\x6162"]),
    "bytes in lists": (lambda: pa.array([[b"\xff"]]), "bytea[]", ['{"\\\\xff"}']),
    "days in milliseconds": (lambda: pa.array([dt.date(2024, 1, 1)], pa.date64()), "date", ["2024-01-01"]),
}  # fmt: skip

ARROW_REFUSED: dict[str, Callable[[], pa.Array]] = {
    "unions": lambda: pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1]), pa.array(["x"])]),
    "unknown extensions": lambda: extension(pa.opaque(pa.int64(), "x", "y"), pa.array([1])),
    "tensors": lambda: extension(pa.fixed_shape_tensor(pa.int64(), [2]), pa.array([[1, 2]], pa.list_(pa.int64(), 2))),
    "bytes in structs": lambda: pa.array([{"a": b"\xff"}]),
    "nanoseconds in structs": lambda: pa.array([{"a": 1500}], pa.struct([("a", pa.duration("ns"))])),
}

POLARS: dict[str, tuple[list[Any], Any, str, list[str | None]]] = {
    "large integers": ([2**100, None], pl.Int128, "numeric", [str(2**100), None]),
    "half floats": ([0.5], pl.Float16, "float8", ["0.5"]),
    "categories": (["a", None], pl.Categorical, "text", ["a", None]),
    "categories in lists": ([["a"]], pl.List(pl.Categorical), "text[]", ["{a}"]),
    "enumerations": (["b"], pl.Enum(["a", "b"]), "text", ["b"]),
    "decimals": ([decimal.Decimal("1.10")], pl.Decimal(10, 2), "numeric", ["1.10"]),
    "spans": ([dt.timedelta(days=1, microseconds=3)], pl.Duration, "interval", ["24:00:00.000003"]),
    "times of day": ([dt.time(1, 2, 3, 4)], pl.Time, "time", ["01:02:03.000004"]),
    "instants": ([dt.datetime(2024, 1, 1, tzinfo=dt.UTC)], pl.Datetime("us", "UTC"), "timestamptz", ["2024-01-01 00:00:00+00"]),
    "arrays": ([[1, 2]], pl.Array(pl.Int64, 2), "int[]", ["{1,2}"]),
    "structs": ([{"a": 1, "b": None}], pl.Struct({"a": pl.Int8, "b": pl.String}), "jsonb", ['{"a": 1, "b": null}']),
    "nothing": ([None], pl.Null, "text", [None]),
    "bytes": ([b"\x00"], pl.Binary, "bytea", ["\\x00"]),
}  # fmt: skip


@pytest.mark.parametrize("case", PANDAS)
def test_cells_of_pandas(shared: tuple[str, Connection], case: str) -> None:
    values, kind, texts = PANDAS[case]
    assert stored(*shared, pandas_frame(values()), kind) == texts


@pytest.mark.parametrize("case", PANDAS_REFUSED)
def test_columns_of_pandas_without_a_text_are_refused_by_name(shared: tuple[str, Connection], case: str) -> None:
    with pytest.raises(SourceError, match=r"frame 1: .*column '?v") as caught:
        stored(*shared, pandas_frame(PANDAS_REFUSED[case]()), "text")
    assert "0x" not in str(caught.value)


@pytest.mark.parametrize("case", ARROW)
def test_values_of_arrow(shared: tuple[str, Connection], case: str) -> None:
    values, kind, texts = ARROW[case]
    assert stored(*shared, arrow_frame(values()), kind) == texts


@pytest.mark.parametrize("case", ARROW_REFUSED)
def test_types_of_arrow_without_a_text_are_refused_by_name(shared: tuple[str, Connection], case: str) -> None:
    with pytest.raises(SourceError, match="column 'v'"):
        stored(*shared, arrow_frame(ARROW_REFUSED[case]()), "jsonb")


@pytest.mark.parametrize("case", POLARS)
def test_values_of_polars(shared: tuple[str, Connection], case: str) -> None:
    values, dtype, kind, texts = POLARS[case]
    assert stored(*shared, polars_frame(values, dtype), kind) == texts


def test_python_objects_in_polars_are_refused_by_name(shared: tuple[str, Connection]) -> None:
    with pytest.raises(SourceError, match="column 'v' holds Python objects"):
        stored(*shared, polars_frame([Thing()], pl.Object), "bytea")


def test_mappings_become_jsonb_in_a_new_table(database: str, connection: Connection, tmp_path: Path) -> None:
    ingest(pandas_frame([{"a": 1}, {"b": 2}]), "made", "id", database, create_table=True)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_typeof(v)::text, v::text FROM made ORDER BY id")
        assert cursor.fetchall() == [("jsonb", '{"a": 1}'), ("jsonb", '{"b": 2}')]
