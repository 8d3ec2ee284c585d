"""The two settings profiles of the embedded server, and the file they are written to.

`durable` is what a careful administrator sets on a machine of this size; published numbers come from it alone. `fast`
loses data on a crash of the machine, and is for tests only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import psutil

Profile = Literal["durable", "fast"]

MIB = 1 << 20
SETTINGS_FILE = "etl_toolkit.conf"


def profile_settings(profile: Profile, memory_bytes: int | None = None) -> dict[str, str]:
    """Return the settings of `profile` for a machine with `memory_bytes` of memory (default: this machine's)."""
    memory = memory_bytes if memory_bytes is not None else psutil.virtual_memory().total
    common = {"max_connections": "100", "timezone": "UTC", "log_timezone": "UTC", "lc_messages": "C"}
    if profile == "fast":
        return common | {
            "shared_buffers": "128MB",
            "max_wal_size": "2GB",
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
        }
    return common | {
        # A thirty-second of the machine, because we share it with DuckDB and the load's own processes.
        "shared_buffers": f"{min(max(memory // 32 // MIB, 128), 512)}MB",
        "effective_cache_size": f"{max(memory // 2 // MIB, 256)}MB",
        "maintenance_work_mem": "128MB",
        "work_mem": "16MB",
        "max_wal_size": "4GB",
        "min_wal_size": "512MB",
        "checkpoint_timeout": "15min",
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
    }


def render(settings: dict[str, str]) -> str:
    """Return `settings` as the text of a postgresql.conf."""
    header = "# Written at every start of the server. ALTER SYSTEM wins over what is set here.\n"
    return header + "".join(f"{name} = {quoted(value)}\n" for name, value in settings.items())


def quoted(value: str) -> str:
    """Return `value` as a postgresql.conf string."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def list_item(path: Path) -> str:
    """Return `path` as one item of a setting that takes a list, where commas and spaces divide."""
    return '"' + str(path).replace('"', '""') + '"'


def read_setting(path: Path, name: str) -> str | None:
    """Return the value of `name` in a file that `render` wrote, None if either is absent."""
    if not path.exists():
        return None
    values = dict(line.split(" = ", 1) for line in path.read_text(encoding="utf-8").splitlines() if " = " in line)
    return values[name].strip("'") if name in values else None
