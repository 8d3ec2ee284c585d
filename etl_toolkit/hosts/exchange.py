"""The exchange directory: where sorted runs lie between the hosts, and the sign of life of the coordinator.

The coordinator touches a file in it every few seconds and removes the directory at the end. A host that finds this file gone, or
not touched for a minute, gives up what it does for this load: so a task that outlives its coordinator, or that a
scheduler starts again too late, ends by itself and commits nothing more.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from etl_toolkit.errors import SourceError
from etl_toolkit.stopping import Stop

PREFIX = "etl_exchange_"
SIGN = "running"
BEAT_SECONDS = 2.0
PATIENCE_SECONDS = 60.0  # without a sign of life
LEFT_OVER_SECONDS = 3600.0  # a directory without a sign of life for so long belongs to nobody


@dataclass
class Exchange:
    """The directory of one run. `sign` is the file that is touched; tasks that were given an earlier one give up."""

    directory: Path
    sign: str = f"{SIGN}-1"
    _number: int = 1
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def touch(self) -> None:
        with self._lock:  # else a sign that is taken away could come back
            (self.directory / self.sign).touch(exist_ok=True)

    def renew(self) -> None:
        """Let the tasks that run now give up, and those that are to come go on."""
        with self._lock:
            (self.directory / self.sign).unlink(missing_ok=True)
            self._number += 1
            self.sign = f"{SIGN}-{self._number}"
            (self.directory / self.sign).touch()


@contextmanager
def open_exchange(parent: Path, run_id: str) -> Iterator[Exchange]:
    """Make the directory of a run, keep the sign of life in it, and remove it at the end."""
    exchange = Exchange(parent / f"{PREFIX}{run_id}")
    try:
        remove_left_over(parent)
        shutil.rmtree(exchange.directory, ignore_errors=True)  # of an attempt that was killed
        exchange.directory.mkdir(parents=True)
        exchange.touch()
    except OSError as error:
        raise SourceError(
            f"the exchange directory {parent} cannot be written: {error.strerror}; name another with --exchange"
        ) from None
    over = threading.Event()

    def live() -> None:
        while not over.wait(BEAT_SECONDS):
            with suppress(OSError):  # full, or away for a moment
                exchange.touch()

    heart = threading.Thread(target=live, name="etl-exchange", daemon=True)
    heart.start()
    try:
        yield exchange
    finally:
        over.set()
        heart.join()
        shutil.rmtree(exchange.directory, ignore_errors=True)


def remove_left_over(parent: Path) -> None:
    """Remove the directories of coordinators that were killed."""
    for directory in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):
            signs = [directory.stat().st_mtime, *(path.stat().st_mtime for path in directory.glob(f"{SIGN}*"))]
            if time.time() - max(signs) > LEFT_OVER_SECONDS:
                shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def following_coordinator(sign: Path, stop: Stop) -> Iterator[None]:
    """Set `stop` once the coordinator gives no sign of life; and ring, as whoever waits for a load does."""
    over = threading.Event()

    def watch() -> None:
        seen, since, is_over = _sign(sign), time.monotonic(), False
        while not is_over:
            now = _sign(sign)
            if now is None:
                stop.set("the coordinator has given this task up")
            elif now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > PATIENCE_SECONDS:
                stop.set(f"the coordinator has given no sign of life for {PATIENCE_SECONDS:g} s")
            stop.ring()
            is_over = over.wait(0.2)

    watcher = threading.Thread(target=watch, name="etl-follow", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _sign(sign: Path) -> int | None:
    try:
        return sign.stat().st_mtime_ns
    except FileNotFoundError:
        return None
    except OSError:  # the file system is away for a moment
        return 0
