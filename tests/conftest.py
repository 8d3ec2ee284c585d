"""A clean environment and a real server for the whole session, and a database of its own for every test."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg2
import pytest
from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import make_dsn

from etl_toolkit import server
from tests.clean_environment import forget_terminal, in_clean_environment

ENOUGH_BYTES = 8 << 30


def pytest_configure(config: pytest.Config) -> None:
    """Before anything is started; the workers of pytest-xdist inherit it."""
    forget_terminal()
    if not hasattr(config, "workerinput"):
        session = ExitStack()
        session.enter_context(in_clean_environment())
        config.add_cleanup(session.close)


@pytest.fixture(scope="session", autouse=True)
def _several_workers() -> Iterator[None]:
    """Let workers share a load however small it is: that is what most tests are about."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("etl_toolkit.plan.lanes.TINY_BYTES", 0)
        yield


@pytest.fixture(scope="session")
def dsn() -> Iterator[str]:
    """The server under test: the one named by ETL_DSN, else a temporary one."""
    named = os.environ.get("ETL_DSN")
    if named:
        yield named
        return
    with server.temporary(profile="fast", root=_memory()) as embedded:
        yield embedded.dsn


def _memory() -> Path | None:
    """A file system in memory, where there is one with room.

    On ext4 a third of the suite's time goes into finding inodes for the files of databases that come and go.
    """
    shared = Path("/dev/shm")
    return shared if shared.is_dir() and shutil.disk_usage(shared).free > ENOUGH_BYTES else None


@pytest.fixture(scope="session")
def _admin(dsn: str) -> Iterator[Connection]:
    admin = psycopg2.connect(dsn)
    admin.autocommit = True
    yield admin
    admin.close()


@contextmanager
def new_database(dsn: str, admin: Connection) -> Iterator[str]:
    """DSN of a new, empty database, dropped afterwards together with any session that is still connected."""
    name = f"etl_test_{uuid.uuid4().hex[:12]}"
    create = sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name))
    if admin.server_version >= 150000:
        # Four times as fast as the default here (15 ms against 57 ms) with fsync off; version 14 knows nothing else.
        create += sql.SQL(" STRATEGY file_copy")
    with admin.cursor() as cursor:
        cursor.execute(create)
    try:
        yield make_dsn(dsn, dbname=name)
    finally:
        with admin.cursor() as cursor:
            cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def database(dsn: str, _admin: Connection) -> Iterator[str]:
    """DSN of a database of the test's own."""
    with new_database(dsn, _admin) as created:
        yield created


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    """An autocommit connection to `database`."""
    opened = psycopg2.connect(database)
    opened.autocommit = True
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def shared(dsn: str, _admin: Connection) -> Iterator[tuple[str, Connection]]:
    """One database for all the examples of a module (a new one for each would take most of the time), and a connection."""
    with new_database(dsn, _admin) as created:
        opened = psycopg2.connect(created)
        opened.autocommit = True
        yield created, opened
        opened.close()
