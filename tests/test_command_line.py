"""The command line as a shell and a scheduler meet it: exit codes, one JSON object, completion, and Ctrl-C at any moment."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
NO_RUN = "20200101T000000-000000"
OF_A_LOAD = {"asyncio", "duckdb", "etl_toolkit.processor", "numpy", "psutil", "pyarrow", "tenacity"}
OF_A_FEATURE = {
    "IPython", "anywidget", "dask", "ipywidgets", "jsonschema", "matplotlib", "obstore", "openlineage", "opentelemetry", "pandas",
    "polars", "pyarrow.dataset", "pyarrow.parquet", "sqlalchemy",
}  # fmt: skip

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environ(database: str, tmp_path: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ETL_")}
    return {**clean, "PYTHONPATH": str(ROOT), "ETL_DSN": database, "HOME": str(tmp_path)}


@pytest.fixture
def command(environ: dict[str, str], connection: Any, tmp_path: Path) -> Command:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, v int)")
    (tmp_path / "bad.csv").write_text("id,v\n1,1\n2,x\n3,y\n")

    def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "etl_toolkit", *words], cwd=tmp_path, capture_output=True, text=True, check=False,
            env={**environ, **more},
        )  # fmt: skip

    return run


def imported(stderr: str) -> set[str]:
    """What a process imported that ran under PYTHONPROFILEIMPORTTIME."""
    return set(re.findall(r"^import time: .*\| +(\S+)$", stderr, re.MULTILINE))


@pytest.mark.parametrize(
    ("words", "needless"),
    [
        (("ingest", "--help"), OF_A_FEATURE | OF_A_LOAD | {"rich"}),
        (("plan", "bad.csv", "--table", "t", "--key", "id"), OF_A_FEATURE | {"pyarrow.compute", "rich"}),
    ],
    ids=["help", "plan"],
)
def test_a_command_imports_what_it_uses(command: Command, words: tuple[str, ...], needless: set[str]) -> None:
    done = command(*words, PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0, done.stderr
    assert "typer" in imported(done.stderr)
    assert imported(done.stderr) & needless == set()


def test_the_first_sign_of_a_load_comes_before_the_imports_it_needs(command: Command) -> None:
    words = ("ingest", "bad.csv", "--table", "t", "--key", "id", "--max-rejects", "2")
    done = command(*words, PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 3, done.stderr
    before, sign, after = done.stderr.partition("0%, starting\n")
    assert sign
    assert imported(before) & (OF_A_LOAD | OF_A_FEATURE) == set()
    assert imported(after) >= OF_A_LOAD
    assert imported(after) & OF_A_FEATURE == set()


@pytest.mark.parametrize(
    "words", [("undo",), ("resume",), ("rejects",), ("rejects", "--export", "out.csv")], ids=" ".join
)
def test_a_run_there_never_was_is_a_usage_error(command: Command, words: tuple[str, ...]) -> None:
    done = command(*words, NO_RUN, "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["code"], told["kind"]) == (2, 2, "UnknownRunError")
    assert told["error"].startswith(f"there is no run {NO_RUN}")


@pytest.mark.parametrize(
    ("words", "code", "kind"),
    [
        (("plan", "nowhere.csv", "--table", "t", "--key", "id"), 2, "UnknownFileError"),
        (("plan", "bad.csv", "--table", "nowhere", "--key", "id"), 2, "UnknownTableError"),
        (("overlap", "nowhere.csv", "--key", "id"), 2, "UnknownFileError"),
        (("overlap", "bad.csv", "--key", "ID_"), 2, "UnknownColumnError"),
        (("overlap", "bad.csv"), 2, "UsageError"),
        (("overlap", "bad.csv", "--kye", "id"), 2, None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_plan_and_overlap_fail_with_one_object(
    command: Command, words: tuple[str, ...], code: int, kind: str | None
) -> None:
    done = command(*words, "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["code"], told["kind"], bool(told["error"])) == (code, code, kind, True)


def test_bad_rows_are_listed_in_json_without_their_content(command: Command) -> None:
    done = command("ingest", "bad.csv", "--table", "t", "--key", "id", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["kind"]) == (1, "RejectLimitError")
    assert [(row["file"], row["line"], row["record"], row["sqlstate"]) for row in told["rejects"]] == [
        ("bad.csv", 3, 1, "22P02"), ("bad.csv", 4, 2, "22P02")
    ]  # fmt: skip
    assert {*told["rejects"][0]} == {"file", "line", "record", "reason", "sqlstate"}
    assert "etl-toolkit: bad.csv, line 4: " in done.stderr


def test_undo_answers_in_json(command: Command, tmp_path: Path) -> None:
    (tmp_path / "good.csv").write_text("id,v\n1,1\n2,2\n")
    loaded = json.loads(command("ingest", "good.csv", "--table", "t", "--key", "id", "--undoable", "--json").stdout)
    undone, again = command("undo", loaded["run_id"], "--json"), command("undo", loaded["run_id"], "--json")
    assert (undone.returncode, json.loads(undone.stdout)["deleted"]) == (0, 2)
    told = json.loads(again.stdout)
    assert (again.returncode, told["code"], told["kind"]) == (1, 1, "LedgerError")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands(environ: dict[str, str], shell: str) -> None:
    program = "import sys; sys.argv[0] = 'etl-toolkit'; from etl_toolkit.__main__ import main; main()"
    line = {"COMP_WORDS": "etl-toolkit inge", "COMP_CWORD": "1"} if shell == "bash" else {
        "_TYPER_COMPLETE_ARGS": "etl-toolkit inge", "_TYPER_COMPLETE_FISH_ACTION": "get-args"
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", program], env={**environ, "_ETL_TOOLKIT_COMPLETE": f"complete_{shell}", **line},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "ingest" in done.stdout, done.stderr


COMMANDS = {
    "explain": ("explain", "--table", "t", "--key", "id=1"),
    "doctor": ("doctor", "--table", "t", "--key", "id", "--skip-backup"),
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("moment", ["typer", "psycopg2", 1.0], ids=["imports", "command", "later"])
def test_ctrl_c_ends_a_command_with_one_line_at_any_moment(
    command: Command, environ: dict[str, str], tmp_path: Path, name: str, moment: str | float
) -> None:
    """Ctrl-C inside an `exec` of a text, for which CPython would let the process die of the signal at its end."""
    program = f"""
import os, runpy, signal, sys, threading
moment = {moment!r}
press = "os.kill(os.getpid(), signal.SIGINT)"
class Presses:
    def find_spec(self, name, path=None, target=None):
        if name == moment:
            sys.meta_path.remove(self)
            exec(press)
sys.meta_path.insert(0, Presses())
if isinstance(moment, float):
    threading.Timer(moment, exec, (press, {{"os": os, "signal": signal}})).start()
runpy.run_module("etl_toolkit", run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-c", program, *COMMANDS[name]], cwd=tmp_path, env=environ, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, len(done.stderr.splitlines())) == (130, 1), done.stderr
