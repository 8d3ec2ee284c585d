"""A load in a process of its own, which can be killed at a point of it."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etl_toolkit import ingest
from etl_toolkit.loading import failpoints

MARK = "ETL_TEST_FAULT_WORKER"  # in the environment of whatever a load starts


def nth(number: int, action: Callable[[], None]) -> Callable[[], None]:
    """Do it when the point is reached for the `number`th time, by whichever thread."""
    count = itertools.count(1)
    lock = threading.Lock()

    def act() -> None:
        with lock:
            is_now = next(count) == number
        if is_now:
            action()

    return act


def kill_me() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def load_and_die(
    dsn: str, files: Sequence[Any], key: Sequence[str], options: Mapping[str, Any], point: str, number: int
) -> None:
    """Load into the table `loaded` and kill this process when `point` is reached for the `number`th time."""
    os.environ[MARK] = dsn
    with failpoints.installed({point: nth(number, kill_me)}):
        ingest(list(files), "loaded", key, dsn, **options)


def load(dsn: str, files: Sequence[Any], key: Sequence[str], options: Mapping[str, Any]) -> None:
    """Load into the table `loaded`."""
    os.environ[MARK] = dsn
    ingest(list(files), "loaded", key, dsn, **options)
