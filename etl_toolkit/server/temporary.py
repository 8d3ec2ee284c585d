"""A temporary server for tests, and the removal of those whose owner died."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from etl_toolkit.errors import ServerError
from etl_toolkit.server.account import can_pass, server_account
from etl_toolkit.server.launch import start, stop
from etl_toolkit.server.lock import try_lock
from etl_toolkit.server.running import EmbeddedServer
from etl_toolkit.server.settings import Profile

PREFIX = "etl_toolkit-temporary-"
OWNER_FILE = "owner"


@contextmanager
def temporary(
    profile: Profile = "fast", bin_dir: Path | None = None, *, root: Path | None = None
) -> Iterator[EmbeddedServer]:
    """Run a server in a new directory (of `root`, by default that for temporary files), then remove both.

    A process that is killed leaves its server behind; the next `temporary()` stops and removes it. The owner is alive
    as long as the lock on its `owner` file is held: the kernel lets go of it, where a process number may be reused.
    """
    account = server_account()
    root = root or _root()
    sweep(root)
    place = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
    owner = try_lock(place / OWNER_FILE)
    if owner is None:
        raise ServerError(f"{str(place)!r} is new and yet locked by another process; run again")
    try:
        os.write(owner, f"{os.getpid()}\n".encode())
        if account.drop:
            os.chown(place, account.uid, account.gid)
        try:
            yield start(place / "home", profile=profile, bin_dir=bin_dir)
        finally:
            stop(place / "home", "immediate")
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.close(owner)


def sweep(root: Path | None = None) -> list[Path]:
    """Stop and remove the temporary servers in `root` whose owner died, and return their directories."""
    removed = []
    for place in (root or _root()).glob(PREFIX + "*"):
        # Another account's are out of our reach, and its own next temporary() sees to them.
        with suppress(OSError, ServerError):
            if not (place / OWNER_FILE).exists():
                continue
            owner = try_lock(place / OWNER_FILE)
            if owner is None:
                continue
            try:
                stop(place / "home", "immediate")
                shutil.rmtree(place)
                removed.append(place)
            finally:
                os.close(owner)
    return removed


def _root() -> Path:
    """Return the directory for temporary files, or /tmp if the server's account cannot enter that one."""
    named = Path(tempfile.gettempdir())
    return named if can_pass(server_account(), named) else Path("/tmp")  # noqa: S108 - mkdtemp follows
