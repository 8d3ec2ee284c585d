"""What a process and all it has started use: CPU, memory, I/O. None where the system does not say, never zero."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg2

PROC = Path("/proc")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
LOOPBACK = frozenset({"127.0.0.1", "::1"})


@dataclass(frozen=True)
class Usage:
    """What a tree of processes has used since each of them began, and the memory it holds now.

    Processes that have ended and been waited for are in the CPU time and the bytes of their parent, so differences of
    two readings lose nothing. Memory is PSS: a page that n processes share counts 1/n in each, so the sum counts
    shared_buffers once.
    """

    cpu_seconds: float
    pss_bytes: int | None
    read_bytes: int | None
    written_bytes: int | None


def snapshot() -> dict[int, tuple[int, float]]:
    """Return parent and CPU seconds of every process: own ones, and those of children that were waited for."""
    if not sys.platform.startswith("linux"):
        return {process.pid: _parent_and_cpu(process) for process in psutil.process_iter()}
    found = {}
    # psutil takes three times as long over this, and it happens ten times a second.
    for name in os.listdir(PROC):  # noqa: PTH208
        if name.isdigit():
            with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123 - ten times a second
                # The second word is a file name in brackets and may hold anything, brackets too.
                words = file.read().rpartition(b")")[2].split()
                found[int(name)] = (int(words[1]), sum(map(int, words[11:15])) / TICKS_PER_SECOND)
    return found


def tree_usage(
    root: int, processes: Mapping[int, tuple[int, float]], *, leave_out: frozenset[int] = frozenset()
) -> Usage | None:
    """Return what process `root` and its descendants use, without those in `leave_out`; None when `root` is gone."""
    if root not in processes:
        return None
    found = [process_id for process_id in tree_members(root, processes) if process_id not in leave_out]
    cpu_seconds = sum(processes[process_id][1] for process_id in found)
    memory = [pss_bytes(process_id) for process_id in found]
    moved = [_io_bytes(process_id) for process_id in found]
    return Usage(cpu_seconds, _sum(memory), _sum(read for read, _ in moved), _sum(written for _, written in moved))


def tree_members(root: int, processes: Mapping[int, tuple[int, float]]) -> list[int]:
    """Return process `root` and its descendants."""
    children: dict[int, list[int]] = {}
    for process_id, (parent, _) in processes.items():
        children.setdefault(parent, []).append(process_id)
    waiting, found = [root], []
    while waiting:
        process_id = waiting.pop()
        waiting += children.get(process_id, [])
        found.append(process_id)
    return found


def pss_bytes(process_id: int) -> int | None:
    """Return the proportional set size; None if it is not available (not Linux, not our process, gone)."""
    try:
        text = Path(f"/proc/{process_id}/smaps_rollup").read_text()
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return None


def postmaster_pid(connection: psycopg2.extensions.connection) -> int | None:
    """Return the process number of the server's first process, or None when the server is not on this machine.

    A backend number from another machine or container may belong to anybody here, so the process must look the part.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid(), host(inet_server_addr()), inet_client_addr() = inet_server_addr()")
        backend, address, is_same_address = cursor.fetchone() or (0, None, None)
    if address is not None and address not in LOOPBACK and not is_same_address:
        return None
    try:
        parent = psutil.Process(backend).parent()
        names = [psutil.Process(backend).name(), parent.name() if parent else ""]
    except psutil.Error:
        return None
    return parent.pid if parent and all(name.startswith("postgres") for name in names) else None


def _sum(values: Iterable[int | None]) -> int | None:
    """Add up what is known; None when nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _io_bytes(process_id: int) -> tuple[int | None, int | None]:
    try:
        counters = psutil.Process(process_id).io_counters()
    except (psutil.Error, AttributeError, OSError):
        return None, None
    return counters.read_bytes, counters.write_bytes


def _parent_and_cpu(process: psutil.Process) -> tuple[int, float]:
    try:
        times = process.cpu_times()
        return process.ppid(), times.user + times.system + times.children_user + times.children_system
    except psutil.Error:
        return 0, 0.0
