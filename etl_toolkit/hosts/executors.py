"""What `executor=` may be, and the hosts behind it: any `concurrent.futures.Executor`, Dask, or a number of processes."""

from __future__ import annotations

import multiprocessing
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from etl_toolkit.config import ParallelConfig, available_cores
from etl_toolkit.errors import UsageError
from etl_toolkit.hosts.here import begin_process
from etl_toolkit.tables import spell_count
from etl_toolkit.workspace import memory_budget_bytes

T = TypeVar("T")
_FORMS = "give a concurrent.futures.Executor, a Dask client or its address (dask://HOST:PORT), or processes:N"
ASK_SECONDS = 10.0  # between two questions whether there are workers
NO_WORKERS_SECONDS = 60.0  # that a load waits for one of them to come back
_PRELOADED = ["etl_toolkit.hosts", "pyarrow.compute"]  # what each of them would import otherwise


@dataclass
class Hosts:
    """Where tasks run: at most `slots` at a time.

    `threads` and `memory_bytes` are what one task may use of its host, where that is known. An executor that has lost a
    process for good is replaced by `renew`, which raises where it is not ours.
    """

    executor: Executor
    words: str
    count: Callable[[], int]
    renew: Callable[[], Executor]
    threads: int = 1
    memory_bytes: int = 0
    is_local: bool = False
    _asked: float = field(default_factory=time.monotonic)
    _seen: float = field(default_factory=time.monotonic)

    @property
    def slots(self) -> int:
        return max(1, self.count())

    def check(self) -> None:
        """Raise UsageError where there has been no worker for a while. The executor is asked now and then."""
        now = time.monotonic()
        if now - self._asked < ASK_SECONDS:
            return
        self._asked = now
        if self.count():
            self._seen = now
        elif now - self._seen > NO_WORKERS_SECONDS:
            raise UsageError(
                f"no worker is left of {self.words}, and none has come back; start some, and resume the run"
            )

    def submit(self, work: Callable[..., T], task: Any) -> Future[T]:
        """Submit a task, to another executor where this one is broken."""
        try:
            return self.executor.submit(work, task)
        except BrokenExecutor:
            self.executor = self.renew()
            return self.executor.submit(work, task)


@contextmanager
def open_hosts(executor: Any, dsn: str, config: ParallelConfig) -> Iterator[Hosts]:
    """The hosts that `executor` means; those that were started here end with the block. Raises UsageError for anything else."""
    if isinstance(executor, str) and re.fullmatch(r"\d+", executor):
        executor = int(executor)
    match executor:
        case None:  # a run of hosts that is resumed without any
            with ThreadPoolExecutor(config.workers, thread_name_prefix="etl-host") as pool:
                yield Hosts(pool, f"{config.workers} threads", lambda: config.workers, _cannot_renew, is_local=True)
        case Executor():
            slots = getattr(executor, "_max_workers", None) or config.workers
            words = f"{slots} workers of a {type(executor).__name__}"
            is_here = isinstance(executor, ThreadPoolExecutor | ProcessPoolExecutor)
            yield Hosts(executor, words, lambda: slots, _cannot_renew, is_local=is_here)
        case bool():
            raise UsageError(f"executor {executor!r}: {_FORMS}")
        case int() if executor > 0:
            yield from _processes(executor, dsn, config)
        case str() if match := re.fullmatch(r"processes:([1-9]\d*)", executor):
            yield from _processes(int(match[1]), dsn, config)
        case str() if re.match(r"(dask|tcp|tls|ws|wss|ucx)://", executor):
            with _connect(executor) as client:
                yield _of_client(client, executor)
        case _ if hasattr(executor, "get_executor") and hasattr(executor, "nthreads"):
            yield _of_client(executor, "a Dask client")
        case _:
            raise UsageError(f"executor {executor!r}: {_FORMS}")


def _cannot_renew() -> Executor:
    raise UsageError("the executor has lost a process and takes no more tasks; give a new one, and resume the run")


def _processes(count: int, dsn: str, config: ParallelConfig) -> Iterator[Hosts]:
    """Processes of this machine, forked from one that has imported what they need; they get DSN and environment as they start."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    own = (dsn, dict(os.environ))
    begin = partial(ProcessPoolExecutor, count, mp_context=context, initializer=begin_process, initargs=own)
    pools = [begin()]

    def renew() -> Executor:
        pools.append(begin())
        return pools[-1]

    try:
        yield Hosts(
            pools[0], f"{count} processes", lambda: count, renew, threads=max(1, available_cores() // count),
            memory_bytes=memory_budget_bytes(config) // count, is_local=True,
        )  # fmt: skip
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _connect(address: str) -> Iterator[Any]:
    try:
        from distributed import Client
    except ImportError:
        raise UsageError(f"executor {address} needs Dask: pip install 'etl-toolkit[cluster]'") from None
    try:
        client = Client(re.sub(r"^dask://", "tcp://", address), set_as_default=False, timeout="10s")  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise UsageError(f"executor {address}: no Dask scheduler answers there ({type(error).__name__})") from None
    try:
        yield client
    finally:
        client.close()  # type: ignore[no-untyped-call]


def _of_client(client: Any, words: str) -> Hosts:
    """The workers of a Dask cluster, by its own `concurrent.futures` interface: a task for each thread of theirs."""

    def count() -> int:
        return sum(client.nthreads().values())

    if not count():
        raise UsageError(f"executor {words}: the cluster has no workers; start some, and see that they are connected")
    executor = client.get_executor(pure=False)
    return Hosts(executor, f"{spell_count(count(), 'worker')} of {words}", count, lambda: executor)
