"""Conditions on few columns are put to the server with the values of these columns only, and none is forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit import ingest
from etl_toolkit.loading.apart import MOST_PARTS, set_apart
from etl_toolkit.model import Layout, TargetTable
from etl_toolkit.strategies import suspects
from etl_toolkit.target import read_target
from tests.oracle import Rows, differing_rows, write

COLUMNS = ("id", "a", "b", "c", "d", "e", "f")
TYPES = "id int PRIMARY KEY, a int, b int, c text, d mood, e numeric(8,2), f positive"
GOOD = ("1", "1", "2", "x,\ny", "ok", "1.50", "3")
CONDITIONS = {
    "none": "",
    "one column": "CHECK (a > 0)",
    "two columns": "CHECK (a < b)",
    "columns in common": "CHECK (a < b), CHECK (b < 10), CHECK (a > 0)",
    "foreign key": "FOREIGN KEY (a) REFERENCES place",
    "foreign key of two columns": "FOREIGN KEY (a, b) REFERENCES places",
    "many": "CHECK (a > 0), CHECK (b > 0), CHECK (length(c) > 1), CHECK (e < 100), FOREIGN KEY (a) REFERENCES place",
    "a column of its own": "g int DEFAULT 5, CHECK (a < g)",
    "the key": "CHECK (id < 100)",
}
BAD: dict[str, tuple[str, str | None]] = {
    "a": ("a", "-1"), "a too great": ("a", "9"), "b": ("b", "70"), "c": ("c", ""), "enum": ("d", "glad"), "e": ("e", "1000"),
    "domain": ("f", "-3"), "no number": ("a", "one"), "NULL": ("a", None),
}  # fmt: skip


@pytest.fixture
def places(connection: Connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TYPE mood AS ENUM ('ok', 'sad, so'); CREATE DOMAIN positive AS int CHECK (VALUE > 0); "
            "CREATE TABLE place (a int PRIMARY KEY); INSERT INTO place VALUES (1), (2); "
            "CREATE TABLE places (a int, b int, PRIMARY KEY (a, b)); INSERT INTO places VALUES (1, 2)"
        )


def create(connection: Connection, conditions: str, name: str = "loaded") -> TargetTable:
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {name} ({TYPES}{', ' * bool(conditions)}{conditions})")
    return read_target(connection, name, ["id"])


def changed(key: int, **values: str | None) -> tuple[str | None, ...]:
    return tuple((dict(zip(COLUMNS, GOOD, strict=True)) | {"id": str(key)} | values)[name] for name in COLUMNS)


def groups(target: TargetTable, columns: Sequence[str] = COLUMNS) -> list[tuple[str, ...]] | None:
    apart = set_apart(target, Layout(tuple(columns)))
    return None if apart is None else sorted(part.layout.columns for part in apart.parts)


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ("one column", [("a",), ("d",), ("f",)]),
        ("two columns", [("a", "b"), ("d",), ("f",)]),
        ("columns in common", [("a", "b"), ("d",), ("f",)]),
        ("foreign key of two columns", [("a", "b"), ("d",), ("f",)]),
        ("many", [("a", "b", "c", "d", "e", "f")]),
        ("a column of its own", None),
    ],
)
def test_columns_that_a_condition_reads_together_stay_together(
    connection: Connection, places: None, conditions: str, expected: list[tuple[str, ...]] | None
) -> None:
    assert groups(create(connection, CONDITIONS[conditions])) == expected


def test_there_are_never_many_passes(connection: Connection, places: None) -> None:
    found = groups(create(connection, CONDITIONS["many"]))

    assert found is not None
    assert len(found) <= MOST_PARTS


@pytest.mark.parametrize(
    "more",
    ["g int GENERATED ALWAYS AS (100 / a) STORED NOT NULL", "x jsonb, y int[]"],
    ids=["a generated column", "a type that has no grammar"],
)
def test_whole_records_are_shown_where_a_part_would_not_do(connection: Connection, places: None, more: str) -> None:
    target = create(connection, more)

    assert groups(target, [column.name for column in target.columns if not column.is_generated]) is None


@pytest.mark.parametrize("form", ["csv", "quoted", "parquet"])
@pytest.mark.parametrize("conditions", CONDITIONS)
def test_each_condition_is_put_to_the_rows_that_lose(
    database: str, connection: Connection, places: None, tmp_path: Path, conditions: str, form: Any
) -> None:
    for name in ("loaded", "expected"):
        create(connection, CONDITIONS[conditions], name)
    text = "xy" if form == "csv" else GOOD[3]
    losers = [changed(key, **{"c": text, name: value}) for key, (name, value) in enumerate(BAD.values())]
    winners = [changed(key, c=text) for key in range(len(BAD))]
    contents = [Rows(COLUMNS, tuple(losers)), Rows(COLUMNS, tuple(winners))]
    files = [write(content, tmp_path, f"part{number}", form) for number, content in enumerate(contents)]
    found = {}
    for name, strategy in (("expected", "deterministic"), ("loaded", "partitioned")):
        ingest(files, name, "id", database, strategy=strategy, max_rejects=100)
        with connection.cursor() as cursor:
            cursor.execute("SELECT file, record, sqlstate FROM etl_toolkit.rejects ORDER BY 1, 2")
            found[name] = cursor.fetchall()
            cursor.execute("TRUNCATE etl_toolkit.rejects")

    assert found["loaded"] == found["expected"]
    assert len(found["loaded"]) >= 3  # no number, the domain, the enum
    assert differing_rows(connection, "loaded", "expected") == []


@pytest.mark.parametrize("conditions", sorted(set(CONDITIONS) - {"a column of its own"}))
def test_fine_rows_are_not_shown_to_the_server_whole(
    database: str,
    connection: Connection,
    places: None,
    tmp_path: Path,
    conditions: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create(connection, CONDITIONS[conditions])
    shown: list[tuple[str, ...]] = []
    ask = suspects.has_refused

    def listen(connection: Any, target: TargetTable, layout: Layout, copy: Any) -> bool:
        shown.append(layout.columns)
        return ask(connection, target, layout, copy)

    monkeypatch.setattr(suspects, "has_refused", listen)
    rows = Rows(COLUMNS, tuple(changed(key) for key in range(20)))
    files = [write(rows, tmp_path, f"part{number}", "quoted") for number in range(2)]
    again = Rows(COLUMNS, tuple(changed(key, e="7") for key in range(20)))
    files.append(write(again, tmp_path, "again", "quoted"))

    ingest(files, "loaded", "id", database, strategy="partitioned")

    assert shown
    assert COLUMNS not in shown


def test_a_file_of_another_delimiter_is_read_as_its_record_is_spelled(
    database: str, connection: Connection, places: None, tmp_path: Path
) -> None:
    create(connection, "CHECK (a > 0), CHECK (c <> 'x')")
    first, second, third = tmp_path / "1.csv", tmp_path / "2.csv", tmp_path / "3.csv"
    first.write_text("id,c,a,d,f\n9,y,1,ok,1\n")
    second.write_text("id;c;a;d;f\n1;x,y;1;sad, so;1\n2;x,y;-1;ok;1\n3;x;1;ok;1\n")
    third.write_text("id,c,a,d,f\n1,y,1,ok,1\n2,y,1,ok,1\n3,y,1,ok,1\n")

    ingest([first, second, third], "loaded", "id", database, strategy="partitioned", max_rejects=10)

    with connection.cursor() as cursor:
        cursor.execute("SELECT file, record, sqlstate FROM etl_toolkit.rejects ORDER BY 1, 2")
        assert cursor.fetchall() == [(1, 1, "23514"), (1, 2, "23514")]


def test_a_delimiter_in_quotes_ends_no_field_of_a_row_that_loses(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE loaded (id int PRIMARY KEY, note text, amount int CHECK (amount > 0))")
    columns = ("id", "note", "amount")
    contents = (
        Rows(columns, (("1", "x,7,y", "-5"), ("2", "y", "5"))),
        Rows(columns, (("1", "z", "6"), ("2", "z", "6"))),
    )
    files = [write(content, tmp_path, str(number), "csv") for number, content in enumerate(contents)]
    result = ingest(files, "loaded", "id", database, strategy="partitioned", max_rejects=1)
    assert (result.counts.rejected, result.counts.superseded_later_file) == (1, 1)
