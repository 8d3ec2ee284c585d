"""The tripwire: two workers of one run that meet on a key prove that the plan was wrong to call their keys disjoint.

Parallel lanes share no key, according to the plan. ON CONFLICT waits for a concurrent writer of the same key and then
looks at that row, so every row version that an upsert meets is identified by its transaction; one of another lane of this run
trips the wire. Partitions stay open until the last is loaded, so there one worker would wait for another forever: it is
enough to check which worker waits for which.

Not seen: a row that one lane leaves as it is, in a transaction that began before another lane changed it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from psycopg2.sql import SQL, Composable, Literal

from etl_toolkit.errors import ConflictTripwireError
from etl_toolkit.model import Batch

_MET = "etl_toolkit.met"  # a setting local to the transaction: the transactions whose rows an upsert met


@dataclass(frozen=True)
class Rivals:
    """Whose rows a batch must not meet: all that were written since `horizon`, but for those of its own lane.

    Transactions are identified by the number in their rows (`xmin`), as text.
    """

    run_id: str
    batch: Batch
    horizon: str
    own: tuple[str, ...]


def horizon(connection: Any) -> str:
    """Return the number of the first transaction that is still to come."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::xid::text")
        return str(cursor.fetchone()[0])


def rivals(cursor: Any, run_id: str, batch: Batch, lane: Iterable[Batch], since: str) -> Rivals:
    """Return the rivals of a claimed batch; `lane` are the batches that are loaded one after the other with it."""
    cursor.execute(
        "SELECT coalesce(array_agg(DISTINCT wrote::text), '{}') FROM etl_toolkit.batches, "
        "LATERAL (VALUES (transaction_id::xid), (version)) AS writers (wrote) WHERE run_id = %s AND number = ANY(%s) "
        "AND wrote IS NOT NULL",
        (run_id, [item.number for item in lane]),
    )
    return Rivals(run_id, batch, since, tuple(cursor.fetchone()[0]))


def own_rivals(cursor: Any, run_id: str, batch: Batch) -> Rivals:
    """Return the rivals of a batch that shares its transaction with others, which nobody waits for: all rows written since."""
    cursor.execute("SELECT pg_catalog.pg_current_xact_id()::xid::text")
    return Rivals(run_id, batch, cursor.fetchone()[0], ())


def guarded(found: Rivals | None, condition: Composable) -> Composable:
    """The condition of DO UPDATE, which also notes whose row version in `etl_target` it looks at."""
    if found is None:
        return condition
    return SQL(
        "CASE WHEN pg_catalog.age(etl_target.xmin) <= pg_catalog.age({horizon}::xid) "
        "AND etl_target.xmin <> ALL ({own}::xid[]) "
        "AND pg_catalog.strpos({met}, ',' || etl_target.xmin::text || ',') = 0 "
        "THEN pg_catalog.set_config({name}, pg_catalog.left({met} || etl_target.xmin::text || ',', 8000), true) IS NOT NULL "
        "AND {condition} ELSE {condition} END"
    ).format(
        horizon=Literal(found.horizon), own=Literal(list(found.own)), name=Literal(_MET), condition=condition,
        met=SQL("coalesce(nullif(pg_catalog.current_setting({}, true), ''), ',')").format(Literal(_MET)),
    )  # fmt: skip


def check(cursor: Any, found: Rivals) -> None:
    """Raise ConflictTripwireError where an upsert of this transaction met a row of another lane."""
    cursor.execute(
        "SELECT label FROM etl_toolkit.batches WHERE run_id = %s AND ARRAY[transaction_id::xid::text, version::text] && "
        "pg_catalog.string_to_array(pg_catalog.current_setting(%s, true), ',') ORDER BY number LIMIT 1",
        (found.run_id, _MET),
    )
    if met := cursor.fetchone():
        raise tripped(found.batch.label, met[0])


def check_kept(cursor: Any, found: Rivals, kept: Composable) -> None:
    """The same for rows that DO NOTHING left alone: `kept` are the numbers of the transactions that wrote them."""
    cursor.execute(
        SQL(
            "SELECT label FROM etl_toolkit.batches WHERE run_id = {} AND transaction_id::xid <> ALL ({}::xid[]) "
            "AND ARRAY[transaction_id::xid, version] && ARRAY({}) ORDER BY number LIMIT 1"
        ).format(Literal(found.run_id), Literal(list(found.own)), kept)
    )
    if met := cursor.fetchone():
        raise tripped(found.batch.label, met[0])


def check_waiting(cursor: Any, run_id: str) -> None:
    """Raise ConflictTripwireError where a worker of the run waits for a row of another one.

    A batch that waits for its own earlier attempt, whose connection was lost, does not count.
    """
    cursor.execute(
        "SELECT w.application_name, b.application_name FROM pg_catalog.pg_stat_activity w "
        "CROSS JOIN LATERAL unnest(pg_catalog.pg_blocking_pids(w.pid)) AS blocking (pid) "
        "JOIN pg_catalog.pg_stat_activity b ON b.pid = blocking.pid "
        "WHERE w.wait_event_type = 'Lock' AND w.wait_event IN ('transactionid', 'tuple', 'spectoken') "
        "AND pg_catalog.starts_with(w.application_name, %(run)s) AND pg_catalog.starts_with(b.application_name, %(run)s) "
        "AND pg_catalog.split_part(w.application_name, ':', 1) <> pg_catalog.split_part(b.application_name, ':', 1) LIMIT 1",
        {"run": f"etl_toolkit {run_id} "},
    )
    if met := cursor.fetchone():
        raise tripped(*(name.removeprefix(f"etl_toolkit {run_id} ") for name in met))


def wait_for_nobody(cursor: Any) -> None:
    """Let the transaction fail with LockNotAvailable if it would wait for another, before the server checks for deadlocks."""
    cursor.execute("SET LOCAL lock_timeout = '200ms'")


def is_waited_for(cursor: Any) -> bool:
    """Whether any session waits for this transaction: for a row that it has written, or for a table."""
    cursor.execute(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks WHERE NOT granted "
        "AND pg_catalog.pg_backend_pid() = ANY (pg_catalog.pg_blocking_pids(pid)))"
    )
    return bool(cursor.fetchone()[0])


def tripped(left: str, right: str) -> ConflictTripwireError:
    """The error that names the two batches that met."""
    return ConflictTripwireError(
        f"{left} and {right} met on one key although the plan had proven their keys to be disjoint; the load is stopped. Load "
        "with --strategy deterministic, and please report the types of the key columns"
    )
