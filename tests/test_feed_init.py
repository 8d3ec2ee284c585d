"""`feed init` looks at files and table, writes what it found and what it is not sure of, and the feed loads."""

from __future__ import annotations

import gzip
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from psycopg2.extensions import connection as Connection
from typer.testing import CliRunner

from etl_toolkit import Feed, ingest
from etl_toolkit.cli import app
from etl_toolkit.errors import ConfigError, EtlError, SourceError
from etl_toolkit.feed.findings import find_out
from etl_toolkit.feed.proposal import propose_feed, write_feed

VENDOR = """Umsatzbericht; erstellt am 01.02.2024
Nr;Kunde;Betrag;Datum;op
1; Anna ;1.234,50;13.01.2024;I
2;Bert;-;01.02.2024;U
3;Cleo;7,00;28.02.2024;D
"""


def test_a_vendor_file_is_understood_and_loads(
    database: str, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connection.cursor() as cursor:
        cursor.execute('CREATE TABLE sales ("Nr" int PRIMARY KEY, "Kunde" text, "Betrag" numeric, "Datum" date)')
        cursor.execute('INSERT INTO sales ("Nr") VALUES (3)')
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "umsatz_1.csv").write_bytes(VENDOR.replace("Anna", "Änne").encode("cp1252"))
    monkeypatch.chdir(tmp_path)

    done = CliRunner().invoke(
        app, ["feed", "init", "in/*.csv", "--table", "sales", "--out", "feeds.toml", "--dsn", database]
    )

    assert done.exit_code == 0, done.output
    text = (tmp_path / "feeds.toml").read_text()
    for line in (
        'key = ["Nr"]  # a unique index of the table', 'paths = ["in/*.csv"]', 'delimiter = ";"', "skip = 1",
        'encoding = "cp1252"  # ? not UTF-8', 'null = { Betrag = ["-"] }', "# ? trim = true  # blanks around: Kunde",
        'decimal = ","  # Betrag', 'thousands = "."', 'date_format = { Datum = "%d.%m.%Y" }',
        "# ? op seems to mark rows that are gone:", 'delete = { column = "op", values = ["D"] }',
        "# Betrag: number with decimal comma (table: numeric)",
    ):  # fmt: skip
        assert line in text, f"{line}\n\n{text}"
    assert ingest(feed="feeds.toml", dsn=database).counts.deleted == 1
    with connection.cursor() as cursor:
        cursor.execute('SELECT "Nr", "Kunde", "Betrag"::text, "Datum"::text FROM sales ORDER BY 1')
        assert cursor.fetchall() == [(1, " Änne ", "1234.50", "2024-01-13"), (2, "Bert", None, "2024-02-01")]

    again = CliRunner().invoke(app, ["feed", "init", "in/*.csv", "--out", "feeds.toml"])
    assert isinstance(again.exception, ConfigError)
    assert "exists, and is not overwritten" in str(again.exception)
    assert (tmp_path / "feeds.toml").read_text() == text


def test_without_a_table_it_is_created(database: str, tmp_path: Path) -> None:
    (tmp_path / "dt=2024-01-01").mkdir()
    with gzip.open(tmp_path / "dt=2024-01-01" / "orders_1.csv.gz", "wt") as file:
        file.write("region,order_id,amount\na,1,1.5\na,2,NA\nb,3,2\n")
    (tmp_path / "dt=2024-01-02").mkdir()
    with gzip.open(tmp_path / "dt=2024-01-02" / "orders_2.csv.gz", "wt") as file:
        file.write("region,order_id,amount\na,1,1\nb,4,2\n")
    out = tmp_path / "orders.toml"
    feed = write_feed(propose_feed([f"{tmp_path}/*/*.csv.gz"], out), out)
    assert feed.spec.key == ("order_id",)  # `region` is not unique; 1 in two files is an update
    assert "unique in each file, and never empty, in all 5 rows of 2 files" in out.read_text()
    assert "Directories give each row a value, if the table has the column: dt." in out.read_text()
    assert feed.spec.table == "orders"
    assert ingest(feed=out, dsn=database).counts.inserted == 4


def test_a_key_of_two_columns_and_none(tmp_path: Path) -> None:
    path, out = tmp_path / "a.csv", tmp_path / "a.toml"
    path.write_text("a,b,v\n1,1,x\n1,2,x\n2,1,x\n")
    assert 'key = ["a", "b"]' in propose_feed([str(path)], out)
    path.write_text("a,b\n1,1\n1,1\n")
    text = propose_feed([str(path)], out)
    assert "# ? No columns are unique together in each file; the key must be given:" in text
    assert write_feed(text, out).spec.key == ()


def test_parquet_and_headerless_files(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1, 2], "day": ["31/12/2024", "01/02/2024"]}), tmp_path / "a.parquet")
    text = propose_feed([str(tmp_path / "a.parquet")], tmp_path / "a.toml")
    assert 'date_format = { day = "%d/%m/%Y" }' in text
    (tmp_path / "b.csv").write_text("1|2024-01-01\n2|2024-01-02\n")
    text = propose_feed([str(tmp_path / "b.csv")], tmp_path / "b.toml")
    assert 'headers = ["c1", "c2"]  # ? the first line looks like a row' in text
    assert Feed.from_toml(write_feed(text, tmp_path / "b.toml").path).spec.read.delimiter == "|"


def test_columns_without_names_have_those_of_the_normal_form(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("Order #,,Note,Note\n1,a,x,y\n2,a,x,y\n")
    (tmp_path / "2.csv").write_text("Order #,Column 2,Note\n3,b,z\n")
    feed = write_feed(propose_feed([str(tmp_path / "*.csv")], tmp_path / "a.toml"), tmp_path / "a.toml")
    assert (feed.spec.key, feed.spec.read.names) == (("order_number",), "snake")
    assert "\n# column_2: text\n# note: text\n# note_2: text\n" in (tmp_path / "a.toml").read_text()


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["1", "-2"], "integer"), (["1", "2.5e3"], "number"), (["1,5", "2"], "number with decimal comma"),
        (["1.234", "1.5"], "number"), (["1,234.50"], "number with thousands"), (["2024-01-01"], "date"),
        (["2024-01-01 10:00"], "timestamp"), (["yes", "No"], "boolean"), (["1", "x"], "text"), ([None, ""], "text"),
    ],
)  # fmt: skip
def test_a_column_looks_like(texts: list[Any], kind: str) -> None:
    assert find_out("c", texts).kind == kind


def test_headers_of_several_lines_and_footers_are_found(database: str, tmp_path: Path) -> None:
    for number in (1, 2):
        rows = "".join(f"{number}{n:04},c{n},{n}.50\n" for n in range(3 if number == 1 else 5_000))
        (tmp_path / f"{number}.csv").write_text(f"id,customer,amount\n,,EUR\n{rows}Total,{rows.count('.')}\n\n")
    out = tmp_path / "a.toml"
    feed = write_feed(propose_feed([str(tmp_path / "*.csv")], out, table="t"), out)
    assert (feed.spec.read.header, feed.spec.read.footer, feed.spec.key) == (2, 2, ("id",))
    assert ingest(feed=feed, dsn=database).counts.inserted == 5_003

    (tmp_path / "2.csv").write_text("id,customer,amount\n1,unknown,2\n2,x,3\n3,y,4\n5,z\n")  # a row that is cut off
    text = propose_feed([str(tmp_path / "2.csv")], out)
    assert "header =" not in text
    assert "\n# ? footer = 1  # ? the end: 5,z\n" in text
    text = propose_feed([str(tmp_path / "1.csv"), str(tmp_path / "2.csv")], out)
    assert "\n# ? not in all files: header = 2" in text
    assert "\n# ? footer = 2  # ? the end, but not of all files: Total,3 / \n" in text


# Files as vendors send them, what `feed init` writes, and what `plan` says if it is not given.
LAYOUTS = [
    (
        "id||name||n\n1||a||\n2||b||3\n",
        'delimiter = "||"  # ? 3 of the first 3 records have 3 fields',
        "need --read 'delimiter=||' (3 of",
    ),
    (
        "id  name  n\n1   a     2\n2 b\t3\n",
        r'delimiter = "\\s+"  # ? 3 of the first 3',
        r"need --read 'delimiter=\s+' (3 of",
    ),
    (
        "id,name\n1,'a,b'\n2,'it''s'\n",
        'quote = "\'"  # ? 3 of the first 3 records have 2 fields',
        "need --read 'quote=",
    ),
    (
        'id,name\n1,"a \\"q\\", b"\n2,c\n',
        r'escape = "\\"  # ? 3 of the first 3 records have 2 fields',
        "need --read 'escape=\\'",
    ),
    (
        "Orders, all\nof 2024\n\nid,name,n\n1,a,2\n2,b,3\n",
        "skip = 3",
        "need --read skip=3 (3 of the first 5 records have 3 fields)",
    ),
    ("id,name,n\n", 'key = ["id"]', "have a header and no rows"),
    ("sep=;\nid;name;n\n1;a;2\n2;b;3\n", 'delimiter = ";"', ""),
    ("id,path\n1,C:\\\n2,'tis\n3,a  b\n", 'delimiter = ","', ""),
]


@pytest.mark.parametrize(("text", "line", "hint"), LAYOUTS)
def test_layouts_are_found_by_init_and_named_by_plan(
    database: str, connection: Connection, tmp_path: Path, text: str, line: str, hint: str
) -> None:
    path, out = tmp_path / "a.tbl", tmp_path / "a.toml"
    path.write_text(text)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, name text, n int, path text)")
        proposed = propose_feed([str(path)], out, table="t", connection=connection)
    assert f"\n{line}" in proposed
    assert '\nformat = "csv"  # ? .tbl may be anything\n' in proposed
    assert ingest(feed=write_feed(proposed, out), dsn=database).counts.rejected == 0
    plain = ["plan", str(path), "--table", "t", "--key", "id", "--format", "csv", "--dsn", database]
    planned = CliRunner().invoke(app, plain)
    said = planned.stderr + "".join(planned.exception.notes if isinstance(planned.exception, EtlError) else "")
    assert (f"a.tbl seems to {hint}" in said) if hint else ("seems" not in said), said
    assert "seems to need" not in CliRunner().invoke(app, ["plan", "--feed", str(out), "--dsn", database]).stderr


@pytest.mark.parametrize("bad", ["first", "trailing"])
def test_no_row_is_taken_for_a_header_or_a_footer(tmp_path: Path, bad: str) -> None:
    rows = {"first": "a,n/a,b\nc,2,d\ne,3,f\n", "trailing": "1,2,x,\n3,4,y,\n5,6,z,\n"}[bad]
    (tmp_path / "a.csv").write_text(f"k,n,v\n{rows}")
    text = propose_feed([str(tmp_path / "a.csv")], tmp_path / "a.toml")
    assert not [line for line in text.splitlines() if line.startswith(("header =", "footer ="))]


def test_archives_and_json_lines_are_looked_into(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("in/1.csv", "id;amount\n1;1,5\n2;2,5\n")
    text = propose_feed([str(tmp_path / "a.zip")], tmp_path / "a.toml")
    assert 'key = ["id"]' in text
    assert 'decimal = ","  # amount' in text
    (tmp_path / "b.jsonl").write_text('{"id": 1, "day": "31/12/2024"}\n{"id": 2, "more": {"a": [1]}}\n')
    text = propose_feed([str(tmp_path / "b.jsonl")], tmp_path / "b.toml")
    assert 'date_format = { day = "%d/%m/%Y" }' in text
    assert "# id: integer" in text
    assert "delimiter" not in text
    assert "# more: text, 1 empty" in text


def test_what_is_not_sure_is_a_comment(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,day,name\n1,01/02/2024,NA\n2,03/04/2024,Bo\n")
    text = propose_feed([str(tmp_path / "a.csv")], tmp_path / "a.toml")
    assert '# ? day: day or month first? date_format = { day = "%d/%m/%Y" } or "%m/%d/%Y"' in text
    assert '# ? name has ["NA"]: NULL, or texts?' in text
    assert "\ndate_format" not in text
    assert "\nnull" not in text


def test_a_hundred_files_of_ten_megabytes_take_less_than_two_seconds(tmp_path: Path) -> None:
    line = "".join(f"{n},customer {n},{n}.50,2024-01-{n % 28 + 1:02},some text\n" for n in range(1_000))
    (tmp_path / "0.csv").write_text("id,name,amount,day,note\n" + line * 260)
    for number in range(1, 100):
        os.link(tmp_path / "0.csv", tmp_path / f"{number}.csv")
    assert (tmp_path / "0.csv").stat().st_size > 10_000_000
    started = time.process_time()
    text = propose_feed([str(tmp_path / "*.csv")], tmp_path / "a.toml")
    assert time.process_time() - started < 2
    assert "rows of 100 files" in text


def test_an_object_of_a_store_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"s3://drops/a\.csv: feed init looks at files of this machine; copy one here"
    ):
        propose_feed(["s3://drops/a.csv"], tmp_path / "a.toml")


def test_hostile_names_are_spelled_so_that_the_feed_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / 'a "${HOME}"\\.csv'
    path.write_text('"i\nd";"${X}""";"op"\n1;-;D\n2;5;I\n')
    feed = write_feed(propose_feed([str(path)], tmp_path / "a.toml"), tmp_path / "a.toml")
    assert (feed.files, feed.spec.key) == ((str(path),), ("i\nd",))
    assert feed.spec.read.null == {'${X}"': ("-",)}
