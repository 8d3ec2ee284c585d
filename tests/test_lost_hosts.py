"""Each guard against a host that is lost, and what happens without it: threads take the part of hosts."""

from __future__ import annotations

import threading
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit import ingest
from etl_toolkit.errors import StoppedError, UsageError
from etl_toolkit.hosts import coordinating, exchange, executors, loading
from etl_toolkit.hosts.tasks import LoadRange, SortFiles
from etl_toolkit.loading import failpoints
from etl_toolkit.stopping import Stop
from tests.hosts import (
    FewerThanSaid,
    assert_loaded,
    assert_nothing_is_written,
    config,
    contents,
    create,
    put_down,
    query,
    wait_until,
)


class Losing(ThreadPoolExecutor):
    """Loses the first task of a kind before it is carried out."""

    def __init__(self, kind: type) -> None:
        super().__init__(2)
        self.kind, self.lost = kind, list[Any]()

    def submit(self, work: Any, task: Any) -> Future[Any]:  # type: ignore[override]
        if self.lost or not isinstance(task, self.kind):
            return super().submit(work, task)
        self.lost.append(task)
        lost = Future[Any]()
        lost.set_exception(BrokenExecutor("the host was lost"))
        return lost


@pytest.mark.parametrize("attempts", [2, 1], ids=["carried out again", "control"])
@pytest.mark.parametrize("kind", [SortFiles, LoadRange])
def test_a_task_whose_host_is_lost_is_carried_out_again(
    database: str, connection: Connection, tmp_path: Path, kind: type, attempts: int
) -> None:
    create(connection, contents())
    files, settings = put_down(tmp_path / "in", contents()), config(tmp_path, retry_attempts=attempts)
    with Losing(kind) as pool:
        if attempts > 1:
            assert_loaded(connection, ingest(files, "loaded", "id", database, executor=pool, config=settings), tmp_path)
        else:
            with pytest.raises(BrokenExecutor, match="the host was lost"):
                ingest(files, "loaded", "id", database, executor=pool, config=settings)
            assert_nothing_is_written(connection, tmp_path)
    assert len(pool.lost) == 1


class GivingUp(ThreadPoolExecutor):
    """Gives the first range up when its rows are written, and lets it go on once it is `released`."""

    def __init__(self) -> None:
        super().__init__(3)
        self.released, self.reply, self.mine = threading.Event(), Future[Any](), threading.local()
        self.orphan: Future[Any] | None = None

    def submit(self, work: Any, task: Any) -> Future[Any]:  # type: ignore[override]
        if self.orphan or not isinstance(task, LoadRange):
            return super().submit(work, task)
        self.orphan = super().submit(self.begin, lambda: work(task))
        return self.reply

    def begin(self, work: Any) -> Any:
        self.mine.is_orphan = True
        try:
            return work()
        finally:
            self.mine.is_orphan = False

    def stall(self) -> None:
        if getattr(self.mine, "is_orphan", False) and not self.reply.done():
            self.reply.set_exception(BrokenExecutor("given up"))
            assert self.released.wait(300)


@pytest.mark.parametrize("is_ended", [True, False], ids=["ended", "control"])
def test_the_session_of_a_task_that_was_given_up_is_ended(
    database: str, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_ended: bool
) -> None:
    """Without that, the next attempt waits for it."""
    create(connection, contents())
    files, settings = put_down(tmp_path / "in", contents()), config(tmp_path, commit="per_range")
    if not is_ended:
        monkeypatch.setattr(loading, "take_over", lambda _connection, **_: None)
    with (
        ThreadPoolExecutor(1) as beside,
        GivingUp() as pool,
        failpoints.installed({"copied": pool.stall}),
    ):
        load = beside.submit(ingest, files, "loaded", "id", database, executor=pool, config=settings)
        try:
            if not is_ended:
                waiting = (
                    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() "
                    "AND cardinality(pg_blocking_pids(pid)) > 0"
                )
                wait_until(lambda: query(connection, waiting))
                assert not load.done()
                pool.released.set()
            result = load.result(300)
        finally:
            pool.released.set()
        assert pool.orphan is not None
        pool.orphan.exception(300)  # whatever becomes of it, it changes nothing
    assert_loaded(connection, result, tmp_path)
    assert result.counts.unchanged == 0


@pytest.mark.parametrize("seconds", [0.2, 1e9], ids=["given to the workers that are left", "control"])
def test_a_load_with_too_few_workers_does_not_wait_for_itself(
    database: str, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(coordinating, "NO_WORKER_SECONDS", seconds)
    look, stop, looks = coordinating._Deciding.look, Stop(), list[int]()

    def watch(deciding: coordinating._Deciding) -> None:
        look(deciding)
        looks.append(deciding.holding)
        if seconds > 1 and looks.count(1) == 5:
            stop.set("one task holds, and the other has no worker")

    monkeypatch.setattr(coordinating._Deciding, "look", watch)
    create(connection, contents())
    files = put_down(tmp_path / "in", contents())
    with FewerThanSaid() as pool:
        if seconds > 1:
            with pytest.raises(StoppedError, match="has no worker"):
                ingest(files, "loaded", "id", database, executor=pool, config=config(tmp_path), stop=stop)
            assert_nothing_is_written(connection, tmp_path)
        else:
            result = ingest(files, "loaded", "id", database, executor=pool, config=config(tmp_path), stop=stop)
            assert_loaded(connection, result, tmp_path)


class Rounds(Stop):
    """Counts how often the sign was looked at."""

    number = 0

    def ring(self) -> None:
        self.number += 1
        super().ring()


@pytest.mark.parametrize(
    ("patience", "is_there", "reason"),
    [(0.0, True, "no sign of life"), (1e9, False, "given this task up"), (1e9, True, "")],
    ids=["silent", "gone", "control"],
)
def test_a_task_gives_up_without_a_sign_of_life_of_its_coordinator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: float, is_there: bool, reason: str
) -> None:
    monkeypatch.setattr(exchange, "PATIENCE_SECONDS", patience)
    sign, stop = tmp_path / "running-1", Rounds()
    if is_there:
        sign.touch()
    with exchange.following_coordinator(sign, stop):
        wait_until(lambda: stop.number > 3)
    assert stop.is_set() is bool(reason)
    assert reason in (stop.reason or "")


@pytest.mark.parametrize(
    ("left", "seconds", "is_lost"), [(0, 0.0, True), (1, 0.0, False), (0, 1e9, False)], ids=["none", "one", "control"]
)
def test_whether_workers_are_left_is_asked(
    monkeypatch: pytest.MonkeyPatch, left: int, seconds: float, is_lost: bool
) -> None:
    monkeypatch.setattr(executors, "ASK_SECONDS", 0)
    monkeypatch.setattr(executors, "NO_WORKERS_SECONDS", seconds)
    with ThreadPoolExecutor(1) as pool:
        hosts = executors.Hosts(pool, "2 workers", lambda: left, lambda: pool)
        with pytest.raises(UsageError, match="no worker is left of 2 workers") if is_lost else nullcontext():
            for _ in range(3):
                hosts.check()
