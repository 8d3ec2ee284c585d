"""Whatever the caller of the tests exports, they and the programs that they start meet the same environment."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.clean_environment import KEPT, UMASK

ROOT = Path(__file__).parent.parent
# What people's shells, other makes, git hooks and CI export.
POISON = {
    "MAKEFLAGS": "w", "MAKELEVEL": "1", "MFLAGS": "-w", "PYTHONPATH": "/nonexistent", "PYTHONHASHSEED": "7",
    "PYTHONSAFEPATH": "1", "GIT_DIR": "/nonexistent", "GIT_WORK_TREE": "/nonexistent", "LC_ALL": "tr_TR.UTF-8",
    "LANG": "de_DE.UTF-8", "LANGUAGE": "de", "COLUMNS": "20", "LINES": "5", "TERM": "dumb", "FORCE_COLOR": "1", "CI": "true",
    "HOME": "/nonexistent", "TMPDIR": "/nonexistent a", "TZ": "Asia/Kathmandu", "PGHOST": "db.example", "PGOPTIONS": "-c datestyle=german",
    "ETL_CONCURRENCY": "7", "XDG_STATE_HOME": "/nonexistent", "BASH_ENV": "/nonexistent", "CDPATH": "/",
    "_RJEM_MALLOC_CONF": "narenas:7",
}  # fmt: skip
POISONED_UMASK = 0o077


def poisoned(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program as such a caller does, in a terminal."""
    terminal, stdin = pty.openpty()
    try:
        return subprocess.run(
            command, cwd=cwd, env={**os.environ, **POISON}, umask=POISONED_UMASK, stdin=stdin, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
    finally:
        os.close(terminal)
        os.close(stdin)


def test_nothing_of_the_caller_is_left() -> None:
    found = {name for name in os.environ if name not in KEPT and not name.startswith("PYTEST_")}
    if "polars" in sys.modules:  # it tells its allocator when to return memory, and keeps what the caller had told it
        found.remove("_RJEM_MALLOC_CONF")
        assert "narenas" not in os.environ["_RJEM_MALLOC_CONF"]
    umask = os.umask(UMASK)
    shown = subprocess.run(["/usr/bin/env"], capture_output=True, text=True, check=True).stdout
    assert [line for line in shown.splitlines() if line.startswith(("COLUMNS=", "LINES="))] == []
    assert (found, os.environ["LANG"], umask) == ({"HOME", "LANG", "TZ"}, "C.UTF-8", UMASK)
    assert (Path.home().is_dir(), time.tzname) == (True, ("UTC", "UTC"))


@pytest.mark.parametrize("workers", ["0", "1"])
def test_nor_of_a_caller_that_exports_a_lot(workers: str) -> None:
    """`PYTHON*` of the caller have been read by the first process; the workers are free of them."""
    name = test_nothing_of_the_caller_is_left.__name__
    command = [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", "-n", workers, f"{__file__}::{name}"]
    done = poisoned(command, ROOT)
    assert (done.returncode, "1 passed" in done.stdout) == (0, True), done.stdout


def test_control_such_a_caller_changes_what_a_program_prints(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("all:\n\t@umask\n")
    command: Any = ["make"]
    clean = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert (clean, poisoned(command, tmp_path).stdout != clean) == ("0022\n", True)
