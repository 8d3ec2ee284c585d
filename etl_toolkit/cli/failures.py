"""How a command fails: a message on stderr, with `--json` an object on stdout, and an exit code for schedulers."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from etl_toolkit.errors import DatabaseError, EtlError, RejectLimitError, StoppedError, UsageError
from etl_toolkit.stopping import CTRL_C

if TYPE_CHECKING:
    from etl_toolkit.model import RejectedRow

FAILED, MISTAKEN, INTERRUPTED, TERMINATED = 1, 2, 130, 143
# What a repetition cannot get past either: password, user, database, privilege, schema, table, column.
MISTAKES = frozenset({"28P01", "28000", "3D000", "42501", "3F000", "42P01", "42703"})


def exit_code(error: EtlError) -> int:
    """2 for what the user has to fix, 130 and 143 for a load that was stopped, else 1."""
    if isinstance(error, StoppedError):
        return INTERRUPTED if error.reason == CTRL_C else TERMINATED
    if isinstance(error, UsageError) or (isinstance(error, DatabaseError) and error.sqlstate in MISTAKES):
        return MISTAKEN
    return FAILED


def complain(message: str, code: int, error: EtlError | None = None) -> int:
    """Print what is wrong, in terms of the command line; return the exit code."""
    for line in (message, *(error.notes if error else ())):
        print(f"etl-toolkit: {line}", file=sys.stderr)
    if is_json_wanted():
        what, _, hint = message.partition("; ")
        answer: dict[str, Any] = {"error": what, "code": code, "hint": hint or None}
        answer["kind"] = type(error).__name__ if error else None
        answer["sqlstate"] = getattr(error, "sqlstate", None)
        answer["run_id"] = getattr(error, "run_id", None) or None
        if isinstance(error, RejectLimitError):
            from etl_toolkit.sources import NAMED

            answer["rejects"] = [_reject(row) for row in error.rejects[:NAMED]]
        json.dump(answer, sys.stdout, ensure_ascii=False)
        sys.stdout.write("\n")
    return code


def _reject(row: RejectedRow) -> dict[str, Any]:
    """Where a row is and why it was rejected; never its content, which schedulers would keep in their logs."""
    return {name: getattr(row, name) for name in ("file", "line", "record", "reason", "sqlstate")}


def is_json_wanted() -> bool:
    """Whether the command line asks for JSON; it may not have been understood beyond that."""
    return "--json" in sys.argv[1:]
