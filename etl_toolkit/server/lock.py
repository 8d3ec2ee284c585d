"""A lock file that one process at a time holds, and that the kernel lets go when its holder dies."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from etl_toolkit.errors import ServerError

try:
    system: Any = import_module("fcntl")
except ImportError:  # Windows, where working directories are locked as well
    system = import_module("msvcrt")


def try_lock(path: Path) -> int | None:
    """Return an open, locked file descriptor, or None while another process holds the lock.

    The lock is given up when the descriptor is closed. Links are not followed: as root we work in directories that
    belong to a lesser account.
    """
    not_followed = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | not_followed, 0o600)
    try:
        if hasattr(system, "flock"):
            system.flock(descriptor, system.LOCK_EX | system.LOCK_NB)
        else:
            system.locking(descriptor, system.LK_NBLCK, 1)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return None
        raise
    return descriptor


@contextmanager
def locked(path: Path, *, timeout_seconds: float = 180) -> Iterator[None]:
    """Hold the lock at `path`, waiting up to `timeout_seconds` for another process to let it go."""
    deadline = time.monotonic() + timeout_seconds
    while (descriptor := try_lock(path)) is None:
        if time.monotonic() > deadline:
            raise ServerError(
                f"another process has held {str(path)!r} for {timeout_seconds:.0f} s; "
                f"find it with `fuser {path}` and end it, or wait"
            )
        time.sleep(0.02)
    try:
        yield
    finally:
        with suppress(OSError):
            os.close(descriptor)
