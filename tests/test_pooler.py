"""A pooler between us and the server: one in transaction mode is refused before anything is set, one by session works."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import make_dsn, parse_dsn

from etl_toolkit import ParallelConfig, ingest
from etl_toolkit.errors import PoolerError
from etl_toolkit.loading import session
from tests.oracle import Rows, write

PGBOUNCER = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")
POOL_SIZE = 4  # in transaction mode

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")


@contextmanager
def pgbouncer(database: str, directory: Path, mode: str) -> Iterator[str]:
    """DSN of a pgbouncer in front of a database, with at most four server sessions."""
    assert PGBOUNCER is not None
    parts = parse_dsn(database)
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    settings = directory / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\npooled = host={parts['host']} port={parts['port']} dbname={parts['dbname']} user={parts['user']} "
        f"password={parts['password']}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\n"
        f"unix_socket_dir =\npool_mode = {mode}\ndefault_pool_size = {20 if mode == 'session' else POOL_SIZE}\n"
    )
    # It does not run as root, and has to find its settings; only root may run it as somebody else.
    command = [PGBOUNCER, *(["-u", "nobody"] if os.geteuid() == 0 else []), str(settings)]
    for place in (settings, *settings.parents):
        if place.owner() == "root" and place.is_relative_to("/tmp") and place != Path("/tmp"):
            place.chmod(place.stat().st_mode | 0o055)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    through = make_dsn(host="127.0.0.1", port=port, dbname="pooled", user="any", sslmode="disable")
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                psycopg2.connect(through).close()
                break
            except psycopg2.OperationalError:
                if process.poll() is not None or time.monotonic() > deadline:
                    assert process.stderr is not None
                    process.kill()
                    pytest.fail(f"pgbouncer does not answer: {process.stderr.read().decode()[-500:]}")
                time.sleep(0.05)
        yield through
    finally:
        process.terminate()
        process.wait(10)
        if process.stderr is not None:
            process.stderr.close()


def settings_of_other_clients(through: str) -> set[tuple[str, ...]]:
    """What those see who get the server sessions next: one each, all at once."""
    found = set()
    with ExitStack() as stack:
        for _ in range(POOL_SIZE):
            cursor = stack.enter_context(closing(psycopg2.connect(through))).cursor()
            cursor.execute("SELECT current_setting('lock_timeout'), current_setting('work_mem')")
            found.add(cursor.fetchone())
    return found


@pytest.mark.parametrize("guard", ["refused", "let through"])
def test_a_pooler_in_transaction_mode_is_refused_before_anything_is_set_or_written(
    database: str, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guard: str
) -> None:
    """Let through, the load ends well, and its settings stay behind with whoever gets the server session next."""
    files = [write(Rows(("id",), ((str(number),),)), tmp_path, f"{number}", "csv") for number in range(3)]
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY)")

    with pgbouncer(database, tmp_path, "transaction") as through:
        before = settings_of_other_clients(through)
        if guard == "let through":
            monkeypatch.setattr(session, "refuse_transaction_pooler", lambda *_: None)
            ingest(files, "t", "id", through)
            assert settings_of_other_clients(through) != before
            return
        with pytest.raises(PoolerError, match="a pooler in transaction mode"):
            ingest(files, "t", "id", through)
        assert settings_of_other_clients(through) == before
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regnamespace('etl_toolkit'), (SELECT count(*) FROM t)")
        assert cursor.fetchone() == (None, 0)


def test_a_pooler_in_transaction_mode_that_is_busy_is_refused(database: str, tmp_path: Path) -> None:
    """Other clients take server sessions and give them back between our looks."""
    file = write(Rows(("id",), (("1",),)), tmp_path, "one", "csv")
    with pgbouncer(database, tmp_path, "transaction") as through, closing(psycopg2.connect(through)) as other:
        other.cursor().execute("SELECT 1")  # its transaction stays open
        with pytest.raises(PoolerError):
            ingest(file, "t", "id", through, create_table=True)


@pytest.mark.parametrize("strategy", ["deterministic", "partitioned"])
def test_a_load_through_a_pooler_in_session_mode(
    database: str, connection: Connection, tmp_path: Path, strategy: str
) -> None:
    files = [write(Rows(("id",), ((str(number),), ("7",))), tmp_path, f"{number}", "csv") for number in range(3)]

    with pgbouncer(database, tmp_path, "session") as through:
        result = ingest(
            files, "t", "id", through, create_table=True, strategy=strategy, config=ParallelConfig(concurrency=2)
        )

    assert result
    with connection.cursor() as cursor:
        cursor.execute("SELECT array_agg(id::text ORDER BY id) FROM t")
        assert cursor.fetchone() == (["0", "1", "2", "7"],)
