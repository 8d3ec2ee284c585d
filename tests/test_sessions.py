"""Sessions that are used again: one to a worker, whatever number of batches it loads, and none that is half done."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import make_dsn

from etl_toolkit import ParallelConfig, ingest
from etl_toolkit.errors import TransientDatabaseError
from etl_toolkit.loading.session import Sessions, _cut


@pytest.fixture
def sessions(database: str) -> Iterator[Sessions]:
    made = Sessions(database, ParallelConfig(), "run")
    yield made
    made.close_idle()


def ask(connection: Any, question: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(question)
        return cursor.fetchone()[0]


def process(connection: Any) -> int:
    return int(ask(connection, "SELECT pg_backend_pid()"))


@pytest.mark.parametrize("strategy", ["deterministic", "streaming", "full_parallel", "hybrid"])
def test_a_worker_loads_all_its_batches_in_one_session(
    database: str, connection: Connection, tmp_path: Path, strategy: Any
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE loaded (k int PRIMARY KEY, v int, by int DEFAULT pg_backend_pid())")
    connection.commit()
    for number in range(12):
        shared = -1 if strategy in ("deterministic", "streaming") else -number
        (tmp_path / f"{number:02}.csv").write_text(f"k,v\n{number},{number}\n{shared - 1},{number}\n")

    ingest(tmp_path / "*.csv", "loaded", "k", database, strategy=strategy, concurrency=2)

    assert ask(connection, "SELECT count(DISTINCT by) FROM loaded") <= 2
    assert ask(connection, "SELECT count(*) FROM loaded WHERE k >= 0 AND v = k") == 12


def test_a_session_goes_by_the_name_of_whoever_has_it(sessions: Sessions) -> None:
    with sessions.lend("first") as one:
        first = process(one)
    with sessions.lend("second") as two:
        assert process(two) == first
        assert ask(two, "SELECT current_setting('application_name')") == "etl_toolkit run second"


def test_nothing_that_was_not_committed_is_left_in_a_session(sessions: Sessions) -> None:
    with sessions.lend("first") as one:
        ask(one, "CREATE TEMP TABLE staged AS SELECT 1 AS v; SELECT v FROM staged")
    with sessions.lend("second") as two:
        assert ask(two, "SELECT to_regclass('pg_temp.staged')") is None


def test_a_session_may_begin_with_a_snapshot_of_its_own(sessions: Sessions) -> None:
    with sessions.lend("first") as one:
        process(one)
    with sessions.lend("second") as two, two.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        assert ask(two, "SHOW transaction_isolation") == "repeatable read"


def test_a_session_in_which_something_failed_is_not_used_again(sessions: Sessions) -> None:
    with suppress(ZeroDivisionError), sessions.lend("first") as one:
        first = process(one)
        raise ZeroDivisionError
    with sessions.lend("second") as two:
        assert process(two) != first


def test_a_session_that_is_lost_while_it_is_idle_is_replaced(sessions: Sessions, connection: Connection) -> None:
    with sessions.lend("first") as one:
        first = process(one)
    ask(connection, f"SELECT pg_terminate_backend({first}, 5000)")
    with sessions.lend("second") as two:
        assert process(two) != first


def test_a_session_that_is_used_again_ends_one_whose_connection_broke(sessions: Sessions) -> None:
    """The server may not have noticed, and what the lost session has locked is waited for."""
    with sessions.lend("kept") as kept:
        mine = process(kept)
        with suppress(psycopg2.Error), sessions.lend("broken") as broken:
            ask(broken, "SELECT pg_advisory_lock(1)::text")
            _cut(broken)
            ask(broken, "SELECT 1")
    with sessions.lend("next") as again:
        assert process(again) == mine
        assert ask(again, "SET lock_timeout = '5s'; SELECT pg_advisory_xact_lock(1)::text") == ""
        assert not sessions._lost


def test_idle_sessions_are_closed_at_the_end(sessions: Sessions, connection: Connection) -> None:
    with sessions.lend("first") as one, sessions.lend("second") as two:
        mine = {process(one), process(two)}
    sessions.close_idle()

    assert one.closed
    assert two.closed
    assert len(mine) == 2


def test_cleaning_up_waits_for_the_slots_of_sessions_that_were_just_closed(
    database: str, connection: Connection
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE ROLE etl_one LOGIN PASSWORD 'secret' CONNECTION LIMIT 1")
    sessions = Sessions(make_dsn(database, user="etl_one", password="secret"), ParallelConfig(), "run")
    last = sessions.connect("worker")
    try:
        closing = threading.Timer(0.5, last.close)
        closing.start()
        with pytest.raises(TransientDatabaseError, match="too many connections"):
            sessions.connect("control", waits=False)
        with sessions.session("cleanup", is_spared=True) as cleanup:
            assert ask(cleanup, "SELECT 1") == 1
    finally:
        closing.join()
        with connection.cursor() as cursor:
            cursor.execute("DROP ROLE etl_one")
