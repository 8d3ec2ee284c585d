"""The user's guide holds: its commands parse, its code runs, its tables are those of the code."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg2
import psycopg2.errorcodes
import psycopg2.extensions
import pytest

from etl_toolkit import ParallelConfig, ingest
from etl_toolkit.config import resolve_config, template
from etl_toolkit.doctor import run_checks
from etl_toolkit.errors import ADVICE, is_transient
from etl_toolkit.loading.grants import database_sql, ledger_sql, table_sql
from etl_toolkit.loading.ledger import DEFINITION
from etl_toolkit.observe import PrometheusFile
from etl_toolkit.observe import __doc__ as observe_doc

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))


@dataclass(frozen=True)
class Block:
    page: str
    language: str
    title: str
    text: str


def blocks(*languages: str) -> list[Block]:
    pattern = re.compile(r"^```(\w+)(?: ([^\n]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [
        Block(page.name, language, title or "", text)
        for page in PAGES
        for language, title, text in pattern.findall(page.read_text(encoding="utf-8"))
        if not languages or language in languages
    ]


def named(found: list[Block]) -> Any:
    return [pytest.param(block, id=f"{block.page}-{number}") for number, block in enumerate(found)]


def table(page: str, heading: str) -> list[list[str]]:
    """The rows of the first table of a page whose head begins with `heading`, cell by cell."""
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {heading} "))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


def codes(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# --- what can be looked at ---------------------------------------------------------------------------------------------


def test_every_kind_of_block_is_tested() -> None:
    assert {block.language for block in blocks()} == {"sh", "sql", "python", "toml", "ini", "cron", "promql", "console"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        linked = (page.parent / path) if path else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, target


def test_tests_that_are_named_exist() -> None:
    there = set(
        re.findall(
            r"^def (test_\w+)", "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py")), re.M
        )
    )
    named = {name for page in PAGES for name in re.findall(r"`(test_\w+)`", page.read_text())}

    assert named
    assert named <= there


def test_the_front_page_lists_every_page() -> None:
    linked = re.findall(r"\]\((\w+\.md)\)", (DOCS / "README.md").read_text(encoding="utf-8"))
    assert sorted(linked) == sorted(page.name for page in PAGES if page.name != "README.md")


# --- commands ----------------------------------------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every call of `etl-toolkit` in shell, cron, systemd and Airflow blocks, as words."""
    for block in blocks("sh", "cron", "ini", "python"):
        text = "".join(re.findall(r'^\s*"(.*)"$', block.text, re.MULTILINE)) if block.title == "airflow" else block.text
        for line in text.splitlines():
            if match := re.search(r"(?:^|[ \"]|/bin/)etl-toolkit (.*)$", line):
                words = shlex.split(match.group(1).split(" | ")[0].split(" > ")[0])
                yield f"{block.page}: {line.strip()}", words


COMMANDS = list(commands())


@cache
def program() -> Any:
    """The command line, which takes longer to build than to run."""
    import typer.main

    from etl_toolkit.cli import app

    return typer.main.get_command(app)


@pytest.mark.parametrize(("line", "words"), COMMANDS, ids=[line[:70] for line, _ in COMMANDS])
def test_commands_parse(line: str, words: list[str]) -> None:
    command = program()
    context = command.make_context("etl-toolkit", list(words), resilient_parsing=True)
    rest = words
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, list(rest))
        assert command is not None, name
        context = command.context_class(command, info_name=name, parent=context)
    values, left, _ = command.make_parser(context).parse_args(list(rest))
    assert left == []
    missing = [p.name for p in command.params if p.required and values.get(p.name) in (None, (), [])]
    assert missing == []


def test_there_are_commands() -> None:
    shown = {words[0] for _, words in COMMANDS}
    assert {"ingest", "plan", "doctor", "undo", "resume", "runs", "rejects", "explain", "config", "db"} <= shown


# --- code --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def orders(database: str, connection: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database with the table of the examples and the ledger, and a directory with files to load."""
    with connection.cursor() as cursor:
        cursor.execute(next(block.text for block in blocks("sql") if block.page == "README.md"))
        cursor.execute(DEFINITION)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "drops").mkdir()
    for name, ids in (("orders-2.csv", range(1, 40)), ("orders-10.csv", range(30, 60))):
        rows = "".join(f"{id_},{name},{id_}.50,2026-01-01 00:00:00+00\n" for id_ in ids)
        (tmp_path / "drops" / name).write_text("order_id,customer,amount,updated_at\n" + rows)
    return database


@pytest.mark.parametrize("block", named(blocks("python")))
def test_python_runs(orders: str, block: Block) -> None:
    code = compile(block.text, block.page, "exec")
    if block.title != "airflow":  # not installed here
        exec(code, {"dsn": orders})  # noqa: S102 - our own pages


@pytest.mark.parametrize("block", named([block for block in blocks("sql") if block.page != "README.md"]))
def test_sql_runs(orders: str, connection: Any, block: Block) -> None:
    ingest("drops/*.csv", "sales.orders", "order_id", orders, undoable=True)
    name = connection.info.dbname
    text = block.text.replace('"warehouse"', f'"{name}"').replace("etl_loader", f"role_{name}")
    with connection.cursor() as cursor:
        cursor.execute(f'CREATE ROLE "role_{name}"')
        try:
            cursor.execute(text)
        finally:
            cursor.execute(f'DROP OWNED BY "role_{name}"; DROP ROLE "role_{name}"')


def test_retention_deletes_old_runs_with_all_that_is_theirs_and_no_other(orders: str, connection: Any) -> None:
    old = ingest("drops/*.csv", "sales.orders", "order_id", orders, undoable=True)
    Path("drops/orders-2.csv").write_text("order_id,customer\n1,changed\n2,changed\nx,bad\n")
    for _ in range(2):
        new = ingest("drops/orders-2.csv", "sales.orders", "order_id", orders, undoable=True, max_rejects=1)
    statement = next(block.text for block in blocks("sql") if "before_images i" in block.text)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE etl_toolkit.runs SET finished_at = finished_at - interval '31 days' WHERE run_id <> %s",
            (new.run_id,),
        )
        cursor.execute(statement)
        left = []
        for table_name in ("runs", "files", "batches", "rejects"):
            cursor.execute(f"SELECT DISTINCT run_id FROM etl_toolkit.{table_name}")
            left.append(cursor.fetchall())
        cursor.execute("SELECT count(*) FROM etl_toolkit.before_images")
        images = cursor.fetchone()[0]
    assert (left, images, old.run_id != new.run_id) == ([[(new.run_id,)]] * 4, 0, True)


def test_the_documented_grants_are_those_that_are_printed() -> None:
    documented = next(block.text for block in blocks("sql") if block.title == "grants").strip().splitlines()
    printed = database_sql("etl_loader", "warehouse") + ledger_sql("etl_loader").removeprefix(DEFINITION.strip())
    printed += table_sql("etl_loader", "orders", schema="sales")
    assert documented == [line for line in printed.splitlines() if line]


@pytest.mark.parametrize("block", named([block for block in blocks("toml") if block.title != "feed"]))
def test_toml_is_a_configuration(tmp_path: Path, block: Block) -> None:
    path = tmp_path / "etl.toml"
    path.write_text(block.text)
    config, origins = resolve_config(path, {}, {})
    assert {name for name, origin in origins.items() if origin == str(path)} == set(
        tomllib.loads(block.text)["load"]
    ) - {"preset"}
    assert config != ParallelConfig()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    units = [block for block in blocks("ini") if block.title]
    for block in units:
        program = shutil.which("true") or "/bin/true"
        text = block.text.replace("/opt/etl/.venv/bin/etl-toolkit", program).replace("User=etl\n", "")
        (tmp_path / block.title).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *[tmp_path / block.title for block in units]],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    complaints = [line for line in done.stderr.splitlines() if str(tmp_path) in line or "etl-orders" in line]
    assert (len(units), complaints) == (2, [])


def test_cron_lines_have_five_fields_and_a_command() -> None:
    for block in blocks("cron"):
        for line in block.text.splitlines():
            assert re.match(r"^[\d*]\S* [\d*]\S* [\d*]\S* [\d*]\S* [\d*]\S* \S", line)
            assert "%" not in line  # cron would take it for the end of the line


@pytest.fixture
def production(orders: str, tmp_path: Path) -> Callable[[str], str]:
    """Turn a text of the guide into one for this machine: directories, program, and files that are there."""
    (tmp_path / "2026-01-01").mkdir()
    for path in (tmp_path / "drops").iterdir():
        shutil.copy(path, tmp_path / "2026-01-01")
    (tmp_path / "environment").write_text(f"ETL_DSN='{orders} sslmode=prefer'\n")
    (tmp_path / "production.toml").write_text(template("production"))
    program = tmp_path / "etl-toolkit"
    program.write_text(
        f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))} exec {shlex.quote(sys.executable)} -m etl_toolkit "$@"\n'
    )
    program.chmod(0o755)

    def here(text: str) -> str:
        text = re.sub(r"/srv/drops/\{\{ ds \}\}/", f"{tmp_path}/2026-01-01/", text)
        text = re.sub(r"(/etc/etl-toolkit|/var/log/etl-toolkit|/var/lib/node_exporter/textfile)/", f"{tmp_path}/", text)
        return text.replace("/opt/etl/.venv/bin/", f"{tmp_path}/").replace("/srv/drops/", f"{tmp_path}/drops/")

    return here


def scheduled(command: str | list[str], **environ: str) -> tuple[int, str]:
    """Run a command with as little in its environment as a scheduler gives it; return exit code and complaints."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **environ}
    done = subprocess.run(
        command, shell=isinstance(command, str), env=environment, capture_output=True, text=True, check=False
    )
    warnings = [line for line in done.stderr.splitlines() if not re.match("warning: .* memory are in use", line)]
    return done.returncode, "\n".join(warnings)


def loaded(connection: Any) -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM sales.orders")
        return int(cursor.fetchone()[0])


def test_what_systemd_would_start_loads(production: Callable[[str], str], connection: Any, tmp_path: Path) -> None:
    """Without a shell: the glob is ours to expand. The variables are those of the file."""
    unit = production(next(block.text for block in blocks("ini") if block.title == "etl-orders.service"))
    settings = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line)
    variables = dict(word.split("=", 1) for word in shlex.split(Path(settings["EnvironmentFile"]).read_text()))
    assert scheduled(shlex.split(settings["ExecStart"]), **variables) == (0, "")
    assert loaded(connection) == 59
    assert (tmp_path / "orders.jsonl").read_text().count('"event": "finished"') == 1
    assert "etl_toolkit_last_run_success" in (tmp_path / "orders.prom").read_text()


def test_what_cron_would_start_loads(production: Callable[[str], str], connection: Any) -> None:
    (line,) = next(block.text for block in blocks("cron")).splitlines()
    assert scheduled(production(line.split(None, 5)[5])) == (0, "")
    assert loaded(connection) == 59


def test_what_airflow_would_start_loads(
    production: Callable[[str], str], orders: str, connection: Any, tmp_path: Path
) -> None:
    """Airflow spells the scheme `postgres`."""
    block = next(block for block in blocks("python") if block.title == "airflow")
    text = production("".join(re.findall(r'^\s*"(.*)"$', block.text, re.MULTILINE)))
    uri = "postgres://{user}:{password}@{host}:{port}/{dbname}".format(
        **({"password": ""} | psycopg2.extensions.parse_dsn(orders))
    )
    assert scheduled(["/bin/bash", "-c", text], ETL_DSN=uri, PATH=f"{tmp_path}:/usr/bin:/bin") == (0, "")
    assert loaded(connection) == 59


# --- tables ------------------------------------------------------------------------------------------------------------


def test_the_settings_are_those_there_are_with_their_defaults() -> None:
    documented = {codes(name)[0]: default for name, default, _ in table("configuration.md", "setting")}
    defaults = {item.name: item.default for item in fields(ParallelConfig)}
    spelled = {name: "not set" if value is None else str(value).lower() for name, value in defaults.items()}
    assert documented == spelled


def test_the_strategies_are_those_there_are() -> None:
    from etl_toolkit.strategies import STRATEGIES

    assert {codes(row[0])[0] for row in table("strategies.md", "strategy")} == {str(name) for name in STRATEGIES}


def test_the_checks_are_those_the_doctor_makes(orders: str) -> None:
    for _ in range(2):
        ingest("drops/*.csv", "sales.orders", "order_id", orders)
    with closing(psycopg2.connect(orders)) as connection, connection.cursor() as cursor:
        cursor.execute("ALTER TABLE sales.orders ADD n bigserial")
        connection.commit()
    report = run_checks(orders, "sales.orders", ["order_id"], proves_backup=False)
    documented = [name for row in table("production.md", "check") for name in codes(row[0])]
    assert sorted(documented) == sorted(finding.check for finding in report.findings)


def test_the_exit_codes_are_those_of_the_command_line() -> None:
    from etl_toolkit import cli

    stated = set(re.findall(r"\d+", (cli.__doc__ or "").split("Exit codes:")[1]))
    assert {code for row in table("production.md", "exit code") for code in re.findall(r"\d+", row[0])} == stated


def test_the_events_are_those_there_are() -> None:
    documented = {name for row in table("observability.md", "event") for name in codes(row[0])}
    stated = {
        name
        for line in (observe_doc or "").splitlines()
        if line.startswith("| `")
        for name in codes(line.split("|")[1])
    }
    told = set()
    for path in (ROOT / "etl_toolkit").rglob("*.py"):
        if path.parts[-2] not in ("bench", "reporting"):
            told |= set(re.findall(r'(?:\.tell|\bself\._say|\bEvent)\(\s*"(\w+)"', path.read_text(encoding="utf-8")))
    assert documented == stated - {"bytes"} == told - {"bytes"}


def test_the_metrics_are_those_in_the_file(orders: str, tmp_path: Path) -> None:
    path = tmp_path / "etl.prom"
    config = ParallelConfig(performance_monitoring=True)
    ingest("drops/*.csv", "sales.orders", "order_id", orders, config=config, on_event=PrometheusFile(path))
    documented = {re.sub(r"\{.*", "", name) for row in table("observability.md", "metric") for name in codes(row[0])}
    assert documented == set(re.findall(r"^# TYPE (\S+)", path.read_text(), re.MULTILINE))


def test_sqlstates_exist_and_are_retried_as_said() -> None:
    rows = table("troubleshooting.md", "SQLSTATE")
    for code, _, retried, _ in rows:
        assert psycopg2.errorcodes.lookup(code)
        error = psycopg2.errors.lookup(code)()
        assert ("yes" if is_transient(_with_code(error, code)) else "no") == retried, code
    assert set(ADVICE) <= {row[0] for row in rows}


def _with_code(error: psycopg2.Error, code: str) -> Any:
    """The same kind of error, as the server sends it: only the server can set `pgcode`."""

    class Sent(type(error)):  # type: ignore[misc]
        pgcode = code

    return Sent()


def test_every_error_with_advice_or_a_retry_is_explained() -> None:
    from etl_toolkit.errors import TRANSIENT_SQLSTATES

    explained = {row[0] for row in table("troubleshooting.md", "SQLSTATE")}
    assert TRANSIENT_SQLSTATES | set(ADVICE) <= explained


def test_the_messages_that_are_explained_are_those_there_are() -> None:
    """What stands between the ellipses is looked for in the texts of the package."""
    sources = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "etl_toolkit").rglob("*.py")))
    texts = re.sub(r'"\s*\n\s*f?"', "", sources)
    quoted = [message for row in table("troubleshooting.md", "message") for message in codes(row[0])]
    parts = [part.strip(" '") for message in quoted for part in message.split("…")]
    assert (len(quoted) > 5, [part for part in parts if part not in texts]) == (True, [])


def test_the_numbers_of_the_guide_are_those_of_the_code() -> None:
    from etl_toolkit.doctor import capacity, history, server, table
    from etl_toolkit.loading.undo import OLDEST_TRANSACTIONS
    from etl_toolkit.sources import octets

    pages = {page.stem: " ".join(page.read_text(encoding="utf-8").split()) for page in PAGES}
    stated = [
        ("limits", f"| {octets.UNPACKED_RATIO} times their size, beyond the first GB |"),
        ("security", f"more than {octets.UNPACKED_RATIO} times its size"),
        ("rejects", f"more than {octets.UNPACKED_RATIO} times its size"),
        ("limits", f"`max_line_bytes`, {ParallelConfig().max_line_bytes >> 20} MB"),
        ("limits", f"need workers + {capacity.SPARE_CONNECTIONS} connections |"),
        ("limits", f"{OLDEST_TRANSACTIONS // 10**9} billion transactions back"),
        ("limits", f"PostgreSQL | {server.OLDEST_VERSION // 10000} or newer"),
        ("production", f"fewer than workers + {capacity.SPARE_CONNECTIONS} are free"),
        ("production", f"more than {ParallelConfig().memory_alert_ratio:.0%} of the cgroup's".replace("%", " %")),
        ("production", f"less than 1 GB or {capacity.LEAST_FREE_RATIO:.0%} is free".replace("%", " %")),
        ("production", f"`max_wal_size` | warns: below {server.SMALL_WAL_BYTES >> 30} GB"),
        ("production", f"(the last one warns: {history.MANY_REJECTS:,} or more)"),
        (
            "production",
            f"{table.SEQUENCE_FAILS_RATIO:.0%} used (warns: {table.SEQUENCE_WARNS_RATIO:.0%})".replace("%", " %"),
        ),
        ("production", f"took {history.SHORT_SECONDS:.0f} s or more and was less than half as fast"),
    ]
    assert [(page, words) for page, words in stated if words not in pages[page]] == []
    assert (octets.UNPACKED_MINIMUM_BYTES, capacity.LEAST_FREE_BYTES, history.SLOW_RATIO) == (1 << 30, 1 << 30, 0.5)


def test_the_readme_quotes_commands_that_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "etl_toolkit", "--help"], capture_output=True, text=True, check=True, cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    for name in (
        "ingest",
        "plan",
        "overlap",
        "runs",
        "resume",
        "rejects",
        "explain",
        "undo",
        "doctor",
        "bench",
        "report",
    ):
        assert f"`{name}" in text
        assert f"  {name} " in done.stdout


@pytest.fixture
def newcomer(tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the files that the README names, and an empty database: no schema, no table."""
    (tmp_path / "drops").mkdir()
    (tmp_path / "drops" / "1.csv").write_text("order_id,amount\n1,1.5\n2,2.5\n")
    (tmp_path / "a.csv").write_text("order_id,amount\n1,1.5\n2,2.5\n")
    pd.DataFrame({"order_id": [2, 3], "amount": [9.5, 3.5]}).to_parquet(tmp_path / "b.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ETL_DSN", database)
    return tmp_path


def test_the_commands_of_the_readme_for_ones_own_files_need_nothing_in_the_database(newcomer: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^    \.venv/bin/etl-toolkit ((?:plan|ingest) .*)$", text, re.MULTILINE)
    assert [words.split()[0] for words in commands] == ["plan", "ingest"]
    for words in commands:
        command = [sys.executable, "-m", "etl_toolkit", *shlex.split(words)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_python_of_the_readme_runs(newcomer: Path, database: str) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    lines = textwrap.indent(block.replace('"postgresql://…"', "dsn"), "    ")
    code = f"async def main(dsn, frame):\n{lines}\n    return result, overlap, plan, success\n"
    scope: dict[str, Any] = {}
    exec(code, scope)  # noqa: S102
    frame = pd.DataFrame({"order_id": [4], "amount": [4.5]})
    result, overlap, plan, success = asyncio.run(scope["main"](database, frame))
    assert (result.counts.read, overlap.shared_keys, plan.overlap.shared_keys, bool(success)) == (5, 1, 1, True)


def test_the_picture_of_the_readme_comes_from_what_the_demo_prints(database: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "etl_toolkit", "demo", "--skip-bench", "--rows", "50", "--dsn", database]
    printed = subprocess.run(
        [*command, "--directory", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    drawing = [sys.executable, str(DOCS / "picture.py")]
    svg = subprocess.run(drawing, input=printed.stdout, capture_output=True, text=True, check=True).stdout
    kept = (DOCS / "demo.svg").read_text(encoding="utf-8")
    assert [part in svg and part in kept for part in ("part6.parquet", "every row is accounted for", "superseded")] == [
        True
    ] * 3
    assert len(kept) < 20_000
