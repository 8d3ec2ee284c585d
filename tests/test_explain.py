"""`explain`: which file, row and rule gave a row its value, and what it beat; it never names a winner that is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit import ConflictAwareProcessor, ParallelConfig, ingest
from etl_toolkit.errors import DatabaseError, UsageError
from etl_toolkit.explain import Explanation, explain, parse_key
from etl_toolkit.loading import failpoints
from tests.fault_worker import nth

Verdicts = list[tuple[str, int, str]]  # file, record from 1, verdict; the latest first


@pytest.fixture
def load(database: str, connection: Connection, tmp_path: Path) -> Callable[..., str]:
    """Load files, given as name=lines, into `t`; return the run."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, seen bigint, v text CHECK (v <> 'bad'))")

    def run(*, on_conflict: str = "update", order_by: str | None = None, max_rejects: int = 0, **files: str) -> str:
        paths = []
        for name, lines in files.items():
            paths.append(tmp_path / f"{name}.csv")
            paths[-1].write_text("id,seen,v\n" + lines.replace(" ", "\n") + "\n")
        options: dict[str, Any] = {"on_conflict": on_conflict, "order_by": order_by, "max_rejects": max_rejects}
        return ingest(paths, "t", "id", database, **options).run_id

    return run


def verdicts(found: Explanation) -> Verdicts:
    shown = [(Path(item.file).stem, item.record + 1, item.verdict) for item in found.occurrences]
    return [
        (file, record, verdict.replace(str(Path(found.occurrences[0].file).parent) + "/", ""))
        for file, record, verdict in shown
    ]


def execute(connection: Connection, statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


@pytest.mark.parametrize(
    ("first", "second", "options", "value", "expected"),
    [
        (
            {"a": "1,1,x 7,1,x 7,2,y", "b": "7,1,z 8,1,x"}, {}, {}, "z",
            [("b", 1, "won: the last row of the last file wins"), ("a", 3, "lost to b.csv, record 1"), ("a", 2, "lost to b.csv, record 1")],
        ),
        (
            {"a": "7,1,x"}, {"b": "7,0,y"}, {}, "y",
            [("b", 1, "won: the only row with this key"), ("a", 1, "won its run; b.csv, record 1 of a later run won over it")],
        ),
        (
            {"a": "7,9007199254740993,x", "b": "7,9007199254740992,y"}, {}, {"order_by": "seen"}, "x",
            [("b", 1, "lost to a.csv, record 1"), ("a", 1, "won: the greatest seen wins, ties go to the last row")],
        ),
        (
            {"a": "7,1,x 7,2,y"}, {"b": "7,3,z"}, {"on_conflict": "ignore"}, "x",
            [
                ("b", 1, "won its run, and lost to a.csv, record 1, which was already there: ignore"),
                ("a", 2, "lost to a.csv, record 1"), ("a", 1, "won: the first row with a key is kept (on-conflict ignore)"),
            ],
        ),
        (
            {"a": "7,10,x"}, {"b": "7,9,y"}, {"on_conflict": "newer", "order_by": "seen"}, "x",
            [
                ("b", 1, "won its run, and lost to a.csv, record 1, which was already there: newer"),
                ("a", 1, "won: the only row with this key"),
            ],
        ),
        (
            {"a": "7,10,x"}, {"b": "7,10,y 7,,z"}, {"on_conflict": "newer", "order_by": "seen"}, "y",
            [
                ("b", 2, "lost to b.csv, record 1"), ("b", 1, "won: the greatest seen wins, ties go to the last row"),
                ("a", 1, "won its run; b.csv, record 1 of a later run won over it"),
            ],
        ),
    ],
    ids=["last row of the last file", "a later run", "greatest value", "ignore", "newer that is older", "newer"],
)  # fmt: skip
def test_the_row_that_won_is_the_one_in_the_table(
    database: str, load: Any, first: dict[str, str], second: dict[str, str], options: dict[str, Any], value: str, expected: Verdicts
) -> None:  # fmt: skip
    load(**first, **options)
    if second:
        load(**second, **options)

    found = explain(database, "t", {"id": "7"})

    assert found.row is not None
    assert (found.row["v"], verdicts(found), found.notes) == (value, expected, ())
    (won,) = [item for item in found.occurrences if item.verdict.startswith("won: ")]
    assert won.values == found.row


def test_a_rejected_row_beats_nothing(database: str, load: Any) -> None:
    load(a="7,1,x 7,2,bad", max_rejects=1)

    found = explain(database, "t", {"id": "7"})

    (rejected, won) = verdicts(found)
    assert won == ("a", 1, "won: the only row with this key")
    assert rejected[:2] == ("a", 2)
    assert rejected[2].startswith("rejected: ")
    assert found.notes == ()


def test_an_undone_run_has_no_part_in_it(database: str, connection: Connection, load: Any) -> None:
    load(a="7,1,x")
    execute(connection, "DELETE FROM t")  # so that the second run only inserts
    run_id = load(b="7,2,y")
    ConflictAwareProcessor(database).undo(run_id)
    execute(connection, "INSERT INTO t VALUES (7, 1, 'x')")

    assert verdicts(explain(database, "t", {"id": "7"})) == [
        ("b", 1, "its run was undone"),
        ("a", 1, "won: the only row with this key"),
    ]


def test_a_file_that_an_interrupted_run_did_not_reach_has_no_part_in_it(
    database: str, connection: Connection, tmp_path: Path, load: Any
) -> None:
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text(f"id,seen,v\n7,1,{name}\n")

    def stop() -> None:
        raise KeyboardInterrupt

    with failpoints.installed({"claimed": nth(2, stop)}), pytest.raises(KeyboardInterrupt):
        ingest([tmp_path / "a.csv", tmp_path / "b.csv"], "t", "id", database, strategy="deterministic")

    found = explain(database, "t", {"id": "7"})
    assert verdicts(found) == [("b", 1, "its file was not loaded"), ("a", 1, "won: the only row with this key")]
    assert any("is interrupted" in note for note in found.notes)


@pytest.mark.parametrize("change", ["UPDATE t SET v = 'theirs'", "DELETE FROM t"])
def test_a_row_that_is_not_what_the_files_say_is_reported(
    database: str, connection: Connection, load: Any, change: str
) -> None:
    load(a="7,1,x")
    execute(connection, change)

    assert any("the row differs from the files" in note for note in explain(database, "t", {"id": "7"}).notes)


def test_a_row_that_was_there_before_is_reported(database: str, connection: Connection, load: Any) -> None:
    execute(connection, "INSERT INTO t VALUES (7, 1, 'theirs')")
    load(a="7,2,x", on_conflict="ignore")

    assert any("it existed before" in note for note in explain(database, "t", {"id": "7"}).notes)


def test_a_file_that_has_changed_or_gone_is_reported(database: str, load: Any, tmp_path: Path) -> None:
    load(a="7,1,x", b="7,2,y")
    (tmp_path / "a.csv").write_text("id,seen,v\n7,1,other\n")
    (tmp_path / "b.csv").unlink()

    notes = explain(database, "t", {"id": "7"}).notes

    assert any("a.csv has changed since" in note for note in notes)
    assert any("b.csv no longer exists" in note for note in notes)


def test_a_key_that_only_the_server_can_compare_is_found_by_its_spelling_and_this_is_reported(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    execute(connection, "CREATE TABLE n (id numeric PRIMARY KEY, v text)")
    (tmp_path / "a.csv").write_text("id,v\n1.0,x\n")
    ingest(tmp_path / "a.csv", "n", "id", database)

    found = explain(database, "n", {"id": "1"})

    assert (found.row, found.occurrences) == ({"id": "1.0", "v": "x"}, ())
    assert any("compared by their spelling" in note for note in found.notes)
    assert verdicts(explain(database, "n", {"id": "1.0"})) == [("a", 1, "won: the only row with this key")]


def test_a_key_that_is_none_is_reported(database: str, load: Any) -> None:
    with pytest.raises(DatabaseError, match="explaining a row of t"):
        explain(database, "t", {"id": "seven"}, config=ParallelConfig())
    with pytest.raises(UsageError, match="COLUMN=VALUE"):
        parse_key(["7"])


def test_keys_are_read_from_one_word_or_several_and_may_hold_commas() -> None:
    assert parse_key(["a=1,b=2"]) == parse_key(["a=1", "b=2"]) == {"a": "1", "b": "2"}
    assert parse_key(["name=Doe, Jane"]) == {"name": "Doe, Jane"}
