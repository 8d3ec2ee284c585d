"""Progress of a sweep in a notebook: a bar if someone is watching, otherwise an occasional plain line."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from etl_toolkit.bench.sweep import Progress
from etl_toolkit.observe.card import is_watched

PLAIN_INTERVAL_SECONDS = 10.0


class SweepBar:
    """Follows a sweep: `with SweepBar() as progress: sweep.run(…, on_progress=progress)`."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._done = 0
        self._last_line = time.monotonic()

    def __enter__(self) -> SweepBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, progress: Progress) -> None:
        if not self._done:
            self._start(progress.total)
        self._done += 1
        sample = progress.sample
        outcome = f"{sample.wall_seconds:.2f} s" if sample.correct and sample.wall_seconds else "failed"
        note = f"{sample.strategy} {outcome}"
        if self._bar is not None:
            self._bar.update(1)
            self._bar.set_postfix_str(note)
        elif time.monotonic() - self._last_line > PLAIN_INTERVAL_SECONDS or self._done == progress.total:
            self._last_line = time.monotonic()
            sys.stderr.write(f"{self._done:,} of {progress.total:,} runs, {note}\n")

    def _start(self, total: int) -> None:
        if is_watched():
            from tqdm.auto import tqdm

            self._bar = tqdm(total=total, unit=" runs", desc="sweep")
        else:
            sys.stderr.write("sweep\n")
