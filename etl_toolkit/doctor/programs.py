"""pg_dump and pg_restore: finding ones that fit the server, and running them without a password in sight."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etl_toolkit.errors import ServerError
from etl_toolkit.server import find_binaries

SYSTEM_ROOT = Path("/usr/lib/postgresql")
TIMEOUT_SECONDS = 1800
# Parameters that every supported libpq knows: psycopg2's own may be newer than pg_dump's.
_PARAMETERS = (
    "host", "hostaddr", "port", "user", "options", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "krbsrvname",
    "gssencmode", "channel_binding", "target_session_attrs",
)  # fmt: skip


@dataclass(frozen=True)
class Programs:
    """A directory with pg_dump and pg_restore, and the service file that tells them where to connect, mode 0600."""

    bin_dir: Path
    major: int
    service_file: Path

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of them; neither its command line nor its environment holds a password."""
        environment = {"PATH": os.defpath, "LC_ALL": "C", "PGSERVICEFILE": str(self.service_file)}
        return subprocess.run(
            [self.bin_dir / name, *arguments], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", timeout=TIMEOUT_SECONDS, check=False,
        )  # fmt: skip


def find_programs(server_version: int, service_file: Path) -> Programs | None:
    """Return a pg_dump at least as new as the server, None where there is none: an older one refuses."""
    for directory in _directories():
        if all(os.access(directory / name, os.X_OK) for name in ("pg_dump", "pg_restore")):
            done = subprocess.run([directory / "pg_dump", "--version"], capture_output=True, text=True, check=False)
            match = re.search(r"\(PostgreSQL\)\s+(\d+)", done.stdout)
            if match and int(match.group(1)) >= server_version // 10000:
                return Programs(directory, int(match.group(1)), service_file)
    return None


def _directories() -> Iterator[Path]:
    if found := shutil.which("pg_dump"):
        yield Path(found).resolve().parent
    with suppress(ServerError):
        yield find_binaries()
    yield from sorted(SYSTEM_ROOT.glob("*/bin"), reverse=True)


def write_services(path: Path, connection: Any, databases: Sequence[str]) -> None:
    """Write a service per database, `etl0`, `etl1`, …, that connects as `connection` does."""
    info = connection.info
    common = {name: value for name, value in info.dsn_parameters.items() if name in _PARAMETERS and value}
    common["options"] = f"{common.get('options', '')} -c synchronous_commit=off".strip()
    if info.password:
        common["password"] = info.password
    lines = []
    for number, database in enumerate(databases):
        lines.append(f"[etl{number}]")
        lines += [f"{name}={value}" for name, value in (common | {"dbname": database}).items()]
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
