"""A private DuckDB with a memory limit, a working directory to spill into, and no way out to anything but the inputs."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from weakref import WeakSet

from duckdb import ConnectionException, DuckDBPyConnection, connect

from etl_toolkit.config import ParallelConfig
from etl_toolkit.memory import memory_limit_bytes
from etl_toolkit.server.lock import try_lock
from etl_toolkit.stopping import Stop

PREFIX = "etl_toolkit_"
OWNER = "owner"
SMALL_BYTES = 1 << 20  # of records: several threads would only wake each other


@dataclass
class Workspace:
    """A DuckDB connection and a directory; both are gone when the load is over.

    `limit_bytes` is the memory for DuckDB and for records beside it, `record_bytes` the part of those; 0: they are kept in
    the directory. DuckDB is opened when it is first asked: it takes 20 MB, and `streaming` does without.
    """

    directory: Path
    limit_bytes: int
    threads: int
    record_bytes: int = 0
    stop: Stop = field(default_factory=Stop, repr=False)
    _duckdb: DuckDBPyConnection | None = field(default=None, repr=False)
    _readable: tuple[Path, ...] | None = None  # None: not locked down yet
    _cursors: WeakSet[DuckDBPyConnection] = field(default_factory=WeakSet, repr=False)
    _files: list[BinaryIO] = field(default_factory=list, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    @property
    def duckdb(self) -> DuckDBPyConnection:
        with self._lock:
            if self._duckdb is None:
                self._duckdb = self._open()
                self._lock_down(self._duckdb)
            return self._duckdb

    def _open(self) -> DuckDBPyConnection:
        connection = connect(
            ":memory:",
            config={
                "threads": 1 if 0 < self.record_bytes <= SMALL_BYTES else max(1, self.threads),
                "memory_limit": f"{self._duckdb_bytes}B",
                "temp_directory": str(self.directory),
                "preserve_insertion_order": True,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            },
        )
        # Most globally, for a cursor inherits nothing of its connection, and the locked configuration lets it set nothing.
        connection.execute(
            "SET enable_progress_bar = false;"  # cursors have none
            "SET GLOBAL python_enable_replacements = false;"
            "SET GLOBAL TimeZone = 'UTC';"
            "SET GLOBAL arrow_large_buffer_size = true;"
            "SET GLOBAL enable_geoparquet_conversion = false"  # the bytes of a geometry are its value
        )
        return connection

    def query(self, sql: str, parameters: list[Any] | None = None) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows; from any thread."""
        with self.cursor() as cursor:  # one connection runs one query at a time, and threads ask
            return cursor.execute(sql, parameters or []).fetchall()

    def cursor(self) -> DuckDBPyConnection:
        """Another connection to the same tables, for another thread. Raises StoppedError once the load is stopped."""
        self.stop.check()
        cursor = self.duckdb.cursor()
        with self._lock:
            self._cursors.add(cursor)
        return cursor

    def reserve(self, size: int) -> None:
        """Take memory for records out of DuckDB's limit, if they leave it at least half."""
        if size <= self.limit_bytes // 2:
            self.record_bytes = size
        if self._duckdb is not None:
            self._duckdb.execute(f"SET memory_limit = '{self._duckdb_bytes}B'")

    @property
    def _duckdb_bytes(self) -> int:
        """What records leave of the limit: those in memory, or an eighth of it for what is fetched of those in a file."""
        return self.limit_bytes - (self.record_bytes or self.limit_bytes // 8)

    def open_file(self) -> BinaryIO:
        """An empty file in the directory, which has no name; it is closed with the workspace."""
        file = tempfile.TemporaryFile(dir=self.directory)  # noqa: SIM115
        self._files.append(file)
        return file

    def lock_down(self, inputs: Iterable[Path]) -> None:
        """Let DuckDB read these files and its own directory, and nothing else from here on."""
        self._readable = tuple(path.resolve() for path in inputs)
        if self._duckdb is not None:
            self._lock_down(self._duckdb)

    def _lock_down(self, connection: DuckDBPyConnection) -> None:
        if self._readable is None:
            return
        paths = ", ".join(literal(str(path)) for path in self._readable)
        connection.execute(f"SET allowed_paths = [{paths}]")
        connection.execute(f"SET allowed_directories = [{literal(str(self.directory))}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")

    def interrupt(self) -> None:
        """Stop every query that runs; from another thread."""
        with self._lock:
            cursors = [*filter(None, [self._duckdb]), *self._cursors]
        for cursor in cursors:
            with suppress(ConnectionException):  # closed meanwhile
                cursor.interrupt()

    def close(self) -> None:
        for file in self._files:
            file.close()
        if self._duckdb is not None:
            self._duckdb.close()


def quoted(name: str) -> str:
    """Return `name` as a DuckDB identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return `text` as a DuckDB string literal."""
    return "'" + text.replace("'", "''") + "'"


def search_sql(firsts: Sequence[tuple[int, int]], value: str) -> str:
    """An expression of the number that belongs to the last of the sorted `firsts` which `value` has reached."""
    if len(firsts) < 2:
        return f"{firsts[0][1] if firsts else 0}"
    middle = len(firsts) // 2
    below, above = search_sql(firsts[:middle], value), search_sql(firsts[middle:], value)
    return f"CASE WHEN {value} < {firsts[middle][0]} THEN {below} ELSE {above} END"


def memory_budget_bytes(config: ParallelConfig) -> int:
    """What DuckDB may hold before it spills: as configured, else a quarter of the memory this process may use."""
    if config.memory_limit_bytes:
        return config.memory_limit_bytes
    return memory_limit_bytes() // 4


@contextmanager
def open_workspace(config: ParallelConfig, *, threads: int, stop: Stop | None = None) -> Iterator[Workspace]:
    """Open a workspace; `Workspace.lock_down` names the files that its DuckDB may read. Its queries end with `stop`."""
    with working_directory(Path(config.temp_directory or tempfile.gettempdir())) as directory:
        workspace = Workspace(directory, memory_budget_bytes(config), threads, stop=stop or Stop())
        try:
            with workspace.stop.calling(workspace.interrupt):
                yield workspace
        finally:
            workspace.close()


@contextmanager
def working_directory(parent: Path) -> Iterator[Path]:
    """A directory that is gone afterwards; where this process is killed, with the next one that needs such a directory."""
    sweep(parent)
    directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    # Renamed once it is locked: the sweep of another process must not find it in between.
    owner = try_lock(directory / "taking")
    (directory / "taking").rename(directory / OWNER)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        if owner is not None:
            os.close(owner)


def sweep(parent: Path) -> None:
    """Remove the working directories of processes that were killed: their owner's lock is free."""
    for directory in parent.glob(PREFIX + "*"):
        with suppress(OSError):
            if not (directory / OWNER).exists() or (owner := try_lock(directory / OWNER)) is None:
                continue
            shutil.rmtree(directory, ignore_errors=True)
            os.close(owner)
