"""Progress on stderr: phases, a bar and an estimate on a terminal, a plain line now and then elsewhere.

It begins before the modules of a load are imported, which takes longer than a person waits for a first sign; none of them is
imported here.
"""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any

from etl_toolkit.observe.following import Following, Snapshot, in_one_line
from etl_toolkit.observe.notices import in_words

if TYPE_CHECKING:
    from etl_toolkit.loading.run import Event

PLAIN_INTERVAL_SECONDS = 5.0
REFRESHES_PER_SECOND = 8


class Progress:
    """Follows the events of a load and shows how far it is, from entering the context to the end of the load.

    `quiet` leaves out progress, not what somebody has to see to.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._following = Following()
        self._live: Any = None
        self._over = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> Progress:
        if not self._quiet:
            self._start()
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
            if event.name == "planned":
                self._say(f"run {event.run_id}: {self._following.title}")
            elif event.name in ("retry", "fallback", "waiting"):
                self._say(f"{event.name}: " + ", ".join(f"{name} {value}" for name, value in event.facts.items()))
            elif event.name == "finished":
                self._stop()

    def _start(self) -> None:
        if not sys.stderr.isatty():
            self._say(in_one_line(self._following.snapshot()))
            threading.Thread(target=self._say_now_and_then, name="etl-progress", daemon=True).start()
            return
        from rich.console import Console
        from rich.live import Live

        self._live = Live(
            get_renderable=lambda: _drawn(self._following.snapshot()), console=Console(stderr=True),
            refresh_per_second=REFRESHES_PER_SECOND, transient=True,
        )  # fmt: skip
        self._live.start(refresh=True)

    def _stop(self) -> None:
        self._over.set()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _say_now_and_then(self) -> None:
        while not self._over.wait(PLAIN_INTERVAL_SECONDS):
            self._say(in_one_line(self._following.snapshot()))

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
    row = Table.grid(padding=(0, 1))
    row.add_row(ProgressBar(total=1.0, completed=seen.share, width=30), Text(in_one_line(seen)))
    lanes = [Text(f"  {worker}: {batch or 'idle'}", style="dim") for worker, batch in seen.lanes]
    return Group(phases, row, *lanes)
