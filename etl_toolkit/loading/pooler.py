"""Poolers: programs between client and server that share a few server sessions among many clients."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

from etl_toolkit.errors import PoolerError

LOOKS = 4


def is_pooled(connection: Any) -> bool:
    """Whether something else answered at connect time: it announced a different process than the one that serves us."""
    return bool(connection.info.backend_pid != _process(connection))


def refuse_transaction_pooler(connection: Any, connect: Callable[[], Any]) -> None:
    """Raise PoolerError where sessions are given to us for a transaction only; nothing is set or written before.

    The proof: two clients at once are served by one process, or one client by two. `connect` opens the second client.
    """
    if not is_pooled(connection):
        return
    with closing(connect()) as other:
        looks = [(_process(connection), _process(other)) for _ in range(LOOKS)]
    mine, theirs = ({pair[at] for pair in looks} for at in (0, 1))
    if len(mine) > 1 or mine & theirs:
        raise PoolerError(
            "a pooler in transaction mode is between client and server: the lock on the table, temporary tables and settings would "
            "end up with other clients; connect to the server directly, or to a pool with pool_mode = session"
        )


def _process(connection: Any) -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_catalog.pg_backend_pid()")
        process = int(cursor.fetchone()[0])
    connection.commit()
    return process
