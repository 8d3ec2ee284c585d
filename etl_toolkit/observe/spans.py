"""OpenTelemetry spans: one for the load, one per batch below it. Needs the `telemetry` extra and a configured SDK."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from etl_toolkit.errors import UsageError
from etl_toolkit.loading.run import Event
from etl_toolkit.model import Counts

_NOTED = ("retry", "fallback", "commit_lost", "waiting", "wait_over", "memory_alert")


class Spans:
    """Turns the events of a run into spans of the tracer `etl_toolkit`.

    Where they go is up to the SDK that the program has set up (OTEL_EXPORTER_OTLP_ENDPOINT and the like). The span of
    the load is a child of the caller's current one. Raises UsageError where OpenTelemetry is not installed.
    """

    def __init__(self, tracer: Any = None) -> None:
        try:
            from opentelemetry import trace
        except ImportError:
            raise UsageError("OpenTelemetry is not installed; pip install 'etl-toolkit[telemetry]'") from None
        self._trace = trace
        self._tracer = tracer or trace.get_tracer("etl_toolkit")
        self._load: Any = None
        self._batches: dict[str, Any] = {}

    def __call__(self, event: Event) -> None:
        if event.name == "started":
            attributes = {
                "db.system.name": "postgresql",
                "db.collection.name": event.facts["table"],
                "etl.run_id": event.run_id,
            }
            self._load = self._tracer.start_span("etl_toolkit.load", attributes=attributes)
        elif self._load is None:
            return
        elif event.name == "planned":
            plan = event.facts["plan"]
            self._load.set_attribute("etl.strategy", str(plan.strategy))
            self._load.set_attribute("etl.workers", plan.workers)
        elif event.name == "batch_started":
            context = self._trace.set_span_in_context(self._load)
            attributes = {"etl.batch": event.facts["batch"]}
            self._batches[event.facts["batch"]] = self._tracer.start_span(
                "etl_toolkit.batch", context, attributes=attributes
            )
        elif event.name == "batch_done":
            self._end(self._batches.pop(event.facts["batch"], None), event.facts)
        elif event.name in _NOTED:
            span = self._batches.get(event.facts.get("batch", ""), self._load)
            span.add_event(event.name, {name: value for name, value in event.facts.items() if _is_attribute(value)})
        elif event.name == "finished":
            self._finish(event)

    def _finish(self, event: Event) -> None:
        failed = event.facts["status"] != "complete"
        for span in [*self._batches.values(), self._load]:
            if failed:
                status = self._trace.Status(
                    self._trace.StatusCode.ERROR, event.facts.get("error", event.facts["status"])
                )
                span.set_status(status)
                if event.facts.get("sqlstate"):
                    span.set_attribute("db.response.status_code", event.facts["sqlstate"])
            self._end(span, event.facts)
        self._batches.clear()
        self._load = None

    def _end(self, span: Any, facts: dict[str, Any]) -> None:
        if span is None:
            return
        counts = facts.get("counts")
        if isinstance(counts, Counts):
            for name, value in asdict(counts).items():
                span.set_attribute(f"etl.rows.{name}", value)
        span.end()


def _is_attribute(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)
