"""What a host brings itself to a task: connection string, working directory, memory, and the means to stop.

Beside the command line, this is where a setting is taken from the environment: a task carries no password, so each host
needs its own `ETL_DSN`, or libpq's `PG*`. Those of stores are read by obstore itself.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from etl_toolkit import __version__
from etl_toolkit.config import ParallelConfig
from etl_toolkit.errors import UsageError, driver_errors_mapped
from etl_toolkit.hosts.exchange import following_coordinator
from etl_toolkit.hosts.tasks import Job
from etl_toolkit.loading.run import Phases
from etl_toolkit.loading.session import Sessions
from etl_toolkit.prepare import resource_failures_mapped
from etl_toolkit.request import connection_string
from etl_toolkit.server import resolve_dsn
from etl_toolkit.stopping import Stop
from etl_toolkit.workspace import Workspace, open_workspace

_of_runs: dict[str, str] = {}  # in the process that coordinates them, whose threads may be the hosts
_of_process: list[str] = []  # in a process that a coordinator started


@dataclass(frozen=True)
class Here:
    """The means of this host for one task."""

    name: str
    config: ParallelConfig
    workspace: Workspace
    sessions: Sessions
    phases: Phases
    stop: Stop


def begin_process(dsn: str, environment: Mapping[str, str]) -> None:
    """Make a process that the coordinator has started a host. Ctrl-C is for the coordinator alone, and it ends with that.

    Its environment, with the credentials of stores, becomes that of the coordinator: it was forked from a process that may
    have started long before.
    """
    _of_process[:] = [dsn]
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="etl-parent", daemon=True).start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


@contextmanager
def lend_dsn(run_id: str, dsn: str) -> Iterator[None]:
    """For the length of the block, tasks of this run that run in this very process connect as the coordinator does."""
    _of_runs[run_id] = dsn
    try:
        yield
    finally:
        del _of_runs[run_id]


def own_dsn(run_id: str) -> str:
    """The connection string of this host. Raises UsageError where it has none."""
    if (known := _of_runs.get(run_id)) is not None:
        return known
    if _of_process:
        return _of_process[0]
    named = resolve_dsn(None, os.environ)
    if named is None:
        raise UsageError(
            f"host {host_name()} has neither ETL_DSN nor PGHOST in its environment; set it where its workers are started"
        )
    return connection_string(named)


def host_name() -> str:
    """The machine and the process of this host."""
    return f"{socket.gethostname()}/{os.getpid()}"


@contextmanager
def at_host(job: Job) -> Iterator[Here]:
    """Open what a task needs on this host. Raises UsageError where this host has another release of the package."""
    if job.version != __version__:
        raise UsageError(
            f"host {host_name()} has etl_toolkit {__version__}, the coordinator {job.version}; install the same everywhere"
        )
    own = job.config.temp_directory
    config = replace(
        job.config,
        memory_limit_bytes=job.memory_bytes or job.config.memory_limit_bytes,
        temp_directory=own if own and Path(own).is_dir() else None,
    )
    stop = Stop()
    sessions = Sessions(own_dsn(job.run_id), config, job.run_id, job.conventions, stop=stop)
    with (
        driver_errors_mapped(doing=f"loading into {job.target.qualified_name} on host {host_name()}"),
        resource_failures_mapped(),
        stop.calling(sessions.cancel_all),
        following_coordinator(Path(job.exchange, job.sign), stop),
        open_workspace(config, threads=job.threads, stop=stop) as workspace,
    ):
        try:
            yield Here(host_name(), config, workspace, sessions, Phases(), stop)
        finally:
            sessions.close_idle()
