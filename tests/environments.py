"""Environments in which people start a load, each of which once changed a value on its way."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

TOKYO = {
    "TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8", "PGTZ": "Asia/Tokyo", "PGDATESTYLE": "German", "PGCLIENTENCODING": "LATIN1",
}  # fmt: skip
NEW_YORK = {
    "TZ": "America/New_York", "LC_ALL": "POSIX", "LANG": "C",
    "PGOPTIONS": "-c datestyle=SQL,DMY -c timezone=America/New_York -c intervalstyle=sql_standard -c search_path=pg_catalog",
}  # fmt: skip
ENVIRONMENTS: Mapping[str, Mapping[str, str]] = {"plain": {"TZ": "UTC"}, "tokyo": TOKYO, "new_york": NEW_YORK}

# What psycopg2 would do with them, were nobody to keep them from libpq: the control of tests that show nothing changes.
UNGUARDED = "import etl_toolkit.loading.environment as environment; environment.CLIENTS_OWN = ()\n"


def run_in(environment: Mapping[str, str], script: str, *arguments: str, directory: str | None = None) -> str:
    """Run a Python script in a process with these variables, and return what it prints."""
    paths = os.pathsep.join([str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True, text=True, check=False, cwd=directory, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
