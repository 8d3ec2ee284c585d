"""Stopped means stopped: every way to stop a load ends it soon, in every phase, and nothing is committed afterwards.

Each phase is made to last half a minute, so a load that goes on to the end of its phase fails the test.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit import ConflictAwareProcessor, ParallelConfig, ingest
from etl_toolkit.errors import StoppedError, TransientDatabaseError
from etl_toolkit.loading import failpoints, ledger
from etl_toolkit.loading.session import Sessions
from etl_toolkit.prepare import reading, ready
from etl_toolkit.request import load_spec
from etl_toolkit.sources import csv_file
from etl_toolkit.stopping import Stop
from etl_toolkit.workspace import Workspace

LONG_SECONDS = 30
SOON_SECONDS = 5  # about one where nothing else uses the machine
LONG_QUERY = "SELECT sum(a.range * b.range) FROM range(10000000) a, range(1000000) b"

Reached = Callable[[], bool]


@dataclass(frozen=True)
class Scene:
    """A table `t`, two files for it, and where to hold things up."""

    database: str
    connection: Connection
    files: list[str]
    monkeypatch: pytest.MonkeyPatch

    def execute(self, statement: str) -> list[Any]:
        with self.connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def is_asleep(self) -> bool:
        return bool(self.execute("SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))

    def is_locked_out(self) -> bool:
        return bool(self.execute("SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    directory = tmp_path_factory.mktemp("files")
    paths = [directory / f"{number}.csv" for number in range(2)]
    for number, path in enumerate(paths):
        path.write_text("id,value\n" + "".join(f"{number * 150_000 + n},{'x' * 20}\n" for n in range(200_000)))
    return list(map(str, paths))


@pytest.fixture
def scene(database: str, connection: Connection, files: list[str], monkeypatch: pytest.MonkeyPatch) -> Scene:
    made = Scene(database, connection, files, monkeypatch)
    made.execute("CREATE TABLE t (id bigint PRIMARY KEY, value text)")
    return made


@contextmanager
def slow_look(scene: Scene) -> Iterator[Reached]:
    reached, take = threading.Event(), csv_file.Examination.take

    def slowly(self: Any, *arguments: Any) -> None:
        reached.set()
        time.sleep(LONG_SECONDS / 60)
        take(self, *arguments)

    scene.monkeypatch.setattr(csv_file.Examination, "take", slowly)
    scene.monkeypatch.setattr("etl_toolkit.sources.structure.BLOCK_BYTES", 1 << 14)
    scene.monkeypatch.setattr(csv_file.pieces, "__kwdefaults__", {**csv_file.pieces.__kwdefaults__, "window": 1 << 14})
    yield reached.is_set


@contextmanager
def slow_query(scene: Scene, place: Any, name: str) -> Iterator[Reached]:
    reached, real = threading.Event(), getattr(place, name)

    def slowly(*arguments: Any, **options: Any) -> Any:
        workspace = next(item for item in arguments if isinstance(item, Workspace))
        reached.set()
        workspace.query(LONG_QUERY)
        return real(*arguments, **options)

    scene.monkeypatch.setattr(place, name, slowly)
    yield reached.is_set


@contextmanager
def locked_table(scene: Scene) -> Iterator[Reached]:
    holder = psycopg2.connect(scene.database)
    holder.cursor().execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
    yield scene.is_locked_out
    holder.close()


@contextmanager
def other_run(scene: Scene) -> Iterator[Reached]:
    waiting = threading.Event()
    real = ledger.lock_table

    def told(*arguments: Any, **options: Any) -> None:
        waiting.set()
        real(*arguments, **options)

    scene.monkeypatch.setattr(ledger, "lock_table", told)
    with Sessions(scene.database, ParallelConfig()).session("other") as holder:
        ((oid,),) = scene.execute("SELECT 't'::regclass::oid::bigint")
        real(holder, oid, "t", wait_seconds=0)
        yield waiting.is_set


@contextmanager
def slow_point(point: str, error: Exception | None = None) -> Iterator[Reached]:
    reached = threading.Event()

    def act() -> None:
        reached.set()
        if error:
            raise error
        time.sleep(LONG_SECONDS / 60)

    with failpoints.installed({point: act}):
        yield reached.is_set


@contextmanager
def sleeping_trigger(scene: Scene, when: str) -> Iterator[Reached]:
    scene.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
        f"'BEGIN PERFORM pg_sleep({LONG_SECONDS}); RETURN NEW; END'"
    )
    scene.execute(
        f"CREATE {when} ON t {{}} FOR EACH ROW EXECUTE FUNCTION slow()".format(DEFERRED if "CONS" in when else "")
    )
    yield scene.is_asleep


DEFERRED = "DEFERRABLE INITIALLY DEFERRED"

PHASES: dict[str, tuple[str, Callable[[Scene], Any]]] = {
    "look": ("auto", slow_look),
    "read": ("auto", lambda scene: slow_query(scene, reading, "scan")),
    "rank": ("auto", lambda scene: slow_query(scene, ready, "collapse")),
    "plan": ("auto", locked_table),
    "wait for another run": ("auto", other_run),
    "send": ("partitioned", lambda _: slow_point("copying")),
    "send in order": ("deterministic", lambda _: slow_point("copying")),
    "wait before another attempt": (
        "deterministic",
        lambda _: slow_point("claimed", TransientDatabaseError("made up", "40P01")),
    ),
    "settle": ("deterministic", lambda scene: sleeping_trigger(scene, "TRIGGER slow BEFORE INSERT")),
    "commit": ("deterministic", lambda scene: sleeping_trigger(scene, "CONSTRAINT TRIGGER slow AFTER INSERT")),
}


CONFIG: dict[str, Any] = {"concurrency": 2, "lock_wait_seconds": LONG_SECONDS, "retry_attempts": 1000}


def by_the_token(scene: Scene, strategy: str, when: Reached) -> float:
    stop, processor = Stop(), ConflictAwareProcessor(scene.database, config=ParallelConfig(**CONFIG))
    with stopped_when(when, stop.set) as at, pytest.raises(StoppedError):
        processor.load(scene.files, load_spec("t", "id", strategy=strategy), stop)
    return time.monotonic() - at[0]


def by_ctrl_c(scene: Scene, strategy: str, when: Reached) -> float:
    def press() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with stopped_when(when, press) as at, pytest.raises(KeyboardInterrupt):
        ingest(scene.files, "t", "id", scene.database, strategy=strategy, config=ParallelConfig(**CONFIG))
    return time.monotonic() - at[0]


def by_cancelling_the_task(scene: Scene, strategy: str, when: Reached) -> float:
    processor = ConflictAwareProcessor(scene.database, config=ParallelConfig(**CONFIG))

    async def load() -> float:
        task = asyncio.ensure_future(processor.process_with_strategy(scene.files, "t", ["id"], strategy=strategy))
        while not when() and not task.done():
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.2)
        at = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - at

    return asyncio.run(load())


def by_a_time_limit(scene: Scene, strategy: str, when: Reached) -> float:
    limit, began = 2, time.monotonic()
    config = ParallelConfig(**CONFIG, time_limit_seconds=limit)
    with pytest.raises(StoppedError, match="the time limit of 2 s is over"):
        ingest(scene.files, "t", "id", scene.database, strategy=strategy, config=config)
    return time.monotonic() - began - limit


@contextmanager
def stopped_when(reached: Reached, stop: Callable[[], None]) -> Iterator[list[float]]:
    """Call `stop` a moment after a phase was reached; the list then holds when that was."""
    at: list[float] = []

    def watch() -> None:
        deadline = time.monotonic() + LONG_SECONDS
        while not reached() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.2)
        at.append(time.monotonic())
        stop()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield at
    finally:
        watcher.join()


@pytest.mark.parametrize("way", [by_the_token, by_ctrl_c, by_cancelling_the_task, by_a_time_limit])
@pytest.mark.parametrize("phase", PHASES)
def test_a_load_that_is_stopped_ends_soon_and_writes_nothing(scene: Scene, phase: str, way: Any) -> None:
    strategy, held_up = PHASES[phase]
    with held_up(scene) as reached:
        seconds = way(scene, strategy, reached)
    assert seconds < SOON_SECONDS
    assert scene.execute("SELECT count(*) FROM t") == [(0,)]
    still_at_it = "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'etl_toolkit%'"
    deadline = time.monotonic() + SOON_SECONDS  # a server ends a session a moment after its client
    while (left := scene.execute(still_at_it)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []
    if scene.execute("SELECT to_regclass('etl_toolkit.runs')") != [(None,)]:
        assert {status for (status,) in scene.execute("SELECT status FROM etl_toolkit.runs")} <= {"interrupted"}


def test_what_was_committed_before_the_stop_is_reported_and_the_run_goes_on(scene: Scene) -> None:
    stop = Stop()
    processor = ConflictAwareProcessor(
        scene.database, on_event=lambda event: stop.set() if event.name == "batch_done" else None
    )
    with pytest.raises(StoppedError) as stopped:
        processor.load(scene.files, load_spec("t", "id", strategy="deterministic"), stop)
    written = scene.execute("SELECT count(*) FROM t")[0][0]
    assert (written, stopped.value.committed_rows) == (200_000, 200_000)
    assert "1 of 2 batches were committed before (200,000 rows written)" in str(stopped.value)
    assert processor.resume(stopped.value.run_id)
    assert scene.execute("SELECT count(*) FROM t") == [(350_000,)]


@pytest.mark.parametrize("strategy", ["partitioned", "deterministic"])
def test_a_stop_after_the_last_commit_finds_the_load_complete(scene: Scene, strategy: str) -> None:
    stop = Stop()
    with failpoints.installed({"finishing": stop.set}):
        result = ConflictAwareProcessor(scene.database).load(scene.files, load_spec("t", "id", strategy=strategy), stop)
    assert result
    assert scene.execute("SELECT status FROM etl_toolkit.runs") == [("complete",)]


def test_key_ranges_commit_together_or_not_at_all_whenever_the_stop_comes(scene: Scene) -> None:
    stop = Stop()
    config = ParallelConfig(concurrency=2)
    with failpoints.installed({"committed": stop.set}):
        spec = load_spec("t", "id", strategy="partitioned")
        assert ConflictAwareProcessor(scene.database, config=config).load(scene.files, spec, stop)
    assert scene.execute("SELECT count(*) FROM t") == [(350_000,)]


def test_a_server_that_does_not_answer_is_left(scene: Scene) -> None:
    """Its processes are frozen, so no cancel request is obeyed and no statement returns."""
    stop, reached = Stop(), threading.Event()
    frozen: list[int] = []

    def freeze() -> None:
        workers = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'etl_toolkit%'"
        frozen.extend(pid for (pid,) in scene.execute(workers))
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        reached.set()

    try:
        with failpoints.installed({"copied": freeze}), stopped_when(reached.is_set, stop.set) as at:
            with pytest.raises(StoppedError):
                ConflictAwareProcessor(scene.database).load(
                    scene.files, load_spec("t", "id", strategy="deterministic"), stop
                )
            assert time.monotonic() - at[0] < 2 * SOON_SECONDS
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    assert scene.execute("SELECT count(*) FROM t") == [(0,)]


# --- the command line ----------------------------------------------------------------------------------------------------

SLOW_LOOK = """
import time
from etl_toolkit.sources import csv_file
def slowly(*_): time.sleep(0.2)
csv_file.Examination.take = slowly
csv_file.pieces = lambda *_, **__: iter(range(150))
"""
SLOW_QUERY = f"""
from etl_toolkit.prepare import reading
reading.scan = lambda files, key, workspace, **_: workspace.query("{LONG_QUERY}")
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("patch", [SLOW_LOOK, SLOW_QUERY], ids=["look", "read"])
@pytest.mark.parametrize("command", ["ingest", "plan"])
def test_a_signal_ends_a_command_before_anything_is_written(
    scene: Scene, number: int, code: int, patch: str, command: str
) -> None:
    words = [command, *scene.files, "--table", "t", "--key", "id", "--dsn", scene.database]
    program = f"{patch}\nprint('ready', flush=True)\nfrom etl_toolkit.cli import main\nmain()"
    with subprocess.Popen(
        [sys.executable, "-c", program, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(2)
        began = time.monotonic()
        process.send_signal(number)
        _, err = process.communicate(timeout=LONG_SECONDS)
    assert time.monotonic() - began < SOON_SECONDS
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert scene.execute("SELECT count(*) FROM t") == [(0,)]


def test_without_a_thread_of_its_own_a_query_swallows_the_interrupt(scene: Scene) -> None:
    """The control: DuckDB, in the main thread, turns Ctrl-C into an error of its own."""
    with Workspace(Path(scene.files[0]).parent, 1 << 28, 1).cursor() as cursor:
        timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(RuntimeError, match="interrupted"):
            cursor.execute(LONG_QUERY)
        timer.join()
