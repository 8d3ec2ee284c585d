"""Where a sweep was measured: machine, versions, server and settings. Nothing that identifies a user."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import psycopg2

from etl_toolkit.memory import memory_limit_bytes
from etl_toolkit.observe.processes import postmaster_pid

PACKAGES = ("etl-toolkit", "duckdb", "psycopg2-binary", "pyarrow", "pandas", "sqlalchemy", "scipy", "dlt")

NON_DEFAULT = """
SELECT name, setting || coalesce(' ' || unit, '') FROM pg_settings
WHERE source NOT IN ('default', 'client', 'session', 'override') AND boot_val IS DISTINCT FROM setting
AND category NOT LIKE 'File Locations%%' AND category NOT LIKE '%%Connection Settings' AND category NOT LIKE '%%SSL'
AND name NOT IN ('cluster_name', 'log_directory', 'log_filename', 'primary_conninfo', 'archive_command')
ORDER BY name
"""


def machine() -> dict[str, Any]:
    """Return processor, cores, memory, system, and a fingerprint of them: runs with another cannot be compared."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory, limit = int(psutil.virtual_memory().total), memory_limit_bytes()
    facts = {
        "processor": _processor(),
        "cores": cores,
        "memory_bytes": memory,
        "memory_limit_bytes": limit if limit < memory else None,
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
    }
    words = "|".join(
        map(str, (facts["processor"], cores, round(memory / 2**30), facts["system"], facts["architecture"]))
    )
    return facts | {"fingerprint": hashlib.sha256(words.encode()).hexdigest()[:16]}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the relevant packages that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def server(connection: psycopg2.extensions.connection) -> tuple[dict[str, Any], dict[str, str]]:
    """Return facts about the server, and its settings that are not the default (no paths, no addresses)."""
    with connection.cursor() as cursor:
        cursor.execute("SHOW server_version")
        (server_version,) = cursor.fetchone() or ("",)
        cursor.execute(NON_DEFAULT)
        settings = dict(cursor.fetchall())
    is_local = postmaster_pid(connection) is not None
    return {"version": server_version, "is_on_this_machine": is_local}, settings


def git_commit() -> str | None:
    """Return the commit of this package's source, with `-dirty` when it was changed since; None outside of a clone."""
    place = Path(__file__).resolve().parent
    commit = _git(place, "rev-parse", "HEAD")
    if not commit:
        return None
    return commit + ("-dirty" if _git(place, "status", "--porcelain", "--", "..") else "")


def without_secrets(words: Sequence[str]) -> str:
    """Return a command line as text, without the DSN: it may hold a password, and the record may be published."""
    kept: list[str] = []
    for number, word in enumerate(words):
        if number and words[number - 1] == "--dsn":
            word = "…"  # noqa: PLW2901
        kept.append("--dsn=…" if word.startswith("--dsn=") else word)
    text = re.sub(r"postgres(ql)?(\+\w+)?://\S+", "postgresql://…", " ".join(kept))
    return re.sub(r"(password=)('[^']*'|\S+)", r"\1…", text)


def _git(place: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", place, *words], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
