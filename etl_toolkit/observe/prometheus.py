"""Metrics of the last run, as a file for the node exporter's textfile collector."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from etl_toolkit.loading.run import Event
from etl_toolkit.model import Counts

LAST_SUCCESS = "etl_toolkit_last_success_timestamp_seconds"

Metric = tuple[str, str, list[tuple[dict[str, str], float]]]  # name, help, (labels, value)


class PrometheusFile:
    """Writes one `.prom` file when a run finishes, replacing that of the run before.

    Give each scheduled load a file of its own in the collector's directory, and a `job` to know it by. The file appears
    atomically. A failed run keeps the time of the last success, so that "no success for a day" can be detected.
    """

    def __init__(self, path: str | Path, *, job: str = "") -> None:
        self._path = Path(path)
        self._labels = {"job_name": job} if job else {}
        self._seen: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        if event.name == "started":
            self._seen = dict.fromkeys(("bytes", "batches", "retries", "fallbacks", "waits", "memory_alerts"), 0.0)
            self._labels["table"] = str(event.facts["table"])
        elif event.name == "bytes":
            self._seen["bytes"] += event.facts["bytes"]
        elif event.name in _COUNTED:
            self._seen[_COUNTED[event.name]] += 1
        elif event.name == "wait_over":
            self._seen["waits"] += event.facts["seconds"]
        elif event.name == "finished":
            self._write(event)

    def _write(self, event: Event) -> None:
        text = "".join(_rendered(metric) for metric in self._metrics(event))
        descriptor, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=self._path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                os.fchmod(descriptor, 0o644)  # the collector runs as another user
            Path(name).replace(self._path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def _metrics(self, event: Event) -> Iterator[Metric]:
        facts, labels, now = event.facts, self._labels, time.time()
        complete = facts["status"] == "complete"
        yield _gauge("last_run_success", "1 if the last run completed, otherwise 0.", labels, float(complete))
        yield _gauge("last_run_timestamp_seconds", "When the last run ended.", labels, now)
        succeeded = now if complete else last_success(self._path)
        if succeeded is not None:
            yield _gauge("last_success_timestamp_seconds", "When a run last completed.", labels, succeeded)
        yield _gauge("last_run_duration_seconds", "How long the last run took.", labels, facts["seconds"])
        counts = facts.get("counts")
        if isinstance(counts, Counts):
            rows = [(labels | {"outcome": name}, float(value)) for name, value in asdict(counts).items()]
            yield "etl_toolkit_last_run_rows", "Rows of the last run; `read` is the sum of the others.", rows
        for name, what in _SEEN.items():
            yield _gauge(f"last_run_{name}", what, labels, self._seen.get(name.split("_")[0], 0.0))
        alerts = self._seen.get("memory_alerts", 0.0)
        yield _gauge(
            "last_run_memory_alerts", "How often memory use rose above the threshold in the last run.", labels, alerts
        )
        for name, label, what in _TABLES:
            values: Mapping[str, float] = facts.get(f"{label}s") or {}
            if values:
                yield (
                    f"etl_toolkit_{name}",
                    what,
                    [(labels | {label: key}, float(value)) for key, value in values.items()],
                )


_COUNTED = {"batch_done": "batches", "retry": "retries", "fallback": "fallbacks", "memory_alert": "memory_alerts"}
_SEEN = {
    "bytes": "Bytes that the last run sent to COPY.",
    "batches": "Batches that the last run committed.",
    "retries": "Repeated batches of the last run.",
    "fallbacks": "How often the last run fell back from COPY to an upsert.",
    "waits_seconds": "Seconds that sessions of the last run waited for locks.",
}


_TABLES = (
    ("last_run_phase_seconds", "phase", "Seconds per phase, summed over the workers."),
    ("last_run_resource", "resource", "What the last run used, by name: bytes, seconds or a ratio."),
)


def last_success(path: Path) -> float | None:
    """Return the time of the last success that the file at `path` tells, None where there is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(rf"^{LAST_SUCCESS}\{{.*\}} (\S+)$", text, re.MULTILINE)
    return float(found.group(1)) if found else None


def _gauge(name: str, what: str, labels: dict[str, str], value: float) -> Metric:
    return f"etl_toolkit_{name}", what, [(labels, value)]


def _rendered(metric: Metric) -> str:
    name, what, samples = metric
    lines = [f"# HELP {name} {what}", f"# TYPE {name} gauge"]
    for labels, value in samples:
        inner = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        lines.append(f"{name}{{{inner}}} {value!r}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
