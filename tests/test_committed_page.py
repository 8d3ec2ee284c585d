"""The page in `reports/` comes from code that is not older than the newest release."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOADS = ("etl_toolkit/strategies", "etl_toolkit/loading", "etl_toolkit/sources")


def git(*words: str) -> str | None:
    """What git says in this clone; None where it has nothing to say."""
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def is_outdated(measured: str, newest: str, *, has_changed: bool) -> bool:
    """A page may be behind the changes since the newest release, not behind that release."""
    return has_changed and release(measured) < release(newest)


def test_the_page_is_not_behind_the_newest_release() -> None:
    if shutil.which("git") is None or git("rev-parse", "--is-inside-work-tree") != "true":
        pytest.skip("no git clone: whether the code has changed since the page was measured is not known")
    manifest = json.loads((ROOT / "reports" / "run" / "manifest.json").read_text())
    commit = manifest["git_commit"].removesuffix("-dirty")
    # In a shallow clone the commit of the page may be missing: the code has changed since, for all we know.
    changes = git("log", "--oneline", "-1", f"{commit}..HEAD", "--", *LOADS)
    newest = next(iter(re.findall(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)))
    measured = manifest["versions"]["etl-toolkit"]
    assert not is_outdated(measured, newest, has_changed=changes is None or bool(changes)), (
        f"reports/ was measured with {measured} at {commit[:8]}; {newest} has been released and the code that loads has "
        "changed since: run `etl-toolkit bench reports/run` and `etl-toolkit report reports/run` again"
    )


@pytest.mark.parametrize(
    ("measured", "newest", "has_changed", "expected"),
    [
        ("0.1.0", "0.1.0", True, False), ("0.1.0", "0.2.0", True, True), ("0.1.0", "0.2.0", False, False),
        ("0.10.0", "0.9.1", True, False),
    ],
)  # fmt: skip
def test_a_page_is_outdated_when_a_release_with_changes_came_after_it(
    measured: str, newest: str, has_changed: bool, expected: bool
) -> None:
    assert is_outdated(measured, newest, has_changed=has_changed) is expected
