"""Systems that are not Linux: what they lack has something in its place, or is said to be missing before any work is done.

They are played here: by a Python that lacks what macOS and Windows lack.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit import ingest
from etl_toolkit.errors import SourceError
from etl_toolkit.sources import resolving

# As on Windows, once the libraries that we use have found what they look for.
ELSEWHERE = """
import sys, os, mmap, signal, socket, types
import duckdb, numpy, pandas, psutil, psycopg2, pyarrow.parquet, sqlalchemy, tenacity, typer, rich.progress, blake3, zstandard
import asyncio, concurrent.futures.thread, multiprocessing, subprocess, tempfile, shutil
for name in ("resource", "fcntl", "pwd", "grp", "termios"):
    sys.modules[name] = None
sys.modules["msvcrt"] = types.SimpleNamespace(LK_NBLCK=2, locking=lambda descriptor, mode, size: None)
for module, names in {
    os: ("geteuid", "getuid", "fork", "execve", "sched_getaffinity", "O_CLOEXEC", "O_NOFOLLOW", "fchown", "chown",
         "posix_fallocate", "posix_fadvise", "pread", "sysconf"),
    signal: ("SIGKILL", "SIGQUIT", "SIGHUP", "SIGUSR1"), socket: ("AF_UNIX",),
    mmap: [name for name in dir(mmap) if name.startswith(("MAP_", "MADV_"))],
}.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
class Mapped(mmap.mmap):
    def __new__(cls, fileno, length, access=mmap.ACCESS_WRITE):
        return super().__new__(cls, fileno, length, access=access)
    def madvise(self, *arguments):
        raise AttributeError("madvise")
mmap.mmap = Mapped
def refuse(*arguments, **options):
    raise OSError(1314, "A required privilege is not held by the client")
os.symlink = refuse
"""
IMPORT_ALL = """
import importlib, pkgutil, etl_toolkit
for item in pkgutil.walk_packages(etl_toolkit.__path__, "etl_toolkit."):
    if not item.name.endswith("__main__"):
        importlib.import_module(item.name)
"""
LOAD = """
from etl_toolkit import cli
from etl_toolkit.workspace import Workspace
KEEPING
sys.argv = ["etl-toolkit", "ingest", *sys.argv[1:]]
cli.main()
"""


def run_elsewhere(code: str, place: Path, *words: str) -> None:
    """Run `code` with a place for working directories of its own: nothing is really locked there."""
    command = [sys.executable, "-W", "ignore", "-c", ELSEWHERE + code, *words]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False, env={**os.environ, "TMPDIR": str(place)}
    )
    assert done.returncode == 0, done.stderr


def test_every_module_can_be_imported_elsewhere(tmp_path: Path) -> None:
    run_elsewhere(IMPORT_ALL, tmp_path)


@pytest.mark.parametrize("keeping", ["", "Workspace.reserve = lambda self, size: None"], ids=["in memory", "in a file"])
def test_files_are_loaded_elsewhere(database: str, connection: Connection, tmp_path: Path, keeping: str) -> None:
    (tmp_path / "a.csv").write_text("id,value\n1,a\n2,b\n")
    (tmp_path / "b.csv").write_text('id,value\n2,"b, c"\n3,c\n')
    words = (f"{tmp_path}/*.csv", "--table", "t", "--key", "id", "--create-table", "--dsn", database)
    run_elsewhere(LOAD.replace("KEEPING", keeping), tmp_path, *words)
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, value FROM t ORDER BY 1")
        assert cursor.fetchall() == [(1, "a"), (2, "b, c"), (3, "c")]


@pytest.mark.parametrize("refused", [("symlink",), ("symlink", "link")], ids=["hard link", "copy"])
def test_a_file_that_cannot_be_linked_is_loaded_and_watched_all_the_same(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: tuple[str, ...]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("not permitted")

    for name in refused:
        monkeypatch.setattr(os, name, refuse)
    path = tmp_path / "a.csv"
    path.write_text("id,value\n1,a\n")
    result = ingest(path, "t", "id", database, create_table=True)
    assert result.counts.inserted == 1
    link = resolving.link_or_copy

    def change_first(source: str, place: Path) -> bool:
        path.write_text("id,value\n1,changed\n")
        return link(source, place)

    monkeypatch.setattr(resolving, "link_or_copy", change_first)
    with pytest.raises(SourceError, match="was changed or removed"):
        ingest(path, "t", "id", database)


@pytest.mark.parametrize(("command", "package"), [("bench", "scipy"), ("report", "papermill"), ("demo", "matplotlib")])
def test_a_command_says_at_once_which_packages_it_lacks(tmp_path: Path, command: str, package: str) -> None:
    code = (
        "import importlib.util, sys; find = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda name, *rest: None if name == {package!r} else find(name, *rest)\n"
        f"sys.argv = ['etl-toolkit', {command!r}]\n"
        "from etl_toolkit import cli; cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{command} needs {package}; install with: pip install 'etl-toolkit[notebooks]'" in done.stderr
    assert list(tmp_path.iterdir()) == []
