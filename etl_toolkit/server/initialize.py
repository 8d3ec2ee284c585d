"""Make the cluster of a new home with initdb."""

from __future__ import annotations

import re
import secrets
import shutil
from pathlib import Path

from etl_toolkit.errors import ServerError
from etl_toolkit.server.account import Account, run_as
from etl_toolkit.server.binaries import major_version
from etl_toolkit.server.home import SUPERUSER, Home
from etl_toolkit.server.settings import SETTINGS_FILE, Profile

INITDB_TIMEOUT_SECONDS = 300


def initialize(home: Home, bin_dir: Path, account: Account, profile: Profile) -> None:
    """Make the cluster under another name and rename it, so that a killed initdb leaves no half of one behind."""
    for leftover in home.path.glob("cluster.partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    # A name of its own: the initdb of a starter that was killed may still be at work.
    half_done = home.path / f"cluster.partial-{secrets.token_hex(4)}"
    home.write(home.password, secrets.token_hex(24) + "\n", account)
    options = ["--username", SUPERUSER, "--encoding=UTF8", "--locale=C", "--auth=scram-sha-256"]
    if major_version(bin_dir) >= 17:
        # Knows upper and lower case beyond ASCII, sorts by code point, and is the same on every machine.
        options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    if major_version(bin_dir) >= 16:
        # Iterations slow down who guesses a password. Nobody guesses 192 random bits, and every connection pays for them.
        options += ["-c", "scram_iterations=1"]
    if profile == "fast":
        options += ["--no-sync"]
    done = run_as(
        account,
        bin_dir / "initdb",
        *("-D", half_done),
        *("--pwfile", home.password),
        *options,
        cwd=home.path,
        timeout_seconds=INITDB_TIMEOUT_SECONDS,
    )
    if done.returncode != 0:
        raise ServerError(
            f"initdb failed in {str(home.path)!r}; fix what it reports, or name another directory:\n"
            + "\n".join(done.stdout.strip().splitlines()[-12:])
        )
    configuration = half_done / "postgresql.conf"
    text = configuration.read_text(encoding="utf-8")
    text = re.sub("^scram_iterations", "#\\g<0>", text, flags=re.MULTILINE)  # other passwords keep theirs
    text += f"\ninclude_if_exists = '{SETTINGS_FILE}'\n"
    home.write(configuration, text, account)
    half_done.rename(home.cluster)
