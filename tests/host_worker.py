"""What tests make hosts do: die, stop, or run out of room, once, at a point of a task."""

from __future__ import annotations

import os
import resource
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from etl_toolkit.hosts import here
from etl_toolkit.loading import failpoints


def once(mark: Path, action: Callable[[], None]) -> None:
    """Do it in the first process that comes here."""
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    action()


def kill(process: int | None, number: int = signal.SIGKILL) -> None:
    os.kill(process or os.getpid(), number)


def arm(point: str, mark: Path, process: int | None = None, number: int = signal.SIGKILL) -> None:
    """Let the first process that reaches a point send a signal: to itself, or to another one."""
    failpoints._actions[point] = partial(once, mark, partial(kill, process, number))


def disarm() -> None:
    failpoints._actions.clear()


def begin_armed(point: str, mark: Path, dsn: str, environment: Mapping[str, str]) -> None:
    """Begin a process of `processes:N` that is armed."""
    here.begin_process(dsn, environment)
    arm(point, mark)


def begin_without_room(dsn: str, environment: Mapping[str, str]) -> None:
    """Begin a process whose files are small."""
    here.begin_process(dsn, environment)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def move_in(folder: Path, dsn: str) -> None:
    """Give a worker of Dask a folder of its own, and a server."""
    own = folder / str(os.getpid())
    own.mkdir(exist_ok=True)
    tempfile.tempdir = str(own)
    os.chdir(own)
    os.environ["ETL_DSN"] = dsn


def coordinate(address: str, dsn: str, files: Sequence[Any], exchange: Path, commit: str) -> None:
    """Load into the table `loaded` by the workers of a scheduler, as a process that may be killed."""
    from etl_toolkit import ParallelConfig, ingest

    config = ParallelConfig(exchange=str(exchange), commit=commit)
    ingest(files, "loaded", "id", dsn, executor=address, config=config)
