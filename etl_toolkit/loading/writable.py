"""Whether a server accepts writes from this role, checked before the first one: not a standby, nor a read-only role."""

from __future__ import annotations

from typing import Any

from etl_toolkit.errors import TargetError


def is_standby(connection: Any) -> bool:
    """Whether the server is a standby, which takes no writes, not even into temporary tables."""
    return bool(connection.info.parameter_status("in_hot_standby") == "on")


def check_writable(connection: Any) -> None:
    """Raise TargetError if nothing may be written, with the reason. Our sessions are READ WRITE if possible."""
    if is_standby(connection):
        raise TargetError(
            "the server is a standby and accepts no writes; name its primary, or both servers and "
            "target_session_attrs=read-write, in the DSN (`plan` works on a standby)"
        )
    if connection.info.parameter_status("default_transaction_read_only") == "on":
        raise TargetError(
            "default_transaction_read_only is on for this role, database or server, so nothing is written; to write "
            "anyway, put options='-c default_transaction_read_only=off' into the DSN"
        )
