"""`--skip`, `--headers`, `--format`: what the messages advise loads the data, and never a header as a row."""

from __future__ import annotations

import base64
import gzip
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from psycopg2.extensions import connection as Connection
from pyarrow.parquet import encryption

from etl_toolkit import ReadOptions, ingest
from etl_toolkit.errors import RejectLimitError, SourceError, TargetError
from etl_toolkit.processor import ConflictAwareProcessor

HEADERS = ["id", "name", "v"]


@pytest.fixture
def table(database: str, connection: Connection) -> str:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id text PRIMARY KEY, name text, v text)")
    return database


def rows(connection: Connection) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, name, v FROM t ORDER BY id")
        return list(cursor.fetchall())


def put(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("header", ["id,,v", "id,v,v", "id,name,"])
def test_the_advice_for_a_bad_header_loads_the_rows_and_no_header(
    table: str, connection: Connection, tmp_path: Path, header: str
) -> None:
    path = put(tmp_path / "a.csv", f"{header}\n1,a,x\n")
    with pytest.raises(SourceError, match=r"or skip it with --skip 1 and name all columns with --headers"):
        ingest(path, "t", "id", table)
    ingest(path, "t", "id", table, skip=1, headers=HEADERS)
    assert rows(connection) == [("1", "a", "x")]


@pytest.mark.parametrize("header", ["ID,Name,V", " id , name , v", "id,,v", "id,v,v", "Id,name,value"])
def test_headers_refuse_a_first_row_that_looks_like_a_header(
    table: str, connection: Connection, tmp_path: Path, header: str
) -> None:
    path = put(tmp_path / "a.csv", f"{header}\n1,a,x\n")
    if header.strip() == "id , name , v":
        ingest(path, "t", "id", table, headers=HEADERS)  # the same once trimmed: it is a header
    else:
        with pytest.raises(SourceError, match=r"line 1: looks like a header.*skip it with --skip 1"):
            ingest(path, "t", "id", table, headers=HEADERS)
        ingest(path, "t", "id", table, headers=HEADERS, skip=1)
    assert rows(connection) == [("1", "a", "x")]


def test_headers_load_a_first_row_of_data(table: str, connection: Connection, tmp_path: Path) -> None:
    ingest(put(tmp_path / "a.csv", "1,name,x\n2,b,y\n"), "t", "id", table, headers=HEADERS)
    assert rows(connection) == [("1", "name", "x"), ("2", "b", "y")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_before_the_header_are_skipped(table: str, connection: Connection, tmp_path: Path, end: str) -> None:
    lines = ['exported by "somebody', "", "id,name,v", "1,a,x", "2,b"]
    path = put(tmp_path / "a.csv", end.join(lines) + end)
    with pytest.raises(RejectLimitError, match="line 5:"):
        ingest(path, "t", "id", table, skip=2)
    result = ingest(path, "t", "id", table, skip=2, max_rejects=1)
    assert rows(connection) == [("1", "a", "x")]
    with connection.cursor() as cursor:
        cursor.execute("SELECT line, raw FROM etl_toolkit.rejects WHERE run_id = %s", (result.run_id,))
        assert cursor.fetchall() == [(5, "2,b")]


def test_a_row_that_the_server_refuses_has_its_line_behind_skipped_ones(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE n (id int PRIMARY KEY, v int)")
    for name, content, options in (
        ("a.csv", "x\nid,v\n1,1\n2,bad\n", {"skip": 1}),
        ("b.csv", "x\ny\n1,1\n2,bad\n", {"skip": 2, "headers": ["id", "v"]}),
        ("c.tsv", "x\nid\tv\n1\t1\n2\tb\\nad\n", {"skip": 1, "format": "pgtext"}),
    ):
        result = ingest(put(tmp_path / name, content), "n", "id", database, max_rejects=1, **options)  # type: ignore[arg-type]
        with connection.cursor() as cursor:
            cursor.execute("SELECT line FROM etl_toolkit.rejects WHERE run_id = %s", (result.run_id,))
            assert cursor.fetchall() == [(4,)], name


def test_more_lines_skipped_than_there_are_leave_nothing(table: str, connection: Connection, tmp_path: Path) -> None:
    assert ingest(put(tmp_path / "a.csv", "1,a,x\n"), "t", "id", table, skip=9, headers=HEADERS).counts.read == 0


# --- COPY's text format --------------------------------------------------------------------------------------------------


TEXT = b'id\tname\tv\n1\t\\N\ta\\tb\\\\c\n2\t\tx\\ny\n3\t\\x41\\102\tq"u,o\n4\ta\\\nb\t\\.x\n'
LOADED = [("1", None, "a\tb\\c"), ("2", "", "x\ny"), ("3", "AB", 'q"u,o'), ("4", "a\nb", ".x")]


def test_copy_text_is_recognized_and_loads_as_the_message_says(
    table: str, connection: Connection, tmp_path: Path
) -> None:
    path = put(tmp_path / "a.tsv", TEXT)
    with pytest.raises(SourceError, match=r"line 2: a field is \\N.*--format pgtext, or with --format csv"):
        ingest(path, "t", "id", table)
    ingest(path, "t", "id", table, format="pgtext")
    assert rows(connection) == LOADED


def test_copy_text_of_the_server_comes_back_as_it_was(table: str, connection: Connection, tmp_path: Path) -> None:
    with connection.cursor() as cursor, (tmp_path / "a.txt").open("wb") as out:
        values = [
            ("1", None, "\\N"),
            ("2", "", "\\."),
            ("3", "\b\f\v\r\n\t\\", 'é"😀,'),
            ("4", "\\", " "),
            ("5", "\\n", "\x01"),
        ]
        cursor.executemany("INSERT INTO t VALUES (%s, %s, %s)", values)
        before = rows(connection)
        cursor.copy_expert("COPY t TO STDOUT", out)
        cursor.execute("TRUNCATE t")
    ingest(tmp_path / "a.txt", "t", "id", table, format="pgtext", headers=HEADERS)
    assert rows(connection) == before


def test_where_a_block_of_copy_text_ends_changes_nothing() -> None:
    import io

    from etl_toolkit.sources.copy_text import CopyText

    def converted(size: int) -> bytes:
        stream = CopyText(io.BytesIO(TEXT * 3), "\t")
        return b"".join(iter(lambda: stream.read(size), b""))

    assert {converted(size) for size in range(1, len(TEXT) + 2)} == {converted(1 << 20)}


def test_a_backslash_and_n_are_characters_where_it_is_said(table: str, connection: Connection, tmp_path: Path) -> None:
    ingest(put(tmp_path / "a.tsv", TEXT[: TEXT.index(b"2\t")]), "t", "id", table, format="csv")
    assert rows(connection) == [("1", "\\N", "a\\tb\\\\c")]


@pytest.mark.parametrize(
    ("name", "text"), [("a.csv", "id,name,v\n1,a,b\n2,\\N,c\n"), ("a.txt", 'id|name|v\n"1"|a|"b"\n2|\\N|c\n')]
)
def test_a_backslash_and_n_in_other_csv_are_characters_and_the_plan_says_so(
    table: str, connection: Connection, tmp_path: Path, name: str, text: str
) -> None:
    path = put(tmp_path / name, text)
    said = rf"{name}, line 3: a field is \\N, which is loaded as these characters; .* --read 'null=\\N'"

    result = ingest(path, "t", "id", table)
    assert [reason for reason in result.reasons if re.search(said, reason)]
    assert rows(connection) == [("1", "a", "b"), ("2", "\\N", "c")]

    result = ingest(path, "t", "id", table, read=ReadOptions(null=("\\N",)))
    assert [reason for reason in result.reasons if re.search(said, reason)] == []
    assert rows(connection) == [("1", "a", "b"), ("2", None, "c")]


# --- what a file is ------------------------------------------------------------------------------------------------------


def test_any_ending_loads_as_the_format_that_is_given(table: str, connection: Connection, tmp_path: Path) -> None:
    path = put(tmp_path / "a.tbl", "id|name|v\n1|a|x\n")
    with pytest.raises(SourceError, match=r"unknown type of file.*--format csv"):
        ingest(path, "t", "id", table)
    ingest(path, "t", "id", table, format="csv")
    assert rows(connection) == [("1", "a", "x")]


@pytest.mark.parametrize(("content", "message"), [
    (gzip.compress(b"id,name,v\n"), r"is compressed with gzip; rename it to .*a\.csv\.gz"),
    (b"PK\x03\x04" + bytes(60), "is a ZIP archive or an Excel workbook"),
    (b"PAR1" + bytes(60) + b"PAR1", "is a Parquet file; rename it, or pass --format parquet"),
    (b"PARE" + bytes(60) + b"PARE", "is an encrypted Parquet file"),
], ids=["gzip", "zip", "Parquet", "encrypted Parquet"])  # fmt: skip
def test_a_file_that_is_something_else_is_reported_as_what_it_is(
    table: str, tmp_path: Path, content: bytes, message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        ingest(put(tmp_path / "a.csv", content), "t", "id", table)


@pytest.mark.parametrize("name", ["op", "_op", "Operation", "is_deleted", "__deleted", "change_type"])
def test_a_column_that_marks_deletes_is_not_to_be_ignored(table: str, tmp_path: Path, name: str) -> None:
    path = put(tmp_path / "a.csv", f"id,{name}\n1,D\n")
    with pytest.raises(SourceError, match="mark deleted rows") as caught:
        ingest(path, "t", "id", table)
    assert "--extra-columns" not in str(caught.value)


@pytest.mark.parametrize("plaintext_footer", [True, False])
def test_encrypted_parquet_is_refused_as_encrypted(table: str, tmp_path: Path, plaintext_footer: bool) -> None:
    path = tmp_path / "a.parquet"
    write_encrypted(path, plaintext_footer=plaintext_footer)
    with pytest.raises(SourceError, match=r"a\.parquet: .* encrypted .*write it again without encryption"):
        ingest(path, "t", "id", table)


class _Keys(encryption.KmsClient):  # type: ignore[misc]
    """Keys that are no secret."""

    def __init__(self, _: Any) -> None:
        super().__init__()

    def wrap_key(self, key: bytes, _: str) -> bytes:
        return base64.b64encode(key)

    def unwrap_key(self, wrapped: bytes, _: str) -> bytes:
        return base64.b64decode(wrapped)


def write_encrypted(path: Path, *, plaintext_footer: bool) -> None:
    rules = encryption.EncryptionConfiguration(
        footer_key="f", column_keys={"k": ["v"]}, plaintext_footer=plaintext_footer
    )
    factory = encryption.CryptoFactory(_Keys)
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), rules)
    content = pa.table({"id": ["1"], "v": ["x"]})
    with pq.ParquetWriter(path, content.schema, encryption_properties=properties) as writer:
        writer.write_table(content)


# --- names in another case -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["auto", "deterministic", "streaming", "partitioned"])
def test_key_and_order_column_fold_case_as_headers_do(
    database: str, connection: Connection, tmp_path: Path, strategy: str
) -> None:
    path = put(tmp_path / "a.csv", "Id,NAME,v\n1,a,2\n1,b,1\n")
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id text PRIMARY KEY, name text, v int)")
    ingest(path, "t", "ID", database, order_by="V", on_conflict="newer", strategy=strategy)
    assert rows(connection) == [("1", "a", 2)]


def test_the_overlap_folds_case_without_a_table(tmp_path: Path) -> None:
    files = [put(tmp_path / "a.csv", "Id,v\n1,a\n"), put(tmp_path / "b.csv", "ID,v\n1,b\n")]
    assert ConflictAwareProcessor().analyze(files, ["id"]).shared_keys == 1


def test_a_key_that_two_columns_may_be_is_not_guessed(database: str, connection: Connection, tmp_path: Path) -> None:
    with connection.cursor() as cursor:
        cursor.execute('CREATE TABLE two (id int PRIMARY KEY, "ID" int)')
    with pytest.raises(TargetError, match="no column 'Id'"):
        ingest(put(tmp_path / "a.csv", "id,ID\n1,2\n"), "two", "Id", database)


def test_a_table_is_not_created_from_a_header_alone(database: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"a\.csv: has no rows, so the types of its columns are not known"):
        ingest(put(tmp_path / "a.csv", "k,v\n"), "made", "k", database, create_table=True)
