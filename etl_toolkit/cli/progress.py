"""Progress on stderr: phases, a bar and an estimate on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import Any

from etl_toolkit.loading.run import Event
from etl_toolkit.observe.following import Following, Snapshot, in_one_line, in_time
from etl_toolkit.observe.notices import in_words

PLAIN_INTERVAL_SECONDS = 5.0
FIRST_SIGN_SECONDS = 0.3
REFRESHES_PER_SECOND = 8


class Progress:
    """Follows the events of a load and shows how far it is, from its first moment to its last.

    `quiet` leaves out progress, not what somebody has to see to.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._following = Following()
        self._live: Any = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def __call__(self, event: Event) -> None:
        self._following(event)
        with self._lock:
            if warning := in_words(event):
                self._say(f"warning: {warning}")
            if self._quiet:
                return
            if event.name == "started":
                self._start()
            elif event.name == "planned":
                self._say(f"run {event.run_id}: {self._following.title}")
            elif event.name in ("retry", "fallback", "waiting"):
                self._say(f"{event.name}: " + ", ".join(f"{name} {value}" for name, value in event.facts.items()))
            elif event.name == "finished":
                self._stop()

    def _start(self) -> None:
        self._over.clear()
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(
                get_renderable=lambda: _drawn(self._following.snapshot()), console=Console(stderr=True),
                refresh_per_second=REFRESHES_PER_SECOND, transient=True,
            )  # fmt: skip
            self._live.start()
        elif self._thread is None:
            self._thread = threading.Thread(target=self._say_now_and_then, name="etl-progress", daemon=True)
            self._thread.start()

    def _stop(self) -> None:
        self._over.set()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _say_now_and_then(self) -> None:
        pause = FIRST_SIGN_SECONDS
        while not self._over.wait(pause):
            self._say(in_one_line(self._following.snapshot()))
            pause = PLAIN_INTERVAL_SECONDS

    def _say(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr)


def _drawn(seen: Snapshot) -> Any:
    """A line of phases, a bar, and what each worker is doing."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    phases = Text()
    for phase in seen.phases:
        style = "green" if phase.is_done else "bold cyan" if phase.is_running else "dim"
        mark = "✓" if phase.is_done else f"{phase.share:.0%}" if phase.is_running or phase.share else "·"
        spent = f" {phase.seconds:.1f} s" if phase.seconds >= 0.05 else ""
        phases.append(f"{phase.name} {mark}{spent}", style=style).append("   ")
    total = f" of {seen.rows_total:,}" if seen.rows_total else ""
    words = [f"{seen.share:.0%}", f"{seen.rows:,}{total} rows", f"{seen.rows_per_second:,.0f} rows/s"]
    if seen.eta_seconds is not None:
        words.append(f"about {in_time(seen.eta_seconds)} left")
    row = Table.grid(padding=(0, 1))
    row.add_row(ProgressBar(total=1.0, completed=seen.share, width=30), Text(", ".join(words)))
    lanes = [Text(f"  {worker}: {batch or 'idle'}", style="dim") for worker, batch in seen.lanes]
    return Group(phases, row, *lanes)
