"""Progress of a load or a sweep in a notebook: a bar if someone is watching, otherwise an occasional plain line."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Any

from etl_toolkit.bench.sweep import Progress as SweepProgress
from etl_toolkit.loading.run import Event

PLAIN_INTERVAL_SECONDS = 10.0


def is_watched() -> bool:
    """Whether a person sees the output as it comes: a terminal, or a kernel whose client would answer a question.

    JupyterLab lets a cell ask for input, papermill and nbconvert do not.
    """
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return sys.stderr.isatty()
    shell = get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return sys.stderr.isatty()
    request = shell.kernel.get_parent("shell")
    return bool(request.get("content", {}).get("allow_stdin", False))


class Bar:
    """A tqdm bar when it is watched, else plain lines. Use as a context manager."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._lock = threading.Lock()
        self._bar: Any = None
        self._done = 0
        self._total: int | None = None
        self._last_line = time.monotonic()
        self._is_watched = is_watched()

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def start(self, total: int | None, what: str) -> None:
        """Begin to count to `total`; None when it is not known."""
        self._total = total
        if self._is_watched:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=total, unit=f" {self._unit}", desc=what)
        else:
            self.say(what)

    def advance(self, count: int, note: str = "") -> None:
        """Count on; may be called from several threads."""
        with self._lock:
            self._done += count
            if self._bar is not None:
                self._bar.update(count)
                if note:
                    self._bar.set_postfix_str(note)
            elif time.monotonic() - self._last_line > PLAIN_INTERVAL_SECONDS:
                self._last_line = time.monotonic()
                total = f" of {self._total:,}" if self._total else ""
                self.say(f"{self._done:,}{total} {self._unit}{f', {note}' if note else ''}")

    def say(self, text: str) -> None:
        """Say something on a line of its own."""
        if self._bar is not None:
            self._bar.write(text)
        else:
            sys.stderr.write(text + "\n")


class LoadProgress(Bar):
    """Follows the events of one load after the other: `ingest(…, on_event=progress)`."""

    def __init__(self) -> None:
        super().__init__("rows")

    def __call__(self, event: Event) -> None:
        if event.name == "planned":
            plan = event.facts["plan"]
            total = None
            if plan.overlap is not None:
                total = plan.overlap.distinct_keys if plan.strategy == "partitioned" else plan.overlap.rows
            if self._bar is not None:
                self._bar.close()
            self._done = 0
            self.start(total, f"{plan.strategy}: {len(plan.batches)} batches, {plan.workers} workers")
        elif event.name == "bytes":
            self.advance(int(event.facts.get("rows", 0)))
        elif event.name in ("retry", "fallback", "waiting"):
            self.say(f"{event.name}: " + ", ".join(f"{name} {value}" for name, value in event.facts.items()))


class SweepBar(Bar):
    """Follows a sweep: `sweep.run(…, on_progress=progress)`."""

    def __init__(self) -> None:
        super().__init__("runs")

    def __call__(self, progress: SweepProgress) -> None:
        if self._total is None:
            self.start(progress.total, "sweep")
        sample = progress.sample
        outcome = f"{sample.wall_seconds:.2f} s" if sample.correct and sample.wall_seconds else "failed"
        self.advance(1, f"{sample.strategy} {outcome}")
