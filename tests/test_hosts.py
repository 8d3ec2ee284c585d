"""A load on several hosts leaves what a load in one process leaves, whoever is lost on the way."""

from __future__ import annotations

import io
import itertools
import multiprocessing
import os
import pickle
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psycopg2
import pyarrow.parquet as pq
import pytest
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import make_dsn, parse_dsn

from etl_toolkit import ConflictAwareProcessor, EtlError, ingest
from etl_toolkit.doctor import run_checks
from etl_toolkit.errors import AccountingError, LedgerError, SourceError, StoppedError, UsageError
from etl_toolkit.hosts import checking, coordinating, exchange, executors, preparing, ranges, sorting
from etl_toolkit.hosts import here as host
from etl_toolkit.hosts.tasks import LoadRange, SortFile
from etl_toolkit.loading import failpoints
from etl_toolkit.model import LoadResult
from etl_toolkit.observe import JsonLog
from etl_toolkit.stopping import Stop
from tests import host_worker
from tests.hosts import (
    FORMS,
    FewerThanSaid,
    assert_loaded,
    assert_nothing_is_written,
    config,
    contents,
    create,
    put_down,
    query,
    sessions,
    wait_until,
)
from tests.object_store import s3_server, web_server
from tests.oracle import Oracle, Rows, differing_rows, write

distributed = pytest.importorskip("distributed")
Status = pytest.importorskip("distributed.core").Status
dask_config = pytest.importorskip("dask.config")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two workers of Dask, each a process.

    A LocalCluster looks for a worker that it has lost after 15 s, and closes its nanny for good if it is not there at
    that moment: because it was killed once more, and is just being started again.
    """
    with (
        patch.dict(os.environ),  # Dask sets variables for its workers in this process, and leaves them
        dask_config.set({"distributed.deploy.lost-worker-timeout": "1h"}),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as local,
        distributed.Client(local) as client,
    ):
        yield client


@pytest.fixture
def dask(cluster: Any, database: str, tmp_path: Path) -> Iterator[Any]:
    """The cluster, its workers in folders of their own; each has its connection string in its environment."""
    wait_for_workers(cluster, 2)
    cluster.run(host_worker.move_in, tmp_path, database)
    yield cluster
    wait_for_workers(cluster, 2)
    cluster.run(host_worker.disarm)


def wait_for_workers(client: Any, count: int) -> None:
    """Wait until scheduler and nannies know that the workers run.

    A nanny does not start a worker again that was killed before it knew so, and waits for it forever when it is closed.
    """
    nannies = client.cluster.workers.values
    wait_until(lambda: all(nanny.process and nanny.process.status == Status.running for nanny in nannies()))
    client.wait_for_workers(count, timeout=120)


@pytest.fixture
def threads() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty bucket of a store, which this process finds by its environment, and the workers of Dask by theirs."""
    obstore = pytest.importorskip("obstore")
    with s3_server() as settings:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        if "dask" in request.fixturenames:
            request.getfixturevalue("dask").run(os.environ.update, settings)
        yield obstore.store.S3Store("drops")


def put_up(bucket: Any, files: list[Path]) -> list[str]:
    for path in files:
        bucket.put(path.name, path.read_bytes())
    return [f"s3://drops/{path.name}" for path in files]


# --- the same everywhere -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("filled", [False, True], ids=["empty", "filled"])
def test_hosts_leave_the_rows_and_the_counts_of_one_process(
    database: str, connection: Connection, tmp_path: Path, dask: Any, threads: Executor, filled: bool
) -> None:
    some = contents(3)
    some[1:1] = [Rows(("id", "v"), ())]  # an empty file
    files = put_down(tmp_path / "in", some)
    files.append(tmp_path / "in" / "again.csv")  # the first file once more
    files[-1].write_bytes(files[0].read_bytes())
    some.append(some[0])
    create(connection, some, filled=filled)
    alone = ingest(files, "loaded", "id", database, config=config(tmp_path))
    assert differing_rows(connection, "loaded", "expected") == []

    for executor, commit in ((threads, "per_range"), (dask, "auto")) if filled else ((threads, "auto"), (2, "auto")):
        create(connection, some, filled=filled)
        result = ingest(files, "loaded", "id", database, executor=executor, config=config(tmp_path, commit=commit))
        assert_loaded(connection, result, tmp_path)
        assert result.plan.commit == ("per_range" if commit == "per_range" else "together")
        assert dict(result.files) == dict(alone.files)
        assert result.duplicates == alone.duplicates


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("uuid", [f"{n * 7919 % 1000:08x}-0000-4000-8000-{n:012x}" for n in range(90)]),
        ("date", [f"2024-{n % 12 + 1:02d}-{n % 28 + 1:02d}" for n in range(90)]),
        ("timestamptz", [f"2024-01-{n % 28 + 1:02d} 10:00:00+0{n % 3}:00" for n in range(90)]),
        ("text", [f"k'{n * 31 % 90}, é" for n in range(90)]),
        ("smallint", [str(n * 31 % 90) for n in range(90)]),
    ],
)
def test_keys_of_every_type_that_the_client_compares_are_divided(
    database: str, connection: Connection, tmp_path: Path, threads: Executor, kind: str, keys: list[str]
) -> None:
    some = [
        Rows(("id", "n", "v"), tuple((key, str(at % 3), f"{number}") for at, key in enumerate(keys[number * 20 :])))
        for number in range(3)
    ]
    files = [write(each, tmp_path, f"p{at}", form) for at, (each, form) in enumerate(zip(some, FORMS, strict=False))]
    with connection.cursor() as cursor:
        for name in ("loaded", "expected"):
            cursor.execute(f"CREATE TABLE {name} (id {kind}, n int, v text, PRIMARY KEY (id, n))")
    Oracle("expected", ("id", "n")).load(connection, some)

    result = ingest(files, "loaded", ["id", "n"], database, executor=threads, config=config(tmp_path))

    assert_loaded(connection, result, tmp_path)
    assert len(result.plan.batches) == 2


def test_files_of_other_layouts_are_sorted_again(
    database: str, connection: Connection, tmp_path: Path, threads: Executor
) -> None:
    some = contents(3)
    turned = Rows(("v", "id"), tuple((v, key) for key, v in some[1].rows))
    files = [write(some[0], tmp_path, "a", "csv"), write(turned, tmp_path, "b", "csv"), tmp_path / "c.csv"]
    files[2].write_text("id;v\n" + "".join(f'{key};"{v.replace(chr(34), chr(34) * 2)}"\n' for key, v in some[2].rows))
    create(connection, some)

    assert_loaded(
        connection, ingest(files, "loaded", "id", database, executor=threads, config=config(tmp_path)), tmp_path
    )


def test_rows_that_the_server_refuses_are_rejected_before_anything_is_written(
    database: str, connection: Connection, tmp_path: Path, threads: Executor
) -> None:
    good = contents(3)
    bad = [Rows(each.columns, (*each.rows, (str(at), "bad"), ("x", "y"))) for at, each in enumerate(good)]
    files = put_down(tmp_path / "in", bad)
    for each in files[:1]:
        each.write_text(each.read_text() + "1,2,3\n")  # malformed
    create(connection, good, check="CHECK (v <> 'bad')")
    alone = ingest(files, "loaded", "id", database, config=config(tmp_path), max_rejects=9)
    create(connection, good, check="CHECK (v <> 'bad')")
    result = ingest(files, "loaded", "id", database, executor=threads, config=config(tmp_path), max_rejects=9)
    assert_loaded(connection, result, tmp_path)
    assert result.counts.rejected == 7
    assert dict(result.files) == dict(alone.files)
    assert result.rejects == alone.rejects
    recorded = query(connection, "SELECT run_id, file, record, sqlstate, raw FROM etl_toolkit.rejects ORDER BY 2, 3")
    assert [row[1:] for row in recorded if row[0] == result.run_id] == [
        row[1:] for row in recorded if row[0] == alone.run_id
    ]

    create(connection, good, check="CHECK (v <> 'bad')")
    with pytest.raises(EtlError, match="3 rows"):
        ingest(files, "loaded", "id", database, executor=threads, config=config(tmp_path), max_rejects=3)
    assert query(connection, "SELECT count(*) FROM loaded WHERE v <> 'before'") == [(0,)]


ONE_PROCESS = {
    "strategy deterministic": ("bigint", "", {"strategy": "deterministic"}),
    "--order-by": ("bigint", "", {"order_by": "v"}),
    "--atomic": ("bigint", "", {"atomic": True}),
    "--undoable": ("bigint", "", {"undoable": True}),
    "key equality only the server can tell": ("numeric", "", {}),
    "second unique index": ("bigint", ", UNIQUE (v)", {}),
    "reads the whole row": ("bigint", ", CHECK (loaded IS NOT NULL)", {}),
}


@pytest.mark.parametrize("reason", ONE_PROCESS)
def test_what_hosts_cannot_do_exactly_is_done_by_one_process_and_the_plan_says_why(
    database: str, connection: Connection, tmp_path: Path, threads: Executor, reason: str
) -> None:
    kind, more, options = ONE_PROCESS[reason]
    files = put_down(tmp_path / "in", contents(2))
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE loaded (id {kind} PRIMARY KEY, v text{more})")

    result = ingest(files, "loaded", "id", database, executor=threads, config=config(tmp_path), **options)

    assert result
    assert result.plan.commit == ""
    assert re.search(f"one process instead of 2 workers of a ThreadPoolExecutor: .*{reason}", result.reasons[-1])


def test_a_plan_is_made_on_hosts_and_writes_nothing(
    database: str, connection: Connection, tmp_path: Path, threads: Executor
) -> None:
    create(connection, contents())
    files = put_down(tmp_path / "in", contents())

    plan = ConflictAwareProcessor(database, config=config(tmp_path, commit="per_range"), executor=threads).plan(
        files, "loaded", "id"
    )

    assert any("every range commits by itself" in reason for reason in plan.reasons)
    assert query(connection, "SELECT to_regclass('etl_toolkit.runs')") == [(None,)]
    assert list((tmp_path / "exchange").iterdir()) == []


@pytest.mark.parametrize(("count", "rows"), [(2, 50_000), (60, 1_000)], ids=["large", "small"])
def test_a_range_reads_little_more_of_the_runs_than_it_has(
    tmp_path: Path, database: str, connection: Connection, count: int, rows: int
) -> None:
    """Read amplification: the row groups that the ranges have to read, against the rows that there are."""
    files = [tmp_path / f"part{number}.csv" for number in range(count)]
    for number, path in enumerate(files):
        keys = (n * 7919 % 200_003 for n in range(number * rows // 2, number * rows // 2 + rows))
        path.write_text("id,v\n" + "".join(f"{key},x\n" for key in keys))
    create(connection, [])

    with Watching(4) as pool:
        result = ingest(files, "loaded", "id", database, executor=pool, config=config(tmp_path, commit="per_range"))

    assert result.counts.read == count * rows
    assert len(pool.ranges) == 4
    read = sum(
        group.num_rows
        for task in pool.ranges for groups in pool.groups.values() for group in groups
        if _may_have(group.column(0).statistics, task.bounds[0])
    )  # fmt: skip
    assert count * rows < read < 1.3 * count * rows


class Watching(ThreadPoolExecutor):
    """Keeps the tasks that load ranges, and the row groups of the runs that these read."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.ranges: list[LoadRange] = []
        self.groups: dict[str, list[Any]] = {}

    def submit(self, work: Any, task: Any) -> Any:  # type: ignore[override]
        if isinstance(task, LoadRange):
            self.ranges.append(task)
            for _, path in task.runs:
                found = pq.read_metadata(path)
                self.groups[path] = [found.row_group(at) for at in range(found.num_row_groups)]
        return super().submit(work, task)


def _may_have(keys: Any, bound: str) -> bool:
    edges = {sign: int(key) for sign, key in re.findall(r"([<>])=? \('(\d+)'", bound)}
    return bool(keys.min < edges.get("<", 1 << 60) and keys.max >= edges.get(">", -1))


@pytest.mark.parametrize("action", ["update", "ignore"])
def test_small_files_that_share_a_run_keep_their_order_and_their_counts(
    database: str,
    connection: Connection,
    tmp_path: Path,
    threads: Executor,
    monkeypatch: pytest.MonkeyPatch,
    action: str,
) -> None:
    """Neighbours of other layouts, content that is given twice, bad rows, and runs of several sizes."""
    some = contents(9)
    files = put_down(tmp_path / "in", some)
    for at in (1, 5):
        turned = Rows(("v", "id"), tuple((v, key) for key, v in some[at].rows))
        files[at] = write(turned, tmp_path / "in", f"turned{at}", "csv")
    files[3].write_text(files[3].read_text() + "x,bad key\n1,2,3\n")
    files[7:7] = [files[6], tmp_path / "in" / "copy.csv"]
    files[8].write_bytes(files[3].read_bytes())
    settings, hashes = config(tmp_path), set()
    seen = []
    for executor, shared in ((None, 0), (threads, 3 * files[0].stat().st_size), (threads, 1 << 20)):
        monkeypatch.setattr(sorting, "SHARED_BYTES", shared)
        create(connection, some)
        result = ingest(
            files, "loaded", "id", database, executor=executor, config=settings, max_rejects=9, on_conflict=action
        )
        hashes |= set(query(connection, "SELECT md5(string_agg(l::text, ' ' ORDER BY id)) FROM loaded AS l"))
        seen.append((dict(result.files), result.rejects, result.duplicates))
        assert len(result.duplicates) == 2
        assert bool(result.plan.commit) is (executor is not None)
    assert len(hashes) == 1
    assert seen == seen[:1] * 3


def test_twelve_files_have_one_row_hash_by_every_executor_from_a_folder_and_from_a_store(
    database: str, connection: Connection, tmp_path: Path, dask: Any, threads: Executor, bucket: Any
) -> None:
    files = put_down(tmp_path / "in", contents(12))
    urls = put_up(bucket, files)
    hashes, counts = set(), set()
    for source in (files, urls):
        for executor in (None, threads, "processes:2", dask):
            create(connection, contents(12))
            result = ingest(source, "loaded", "id", database, executor=executor, config=config(tmp_path))
            assert_loaded(connection, result, tmp_path)
            assert (result.plan.commit == "together") is (executor is not None), result.reasons
            hashes |= set(query(connection, "SELECT md5(string_agg(l::text, ' ' ORDER BY id)) FROM loaded AS l"))
            counts.add(tuple(result.files.values()))
    assert len(hashes) == len(counts) == 1


@pytest.mark.parametrize(
    ("sizes", "tasks"),
    [
        ([4 << 20] * 12, [6, 6]),  # one for each worker
        ([17 << 20] * 12, [2] * 6),
        ([200 << 20] * 4, [1] * 4),
        ([1, 1, 1, 200 << 20], [3, 1]),
        ([0] * 3, [1] * 3),  # on a web server: not known
        ([100] * 100_000, [50_000] * 2),
    ],
)
def test_small_files_are_sorted_by_few_tasks_in_their_order(sizes: list[int], tasks: list[int]) -> None:
    files = [SortFile(number, f"{number}.csv", "") for number in range(len(sizes))]

    grouped = preparing._group(files, sizes, at_once=2)

    assert [len(group) for group in grouped] == tasks
    assert [file for group in grouped for file in group] == files


# --- somebody is lost --------------------------------------------------------------------------------------------------

POINTS = ("scanned", "claimed", "copied", "completed", "committed")


@pytest.mark.faults
@pytest.mark.parametrize("commit", ["together", "per_range"])
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("kind", ["processes", "dask"])
def test_a_worker_is_killed(
    database: str, connection: Connection, tmp_path: Path, dask: Any, monkeypatch: pytest.MonkeyPatch, kind: str,
    point: str, commit: str,
) -> None:  # fmt: skip
    create(connection, contents())
    files, mark = put_down(tmp_path / "in", contents()), tmp_path / "mark"
    monkeypatch.setattr(executors, "begin_process", partial(host_worker.begin_armed, point, mark))
    if kind == "dask":
        dask.run(host_worker.arm, point, mark)
        dask.register_plugin(Moving(tmp_path, database), name="moving")  # a worker that is started again needs it, too

    result = ingest(
        files,
        "loaded",
        "id",
        database,
        executor=2 if kind == "processes" else dask,
        config=config(tmp_path, commit=commit),
    )

    assert mark.exists(), "nobody was killed"
    assert_loaded(connection, result, tmp_path)
    assert result.counts.unchanged == 0, "rows of an earlier attempt were taken for rows of others"


class Moving(distributed.WorkerPlugin):
    def __init__(self, folder: Path, dsn: str) -> None:
        self.folder, self.dsn = folder, dsn

    def setup(self, worker: Any) -> None:
        host_worker.move_in(self.folder, self.dsn)


class LosingReplies(ThreadPoolExecutor):
    """The reply to the first range is lost, and `then` happens to its number."""

    def __init__(self, then: Callable[[int], Any]) -> None:
        super().__init__(2)
        self.then, self.is_lost = then, False

    def submit(self, work: Any, task: Any) -> Future[Any]:  # type: ignore[override]
        def answer() -> Any:
            done = work(task)
            if isinstance(task, LoadRange) and not self.is_lost:
                self.is_lost = True
                self.then(task.batches[0].number)
                raise BrokenExecutor("the reply was lost")
            return done

        return super().submit(answer)


@pytest.mark.parametrize("is_in_ledger", [True, False], ids=["in the ledger", "control"])
def test_a_range_whose_reply_was_lost_has_its_counts_in_the_ledger(
    database: str, connection: Connection, tmp_path: Path, is_in_ledger: bool
) -> None:
    files = put_down(tmp_path / "in", contents())
    create(connection, contents())

    def forget(number: int) -> None:
        if not is_in_ledger:
            query(connection, f"DELETE FROM etl_toolkit.batches WHERE number = {number} RETURNING 1")

    with LosingReplies(forget) as pool:
        settings = config(tmp_path, commit="per_range")
        result = ingest(files, "loaded", "id", database, executor=pool, config=settings)

    assert_loaded(connection, result, tmp_path)
    assert result.retries == 1
    assert (result.counts.unchanged == 0) is is_in_ledger, "its own rows were taken for those of others"


@pytest.mark.faults
@pytest.mark.parametrize(("point", "commit"), [("scanned", "together"), ("copied", "together"), ("completed", "together"),
                                               ("committed", "together"), ("committed", "per_range")])  # fmt: skip
def test_a_killed_coordinator_is_resumed_with_other_workers(
    database: str, connection: Connection, tmp_path: Path, dask: Any, threads: Executor, point: str, commit: str
) -> None:
    create(connection, contents())
    files = put_down(tmp_path / "in", contents())
    kill_coordinator(files, point, commit, database, tmp_path, dask)
    settings = config(tmp_path)
    if point == "scanned":  # nothing was recorded yet
        result = ingest(files, "loaded", "id", database, executor=threads, config=settings)
    else:
        ((run_id,),) = query(connection, "SELECT run_id FROM etl_toolkit.runs")
        started = time.monotonic()
        result = ConflictAwareProcessor(database, config=settings, executor=threads).resume(run_id)
        assert time.monotonic() - started < exchange.PATIENCE_SECONDS / 2, "waited for the orphans"
    assert result
    assert differing_rows(connection, "loaded", "expected") == []
    assert query(connection, "SELECT status FROM etl_toolkit.runs")[-1] == ("complete",)


def kill_coordinator(files: Sequence[Any], point: str, commit: str, database: str, tmp_path: Path, dask: Any) -> None:
    """Load by another process, which the first worker that comes to a point kills."""
    process = multiprocessing.get_context("spawn").Process(
        target=host_worker.coordinate,
        args=(dask.scheduler.address, database, files, tmp_path / "exchange", commit), daemon=True,
    )  # fmt: skip
    process.start()
    dask.run(host_worker.arm, point, tmp_path / "mark", process.pid)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.faults
@pytest.mark.parametrize("is_changed", [False, True], ids=["the same", "changed"])
def test_objects_of_a_store_are_read_again_when_a_killed_coordinator_is_resumed(
    database: str, connection: Connection, tmp_path: Path, dask: Any, bucket: Any, is_changed: bool
) -> None:
    create(connection, contents())
    files = put_down(tmp_path / "in", contents())
    kill_coordinator(put_up(bucket, files), "committed", "per_range", database, tmp_path, dask)
    dask.run(host_worker.disarm)
    ((run_id,),) = query(connection, "SELECT run_id FROM etl_toolkit.runs")
    if is_changed:
        bucket.put(files[0].name, files[0].read_bytes() + b"1,new\n")
    processor = ConflictAwareProcessor(database, config=config(tmp_path), executor=dask)
    if is_changed:
        with pytest.raises(LedgerError, match=r"s3://drops/part0.csv has changed since run"):
            processor.resume(run_id)
    else:
        assert_loaded(connection, processor.resume(run_id), tmp_path)


@pytest.mark.faults
def test_a_stopped_worker_is_given_up_and_writes_nothing_when_it_goes_on(
    database: str, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ranges go to a worker that has joined meanwhile, which ends its session."""
    create(connection, contents())
    files, mark = put_down(tmp_path / "in", contents()), tmp_path / "mark"
    with (
        patch.dict(os.environ),
        dask_config.set({"distributed.deploy.lost-worker-timeout": "1h"}),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as local,
        distributed.Client(local) as client,
        ThreadPoolExecutor(1) as beside,
    ):
        wait_for_workers(client, 2)
        client.register_plugin(Moving(tmp_path, database), name="moving")  # a worker that joins has it, too
        workers = client.run(os.getpid)
        client.run(host_worker.arm, "copied", mark, None, signal.SIGSTOP)
        load = beside.submit(ingest, files, "loaded", "id", database, executor=client, config=config(tmp_path))
        try:
            wait_until(lambda: any(is_in_state(pid, "T") for pid in workers.values()))
            ((address, pid),) = ((each, pid) for each, pid in workers.items() if is_in_state(pid, "T"))
            local.scale(3)
            client.wait_for_workers(3, timeout=120)
            client.run_on_scheduler(give_up, address=address)
            result = load.result(120)

            assert_loaded(connection, result, tmp_path)
            assert result.counts.unchanged == 0
        finally:
            for each in workers.values():
                os.kill(each, signal.SIGCONT)
        wait_until(lambda: not is_in_state(pid, "SRD"))  # it ends, since the scheduler does not know it any more
        assert differing_rows(connection, "loaded", "expected") == []
        assert sessions(connection) == []


async def give_up(address: str, dask_scheduler: Any) -> None:
    """What a scheduler does once a worker has given no sign of life for its time to live."""
    await dask_scheduler.remove_worker(address=address, stimulus_id="test", close=False)


def is_in_state(pid: int, states: str) -> bool:
    """Whether a process is in one of these states of /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in states
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_with_fewer_workers_than_said_one_task_has_all_ranges_and_no_session_of_the_first_division_counts(
    database: str, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinating, "NO_WORKER_SECONDS", 0.2)
    create(connection, contents())
    files, late = put_down(tmp_path / "in", contents()), []

    def come_late() -> None:
        """A task of the first division, held up by its host, says that it has loaded when the second is under way."""
        if next(claims) != 2:
            return
        ((run_id,),) = query(connection, "SELECT run_id FROM etl_toolkit.runs")
        late.append(psycopg2.connect(database, application_name=f"etl_toolkit {run_id} range 0: 119"))

    claims = itertools.count(1)
    with FewerThanSaid() as pool, failpoints.installed({"claimed": come_late}):
        result = ingest(files, "loaded", "id", database, executor=pool, config=config(tmp_path))
    assert len(late) == 1
    late[0].close()

    assert_loaded(connection, result, tmp_path)
    assert result.retries == 1


def test_a_load_whose_workers_have_all_gone_says_so_and_is_resumed(
    database: str, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "ASK_SECONDS", 0)
    monkeypatch.setattr(executors, "NO_WORKERS_SECONDS", 0.2)
    create(connection, contents())
    files = put_down(tmp_path / "in", contents())
    with (
        patch.dict(os.environ),
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as local,
        distributed.Client(local) as client,
    ):
        leave = partial(host_worker.once, tmp_path / "mark", partial(local.scale, 0))
        with (
            failpoints.installed({"begun": leave}),
            pytest.raises(UsageError, match=r"no worker is left of 1 worker of a Dask client, .* resume the run"),
        ):
            ingest(files, "loaded", "id", database, executor=client, config=config(tmp_path))
    assert_nothing_is_written(connection, tmp_path)
    ((run_id,),) = query(connection, "SELECT run_id FROM etl_toolkit.runs")
    assert_loaded(connection, ConflictAwareProcessor(database, config=config(tmp_path)).resume(run_id), tmp_path)


# --- nothing is written ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_checked", [True, False], ids=["checked", "control"])
def test_a_file_that_changes_while_it_is_sorted_is_refused(
    database: str, connection: Connection, tmp_path: Path, threads: Executor, monkeypatch: pytest.MonkeyPatch,
    is_checked: bool,
) -> None:  # fmt: skip
    create(connection, contents())
    files = put_down(tmp_path / "in", contents())
    if not is_checked:
        monkeypatch.setattr(sorting, "check_unchanged", lambda _file: None)
    change = partial(host_worker.once, tmp_path / "mark", lambda: files[2].write_bytes(files[2].read_bytes() * 2))
    with failpoints.installed({"scanned": change}):
        if is_checked:
            with pytest.raises(SourceError, match="was changed or removed while it was being loaded"):
                load_slowly(files, database, threads, tmp_path)
            assert_nothing_is_written(connection, tmp_path)
        else:
            assert load_slowly(files, database, threads, tmp_path)


def load_slowly(files: list[Path], database: str, threads: Executor, tmp_path: Path) -> LoadResult:
    """The third file is the only one, so that it has been read when it changes."""
    return ingest(files[2:3], "loaded", "id", database, executor=threads, config=config(tmp_path))


def test_a_run_whose_file_has_changed_is_not_resumed(
    database: str, connection: Connection, tmp_path: Path, threads: Executor
) -> None:
    create(connection, contents())
    files = put_down(tmp_path / "in", contents())
    fail = partial(host_worker.once, tmp_path / "mark", raise_lost)
    with failpoints.installed({"copied": fail}), pytest.raises(ZeroDivisionError):
        ingest(files, "loaded", "id", database, executor=threads, config=config(tmp_path))
    assert_nothing_is_written(connection, tmp_path)
    ((run_id,),) = query(connection, "SELECT run_id FROM etl_toolkit.runs")
    text = files[0].read_text()
    files[0].write_text(text + "1,new\n")
    processor = ConflictAwareProcessor(database, config=config(tmp_path))
    with pytest.raises(LedgerError, match=r"part0.csv has changed since run"):
        processor.resume(run_id)
    assert_nothing_is_written(connection, tmp_path)

    files[0].write_text(text)  # the control: by threads, since no executor is given
    assert_loaded(connection, processor.resume(run_id), tmp_path)


def raise_lost() -> None:
    raise ZeroDivisionError


def test_an_exchange_directory_that_is_full_stops_the_load(
    database: str, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(connection, [])
    files = put_down(tmp_path / "in", contents(2, rows=150))
    files[0].write_text("id,v\n" + "".join(f"{n},{n * 7919}\n" for n in range(2000)))
    monkeypatch.setattr(executors, "begin_process", host_worker.begin_without_room)

    with pytest.raises(SourceError, match=r"exchange directory .* is full; free space, or name another"):
        ingest(files[:1], "loaded", "id", database, executor=2, config=config(tmp_path))
    assert_nothing_is_written(connection, tmp_path)

    monkeypatch.undo()
    assert ingest(files[:1], "loaded", "id", database, executor="processes:2", config=config(tmp_path))


def test_a_load_that_is_stopped_while_hosts_hold_commits_nothing(
    database: str, connection: Connection, tmp_path: Path, threads: Executor
) -> None:
    create(connection, contents())
    files, stop = put_down(tmp_path / "in", contents()), Stop()
    with (
        failpoints.installed({"completed": partial(stop.set, "the test")}),
        pytest.raises(StoppedError, match="the test"),
    ):
        ingest(files, "loaded", "id", database, executor=threads, config=config(tmp_path), stop=stop)

    assert_nothing_is_written(connection, tmp_path)
    assert query(connection, "SELECT status FROM etl_toolkit.runs") == [("interrupted",)]


def test_rows_that_do_not_add_up_are_not_committed(
    database: str, connection: Connection, tmp_path: Path, threads: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A range that misses rows, as if its bounds had a hole."""
    create(connection, contents())
    files = put_down(tmp_path / "in", contents())
    find = ranges.find_bounds
    monkeypatch.setattr(preparing, "find_bounds", lambda *args: tuple(f"{bound} AND k0 <> 7" for bound in find(*args)))

    with pytest.raises(AccountingError, match="rows were sorted, but the ranges have"):
        ingest(files, "loaded", "id", database, executor=threads, config=config(tmp_path))
    assert_nothing_is_written(connection, tmp_path)


@pytest.mark.parametrize("executor", ["processes:0", "dask://127.0.0.1:1", True, 0, object()])
def test_what_is_no_executor_is_refused(executor: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="executor"), executors.open_hosts(executor, "", config(tmp_path)):
        pass


# --- what no task contains ---------------------------------------------------------------------------------------------


class Spying(ThreadPoolExecutor):
    """Keeps what goes to hosts and what comes back, as a network would see it, and what lies in the exchange directory."""

    def __init__(self, exchange_directory: Path) -> None:
        super().__init__(2)
        self.seen, self.directory = io.BytesIO(), exchange_directory

    def submit(self, work: Any, task: Any) -> Future[Any]:  # type: ignore[override]
        self.seen.write(pickle.dumps((work, task)))

        def answer() -> Any:
            done = work(task)
            self.seen.write(pickle.dumps(done))
            for path in self.directory.rglob("*"):
                self.seen.write(path.read_bytes() if path.is_file() else b"")
            return done

        return super().submit(answer)


def test_no_task_no_log_no_file_and_no_ledger_row_has_the_password(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    secret = parse_dsn(database).get("password") or "canary-3f1c"
    dsn = make_dsn(database, password=secret)
    create(connection, contents())
    log = io.StringIO()
    with Spying(tmp_path / "exchange") as pool:
        settings = config(tmp_path)
        result = ingest(
            put_down(tmp_path / "in", contents()), "loaded", "id", dsn, executor=pool, config=settings,
            on_event=JsonLog(log),
        )  # fmt: skip
        assert_loaded(connection, result, tmp_path)
        with pytest.raises(EtlError) as failed:
            ingest(tmp_path / "in/*.csv", "nothing", "id", dsn, executor=pool, config=settings)

    ledger = "".join(
        str(query(connection, f"SELECT * FROM etl_toolkit.{name}")) for name in ("runs", "files", "batches")
    )
    seen = pool.seen.getvalue()
    assert len(seen) > 5_000
    for text in (seen.decode("latin-1"), log.getvalue(), ledger, str(failed.value), str(result.as_dict())):
        assert secret not in text
    assert secret in pickle.dumps(dsn).decode("latin-1"), "a task with the DSN in it would have been found"


def test_a_host_without_a_connection_string_says_so(
    database: str, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ETL_DSN", "PGHOST", "PGDATABASE", "PGSERVICE", "PGUSER", "PGPORT", "PGHOSTADDR"):
        monkeypatch.delenv(name, raising=False)
    create(connection, contents())
    files = put_down(tmp_path / "in", contents())
    monkeypatch.setattr(host, "_of_process", [])
    spawn = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(1, mp_context=spawn) as pool,  # not started by the coordinator
        pytest.raises(UsageError, match="has neither ETL_DSN nor PGHOST in its environment"),
    ):
        ingest(files, "loaded", "id", database, executor=pool, config=config(tmp_path))
    assert_nothing_is_written(connection, tmp_path)


# --- the doctor --------------------------------------------------------------------------------------------------------


def test_the_doctor_looks_at_every_host(database: str, tmp_path: Path, threads: Executor, dask: Any) -> None:
    for executor in (threads, dask):
        report = run_checks(database, config=config(tmp_path), executor=executor)
        of_hosts = {item.check: item for item in report.findings if item.check.startswith("hosts")}
        assert {name: str(item.status) for name, item in of_hosts.items() if name != "hosts: disk"} == dict.fromkeys(
            ["hosts", "hosts: release", "hosts: server", "hosts: exchange", "hosts: clock"], "pass"
        )
        assert "2 workers and 5 to spare" in report.of("connections").evidence
    assert "2 of 2 workers of a Dask client answer" in of_hosts["hosts"].evidence


def test_the_doctor_names_the_host_that_is_not_like_the_others(
    database: str, tmp_path: Path, dask: Any, dsn: str
) -> None:
    other, *_ = dask.scheduler_info()["workers"]
    dask.run(host_worker.move_in, tmp_path, dsn, workers=[other])  # another database
    dask.run(setattr, checking, "__version__", "0.0", workers=[other])
    dask.run(setattr, checking, "_try_exchange", no_exchange, workers=[other])
    try:
        report = run_checks(database, config=config(tmp_path), executor=dask)
        failed = {item.check for item in report.findings if str(item.status) == "fail"}
        assert {"hosts: release", "hosts: server", "hosts: exchange"} <= failed
    finally:
        dask.restart()


def test_the_doctor_names_the_host_that_cannot_read_a_store_and_what_to_do(
    database: str, tmp_path: Path, dask: Any, bucket: Any
) -> None:
    sources = [*put_up(bucket, put_down(tmp_path / "in", contents(1))), str(tmp_path / "in")]
    report = run_checks(database, config=config(tmp_path), executor=dask, sources=sources)
    assert (report.of("hosts: sources").status, report.of("sources").status) == ("pass", "pass")

    other, *_ = dask.scheduler_info()["workers"]
    with web_server(lambda path, times: (403, b"")) as url:
        dask.run(os.environ.update, {"AWS_ENDPOINT_URL": url}, workers=[other])
        sources.append(f"{url}/a.csv?sig=canary-signature")
        report = run_checks(database, config=config(tmp_path), executor=dask, sources=sources)

    (pid,) = dask.run(os.getpid, workers=[other]).values()
    found = report.of("hosts: sources")
    assert str(found.status) == "fail"
    assert re.fullmatch(rf"\S+/{pid}: s3://drops/part0.csv: the store refuses access; .*", found.evidence)
    assert "on each host: give it the credentials, region and endpoint of the store" in found.advice
    assert [str(item.status) for item in report.findings if item.check == "sources"] == ["pass", "pass", "fail"]
    assert "canary" not in report.as_text()


def no_exchange(_directory: Path) -> str:
    return "is not there"
