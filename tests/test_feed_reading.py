"""Files that are spelled in other ways load as the same rows in plain CSV would, with every strategy."""

from __future__ import annotations

import re
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit import ConflictAwareProcessor, explain_row, ingest
from etl_toolkit.errors import EtlError
from etl_toolkit.loading import failpoints
from etl_toolkit.model import LoadResult, ReadOptions, Strategy

STRATEGIES = [str(strategy) for strategy in Strategy]
GERMAN = ReadOptions(
    delimiter=";", decimal=",", thousands=".", currency=("€",), date_format=("%d.%m.%Y", "%d.%m.%Y %H:%M"), trim=True,
    null=("NA", "-"), true=("ja",), false=("nein",), names="snake", rename={"Kunden-Nr.": "id"},
)  # fmt: skip
FILES = [
    "Kunden-Nr.;Betrag #;Tag;Um;Aktiv;Name\n"
    "1.000;1.234,56 €;31.12.2024;01.02.2024 03:04;ja; Ann \n"
    "2;NA;-;-;nein;\"NA\"\n"
    "1.001;-5;01.01.1999;01.01.1999 00:00;;\"\"\n",
    "Kunden-Nr.;Betrag #;Tag;Um;Aktiv;Name\n"
    "1000;€ 7,5;1.2.2024;01.02.2024 03:05; Nein ;\"a;b\"\n"
    " 3 ;1.2;01.02.2024;01.02.2024 03:04;x;short group\n"
    "4;1,5-;2024-02-01;01.02.2024 03:04;ja;other date\n"
    "5;8;01.02.2024;01.02.2024 03:04;vielleicht;no truth\n"
    "6;0,10;29.02.2024;29.02.2024 23:59;JA;  \n",
]  # fmt: skip
ROWS = [
    (2, None, None, None, False, "NA"),
    (6, "0.10", "2024-02-29", "2024-02-29 23:59:00", True, None),
    (1000, "7.5", "2024-02-01", "2024-02-01 03:05:00", False, "a;b"),
    (1001, "-5", "1999-01-01", "1999-01-01 00:00:00", None, ""),
]
REJECTS = [
    (1, 1, 3, "3 ;1.2;01.02.2024;01.02.2024 03:04;x;short group", "is no number with a decimal comma"),
    (1, 2, 4, "4;1,5-;2024-02-01;01.02.2024 03:04;ja;other date", "is not of the format %d.%m.%Y or"),
    (1, 3, 5, "5;8;01.02.2024;01.02.2024 03:04;vielleicht;no truth", "vielleicht"),
]


@pytest.fixture
def table(database: str, connection: Connection) -> str:
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE t (id bigint PRIMARY KEY, betrag_number numeric, tag date, um timestamp, aktiv bool, name text)"
        )
    return database


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows(
    connection: Connection, columns: str = "id, betrag_number::text, tag::text, um::text, aktiv, name"
) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {columns} FROM t ORDER BY 1")
        return list(cursor.fetchall())


def rejects(connection: Connection, result: LoadResult) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT file, record, line, raw, reason FROM etl_toolkit.rejects WHERE run_id = %s ORDER BY 1, 2",
            (result.run_id,),
        )
        return list(cursor.fetchall())


OTHER = ReadOptions(
    delimiter="||",
    escape="\\",
    comment="#",
    footer=1,
    until="END",
    ragged="fit",
    skip=1,
    header=2,
    names="snake",
    trim=True,
)
OTHER_FILES = [
    'title\n# c\nI||betrag||\nD||number||name\n1||1.5||a\\||b\n# no\n2||x||bad\n3\n\n3||4||" q\n#q "||more\nEND\n9||9||9\nsum\n',
    "title\ni||betrag||name\nd||number\n1||2.5||later\n||7||no key\n3 rows\n",
]


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "full_parallel"])
def test_every_strategy_finds_the_same_records(
    table: str, connection: Connection, tmp_path: Path, strategy: Any
) -> None:
    files = [put(tmp_path / f"{number}.dat", text) for number, text in enumerate(OTHER_FILES)]
    read = replace(OTHER, format="csv", rename={"i_d": "id"})
    result = ingest(files, "t", "id", table, read=read, strategy=strategy, max_rejects=2)
    assert rows(connection, "id, betrag_number::text, name") == [(1, "2.5", "later"), (3, "4", "q\n#q")]
    assert [row[:4] for row in rejects(connection, result)] == [(0, 1, 7, "2||x||bad"), (1, 1, 5, "||7||no key")]
    assert result.counts.read == 6


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_reads_values_alike(table: str, connection: Connection, tmp_path: Path, strategy: Any) -> None:
    files = [put(tmp_path / f"{number}.csv", text) for number, text in enumerate(FILES)]
    force = strategy == "full_parallel"
    result = ingest(files[force:], "t", "id", table, read=GERMAN, strategy=strategy, max_rejects=3)
    expected = ROWS[1:3] if force else ROWS
    assert rows(connection) == expected
    found = rejects(connection, result)
    assert [row[1:4] for row in found] == [
        (record, line, text if line > 3 else " " + text) for _, record, line, text, _ in REJECTS
    ]
    assert all(part in row[4] for row, (*_, part) in zip(found, REJECTS, strict=True))
    assert result


def test_explain_reads_the_values_as_the_load_did(table: str, connection: Connection, tmp_path: Path) -> None:
    files = [put(tmp_path / f"{number}.csv", text) for number, text in enumerate(FILES)]
    ingest(files, "t", "id", table, read=GERMAN, max_rejects=3)
    found = explain_row("t", {"id": "1000"}, dsn=table)
    assert [(item.values["betrag_number"], item.verdict[:4]) for item in found.occurrences] == [
        ("7.5", "won:"),
        ("1234.56", "lost"),
    ]
    assert not found.notes


def test_the_same_bytes_read_in_another_way_are_other_content(
    table: str, connection: Connection, tmp_path: Path
) -> None:
    path = put(tmp_path / "a.csv", "id,betrag_number\n1,1.234\n")
    results = [
        ingest(path, "t", "id", table, read=read)
        for read in (ReadOptions(), ReadOptions(decimal=",", thousands="."), ReadOptions())
    ]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT content_hash FROM etl_toolkit.files f JOIN etl_toolkit.runs r USING (run_id) ORDER BY started_at"
        )
        first, second, third = (row[0] for row in cursor.fetchall())
    assert first == third != second
    assert [bool(result.loaded_before) for result in results] == [False, False, True]
    assert rows(connection, "betrag_number::text") == [("1.234",)]


def test_columns_are_renamed_chosen_and_put_in_order(database: str, connection: Connection, tmp_path: Path) -> None:
    csv = put(tmp_path / "a.csv", "Order ID,note,,note,Größe\n1,a,b,c,d\n")
    parquet = tmp_path / "b.parquet"
    pq.write_table(pa.table({"orderId": [2], "note": ["x"], "Größe": ["y"]}), parquet)
    read = ReadOptions(names="snake", columns=["größe", "id"], rename={"order_id": "id"})
    result = ingest([csv, parquet], "t", "id", database, read=read, create_table=True)
    assert result.created_sql is not None
    assert result.created_sql.index('"größe" text') < result.created_sql.index('"id" bigint')
    assert rows(connection, "*") == [("d", 1), ("y", 2)]


@pytest.mark.parametrize(("read", "message"), [
    ({"columns": ["nmae", "id"]}, "columns: no file has a column 'nmae' (did you mean name?)"),
    ({"rename": {"nmae": "x"}}, "rename: no file has a column 'nmae'"),
    ({"null": {"nmae": ["x"]}}, "null: no file has a column 'nmae'"),
    ({"rename": {"name": "id"}}, "are both named 'id'"),
    ({"columns": ["name"]}, "has no key column 'id'"),
])  # fmt: skip
def test_a_column_that_no_file_has_is_a_mistake(table: str, tmp_path: Path, read: dict[str, Any], message: str) -> None:
    with pytest.raises(EtlError, match=re.escape(message)):
        ingest(put(tmp_path / "a.csv", "id,name\n1,a\n"), "t", "id", table, read=ReadOptions(**read))


def test_a_table_is_created_with_the_types_of_the_values_as_they_are_spelled(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    files = [put(tmp_path / f"{number}.csv", text) for number, text in enumerate([FILES[0]])]
    ingest(files, "t", "id", database, read=GERMAN, create_table=True)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT attname, format_type(atttypid, -1) FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 0"
        )
        assert dict(cursor.fetchall()) == {
            "id": "bigint", "betrag_number": "numeric", "tag": "date", "um": "timestamp without time zone", "aktiv": "boolean", "name": "text",
        }  # fmt: skip


def test_keys_are_compared_as_they_are_meant(table: str, tmp_path: Path) -> None:
    files = [put(tmp_path / "a.csv", "id;name\n1.000;a\n"), put(tmp_path / "b.csv", "id;name\n1000;b\n")]
    read = ReadOptions(thousands=".", decimal=",")
    assert ConflictAwareProcessor(table).plan(files, "t", ["id"], read=read).overlap.shared_keys == 1  # type: ignore[union-attr]
    assert ConflictAwareProcessor().analyze(files, ["id"], read=read).shared_keys == 1


def test_the_plan_says_how_files_are_read_and_what_was_found(table: str, tmp_path: Path) -> None:
    files = [put(tmp_path / f"{number}.csv", f"a title\nid;name\n{number};a\n") for number in range(2)]
    files.append(put(tmp_path / "plain.csv", "x\nid,name\n2,b\n"))
    plan = ConflictAwareProcessor(table).plan(files, "t", "id", read=ReadOptions(skip=1, null=("NA",)))
    assert [reason for reason in plan.reasons if reason.startswith(("found", "files are"))] == [
        f"found in {files[0]} and 1 more: a semicolon between fields (2 of the first 2 records have 2), the header ends in line 2",
        f"found in {files[2]}: the header ends in line 2",
        "files are read with skip = 1, null = ['NA']",
    ]


def test_a_file_without_quotes_keeps_what_copy_would_read_otherwise(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id text PRIMARY KEY, d date, n int)")
    content = 'id;n;d\n\\.;1;\n\'a, b;2;1.2.2024\n \\N ;3;2024, "x"\n'
    path = put(tmp_path / "a.csv", content.replace('"', "'"))
    read = ReadOptions(trim=True, decimal=",", date_format="%d.%m.%Y")
    ingest(path, "t", "id", database, read=read, max_rejects=1)
    assert rows(connection, "id, n, d::text") == [("'a, b", 2, "2024-02-01"), ("\\.", 1, None)]
    ingest(path, "t", "id", database, read=replace(read, columns=("id",)))
    assert rows(connection, "id, n") == [("'a, b", 2), ("\\.", 1), ("\\N", None)]


@pytest.mark.parametrize("name", ["drop.zip", "0.csv"])
def test_a_run_that_is_resumed_reads_as_it_did_before(
    table: str, connection: Connection, tmp_path: Path, name: str
) -> None:
    path = put(tmp_path / "0.csv", FILES[0])
    if name == "drop.zip":
        path = tmp_path / name
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.csv", FILES[0])

    def stop() -> None:
        raise KeyboardInterrupt

    with failpoints.installed({"begun": stop}), pytest.raises(KeyboardInterrupt):
        ingest(path, "t", "id", table, read=GERMAN)
    with connection.cursor() as cursor:
        cursor.execute("SELECT run_id FROM etl_toolkit.runs")
        assert ConflictAwareProcessor(table).resume(cursor.fetchone()[0])
    assert [row[:2] for row in rows(connection)] == [(2, None), (1000, "1234.56"), (1001, "-5")]


def test_a_domain_is_read_as_the_type_that_it_narrows(database: str, connection: Connection, tmp_path: Path) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE DOMAIN price AS numeric CHECK (value > 0); CREATE DOMAIN fair_price AS price CHECK (value < 9999)"
        )
        cursor.execute("CREATE DOMAIN note AS text; CREATE TABLE t (id int PRIMARY KEY, p fair_price, n note)")
    path = put(tmp_path / "a.csv", "id;p;n\n1;1.234,5;1.234,5\n2;1.23;x\n3;12.345;x\n")
    result = ingest(path, "t", "id", database, read=ReadOptions(decimal=",", thousands="."), max_rejects=2)
    assert rows(connection, "id, p::text, n::text") == [(1, "1234.5", "1.234,5")]
    assert [row.line for row in result.rejects] == [3, 4]


@pytest.mark.parametrize("options", [{"trim": True}, {"null": ("NA",)}, {"true": ("ja",)}], ids=str)
def test_a_file_with_quotes_behind_one_without_keeps_what_is_in_them(
    database: str, connection: Connection, tmp_path: Path, options: dict[str, Any]
) -> None:
    (tmp_path / "1.csv").write_text("id,a,b\n1,x,y\n")
    (tmp_path / "2.csv").write_text('"id","a","b"\n"2","","p, q"\n"3","a ""b""","c\nd"\n')
    files = [str(tmp_path / "1.csv"), str(tmp_path / "2.csv")]
    with connection.cursor() as cursor:
        for strategy in ("partitioned", "deterministic"):
            cursor.execute("DROP TABLE IF EXISTS t; CREATE TABLE t (id int PRIMARY KEY, a text, b text)")
            ingest(files, "t", "id", database, strategy=strategy, read=ReadOptions(**options))  # type: ignore[arg-type]
            cursor.execute("SELECT * FROM t ORDER BY id")
            assert cursor.fetchall() == [(1, "x", "y"), (2, "", "p, q"), (3, 'a "b"', "c\nd")]
