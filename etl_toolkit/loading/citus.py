"""Tables that Citus distributes over nodes: what is done differently for them.

Two workers of ours, whose keys are disjoint, would wait for each other unless a setting says that they may write one shard side
by side. The tripwire is off: a function in DO UPDATE that writes a setting is refused, and rows have the transaction numbers
of their node.
"""

from __future__ import annotations

from typing import Any

import psycopg2

from etl_toolkit.model import TargetTable

_DUPLICATE = "duplicate key value violates unique constraint"


def allow_parallel_writes(cursor: Any, target: TargetTable) -> None:
    """Let the transaction write to the shards of a distributed table while others do."""
    if target.distribution:
        cursor.execute("SET LOCAL citus.all_modifications_commutative = on")


def is_key_violation(error: psycopg2.Error, target: TargetTable) -> bool:
    """Whether a key is in the table already; what a node says arrives as an internal error."""
    if isinstance(error, psycopg2.errors.UniqueViolation):
        return True
    return bool(target.distribution) and error.pgcode == "XX000" and _DUPLICATE in (error.diag.message_primary or "")
