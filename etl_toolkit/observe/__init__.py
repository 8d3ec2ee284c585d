"""What can be observed of a load: logs, metrics, spans, memory alerts, lock waits.

Everything is produced from the events of a load (`Event` in `loading.run`). A failure of telemetry never fails a load.

| event | facts |
|---|---|
| `started` | table, strategy asked for |
| `planned` | plan, bytes, whether row triggers fire |
| `phase_started`, `phase_done` | phase (as in `LoadResult.phases`); seconds; many of them |
| `looked` | bytes of the files looked at since, of all files; many of them |
| `sorted` | files, rows, bytes, seconds, worker: a host has sorted a file, or several small ones |
| `batch_started`, `batch_done` | batch, worker, files; rows, counts, seconds |
| `retry` | batch, attempt, SQLSTATE, reason |
| `fallback`, `commit_lost`, `leftovers` | batch; number of staging tables left |
| `bytes` | bytes and rows that went to COPY; many of them |
| `waiting`, `wait_over` | session, seconds, what it waits for, who blocks it |
| `loaded_before` | file, run, when; newer runs and how many rows they wrote; message |
| `ignored` | variables of the environment that libpq would have sent to the server |
| `plain_text` | the remote host to which the connection is not encrypted |
| `memory_alert` | bytes in use, limit, share, whose limit |
| `finished` | status, counts, seconds, retries, phases, resources; error, SQLSTATE |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etl_toolkit.observe.card import Card, card_if_wanted
    from etl_toolkit.observe.jsonlog import JsonLog
    from etl_toolkit.observe.prometheus import PrometheusFile
    from etl_toolkit.observe.spans import Spans
    from etl_toolkit.observe.telling import fan_out, report_load
    from etl_toolkit.observe.watch import Watch

__all__ = ["Card", "JsonLog", "PrometheusFile", "Spans", "Watch", "card_if_wanted", "fan_out", "report_load"]

_HOMES = {
    "Card": "card",
    "JsonLog": "jsonlog",
    "PrometheusFile": "prometheus",
    "Spans": "spans",
    "Watch": "watch",
    "card_if_wanted": "card",
    "fan_out": "telling",
    "report_load": "telling",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: the monitor's process needs `processes` alone, and none of the load."""
    if name not in _HOMES:
        raise AttributeError(f"module 'etl_toolkit.observe' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"etl_toolkit.observe.{_HOMES[name]}"), name)
