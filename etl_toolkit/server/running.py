"""The server that runs in a home, according to the files that PostgreSQL itself keeps there."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

from etl_toolkit.errors import ServerError
from etl_toolkit.server.home import HOST, SUPERUSER, Home


@dataclass(frozen=True)
class EmbeddedServer:
    """A running embedded server. `repr()` and pickles leave out the password; `dsn` has it."""

    data_dir: Path
    bin_dir: Path
    host: str
    port: int
    socket_dir: Path
    user: str
    password: str | None = field(default=None, repr=False)
    database: str = "postgres"

    @property
    def dsn(self) -> str:
        """URL over TCP for libpq and psycopg2. It holds the password: not for logs."""
        return f"postgresql://{self._login()}@{self.host}:{self.port}/{quote(self.database, safe='')}"

    @property
    def socket_dsn(self) -> str:
        """The same over the Unix socket: `postgresql://…@/db?host=<directory>&port=<port>`."""
        place = f"host={quote(os.fspath(self.socket_dir), safe='')}&port={self.port}"
        return f"postgresql://{self._login()}@/{quote(self.database, safe='')}?{place}"

    @property
    def sqlalchemy_url(self) -> str:
        """The same for SQLAlchemy, which since 2.1 takes a plain `postgresql://` to mean psycopg 3."""
        return self.dsn.replace("postgresql://", "postgresql+psycopg2://", 1)

    def __reduce__(self) -> tuple[Callable[..., EmbeddedServer], tuple[Any, ...]]:
        """Leave the password in its file, where users of the server find it again."""
        place = (self.data_dir, self.bin_dir, self.host, self.port, self.socket_dir)
        return _unpickled, (place, self.user, self.database)

    def _login(self) -> str:
        password = "" if self.password is None else ":" + quote(self.password, safe="")
        return quote(self.user, safe="") + password


def _unpickled(place: tuple[Path, Path, str, int, Path], user: str, database: str) -> EmbeddedServer:
    try:
        password = Home(place[0]).password.read_text(encoding="utf-8").strip()
    except OSError:
        password = None
    return EmbeddedServer(*place, user=user, password=password, database=database)


@dataclass(frozen=True)
class Postmaster:
    """A live postmaster; `ready` is false while it starts, recovers or stops, and true of a standby that is open."""

    process_id: int
    port: int
    socket_dir: Path
    bin_dir: Path
    ready: bool


def find_postmaster(home: Home) -> Postmaster | None:
    """Return the postmaster of `home`, or None; a postmaster.pid whose process has ended counts as None.

    The lines of postmaster.pid are in PostgreSQL's src/include/utils/pidfile.h: process id, data directory, start time,
    port, socket directory, listen address, shared memory key, status. A server that is just starting has fewer.
    """
    try:
        lines = (home.cluster / "postmaster.pid").read_text().splitlines()
        command = (home.cluster / "postmaster.opts").read_text()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise ServerError(
            f"the embedded server in {str(home.path)!r} belongs to another account; "
            "run as that account, or name another directory"
        ) from error
    if not lines or not lines[0].strip().isdigit() or not is_process_of(home, int(lines[0])):
        return None
    lines += [""] * (8 - len(lines))
    return Postmaster(
        process_id=int(lines[0]),
        port=int(lines[3] or 0),
        socket_dir=Path(lines[4].strip()),
        # The program comes unquoted, its arguments quoted: /path with spaces/postgres "-D" "…"
        bin_dir=Path(command.split(' "', maxsplit=1)[0].strip()).parent,
        ready=lines[7].strip() in ("ready", "standby"),
    )


def is_process_of(home: Home, process_id: int) -> bool:
    """Tell whether a process belongs to this very cluster, and was not just given the number of one that did.

    Every PostgreSQL process works in its data directory, so account and working directory tell whose it is.
    """
    try:
        process = psutil.Process(process_id)
        if process.status() == psutil.STATUS_ZOMBIE or process.uids().effective != home.cluster.stat().st_uid:
            return False
        return Path(process.cwd()).resolve() == home.cluster.resolve()
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def processes_of(home: Home) -> list[int]:
    """Return the numbers of all processes of this cluster, the children of a killed server included."""
    return [process_id for process_id in psutil.pids() if is_process_of(home, process_id)]


def running_server(home: Home) -> EmbeddedServer | None:
    """Return the server of `home` if it takes connections, else None."""
    postmaster = find_postmaster(home)
    if postmaster is None or not postmaster.ready:
        return None
    return EmbeddedServer(
        data_dir=home.path,
        bin_dir=postmaster.bin_dir,
        host=HOST,
        port=postmaster.port,
        socket_dir=postmaster.socket_dir,
        user=SUPERUSER,
        password=home.password.read_text(encoding="utf-8").strip(),
    )
