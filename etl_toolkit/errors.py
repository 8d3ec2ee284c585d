"""Every error this package raises, in one tree, and the one place where driver errors are mapped into it.

    EtlError
    ├── UsageError              the caller asked for something impossible (exit code 2)
    │   ├── ConfigError         a configuration value that does not validate
    │   └── UnsafeStrategyError a strategy that would not give the sequential result here
    ├── SourceError             a file that cannot be read, with its place
    │   ├── UnknownFileError    … that is not there, UnknownColumnError: it lacks a column (both are a UsageError as well)
    ├── TargetError             a table that cannot be loaded into as it is
    │   └── UnknownTableError   … that is not there, or lacks a column that is named (a UsageError as well)
    ├── ServerError             the embedded server cannot be started or reached
    ├── PoolerError             a transaction pooler is between client and server; nothing was written
    ├── RejectLimitError        more rejected rows than allowed; nothing of the file was written
    ├── ConflictTripwireError   two workers met on a key that the plan had proven disjoint
    ├── AccountingError         the counts do not add up: the run is failed
    ├── FollowUpError           a load is complete, but a command that was to follow it failed
    ├── AssertionFailedError    a condition that was to hold after the load does not
    ├── LedgerError             the ledger refuses: another run holds the table, a newer run, a changed file
    │   └── UnknownRunError     … a run that is named is not there (a UsageError as well)
    ├── StoppedError            the load was stopped; has what was committed before
    └── DatabaseError           PostgreSQL refused a statement; has the SQLSTATE
        └── TransientDatabaseError  worth another attempt (deadlock, serialization, lost connection, …)

A message says what, where, and what to do. Row data never appears in a message: it belongs in the rejects table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg2

if TYPE_CHECKING:
    from etl_toolkit.model import RejectedRow


class EtlError(Exception):
    """Something the user can act on. In a notebook, it is shown as its message, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {in_python_words(str(self))}", *map(in_python_words, self.notes)]

    @property
    def notes(self) -> list[str]:
        """What was added to the message, each a line of its own."""
        return list(getattr(self, "__notes__", ()))


class UsageError(EtlError):
    """The caller asked for something impossible."""


class ConfigError(UsageError):
    """A configuration value that does not validate."""


class UnsafeStrategyError(UsageError):
    """A strategy that would not give the sequential result on these files and this table."""


class SourceError(EtlError):
    """A file that cannot be read; the message names file, place and remedy."""


class UnknownFileError(SourceError, UsageError):
    """A file that is named and is not there."""


class UnknownColumnError(SourceError, UsageError):
    """A column that is named, or that the table needs, and that a file does not have, or the other way round."""


class TargetError(EtlError):
    """A table that cannot be loaded into as it is."""


class UnknownTableError(TargetError, UsageError):
    """A table, or a column of it, that is named and is not there."""


class ServerError(EtlError):
    """The embedded server cannot be started or reached."""


class RejectLimitError(EtlError):
    """More rows were rejected than `max_rejects` allows. `rejects` are those that were found until the search ended.

    Its notes name the first ten rows of several.
    """

    def __init__(self, message: str, *, rejects: tuple[RejectedRow, ...] = ()) -> None:
        super().__init__(message)
        self.rejects = rejects


class TooManyDeletesError(EtlError):
    """More keys of the table are in no file than may be deleted."""


class ConflictTripwireError(EtlError):
    """Two workers of one run met on one key although the plan had proven their keys to be disjoint."""


class PoolerError(EtlError):
    """A transaction pooler between us and the server: a session is not ours for longer than a transaction."""


class AccountingError(EtlError):
    """The counts of a load do not add up, so it is not known to be correct."""


class LedgerError(EtlError):
    """The ledger refuses to start or continue a run."""


class FollowUpError(EtlError):
    """A load is complete, but what was to follow it failed; `result` is that of the load."""

    def __init__(self, message: str, result: object) -> None:
        super().__init__(message)
        self.result = result


class AssertionFailedError(EtlError):
    """A condition that was to hold after the load does not."""


class UnknownRunError(LedgerError, UsageError):
    """A run that is named, and that the ledger does not have."""


class TakenMeanwhileError(LedgerError):
    """Another run has loaded files of this one since they were looked at; they are looked at again."""


class StoppedError(EtlError):
    """The load was stopped from outside, for `reason`. `committed_rows` are in the table: no others, and none will follow.

    `run_id` is the run to resume; empty where the load was stopped before its run was recorded.
    """

    def __init__(self, message: str, *, reason: str = "", run_id: str = "", committed_rows: int = 0) -> None:
        super().__init__(message)
        self.reason = reason
        self.run_id = run_id
        self.committed_rows = committed_rows


class DatabaseError(EtlError):
    """PostgreSQL refused a statement."""

    def __init__(self, message: str, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class TransientDatabaseError(DatabaseError):
    """A failure that may not occur in another attempt."""


# How Python spells an option of the command line.
_IN_PYTHON = {
    "jobs": "concurrency", "wait": "ParallelConfig.lock_wait_seconds", "key": "key", "config": "config",
    "create-table": "create_table=True", "force": "force=True", "undoable": "undoable=True", "atomic": "atomic=True",
}  # fmt: skip
_OPTION = re.compile(r"--([a-z]+(?:-[a-z]+)*)(?: ([A-Z]{1,8})\b)?")
_REJECTS = re.compile(r"`etl-toolkit rejects (\S+)`")
_RESUME = re.compile(r"`etl-toolkit (resume|undo) (\S+)`")


def in_python_words(message: str) -> str:
    """Return `message` with the advice that it gives for the command line as a Python user would follow it."""

    def spelled(match: re.Match[str]) -> str:
        name = _IN_PYTHON.get(match[1], match[1].replace("-", "_"))
        return f"{name}={match[2]}" if match[2] and "=" not in name else name

    message = _REJECTS.sub(r"`etl_toolkit.rejects(\1)`", message)
    message = _RESUME.sub(r"`ConflictAwareProcessor(dsn).\1('\2')`", message)
    return _OPTION.sub(spelled, message.replace("`etl-toolkit runs`", "`etl_toolkit.runs()`"))


# Classes and codes of https://www.postgresql.org/docs/current/errcodes-appendix.html that may not occur in another attempt.
TRANSIENT_SQLSTATES = frozenset({"40P01", "40001", "55P03", "53300", "57P01", "57P02", "57P03"})

_SILENCE = (
    "the network was silent for network_timeout_seconds, or while rows were sent for lock_timeout_seconds longer, "
    "since the server may have been waiting for a lock"
)
ADVICE = {
    "25006": "the server is a standby, or is read-only by default: connect to its primary",
    "28P01": "check the password (PGPASSWORD, ~/.pgpass)",
    "28000": "check the user and pg_hba.conf",
    "3D000": "create the database, or name another one in the DSN",
    "42501": "grant the privilege to this role; `etl-toolkit db grants ROLE --table TABLE` prints what a load needs",
    "42P01": "create the table first, or pass --create-table",
    "53100": "free disk space on the server",
    "53300": "lower --jobs or raise max_connections",
    "53400": "raise the configured limit (temp_file_limit?) on the server",
    "55P03": "another session holds a lock; see pg_blocking_pids()",
    "57014": "raise statement_timeout",
}


# A connection that is refused has no SQLSTATE in psycopg2, only the server's words, which we know in English.
_REFUSALS = (
    ("too many clients already", "53300"),
    ("too many connections for", "53300"),
    ("remaining connection slots are reserved", "53300"),
    ("the database system is", "57P03"),
    ("the database system has", "57P03"),
    ("password authentication failed", "28P01"),
    ("no password supplied", "28P01"),
    ("no pg_hba.conf entry", "28000"),
    ('" is not permitted to log in', "28000"),
)
_UNKNOWN = re.compile(r'FATAL: +(role|database) ".*" does not exist')


@dataclass(frozen=True)
class DriverFailure:
    """What a psycopg2 error says, without the row data of its DETAIL and CONTEXT."""

    sqlstate: str | None
    message: str


def driver_failure(error: psycopg2.Error) -> DriverFailure:
    """Return SQLSTATE and primary message of `error`; never DETAIL or CONTEXT, which carry row data."""
    primary = error.diag.message_primary
    return DriverFailure(error.pgcode, primary or (str(error).strip().splitlines() or ["connection lost"])[0])


def is_transient(error: psycopg2.Error) -> bool:
    """Whether another attempt may succeed: by SQLSTATE; a lost connection has none."""
    code = error.pgcode
    if code is None:
        return isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)
    return code in TRANSIENT_SQLSTATES or code.startswith("08")


def is_lost_connection(error: DatabaseError) -> bool:
    """Whether the server was away, as opposed to refusing something."""
    code = error.sqlstate
    return isinstance(error, TransientDatabaseError) and (code is None or code.startswith(("08", "57P")))


def reason_of(error: BaseException) -> dict[str, str | None]:
    """SQLSTATE and reason of a transient error, as the facts of an event."""
    if isinstance(error, psycopg2.Error):
        failure = driver_failure(error)
        return {"sqlstate": failure.sqlstate, "reason": failure.message}
    return {"sqlstate": getattr(error, "sqlstate", None), "reason": str(error)}


@contextmanager
def driver_errors_mapped(*, doing: str) -> Iterator[None]:
    """Turn any psycopg2 error that leaves the block into ours."""
    try:
        yield
    except psycopg2.Error as error:
        raise map_driver_error(error, doing=doing) from None


def map_driver_error(error: psycopg2.Error, *, doing: str) -> DatabaseError:
    """Turn a psycopg2 error into ours; `doing` says in words what was being attempted."""
    failure = driver_failure(error)
    code = failure.sqlstate
    advice = ADVICE.get(code or "", "")
    if code is None and "timed out" in failure.message:
        advice = _SILENCE
    text = f"{doing}: {failure.message}" + (f" (SQLSTATE {code})" if code else "") + (f"; {advice}" if advice else "")
    kind = TransientDatabaseError if is_transient(error) else DatabaseError
    return kind(text, code)


def map_connection_failure(error: psycopg2.Error, *, doing: str) -> DatabaseError:
    """Turn a connection that could not be opened into an error of ours, with an SQLSTATE where the server gave a reason."""
    text = str(error)
    code = next((code for words, code in _REFUSALS if words in text), None)
    if code is None and (match := _UNKNOWN.search(text)):
        code = {"role": "28000", "database": "3D000"}[match[1]]
    if code is None:
        return map_driver_error(error, doing=doing)
    message = f"{doing}: {driver_failure(error).message} (SQLSTATE {code})"
    advice = ADVICE.get(code, "")
    kind = TransientDatabaseError if code in TRANSIENT_SQLSTATES else DatabaseError
    return kind(f"{message}; {advice}" if advice else message, code)
