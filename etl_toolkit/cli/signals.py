"""Ctrl-C and SIGTERM: the first one stops the load cleanly, a second one exits at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from etl_toolkit.stopping import CTRL_C, Stop


class Terminated(BaseException):
    """SIGTERM: stop as on Ctrl-C, with a different exit code."""


def terminate(_signum: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


@contextmanager
def stopped_by_signals() -> Iterator[Stop]:
    """A token that a signal sets. A load that is complete by then ends as if there had been none."""
    stop = Stop()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            (signal.default_int_handler if number == signal.SIGINT else terminate)(number, frame)
        stop.set(CTRL_C if number == signal.SIGINT else "SIGTERM")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
