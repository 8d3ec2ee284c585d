"""`.ci/run` runs the README's commands as a newcomer does, and fails when they fail or do not do what the README says."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
Gate = Callable[..., tuple[int, list[str]]]


def commands_of_the_readme() -> list[str]:
    """The commands of the first code block that are `make`."""
    block = re.search(
        r"^    git clone .*\n((?:    .*\n)+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert block is not None
    return [line.split("#")[0].strip() for line in block[1].splitlines()]


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """Run the gate of a clone in which `make` and what looks at the demo only note that they were called."""
    clone = tmp_path / "a clone"
    shutil.copytree(ROOT / ".ci", clone / ".ci", ignore=shutil.ignore_patterns("__pycache__"))
    calls = clone / "calls"
    programs = {"bin/make": "make", ".venv/bin/python": "python", "bin/chromium": "chromium", "bin/apt-get": "apt-get"}
    for path, name in programs.items():
        program = clone / path
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(
            f'#!/bin/sh\necho "{name} $*" >>\'{calls}\'\ncase " $FAIL " in *" {name} $* "*) exit 1;; esac\n'
        )
        program.chmod(0o755)

    def run(fails: str = "") -> tuple[int, list[str]]:
        environ = {**os.environ, "PATH": f"{clone / 'bin'}:{os.environ['PATH']}", "FAIL": fails, "CI": "true"}
        command = ["bash", str(clone / ".ci" / "run")]
        done = subprocess.run(
            command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        return done.returncode, calls.read_text().splitlines()

    return run


def test_it_runs_what_the_readme_says_letter_for_letter_and_first(gate: Gate) -> None:
    code, calls = gate()
    assert commands_of_the_readme() == ["make demo", "make test"]
    assert (code, [call for call in calls if call.startswith("make")][:2]) == (0, commands_of_the_readme())


@pytest.mark.parametrize("command", [*commands_of_the_readme(), "python .ci/check_demo.py"])
def test_it_fails_when_one_of_them_fails_and_runs_the_rest(gate: Gate, command: str) -> None:
    _, all_calls = gate()
    code, calls = gate(fails=command)
    assert (code, calls[len(all_calls) :]) == (1, all_calls)


@pytest.fixture(scope="module")
def check_demo() -> Any:
    spec = importlib.util.spec_from_file_location("check_demo", ROOT / ".ci" / "check_demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FIRST = "  - 30 read = 20 inserted + 0 updated + 0 unchanged + 10 superseded (later file) + 0 rejected\n"
SECOND = "  - 30 read = 0 inserted + 0 updated + 20 unchanged + 10 superseded (later file) + 0 rejected\n"


@pytest.mark.parametrize(
    ("printed", "page", "fault"),
    [
        (FIRST + SECOND, "<svg></svg></html>", None),
        (FIRST, "<svg></svg></html>", "1 loads printed"),
        (FIRST.replace("30 read", "31 read") + SECOND, "<svg></svg></html>", "do not add up"),
        (FIRST + FIRST, "<svg></svg></html>", "second load wrote"),
        (SECOND + SECOND, "<svg></svg></html>", "first load inserted nothing"),
        (FIRST + SECOND, "<html></html>", "no page with a picture"),
        (FIRST + SECOND, None, "no page with a picture"),
    ],
    ids=["good", "one load", "a row is lost", "second load writes", "first load does not", "no picture", "no page"],
)
def test_what_the_demo_prints_and_makes_is_checked(
    check_demo: Any, tmp_path: Path, printed: str, page: str | None, fault: str | None
) -> None:
    if page is not None:
        (tmp_path / "page.html").write_text(page)
    found = check_demo.faults(printed, tmp_path / "page.html")
    assert [fault in each for each in found] == ([] if fault is None else [True])


def test_the_demo_itself_passes(database: str, check_demo: Any, tmp_path: Path) -> None:
    """Without the sweep, so without a page."""
    command = [sys.executable, "-m", "etl_toolkit", "demo", "--skip-bench", "--rows", "1000", "--dsn", database]
    command += ["--directory", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert check_demo.faults(done.stdout, tmp_path / "page.html") == [
        f"{tmp_path / 'page.html'} is no page with a picture"
    ]
