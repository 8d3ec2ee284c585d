"""Loads, faults, replays, resumed runs and changes by strangers, in any order: the table is always what the model says.

The model is a second table that only the oracle and the strangers write to.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from psycopg2.extensions import connection as Connection

from etl_toolkit import ConflictAwareProcessor, ParallelConfig, ingest
from etl_toolkit.errors import UnsafeStrategyError
from etl_toolkit.loading import failpoints
from tests.fault_worker import nth
from tests.oracle import Oracle, Rows, differing_rows, write

pytestmark = pytest.mark.faults

CONFIG = ParallelConfig(chunk_size=4, sub_batch_size=3, retry_attempts=8)
POINTS = tuple(point for point in failpoints.POINTS if point not in ("scanned", "staged", "dropping"))

keys = st.integers(1, 9).map(str)
rows = st.tuples(keys, st.sampled_from((None, "1", "2", "3")), st.sampled_from((None, "", "a", "b,\n", '"')))
contents = st.lists(
    st.lists(rows, min_size=1, max_size=6).map(lambda drawn: Rows(("id", "seen", "v"), tuple(drawn))),
    min_size=1, max_size=3, unique=True,
)  # fmt: skip
strategies = st.sampled_from(("auto", "full_parallel", "hybrid", "deterministic", "streaming", "partitioned"))
workers = st.integers(1, 3)
actions = st.sampled_from((("update", None), ("update", "seen"), ("ignore", None), ("newer", "seen")))


class StopError(Exception):
    """The fault that no other attempt gets past."""


class Table(RuleBasedStateMachine):
    dsn: str
    connection: Connection

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory(prefix="etl_test_")
        self.loads = 0
        self.last: tuple[list[Rows], tuple[str, str | None]] | None = None

    def teardown(self) -> None:
        self.directory.cleanup()

    @initialize(key_type=st.sampled_from(("int", "numeric")), filled=st.booleans())
    def create(self, key_type: str, filled: bool) -> None:
        with self.connection.cursor() as cursor:
            for name in ("loaded", "expected"):
                cursor.execute(f"DROP TABLE IF EXISTS {name}")
                cursor.execute(
                    f"CREATE TABLE {name} (id {key_type} PRIMARY KEY, seen int, v text, note text DEFAULT 'own')"
                )
                if filled:
                    cursor.execute(f"INSERT INTO {name} SELECT n, n, 'before', 'before' FROM generate_series(2, 6) n")

    @rule(drawn=contents, strategy=strategies, count=workers, action=actions)
    def load(self, drawn: list[Rows], strategy: str, count: int, action: tuple[str, str | None]) -> None:
        self._load(drawn, strategy, count, action)

    @precondition(lambda self: self.last is not None)
    @rule(strategy=strategies, count=workers)
    def replay(self, strategy: str, count: int) -> None:
        assert self.last is not None
        self._load(self.last[0], strategy, count, self.last[1])

    def _load(self, drawn: list[Rows], strategy: str, count: int, action: tuple[str, str | None]) -> None:
        try:
            assert ingest(self._files(drawn), "loaded", "id", self.dsn, **self._options(strategy, count, action))
        except UnsafeStrategyError:
            return
        self._expect(drawn, action)

    @rule(
        drawn=contents, strategy=strategies, count=workers, action=actions, point=st.sampled_from(POINTS),
        number=st.integers(1, 2), role=st.sampled_from(("coordinator$", "file", "partition|worker")),
    )  # fmt: skip
    def load_while_a_backend_is_killed(
        self,
        drawn: list[Rows],
        strategy: str,
        count: int,
        action: tuple[str, str | None],
        point: str,
        number: int,
        role: str,
    ) -> None:
        def kill() -> None:
            with psycopg2.connect(self.dsn) as admin, admin.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND application_name LIKE 'etl_toolkit%%' AND application_name ~ %s LIMIT 1",
                    (role,),
                )
            admin.close()

        with failpoints.installed({point: nth(number, kill)}):
            self._load(drawn, strategy, count, action)

    @rule(
        drawn=contents, strategy=strategies, count=workers, action=actions, point=st.sampled_from(POINTS),
        number=st.integers(1, 3), then=st.sampled_from(("run again", "resume", "resume with other workers")),
        by=strategies,
    )  # fmt: skip
    def load_that_is_broken_off(
        self, drawn: list[Rows], strategy: str, count: int, action: tuple[str, str | None], point: str, number: int,
        then: str, by: str,
    ) -> None:  # fmt: skip
        def stop() -> None:
            raise StopError

        files = self._files(drawn)
        try:
            with failpoints.installed({point: nth(number, stop)}):
                ingest(files, "loaded", "id", self.dsn, **self._options(strategy, count, action))
        except UnsafeStrategyError:
            return
        except StopError:
            try:
                self._go_on(files, then, by, count, action)
            except UnsafeStrategyError:
                self._go_on(files, then, "auto", count, action)
        self._expect(drawn, action)

    def _go_on(self, files: list[Any], then: str, by: str, count: int, action: tuple[str, str | None]) -> None:
        if then == "run again":
            assert ingest(files, "loaded", "id", self.dsn, **self._options(by, count, action))
            return
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT run_id, status FROM etl_toolkit.runs ORDER BY started_at DESC LIMIT 1")
            ((run_id, status),) = cursor.fetchall()
        assert status == "failed"
        other = 4 - count if then == "resume with other workers" else count
        assert ConflictAwareProcessor(self.dsn, config=CONFIG, concurrency=other).resume(run_id)

    @rule(
        change=st.sampled_from((
            "UPDATE {} SET v = 'theirs' WHERE id % 2 = 0", "DELETE FROM {} WHERE id > 6", "UPDATE {} SET seen = NULL",
            "INSERT INTO {} VALUES (7, 2, 'theirs') ON CONFLICT DO NOTHING", "UPDATE {} SET note = 'theirs' WHERE id < 4",
        ))
    )  # fmt: skip
    def a_stranger_writes(self, change: str) -> None:
        with self.connection.cursor() as cursor:
            for name in ("loaded", "expected"):
                cursor.execute(change.format(name))

    @invariant()
    def table_is_model(self) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('expected') IS NOT NULL")
            if cursor.fetchone() == (True,):
                assert differing_rows(self.connection, "loaded", "expected") == []

    def _files(self, drawn: Sequence[Rows]) -> list[Any]:
        self.loads += 1
        place = Path(self.directory.name)
        return [
            write(content, place, f"load{self.loads}_{number}", ("csv", "parquet", "quoted")[number % 3])  # type: ignore[arg-type]
            for number, content in enumerate(drawn)
        ]

    def _options(self, strategy: str, count: int, action: tuple[str, str | None]) -> dict[str, Any]:
        return {
            "strategy": strategy, "concurrency": count, "on_conflict": action[0], "order_by": action[1], "config": CONFIG,
        }  # fmt: skip

    def _expect(self, drawn: list[Rows], action: tuple[str, str | None]) -> None:
        Oracle("expected", ("id",), action[0], action[1]).load(self.connection, drawn)  # type: ignore[arg-type]
        self.last = (drawn, action)


def test_the_table_is_always_what_the_model_says(shared: tuple[str, Connection]) -> None:
    machine: Callable[[], Table] = type("Machine", (Table,), {"dsn": shared[0], "connection": shared[1]})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=12,
            stateful_step_count=8,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
