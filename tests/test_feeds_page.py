"""Every feed in the user's guide is a feed and agrees with the schema; every session at a terminal goes as the page shows it."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import IO

import jsonschema
import psycopg2
import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit import Feed, ingest
from etl_toolkit.cli.failures import complain, exit_code
from etl_toolkit.errors import ConfigError, EtlError
from etl_toolkit.feed import feed_schema
from tests import test_docs

orders = test_docs.orders  # a fixture
FEEDS = [block for block in test_docs.blocks("toml") if block.title == "feed"]
SESSIONS = test_docs.blocks("console")
BASE = next(block.text for block in FEEDS if "orders*.csv" in block.text)  # what `…` at the beginning of a feed is


def commands(session: str) -> Iterator[tuple[str, str]]:
    """Each command of a session, with what the page shows below it."""
    parts = re.split(r"^\$ (.*)\n", session, flags=re.MULTILINE)
    assert parts[0] == ""
    return zip(parts[1::2], parts[2::2], strict=True)


def play(command: str, shown: str, dsn: str) -> tuple[int, str]:
    """Run a command as a terminal would; return its exit code and what it prints. `cat` of a new file makes the file."""
    words = shlex.split(command)
    if words[0] == "psql":
        return 0, query(dsn, words[-1])
    if words[0] == "cat" and "*" not in words[1] and not Path(words[1]).exists():
        Path(words[1]).parent.mkdir(parents=True, exist_ok=True)
        Path(words[1]).write_text(re.sub(r"\A…\n", lambda _: BASE, shown))
        if words[1].endswith(".toml"):
            assert is_in_schema(Path(words[1])) == is_a_feed(Path(words[1]))
        return 0, shown
    before, sign, ours = re.fullmatch(r"(?:(.*) ([|&]) )?(?:etl-toolkit (.*))?.*", command).groups()  # type: ignore[union-attr]
    if ours is None:
        return 0, subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=True).stdout
    with (
        subprocess.Popen(["/bin/sh", "-c", before or ":"], stdout=subprocess.PIPE) as program,
        standard_input(program.stdout if sign == "|" else None),
    ):
        return invoke(shlex.split(ours))


def is_in_schema(path: Path) -> bool:
    return jsonschema.Draft202012Validator(feed_schema()).is_valid(tomllib.loads(path.read_text()))


def is_a_feed(path: Path) -> bool:
    with suppress(ConfigError):
        return bool(Feed.from_toml(path))
    return False


@contextmanager
def standard_input(stream: IO[bytes] | None) -> Iterator[None]:
    """Let `-` be what comes out of a program, if there is one."""
    if stream is None:
        yield
        return
    own = os.dup(0)
    os.dup2(stream.fileno(), 0)
    try:
        yield
    finally:
        os.dup2(own, 0)
        os.close(own)


def query(dsn: str, statement: str) -> str:
    """What `psql -At` prints for a statement; the rows of a table in the order of its first column."""
    with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
        if not statement.startswith(("TABLE", "SELECT")):
            cursor.execute(statement)
            return f"{cursor.statusmessage}\n"
        rows = io.StringIO()
        ordered = re.sub("^TABLE (.*)", r"SELECT * FROM \1 ORDER BY 1", statement)
        cursor.copy_expert(f"COPY ({ordered}) TO STDOUT (DELIMITER '|', NULL '')", rows)
        return rows.getvalue()


def invoke(words: list[str]) -> tuple[int, str]:
    """Run `etl-toolkit` within this process."""
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        try:
            code = test_docs.program().main(words, prog_name="etl-toolkit", standalone_mode=False)
        except EtlError as error:
            code = complain(str(error), exit_code(error), error)
    return code or 0, printed.getvalue()


def pattern(shown: str) -> str:
    """What a terminal prints, as an expression: `…` is what the page leaves out, and lines may be wrapped."""
    return "".join(".*" if part == "…" else re.escape(part) for part in re.split("(…)", " ".join(shown.split())))


@pytest.mark.parametrize("block", FEEDS, ids=range(len(FEEDS)))
def test_a_feed_of_the_guide_loads(orders: str, connection: Connection, tmp_path: Path, block: test_docs.Block) -> None:
    path = tmp_path / "feed.toml"
    path.write_text(block.text)
    (tmp_path / "orders.csv").symlink_to("drops/orders-2.csv")
    assert is_in_schema(path)

    assert ingest(feed=Feed.from_toml(path), dsn=orders)

    with connection.cursor() as cursor:
        cursor.execute("SELECT order_id, customer FROM sales.orders ORDER BY order_id")
        rows = cursor.fetchall()
    assert (len(rows), rows[-1]) == (
        (59, (59, "orders-10.csv")) if "drops" in block.text else (39, (39, "orders-2.csv"))
    )


def test_only_what_the_page_leaves_out_may_differ() -> None:
    assert re.fullmatch(pattern("a … c\n    d\n"), "a b c d")
    assert not re.fullmatch(pattern("a … c\n"), "a b c d")
    assert not re.fullmatch(pattern("1.00|x\n"), "1x00|x")


@pytest.mark.parametrize("session", test_docs.named(SESSIONS))
def test_a_session_goes_as_the_page_shows_it(
    orders: str, monkeypatch: pytest.MonkeyPatch, session: test_docs.Block
) -> None:
    monkeypatch.setenv("ETL_DSN", orders)
    for command, shown in commands(session.text):
        code, printed = play(command, shown, orders)
        lines = [line for line in printed.splitlines() if not re.match(r"warning: .* memory are in use", line)]
        assert re.fullmatch(pattern(shown), " ".join(" ".join(lines).split())), f"$ {command}\n{printed}"
        assert (code == 0) == (
            not re.search("^(etl-toolkit|warning: rejected rows|Not as it should be):", shown, re.MULTILINE)
        )
