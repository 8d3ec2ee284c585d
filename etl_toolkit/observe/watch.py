"""The watch over one load: a thread that looks once a second who blocks whom, how much memory is left, what is used."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Any

from etl_toolkit.loading.run import Event
from etl_toolkit.loading.session import Sessions
from etl_toolkit.observe.blockers import BlockerWatch
from etl_toolkit.observe.processes import postmaster_pid
from etl_toolkit.observe.telling import Sink
from etl_toolkit.observe.usage import MemoryAlarm, UsageSampler

INTERVAL_SECONDS = 1.0
FIRST_LOOK_SECONDS = 0.3  # so that a short load has its memory looked at while it runs
LARGEST_CPU_SHARE = 0.01  # samples are spread out so that they take no more of a core than this

log = logging.getLogger("etl_toolkit")


class Watch:
    """Watches a load for the length of a block. A watch that fails says so in the log and ends; the load goes on.

    Its own database session opens after the first second, so a short load pays nothing for it; with
    `performance_monitoring` it opens at once, to find the server's processes.
    """

    def __init__(self, sessions: Sessions, tell: Sink, *, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._sessions = sessions
        self._tell = tell
        self._interval_seconds = interval_seconds
        self._started = time.monotonic()
        self._over = threading.Event()
        self._connection: Any = None
        self._blockers: BlockerWatch | None = None
        self._alarm = MemoryAlarm(sessions.config.memory_alert_ratio, self._say)
        self._usage = UsageSampler() if sessions.config.performance_monitoring else None
        self._thread = threading.Thread(target=self._watch, name="etl-watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def resources(self) -> dict[str, float]:
        """End the watch; return peaks and sums: memory, CPU, seconds that sessions waited for locks."""
        self._stop()
        found = self._usage.summary() if self._usage else {}
        if self.memory_peak_ratio is not None:
            found["memory_peak_ratio"] = self.memory_peak_ratio
        if self._blockers:
            found["lock_wait_seconds"] = self._blockers.waited_seconds
        return found

    @property
    def seconds(self) -> float:
        """How long the load has taken so far."""
        return time.monotonic() - self._started

    @property
    def memory_peak_ratio(self) -> float | None:
        """The largest share of the memory limit seen in use so far, by whomever; None before the first look."""
        return self._alarm.peak_ratio

    def _stop(self) -> None:
        self._over.set()
        self._thread.join(timeout=10)

    def _say(self, name: str, **facts: Any) -> None:
        self._tell(Event(name, facts, self._sessions.run_id))

    def _watch(self) -> None:
        try:
            self._alarm.look()
            if self._usage:
                self._connect()
                self._usage.sample(with_memory=False)
            pause = FIRST_LOOK_SECONDS if self._usage else self._interval_seconds
            while not self._over.wait(pause):
                if self._connection is None:
                    self._connect()
                pause = self._look(self._blockers)
            if self._usage:
                self._usage.sample(with_memory=not self._usage.has_memory)
        except Exception as error:  # whatever goes wrong here, the load goes on
            log.warning("monitoring of run %s has ended: %s", self._sessions.run_id, type(error).__name__)
        finally:
            if self._blockers:
                self._blockers.close()
            if self._connection is not None:
                self._sessions.close(self._connection)

    def _connect(self) -> None:
        self._connection = self._sessions.connect("watch", waits=False)
        self._connection.autocommit = True
        self._blockers = BlockerWatch(self._connection, f"etl_toolkit {self._sessions.run_id} ", self._say)
        if self._usage:
            self._usage.postmaster = postmaster_pid(self._connection)

    def _look(self, blockers: BlockerWatch | None) -> float:
        self._alarm.look()
        if blockers:
            blockers.look()
        if self._usage is None:
            return self._interval_seconds
        self._usage.sample()
        return max(self._interval_seconds, self._usage.cost_seconds / LARGEST_CPU_SHARE)
