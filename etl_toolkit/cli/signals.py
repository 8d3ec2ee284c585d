"""Ctrl-C and SIGTERM: the first one stops the load cleanly, a second one exits at once."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from etl_toolkit.stopping import CTRL_C, Stop


class Terminated(BaseException):
    """SIGTERM: stop as on Ctrl-C, with a different exit code."""


def terminate(_signum: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


class Interrupt:
    """Ctrl-C in the main thread: remembered, because what it meets may turn KeyboardInterrupt into an error of its own.

    NumPy makes an ImportError of it, DuckDB a RuntimeError, and a callback that nothing may leave prints and drops it.
    """

    is_pressed = False

    def __init__(self) -> None:
        signal.signal(signal.SIGINT, self._press)
        sys.unraisablehook = self._pass_on

    def _press(self, _number: int, _frame: FrameType | None) -> NoReturn:
        self.is_pressed = True
        raise KeyboardInterrupt

    @staticmethod
    def _pass_on(dropped: sys.UnraisableHookArgs) -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            threading.Timer(0.05, _thread.interrupt_main).start()  # once the callback is left
        else:
            sys.__unraisablehook__(dropped)


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
