"""A structured log: one JSON object a line, fit for journald, Loki, CloudWatch and `jq`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, TextIO

from etl_toolkit.loading.run import Event
from etl_toolkit.model import Counts, Plan

WARNINGS = frozenset(
    {
        "retry",
        "fallback",
        "commit_lost",
        "leftovers",
        "waiting",
        "memory_alert",
        "plain_text",
        "ignored",
        "loaded_before",
    }
)
MANY = frozenset({"bytes", "looked", "phase_started", "phase_done"})
_VALUE = re.compile(r'"[^"]*"')


class JsonLog:
    """Writes an event as a line: `time` (UTC), `level`, `event`, `run`, and the facts of the event.

    Events that only progress is made of are left out (`MANY`). PostgreSQL quotes the value it cannot read in its message
    (`invalid input syntax for type integer: "x"`); such values are row data, so text in quotes is shown as `"…"`. The
    rejects table has it in full.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: Event) -> None:
        if event.name in MANY:
            return
        head = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "level": _level(event),
            "event": event.name,
            "run": event.run_id,
        }
        facts = {name: _plain(name, value) for name, value in event.facts.items() if name not in head}
        self._stream.write(json.dumps(head | facts, ensure_ascii=False, default=str) + "\n")
        self._stream.flush()


def _level(event: Event) -> str:
    if event.name == "finished" and event.facts.get("status") != "complete":
        return "error"
    return "warning" if event.name in WARNINGS else "info"


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Plan):
        return {
            "strategy": str(value.strategy),
            "reasons": list(value.reasons),
            "workers": value.workers,
            "batches": len(value.batches),
            "key_path": value.key_path,
            "overlap_ratio": value.overlap.overlap_ratio if value.overlap else None,
        }
    if isinstance(value, Counts):
        return asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain("", item) for key, item in value.items()}
    if isinstance(value, float):
        return round(value, 3)
    return without_values(value) if name == "message" else value


def without_values(message: str) -> str:
    """Return `message` without the text in double quotes."""
    return _VALUE.sub('"…"', message)
