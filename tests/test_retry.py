"""What is tried again, for how long, and what is not."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from psycopg2.extensions import make_dsn

from etl_toolkit import ParallelConfig, ingest
from etl_toolkit.errors import DatabaseError, TransientDatabaseError
from etl_toolkit.loading.retry import run_with_retry, wait_for_server
from etl_toolkit.loading.session import Sessions

CONFIG = ParallelConfig(retry_attempts=5, retry_budget_seconds=0.3)


def failing(times: int, *, seconds: float = 0.0, sqlstate: str | None = None) -> Callable[[], int]:
    """A task that takes a while and fails a given number of times; it returns how often it was called."""
    calls = 0

    def task() -> int:
        nonlocal calls
        calls += 1
        time.sleep(seconds)
        if calls <= times:
            raise TransientDatabaseError("lost", sqlstate)
        return calls

    return task


def silent(_attempt: int, _error: BaseException) -> None:
    """Ignore the retry."""


def test_an_attempt_that_worked_for_longer_than_the_budget_is_tried_again() -> None:
    assert run_with_retry(failing(1, seconds=0.5), CONFIG, on_retry=silent) == 2


def test_the_budget_counts_from_the_first_failure() -> None:
    with pytest.raises(TransientDatabaseError):
        run_with_retry(failing(4, seconds=0.2), CONFIG, on_retry=silent)


def test_attempts_are_counted() -> None:
    with pytest.raises(TransientDatabaseError):
        run_with_retry(failing(5), replace(CONFIG, retry_budget_seconds=60), on_retry=silent)


def test_a_server_that_is_away_is_asked_for_as_long_as_the_budget_lasts() -> None:
    config = replace(CONFIG, retry_budget_seconds=60)
    assert wait_for_server(failing(8), config, on_retry=silent, sleep=lambda _: None) == 9


def test_a_server_that_stays_away_is_an_error_that_is_not_tried_again() -> None:
    with pytest.raises(DatabaseError, match=r"lost; the server was away for 0.3 s \(retry_budget_seconds\)") as failure:
        wait_for_server(failing(1000), CONFIG, on_retry=silent, sleep=time.sleep)

    assert not isinstance(failure.value, TransientDatabaseError)


@pytest.mark.parametrize(
    ("change", "sqlstate"),
    [({"password": "wrong"}, "28P01"), ({"dbname": "no_such_database"}, "3D000"), ({"user": "no_such_role"}, "28")],
)
def test_a_connection_that_is_refused_for_good_is_not_tried_again(
    database: str, change: dict[str, str], sqlstate: str
) -> None:
    with pytest.raises(DatabaseError) as failure:
        Sessions(make_dsn(database, **change), CONFIG).connect("test")

    assert not isinstance(failure.value, TransientDatabaseError)
    assert str(failure.value.sqlstate).startswith(sqlstate)


def test_a_server_that_was_never_there_is_reported_at_once(database: str) -> None:
    started = time.monotonic()
    with pytest.raises(DatabaseError) as failure:
        Sessions(make_dsn(database, port=1), ParallelConfig()).connect("test")

    assert time.monotonic() - started < 5
    assert not isinstance(failure.value, TransientDatabaseError)


def test_a_server_that_has_no_connection_left_for_the_first_one_is_tried_again(database: str, connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DROP ROLE IF EXISTS etl_soon; CREATE ROLE etl_soon LOGIN PASSWORD 'p' CONNECTION LIMIT 0")
        cursor.execute(f"GRANT CREATE ON DATABASE {connection.info.dbname} TO etl_soon")
        cursor.execute("CREATE SCHEMA AUTHORIZATION etl_soon")

    def on_event(event: Any) -> None:
        if event.name == "retry":
            with connection.cursor() as cursor:
                cursor.execute("ALTER ROLE etl_soon CONNECTION LIMIT -1")

    dsn = make_dsn(database, user="etl_soon", password="p")
    try:
        frame = pa.table({"id": [1]})
        assert ingest(frame, "etl_soon.t", "id", dsn, create_table=True, on_event=on_event).counts.inserted == 1
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP OWNED BY etl_soon CASCADE; DROP ROLE etl_soon")


def test_a_full_server_is_tried_again_and_named_by_its_sqlstate(database: str, connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DROP ROLE IF EXISTS etl_none; CREATE ROLE etl_none LOGIN PASSWORD 'p' CONNECTION LIMIT 0")
    try:
        with pytest.raises(TransientDatabaseError, match="lower --jobs or raise max_connections") as failure:
            Sessions(make_dsn(database, user="etl_none", password="p"), CONFIG).connect("test")
        assert failure.value.sqlstate == "53300"
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP ROLE etl_none")
