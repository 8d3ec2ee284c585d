"""`check_host`: what a host says of itself before a load relies on it."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from etl_toolkit import __version__
from etl_toolkit.config import ParallelConfig
from etl_toolkit.errors import EtlError
from etl_toolkit.hosts.here import host_name, own_dsn
from etl_toolkit.loading.session import Sessions
from etl_toolkit.sources import try_source

MARK = "doctor"


@dataclass(frozen=True)
class CheckHost:
    """Ask a host. `exchange` has a file `MARK` in it, and `sources` are to be read, as files or objects of a store.

    `seconds` keep the host busy, so that another one answers the next.
    """

    run_id: str
    config: ParallelConfig
    exchange: str
    sources: tuple[str, ...] = ()
    seconds: float = 0.5


@dataclass(frozen=True)
class HostState:
    """What a host says. `server` tells role, database and server from others, or is empty: then `server_error` says why."""

    host: str
    version: str
    server: str
    server_error: str
    exchange_error: str
    source_errors: tuple[str, ...]
    clock_offset_seconds: float
    free_temp_bytes: int
    free_exchange_bytes: int


def check_host(task: CheckHost) -> HostState:
    """Look at this host: its release, its way to the server, to sources and the exchange directory, its clock and its disks."""
    until = time.monotonic() + task.seconds
    server, offset, server_error = "", 0.0, ""
    try:
        server, offset = _meet_server(task)
    except EtlError as error:
        server_error = str(error)
    state = HostState(
        host_name(), __version__, server, server_error, _try_exchange(Path(task.exchange)),
        tuple(filter(None, map(_try_source, task.sources))), offset,
        shutil.disk_usage(task.config.temp_directory or tempfile.gettempdir()).free, _free(Path(task.exchange)),
    )  # fmt: skip
    time.sleep(max(0.0, until - time.monotonic()))
    return state


def _meet_server(task: CheckHost) -> tuple[str, float]:
    sessions = Sessions(own_dsn(task.run_id), task.config, task.run_id)
    with sessions.session("hosts", waits=False) as connection, connection.cursor() as cursor:
        before = time.time()
        cursor.execute(
            "SELECT extract(epoch FROM pg_catalog.clock_timestamp())::float8, pg_catalog.concat_ws(' ', current_user, "
            "pg_catalog.current_database(), pg_catalog.pg_postmaster_start_time())"
        )
        there, identity = cursor.fetchone()
        return str(identity), (before + time.time()) / 2 - there


def _try_exchange(directory: Path) -> str:
    """Why the exchange directory cannot be used here; empty where it can."""
    if not (directory / MARK).exists():
        return f"{directory} is not there, or is another directory"
    own = directory / f"{MARK}-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        own.write_bytes(b"x")
    except OSError as error:
        return f"{directory}: {error.strerror}"
    finally:
        with suppress(OSError):
            own.unlink(missing_ok=True)
    return ""


def _try_source(name: str) -> str:
    """Why a source cannot be read here; empty where it can."""
    try:
        try_source(name)
    except EtlError as error:
        return str(error)
    return ""


def _free(directory: Path) -> int:
    try:
        return shutil.disk_usage(directory).free
    except OSError:
        return 0
