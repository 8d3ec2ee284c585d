"""CPU and memory of a load while it runs: of this process and, where it is on this machine, of the server.

The share of the memory limit in use costs next to nothing to read, so it is looked at in every load; the memory of each
process is not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from etl_toolkit.memory import memory_state
from etl_toolkit.observe.processes import pss_bytes, snapshot, tree_members


@dataclass
class MemoryAlarm:
    """Looks, when asked, how much of the memory limit is in use.

    `tell` gets a `memory_alert` when the share goes above `alert_ratio`, and again only after it was below.
    """

    alert_ratio: float
    tell: Callable[..., None]
    peak_ratio: float | None = None
    _is_on: bool = False

    def look(self) -> None:
        """Look once."""
        state = memory_state()
        self.peak_ratio = max(self.peak_ratio or 0.0, state.ratio)
        was_on, self._is_on = self._is_on, state.ratio > self.alert_ratio
        if self._is_on and not was_on:
            self.tell(
                "memory_alert",
                used_bytes=state.used_bytes,
                limit_bytes=state.limit_bytes,
                ratio=round(state.ratio, 3),
                of=state.of,
            )


@dataclass
class UsageSampler:
    """Samples when asked; `summary` says what was seen. What cannot be known is left out, never zero.

    `postmaster` is the server's first process, None where the server is elsewhere.
    """

    postmaster: int | None = None
    cost_seconds: float = 0.0
    _samples: int = 0
    _spent_seconds: float = 0.0
    _first: dict[str, float] = field(default_factory=dict)
    _peaks: dict[str, float] = field(default_factory=dict)
    _last: dict[str, float] = field(default_factory=dict)

    def sample(self, *, with_memory: bool = True) -> None:
        """Take one sample and note what it cost; most of that is for the memory of each process."""
        began = time.thread_time()
        processes = snapshot()
        roots = {"client": os.getpid()} | ({"server": self.postmaster} if self.postmaster else {})
        for side, root in roots.items():
            if root not in processes:
                continue
            members = tree_members(root, processes)
            self._last[side] = sum(processes[member][1] for member in members)
            self._first.setdefault(side, self._last[side])
            known = [size for size in map(pss_bytes, members) if size is not None] if with_memory else []
            if known:
                name = f"{side}_peak_pss_bytes"
                self._peaks[name] = max(self._peaks.get(name, 0.0), sum(known))
        self._samples += 1
        self.cost_seconds = time.thread_time() - began
        self._spent_seconds += self.cost_seconds

    @property
    def has_memory(self) -> bool:
        """Whether the memory of the processes was looked at."""
        return any(name.endswith("pss_bytes") for name in self._peaks)

    def summary(self) -> dict[str, float]:
        """Peaks of memory, CPU seconds spent since the first sample, and what sampling itself has cost."""
        spent = {f"{side}_cpu_seconds": self._last[side] - first for side, first in self._first.items()}
        own = {"samples": float(self._samples), "sampling_cpu_seconds": self._spent_seconds}
        return {**self._peaks, **spent, **own} if self._samples else {}
