"""What a feed asks for once its load has ended: commands that read the outcome, and a lineage event."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from etl_toolkit.errors import EtlError, StoppedError
from etl_toolkit.feed.document import Feed
from etl_toolkit.feed.lineage import write_event
from etl_toolkit.model import LoadResult

COMMAND_SECONDS = 600


def load_and_follow_up(
    feed: Feed | None, load: Callable[[], LoadResult], server: Any = None
) -> tuple[LoadResult, list[str]]:
    """Load, then do what the feed asks for; return the result, and what went wrong after the load.

    Where the load itself fails, its error is raised, with what went wrong afterwards as notes. After a load that was stopped,
    nothing more is done. `server` is the DSN, for the names in the lineage event.
    """
    if feed is None:
        return load(), []
    try:
        result = load()
    except StoppedError:
        raise
    except EtlError as error:
        failure = {"error": str(error), "kind": type(error).__name__, "run_id": getattr(error, "run_id", None) or None}
        for complaint in _follow_up(feed, None, failure, server):
            error.add_note(complaint)
        raise
    return result, _follow_up(feed, result, {} if result else {"error": "the counts do not add up"}, server)


def _follow_up(feed: Feed, result: LoadResult | None, failure: dict[str, Any], server: Any) -> list[str]:
    outcome = {"feed": str(feed.path), "table": feed.spec.table, **(result.as_dict() if result else {}), **failure}
    name = "on_failure" if failure else "on_success"
    complaints = [_run(name, feed.after.on_failure if failure else feed.after.on_success, outcome)]
    if feed.after.lineage:
        try:
            write_event(feed, result, failure.get("error"), server, datetime.now(UTC))
        except (OSError, ImportError) as error:
            complaints.append(f"lineage could not be written to {feed.after.lineage}: {error}")
    return [complaint for complaint in complaints if complaint]


def _run(name: str, command: Sequence[str], outcome: dict[str, Any]) -> str:
    """Run a command, without a shell; return what went wrong, or nothing."""
    if not command:
        return ""
    text = json.dumps(outcome, default=str, ensure_ascii=False)
    try:
        done = subprocess.run(
            list(command), input=text, text=True, encoding="utf-8", errors="replace", capture_output=True,
            timeout=COMMAND_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"{name}: {command[0]} was ended after {COMMAND_SECONDS} seconds"
    except OSError as error:
        return f"{name}: {command[0]} cannot be run: {error.strerror}"
    if done.returncode == 0:
        return ""
    last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
    return f"{name}: {command[0]} exited with {done.returncode}{': ' + last[0] if last else ''}"
