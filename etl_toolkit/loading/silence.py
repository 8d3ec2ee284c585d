"""After how long a silent peer is given up: the server by the client, and the client by the server."""

from __future__ import annotations

from typing import Any

from etl_toolkit.config import ParallelConfig

# A client that is killed, or cut off, leaves its statement running to the end, with its locks, unless the server looks for
# the client. Not every system that a server runs on can tell, and there the settings are refused or not known.
_LOOK_FOR_THE_CLIENT = (
    "CASE WHEN pg_catalog.version() ~* '(linux|darwin|bsd)' THEN pg_catalog.concat("
    "pg_catalog.set_config('client_connection_check_interval', '1000', false), "
    "pg_catalog.set_config('tcp_keepalives_idle', %s, false), "
    "pg_catalog.set_config('tcp_keepalives_interval', %s, false), "
    "pg_catalog.set_config('tcp_keepalives_count', %s, false)) END, "
    "CASE WHEN pg_catalog.version() ~* 'linux' THEN pg_catalog.set_config('tcp_user_timeout', %s, false) END"
)
_KEEPALIVES = 3  # of them unanswered, and the peer is gone


def server_timeouts(config: ParallelConfig) -> tuple[str, list[str]]:
    """The SQL expressions by which the server looks for its client, with their parameters."""
    seconds = config.network_timeout_seconds
    return _LOOK_FOR_THE_CLIENT, [str(item) for item in (*_keepalives(seconds), round(seconds * 1000))]


def client_timeouts(config: ParallelConfig) -> dict[str, Any]:
    """After how long the client gives a silent server up.

    A server that waits for a lock does not read what is sent to it, and to the network that is silence as well.
    """
    seconds = config.network_timeout_seconds
    if not seconds:
        return {"keepalives": 1}
    idle, interval, count = _keepalives(seconds)
    unread = round((seconds + config.lock_timeout_seconds) * 1000) if config.lock_timeout_seconds else 0
    return {
        "keepalives": 1, "keepalives_idle": idle, "keepalives_interval": interval, "keepalives_count": count,
        "tcp_user_timeout": unread,
    }  # fmt: skip


def _keepalives(seconds: float) -> tuple[int, int, int]:
    """Idle time, interval and number of the keepalives after which a silent peer is given up; 0: the system's own."""
    if not seconds:
        return 0, 0, 0
    return max(1, round(seconds / 2)), max(1, round(seconds / 2 / _KEEPALIVES)), _KEEPALIVES
