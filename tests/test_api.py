"""What the public functions take: every option of a load, by name, with one word for each."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args

import pytest
from psycopg2.extensions import make_dsn, parse_dsn
from sqlalchemy import create_engine, make_url

import etl_toolkit
from etl_toolkit import ConflictAwareProcessor, LoadResult, ingest
from etl_toolkit.cli.load import ingest as ingest_command
from etl_toolkit.errors import UsageError
from etl_toolkit.model import (
    ConflictAction,
    ExtraColumns,
    FileFormat,
    LoadSpec,
    OnConflict,
    ReadOptions,
    Strategy,
    StrategyName,
    WriteOptions,
)
from etl_toolkit.option_schema import describe_options
from etl_toolkit.request import connection_string, load_spec
from etl_toolkit.typed_options import make_options, parse_assignments
from tests.forked import run_command

# The options of reading that are parameters of their own; `read` takes all of them.
SHORTCUTS = {
    "delimiter": ";", "quote": "'", "encoding": "latin-1", "headers": ["a", "b"], "extra_columns": "ignore", "date_style": "DMY",
    "timezone": "Asia/Tokyo", "format": "pgtext", "skip": 2,
}  # fmt: skip
OPTIONS = ({item.name for item in fields(LoadSpec)} - {"table", "key", "conflict_action"}) | {"on_conflict", *SHORTCUTS}
TAKING_OPTIONS = [ingest, load_spec, ConflictAwareProcessor.process_with_strategy, ConflictAwareProcessor.plan]


@pytest.mark.parametrize("function", [*TAKING_OPTIONS, ingest_command])
def test_every_option_of_a_load_is_a_parameter(function: Any) -> None:
    taken = inspect.signature(function).parameters
    assert {name.removeprefix("file_") for name in taken} >= OPTIONS
    assert not [name for name, item in taken.items() if item.kind is inspect.Parameter.VAR_KEYWORD]


@pytest.mark.parametrize("function", TAKING_OPTIONS)
def test_an_option_has_the_same_type_everywhere_and_may_be_left_out(function: Any) -> None:
    for name in OPTIONS:
        item, same = inspect.signature(function).parameters[name], inspect.signature(load_spec).parameters[name]
        assert (item.annotation, item.default) == (same.annotation, None), name


def spec_that_is_loaded(monkeypatch: pytest.MonkeyPatch, through: str, **options: Any) -> LoadSpec:
    """What a public function makes of its arguments."""
    seen: list[LoadSpec] = []

    def note(_self: Any, _files: Any, spec: LoadSpec, *_: Any) -> Any:
        seen.append(spec)

    for name in ("load", "forecast", "measure"):
        monkeypatch.setattr(ConflictAwareProcessor, name, note)
    processor = ConflictAwareProcessor("dbname=none")
    if through == "ingest":
        ingest("f", "t", "id", "dbname=none", **options)
    elif through == "process_with_strategy":
        asyncio.run(processor.process_with_strategy("f", "t", "id", **options))
    elif through == "plan":
        processor.plan("f", "t", "id", **options)
    elif through == "analyze":
        processor.analyze("f", "id", **options)
    else:
        return load_spec("t", "id", **options)
    return seen[0]


@pytest.mark.parametrize("through", ["ingest", "process_with_strategy", "plan", "load_spec"])
def test_every_option_arrives(monkeypatch: pytest.MonkeyPatch, through: str) -> None:
    own = {
        "strategy": "partitioned", "order_by": "b", "on_conflict": "newer", "create_table": True, "max_rejects": 3,
        "atomic": True, "force": True, "undoable": True, "write": WriteOptions(loaded="skip"),
    }  # fmt: skip
    assert set(own) | set(SHORTCUTS) | {"read"} == OPTIONS
    expected = LoadSpec(
        "t", ("id",), strategy=Strategy.PARTITIONED, order_by="b", conflict_action=ConflictAction.NEWER, create_table=True,
        max_rejects=3, atomic=True, force=True, undoable=True, write=WriteOptions(loaded="skip"),
        read=ReadOptions(**{**SHORTCUTS, "headers": ("a", "b")}),  # type: ignore[arg-type]
    )  # fmt: skip
    assert spec_that_is_loaded(monkeypatch, through, **own, **SHORTCUTS) == expected
    assert spec_that_is_loaded(monkeypatch, through, **own, read=ReadOptions(**SHORTCUTS)) == expected  # type: ignore[arg-type]
    over = spec_that_is_loaded(monkeypatch, through, read=ReadOptions(skip=5, delimiter="|"), skip=0)
    assert over.read == ReadOptions(delimiter="|")
    assert LoadSpec.from_mapping(json.loads(json.dumps(asdict(expected)))) == expected


def test_an_overlap_takes_the_options_of_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = ReadOptions(delimiter="tab")
    assert spec_that_is_loaded(monkeypatch, "analyze", read=reading, skip=1).read == ReadOptions(delimiter="\t", skip=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"read": ReadOptions(skip=-1)}, "skip must be 0 or more, not -1"),
        (
            {"extra_columns": "ignroe"},
            'extra_columns must be "error" or "ignore", not \'ignroe\' (did you mean ignore?)',
        ),
        ({"headers": [1, 2]}, "headers[0] must be a text, not 1; headers[1] must be a text, not 2"),
        ({"write": ReadOptions()}, "WriteOptions is expected, not ReadOptions"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        load_spec("t", "id", **options)


def test_assignments_are_toml_or_bare_words() -> None:
    words = ["skip=2", "delimiter=;", "quote='", "encoding=1252", 'headers=["a", "b"]', "timezone=UTC", "skip=3"]
    values = parse_assignments(ReadOptions, words, origin="--read")
    assert make_options(ReadOptions, values) == ReadOptions(
        delimiter=";", quote="'", encoding="1252", headers=("a", "b"), timezone="UTC", skip=3
    )
    with pytest.raises(UsageError, match="--read skip: write --read NAME=VALUE"):
        parse_assignments(ReadOptions, ["skip"], origin="--read")
    with pytest.raises(UsageError, match=re.escape("--read: delimeter is not known (did you mean delimiter?)")):
        make_options(ReadOptions, parse_assignments(ReadOptions, ["delimeter=;"], origin="--read"), origin="--read")


def test_every_option_says_what_it_is() -> None:
    for kind in (ReadOptions, WriteOptions):
        for name, _, takes, meaning in describe_options(kind):
            assert meaning, name
            assert takes != "a value", name


@pytest.mark.parametrize(
    "function",
    [ConflictAwareProcessor.process_with_strategy, ConflictAwareProcessor.plan, ConflictAwareProcessor.analyze],
)
def test_the_key_is_called_key_and_may_be_called_pk_columns(function: Any) -> None:
    assert {"key", "pk_columns"} <= set(inspect.signature(function).parameters)


def test_a_key_is_named_once() -> None:
    for names in ({}, {"key": "id", "pk_columns": "id"}):
        with pytest.raises(UsageError, match="name the key columns once"):
            ConflictAwareProcessor().analyze("a.csv", **names)


@pytest.mark.parametrize(
    ("literal", "values"),
    [
        (StrategyName, [*Strategy]),
        (OnConflict, [*ConflictAction]),
        (ExtraColumns, ["error", "ignore"]),
        (FileFormat, ["csv", "pgtext", "jsonl", "parquet", "arrow"]),
    ],
)
def test_the_choices_are_those_there_are(literal: Any, values: list[str]) -> None:
    assert list(get_args(literal)) == [str(value) for value in values]


def test_the_docstring_of_ingest_describes_every_parameter() -> None:
    described = inspect.getdoc(ingest) or ""
    for name in inspect.signature(ingest).parameters:
        assert name in described.split("Returns")[0], name


def test_completion_shows_the_public_names_alone() -> None:
    assert dir(etl_toolkit) == sorted(etl_toolkit.__all__)


# --- after the load ----------------------------------------------------------------------------------------------------


@pytest.fixture
def loaded(database: str, connection: Any, tmp_path: Path) -> LoadResult:
    """A load of two files, one row of which is rejected."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id bigint PRIMARY KEY, n integer)")
    (tmp_path / "a.csv").write_text("id,n\n1,1\n2,two\n")
    (tmp_path / "b.csv").write_text("id,n\n1,10\n3,3\n")
    return ingest([tmp_path / "a.csv", tmp_path / "b.csv"], "t", "id", database, max_rejects=1)


def test_a_result_becomes_a_frame(loaded: LoadResult) -> None:
    frame = loaded.to_frame()
    assert [Path(name).name for name in frame.index] == ["a.csv", "b.csv"]
    assert frame["read"].to_list() == [2, 2]
    assert frame["rejected"].sum() == 1


def test_a_result_has_its_rejected_rows(loaded: LoadResult, database: str) -> None:
    (reject,) = loaded.rejects
    assert (Path(reject.file).name, reject.line, reject.raw) == ("a.csv", 3, "2,two")
    assert etl_toolkit.rejects(loaded.run_id, database) == [reject]


def test_runs_and_rows_can_be_asked_for(loaded: LoadResult, database: str) -> None:
    (run,) = etl_toolkit.runs(database)
    assert (run.run_id, run.status) == (loaded.run_id, "complete")
    assert etl_toolkit.runs(database, table="public.other") == []
    explained = etl_toolkit.explain_row("t", {"id": 1}, database)
    assert explained.row == {"id": "1", "n": "10"}


def test_the_repr_is_what_print_shows_cut_to_a_screen(loaded: LoadResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "200")
    assert repr(loaded) == str(loaded)
    monkeypatch.setenv("LINES", "15")
    lines = repr(loaded).splitlines()
    assert lines[:12] == str(loaded).splitlines()[:12]
    assert "more lines; print() shows them all" in lines[12]


def test_a_server_is_named_by_url_or_engine_and_not_by_a_connection(database: str, connection: Any) -> None:
    url = make_url("postgresql+psycopg://").set(**{
        "host": (parts := parse_dsn(database))["host"], "port": int(parts["port"]), "username": parts["user"],
        "password": parts.get("password"), "database": parts["dbname"],
    })  # fmt: skip
    assert parse_dsn(connection_string(url)).items() >= {"dbname": parts["dbname"], "user": parts["user"]}.items()
    assert connection_string(create_engine(url.set(drivername="postgresql+psycopg2"))) == connection_string(url)
    with pytest.raises(UsageError, match="not connection; a load opens connections of its own"):
        connection_string(connection)


# --- errors ------------------------------------------------------------------------------------------------------------


def test_an_error_in_a_notebook_is_its_message_in_the_words_of_python() -> None:
    error = UsageError("2 rows would be rejected; allow rejects with --max-rejects N, or pass --create-table")
    assert error._render_traceback_() == [
        "UsageError: 2 rows would be rejected; allow rejects with max_rejects=N, or pass create_table=True"
    ]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--key", "id"], "has no column 'id' for the key; its columns are n, order_id"),
        (["--key", "orderid"], "(did you mean order_id?)"),
        (["--key", "order_id", "--table", "tt"], "table tt does not exist (did you mean t?)"),
        (["--key", "order_id", "--table", "sales.orders"], "CREATE SCHEMA sales"),
        (["--key", "order_id", "--file", "no.csv"], "no such file"),
        (["--key", "order_id", "--file", "headerless.csv"], "name the columns with --headers"),
        (["--key", "order_id", "--password", "wrong"], "check the password"),
    ],
)
def test_a_mistake_exits_2_with_a_hint_and_as_json(
    database: str, connection: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], hint: str
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (order_id bigint PRIMARY KEY, n integer)")
    (tmp_path / "a.csv").write_text("order_id,n\n1,1\n")
    (tmp_path / "headerless.csv").write_text("1,2\n2,3\n")
    given = dict(zip(words[::2], words[1::2], strict=True))
    dsn = make_dsn(database, password=given["--password"]) if "--password" in given else database
    done = run_command(
        "ingest", tmp_path / given.get("--file", "a.csv"), "--json", "--dsn", dsn,
        "--table", given.get("--table", "t"), "--key", given["--key"],
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    told = json.loads(done.stdout)
    assert told["code"] == 2
    assert hint in f"{told['error']}; {told['hint']}"
    assert f"{told['error']}" in done.stderr
