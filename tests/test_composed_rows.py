"""Rows of one key put together on the client (`update`, `insert_only`, `nulls = "keep"`): one record per key, and the same table."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit import ConflictAwareProcessor, Delete, ParallelConfig, WriteOptions, ingest
from etl_toolkit.loading import copy
from etl_toolkit.loading.run import Run
from etl_toolkit.plan import ROWS_COMPOSED
from etl_toolkit.strategies import composed, suspects
from tests.oracle import Replay, Rows, differing_rows, write

CONFIG = ParallelConfig(sub_batch_size=5, concurrency=2)
COLUMNS = ("name", "id", "amount", "made", "size")
DDL = "(id {key} PRIMARY KEY, name text, amount numeric(10, 2), made text, size int, note text DEFAULT 'new')"
OPTIONS: list[dict[str, Any]] = [
    {"update": ("name", "amount")},
    {"insert_only": ("made", "name")},
    {"nulls": "keep"},
    {"nulls": "keep", "update": ("name", "size")},
    {"nulls": "keep", "insert_only": ("made",), "delete": Delete("op", ("D",))},
    {"update": ("name", "amount"), "delete": Delete("op", ("D",))},
]
TEXTS = ("plain", "", None, 'a "quoted", one', "two\nlines", "back\\slash", "\\N", "é,", " ", "t.b", "same", "same")


def random_files(chance: random.Random, *, count: int, key: str, is_marked: bool = False) -> list[Rows]:
    """Few keys in many rows, NULL in any column; texts that have to be quoted in some of the files only; some tombstones."""
    keys = chance.choice((3, 15))

    def spell(number: int) -> str:
        return str(UUID(int=number)) if key == "uuid" else f'k,{number}"' if key == "text" else str(number)

    contents = []
    for _ in range(count):
        texts = TEXTS if chance.random() < 0.5 else ("plain", None, "other", "same")
        rows = [
            (
                chance.choice(texts), spell(chance.randrange(keys)), chance.choice(("1.00", "2.5", "1", None)),
                chance.choice(texts), chance.choice(("1", "22", None)), *(chance.choices("UD", (4, 1)) if is_marked else ()),
            )
            for _ in range(chance.choice((1, 6, 20)))
        ]  # fmt: skip
        contents.append(Rows((*COLUMNS, "op") if is_marked else COLUMNS, tuple(rows)))
    return contents


@pytest.mark.parametrize(
    ("key", "is_held", "count"), [("bigint", True, 4), ("uuid", False, 3), ("text", True, 2), ("int", True, 65)]
)
def test_each_key_is_sent_once_with_what_its_rows_leave(
    shared: tuple[str, Connection], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, is_held: bool, count: int
) -> None:
    dsn, connection = shared
    for name in ("compare", "presence"):  # small loads take the ways of large ones
        monkeypatch.setattr(f"etl_toolkit.strategies.{name}.SMALLEST_LOAD", 1)
    if not is_held:
        monkeypatch.setattr("etl_toolkit.sources.resolving.records_bytes", lambda _: 1 << 60)
    chance = random.Random(key)  # noqa: S311 - the same files every time
    for number, options in enumerate(OPTIONS if count < 10 else [*OPTIONS[1:3], OPTIONS[4]]):
        contents = random_files(chance, count=count, key=key, is_marked="delete" in options)
        forms = ("csv", "quoted", "parquet", "arrow")
        files = [write(rows, tmp_path, f"{number}_{n}", forms[(number + n) % 4]) for n, rows in enumerate(contents)]  # type: ignore[arg-type]
        with connection.cursor() as cursor:
            for table in ("loaded", "expected"):
                cursor.execute(f"DROP TABLE IF EXISTS {table}; CREATE TABLE {table} {DDL.format(key=key)}")
        told = Replay(
            "expected", "id", update=options.get("update"), insert_only=options.get("insert_only", ()),
            keeps_nulls="nulls" in options, mark="op" if "delete" in options else None,
        )  # fmt: skip
        # Into the empty table, and into what that left.
        for part in (slice(0, count // 2), slice(count // 2 - 1, count)):
            result = ingest(
                files[part], "loaded", "id", dsn, strategy="partitioned", config=CONFIG, write=WriteOptions(**options)
            )
            told.load(connection, contents[part])
            assert differing_rows(connection, "loaded", "expected") == [], (options, part, result.reasons)
            lost = result.counts.superseded_same_file + result.counts.superseded_later_file
            assert (ROWS_COMPOSED in result.reasons) == (lost > 0)


@pytest.mark.parametrize("options", OPTIONS[:3:2], ids=str)
def test_a_bad_row_is_rejected_whether_its_values_are_sent_or_not(
    database: str, connection: Connection, tmp_path: Path, options: dict[str, Any]
) -> None:
    first, second = tmp_path / "1.csv", tmp_path / "2.csv"
    first.write_text("name,id,amount,made,size\na,1,1,m,many\nb,1,,x,5\nc,2,1,m,1\n")
    second.write_text("name,id,amount,made,size\n,1,much,z,\nd,1,2,,\n,2,,,\n")
    for strategy in ("partitioned", "deterministic"):
        with connection.cursor() as cursor:
            cursor.execute(f"DROP TABLE IF EXISTS t; CREATE TABLE t {DDL.format(key='int')}")
            result = ingest(
                [first, second], "t", "id", database, write=WriteOptions(**options), max_rejects=2, undoable=True,
                strategy=strategy,  # type: ignore[arg-type]
            )  # fmt: skip
            assert [(Path(item.file).name, item.record) for item in result.rejects] == [("1.csv", 0), ("2.csv", 0)]
            cursor.execute("SELECT t::text FROM t ORDER BY id")
            kept = "nulls" in options
            rows = ["(1,d,2.00,x,5,new)", "(2,c,1.00,m,1,new)" if kept else "(2,,,m,1,new)"]
            assert [row[0] for row in cursor.fetchall()] == rows
            assert ConflictAwareProcessor(database).undo(result.run_id)
            cursor.execute("SELECT FROM t")
            assert cursor.rowcount == 0


def test_a_bad_value_that_is_found_in_its_row_while_the_server_refuses_it_is_rejected(
    database: str, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_found = threading.Event()

    def check_losers(run: Run) -> None:
        try:
            suspects.check_losers(run)
        finally:
            is_found.set()
            run.failed.wait(10)

    def copy_records(*args: Any, **options: Any) -> int:
        is_found.wait(10)
        return copy.copy_records(*args, **options)

    path = tmp_path / "in.csv"
    path.write_text("id,made,size\n1,a,many\n1,b,2\n2,c,3\n")
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE t {DDL.format(key='int')}; INSERT INTO t (id) VALUES (1), (2)")
        with monkeypatch.context() as patched:
            patched.setattr("etl_toolkit.strategies.partitioned.check_losers", check_losers)
            patched.setattr("etl_toolkit.strategies.partitioned.copy_records", copy_records)
            result = ingest(
                path, "t", "id", database, write=WriteOptions(insert_only=("size",), rows="update"), max_rejects=1,
                strategy="partitioned",
            )  # fmt: skip
        assert [item.record for item in result.rejects] == [0]
        cursor.execute("SELECT id, made FROM t ORDER BY id")
        assert cursor.fetchall() == [(1, "b"), (2, "c")]


@pytest.mark.parametrize(
    ("rule", "options", "is_mixed"),
    [
        ("CHECK (a + b < 10)", {"insert_only": ("b",)}, True),
        ("CHECK (a + b < 10)", {"nulls": "keep"}, True),
        ("CHECK (a + b < 10)", {"update": ("a", "b")}, False),
        ("CHECK (a + id < 10)", {"insert_only": ("b",)}, False),
        ("UNIQUE (a, b)", {"insert_only": ("b",)}, True),
        ("UNIQUE (a)", {"insert_only": ("b",)}, False),
        ("FOREIGN KEY (a, b) REFERENCES pairs", {"insert_only": ("b",)}, True),
    ],
)
def test_a_rule_about_columns_of_several_rows_is_kept_file_by_file(
    database: str, connection: Connection, tmp_path: Path, rule: str, options: dict[str, Any], is_mixed: bool
) -> None:
    files = [tmp_path / f"{number}.csv" for number in range(3)]
    for path, values in zip(files, ("1,8,x", "8,1,x", "1,1,x"), strict=True):
        path.write_text(f"id,a,b,c\n1,{values}\n")
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE pairs (a int, b int, PRIMARY KEY (a, b)); INSERT INTO pairs VALUES (1, 8), (8, 1), (1, 1)"
        )
        cursor.execute(f"CREATE TABLE t (id int PRIMARY KEY, a int, b int, c text, {rule})")
    plan = ConflictAwareProcessor(database).plan(files, "t", "id", write=WriteOptions(**options))
    assert (plan.strategy == "deterministic", ROWS_COMPOSED in plan.reasons) == (is_mixed, not is_mixed)


def test_long_records_are_put_together_like_any_other(database: str, connection: Connection, tmp_path: Path) -> None:
    first, second = tmp_path / "1.csv", tmp_path / "2.csv"
    first.write_text(f"id,a,b,n\n1,{'a' * 20_000},,1\n1,short,,bad\n2,x,y,1\n")
    second.write_text(f"id,a,b,n\n1,,{'b' * 20_000},2\n2,,z,\n")
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, a text, b text, n int)")
        result = ingest(
            [first, second],
            "t",
            "id",
            database,
            write=WriteOptions(nulls="keep"),
            strategy="partitioned",
            max_rejects=1,
        )
        cursor.execute("SELECT id, length(a), length(b), n FROM t ORDER BY id")
        assert cursor.fetchall() == [(1, 20_000, 20_000, 2), (2, 1, 1, 1)]
    assert [(item.record, item.sqlstate) for item in result.rejects] == [(1, "22P02")]


@pytest.mark.parametrize("when", ["at once", "once a row is rejected"])
def test_records_that_cannot_be_taken_apart_are_put_together_by_the_server(
    database: str, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    monkeypatch.setattr(composed, "fields_grammar", lambda _: "(no field looks like this)")
    first, second = tmp_path / "1.csv", tmp_path / "2.csv"
    is_late = when != "at once"  # the record with quotes is no winner before the last one of its key is rejected
    first.write_text('id,a,b,n\n1,"a,a",,1\n2,x,y,1\n')
    second.write_text("id,a,b,n\n1,,b,2\n2,,z,\n" + ("1,c,d,bad\n" if is_late else ""))
    if is_late:
        first.write_text('id,a,b,n\n1,plain,,1\n1,"a,a",,1\n2,x,y,1\n')
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, a text, b text, n int)")
        ingest(
            [first, second], "t", "id", database, write=WriteOptions(nulls="keep"), strategy="partitioned", max_rejects=1
        )  # fmt: skip
        cursor.execute("SELECT * FROM t ORDER BY id")
        assert cursor.fetchall() == [(1, "a,a", "b", 2), (2, "x", "z", 1)]
        cursor.execute("SELECT plan -> 'bounds' FROM etl_toolkit.runs")
        assert cursor.fetchall() == [([],)]
