"""Reading files: what a CSV record is, where it stands, and what the types of Parquet files and frames become."""

from __future__ import annotations

import datetime as dt
import gzip
import io
import re
import tracemalloc
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg2.extensions import connection as Connection

from etl_toolkit import ConflictAwareProcessor, ParallelConfig, ingest
from etl_toolkit.errors import SourceError, UsageError
from etl_toolkit.model import Layout, ReadOptions, Reject, SourceFile
from etl_toolkit.sources import locate, number_in_file, octets, ordinals, record_expression, resolve, text_relation
from etl_toolkit.sources.records import Record, Scanner, Shape
from etl_toolkit.sources.structure import pieces
from etl_toolkit.workspace import Workspace, open_workspace

MANY = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FEW = settings(MANY, max_examples=60)


@contextmanager
def opened(
    *inputs: Any, options: ReadOptions | None = None, **bounds: int
) -> Iterator[tuple[Workspace, list[SourceFile]]]:
    with open_workspace(ParallelConfig(), threads=1) as workspace:
        yield workspace, list(resolve(inputs, options or ReadOptions(), workspace, **bounds).files)


def texts(file: SourceFile, workspace: Workspace) -> list[tuple[str | None, ...]]:
    relation, expressions = text_relation([file], file.columns)
    return workspace.query(f"SELECT {', '.join(expressions)} FROM {relation}")


def test_many_fields_are_quoted_as_few_are() -> None:
    fields = {
        None: "",
        "": '""',
        "\\.": '"\\."',
        "a,b": '"a,b"',
        'a"b': '"a""b"',
        "a\nb": '"a\nb"',
        "a\rb": '"a\rb"',
        " a": " a",
    }
    values, spelled = list(fields), list(fields.values())
    frame = pa.table({f"v{at}": [values[(at + row) % 8] for row in range(8)] for at in range(130)})

    with opened(frame) as (workspace, [file]):
        relation, expressions = text_relation([file], file.columns)
        record = record_expression(file, expressions, Layout(file.columns))
        found = workspace.query(f"SELECT {record} FROM {relation}")

    assert found == [(",".join(spelled[(at + row) % 8] for at in range(130)),) for row in range(8)]


# --- records: the quick check and the slow truth -------------------------------------------------------------------------


class Drops(io.BytesIO):
    """A stream that gives its bytes in small portions, whatever it is asked for."""

    def __init__(self, data: bytes, portion: int) -> None:
        super().__init__(data)
        self.portion = portion

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(self.portion)


def truth(data: bytes, shape: Shape) -> list[tuple[int, bytes, Any]]:
    """(line, raw bytes, fault) of every record, by the scanner over the whole."""
    return [(1 + r.lines_before, r.raw, r.fault) for r in Scanner(shape).scan(data, at_end=True).records]


def piecewise(data: bytes, shape: Shape, portion: int) -> list[tuple[int, bytes, Any]]:
    """The same by `pieces`, that is by the check of whole blocks wherever it finds them clean."""
    found: list[tuple[int, bytes, Any]] = []
    for piece in pieces(Drops(data, portion), shape, window=portion):
        records: tuple[Record, ...] = piece.records or ()
        if piece.records is None:
            records = tuple(Scanner(shape).scan(piece.source, at_end=True).records)
            assert piece.data == b"".join(record.raw + b"\n" for record in records)
            assert piece.longest == max((len(record.raw) for record in records), default=0)
            assert not any(record.fault for record in records)
        assert (piece.first_record, piece.count) == (len(found), len(records))
        found += [(piece.first_line + record.lines_before, record.raw, record.fault) for record in records]
    return found


TOKENS = [
    b'"',
    b'"',
    b",",
    b",",
    b"\n",
    b"\n",
    b"\r",
    b"\r\n",
    b"a",
    b"xyz",
    b'""',
    b',"',
    b'",',
    b'"\n',
    b"\xe9",
    b"\xc3\xa9",
    b"\0",
]
FIELDS = [b"", b"1", b'"a"', b'"x,""y"', b'"a\nb"', b'"\r\n"', b"\xc3\xa9", b"f" * 70, b'"' + b"g,\n" * 25 + b'"']


@st.composite
def csv_bytes(draw: st.DrawFn) -> bytes:
    """Anything at all, or well-formed records with at most one thing put in between."""
    if draw(st.booleans()):
        return b"".join(draw(st.lists(st.sampled_from(TOKENS), max_size=40)))
    width = draw(st.integers(1, 3))
    rows = draw(st.lists(st.lists(st.sampled_from(FIELDS), min_size=width, max_size=width), max_size=12))
    end = draw(st.sampled_from([b"\n", b"\r\n", b"\r", b"\n\n"]))
    data = end.join(b",".join(row) for row in rows) + draw(st.sampled_from([b"", end]))
    place = draw(st.integers(0, len(data)))
    return data[:place] + draw(st.sampled_from([b"", b"", *TOKENS])) + data[place:]


@MANY
@given(
    data=csv_bytes(), width=st.integers(1, 3), longest=st.sampled_from([5, 60, 1 << 20]), quote=st.sampled_from([b'"', b""]),
    portion=st.sampled_from([1, 3, 64, 1 << 20]),
)  # fmt: skip
@example(data=b'"a\n1,2\n"', width=2, longest=1 << 20, quote=b'"', portion=1)
@example(data=b'1,"a""\n2,b\n', width=2, longest=1 << 20, quote=b'"', portion=3)
@example(data=b"1\r2\r\n\r3", width=1, longest=1 << 20, quote=b'"', portion=1)
@example(data=b"1" * 99 + b"\r\n2,3\n", width=2, longest=5, quote=b'"', portion=1)
def test_blocks_found_clean_hold_what_the_scanner_finds(
    data: bytes, width: int, longest: int, quote: bytes, portion: int
) -> None:
    shape = Shape(b",", quote, ("a", "b", "c")[:width], longest)
    assert piecewise(data, shape, portion) == truth(data, shape)


VALUES = st.one_of(
    st.none(), st.sampled_from(["", "\\.", '"', '""', ",", "\r\n", "\n", "\r", " ", "NULL", "é😀", "\x1f", "\u2028"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12),
)  # fmt: skip


@FEW
@given(
    rows=st.lists(st.tuples(st.integers(), VALUES, VALUES), max_size=8), end=st.sampled_from(["\n", "\r\n", "\r"]),
    quote=st.sampled_from(['"', "'"]), delimiter=st.sampled_from([",", ";", "\t", "|"]),
)  # fmt: skip
def test_values_come_back_as_they_were_written(
    rows: list[tuple[Any, ...]], end: str, quote: str, delimiter: str, tmp_path: Path
) -> None:
    def spelled(value: Any) -> str:
        text = str(value)
        if value is None:
            return ""
        if text and not set(text) & {delimiter, quote, "\r", "\n"}:
            return text
        return quote + text.replace(quote, quote * 2) + quote

    path = tmp_path / "values.csv"
    lines = [["id", "a", "b"], *rows]
    path.write_bytes("".join(delimiter.join(map(spelled, line)) + end for line in lines).encode())
    with opened(path, options=ReadOptions(delimiter=delimiter, quote=quote)) as (workspace, (file,)):
        assert texts(file, workspace) == [(str(number), *values) for number, *values in rows]
        assert file.records == len(rows)


# --- what is copied -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "is_plain", "is_copied"),
    [
        (b"id,v\n1,a\n", True, False),
        (b'"id","v"\n1,a\n', True, False),
        (b'id,v\n1,"a"\n', False, False),
        (b'id,v\n1,"a\r\nb"\n', False, False),
        (b"id,v\r\n1,a\r\n", True, True),
        (b"\xef\xbb\xbfid,v\n1,a\n", True, True),
        (b"id,v\n1,a\n\n", True, True),
        (b"id,v\n1,a\n2\n", True, True),
        (b'id,v\n1,a\n2,"b\n', True, True),
        (b"id\n1\n", False, False),
        (b"id,v\n1,a\x1f\n", False, False),
    ],
)  # fmt: skip
def test_only_what_cannot_stay_as_it_is_is_copied(data: bytes, is_plain: bool, is_copied: bool, tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(data)
    with opened(path, max_rejects=9) as (_, (file,)):
        assert file.readable is not None
        assert (file.is_plain, not file.readable.is_symlink()) == (is_plain, is_copied)


def test_a_fault_late_in_the_file_leaves_what_was_before_it_as_it_was(tmp_path: Path) -> None:
    """The copy begins where the fault is found; what was read until then is copied from the file."""
    lines = [f"{number},v{number}" for number in range(60_000)]
    lines[55_555] = "55555"
    path = tmp_path / "f.csv"
    path.write_text("\n".join(["id,v", *lines]) + "\n")
    with opened(path, max_rejects=1) as (workspace, (file,)):
        expected = [tuple(line.split(",")) for line in lines if "," in line]
        assert texts(file, workspace) == expected
        assert [(item.record, item.line) for item in file.malformed] == [(55_555, 55_557)]


def test_correcting_does_not_hold_the_file(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(b"id,v\n1\n" + b"123456,some text\r\n" * 2_000_000)
    tracemalloc.start()
    try:
        with opened(path, max_rejects=1) as (_, (file,)):
            peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert file.records == 2_000_000
    assert peak < 16_000_000 < path.stat().st_size


def test_packed_file_that_grows_without_measure_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(octets, "UNPACKED_MINIMUM_BYTES", 100_000)
    data = b"id,v\n" + b"0,0\n" * 1_000_000
    for path, packed in (
        (tmp_path / "b.csv.gz", gzip.compress(data)),
        (tmp_path / "b.csv.zst", zstandard.compress(data)),
    ):
        path.write_bytes(packed)
        with pytest.raises(SourceError, match=rf"{path.name}: unpacks to more than 200 times its size"), opened(path):
            pass


# --- dialect ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "delimiter"),
    [
        (b"id,v\n1,a;b;c\n", ","),
        (b"id;v\n1;1,5\n2;2,5\n", ";"),
        (b"id\tv\n1\ta,b\n", "\t"),
        (b"id|v\n1|a\n", "|"),
        (b'id,"v;w;x"\n1,a\n', ","),
        (b'id;"v\n,w,x,"\n1;a\n', ";"),
        (b"id\n1\n", ","),
    ],
)
def test_delimiter_is_the_one_that_splits_alike(data: bytes, delimiter: str, tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(data)
    with opened(path) as (_, (file,)):
        assert file.dialect.delimiter == delimiter


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delimiter": ""}, "one character or a few"),
        ({"delimiter": "a\nb"}, "without line breaks"),
        ({"quote": ","}, None),
        ({"quote": ",", "delimiter": ","}, "other than the delimiter"),
        ({"encoding": "klingon"}, "unknown encoding 'klingon'"),
        ({"encoding": "base64"}, "does not encode text"),
        ({"headers": ("id", "id")}, "headers must be distinct names"),
    ],
)
def test_options_no_file_can_have_are_a_usage_error(
    options: dict[str, Any], message: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(b"id;v\n1;a\n")
    if message is None:
        with opened(path, options=ReadOptions(**options)) as (_, (file,)):
            assert file.columns == ("id", "v")
        return
    with pytest.raises(UsageError, match=message), opened(path, options=ReadOptions(**options)):
        pass


def test_bytes_that_the_given_encoding_lacks_are_placed(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(b"id,v\n1,\x81\n")
    with (
        pytest.raises(SourceError, match=r"f\.csv: is not cp1252: .* near byte 7"),
        opened(path, options=ReadOptions(encoding="cp1252")),
    ):
        pass


# --- where a record stands ------------------------------------------------------------------------------------------------


@MANY
@given(bad=st.lists(st.booleans(), max_size=30))
def test_record_numbers_survive_the_malformed_records_between_them(bad: list[bool]) -> None:
    malformed = tuple(Reject(0, number, None, "", "22P04", "") for number, is_bad in enumerate(bad) if is_bad)
    file = SourceFile(0, "f", "csv", ("a",), "", 0, malformed=malformed)
    good = [number for number, is_bad in enumerate(bad) if not is_bad]
    assert [number_in_file(file, ordinal) for ordinal in range(len(good))] == good
    rejects = [Reject(0, number, None, "", "", "") for number in range(len(bad))]
    assert ordinals(file, rejects) == list(range(len(good)))


def test_records_are_found_again_by_number(tmp_path: Path) -> None:
    lines = [f'{number},"a\r\n{number}"\r\n' if number % 3 else f"{number},b\n\n" for number in range(50_000)]
    path = tmp_path / "f.csv"
    path.write_text("id,v\n" + "".join(lines), newline="")
    with opened(path) as (workspace, (file,)):
        wanted = [Reject(0, number, None, "r", "22000", "") for number in (49_999, 0, 1, 30_000)]
        found = locate(file, wanted, workspace, max_line_bytes=1 << 20)
    assert [(item.record, item.line, item.raw) for item in found] == [
        (number, 2 + 2 * number, lines[number].rstrip("\r\n")) for number in (49_999, 0, 1, 30_000)
    ]


# --- types of Parquet files and frames --------------------------------------------------------------------------------------

MOMENT = 1_700_000_000_123_456_789  # nanoseconds; PostgreSQL keeps microseconds, rounded
IDENTITY = uuid.UUID("6f1ab8e6-3d5c-4a4d-9d6e-2f8a1f0c1b2a")

# name -> (Arrow values, type of the column, its text in the table)
TYPES: dict[str, tuple[Any, str, str | None]] = {
    "uint64": (pa.array([2**64 - 1], pa.uint64()), "numeric", "18446744073709551615"),
    "uint8": (pa.array([255], pa.uint8()), "smallint", "255"),
    "decimal128": (pa.array([Decimal("-1.50")], pa.decimal128(38, 2)), "numeric", "-1.50"),
    "decimal256": (pa.array([Decimal("9" * 50 + ".25")], pa.decimal256(60, 2)), "numeric", "9" * 50 + ".25"),
    "float16": (pa.array([np.float16(1.5)], pa.float16()), "float8", "1.5"),
    "float32": (pa.array([0.1], pa.float32()), "float4", "0.1"),
    "negative_zero": (pa.array([-0.0]), "float8", "-0"),
    "nan": (pa.array([float("nan")]), "float8", "NaN"),
    "infinity": (pa.array([float("-inf")]), "float8", "-Infinity"),
    "infinite_numeric": (pa.array([float("inf")]), "numeric", "Infinity"),
    "whole_float": (pa.array([3.0]), "integer", "3"),
    "large_whole_float": (pa.array([1.7e18]), "bigint", "1700000000000000000"),
    "float_as_text": (pa.array([2.5]), "text", "2.5"),
    "nanoseconds": (pa.array([MOMENT], pa.timestamp("ns")), "timestamp", "2023-11-14 22:13:20.123457"),
    "zoned": (pa.array([MOMENT], pa.timestamp("ns", "Asia/Tokyo")), "timestamptz", "2023-11-14 22:13:20.123457+00"),
    "seconds": (pa.array([MOMENT // 10**9], pa.timestamp("s")), "timestamp", "2023-11-14 22:13:20"),
    "date": (pa.array([dt.date(2024, 2, 29)]), "date", "2024-02-29"),
    "before_christ": (pa.array([-735_000], pa.date32()), "date", "0044-08-22 BC"),
    "far_future": (pa.array([4_000_000], pa.date32()), "date", "12921-08-18"),
    "time": (pa.array([3_723_123_456_789], pa.time64("ns")), "time", "01:02:03.123457"),
    "duration": (pa.array([-90_000_500], pa.duration("us")), "interval", "-00:01:30.0005"),
    "long_duration": (pa.array([dt.timedelta(days=3, hours=1)]), "interval", "73:00:00"),
    "boolean": (pa.array([True]), "boolean", "true"),
    "nothing": (pa.nulls(1), "integer", None),
    "dictionary": (pa.array(["a,b"]).dictionary_encode(), "text", "a,b"),
    "text": (pa.array(['q"\r\n']), "text", 'q"\r\n'),
    "empty_text": (pa.array([""]), "text", ""),
    "binary": (pa.array([b"\x00\xff"]), "bytea", "\\x00ff"),
    "fixed_binary": (pa.array([b"\x00\xff"], pa.binary(2)), "bytea", "\\x00ff"),
    "binary_text": (pa.array(["é".encode()]), "text", "é"),
    "uuid": (pa.array([IDENTITY.bytes], pa.uuid()), "uuid", str(IDENTITY)),
    "integers": (pa.array([[1, None, 3]]), "integer[]", "{1,NULL,3}"),
    "no_integers": (pa.array([[]], pa.list_(pa.int32())), "integer[]", "{}"),
    "texts": (pa.array([["a,b", 'q"\\', "", "NULL", None]]), "text[]", '{"a,b","q\\"\\\\","","NULL",NULL}'),
    "matrix": (pa.array([[[1, 2], [3, 4]]]), "integer[]", "{{1,2},{3,4}}"),
    "fixed_list": (pa.array([[1.5, 2.0]], pa.list_(pa.float64(), 2)), "float8[]", "{1.5,2}"),
    "list_as_json": (pa.array([["a", None]]), "jsonb", '["a", null]'),
    "struct": (pa.array([{"a": 1, "b": "x"}]), "jsonb", '{"a": 1, "b": "x"}'),
    "map": (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), "jsonb", '{"k": 1}'),
}  # fmt: skip


@pytest.mark.parametrize("form", ["parquet", "arrow", "stream"])
def test_every_type_arrives_as_what_it_means(form: str, database: str, connection: Connection, tmp_path: Path) -> None:
    table = pa.table({"id": pa.array([1]), **{name: values for name, (values, _, _) in TYPES.items()}})
    with connection.cursor() as cursor:
        columns = ", ".join(f'"{name}" {kind}' for name, (_, kind, _) in TYPES.items())
        cursor.execute(f"CREATE TABLE t (id int PRIMARY KEY, {columns})")
        cursor.execute("SET TimeZone = 'UTC'")
    source: Any = table
    if form == "parquet":
        source = tmp_path / "types.parquet"
        pq.write_table(table, source)
    elif form == "stream":
        source = type(
            "Polars", (), {"__arrow_c_stream__": lambda self, schema=None: table.__arrow_c_stream__(schema)}
        )()
    assert ingest(source, "t", "id", database).counts.written == 1
    with connection.cursor() as cursor:
        cursor.execute("SELECT " + ", ".join(f'"{name}"::text' for name in TYPES) + " FROM t")
        assert dict(zip(TYPES, cursor.fetchone() or (), strict=True)) == {n: text for n, (_, _, text) in TYPES.items()}


def test_int96_timestamps_of_old_writers_load(database: str, connection: Connection, tmp_path: Path) -> None:
    table = pa.table({"id": [1], "at": pa.array([MOMENT // 1000], pa.timestamp("us"))})
    pq.write_table(table, tmp_path / "old.parquet", use_deprecated_int96_timestamps=True)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, at timestamp)")
        ingest(tmp_path / "old.parquet", "t", "id", database)
        cursor.execute("SELECT at::text FROM t")
        assert cursor.fetchone() == ("2023-11-14 22:13:20.123456",)


def test_what_only_arrow_reads_exactly_is_refused_inside_lists(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    table = pa.table({"id": [1], "v": pa.array([[Decimal(1)]], pa.list_(pa.decimal256(60, 2)))})
    pq.write_table(table, tmp_path / "f.parquet")
    for source in (table, tmp_path / "f.parquet"):
        with pytest.raises(SourceError, match=r"column 'v' is list.*cannot be read exactly; cast it to text"):
            ingest(source, "t", "id", database)


def test_parquet_columns_that_differ_in_case_stay_apart(database: str, connection: Connection, tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1], "a": ["lower"], "A": ["upper"]}), tmp_path / "f.parquet")
    with connection.cursor() as cursor:
        cursor.execute('CREATE TABLE t (id int PRIMARY KEY, "A" text, a text)')
        ingest(tmp_path / "f.parquet", "t", "id", database)
        cursor.execute('SELECT a, "A" FROM t')
        assert cursor.fetchone() == ("lower", "upper")


@pytest.mark.parametrize("name", ['quo"te', "com,ma", "new\nline", "emoji 😀", " dot.ted ", "select", "c0"])
@pytest.mark.parametrize("form", ["csv", "parquet", "frame"])
def test_any_column_name_loads(name: str, form: str, tmp_path: Path) -> None:
    path = tmp_path / f"f.{form}"
    spelled = '"' + name.replace('"', '""') + '"'
    if form == "csv":
        path.write_text(f'id,{spelled}\n1,"a"\n', encoding="utf-8")
        name = name.strip()  # blanks around a name in a header are taken for a slip of the pen
    table = pa.table({"id": [1], name: ["a"]})
    if form == "parquet":
        pq.write_table(table, path)
    with opened(table if form == "frame" else path) as (workspace, (file,)):
        assert file.columns == ("id", name)
        assert texts(file, workspace) == [("1", "a")]


# --- pandas -----------------------------------------------------------------------------------------------------------------


def test_pandas_frame_loads_with_its_missing_values_as_null(database: str, connection: Connection) -> None:
    frame = pd.DataFrame(
        {
            "id": [1, 2],
            "number": [7.0, float("nan")],
            "nullable": pd.array([8, pd.NA], dtype="Int64"),
            "name": ["x", None],
            "category": pd.Categorical(["a", None]),
            "at": [pd.Timestamp("2024-01-02 03:04:05"), pd.NaT],
            "zoned": [pd.Timestamp("2024-01-02 03:04:05", tz="Europe/Berlin"), pd.NaT],
            "took": [pd.Timedelta(seconds=90), pd.NaT],
            "flag": [True, None],
        }
    )
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE t (id int PRIMARY KEY, number int, nullable int, name text, category text, at timestamp, "
            "zoned timestamptz, took interval, flag boolean)"
        )
        cursor.execute("SET TimeZone = 'UTC'")
        ingest(frame, "t", "id", database)
        cursor.execute("SELECT t::text FROM t ORDER BY id")
        assert [row[0] for row in cursor.fetchall()] == [
            '(1,7,8,x,a,"2024-01-02 03:04:05","2024-01-02 02:04:05+00",00:01:30,t)',
            "(2,,,,,,,,)",
        ]


def test_pandas_index_is_a_column_only_where_it_has_a_name() -> None:
    frame = pd.DataFrame({"v": ["a", "b"]}, index=[7, 8])
    named = frame.rename_axis("id")
    ranged = pd.DataFrame({"v": ["a", "b"]}, index=pd.RangeIndex(7, 9, name="id"))
    with opened(frame, named, ranged) as (workspace, files):
        assert [file.columns for file in files] == [("v",), ("v", "id"), ("v", "id")]
        assert files[1].content_hash == files[2].content_hash
        assert texts(files[1], workspace) == [("a", "7"), ("b", "8")]


def test_parquet_written_with_an_unnamed_index_loads_without_it(tmp_path: Path) -> None:
    pd.DataFrame({"v": ["a"]}, index=[7]).to_parquet(tmp_path / "f.parquet")
    with opened(tmp_path / "f.parquet") as (workspace, (file,)):
        assert (file.columns, texts(file, workspace)) == (("v",), [("a",)])


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "frame 1: .*Duplicate column names"),
        (pd.DataFrame({"a": [1, "x"]}), "frame 1: .*column a.*give every column one type"),
        (pa.table([[1], [2]], names=["a", "a"]), "frame 1: column 'a' appears twice"),
    ],
    ids=["twice in pandas", "mixed types", "twice in Arrow"],
)
def test_frames_that_are_no_table_are_reported(frame: Any, message: str) -> None:
    with pytest.raises(SourceError, match=message), opened(frame):
        pass


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"a": [1]}, "cannot load a dict; its values may be columns or rows"),
        (io.StringIO("a\n1\n"), "cannot load a StringIO; give the path of the file"),
        (io.BytesIO(b"a\n1\n"), "cannot load a BytesIO; give the path of the file"),
        (pl.DataFrame({"a": [1]}).lazy(), "cannot load a LazyFrame; give its .collect()"),
        (b"a.csv", "cannot load a bytes; give a path"),
    ],
    ids=["dict", "text file", "binary file", "lazy frame", "bytes"],
)
def test_what_is_no_frame_is_refused_with_what_to_give_instead(item: Any, words: str) -> None:
    for files in (item, [item]):
        with pytest.raises(UsageError, match=re.escape(words)):
            ConflictAwareProcessor().analyze(files, key="a")
