"""Options of writing that cannot be carried out as asked: what is refused, and what `plan` and `undo` say beforehand and after."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import connection as Connection
from typer.testing import CliRunner

from etl_toolkit import ConflictAwareProcessor, Delete, WriteOptions, ingest
from etl_toolkit.cli import app
from etl_toolkit.display import plan_text
from etl_toolkit.errors import EtlError, TargetError
from etl_toolkit.request import load_spec


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"set": {"code": "abcd"}}, "set.code: 'abcd' is too long for character varying(3)"),
        ({"set": {"code": "$file"}}, "in.csv' is too long for character varying(3)"),
        ({"set": {"code": "$run"}}, "is too long for character varying(3)"),
        ({"set": {"n": "many"}}, 'set.n: invalid input syntax for type integer: "many"'),
        ({"set": {"code": "$fil"}}, "set.code is $fil; known are $file and $run"),
        ({"missing": "delete", "scope": "x < ("}, "scope 'x < (': syntax error"),
        ({"new_columns": "add", "types": {"naem": "text"}}, "types: there is no column 'naem' (did you mean name?)"),
        (
            {"new_columns": "add", "types": {"name": "txt"}},
            'changing the columns of public.t: type "txt" does not exist',
        ),
    ],
)
def test_what_the_table_cannot_take_is_refused_before_anything_is_written(
    database: str, connection: Connection, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    (tmp_path / "in.csv").write_text("id,name\n1,a\n")
    with connection.cursor() as cursor:
        more = "" if "types" in options else ", name text"
        cursor.execute(f"CREATE TABLE t (id int PRIMARY KEY, code varchar(3), n int{more})")
        with pytest.raises(EtlError, match=re.escape(message)):
            ingest(tmp_path / "in.csv", "t", "id", database, write=WriteOptions(**options))
        cursor.execute("SELECT FROM t")
        assert cursor.rowcount == 0


def test_plan_counts_the_keys_of_a_mirror_that_only_the_server_compares(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    (tmp_path / "in.csv").write_text("id\n1.0\n01\n2\n")
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id numeric PRIMARY KEY); INSERT INTO t VALUES (1), (3), (4)")
    spec = load_spec("t", "id", write=WriteOptions(missing="delete", max_deletes=5))
    plan = ConflictAwareProcessor(database).forecast([str(tmp_path / "in.csv")], spec)
    assert plan.predicted_removals == 2
    assert "no spelling of a key appears in more than one file (3 distinct keys in 1 file)" in plan.reasons
    assert "by the spelling of the keys" in plan_text(plan)


def test_undo_names_the_tables_whose_rows_do_not_come_back(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    (tmp_path / "in.csv").write_text("id,op\n1,D\n")
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2)")
        cursor.execute("CREATE TABLE child (t int REFERENCES t ON DELETE CASCADE); INSERT INTO child VALUES (1), (2)")
    result = ingest(
        tmp_path / "in.csv", "t", "id", database, write=WriteOptions(delete=Delete("op", ("D",))), undoable=True
    )
    undone = CliRunner().invoke(app, ["undo", result.run_id, "--dsn", database])
    assert undone.stderr.startswith("warning: rows of public.child that the server deleted or cleared")
    assert "1 rows restored" in undone.stdout


@pytest.mark.parametrize("strategy", ["deterministic", "streaming"])
def test_a_trigger_that_gives_two_rows_one_key_is_what_the_message_names(
    database: str, connection: Connection, tmp_path: Path, strategy: Any
) -> None:
    (tmp_path / "in.csv").write_text("id,name\n4,a\n5,b\n")
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE t (id int PRIMARY KEY, name text); CREATE FUNCTION halve() RETURNS trigger LANGUAGE plpgsql AS "
            "$$BEGIN NEW.id := NEW.id / 2; RETURN NEW; END$$; "
            "CREATE TRIGGER halve BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION halve()"
        )
    with pytest.raises(
        TargetError, match=r"have the same key under index t_pkey once its row triggers have fired \(halve"
    ):
        ingest(tmp_path / "in.csv", "t", "id", database, strategy=strategy)


def test_of_a_file_given_twice_the_name_is_kept_that_changed_the_row(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    for name in ("1.csv", "2.csv"):
        (tmp_path / name).write_text("id,v\n1,a\n2,b\n")
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, v text, source text)")
        files = [str(tmp_path / name) for name in ("1.csv", "2.csv")]
        ingest(files, "t", "id", database, write=WriteOptions(set={"source": "$file"}))
        cursor.execute("SELECT DISTINCT source FROM t")
        assert cursor.fetchall() == [(files[0],)]
