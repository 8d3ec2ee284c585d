"""What can be named as a file of a load: directories, archives, pipes, JSON lines, Arrow files, whatever they are compressed with."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import threading
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit import ConflictAwareProcessor, explain_row, ingest
from etl_toolkit.errors import EtlError, SourceError
from etl_toolkit.model import ReadOptions
from etl_toolkit.sources import octets
from tests.forked import run_command

CSV = b"id,v\n1,a\n2,b\n"
ROWS = [("1", "a"), ("2", "b")]


@pytest.fixture
def table(database: str, connection: Connection) -> str:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id text PRIMARY KEY, v text, dt text)")
    return database


def rows(connection: Connection, columns: str = "id, v") -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {columns} FROM t ORDER BY id")
        return list(cursor.fetchall())


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def zipped(path: Path, content: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


# --- compressed ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "pack"), [
    (".bz2", bz2.compress), (".xz", lzma.compress), (".bz2", lambda data: bz2.compress(data[:5]) + bz2.compress(data[5:])),
    (".xz", lambda data: lzma.compress(data[:5]) + b"\0" * 4 + lzma.compress(data[5:])),
])  # fmt: skip
def test_bzip2_and_xz_are_unpacked(tmp_path: Path, suffix: str, pack: Any) -> None:
    path = put(tmp_path / f"a.csv{suffix}", pack(CSV))
    assert ConflictAwareProcessor().analyze(path, "id").distinct_keys == 2
    for damaged in (pack(CSV)[:-9], b"garbage" * 9, b""):
        path.write_bytes(damaged)
        with pytest.raises(SourceError, match=r"a\.csv.*(cannot be decompressed|is empty)"):
            ConflictAwareProcessor().analyze(path, "id")


@pytest.mark.parametrize(("suffix", "pack"), [(".bz2", bz2.compress), (".xz", lzma.compress)])
def test_a_bomb_is_not_unpacked_to_its_end(
    tmp_path: Path, suffix: str, pack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(octets, "UNPACKED_MINIMUM_BYTES", 1 << 20)
    path = put(tmp_path / f"a.csv{suffix}", pack(b"id,v\n" + b"1,a\n" * (1 << 22)))
    with pytest.raises(SourceError, match="decompression bomb"):
        ConflictAwareProcessor().analyze(path, "id")


# --- directories and archives ----------------------------------------------------------------------------------------------------


def test_a_directory_is_its_files_in_natural_order(table: str, connection: Connection, tmp_path: Path) -> None:
    drops = tmp_path / "drops"
    put(drops / "dt=2024-01-02" / "part10.csv", b"id,v\n1,last\n")
    put(drops / "dt=2024-01-02" / "part2.csv.gz", gzip.compress(b"id,v\n1,first\n2,b\n"))
    put(drops / "dt=2024-01-02" / "_SUCCESS", b"")
    put(drops / ".hidden.csv", b"x")
    result = ingest(drops, "t", "id", table)
    assert [Path(name).name for name in result.files] == ["part2.csv.gz", "part10.csv"]
    assert rows(connection, "id, v, dt") == [("1", "last", "2024-01-02"), ("2", "b", "2024-01-02")]
    put(drops / "README.md", b"x")
    with pytest.raises(SourceError, match=r"unknown type \(README\.md\).*/\*\.csv"):
        ingest(drops, "t", "id", table)
    with pytest.raises(SourceError, match="a directory without files"):
        ingest(put(tmp_path / "none" / ".x", b"").parent, "t", "id", table)


@pytest.mark.parametrize("strategy", ["auto", "streaming", "deterministic"])
def test_the_files_of_an_archive_are_files_of_the_load(
    table: str, connection: Connection, tmp_path: Path, strategy: Any
) -> None:
    path = zipped(tmp_path / "drop.zip", {
        "dt=x/b10.csv": b"id,v\n1,last\n", "dt=x/b9.jsonl": b'{"id": "1", "v": "first"}\n{"id": 2}\n', "__MACOSX/c.csv": b"x", "d/": b"",
        "a.csv.gz": gzip.compress(b"id,v\n3\n4,d\n"),
    })  # fmt: skip
    result = ingest(path, "t", "id", table, strategy=strategy, max_rejects=1)
    assert list(result.files) == [f"{path}!{name}" for name in ("a.csv.gz", "dt=x/b9.jsonl", "dt=x/b10.csv")]
    assert rows(connection, "id, v, dt") == [("1", "last", "x"), ("2", None, "x"), ("4", "d", None)]
    assert [(row.file, row.line, row.raw) for row in result.rejects] == [(f"{path}!a.csv.gz", 2, "3")]
    found = explain_row("t", {"id": "1"}, dsn=table)
    assert [item.file for item in found.occurrences] == [f"{path}!dt=x/b10.csv", f"{path}!dt=x/b9.jsonl"]


def test_files_of_an_archive_can_be_named(table: str, connection: Connection, tmp_path: Path) -> None:
    path = zipped(tmp_path / "drop.zip", {"a.csv": CSV, "b.csv": b"id,v\n9,x\n", "README": b"hello"})
    with pytest.raises(SourceError, match="files of an unknown type, as README"):
        ingest(path, "t", "id", table)
    ingest(f"{path}!a*.csv", "t", "id", table)
    assert rows(connection) == ROWS
    with pytest.raises(SourceError, match="no such file"):
        ingest(f"{path}!z.csv", "t", "id", table)


def test_a_name_in_an_archive_is_no_path(table: str, connection: Connection, tmp_path: Path) -> None:
    path = zipped(tmp_path / "in" / "drop.zip", {"../../evil.csv": CSV})
    result = ingest(path, "t", "id", table)
    assert rows(connection) == ROWS
    assert list(result.files) == [f"{path}!../../evil.csv"]
    assert not list(tmp_path.rglob("evil.csv"))
    assert not (tmp_path.parent / "evil.csv").exists()


def _encrypted() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.csv", CSV)
    data = bytearray(buffer.getvalue())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


@pytest.mark.parametrize(("content", "message"), [
    (b"PK\x03\x04" + b"x" * 99, "cannot be unpacked: File is not a zip file"),
    (b"PK\x05\x06" + bytes(18), "a ZIP archive without files"),
    (_encrypted(), "a.csv is encrypted"),
])  # fmt: skip
def test_an_archive_that_cannot_be_read_is_reported(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        ConflictAwareProcessor().analyze(put(tmp_path / "a.zip", content), "id")


def test_a_damaged_file_in_an_archive_is_reported(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"a.csv": os.urandom(999)})
    data = bytearray(path.read_bytes())
    data[500] ^= 255
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"a\.zip: cannot be unpacked: .*is the archive complete"):
        ConflictAwareProcessor().analyze(path, "id")


def test_an_archive_that_is_a_bomb_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etl_toolkit.sources.archives.UNPACKED_MINIMUM_BYTES", 1 << 20)
    path = zipped(tmp_path / "a.zip", {f"{number}.csv": b"id\n" + b"1\n" * (1 << 20) for number in range(4)})
    with pytest.raises(SourceError, match="decompression bomb"):
        ConflictAwareProcessor().analyze(path, "id")


# --- pipes -------------------------------------------------------------------------------------------------------------------------


def piped(content: bytes, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command(*arguments, given=content)


def test_standard_input_is_a_file_with_its_hash(table: str, connection: Connection) -> None:
    command = ["ingest", "-", "--table", "t", "--key", "id", "--dsn", table, "--quiet"]
    for content in (CSV, gzip.compress(CSV), b"id,v\n1,a\n2"):
        done = piped(content, *command, "--max-rejects", "1")
        assert done.returncode == (3 if content[-1:] == b"2" else 0), done.stderr
    assert rows(connection) == ROWS
    with connection.cursor() as cursor:
        cursor.execute("SELECT DISTINCT name FROM etl_toolkit.files")
        assert cursor.fetchall() == [("-",)]
        cursor.execute("SELECT line, raw FROM etl_toolkit.rejects")
        assert cursor.fetchall() == [(3, "2")]
    for content, message in ((b"", "-: is empty"), (gzip.compress(CSV)[:-9], "-: cannot be decompressed")):
        done = piped(content, *command)
        assert (done.returncode, message in done.stderr) == (1, True), done.stderr


def test_a_named_pipe_is_read_to_its_end(table: str, connection: Connection, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    writer = threading.Timer(0.5, pipe.write_bytes, [CSV])
    writer.start()
    result = ingest([pipe], "t", "id", table)
    writer.join()
    assert list(result.files) == [str(pipe)]
    assert rows(connection) == ROWS


# --- JSON lines ------------------------------------------------------------------------------------------------------------------------


def test_json_lines_are_records_with_their_lines(database: str, connection: Connection, tmp_path: Path) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, n numeric, b bool, s text, j jsonb, late text)")
    lines = [
        '{"id": 1, "n": 1.10, "b": true, "s": "é\\n\\"x\\", y", "j": {"a": [1.0, "b"]}}', "", "[1]", '{"id": 2, "n": null, "s": ""}',
        '{"id": 3, "id": 4}', '{"id": 5} x', '{"id": 6, "s": "\\ud800"}', '{"id": 7, "n": NaN}', '{"id": 8, "n": "x"}', "{}",
        '{"id": 9, "n": 123456789012345678901234567890.000000000000000001, "late": "z"}', '{"id": 10, "s": "a\\u0000b"}', "{", "[" * 99_999,
    ]  # fmt: skip
    path = put(tmp_path / "a.jsonl", "\r\n".join(lines).encode())
    result = ingest(path, "t", "id", database, max_rejects=20)
    assert rows(connection, "id, n::text, b, s, j::text, late") == [
        (1, "1.10", True, 'é\n"x", y', '{"a": [1.0, "b"]}', None), (2, None, None, "", None, None),
        (9, "123456789012345678901234567890.000000000000000001", None, None, None, "z"),
    ]  # fmt: skip
    assert [row.line for row in result.rejects] == [3, 5, 6, 7, 8, 9, 10, 12, 13, 14]
    assert all(row.raw == lines[(row.line or 0) - 1] for row in result.rejects)
    assert result.counts.read == 13


def test_values_of_json_are_those_of_python(tmp_path: Path) -> None:
    objects = [{"id": str(number), "v": value} for number, value in enumerate(
        [1, -0.5, 1e300, "a,b", '"', "\r\n", "\\.", "", None, True, [1, {"x": "é"}], "\u2028\x1f", "😀" * 9]
    )]  # fmt: skip
    path = put(tmp_path / "a.ndjson", "\n".join(map(json.dumps, objects)).encode())
    from tests.test_feed_lines import opened, text_relation

    with opened(path, {}) as (workspace, file):
        relation, texts = text_relation([file], file.columns)
        found = workspace.query(f"SELECT {texts[1]} FROM {relation}")
    for (text,), item in zip(found, objects, strict=True):
        value = item["v"]
        assert text == (value if isinstance(value, str | None) else json.dumps(value))


# --- Arrow -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["file", "stream", "lz4"])
def test_arrow_files_load_as_their_frame_does(database: str, connection: Connection, tmp_path: Path, form: str) -> None:
    frame = pa.table({
        "id": [1, 2], "d": pa.array([Decimal("1" * 50), None], pa.decimal256(60, 0)), "ts": pa.array([1, 2], pa.timestamp("s", "UTC")),
        "c": pa.array(["x", None]).dictionary_encode(), "s": pa.array([5, None], pa.duration("ns")), "l": [[1, 2], None],
    })  # fmt: skip
    path = tmp_path / "a.arrow"
    new = pa.ipc.new_stream if form == "stream" else pa.ipc.new_file
    options = pa.ipc.IpcWriteOptions(compression="lz4" if form == "lz4" else None)
    with new(str(path), frame.schema, options=options) as writer:
        writer.write_table(frame, max_chunksize=1)
    ingest(frame, "framed", "id", database, create_table=True)
    ingest(path, "t", "id", database, create_table=True)
    with connection.cursor() as cursor:
        cursor.execute("SELECT framed::text FROM framed ORDER BY id")
        expected = cursor.fetchall()
    assert rows(connection, "t::text") == expected


@pytest.mark.parametrize("content", [b"ARROW1\0\0" + b"x" * 99, b"x" * 99, b""])
def test_a_damaged_arrow_file_is_reported(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(SourceError, match=r"a\.arrow: is (not a readable Arrow file|empty)"):
        ConflictAwareProcessor().analyze(put(tmp_path / "a.arrow", content), "id")


def test_what_is_compressed_or_of_another_format_says_how_to_load_it(tmp_path: Path) -> None:
    for content, message in (
        (bz2.compress(CSV), r"rename it to .*a\.csv\.bz2"),
        (lzma.compress(CSV), r"\.xz"),
        (b"ARROW1\0\0", r"\.arrow"),
    ):
        with pytest.raises(EtlError, match=message):
            ConflictAwareProcessor().analyze(put(tmp_path / "a.csv", content), "id")
    path = put(tmp_path / "a.json", b'{"id": 1}\n')
    assert ConflictAwareProcessor().analyze(path, "id", read=ReadOptions(format="jsonl")).distinct_keys == 1
