"""The environment in which tests, and the programs that they start, run: the same whoever starts them.

A `make` inside a `make` prints more, a shell in Turkish prints other words, a terminal of 20 columns breaks lines. So
nothing of the caller's environment is kept but what says where things are and which server to test. Temporary files
are in /tmp, whose name no shell splits; PYTEST_DEBUG_TEMPROOT moves them.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

KEPT = {"PATH", "LD_LIBRARY_PATH", "ETL_DSN", "ETL_PG_BIN", "ETL_PAGE", "ETL_SCREENSHOTS"}
UMASK = 0o022


def clean_environment(environ: Mapping[str, str], home: Path) -> dict[str, str]:
    """Return what is kept of `environ`, with a home of its own, and the locale and time zone that every system has."""
    kept = {name: value for name, value in environ.items() if name in KEPT or name.startswith("PYTEST_")}
    return kept | {"HOME": str(home), "LANG": "C.UTF-8", "TZ": "UTC"}


@contextmanager
def in_clean_environment() -> Iterator[None]:
    """Clean this process's environment; every program that it starts inherits that."""
    before, umask = dict(os.environ), os.umask(UMASK)
    # A short name: kernels have their sockets below it, whose paths end at 107 bytes.
    with tempfile.TemporaryDirectory(prefix="etl-", ignore_cleanup_errors=True) as home:
        _become(clean_environment(before, Path(home)))
        try:
            yield
        finally:
            _become(before)
            os.umask(umask)


def forget_terminal() -> None:
    """Take out what readline, which pytest imports, puts into the environment of our children past `os.environ`."""
    for name in ("COLUMNS", "LINES"):
        if name not in os.environ:
            os.unsetenv(name)


def _become(environ: Mapping[str, str]) -> None:
    os.environ.clear()
    forget_terminal()
    os.environ.update(environ)
    tempfile.tempdir = None  # looked up anew
    time.tzset()
