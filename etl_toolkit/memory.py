"""How much memory this process may use, and how much of it is in use: by the tightest cgroup, else by the machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class MemoryState:
    """A limit and what is in use below it, without file pages that the kernel would give up; `of` says whose limit."""

    limit_bytes: int
    used_bytes: int
    of: str

    @property
    def ratio(self) -> float:
        return self.used_bytes / self.limit_bytes


def memory_state(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> MemoryState:
    """Return the limit that is closest to being reached."""
    machine = psutil.virtual_memory()
    states = [MemoryState(machine.total, machine.total - machine.available, "the machine"), *_limited(cgroups, own)]
    return max(states, key=lambda state: state.ratio)


def memory_limit_bytes(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int:
    """Return the smallest limit on this process."""
    return min([int(psutil.virtual_memory().total), *(state.limit_bytes for state in _limited(cgroups, own))])


def _limited(cgroups: Path, own: Path) -> Iterator[MemoryState]:
    """The cgroups around this process that have a limit, from version 2 (`memory.max`) or version 1."""
    for place in _own_places(cgroups, own):
        for limit_name, used_name, reclaimable in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, used = _number(place / limit_name), _number(place / used_name)
            # Version 1 says "no limit" by a number larger than any machine's memory.
            if limit and used is not None and limit < 1 << 60:
                yield MemoryState(limit, max(0, used - _counter(place / "memory.stat", reclaimable)), "the cgroup")


def _own_places(cgroups: Path, own: Path) -> Iterator[Path]:
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = cgroups / "memory" if controllers else cgroups
        # Inside a container the path may be the host's, which cannot be seen from here: then the top is our own.
        place = top / path.lstrip("/")
        while place != top.parent:
            if place.is_dir():
                yield place
            place = place.parent


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _counter(path: Path, name: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0)
