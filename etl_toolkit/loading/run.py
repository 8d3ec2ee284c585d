"""A load in progress: its input, its sessions, its clock, and the flag that stops it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from etl_toolkit.config import ParallelConfig
from etl_toolkit.errors import StoppedError
from etl_toolkit.loading.failpoints import reach
from etl_toolkit.loading.session import Sessions
from etl_toolkit.model import Layout, LoadSpec, Plan, Reject, SourceFile, TargetTable
from etl_toolkit.scan import KeyScan
from etl_toolkit.stopping import Stop
from etl_toolkit.workspace import Workspace


@dataclass(frozen=True)
class Event:
    """Something that happened in a load, for progress and logs: a name, its facts, and the run it belongs to."""

    name: str
    facts: dict[str, Any]
    run_id: str = ""


class Phases:
    """Seconds per phase, summed over all workers; an event reports when each phase begins and ends."""

    def __init__(self, notify: Callable[[Event], None] = lambda _event: None, run_id: str = "") -> None:
        self._notify = notify
        self._run_id = run_id
        self._seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        self.tell("phase_started", phase=name)
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            with self._lock:
                self._seconds[name] = self._seconds.get(name, 0.0) + seconds
            self.tell("phase_done", phase=name, seconds=seconds)

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add seconds that were spent elsewhere."""
        with self._lock:
            for name, spent in seconds.items():
                self._seconds[name] = self._seconds.get(name, 0.0) + spent

    def tell(self, name: str, **facts: Any) -> None:
        self._notify(Event(name, facts, self._run_id))

    def as_dict(self) -> dict[str, float]:
        with self._lock:
            return dict(self._seconds)


@dataclass
class Run:
    """Everything a strategy needs. Shared by the workers; `refused` and `retries` change under the lock.

    `stop` is the caller's to set, `failed` is set where one worker's failure stops the others.
    """

    run_id: str
    spec: LoadSpec
    config: ParallelConfig
    target: TargetTable
    files: tuple[SourceFile, ...]
    plan: Plan
    layout: Layout | None
    scan: KeyScan | None
    workspace: Workspace
    sessions: Sessions
    phases: Phases
    notify: Callable[[Event], None]
    stop: Stop = field(default_factory=Stop)
    failed: threading.Event = field(default_factory=threading.Event)
    refused: dict[int, tuple[Reject, ...]] = field(default_factory=dict)
    bounds: list[str] | None = None
    is_compared: bool = False  # the winners with the rows of the table: `unequal` (see `compare`) is there
    keys_met: threading.Event = field(default_factory=threading.Event)  # a COPY into the table met a key that is there
    horizon: str | None = None  # set where lanes load side by side: see `tripwire`
    retries: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    _sent: dict[int, int] = field(default_factory=dict)  # rows that went to COPY and were not taken back, by thread

    def tell(self, name: str, **facts: Any) -> None:
        self.notify(Event(name, facts, self.run_id))

    def file(self, position: int) -> SourceFile:
        return self._file_at[position]

    @property
    def scanned(self) -> KeyScan:
        """The scan, of a run that cannot do without."""
        assert self.scan is not None
        return self.scan

    @property
    def record_layout(self) -> Layout:
        """The layout of the records of all files, of a run that sends them together."""
        assert self.layout is not None
        return self.layout

    @cached_property
    def _file_at(self) -> Mapping[int, SourceFile]:
        return {file.position: file for file in self.files}

    @property
    def is_stopped(self) -> bool:
        return self.stop.is_set() or self.failed.is_set()

    def check(self) -> None:
        """Raise StoppedError where the load is being stopped, by its caller or because another worker has failed."""
        self.stop.check()
        if self.failed.is_set():
            raise StoppedError("another worker has failed")

    def sleep(self, seconds: float) -> None:
        """Wait before another attempt. Raises StoppedError as soon as the load is being stopped."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.stop.sleep(min(left, 0.1))
            self.check()

    def on_bytes(self, size: int, rows: int) -> None:
        """Called for every block that goes to COPY; one of the places where a stopped load is noticed."""
        self.check()
        reach("copying")
        thread = threading.get_ident()
        self._sent[thread] = self._sent.get(thread, 0) + rows
        self.notify(Event("bytes", {"bytes": size, "rows": rows}, self.run_id))

    def rows_sent(self, thread: int | None = None) -> int:
        """The rows that a thread, this one unless named, has sent to COPY, but for those that were taken back."""
        return self._sent.get(thread or threading.get_ident(), 0)

    def take_back(self, since: int, *, thread: int | None = None) -> None:
        """Count the rows that a thread has sent `since` as not sent: their work is undone and repeated."""
        if undone := self.rows_sent(thread) - since:
            self._sent[thread or threading.get_ident()] = since
            self.notify(Event("bytes", {"bytes": 0, "rows": -undone}, self.run_id))

    def take_all_back(self) -> None:
        """Count the rows that all threads have sent as not sent: the load starts again."""
        if undone := sum(self._sent.values()):
            self._sent.clear()
            self.notify(Event("bytes", {"bytes": 0, "rows": -undone}, self.run_id))

    def note_rejects(self, found: tuple[Reject, ...]) -> None:
        """Remember the rejects of a file; the same record is only ever counted once."""
        with self.lock:
            for reject in found:
                known = self.refused.get(reject.file, ())
                if all(reject.record != other.record for other in known):
                    self.refused[reject.file] = (*known, reject)

    def reject_count(self) -> int:
        with self.lock:
            return sum(len(rejects) for rejects in self.refused.values())
