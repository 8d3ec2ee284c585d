"""Database sessions of a run: opened in the same way, identified by name, and all cancelled together."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import psycopg2
from psycopg2.extensions import ISOLATION_LEVEL_READ_COMMITTED, TRANSACTION_STATUS_ACTIVE

from etl_toolkit.config import ParallelConfig
from etl_toolkit.errors import (
    DatabaseError,
    StoppedError,
    TransientDatabaseError,
    UsageError,
    map_connection_failure,
    map_driver_error,
)
from etl_toolkit.loading.conventions import PRINTED, read_conventions
from etl_toolkit.loading.dsn import check_dsn, place
from etl_toolkit.loading.environment import libpq_variables_hidden
from etl_toolkit.loading.pooler import refuse_transaction_pooler
from etl_toolkit.loading.retry import run_with_retry, wait_for_server, wait_for_slot
from etl_toolkit.loading.search_path import refuse_hidden_catalog
from etl_toolkit.loading.silence import client_timeouts, server_timeouts
from etl_toolkit.loading.writable import is_standby
from etl_toolkit.stopping import Stop, call_unless_stopped

T = TypeVar("T")

# The same in every session of ours, whatever the role or the database has set. How values are read and printed is not among
# them: that is the server's to say (`conventions`).
PINNED = {"client_min_messages": "warning"}
# A coordinator is idle while its workers load, and a load may take long: `ParallelConfig` has its own timeouts.
NO_TIMEOUT = {"idle_session_timeout": 140000, "transaction_timeout": 170000}  # and the version that brought it

PATIENCE_SECONDS = 1.0  # for a server to obey a cancel request; then the connection is cut


@dataclass
class _Cancel:
    """A request to cancel what a session is doing: since when it has to end, and the thread that asks for it."""

    since: float
    thread: threading.Thread | None = None

    def is_running(self) -> bool:
        return self.thread is not None and self.thread.is_alive()


@dataclass
class Sessions:
    """Opens connections for one run, commits them unless `stop` is set, and can cancel them all from another thread.

    It waits for a server that is starting and, once it has met it, for one that is away: `retry_budget_seconds`, or until
    `stop` or `failed` is set.
    `conventions` are those that values are read under. What is not named of them is taken from the first session, so that
    all of them read values in the same way even if the role's settings change meanwhile.
    """

    dsn: str = field(repr=False)  # it may hold a password
    config: ParallelConfig
    run_id: str = ""
    conventions: Mapping[str, str] = field(default_factory=dict)
    stop: Stop = field(default_factory=Stop, repr=False)
    failed: threading.Event = field(default_factory=threading.Event, repr=False)
    on_retry: Callable[[str, int, BaseException], None] | None = None
    notes: list[str] = field(default_factory=list, repr=False)  # what was committed, beside what the ledger has
    _open: dict[Any, int] = field(default_factory=dict, repr=False)  # connections, and the processes that serve them
    _idle: list[Any] = field(default_factory=list, repr=False)  # those of them that wait to be taken again
    _lost: list[int] = field(default_factory=list, repr=False)  # processes whose connection broke; they may not know
    _spared: set[Any] = field(default_factory=set, repr=False)
    _committing: set[Any] = field(default_factory=set, repr=False)
    _cancels: dict[Any, _Cancel] = field(default_factory=dict, repr=False)
    _has_met_server: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def connect(self, role: str, *, waits: bool = True, is_printing: bool = False, is_spared: bool = False) -> Any:
        """Open a READ COMMITTED connection named `etl_toolkit <run> <role>`.

        One that `is_printing` writes text that can be read under any conventions. One that `is_spared` may be opened, and is
        not cancelled, after the load was stopped: to record that, and to clean up. Raises DatabaseError; UsageError for a
        DSN that cannot be read and for conventions that the server does not know, PoolerError behind a transaction pooler.
        """
        check_dsn(self.dsn)
        if is_printing:
            self.close_idle()  # so that there are never more sessions than workers, for servers that allow few
        dial = partial(self._connect, role, is_printing=is_printing, is_spared=is_spared)
        if is_spared:
            return wait_for_slot(dial)
        if not waits:
            return dial()
        if not self._has_met_server:
            dial = partial(_meet, dial)
        return wait_for_server(dial, self.config, on_retry=partial(self.note_retry, role), sleep=self.stop.sleep)

    def ask(self, role: str, question: Callable[[Any], T], *, is_printing: bool = False) -> T:
        """Call `question` with a session, again after a transient error: it may be called more than once."""

        def attempt() -> T:
            with self.session(role, is_printing=True) if is_printing else self.lend(role) as connection:
                return question(connection)

        return run_with_retry(attempt, self.config, on_retry=partial(self.note_retry, role), sleep=self.stop.sleep)

    def note_retry(self, role: str, attempt: int, error: BaseException) -> None:
        """Report another attempt before it is made; raises StoppedError if the load is being stopped."""
        self.stop.check()
        if self.failed.is_set():
            raise StoppedError("another worker has failed")
        if self.on_retry:
            self.on_retry(role, attempt, error)

    def _connect(self, role: str, *, is_printing: bool, is_spared: bool = False) -> Any:
        connection = self._dial(role, Stop() if is_spared else self.stop)
        process = connection.info.backend_pid
        try:
            if not self._has_met_server:
                refuse_transaction_pooler(connection, partial(self._dial, role, self.stop))
                refuse_hidden_catalog(connection)
            process = self._prepare(connection, is_printing=is_printing)
        except BaseException as error:
            connection.close()
            with self._lock:
                self._lost.append(process)
            if isinstance(error, psycopg2.errors.InvalidParameterValue):
                raise UsageError(f"the server refuses the setting: {error.diag.message_primary}") from None
            if isinstance(error, psycopg2.Error):
                raise map_driver_error(error, doing=f"connecting to {place(self.dsn)}") from None
            raise
        with self._lock:
            self._has_met_server = True
            self._open[connection] = process
            if is_spared:
                self._spared.add(connection)
        return connection

    def _name(self, role: str) -> str:
        return f"etl_toolkit {self.run_id} {role}".strip()[:63]

    def _dial(self, role: str, stop: Stop) -> Any:
        config = self.config
        patience = 2 if self.stop.is_set() else max(2, round(config.connect_timeout_seconds))
        try:
            with libpq_variables_hidden():
                dial = partial(
                    psycopg2.connect,
                    self.dsn,
                    client_encoding="UTF8",
                    application_name=self._name(role),
                    connect_timeout=patience,
                    **client_timeouts(config),
                )
                connection = call_unless_stopped(dial, stop, discard=lambda late: late.close())
        except psycopg2.Error as error:
            raise map_connection_failure(error, doing=f"connecting to {place(self.dsn)}") from None
        # A standby takes no READ WRITE, whatever is done in it.
        is_read_only = None if is_standby(connection) else False
        connection.set_session(isolation_level=ISOLATION_LEVEL_READ_COMMITTED, readonly=is_read_only)
        return connection

    def _prepare(self, connection: Any, *, is_printing: bool) -> int:
        """Pin the settings of a session and end those that it replaces; return the process that serves it."""
        config = self.config
        if not self._has_met_server and not is_printing:
            with connection.cursor() as cursor:
                self.conventions = read_conventions(cursor, self.conventions)
        settings = PINNED | {name: "0" for name, since in NO_TIMEOUT.items() if connection.server_version >= since}
        settings |= PRINTED if is_printing else self.conventions
        settings |= {
            "work_mem": f"{config.server_work_memory_bytes // 1024}kB",
            "lock_timeout": f"{round(config.lock_timeout_seconds * 1000)}",
            "statement_timeout": f"{round(config.statement_timeout_seconds * 1000)}",
            "idle_in_transaction_session_timeout": f"{round(config.idle_in_transaction_timeout_seconds * 1000)}",
        }
        look_for_client, beats = server_timeouts(config)
        with connection.cursor() as cursor:
            calls = ", ".join(["pg_catalog.set_config(%s, %s, false)"] * len(settings) + [look_for_client])
            values = [text for pair in settings.items() for text in pair]
            cursor.execute(f"SELECT pg_catalog.pg_backend_pid(), {calls}", [*values, *beats])
            process = int(cursor.fetchone()[0])
            self._end_lost(cursor)
        connection.commit()
        return process

    def _end_lost(self, cursor: Any) -> bool:
        """End the sessions of this run whose connection broke: the server may take long to notice, and they hold locks.

        False where there are none, and nothing was asked.
        """
        with self._lock:
            lost, self._lost = self._lost, []
        if lost:
            cursor.execute(
                "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE pid = ANY (%s) "
                "AND usename = session_user AND pg_catalog.starts_with(application_name, %s)",
                (lost, f"etl_toolkit {self.run_id} "),
            )
        return bool(lost)

    @contextmanager
    def session(
        self, role: str, *, waits: bool = True, is_printing: bool = False, is_spared: bool = False
    ) -> Iterator[Any]:
        """A connection that is rolled back and closed at the end, whatever happened; see `connect`."""
        connection = self.connect(role, waits=waits, is_printing=is_printing, is_spared=is_spared)
        try:
            yield connection
        finally:
            self.close(connection)

    @contextmanager
    def lend(self, role: str) -> Iterator[Any]:
        """A connection as that of `session`, but one that goes to the next caller: opening one costs more than a small batch.

        Where the block fails it is closed, so that nobody goes on with what is half done. Nothing that outlives a transaction
        may be left in it.
        """
        connection = self.take(role)
        try:
            yield connection
        except BaseException:
            self.close(connection)
            raise
        self._keep(connection)

    def take(self, role: str) -> Any:
        """A connection that is idle, under another name from now on, or a new one where there is none."""
        while connection := self._next_idle():
            try:
                with connection.cursor() as cursor:
                    cursor.execute("SET application_name TO %s", (self._name(role),))
                    if self._end_lost(cursor):
                        connection.commit()  # it has a snapshot, and a batch may want to begin with its own
                return connection
            except psycopg2.Error:  # it was lost while it was idle
                self.close(connection)
        return self.connect(role)

    def _next_idle(self) -> Any:
        self.stop.check()
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _keep(self, connection: Any) -> None:
        """Roll a connection back and let it wait for the next; close it where it is lost or is being cancelled."""
        try:
            connection.rollback()
        except psycopg2.Error:
            self.close(connection)
            return
        with self._lock:
            is_cancelled = connection in self._cancels
            if not is_cancelled:
                self._idle.append(connection)
        if is_cancelled:
            self.close(connection)

    def close_idle(self) -> None:
        """Close the connections that nobody has taken: at the end of the work."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            self.close(connection)

    def close(self, connection: Any) -> None:
        with self._lock:
            process = self._open.pop(connection, None)
            if connection.closed and process is not None:  # by the driver, which lost it
                self._lost.append(process)
            self._spared.discard(connection)
            self._committing.discard(connection)
        if self._await_cancel(connection):
            connection.close()
        else:
            _cut(connection)  # the driver would close it under the request that is under way

    def commit(self, connection: Any, *, note: str = "") -> None:
        """COMMIT, unless the load was stopped: then raise StoppedError. `note` says what it was, if no ledger does."""
        with self.committing([connection]):
            connection.commit()
        self.notes += [note] if note else []

    @contextmanager
    def committing(self, connections: Collection[Any]) -> Iterator[None]:
        """Enter the COMMIT of one or several connections, or raise StoppedError; once within, all of them may be committed.

        A statement of theirs may be cancelled still, but the answer to a COMMIT is waited for.
        """
        with self._lock:
            self.stop.check()
            self._committing.update(connections)
        try:
            yield
        finally:
            with self._lock:
                self._committing.difference_update(connections)

    @contextmanager
    def sparing(self, connection: Any) -> Iterator[None]:
        """For the length of the block, a connection is not cancelled: what it does belongs to the end of the load."""
        with self._lock:
            was_spared = connection in self._spared
            self._spared.add(connection)
        self._await_cancel(connection)
        try:
            yield
        finally:
            with self._lock:
                if not was_spared:
                    self._spared.discard(connection)

    def cancel_all(self) -> None:
        """Cancel what every open connection is doing; it then fails with 57014 and is rolled back. Does not block.

        Call it again and again: a connection whose server has not answered for a second, or two for one that is spared, is
        cut, unless it is committing.
        """
        now = time.monotonic()
        with self._lock:
            busy = {connection for connection in self._open if _is_busy(connection)}
            for connection in set(self._cancels) - busy:
                if not self._cancels[connection].is_running():
                    del self._cancels[connection]
            for connection in busy:
                request = self._cancels.setdefault(connection, _Cancel(now))
                is_spared = connection in self._spared
                if now - request.since > PATIENCE_SECONDS * (1 + is_spared):
                    if connection not in self._committing:
                        _cut(connection)
                elif not is_spared and not request.is_running():
                    request.thread = threading.Thread(
                        target=_cancel, args=(connection,), name="etl-cancel", daemon=True
                    )
                    request.thread.start()

    def _await_cancel(self, connection: Any) -> bool:
        """Wait for a cancel request that is under way, so that it does not meet what the session does next.

        False where it still is: the network may be down.
        """
        with self._lock:
            request = self._cancels.pop(connection, None)
        if request is not None and request.thread is not None:
            request.thread.join(PATIENCE_SECONDS)
        return request is None or not request.is_running()


def _is_busy(connection: Any) -> bool:
    return not connection.closed and connection.info.transaction_status == TRANSACTION_STATUS_ACTIVE


def _cancel(connection: Any) -> None:
    with suppress(psycopg2.Error):  # it is gone already
        connection.cancel()


def _cut(connection: Any) -> None:
    """Close a connection although a thread may wait for its server, which rolls back when it notices."""
    with suppress(OSError, psycopg2.Error), socket.socket(fileno=os.dup(connection.fileno())) as wire:
        wire.shutdown(socket.SHUT_RDWR)


def _meet(dial: Callable[[], Any]) -> Any:
    """Connect for the first time: a server that refuses with a reason may be starting; one that does not answer may not exist."""
    try:
        return dial()
    except TransientDatabaseError as error:
        if error.sqlstate is None:
            raise DatabaseError(str(error)) from None
        raise
