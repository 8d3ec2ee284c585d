"""Files as they come: every fault and spelling of a file gives the same table and the same rejects by every strategy."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from psycopg2.extensions import connection as Connection

from etl_toolkit import ParallelConfig, ingest
from etl_toolkit.errors import RejectLimitError, SourceError
from etl_toolkit.rejected import export_rejects, list_rejects, rejects_text

STRATEGIES = ("full_parallel", "hybrid", "deterministic", "streaming", "partitioned")
SMALL = ParallelConfig(chunk_size=3, sub_batch_size=2)
UNSEEN = ParallelConfig(conflict_detection=False, sub_batch_size=2)

Rejected = tuple[int | None, str, str]  # line, SQLSTATE, raw text


@dataclass(frozen=True)
class Case:
    """A file's bytes, and what must become of it: the table's rows, and the rejects."""

    data: bytes
    rows: Sequence[tuple[Any, ...]]
    rejects: Sequence[Rejected] = ()
    name: str = "file.csv"
    options: dict[str, Any] = field(default_factory=dict)


def seed(connection: Connection) -> None:
    """A table that holds one row already, so that no strategy may copy straight into it."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
        cursor.execute("INSERT INTO t VALUES (0, 'old')")


def content(
    connection: Connection, query: str = "SELECT id, v FROM t WHERE id <> 0 ORDER BY id"
) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchall()


def rejected(connection: Connection, run_id: str) -> list[Rejected]:
    return [(row.line, row.sqlstate, row.raw) for row in list_rejects(connection, run_id)]


MALFORMED = "22P04"
ENCODING = "22021"

ONE, TWO = b"id,v\n1,a\n", b"2,b\n"

CASES = {
    # --- rows that are too short or too long
    "first row short": Case(b"id,v\n1\n2,b\n3,c\n", [(2, "b"), (3, "c")], [(2, MALFORMED, "1")]),
    "last row long": Case(b"id,v\n1,a\n2,b,x\n", [(1, "a")], [(3, MALFORMED, "2,b,x")]),
    "only row short": Case(b"id,v\n1\n", [], [(2, MALFORMED, "1")]),
    "all rows ragged": Case(b"id,v\n1\n2,b,c\n3\n", [], [(2, MALFORMED, "1"), (3, MALFORMED, "2,b,c"), (4, MALFORMED, "3")]),
    "short and long cancel out": Case(b"id,v\n1\n2,b,c\n3,c\n", [(3, "c")], [(2, MALFORMED, "1"), (3, MALFORMED, "2,b,c")]),
    "ragged among quoted rows": Case(
        b'id,v\n1,"a\nb"\n2\n3,"c,d"\n', [(1, "a\nb"), (3, "c,d")], [(4, MALFORMED, "2")]
    ),
    "row of blanks": Case(b"id,v\n1,a\n   \n2,b\n", [(1, "a"), (2, "b")], [(3, MALFORMED, "   ")]),
    # --- quotes
    "quote never closes": Case(b'id,v\n1,a\n2,"b\n3,c\n', [(1, "a"), (3, "c")], [(3, MALFORMED, '2,"b')]),
    "quote closes in a later row": Case(
        b'id,v\n1,"a\n2,"b"\n3,c\n', [(2, "b"), (3, "c")], [(2, MALFORMED, '1,"a')]
    ),
    "quote inside a field": Case(b'id,v\n1,a"b"c\n2,b\n', [(2, "b")], [(2, MALFORMED, '1,a"b"c')]),
    "text after a quote": Case(b'id,v\n1,"a" \n2,b\n', [(2, "b")], [(2, MALFORMED, '1,"a" ')]),
    "quotes as they should be": Case(
        b'id,v\n1,"a ""b"" c"\n2,""\n3,\n4,"\\."\n5,",\r\n"\n',
        [(1, 'a "b" c'), (2, ""), (3, None), (4, "\\."), (5, ",\r\n")],
    ),
    "another quote": Case(b"id,v\n1,'a,b'\n2,c\"d\n", [(1, "a,b"), (2, 'c"d')], options={"quote": "'"}),
    "no quote at all": Case(b'id,v\n1,"a\n', [(1, '"a')], options={"quote": ""}),
    # --- what COPY's text format would read otherwise
    "backslashes": Case(
        b"id,v\n1,a\\tb\n2,\\N\n3,\\.\n4,c\\\n5,\n",
        [(1, "a\\tb"), (2, "\\N"), (3, "\\."), (4, "c\\"), (5, None)],
    ),
    "a letter delimits": Case(b"idxv\n1xa\n2x\n", [(1, "a"), (2, None)], options={"delimiter": "x"}),
    # --- bytes that are no text
    "NUL byte": Case(b"id,v\n1,a\0b\n2,b\n", [(2, "b")], [(2, ENCODING, "1,a\\x00b")]),
    "not UTF-8": Case(b"id,v\n1,\xe9t\xe9\n2,b\n", [(2, "b")], [(2, ENCODING, "1,\\xe9t\\xe9")]),
    "latin-1 when told": Case(b"id,v\n1,\xe9t\xe9\n", [(1, "été")], options={"encoding": "latin-1"}),
    "UTF-16 found by its mark": Case("id,v\n1,été\n2,😀\n".encode("utf-16"), [(1, "été"), (2, "😀")]),
    "UTF-16 when told": Case("id,v\n1,été\n".encode("utf-16-be"), [(1, "été")], options={"encoding": "utf-16-be"}),
    "UTF-8 with a mark": Case(b"\xef\xbb\xbfid,v\n1,a\n", [(1, "a")]),
    "unit separator": Case(b"id,v\n1,a\x1fb\n", [(1, "a\x1fb")]),
    # --- line ends
    "CR LF": Case(b"id,v\r\n1,a\r\n2,b\r\n", [(1, "a"), (2, "b")]),
    "CR LF with quotes": Case(b'id,v\r\n1,"a\r\nb"\r\n2,b\r\n', [(1, "a\r\nb"), (2, "b")]),
    "CR": Case(b"id,v\r1,a\r2,b\r", [(1, "a"), (2, "b")]),
    "mixed": Case(b"id,v\r\n1,a\n2,b\r3,c", [(1, "a"), (2, "b"), (3, "c")]),
    "CR LF and a bad row": Case(b"id,v\r\n1\r\n2,b\r\n", [(2, "b")], [(2, MALFORMED, "1")]),
    "blank lines": Case(b"\nid,v\n\n1,a\n\n\n2,b\n\n", [(1, "a"), (2, "b")]),
    "blank lines and a bad row": Case(b"id,v\n\n1,a\n\n2\n", [(1, "a")], [(5, MALFORMED, "2")]),
    "no last line end": Case(b"id,v\n1,a\n2,b", [(1, "a"), (2, "b")]),
    # --- dialects
    "semicolons": Case(b"id;v\n1;a,b\n", [(1, "a,b")]),
    "tabs": Case(b"id\tv\n1\ta,b\n", [(1, "a,b")], name="file.tsv"),
    "bars": Case(b"id|v\n1|a,b;c\n", [(1, "a,b;c")]),
    "told delimiter": Case(b"id:v\n1:a,b\n", [(1, "a,b")], options={"delimiter": ":"}),
    "no header": Case(b"1,a\n2,b\n", [(1, "a"), (2, "b")], options={"headers": ["id", "v"]}),
    "given header stands in the file": Case(b"id,v\n1,a\n", [(1, "a")], options={"headers": ["id", "v"]}),
    "other order": Case(b"v,id\na,1\n", [(1, "a")]),
    "header only": Case(b"id,v\n", []),
    "header only without line end": Case(b"id,v", []),
    "nothing under given headers": Case(b"", [], options={"headers": ["id", "v"]}),
    "quoted header": Case(b'"id","v"\n1,a\n', [(1, "a")]),
    "header in other case": Case(b"ID,V\n1,a\n", [(1, "a")]),
    "extra column": Case(
        b"id,x,v\n1,?,a\n2,?\n", [(1, "a")], [(3, MALFORMED, "2,?")], options={"extra_columns": "ignore"}
    ),
    "comma in a file of one column": Case(b"id\n1\n2,b\n3\n", [(1, None), (3, None)], [(3, MALFORMED, "2,b")]),
    # --- packed
    "gzip": Case(gzip.compress(ONE), [(1, "a")], name="file.csv.gz"),
    "gzip of several members": Case(gzip.compress(ONE) + gzip.compress(TWO), [(1, "a"), (2, "b")], name="f.csv.gz"),
    "zstd": Case(zstandard.compress(ONE), [(1, "a")], name="file.csv.zst"),
    "zstd of several frames": Case(zstandard.compress(ONE) + zstandard.compress(TWO), [(1, "a"), (2, "b")], name="f.csv.zst"),
    "gzip with a bad row": Case(gzip.compress(b"id,v\n1\n2,b\n"), [(2, "b")], [(2, MALFORMED, "1")], name="file.csv.gz"),
    # --- what the server refuses, at its place in the file
    "bad values among bad rows": Case(
        b'id,v\n1\nx,a\n2,b\n,c\n3,d,e\n99999999999,f\n4,g\n',
        [(2, "b"), (4, "g")],
        [(2, MALFORMED, "1"), (3, "22P02", "x,a"), (5, "23502", ",c"), (6, MALFORMED, "3,d,e"), (7, "22003", "99999999999,f")],
    ),
    "bad values behind line breaks": Case(
        b'id,v\n1,"a\n\nb"\n2,"c\nd"\nx,"e\nf"\n3,g\n', [(1, "a\n\nb"), (2, "c\nd"), (3, "g")], [(7, "22P02", 'x,"e\nf"')]
    ),
    "bad value in another encoding": Case(
        "id;v\r\nx;é\r\n1;ü\r\n".encode("latin-1"), [(1, "ü")], [(2, "22P02", "x;é")], options={"encoding": "latin-1"}
    ),
    "a bad row that would have lost": Case(b"id,v\n1,a\n1\n1,b\n", [(1, "b")], [(3, MALFORMED, "1")]),
}  # fmt: skip


def twice(labels: Sequence[str]) -> list[Any]:
    """Each case by `partitioned` and by one of the ways that take whole files, in turn; `unseen` has no key scan."""
    others = ("full_parallel", "hybrid", "deterministic", "streaming", "unseen")
    pairs = [(label, way) for place, label in enumerate(labels) for way in ("partitioned", others[place % 5])]
    return [pytest.param(*pair, id="-".join(pair)) for pair in pairs]


@pytest.mark.parametrize(("label", "strategy"), twice(list(CASES)))
def test_good_rows_load_and_bad_ones_are_reported_by_line(
    label: str, strategy: str, database: str, connection: Connection, tmp_path: Path
) -> None:
    case = CASES[label]
    seed(connection)
    path = tmp_path / case.name
    path.write_bytes(case.data)
    way = {"config": UNSEEN} if strategy == "unseen" else {"config": SMALL, "strategy": strategy}
    result = ingest(path, "t", "id", database, max_rejects=100, concurrency=2, **way, **case.options)
    assert result
    assert content(connection) == case.rows
    assert rejected(connection, result.run_id) == list(case.rejects)
    assert result.counts.rejected == len(case.rejects)
    assert result.counts.written + result.counts.superseded_same_file == result.counts.read - len(case.rejects)


@pytest.mark.parametrize(
    "label",
    [
        "short and long cancel out", "ragged among quoted rows", "quote never closes", "NUL byte", "CR LF and a bad row",
        "extra column", "bad values among bad rows", "bad values behind line breaks", "bad value in another encoding",
    ],
)  # fmt: skip
def test_exported_rejects_load_once_they_are_allowed(
    label: str, database: str, connection: Connection, tmp_path: Path
) -> None:
    """Loaded again as they are, the same rows are rejected for the same reasons: nothing was lost on the way."""
    case = CASES[label]
    seed(connection)
    path = tmp_path / case.name
    path.write_bytes(case.data)
    first = ingest(path, "t", "id", database, max_rejects=100, **case.options)
    exported = tmp_path / "rejects.csv"
    assert export_rejects(connection, first.run_id, exported) == len(case.rejects)
    again = ingest(exported, "t", "id", database, max_rejects=100, **case.options | {"encoding": "utf-8"})
    unmendable = [item for item in case.rejects if item[1] != ENCODING]
    assert [raw for _, _, raw in rejected(connection, again.run_id)] == [raw for _, _, raw in unmendable]


@pytest.mark.parametrize(
    ("label", "strategy"), twice(["last row long", "quote never closes", "NUL byte", "bad values behind line breaks"])
)
def test_first_bad_row_fails_the_load_with_its_place(
    label: str, strategy: str, database: str, connection: Connection, tmp_path: Path
) -> None:
    case = CASES[label]
    seed(connection)
    path = tmp_path / case.name
    path.write_bytes(case.data)
    line = case.rejects[0][0]
    with pytest.raises(RejectLimitError, match=rf"file\.csv, line {line}: .*SQLSTATE {case.rejects[0][1]}"):
        ingest(path, "t", "id", database, strategy=strategy)
    assert content(connection) == []


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rejects_of_several_files_and_formats_are_the_same_by_every_strategy(
    strategy: str, database: str, connection: Connection, tmp_path: Path
) -> None:
    seed(connection)
    (tmp_path / "a.csv").write_bytes(b"id,v\n1,a\nx,b\n2\n")
    (tmp_path / "b.csv").write_bytes(b'v,id\r\n"b,b",3\r\n"c\r\n",\r\nd,4,5\r\n')
    pq.write_table(pa.table({"v": ["p,q", "r"], "id": ["y", "5"]}), tmp_path / "c.parquet")
    frame = pa.table({"id": pa.array([6, None]), "v": ["s", 't"u']})
    names = ["a.csv", "b.csv", "c.parquet"]
    result = ingest(
        [*(tmp_path / name for name in names), frame], "t", "id", database,
        strategy=strategy, max_rejects=100, concurrency=2, config=SMALL,
    )  # fmt: skip
    assert content(connection) == [(1, "a"), (3, "b,b"), (5, "r"), (6, "s")]
    found = [
        (Path(row.file).name, row.line, row.record, row.sqlstate, row.raw)
        for row in list_rejects(connection, result.run_id)
    ]
    assert found == [
        ("a.csv", 3, 1, "22P02", "x,b"),
        ("a.csv", 4, 2, MALFORMED, "2"),
        ("b.csv", 3, 1, "23502", '"c\r\n",'),
        ("b.csv", 5, 2, MALFORMED, "d,4,5"),
        ("c.parquet", None, 0, "22P02", '"p,q",y'),
        ("frame 4 (2 rows)", None, 1, "23502", ',"t""u"'),
    ]


def test_rejects_of_different_headers_are_exported_apart(database: str, connection: Connection, tmp_path: Path) -> None:
    seed(connection)
    (tmp_path / "a.csv").write_bytes(b"id,v\n1\n")
    (tmp_path / "b.csv").write_bytes(b"v;id\nx\n")
    (tmp_path / "c.csv").write_bytes(b"id,v\n2\n3,c\n")
    result = ingest(str(tmp_path / "*.csv"), "t", "id", database, max_rejects=9)
    assert export_rejects(connection, result.run_id, tmp_path / "bad.csv") == 3
    assert (tmp_path / "bad.csv").read_text() == "id,v\n1\n2\n"
    assert (tmp_path / "bad-2.csv").read_text() == "v;id\nx\n"


def test_rows_being_fixed_are_not_written_over(database: str, connection: Connection, tmp_path: Path) -> None:
    seed(connection)
    (tmp_path / "a.csv").write_bytes(b"id,v\n1\n")
    result = ingest(tmp_path / "a.csv", "t", "id", database, max_rejects=9)
    mended = tmp_path / "bad.csv"
    mended.write_text("id,v\n1,a\n")
    with pytest.raises(Exception, match="already exists"):
        export_rejects(connection, result.run_id, mended)
    assert mended.read_text() == "id,v\n1,a\n"
    ingest(mended, "t", "id", database)
    assert content(connection) == [(1, "a")]


def test_rejects_are_listed_for_people(database: str, connection: Connection, tmp_path: Path) -> None:
    seed(connection)
    (tmp_path / "a.csv").write_bytes(b"id,v\n1\n2,b\nx,c\n")
    result = ingest(tmp_path / "a.csv", "t", "id", database, max_rejects=9)
    text = rejects_text(list_rejects(connection, result.run_id))
    assert "a.csv: 2 rejected rows" in text
    assert 'missing data for column "v"' in text
    assert [line.split()[:2] for line in text.splitlines()[3:]] == [["2", "22P04"], ["4", "22P02"]]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_more_rejects_than_allowed_write_nothing_of_the_file(
    strategy: str, database: str, connection: Connection, tmp_path: Path
) -> None:
    seed(connection)
    (tmp_path / "a.csv").write_bytes(b"id,v\n1\n2,b\nx,c\n")
    with pytest.raises(RejectLimitError, match="more than 1 row would"):
        ingest(tmp_path / "a.csv", "t", "id", database, strategy=strategy, max_rejects=1)
    assert content(connection) == []


# --- faults that no row can be blamed for -------------------------------------------------------------------------------


def torn_gzip() -> bytes:
    return gzip.compress(os.urandom(5000).hex().encode())[:3000]


FAULTS: dict[str, tuple[str, bytes | Callable[[], bytes], str]] = {
    "empty": ("f.csv", b"", "is empty.*--headers"),
    "blank": ("f.csv", b"\n\n", "is empty"),
    "torn gzip": ("f.csv.gz", torn_gzip, "cannot be decompressed.*is the file complete"),
    "torn zstd": ("f.csv.zst", lambda: zstandard.compress(b"id,v\n1,a\n" * 99)[:-4], "cannot be decompressed"),
    "no gzip": ("f.csv.gz", b"id,v\n1,a\n", "cannot be decompressed"),
    "UTF-16 without a mark": ("f.csv", "id,v\n1,a\n".encode("utf-16-le"), "line 1: .*--encoding utf-16-le"),
    "header not UTF-8": ("f.csv", b"id,\xe9\n1,a\n", "line 1: .*--encoding latin-1"),
    "column twice": ("f.csv", b"id,id\n1,2\n", "column 'id' appears twice"),
    "column without a name": ("f.csv", b"id,,v\n1,2,3\n", "column 2 of the header has no name"),
    "unknown column": ("f.csv", b"id,\"we\nird 'col'\",v\n1,2,3\n", "is not in public.t"),
    "no key column": ("f.csv", b"nr,v\n1,2\n", "nr"),
    "empty Parquet": ("f.parquet", b"", "is empty"),
    "no Parquet": ("f.parquet", b"id,v\n1,a\n" * 9, "not a readable Parquet file"),
    "odd ending": ("f.xls", b"id,v\n", "unknown type of file"),
}  # fmt: skip


@pytest.mark.parametrize("label", FAULTS)
def test_unreadable_file_is_one_line_with_name_and_remedy(
    label: str, database: str, connection: Connection, tmp_path: Path
) -> None:
    name, data, message = FAULTS[label]
    seed(connection)
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data())
    with pytest.raises(SourceError, match=message) as caught:
        ingest(path, "t", "id", database)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert content(connection) == []


def test_torn_and_damaged_parquet_is_named(database: str, connection: Connection, tmp_path: Path) -> None:
    seed(connection)
    path = tmp_path / "whole.parquet"
    pq.write_table(
        pa.table({"id": list(range(1, 5000)), "v": [f"text {n * 7919 % 5000}" for n in range(1, 5000)]}), path
    )
    data = path.read_bytes()
    torn, damaged = tmp_path / "torn.parquet", tmp_path / "damaged.parquet"
    torn.write_bytes(data[: len(data) // 2])
    damaged.write_bytes(data[:100] + b"\xff" * 4000 + data[4100:])
    for bad in (torn, damaged):
        for options in ({"strategy": "streaming"}, {"strategy": "partitioned"}, {"config": UNSEEN}):
            with pytest.raises(SourceError, match=rf"{bad.name}: .*(written to the end|write it again)") as caught:
                ingest(bad, "t", "id", database, **options)  # type: ignore[arg-type]
            assert "\n" not in str(caught.value)
    assert content(connection) == []


def test_directory_missing_and_dangling_files_are_distinguished(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    seed(connection)
    (tmp_path / "link.csv").symlink_to(tmp_path / "nowhere.csv")
    (tmp_path / "empty").mkdir()
    (tmp_path / os.fsdecode(b"\xff.csv")).write_bytes(b"id,v\n")
    for name, message in (
        (os.fsdecode(b"\xff.csv"), r"xff\.csv: the file name is not UTF-8"), ("empty", "is a directory without files"),
        ("none.csv", "no such file"), ("n*.csv", "no file matches"), ("link.csv", "link to a file that does not exist"),
    ):  # fmt: skip
        with pytest.raises(SourceError, match=message):
            ingest(str(tmp_path / name), "t", "id", database)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission_is_reported(database: str, connection: Connection, tmp_path: Path) -> None:
    seed(connection)
    path = tmp_path / "secret.csv"
    path.write_bytes(b"id,v\n1,a\n")
    path.chmod(0)
    with pytest.raises(SourceError, match=r"secret\.csv: cannot be read: Permission denied"):
        ingest(path, "t", "id", database)


@pytest.mark.parametrize(
    "name",
    [
        "with space.csv",
        "quo'te\".csv",
        "st*r.csv",
        "br[1].csv",
        "new\nline.csv",
        "emoji 😀.csv",
        "-dash.csv",
        "a=b.csv",
        "%s{}.csv",
        "back\\slash.csv",
    ],
)
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_any_file_name_loads(name: str, form: str, database: str, connection: Connection, tmp_path: Path) -> None:
    seed(connection)
    path = tmp_path / Path(name).with_suffix(f".{form}")
    if form == "csv":
        path.write_bytes(b"id,v\n1,a\n2\n")
        expected = 1
    else:
        pq.write_table(pa.table({"id": [1], "v": ["a"]}), path)
        expected = 0
    result = ingest(str(path), "t", "id", database, max_rejects=1)
    assert content(connection) == [(1, "a")]
    assert list(result.files) == [str(path)]
    assert [row.file for row in list_rejects(connection, result.run_id)] == [str(path)] * expected


# --- sizes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("quoted", [False, True], ids=["plain", "quoted"])
def test_field_of_20_megabytes_loads(
    quoted: bool, strategy: str, database: str, connection: Connection, tmp_path: Path
) -> None:
    seed(connection)
    body = b"x\n" * 10_000_000 if quoted else b"xy" * 10_000_000
    path = tmp_path / "big.csv"
    path.write_bytes(b"id,v\n1,a\n2," + (b'"' + body + b'"' if quoted else body) + b"\n3,c\n")
    assert ingest(path, "t", "id", database, strategy=strategy)
    expected = [(1, 1, "a"), (2, 20_000_000, body[:2].decode()), (3, 1, "c")]
    assert content(connection, "SELECT id, length(v), left(v, 2) FROM t WHERE id <> 0 ORDER BY id") == expected


def test_record_longer_than_the_limit_is_rejected_alone(database: str, connection: Connection, tmp_path: Path) -> None:
    seed(connection)
    path = tmp_path / "long.csv"
    path.write_bytes(b"id,v\n1," + b"x" * 700_000 + b"\n2,b\n")
    result = ingest(path, "t", "id", database, max_rejects=1, config=ParallelConfig(max_line_bytes=100_000))
    assert content(connection) == [(2, "b")]
    ((line, sqlstate, raw),) = rejected(connection, result.run_id)
    assert (line, sqlstate, raw) == (2, "54000", "1," + "x" * 998)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_thousand_columns_load(strategy: str, database: str, connection: Connection, tmp_path: Path) -> None:
    seed(connection)
    names = [f"c{number}" for number in range(1998)] + ["v", "id"]
    path = tmp_path / "wide.csv"
    lines = [",".join(names), *(",".join(["?"] * 1998 + [f"v{row}", str(row)]) for row in range(1, 9)), "9,9"]
    path.write_text("\n".join(lines) + "\n")
    result = ingest(path, "t", "id", database, strategy=strategy, extra_columns="ignore", max_rejects=1)
    assert content(connection) == [(row, f"v{row}") for row in range(1, 9)]
    assert [item[0] for item in rejected(connection, result.run_id)] == [10]


# --- the same content twice ----------------------------------------------------------------------------------------------


def test_same_content_is_loaded_once_and_reported(database: str, connection: Connection, tmp_path: Path) -> None:
    seed(connection)
    first, copy, other = (tmp_path / name for name in ("a.csv", "b.csv", "c.csv"))
    first.write_bytes(b"id,v\n1,a\n")
    copy.write_bytes(b"id,v\n1,a\n")
    other.write_bytes(b"id,v\n1,c\n")
    result = ingest([first, other, copy, str(first), tmp_path / "." / "a.csv"], "t", "id", database)
    assert content(connection) == [(1, "a")]
    assert list(result.files) == [str(other), str(first)]
    assert result.duplicates == ((str(first), str(first)), (str(copy), str(first)), (str(first), str(first)))


def test_same_frame_twice_is_loaded_once(database: str, connection: Connection) -> None:
    seed(connection)
    result = ingest([pa.table({"id": [1], "v": ["a"]}), pa.table({"id": [1], "v": ["a"]})], "t", "id", database)
    assert result.duplicates == (("frame 1 (1 rows)", "frame 2 (1 rows)"),)
    assert content(connection) == [(1, "a")]


def test_globs_expand_in_natural_order(database: str, connection: Connection, tmp_path: Path) -> None:
    seed(connection)
    for number in (10, 9, 1, 2):
        (tmp_path / f"part{number}.csv").write_text(f"id,v\n1,{number}\n")
    result = ingest(str(tmp_path / "part*.csv"), "t", "id", database)
    assert [Path(name).name for name in result.files] == [f"part{number}.csv" for number in (1, 2, 9, 10)]
    assert content(connection) == [(1, "10")]


# --- what COPY takes for the end of its data ----------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("state", ["empty", "filled"])
@pytest.mark.parametrize(
    ("data", "rows"),
    [
        ("id\na\n\\.\nb\nc\n", ["a", "\\.", "b", "c"]),
        ("id\r\na\r\n\\.\r\nb\r\n", ["a", "\\.", "b"]),
        ('id\na\n"\\."\nb\n', ["a", "\\.", "b"]),
        ('id\na\n"x\n\\.\ny"\nb\n', ["a", "x\n\\.\ny", "b"]),
        ("id\na\n\\.", ["a", "\\."]),
    ],
    ids=["bare", "bare, CR LF", "quoted", "a line inside quotes", "last, without a line end"],
)
def test_a_backslash_and_a_dot_alone_on_a_line_end_nothing(
    database: str, connection: Connection, tmp_path: Path, data: str, rows: list[str], state: str, strategy: str
) -> None:
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    files[0].write_bytes(data.encode())
    files[1].write_bytes(b"id\nz\n")
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id text PRIMARY KEY)")
        if state == "filled":
            cursor.execute("INSERT INTO t VALUES ('z')")

    result = ingest(files, "t", "id", database, strategy=strategy, config=SMALL)

    assert result.counts.read == len(rows) + 1
    assert content(connection, 'SELECT id FROM t ORDER BY id COLLATE "C"') == [(row,) for row in sorted([*rows, "z"])]


def test_control_a_bare_copy_ends_there_without_a_word(connection: Connection) -> None:
    """Until PostgreSQL 17; from 18 on it takes the line for data."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id text)")
        cursor.copy_expert("COPY t FROM STDIN (FORMAT csv)", io.BytesIO(b"a\n\\.\nb\n"))
    expected = [("a",)] if connection.server_version < 180000 else [("a",), ("\\.",), ("b",)]
    assert content(connection, "SELECT id FROM t") == expected


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_file_with_backslashes_beside_one_without(
    database: str, connection: Connection, tmp_path: Path, strategy: str
) -> None:
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    files[0].write_bytes(b"id,v\n1,a\n2,b\n")
    files[1].write_bytes(b"id,v\n3,\\N\n4,\\t\n")
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")

    ingest(files, "t", "id", database, strategy=strategy, config=SMALL)

    assert content(connection) == [(1, "a"), (2, "b"), (3, "\\N"), (4, "\\t")]


def test_control_text_format_reads_backslashes_otherwise(
    database: str, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "etl_toolkit.sources.csv_file.Examination.has_backslash", property(lambda _: False, lambda *_: None)
    )
    source = tmp_path / "a.csv"
    source.write_bytes(b"id,v\n1,\\N\n2,\\x41\n")
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")

    ingest(source, "t", "id", database)

    assert content(connection) == [(1, "N"), (2, "A")]
