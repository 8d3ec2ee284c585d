"""The home directory of an embedded server.

    <home>/lock        held while a process starts or stops the server
    <home>/password    of the superuser, mode 0600
    <home>/server.log  the server's own words
    <home>/cluster/    PostgreSQL's data directory, with our settings in etl_toolkit.conf

The home is mode 0700 and belongs to the account of the server. As root we write into it without following links.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from etl_toolkit.errors import ServerError
from etl_toolkit.server.account import Account, can_pass

HOST = "127.0.0.1"
SUPERUSER = "postgres"
SYSTEM_STATE = Path("/var/lib/etl_toolkit")

# sun_path is 108 bytes with its NUL on Linux and 104 on macOS; the longest name in it is that of the socket's own lock.
LONGEST_SOCKET_DIR_BYTES = 104 - 1 - len("/.s.PGSQL.65535.lock")


@dataclass(frozen=True)
class Home:
    """The files below the directory of one server."""

    path: Path

    @property
    def lock(self) -> Path:
        """Held while a process starts or stops the server."""
        return self.path / "lock"

    @property
    def password(self) -> Path:
        """The superuser's password, mode 0600."""
        return self.path / "password"

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.path / "server.log"

    @property
    def cluster(self) -> Path:
        """PostgreSQL's own data directory."""
        return self.path / "cluster"

    def cluster_major(self) -> int | None:
        """Return the major version that made the cluster, None before initdb."""
        try:
            return int((self.cluster / "PG_VERSION").read_text(encoding="ascii").strip())
        except FileNotFoundError:
            return None

    def log_size_bytes(self) -> int:
        """Return the size of the log, 0 where there is none."""
        return self.log.stat().st_size if self.log.exists() else 0

    def log_tail(self, since_bytes: int = 0, *, lines: int = 12) -> str:
        """Return the last `lines` lines written after the offset `since_bytes`."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(since_bytes, self.log_size_bytes() - 20_000))
                return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
        except OSError as error:
            return f"(no log: {error})"

    def write(self, path: Path, text: str, account: Account) -> None:
        """Replace `path` by `text`, mode 0600, owned by `account`; whole or not at all, a power cut included."""
        fresh = path.with_name(path.name + ".new")
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if account.drop:
                os.fchown(file.fileno(), account.uid, account.gid)
            os.fsync(file.fileno())
        fresh.replace(path)

    def prepare(self, account: Account) -> None:
        """Make the directory, mode 0700 and owned by `account`; refuse one that is in other use or out of reach."""
        if (self.path / "PG_VERSION").exists():
            raise ServerError(f"{str(self.path)!r} is a PostgreSQL data directory; name an empty or a new directory")
        self.path.mkdir(parents=True, exist_ok=True)
        # Looked for twice: another starter may make it, and more, while we list the directory.
        if not self.lock.exists() and any(self.path.iterdir()) and not self.lock.exists():
            raise ServerError(
                f"{str(self.path)!r} is not empty and does not belong to an embedded server; name another directory"
            )
        if account.drop:
            os.chown(self.path, account.uid, account.gid)
        self.path.chmod(0o700)
        if not can_pass(account, self.path):
            raise ServerError(
                f"the account {account.name!r}, which the server runs as, cannot enter {str(self.path)!r}: a directory "
                f"above it is private; name one that it can enter, below {SYSTEM_STATE} for example"
            )

    def socket_dir(self, account: Account) -> Path:
        """Return the directory of the Unix socket: the home if its path is short and plain, else one made in /tmp."""
        plain = re.fullmatch(r"[A-Za-z0-9_./+-]+", os.fspath(self.path)) is not None
        if plain and len(os.fspath(self.path)) <= LONGEST_SOCKET_DIR_BYTES:
            return self.path
        mark = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:12]
        directory = Path("/tmp") / f"etl_toolkit-{account.uid}-{mark}"  # noqa: S108 - owner and mode are checked
        try:
            directory.mkdir(mode=0o700)
            if account.drop:
                os.chown(directory, account.uid, account.gid, follow_symlinks=False)
        except FileExistsError:
            pass
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != account.uid or found.st_mode & 0o077:
            raise ServerError(f"{str(directory)!r} is not a private directory of {account.name!r}; remove it")
        return directory


def default_data_dir(major: int, account: Account) -> Path:
    """Return the home that a server of this major version has unless the caller names one.

    `$XDG_STATE_HOME/etl_toolkit/pg<major>`, by default below `~/.local/state`. Root's own home is usually closed to the
    account that root drops to; then it is `/var/lib/etl_toolkit/pg<major>`.
    """
    named = Path(os.environ.get("XDG_STATE_HOME", ""))
    # The specification says to ignore a relative path.
    state = named if named.is_absolute() else Path.home() / ".local" / "state"
    nearest = next(path for path in (state, *state.parents) if path.exists())
    if account.drop and not can_pass(account, nearest):
        return SYSTEM_STATE / f"pg{major}"
    return state / "etl_toolkit" / f"pg{major}"
