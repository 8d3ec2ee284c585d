"""A feed is a file: what it says is loaded, what is wrong with it is found with its line, and its schema is published."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit import Feed, ParallelConfig, ReadOptions, WriteOptions, ingest
from etl_toolkit.cli.load import load_config
from etl_toolkit.errors import ConfigError, UsageError
from etl_toolkit.feed.places import line_of
from etl_toolkit.feed.schema import feed_schema, schema_text
from etl_toolkit.model import ConflictAction, LoadSpec, Strategy
from tests.forked import run_command

FULL = """
table = "sales.orders"
key = ["order_id", "line"]
dsn = "postgresql://etl:${PASSWORD}@db/shop"

[files]
paths = ["drops/*.csv", "/abs/late.csv"]

[read]
delimiter = "tab"
headers = ["order_id", "line", "v"]
skip = 2

[write]
order_by = "v"
on_conflict = "newer"
create_table = true
loaded = "skip"

[load]
preset = "production"
concurrency = 3
strategy = "partitioned"
memory_limit_bytes = "1GB"
max_rejects = 5
atomic = true
undoable = true

[after]
on_success = ["notify", "--channel", "${CHANNEL}"]
lineage = "lineage"
"""
BROKEN = """# a comment
tabel = "t"
dsn = "postgresql://u:secret@h/db"

[files]
paths = [
  "a/*.csv",
  "${NOPE}.csv",
]

[reed]
x = 1

[read]
delimeter = ";"
skip = -1
headers = ["a",
  1]

[load]
concurency = 3
memory_limit_bytes = "4 parsecs"
atomic = "yes"
"""


def put(directory: Path, text: str, name: str = "feed.toml") -> Path:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def run(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return run_command(*words, env={**os.environ, **environ})


def test_all_of_it_arrives(tmp_path: Path) -> None:
    feed = Feed.from_toml(put(tmp_path, FULL), environ={"PASSWORD": "hush", "CHANNEL": "etl"})
    assert feed.files == (f"{tmp_path}/drops/*.csv", "/abs/late.csv")
    assert feed.spec == LoadSpec(
        "sales.orders", ("order_id", "line"), order_by="v", conflict_action=ConflictAction.NEWER,
        strategy=Strategy.PARTITIONED, create_table=True, max_rejects=5, atomic=True, undoable=True,
        read=ReadOptions(delimiter="\t", headers=("order_id", "line", "v"), skip=2), write=WriteOptions(loaded="skip"),
    )  # fmt: skip
    assert (feed.config.workers, feed.config.memory_limit_bytes) == (3, 1 << 30)
    assert feed.config.performance_monitoring  # by the preset
    assert feed.after.on_success == ("notify", "--channel", "etl")
    assert feed.dsn == "postgresql://etl:hush@db/shop"
    assert "hush" not in repr(feed)


def test_every_mistake_is_reported_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Feed.from_toml(put(tmp_path, BROKEN), environ={})
    lines = str(caught.value).replace(f"{tmp_path}/feed.toml, ", "").splitlines()
    expected = [
        "line 2: tabel is not known (did you mean table?)",
        "line 3: dsn holds a password, and a feed is a file that others read: leave the password out",
        "line 6: files.paths[1] needs the environment variable NOPE, which is not set",
        "line 11: reed is no table of a feed (did you mean read?)",
        "line 15: read.delimeter is not known (did you mean delimiter?)",
        "line 16: read.skip must be 0 or more, not -1",
        "line 17: read.headers[1] must be a text, not 1",
        "line 21: load.concurency is not known (did you mean concurrency?)",
        "line 22: load.memory_limit_bytes must be a number of bytes, or one with kB, MB, GB or TB, not '4 parsecs'",
        "line 23: load.atomic must be true or false, not 'yes'",
    ]
    assert [line.startswith(start) for line, start in zip(lines, expected, strict=True)] == [True] * len(expected), (
        lines
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('table = "t"\n', 'line 1: files needs paths, for example paths = ["drops/*.csv"]'),
        ("[files]\npaths = []\n", "line 1: files needs paths"),
        ("files = 3\n", "line 1: files"),
        ('[files]\npaths = "a"\npaths = "b"\n', "not valid TOML: Cannot overwrite a value (at line 3"),
        ('[files]\npaths = "a"\n[load]\nstrategy = "paralel"\n', "line 4: load.strategy unknown strategy 'paralel'"),
        (
            '[files]\npaths = "a"\n[write]\non_conflict = "newer"\n',
            'line 4: write.on_conflict = "newer" needs order_by',
        ),
        ('[files]\npaths = "a"\n[write]\ndelete = { values = ["D"] }\n', "line 4: write.delete lacks column"),
        (
            '[files]\npaths = "a"\n[write]\nmissing = "delete"\nloaded = "skip"\n',
            "line 4: write.missing needs all",
        ),
        ('[files]\npaths = "a"\n[read]\nquote = "ab"\n', "line 4: read.quote cannot be: the quote must be"),
        (
            '[files]\npaths = "a"\n[after]\non_success = "notify --all"\n',
            'line 4: after.on_success is a list of arguments, not one text: ["notify", "--all"]',
        ),
        (
            '[files]\npaths = "a"\n[read]\nskip = 1\nuntil = "("\n',
            "line 5: read.until is no regular expression: missing )",
        ),
        (
            '[files]\npaths = "a"\n[write]\nscope = "id < 5"\n',
            "line 4: write.scope says which rows `missing` may delete",
        ),
        (
            '[files]\npaths = "a"\n[write]\nset = { batch = "$ran" }\n',
            "line 4: write.set cannot be: set.batch is $ran; known are $file and $run",
        ),
        ("", "line 1: files needs paths"),
        ("# a\u2028b\n[files]\npaths = 1\n", "line 3: files.paths"),
        ('dsn = "host=h password=x"\n[files]\npaths = "a"\n', "line 1: dsn holds a password"),
        ('[files]\npaths = "https://u:p@h/a.csv"\n', "line 2: files.paths holds a password"),
    ],
)
def test_a_mistake_has_a_message(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        Feed.from_toml(put(tmp_path, text), environ={})


@pytest.mark.parametrize(
    ("path", "line"),
    [(("a",), 1), (("t", "x"), 4), (("t", "y", "z"), 8), (("t", "y", "q"), 8), (("l", 1, "k"), 12), (("no",), None)],
)
def test_a_key_is_found_on_its_line(path: tuple[str | int, ...], line: int | None) -> None:
    text = 'a = 1\n\n[t]\nx = """\n[t]\ny = 1\n"""\ny = { z = [1] }\n[[l]]\nk = 1\n[[l]]\nk = 2\n'
    assert line_of(text, path) == line


def test_a_variable_may_be_escaped(tmp_path: Path) -> None:
    feed = Feed.from_toml(put(tmp_path, '[files]\npaths = "$${A}-$b-${B}.csv"\n'), environ={"B": "2"})
    assert feed.files == (f"{tmp_path}/${{A}}-$b-2.csv",)


def test_its_paths_start_where_it_is(
    database: str, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "id,v\n1,1\n", "in [x]/a1.csv")
    put(tmp_path, "id,v\n1,2\n2,2\n", "in [x]/a2.csv")
    put(tmp_path, 'table = "t"\nkey = "id"\n[files]\npaths = "a*.csv"\n[write]\ncreate_table = true\n', "in [x]/t.toml")
    monkeypatch.chdir(tmp_path)

    result = ingest(feed="in [x]/t.toml", dsn=database)

    assert list(result.files) == ["in [x]/a1.csv", "in [x]/a2.csv"]
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, v FROM t ORDER BY id")
        assert cursor.fetchall() == [(1, 2), (2, 2)]


def test_flags_override_it(database: str, connection: Connection, tmp_path: Path) -> None:
    put(tmp_path, "id;v\n1;1\nx;2\n", "a.csv")
    put(tmp_path, "junk\nid;v\n3;3\n", "b.csv")
    feed = put(
        tmp_path,
        'table = "t"\nkey = "id"\ndsn = "${SERVER}"\n[files]\npaths = "a.csv"\n[read]\ndelimiter = ","\n'
        "[load]\nmax_rejects = 1\nconcurrency = 1\n[write]\ncreate_table = true\n",
    )
    words = ["--feed", str(feed), "--json"]
    assert "needs the environment variable SERVER" in run("ingest", *words).stderr
    refused = run("ingest", *words, SERVER=database)
    assert refused.returncode != 0
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE u (LIKE t INCLUDING ALL)")
    loaded = run("ingest", *words, "--delimiter", ";", SERVER=database)
    assert loaded.returncode == 3, loaded.stderr  # done, one row rejected
    counts = json.loads(loaded.stdout)["counts"]
    assert (counts["inserted"], counts["rejected"]) == (1, 1)
    strict = run("ingest", *words, "--delimiter", ";", "--max-rejects", "0", SERVER=database)
    assert strict.returncode == 1
    other = run(
        "ingest",
        str(tmp_path / "b.csv"),
        *words,
        "--table",
        "u",
        "--read",
        "delimiter=;",
        "--read",
        "skip=1",
        SERVER=database,
    )
    assert other.returncode == 0, other.stderr
    assert json.loads(other.stdout)["table"] == "public.u"
    planned = run("plan", *words, "--delimiter", ";", SERVER=database)
    assert json.loads(planned.stdout)["strategy"], planned.stderr
    shared = run("overlap", *words, "--delimiter", ";", SERVER="unused")
    assert json.loads(shared.stdout)["distinct_keys"] == 2, shared.stderr


NUMBERS = (
    'table = "t"\nkey = "id"\n[files]\npaths = "a.csv"\n[read]\ntrim = "${FLAG}"\nskip = "${N}"\nnull = ["${N}", "n${N}"]\n'
    '[write]\nmissing = "delete"\nmax_deletes = "${SHARE}"\n[load]\nmax_rejects = "${N}"\nconcurrency = "${N}"\n'
    'retry_budget_seconds = "${SHARE}"\n'
)


def test_a_variable_that_is_all_of_a_value_may_be_a_number(tmp_path: Path) -> None:
    feed = Feed.from_toml(put(tmp_path, NUMBERS), environ={"N": "3", "FLAG": "true", "SHARE": "0.25"})
    assert (feed.spec.read.trim, feed.spec.read.skip, feed.spec.write.max_deletes) == (True, 3, 0.25)
    assert (feed.spec.max_rejects, feed.config.concurrency, feed.config.retry_budget_seconds) == (3, 3, 0.25)
    assert feed.spec.read.null == ("3", "n3")  # where a text is wanted, it is one
    with pytest.raises(ConfigError) as caught:
        Feed.from_toml(put(tmp_path, NUMBERS), environ={"N": "many", "FLAG": "maybe", "SHARE": "a tenth"})
    assert str(caught.value).replace(f"{tmp_path}/", "").splitlines() == [
        "feed.toml, line 6: read.trim must be true or false, not 'maybe'",
        "feed.toml, line 7: read.skip must be a whole number, not 'many'",
        "feed.toml, line 11: write.max_deletes must be a whole number or a number, not 'a tenth'",
        "feed.toml, line 13: load.max_rejects must be a whole number, not 'many'",
        "feed.toml, line 14: load.concurrency must be a whole number, not 'many'",
        "feed.toml, line 15: load.retry_budget_seconds must be a number, not 'a tenth'",
    ]


def test_settings_of_a_feed_yield_to_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = Feed.from_toml(put(tmp_path, '[files]\npaths = "a"\n[load]\nconcurrency = 2\nretry_attempts = 7\n'))
    monkeypatch.setenv("ETL_CONCURRENCY", "3")
    assert load_config(None, feed) == ParallelConfig(concurrency=3, retry_attempts=7)
    assert load_config(None, feed, jobs=4).concurrency == 4


def test_what_is_not_said_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="no files given; name at least one CSV or Parquet file, or a feed with --feed FILE"
    ):
        ingest(table="t", key="id", dsn="dbname=none")
    with pytest.raises(UsageError, match="no table given"):
        ingest(feed=put(tmp_path, 'key = "id"\n[files]\npaths = "a.csv"\n'), dsn="dbname=none")


def test_the_schema_is_the_one_that_is_published() -> None:
    """After a change of the options: `etl-toolkit feed schema --derive > etl_toolkit/feed/feed.schema.json`."""
    assert json.loads(schema_text()) == feed_schema()
    jsonschema.Draft202012Validator.check_schema(feed_schema())


def test_the_schema_agrees_with_the_reader(tmp_path: Path) -> None:
    import tomllib

    validator = jsonschema.Draft202012Validator(feed_schema())
    assert list(validator.iter_errors(tomllib.loads(FULL))) == []
    assert list(validator.iter_errors(tomllib.loads(NUMBERS))) == []
    places = {".".join(map(str, error.absolute_path)) for error in validator.iter_errors(tomllib.loads(BROKEN))}
    assert places >= {"", "read", "read.skip", "load", "load.memory_limit_bytes", "load.atomic", "read.headers"}


def test_the_options_survive_the_ledger() -> None:
    spec = LoadSpec("t", ("id",), read=ReadOptions(headers=("a",)), write=WriteOptions(loaded="skip"))
    assert LoadSpec.from_mapping(json.loads(json.dumps(asdict(spec)))) == spec
    earlier: dict[str, Any] = json.loads(json.dumps(asdict(spec)))
    del earlier["write"]  # of a release that had none
    assert LoadSpec.from_mapping(earlier).write == WriteOptions()
