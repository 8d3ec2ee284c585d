"""Start, find and stop the embedded server of one home directory.

One starter at a time, a free port and another one when that was taken in between, a predecessor that is still on its
way out waited for, and messages that carry the server's log. Not with `pg_ctl`: it builds a shell command in which
quotes and dollar signs of a path are not escaped.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from etl_toolkit.errors import ServerError
from etl_toolkit.server.account import Account, run_as, server_account
from etl_toolkit.server.binaries import check_binaries, find_binaries, major_version, reachable
from etl_toolkit.server.home import HOST, Home, default_data_dir
from etl_toolkit.server.initialize import initialize
from etl_toolkit.server.lock import locked
from etl_toolkit.server.running import EmbeddedServer, find_postmaster, processes_of, running_server
from etl_toolkit.server.settings import SETTINGS_FILE, Profile, list_item, profile_settings, read_setting, render

StopMode = Literal["fast", "immediate"]

START_TIMEOUT_SECONDS = 120
STOP_TIMEOUT_SECONDS = 120
POLL_SECONDS = 0.02
PORT_ATTEMPTS = 8
log = logging.getLogger("etl_toolkit")

LARGEST_LOG_BYTES = 16 << 20

# https://www.postgresql.org/docs/current/server-shutdown.html
STOP_SIGNALS: dict[StopMode, str] = {"fast": "SIGINT", "immediate": "SIGQUIT"}

# Detaches the server and tells its process number. Paths come as arguments, so that no character of them is special.
DETACH = 'umask 077; log=$1; shift; "$@" >>"$log" 2>&1 </dev/null & echo $!'

# What the server says when another process took the port first, and while the children of a killed one still exit.
PORT_TAKEN = ("could not bind", "could not create any TCP/IP sockets")
PREDECESSOR_EXITING = ("pre-existing shared memory block", 'lock file "postmaster.pid" already exists')


@dataclass(frozen=True)
class Launch:
    """What one start needs to know."""

    home: Home
    bin_dir: Path
    account: Account
    profile: Profile
    port: int | None


def start(
    data_dir: Path | None = None,
    *,
    profile: Profile = "durable",
    port: int | None = None,
    bin_dir: Path | None = None,
) -> EmbeddedServer:
    """Start the server in `data_dir`, or return the one that runs there already; it outlives this process.

    Any number of processes may call this at once. A server that was killed is started again and recovers, and so is one
    whose programs were removed, with an environment for example: it lacks time zones and extensions. `profile` is
    applied when the server starts, not when a running one is returned.

    Args:
        data_dir: home of the server; default `$XDG_STATE_HOME/etl_toolkit/pg<major>`.
        profile: `durable`, or `fast` for tests (no fsync).
        port: TCP port on 127.0.0.1; default any free one, the last one again if it can be had.
        bin_dir: PostgreSQL's programs; default `find_binaries()`.

    Raises:
        ServerError: with the reason, the place, the remedy, and the end of the server's log.
    """
    found = check_binaries(bin_dir, named_by="bin_dir") if bin_dir is not None else find_binaries()
    major = major_version(found)
    home = _home(data_dir, major)
    with _reporting_os_errors(home):
        account = server_account(home.path)
        home.prepare(account)
        with locked(home.lock):
            running = running_server(home)
            if running is not None and home.cluster_major() == major and not (running.bin_dir / "postgres").exists():
                log.warning(
                    "the embedded server in %s still runs, but its programs in %s were removed, so it lacks time zones and "
                    "extensions; it is started again with those in %s", home.path, running.bin_dir, found,
                )  # fmt: skip
                _stop(home, "fast")
                running = None
            if running is None:
                launch = Launch(home, reachable(found, account), account, profile, port)
                if home.cluster_major() is None:
                    _note_other_clusters(home, major)
                    initialize(home, launch.bin_dir, account, profile)
                if home.cluster_major() != major:
                    raise ServerError(
                        f"the cluster in {str(home.path)!r} was created by PostgreSQL {home.cluster_major()}, but "
                        f"{str(found)!r} is {major}; set ETL_PG_BIN to the former, or name another directory"
                    )
                running = _launch(launch)
    if port is not None and running.port != port:
        raise ServerError(
            f"the server in {str(home.path)!r} already runs, on port {running.port} and not on {port}; "
            "stop it first, or leave out the port"
        )
    return running


def status(data_dir: Path | None = None) -> EmbeddedServer | None:
    """Return the server that runs in `data_dir`, or None."""
    home = _home(data_dir)
    with _reporting_os_errors(home):
        return running_server(home)


def stop(data_dir: Path | None = None, mode: StopMode = "fast") -> bool:
    """Stop the server in `data_dir` and tell whether there was one.

    `fast` rolls back open transactions and writes a checkpoint; `immediate` leaves recovery to the next start.
    """
    home = _home(data_dir)
    with _reporting_os_errors(home):
        if not home.cluster.is_dir():
            return False
        with locked(home.lock):
            return _stop(home, mode)


def _stop(home: Home, mode: StopMode) -> bool:
    postmaster = find_postmaster(home)
    if postmaster is None:
        _end_orphans(home)
        return False
    os.kill(postmaster.process_id, signal.Signals[STOP_SIGNALS[mode]])
    deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
    while find_postmaster(home) is not None:
        if time.monotonic() > deadline:
            raise ServerError(
                f"the server in {str(home.path)!r} did not stop within {STOP_TIMEOUT_SECONDS} s; "
                f"stop it with mode 'immediate'. The end of its log:\n{home.log_tail()}"
            )
        time.sleep(POLL_SECONDS)
    if postmaster.socket_dir != home.path:
        with suppress(OSError):
            postmaster.socket_dir.rmdir()
    return True


def _home(data_dir: Path | None, major: int | None = None) -> Home:
    if data_dir is not None:
        # Resolved, so that two ways to one directory mean one server.
        return Home(Path(data_dir).expanduser().resolve())
    return Home(default_data_dir(major or major_version(find_binaries()), server_account()))


@contextmanager
def _reporting_os_errors(home: Home) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = error.filename or home.path
        raise ServerError(
            f"the embedded server in {str(home.path)!r}: {error.strerror}: {str(place)!r}; "
            "name a directory that you may write to, on a disk with room"
        ) from error


def _launch(launch: Launch) -> EmbeddedServer:
    home = launch.home
    if home.log_size_bytes() > LARGEST_LOG_BYTES:
        home.log.replace(home.log.with_name("server.log.1"))
    socket_dir = home.socket_dir(launch.account)
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    ports_tried = 0
    said = ""
    while time.monotonic() < deadline:
        running = running_server(home)
        if running is not None:
            return running
        if find_postmaster(home) is not None:
            time.sleep(POLL_SECONDS)  # an earlier starter was killed and its server recovers, or one is about to stop
            continue
        _forget_dead_predecessor(home, socket_dir)
        before = home.log_size_bytes()
        process_id = _run_postgres(launch, _choose_port(launch, ports_tried), socket_dir)
        while _is_alive(process_id) and time.monotonic() < deadline:
            running = running_server(home)
            if running is not None:
                return running
            time.sleep(POLL_SECONDS)
        said = home.log_tail(before)
        if any(words in said for words in PREDECESSOR_EXITING):
            _end_orphans(home)
            time.sleep(POLL_SECONDS)
        elif launch.port is None and any(words in said for words in PORT_TAKEN) and ports_tried < PORT_ATTEMPTS:
            ports_tried += 1
        else:
            break
    raise ServerError(_why_not_started(launch, said or home.log_tail()))


def _note_other_clusters(home: Home, major: int) -> None:
    """Warn of the data of other major versions, which stay where they are, before an empty cluster is made beside them."""
    for place in sorted(home.path.parent.glob("pg*")):
        other = Home(place).cluster_major() if place != home.path else None
        if other is not None and other != major:
            log.warning(
                "%s has data of PostgreSQL %s, which PostgreSQL %s does not read; to use it, set ETL_PG_BIN to the programs of "
                "version %s; to move it, dump it with these and restore the dump; if it is not needed, remove the directory",
                place, other, major, other,
            )  # fmt: skip


def _run_postgres(launch: Launch, port: int, socket_dir: Path) -> int:
    home = launch.home
    settings = profile_settings(launch.profile) | {
        "listen_addresses": HOST,
        "port": str(port),
        "unix_socket_directories": list_item(socket_dir),
        "unix_socket_permissions": "0700",
    }
    home.write(home.cluster / SETTINGS_FILE, render(settings), launch.account)
    done = run_as(
        launch.account,
        *("/bin/sh", "-c", DETACH, "sh"),
        *(home.log, launch.bin_dir / "postgres"),
        *("-D", home.cluster),
        cwd=home.cluster,
        timeout_seconds=60,
    )
    try:
        return int(done.stdout)
    except ValueError:
        raise ServerError(f"cannot run {launch.bin_dir / 'postgres'}: {done.stdout.strip()}") from None


def _is_alive(process_id: int) -> bool:
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _why_not_started(launch: Launch, said: str) -> str:
    if launch.port is not None and any(words in said for words in PORT_TAKEN):
        remedy = f"port {launch.port} is taken, choose another or leave it out"
    else:
        remedy = f"fix what {launch.home.log} reports, or name another directory"
    return f"the server in {str(launch.home.path)!r} did not start; {remedy}. The end of its log:\n{said}"


def _end_orphans(home: Home) -> None:
    """Tell the children of a killed server to go, as that server would have when one of them crashed.

    They see by themselves that it is gone, but not before the end of what they compute.
    """
    if (home.cluster / "postmaster.pid").exists() and find_postmaster(home) is None:
        for process_id in processes_of(home):
            with suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGQUIT)


def _forget_dead_predecessor(home: Home, socket_dir: Path) -> None:
    """Remove the lock files of a killed server whose process number is in use again, by anybody.

    PostgreSQL itself copes with a number that is free or another account's, but takes one of its own account for a
    server. In a container the numbers are small and soon used again, or kept by zombies that nobody collects. While a
    child of the killed server lives, the files stay: they lead PostgreSQL to it. The directory holds no other sockets.
    """
    pid_file = home.cluster / "postmaster.pid"
    leftovers = [pid_file, *socket_dir.glob(".s.PGSQL.*")]
    if any(file.exists() for file in leftovers) and not processes_of(home):
        for file in leftovers:
            file.unlink(missing_ok=True)


def _choose_port(launch: Launch, ports_tried: int) -> int:
    if launch.port is not None:
        return launch.port
    last = read_setting(launch.home.cluster / SETTINGS_FILE, "port") if ports_tried == 0 else None
    for candidate in (int(last or 0), 0):
        with socket.socket() as probe:
            # As the server does: without it, connections of the last run that linger in TIME_WAIT would cost the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, candidate))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ServerError(f"there is no free TCP port on {HOST}; end some of the processes that hold them")
