"""A load in a process of its own, which can be killed at a point of it; in one of the environments of `environments.py`."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etl_toolkit import ingest
from etl_toolkit.loading import failpoints
from etl_toolkit.plan import lanes
from tests.environments import ENVIRONMENTS

lanes.TINY_BYTES = 0  # as in `conftest`: workers share a load however small it is

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


def move_to_an_environment(*case: object) -> None:
    """Let this process be one that was started elsewhere: always the same place for a case, and another for the next."""
    places = sorted(ENVIRONMENTS)
    os.environ.update(ENVIRONMENTS[places[zlib.crc32(repr(case).encode()) % len(places)]])
    time.tzset()


def load_and_die(
    dsn: str, files: Sequence[Any], key: Sequence[str], options: Mapping[str, Any], point: str, number: int
) -> None:
    """Load into the table `loaded` and kill this process when `point` is reached for the `number`th time."""
    os.environ[MARK] = dsn
    move_to_an_environment(point, number, options.get("strategy"), len(options))
    with failpoints.installed({point: nth(number, kill_me)}):
        ingest(list(files), "loaded", key, dsn, **options)


def load(dsn: str, files: Sequence[Any], key: Sequence[str], options: Mapping[str, Any]) -> None:
    """Load into the table `loaded`."""
    os.environ[MARK] = dsn
    move_to_an_environment(options.get("strategy"), len(options))
    ingest(list(files), "loaded", key, dsn, **options)
