"""Passes events to listeners, and reports the beginning and the end of a load."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from etl_toolkit.errors import StoppedError
from etl_toolkit.loading.run import Event
from etl_toolkit.model import LoadResult, LoadSpec

Sink = Callable[[Event], None]

log = logging.getLogger("etl_toolkit")


def fan_out(*sinks: Sink) -> Sink:
    """Return a sink that hands every event to all of `sinks`, one event at a time.

    A sink that raises is warned about and left out until the next run: a log on a full disk must not stop a load.
    """
    live = list(sinks)
    lock = threading.RLock()  # a sink may cause an event itself

    def tell(event: Event) -> None:
        with lock:
            if event.name == "started":
                live[:] = sinks
            for sink in tuple(live):
                try:
                    sink(event)
                except Exception as error:  # whatever a sink does, the load goes on
                    live.remove(sink)
                    log.warning("%s is off for the rest of the run: %s", _name(sink), type(error).__name__)

    return tell


def report_load(tell: Sink, run_id: str, spec: LoadSpec, load: Callable[[], LoadResult]) -> LoadResult:
    """Call `load`; tell when it starts, and with which outcome it finishes."""
    began = time.perf_counter()
    tell(Event("started", {"table": spec.table, "strategy": str(spec.strategy)}, run_id))
    try:
        result = load()
    except BaseException as error:
        tell(Event("finished", _failure(error) | {"seconds": time.perf_counter() - began}, run_id))
        raise
    facts = {
        "status": "complete" if result else "failed",
        "table": result.table,
        "strategy": str(result.strategy),
        "counts": result.counts,
        "seconds": time.perf_counter() - began,
        "retries": result.retries,
        "phases": result.phases,
        "resources": result.resources,
    }
    tell(Event("finished", facts, run_id))
    return result


def _failure(error: BaseException) -> dict[str, Any]:
    interrupted = not isinstance(error, Exception) or isinstance(error, StoppedError)
    return {
        "status": "interrupted" if interrupted else "failed",
        "error": type(error).__name__,
        "message": str(error),
        "sqlstate": getattr(error, "sqlstate", None) or getattr(error, "pgcode", None),
    }


def _name(sink: Sink) -> str:
    return getattr(sink, "__qualname__", type(sink).__name__)
