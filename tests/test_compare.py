"""Unchanged rows are found by reading the table out, and are not sent; a row that only looks unchanged is written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit import ConflictAwareProcessor, Delete, WriteOptions, ingest
from etl_toolkit.errors import TooManyDeletesError
from etl_toolkit.model import LoadResult
from etl_toolkit.strategies import compare, mirror
from tests.loads import CONFIG, load_as_expected
from tests.oracle import Oracle, Replay, Rows, write

COLUMNS = ("id", "v", "n", "at", "yes")
TYPES = "id int PRIMARY KEY, v text, n numeric, at timestamptz, yes bool"


@pytest.fixture(autouse=True)
def small_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "SMALLEST_LOAD", 1)


def rows(ids: range, changed: Callable[[int], bool] = lambda _: False, truth: str = "true") -> Rows:
    return Rows(
        COLUMNS,
        tuple(
            (str(id_), "new" if changed(id_) else f"v {id_}", f"{id_}.50", "2024-01-02 03:04:05+00", truth)
            for id_ in ids
        ),
    )


@pytest.fixture
def load(database: str, connection: Connection, tmp_path: Path) -> Callable[..., Any]:
    """Fill two tables with some rows, load files into one, and hold it against the sequential oracle on the other."""

    def run(*contents: Rows, present: Rows, types: str = TYPES, form: str = "csv", **options: Any) -> Any:
        rules = {"action": options.get("on_conflict", "update"), "order_by": options.get("order_by")}
        for name in ("loaded", "expected"):
            with connection.cursor() as cursor:
                cursor.execute(f"CREATE TABLE {name} ({types})")
            Oracle(name, ("id",)).load(connection, [present])
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE loaded")
        Oracle("expected", ("id",), **rules).load(connection, contents)
        return load_as_expected(database, connection, tmp_path, contents, form=form, **options)

    return run


@pytest.mark.parametrize("form", ["csv", "quoted", "parquet"])
@pytest.mark.parametrize("undoable", [False, True])
def test_only_rows_that_differ_are_sent(load: Any, form: str, undoable: bool) -> None:
    sent: list[int] = []
    result = load(
        rows(range(600), lambda id_: id_ % 10 == 0),
        rows(range(500, 1100), lambda id_: id_ % 20 == 0),
        present=rows(range(1000)),
        form=form,
        undoable=undoable,
        on_event=lambda event: sent.append(event.facts["rows"]) if event.name == "bytes" else None,
    )
    assert "compare" in result.phases
    # 50 of the first file, 25 + 100 of the second one; of each key that both have, the second one's row.
    assert (result.counts.updated, result.counts.inserted, sum(sent)) == (75, 100, 175)
    assert [counts.unchanged for counts in result.files.values()] == [450, 475]
    assert [counts.superseded_later_file for counts in result.files.values()] == [100, 0]


def test_nothing_is_sent_where_nothing_changes(load: Any, connection: Connection) -> None:
    result = load(rows(range(600)), rows(range(500, 900)), present=rows(range(1000)))
    assert result.counts.unchanged == 900
    assert "copy" not in result.phases
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(DISTINCT xmin::text) FROM loaded")
        assert cursor.fetchone() == (1,)  # that of the first fill


@pytest.mark.parametrize("truth", ["true", "t", "True"])
def test_truth_values_are_printed_as_the_files_spell_them(load: Any, truth: str) -> None:
    result = load(rows(range(300), truth=truth), present=rows(range(300)))
    assert (result.counts.unchanged, "copy" in result.phases) == (300, False)


@pytest.mark.parametrize("truth", ["yes", "1"])
def test_other_spellings_are_sent_and_left_alone(load: Any, truth: str) -> None:
    result = load(rows(range(300), truth=truth), present=rows(range(300)))
    assert (result.counts.unchanged, "copy" in result.phases) == (300, True)


def test_the_spelling_of_a_value_is_a_change(load: Any) -> None:
    types = "id int PRIMARY KEY, n numeric, j json, f float8, c char(3)"
    columns = ("id", "n", "j", "f", "c")
    before = [(str(id_), "1.0", "[1]", "0.1", "x") for id_ in range(100)]
    changed = {
        3: ("3", "1.00", "[1]", "0.1", "x"),
        4: ("4", "1.0", "[ 1]", "0.1", "x"),
        5: ("5", "1.0", "[1]", "0.10", "x"),  # the same float
        6: ("6", "1.0", "[1]", "0.1", "x  "),  # the same char(3)
    }
    after = [changed.get(number, row) for number, row in enumerate(before)]
    result = load(Rows(columns, tuple(after)), present=Rows(columns, tuple(before)), types=types)
    assert "compare" in result.phases
    assert (result.counts.updated, result.counts.unchanged) == (2, 98)


def test_a_line_of_a_value_is_no_row_of_the_table(load: Any) -> None:
    """The middle line of the last row's text reads like the row that the file brings."""
    columns, types = ("id", "v"), "id int PRIMARY KEY, v text"
    same = tuple((str(id_), "same") for id_ in range(100))
    result = load(
        Rows(columns, (*same, ("500", "same"))),
        present=Rows(columns, (*same, ("999", "one\n500,same\nthree"))),
        types=types,
    )
    assert (result.counts.inserted, result.counts.unchanged) == (1, 100)


@pytest.mark.parametrize(
    ("types", "options"),
    [
        (TYPES, {"on_conflict": "ignore"}),
        (TYPES, {"on_conflict": "newer", "order_by": "at"}),
        (TYPES + ", later int GENERATED ALWAYS AS (id) STORED UNIQUE", {"strategy": "auto"}),
        (TYPES.replace("v text", "v tsvector"), {}),
    ],
    ids=["ignore", "newer", "second unique index", "a type that is not told by its text"],
)
def test_where_text_does_not_tell_the_rows_are_sent(load: Any, types: str, options: dict[str, Any]) -> None:
    assert "compare" not in load(rows(range(100)), present=rows(range(100)), types=types, **options).phases


@pytest.mark.parametrize("strategy", ["deterministic", "partitioned"])
def test_a_row_that_the_table_has_but_would_not_take_again_is_rejected(
    database: str, connection: Connection, tmp_path: Path, strategy: str
) -> None:
    content = rows(range(100))
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE loaded ({TYPES})")
        Oracle("loaded", ("id",)).load(connection, [content])
        cursor.execute("ALTER TABLE loaded ADD CHECK (v <> 'v 7') NOT VALID; ANALYZE loaded")
    file = write(content, tmp_path, "in.csv", "csv")

    result = ingest(file, "loaded", "id", database, strategy=strategy, config=CONFIG, max_rejects=1)

    assert (result.counts.rejected, result.counts.unchanged) == (1, 99)


def test_a_table_much_larger_than_the_load_is_not_read(load: Any) -> None:
    result = load(rows(range(100)), present=rows(range(300)))
    assert "copy" in result.phases
    assert result.counts.unchanged == 100


def test_without_room_for_the_table_the_rows_are_sent(database: str, connection: Connection, tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk; the control reads the table without it."""
    content = rows(range(6_000))
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE loaded ({TYPES})")
    Oracle("loaded", ("id",)).load(connection, [content])
    file = write(content, tmp_path, "in.csv", "csv")
    command = [
        sys.executable, "-m", "etl_toolkit", "ingest", str(file), "--table", "loaded", "--key", "id", "--dsn", database,
        "--strategy", "partitioned", "--json",
    ]  # fmt: skip
    for blocks, phase in (("unlimited", "compare"), ("100", "copy")):
        limited = ["/bin/sh", "-c", f'ulimit -f {blocks}; exec "$@"', "sh", *command]
        done = subprocess.run(limited, stdout=subprocess.PIPE, text=True, timeout=60, check=True)
        result = json.loads(done.stdout)
        assert (result["counts"]["unchanged"], phase in result["phases"]) == (6_000, True)


MIRRORED = {  # kind and place of the key, how its parts are spelled, options of writing, the road beside `compare`
    "integer": ("int", 0, "{}", {}, True),
    "integer, behind": ("int", 1, "{}", {}, True),
    "text": ("text", 0, 'key, "{}"', {}, True),
    "text, behind": ("text", 1, "key\r {}", {}, True),
    "instant": ("timestamptz", 1, "2024-02-29 00:00:00.{:03d}1+00", {}, True),
    "tombstones": ("int", 0, "{}", {"delete": Delete("op", ("D",))}, True),
    "rows put together": ("int", 0, "{}", {"nulls": "keep"}, False),
    "scope": ("int", 0, "{}", {"scope": "id < 50"}, False),
    "no key": ("int", 0, "{}", {}, False),
}


@pytest.mark.parametrize("name", MIRRORED)
def test_keys_in_no_file_are_found_among_the_rows_that_equal_none(
    database: str, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The table is read once: the control is a `find_missing` that is called all the same."""
    kind, at, spelling, options, is_read_once = MIRRORED[name]
    found: list[Any] = []
    find = mirror.find_missing
    monkeypatch.setattr(mirror, "find_missing", lambda *given: found.append(find(*given)) or found[-1])

    def row(number: int, value: str, mark: str) -> tuple[str, ...]:
        fields = [f"{value} {number}", str(number)]
        fields.insert(at, spelling.format(number))
        return (*fields, mark) if "delete" in options else tuple(fields)

    columns = ["v", "n"]
    columns.insert(at, "id")
    with connection.cursor() as cursor:
        for table in ("loaded", "expected"):
            has_null = name == "no key"
            cursor.execute(f"CREATE TABLE {table} (id {kind} {'UNIQUE' if has_null else 'PRIMARY KEY'}, v text, n int)")
            cursor.execute(f"INSERT INTO {table} SELECT NULL, 'x', g FROM generate_series(1, 2) g WHERE {has_null}")
            before = Rows(tuple(columns), tuple(row(number, '"v"', "")[:3] for number in range(100)))
            Oracle(table, ("id",)).load(connection, [before])
        cursor.execute("ANALYZE loaded")
    names = (*columns, "op") if "delete" in options else tuple(columns)
    # 3 and 97 are in no file; others change, are new, come twice, or have a tombstone.
    contents = [
        Rows(names, tuple(row(n, "old" if n == 61 else '"v"', "U") for n in range(70) if n != 3)),
        Rows(names, tuple(row(n, "new" if n > 98 else '"v"', "D" if n in (4, 98) else "U") for n in (4, *range(60, 110)) if n != 97)),
    ]  # fmt: skip
    Replay(
        "expected", "id", mark="op" if "delete" in options else None, missing="delete", keeps_nulls="nulls" in options,
        scope=options.get("scope", "true"),
    ).load(connection, contents)  # fmt: skip
    result = load_as_expected(
        database, connection, tmp_path, contents, undoable=True, write=WriteOptions(missing="delete", **options)
    )
    assert ("compare" in result.phases, bool(found)) == (True, not is_read_once)
    removed = 1 if "scope" in options else 2
    assert (result.counts.removed, result.counts.deleted) == (removed, 2 if "delete" in options else 0)
    ConflictAwareProcessor(database).undo(result.run_id)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*), count(*) FILTER (WHERE v ~ '\"v\"') FROM loaded WHERE id IS NOT NULL")
        assert cursor.fetchone() == (100, 100)


@pytest.mark.parametrize("is_rejected", [False, True])
def test_the_guard_counts_all_rows_of_the_table_before_any_is_written(
    database: str, connection: Connection, tmp_path: Path, is_rejected: bool
) -> None:
    """A row that is rejected later keeps all keys, its own included, which is then in no file."""
    types = TYPES.replace("v text", "v varchar(8)")
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE loaded ({types})")
        Oracle("loaded", ("id",)).load(connection, [rows(range(100))])
        cursor.execute("ANALYZE loaded")
    bad = ("9", "much too long", "1", "2024-01-02 03:04:05+00", "true")
    content = rows(range(9 if is_rejected else 8, 110))
    file = write(Rows(COLUMNS, (*content.rows[1:], bad)) if is_rejected else content, tmp_path, "in.csv", "csv")

    def load(**options: Any) -> LoadResult:
        mirrored = WriteOptions(missing="delete", **options)
        return ingest(
            file, "loaded", "id", database, strategy="partitioned", config=CONFIG, write=mirrored, max_rejects=1
        )

    limit = 9 if is_rejected else 8
    with pytest.raises(TooManyDeletesError, match=rf"{limit} of 100 keys of public.loaded \({limit}%\) are in no file"):
        load(max_deletes=limit - 1)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM loaded")
        assert cursor.fetchone() == (100,)
        result = load(max_deletes=limit)
        cursor.execute("SELECT count(*) FROM loaded")
        assert cursor.fetchone() == (110 if is_rejected else 102,)
    assert (result.counts.rejected, result.counts.removed) == ((1, 0) if is_rejected else (0, 8))
