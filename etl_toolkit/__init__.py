"""Conflict-aware parallel bulk upserts into PostgreSQL."""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers know it; importing `typing` takes most of the time that this takes
if TYPE_CHECKING:
    from typing import Any

    from etl_toolkit.config import ParallelConfig
    from etl_toolkit.errors import EtlError, StoppedError
    from etl_toolkit.feed import Feed
    from etl_toolkit.history import check_production, explain_row, files, forget, rejects, runs
    from etl_toolkit.lab import workbench
    from etl_toolkit.model import (
        ConflictAction,
        Delete,
        KeyOverlap,
        LoadResult,
        Plan,
        ReadOptions,
        Strategy,
        WriteOptions,
    )
    from etl_toolkit.nightly import run_feeds
    from etl_toolkit.processor import ConflictAwareProcessor, ingest
    from etl_toolkit.stopping import Stop

__version__ = "0.1.0"

__all__ = [
    "ConflictAction",
    "ConflictAwareProcessor",
    "Delete",
    "EtlError",
    "Feed",
    "KeyOverlap",
    "LoadResult",
    "ParallelConfig",
    "Plan",
    "ReadOptions",
    "Stop",
    "StoppedError",
    "Strategy",
    "WriteOptions",
    "check_production",
    "explain_row",
    "files",
    "forget",
    "ingest",
    "rejects",
    "run_feeds",
    "runs",
    "workbench",
]

_HOMES = {
    "ConflictAction": "model",
    "ConflictAwareProcessor": "processor",
    "Delete": "model",
    "EtlError": "errors",
    "Feed": "feed",
    "KeyOverlap": "model",
    "LoadResult": "model",
    "ParallelConfig": "config",
    "Plan": "model",
    "ReadOptions": "model",
    "Stop": "stopping",
    "StoppedError": "errors",
    "Strategy": "model",
    "WriteOptions": "model",
    "check_production": "history",
    "explain_row": "history",
    "files": "history",
    "forget": "history",
    "ingest": "processor",
    "rejects": "history",
    "run_feeds": "nightly",
    "runs": "history",
    "workbench": "lab",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `etl-toolkit --help` needs none of them."""
    if name not in _HOMES:
        raise AttributeError(f"module 'etl_toolkit' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"etl_toolkit.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
