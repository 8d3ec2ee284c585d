"""Processes that are forked from one that has imported the package: all of a process but the second of CPU for imports.

`run_command` runs the command line in one. What a start itself does is tested with `python -m etl_toolkit`, as
test_command_line, test_docs, test_security and test_stopping do.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(
    ["etl_toolkit.cli", "etl_toolkit.processor", "pandas", "tests.fault_worker", "tests.forked"]
)

SECONDS = 120
STREAMS = {"stdin": os.O_RDONLY, "stdout": os.O_WRONLY | os.O_CREAT, "stderr": os.O_WRONLY | os.O_CREAT}


def run_command(
    *words: object, cwd: Path | None = None, env: Mapping[str, str] | None = None, given: bytes = b""
) -> CompletedProcess[str]:
    """Run the command line with these words; its standard input is what is given."""
    arguments = [str(word) for word in words]
    with tempfile.TemporaryDirectory(prefix="etl-command-") as name:
        directory = Path(name)
        (directory / "stdin").write_bytes(given)
        process = FORKED.Process(target=_run, args=(arguments, cwd or Path.cwd(), dict(env or os.environ), directory))
        process.start()
        process.join(SECONDS)
        process.kill()
        process.join()
        out, err = ((directory / stream).read_text(encoding="utf-8") for stream in ("stdout", "stderr"))
        done = CompletedProcess(arguments, process.exitcode or 0, out, err)
        process.close()
    return done


def _run(words: Sequence[str], cwd: Path, environ: Mapping[str, str], directory: Path) -> None:
    for number, (stream, flags) in enumerate(STREAMS.items()):
        opened = os.open(directory / stream, flags, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - a descriptor, for the whole process
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environ)
    time.tzset()
    sys.argv = ["etl-toolkit", *words]
    from etl_toolkit.__main__ import main

    main()
