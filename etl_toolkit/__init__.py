"""Conflict-aware parallel bulk upserts into PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etl_toolkit.config import ParallelConfig
    from etl_toolkit.errors import EtlError
    from etl_toolkit.model import ConflictAction, KeyOverlap, LoadResult, Plan, Strategy
    from etl_toolkit.processor import ConflictAwareProcessor, ingest

__version__ = "0.1.0"

__all__ = [
    "ConflictAction",
    "ConflictAwareProcessor",
    "EtlError",
    "KeyOverlap",
    "LoadResult",
    "ParallelConfig",
    "Plan",
    "Strategy",
    "ingest",
]

_HOMES = {
    "ConflictAction": "model",
    "ConflictAwareProcessor": "processor",
    "EtlError": "errors",
    "KeyOverlap": "model",
    "LoadResult": "model",
    "ParallelConfig": "config",
    "Plan": "model",
    "Strategy": "model",
    "ingest": "processor",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `etl-toolkit --help` needs none of them."""
    if name not in _HOMES:
        raise AttributeError(f"module 'etl_toolkit' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"etl_toolkit.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
