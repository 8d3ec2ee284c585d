"""The same content again counts again: where it stands last (first for `ignore`), whether it is read once or twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit import ingest
from etl_toolkit.display import plan_text
from etl_toolkit.processor import ConflictAwareProcessor
from tests.oracle import Format, Oracle, Rows, differing_rows, write

STRATEGIES = ("auto", "hybrid", "deterministic", "streaming", "partitioned")
A, B = Rows(("id", "v"), (("1", "A"), ("2", "A"))), Rows(("id", "v"), (("1", "B"), ("3", "B")))


def tables(connection: Connection, ddl: str, *more: str) -> None:
    with connection.cursor() as cursor:
        for name in ("loaded", "expected"):
            cursor.execute(f"CREATE TABLE {name} {ddl}")
            for statement in more:
                cursor.execute(statement.format(name))


def written(contents: list[Rows], directory: Path, form: Format) -> list[Any]:
    return [write(content, directory, f"f{number}", form) for number, content in enumerate(contents)]


@pytest.mark.parametrize("form", ["csv", "parquet", "frame"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_copy_of_the_first_file_has_the_last_word(
    database: str, connection: Connection, tmp_path: Path, strategy: str, form: Format
) -> None:
    tables(connection, "(id text PRIMARY KEY, v text)")
    result = ingest(written([A, B, A], tmp_path, form), "loaded", "id", database, strategy=strategy)
    Oracle("expected", ("id",)).load(connection, [A, B, A])
    assert differing_rows(connection, "loaded", "expected") == []
    assert result
    assert result.counts.read == 4
    (left_out, counts_instead), *others = result.duplicates
    assert not others
    assert [left_out in result.files, counts_instead in result.files] == [False, True]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("action", "order_by"), [("ignore", None), ("update", "v"), ("newer", "v")])
def test_a_copy_follows_the_rule_that_picks_the_winner(
    database: str, connection: Connection, tmp_path: Path, strategy: str, action: Any, order_by: str | None
) -> None:
    tables(connection, "(id text PRIMARY KEY, v int, w text)")
    first, second = (Rows(("id", "v", "w"), (("1", "5", name), ("2", "7", name))) for name in ("first", "second"))
    contents = [first, second, first, second, first]
    files = written(contents, tmp_path, "csv")
    result = ingest(files, "loaded", "id", database, strategy=strategy, on_conflict=action, order_by=order_by)
    Oracle("expected", ("id",), action, order_by).load(connection, contents)
    assert differing_rows(connection, "loaded", "expected") == []
    kept = files[:2] if action == "ignore" else files[3:]
    assert list(result.files) == [str(file) for file in kept]


def test_a_copy_is_loaded_again_where_the_first_writer_spells_the_key(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    tables(connection, "(k numeric PRIMARY KEY, v text)")
    contents = [
        Rows(("k", "v"), (("1.0", "a"),)),
        Rows(("k", "v"), (("1.00", "b"),)),
        Rows(("k", "v"), (("1.0", "a"),)),
    ]
    result = ingest(written(contents, tmp_path, "csv"), "loaded", "k", database)
    Oracle("expected", ("k",)).load(connection, contents)
    assert differing_rows(connection, "loaded", "expected") == []
    assert result.duplicates == ()


def test_a_copy_is_loaded_again_where_another_file_has_other_columns(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    """A constraint that looks at both would otherwise refuse a row of another file than it does file by file."""
    tables(connection, "(id text PRIMARY KEY, v text, w text)")
    contents = [Rows(("id", "v"), (("1", "v"),)), Rows(("id", "w"), (("1", "w"),)), Rows(("id", "v"), (("1", "v"),))]
    result = ingest(written(contents, tmp_path, "csv"), "loaded", "id", database)
    Oracle("expected", ("id",)).load(connection, contents)
    assert differing_rows(connection, "loaded", "expected") == []
    assert result.duplicates == ()


def test_a_copy_is_loaded_again_where_rows_are_coupled_beyond_the_key(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    tables(connection, "(id text PRIMARY KEY, v text UNIQUE)")
    contents = [Rows(("id", "v"), (("1", value),)) for value in ("a", "b", "a")]
    result = ingest(written(contents, tmp_path, "csv"), "loaded", "id", database)
    Oracle("expected", ("id",)).load(connection, contents)
    assert differing_rows(connection, "loaded", "expected") == []
    assert result.duplicates == ()


def test_a_path_given_twice_that_is_loaded_twice_has_the_sum_of_its_counts(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    tables(connection, "(k numeric PRIMARY KEY, v text)")
    first, second = written([Rows(("k", "v"), (("1.0", "a"),)), Rows(("k", "v"), (("1.00", "b"),))], tmp_path, "csv")
    result = ingest([first, second, first], "loaded", "k", database)
    assert result
    assert {name: counts.read for name, counts in result.files.items()} == {str(first): 2, str(second): 1}


def test_the_plan_and_the_result_name_what_is_left_out(database: str, connection: Connection, tmp_path: Path) -> None:
    tables(connection, "(id text PRIMARY KEY, v text)")
    files = written([A, B, A], tmp_path, "csv")
    plan = ConflictAwareProcessor(database).plan(files, "loaded", ["id"])
    result = ingest(files, "loaded", "id", database)
    assert plan.duplicates == result.duplicates == ((str(files[0]), str(files[2])),)
    for shown in (plan_text(plan), str(result)):
        assert f"left out: {files[0]} has the same content as {files[2]}" in shown
    with connection.cursor() as cursor:
        cursor.execute("SELECT plan -> 'left_out' FROM etl_toolkit.runs")
        assert cursor.fetchall() == [([[str(files[0]), str(files[2])]],)]


def test_a_load_of_copies_can_be_resumed(database: str, connection: Connection, tmp_path: Path) -> None:
    """What the ledger lists is what is loaded: copies that were loaded each at its place are not left out now."""
    tables(connection, "(id text PRIMARY KEY, v text)")
    contents = [Rows(("id", "v"), (("1", value),)) for value in ("a", "b", "a")]
    processor = ConflictAwareProcessor(database)
    with connection.cursor() as cursor:
        cursor.execute("CREATE UNIQUE INDEX once ON loaded (v)")
    run = ingest(written(contents, tmp_path, "csv"), "loaded", "id", database, strategy="deterministic").run_id
    with connection.cursor() as cursor:  # as a crash before the last file would have left it
        cursor.execute("UPDATE etl_toolkit.runs SET status = 'interrupted'")
        cursor.execute("DELETE FROM etl_toolkit.batches WHERE number = 2")
        cursor.execute("UPDATE loaded SET v = 'b'")
        cursor.execute("DROP INDEX once")
    assert processor.resume(run)
    with connection.cursor() as cursor:
        cursor.execute("SELECT v FROM loaded")
        assert cursor.fetchall() == [("a",)]
