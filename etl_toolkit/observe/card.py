"""A load in a notebook: a card with phases and a lane per worker, which becomes the outcome in place.

Its Stop button and the notebook's ■ stop the load at once. Where nobody watches (papermill, nbconvert), only the outcome
is shown, as static HTML.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from html import escape
from types import TracebackType
from typing import Any

from etl_toolkit.errors import in_python_words
from etl_toolkit.loading.run import Event
from etl_toolkit.observe.following import Following, Snapshot, in_time
from etl_toolkit.observe.live import LiveHtml, LiveWidget, open_live
from etl_toolkit.observe.notices import in_words
from etl_toolkit.stopping import Stop
from etl_toolkit.tables import spell_count

REFRESH_SECONDS = 0.25
_GOOD, _BUSY, _BAD, _FAINT = "#2e7d32", "#1565c0", "#c62828", "color-mix(in srgb, currentColor 15%, transparent)"


def is_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    return _kernel() is not None


def is_watched() -> bool:
    """Whether a person sees the output as it comes: JupyterLab lets a cell ask for input, papermill and nbconvert do not."""
    kernel = _kernel()
    if kernel is None:
        return False
    return bool(kernel.get_parent("shell").get("content", {}).get("allow_stdin", False))


def _kernel() -> Any:
    if "IPython" not in sys.modules:  # a kernel has imported it; to do so here would take as long as a small load
        return None
    from IPython.core.getipython import get_ipython

    return getattr(get_ipython(), "kernel", None)


@contextmanager
def card_if_wanted(stop: Stop, *, progress: bool | None) -> Iterator[Card | None]:
    """The card of a load; None where there is none: not in a notebook, or not wanted (`progress`; None: in a notebook).

    Its button sets `stop`.
    """
    if progress is False or not is_notebook():
        yield None
        return
    with Card(stop) as card:
        yield card


class Card:
    """Follows the events of one load; `box`, if there is one, is the widget that shows it, instead of the cell's output."""

    def __init__(self, stop: Stop, *, in_box: bool = False) -> None:
        self._press = partial(stop.set, "the Stop button")
        self._way = "Stop" if in_box else "■ (interrupt the kernel)"
        self._following = Following()
        self._notices: list[str] = []
        self._facts: dict[str, Any] = {}
        self._over = threading.Event()
        self._live: LiveHtml | LiveWidget | None = None
        if in_box:
            self._live = LiveWidget(self._html(), "Stop", self._press)
            self.box = self._live.box
        self._thread = threading.Thread(target=self._refresh, name="etl-card", daemon=True)

    def __enter__(self) -> Card:
        if self._live is None and is_watched():
            self._live = open_live(self._html(), "Stop", self._press, _kernel())
        if self._live is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._live is None:
            from IPython.display import HTML, display

            display(HTML(self._html()))  # type: ignore[no-untyped-call]
            return
        self._thread.join(2 * REFRESH_SECONDS)
        self._live.settle(self._html())

    def __call__(self, event: Event) -> None:
        self._following(event)
        if notice := in_words(event):
            self._notices.append(notice)
        if event.name == "finished":
            self._facts = dict(event.facts)

    def _refresh(self) -> None:
        while self._live is not None and not self._over.wait(REFRESH_SECONDS):
            self._live.show(self._html())

    def _html(self) -> str:
        return card_html(self._following.snapshot(), self._facts, self._notices, self._way)


def card_html(seen: Snapshot, facts: dict[str, Any], notices: list[str], way_to_stop: str = "Stop") -> str:
    """The card at a moment; `facts` are those of the event `finished`, empty before."""
    notes = "".join(f'<div style="color:{_BAD}">{escape(note)}</div>' for note in notices)
    phases = "".join(_phase_html(phase.name, phase.share, phase.seconds, seen.status) for phase in seen.phases)
    color = {"running": _BUSY, "complete": _GOOD}.get(seen.status, _BAD)
    return (
        '<div style="font-family:var(--jp-ui-font-family,sans-serif);font-size:13px;line-height:1.5;max-width:720px;'
        f'border:1px solid {_FAINT};border-left:4px solid {color};border-radius:4px;padding:8px 12px;margin:4px 0">'
        f"<div><b>{escape(_headline(seen, facts))}</b></div>"
        f'<div style="display:flex;gap:6px;margin:6px 0">{phases}</div>'
        f"<div>{escape(_line(seen, facts))}</div>{_lanes_html(seen, way_to_stop)}{notes}</div>"
    )


def _headline(seen: Snapshot, facts: dict[str, Any]) -> str:
    if seen.status == "running":
        return f"Loading into {seen.table}" + (f": {seen.title}" if seen.title else "")
    if seen.status == "complete":
        return f"Loaded into {facts['table']}: {spell_count(facts['counts'].read, 'row')} read, {facts['counts'].written:,} written"
    return f"The load into {seen.table} {'was stopped' if seen.status == 'interrupted' else 'failed'}"


def _line(seen: Snapshot, facts: dict[str, Any]) -> str:
    if seen.status == "complete":
        counts = facts["counts"]
        kinds = ("inserted", "updated", "unchanged", "rejected")
        parts = [f"{getattr(counts, kind):,} {kind}" for kind in kinds if getattr(counts, kind)]
        speed = f"{counts.read / max(facts['seconds'], 1e-9):,.0f} rows/s"
        return ", ".join([*parts, f"in {in_time(facts['seconds'])}", speed])
    if seen.status != "running":
        return in_python_words(str(facts.get("message", "")))
    total = f" of {seen.rows_total:,}" if seen.rows_total else ""
    parts = [f"{seen.share:.0%}", in_time(seen.elapsed_seconds)]
    parts += [f"{seen.rows:,}{total} rows", f"{seen.rows_per_second:,.0f} rows/s"] if seen.rows else []
    parts += [f"about {in_time(seen.eta_seconds)} left"] if seen.eta_seconds is not None else []
    return ", ".join(parts)


def _phase_html(name: str, share: float, seconds: float, status: str) -> str:
    color = _GOOD if share >= 1 else _BUSY if status == "running" else _BAD
    return (
        f'<div style="flex:1"><div style="height:6px;border-radius:3px;background:{_FAINT}">'
        f'<div style="height:6px;border-radius:3px;width:{share:.0%};background:{color}"></div></div>'
        f'<div style="font-size:11px">{name}{f" {in_time(seconds)}" if seconds >= 0.05 else ""}</div></div>'
    )


def _lanes_html(seen: Snapshot, way_to_stop: str) -> str:
    if seen.status != "running":
        return ""
    return _faint(f"{way_to_stop} ends it; what is not committed is rolled back") + "".join(
        f'<div style="font-size:11px;opacity:.75">{escape(worker)}: {escape(batch or "idle")}</div>'
        for worker, batch in seen.lanes
    )


def _faint(text: str) -> str:
    return f'<div style="font-size:11px;opacity:.75">{escape(text)}</div>'
