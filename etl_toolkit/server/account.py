"""Which account the server runs as, and running a program as that account.

PostgreSQL refuses to run as root. As root we run it as the account that owns its home, and a new one as `postgres` if
that account exists, else as `nobody`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from etl_toolkit.errors import ServerError

CANDIDATES = ("postgres", "nobody")


@dataclass(frozen=True)
class Account:
    """The account of a server; `drop` tells that it is not the account of this process."""

    name: str
    uid: int
    gid: int
    drop: bool


def server_account(home: Path | None = None) -> Account:
    """Return the account that the server in `home` runs as, or would run as."""
    if sys.platform == "win32":
        raise ServerError("the embedded PostgreSQL runs on Linux and macOS only; name a server with --dsn or ETL_DSN")
    import pwd

    if os.geteuid() != 0:
        return Account(f"uid {os.geteuid()}", os.geteuid(), os.getegid(), drop=False)
    if home is not None and (home / "cluster").is_dir():
        owner = (home / "cluster").lstat()
        if owner.st_uid != 0:
            return Account(f"uid {owner.st_uid}", owner.st_uid, owner.st_gid, drop=True)
    for name in CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid, drop=True)
    raise ServerError(
        "PostgreSQL refuses to run as root, and there is no account `postgres` or `nobody` to run it as; "
        "create one (useradd --system postgres) or run as an ordinary user"
    )


def run_as(
    account: Account, program: str | Path, *arguments: str | Path, cwd: Path, timeout_seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run a program as `account` with none of our environment; stdout and stderr come back as one text.

    The environment is left out because PGDATA, PGPORT, LD_LIBRARY_PATH and the locale would change what the server
    does, and because we read its messages: they have to be in English.
    """
    return subprocess.run(
        [program, *arguments],
        cwd=cwd,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC", "HOME": "/"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout_seconds,
        check=False,
        start_new_session=True,  # Ctrl-C in the terminal must not reach the server
        user=account.uid if account.drop else None,
        group=account.gid if account.drop else None,
        extra_groups=[] if account.drop else None,
    )


def can_pass(account: Account, path: Path) -> bool:
    """Tell whether `account` can enter a directory or run a program, by trying: modes, ACLs and mounts have a say."""
    if not account.drop:
        return os.access(path, os.X_OK)
    return run_as(account, "test", "-x", path, cwd=Path("/"), timeout_seconds=30).returncode == 0
