"""Time-outs and modes that a role or a database sets: pinned, obeyed or refused by name, as docs/configuration.md says."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pyarrow as pa
import pytest
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from etl_toolkit import ConflictAwareProcessor, ParallelConfig, ingest, server
from etl_toolkit.cli import app
from etl_toolkit.doctor import Status, run_checks
from etl_toolkit.errors import SourceError, TargetError
from etl_toolkit.loading import failpoints
from etl_toolkit.loading.copy import copy_stream
from etl_toolkit.server.account import run_as, server_account
from etl_toolkit.server.home import Home
from tests.conftest import _memory
from tests.oracle import differing_rows

FILES = {"1.csv": "id,v\n1,a\n2,b\n", "2.csv": "id,v\n2,c\n3,d\n"}

SetUp = Callable[..., None]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return [tmp_path / name for name in FILES]


@pytest.fixture
def set_up(connection: Connection) -> SetUp:
    """A table, and settings of the database."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")

    def alter(**settings: str) -> None:
        with connection.cursor() as cursor:
            for name, value in settings.items():
                statement = sql.SQL("ALTER DATABASE {} SET {} = {}")
                database = sql.Identifier(connection.info.dbname)
                cursor.execute(statement.format(database, sql.SQL(name), sql.Literal(value)))

    return alter


def contents(connection: Connection) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, v FROM t ORDER BY id")
        return cursor.fetchall()


class TestPinned:
    @pytest.mark.parametrize(
        "name", ["idle_session_timeout", "transaction_timeout", "statement_timeout", "lock_timeout"]
    )
    def test_a_timeout_of_the_role_ends_no_load(
        self, database: str, connection: Connection, set_up: SetUp, files: list[Path], name: str
    ) -> None:
        if name == "transaction_timeout" and connection.server_version < 170000:
            pytest.skip("version 17 brought it")
        set_up(**{name: "200ms"})
        with failpoints.installed({"claimed": lambda: time.sleep(0.5), "copied": lambda: time.sleep(0.5)}):
            assert ingest(files, "t", "id", database, strategy="deterministic").retries == 0
        assert contents(connection) == [(1, "a"), (2, "c"), (3, "d")]

    @pytest.mark.parametrize(
        ("name", "value"),
        [("default_transaction_isolation", "serializable"), ("default_transaction_deferrable", "on"),
         ("synchronous_commit", "off"), ("standard_conforming_strings", "off"), ("bytea_output", "escape"),
         ("extra_float_digits", "-15"), ("client_min_messages", "debug5"), ("array_nulls", "off"), ("row_security", "off"),
         ("xmloption", "document"), ("temp_buffers", "800kB"), ("enable_partition_pruning", "off")],
    )  # fmt: skip
    def test_other_modes_of_the_role_change_nothing(
        self, database: str, connection: Connection, set_up: SetUp, files: list[Path], name: str, value: str
    ) -> None:
        set_up(**{name: value})
        for strategy in ("partitioned", "deterministic", "streaming"):
            ingest(files, "t", "id", database, strategy=strategy, undoable=strategy == "deterministic")
            assert contents(connection) == [(1, "a"), (2, "c"), (3, "d")]


class TestObeyed:
    @pytest.mark.parametrize(
        ("strategy", "undoable"),
        [("partitioned", False), ("deterministic", False), ("deterministic", True), ("streaming", True)],
    )
    def test_what_the_table_prints_of_values_is_printed_as_for_any_client(
        self, database: str, connection: Connection, set_up: SetUp, tmp_path: Path, strategy: str, undoable: bool
    ) -> None:
        """A generated column here; a trigger as well where files are loaded in order. The control inserts the same rows."""
        set_up(
            extra_float_digits="0",
            bytea_output="escape",
            DateStyle="German",
            TimeZone="Asia/Tokyo",
            IntervalStyle="iso_8601",
        )
        print_all = "concat_ws('; ', f, b, d, m, i)"
        with connection.cursor() as cursor:
            cursor.execute("SET extra_float_digits = 0; SET bytea_output = 'escape'; SET DateStyle = 'German'")
            cursor.execute("SET TimeZone = 'Asia/Tokyo'; SET IntervalStyle = 'iso_8601'")
            cursor.execute(
                "CREATE FUNCTION printed(f float8, b bytea, d date, m timestamptz, i interval) RETURNS text IMMUTABLE "
                f"LANGUAGE sql AS $$SELECT {print_all}$$; CREATE FUNCTION label() RETURNS trigger LANGUAGE plpgsql AS "
                f"$$BEGIN SELECT {print_all} INTO NEW.t FROM (SELECT NEW.*) AS n; RETURN NEW; END$$"
            )
            for name in ("loaded", "expected"):
                cursor.execute(
                    f"CREATE TABLE {name} (id int PRIMARY KEY, f float8, b bytea, d date, m timestamptz, i interval, t text, "
                    "g text GENERATED ALWAYS AS (printed(f, b, d, m, i)) STORED)"
                )
                if strategy != "partitioned":
                    cursor.execute(
                        f"CREATE TRIGGER label BEFORE INSERT OR UPDATE ON {name} FOR EACH ROW EXECUTE FUNCTION label()"
                    )
                cursor.execute(f"INSERT INTO {name} (id, f) VALUES (1, 7)")
            values = [(0.1 + 0.2, "\\x4142", "2024-06-05", "2024-06-05 12:00Z", "1 day 2 hours")] * 2
            for key, row in enumerate(values, start=1):
                cursor.execute(
                    "INSERT INTO expected (id, f, b, d, m, i) VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (id) DO UPDATE "
                    "SET (f, b, d, m, i) = (excluded.f, excluded.b, excluded.d, excluded.m, excluded.i)",
                    (key, *row),
                )
        path = tmp_path / "values.csv"
        path.write_text(
            "id,f,b,d,m,i\n" + "".join(f"{at},{','.join(map(str, row))}\n" for at, row in enumerate(values, 1))
        )

        assert ingest(path, "loaded", "id", database, strategy=strategy, undoable=undoable)

        assert differing_rows(connection, "loaded", "expected") == []

    def test_null_elements_are_read_as_the_server_says(
        self, database: str, connection: Connection, set_up: SetUp, tmp_path: Path
    ) -> None:
        set_up(array_nulls="off")
        with connection.cursor() as cursor:
            cursor.execute(
                "CREATE TABLE lists (id int PRIMARY KEY, a text[]); INSERT INTO lists VALUES (2, '{x,NULL}')"
            )
        (tmp_path / "lists.csv").write_text('id,a\n1,"{a,NULL}"\n2,{b}\n')
        result = ingest(tmp_path / "lists.csv", "lists", "id", database, undoable=True)
        with connection.cursor() as cursor:
            cursor.execute("SELECT a FROM lists ORDER BY id")
            assert cursor.fetchall() == [(["a", "NULL"],), (["b"],)]
            assert ConflictAwareProcessor(database).undo(result.run_id).restored == 1
            cursor.execute("SELECT a FROM lists")
            assert cursor.fetchall() == [(["x", None],)]
        frame = pa.table({"id": [1], "a": [["a", None]]})
        with pytest.raises(SourceError, match=r"array_nulls is off .* NULLs in them would become the text NULL"):
            ingest(frame, "lists", "id", database)
        assert ingest(frame, "lists", "id", psycopg2.extensions.make_dsn(database, options="-c array_nulls=on"))
        with connection.cursor() as cursor:
            cursor.execute("SELECT a FROM lists WHERE id = 1")
            assert cursor.fetchall() == [(["a", None],)]

    @pytest.mark.parametrize("strategy", ["partitioned", "deterministic", "streaming"])
    @pytest.mark.parametrize("how", ["session_replication_role", "disabled trigger", "not enforced"])
    def test_what_the_server_does_not_check_is_not_checked(
        self, database: str, connection: Connection, set_up: SetUp, tmp_path: Path, how: str, strategy: str
    ) -> None:
        if how == "not enforced" and connection.server_version < 180000:
            pytest.skip("version 18 brought it")
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE child (id int PRIMARY KEY, t int)")
            enforced = "NOT ENFORCED" if how == "not enforced" else ""
            cursor.execute(f"ALTER TABLE child ADD FOREIGN KEY (t) REFERENCES t {enforced}")
            if how == "disabled trigger":
                cursor.execute("ALTER TABLE child DISABLE TRIGGER ALL")
        if how == "session_replication_role":
            set_up(session_replication_role="replica")
        paths = [tmp_path / "1.csv", tmp_path / "2.csv"]
        paths[0].write_text("id,t\n1,7\n2,8\n")
        paths[1].write_text("id,t\n1,9\n")

        assert ingest(paths, "child", "id", database, strategy=strategy).rejects == ()

        with connection.cursor() as cursor:
            cursor.execute("SELECT id, t FROM child ORDER BY id")
            assert cursor.fetchall() == [(1, 9), (2, 8)]

    def test_search_path_finds_the_table(
        self, database: str, connection: Connection, set_up: SetUp, files: list[Path]
    ) -> None:
        with connection.cursor() as cursor:
            cursor.execute("CREATE SCHEMA shop")
            cursor.execute("CREATE DOMAIN shop.word AS text; CREATE TABLE shop.t (id int PRIMARY KEY, v shop.word)")
            cursor.execute(
                sql.SQL("ALTER DATABASE {} SET search_path = shop, public").format(
                    sql.Identifier(connection.info.dbname)
                )
            )
        assert ingest(files, "t", "id", database).table == "shop.t"

    def test_string_literals_are_quoted_as_the_server_reads_them(
        self, database: str, connection: Connection, set_up: SetUp, tmp_path: Path
    ) -> None:
        """psycopg2 looks at this setting once, so it must not change behind its back."""
        set_up(standard_conforming_strings="off")
        path = tmp_path / "größe, it's.csv"
        path.write_text("id,v\n1,a\\b'\n2,\\\\\n")
        for strategy in ("partitioned", "deterministic"):
            result = ingest(path, "t", "id", database, strategy=strategy)
            assert contents(connection) == [(1, "a\\b'"), (2, "\\\\")]
        with connection.cursor() as cursor:
            cursor.execute("SELECT name FROM etl_toolkit.files WHERE run_id = %s", (result.run_id,))
            assert cursor.fetchall() == [(str(path),)]

    def test_the_empty_search_path_is_no_obstacle(
        self, database: str, connection: Connection, set_up: SetUp, files: list[Path]
    ) -> None:
        set_up(search_path="")
        for strategy in ("partitioned", "hybrid", "deterministic", "streaming"):
            ingest(files, "public.t", "id", database, strategy=strategy, force=True, on_conflict="update")
        assert contents(connection) == [(1, "a"), (2, "c"), (3, "d")]


class TestRefused:
    def test_a_role_that_writes_nothing_by_default_loads_nothing(
        self, database: str, connection: Connection, set_up: SetUp, files: list[Path]
    ) -> None:
        set_up(default_transaction_read_only="on")
        with pytest.raises(TargetError, match="default_transaction_read_only is on for this role"):
            ingest(files, "t", "id", database)
        assert ConflictAwareProcessor(database).plan(files, "t", ["id"]).predicted_inserts == 3
        assert contents(connection) == []

    def test_the_dsn_may_say_otherwise(
        self, database: str, connection: Connection, set_up: SetUp, files: list[Path]
    ) -> None:
        set_up(default_transaction_read_only="on")
        ingest(files, "t", "id", psycopg2.extensions.make_dsn(database, options="-c default_transaction_read_only=off"))
        assert contents(connection) == [(1, "a"), (2, "c"), (3, "d")]


class TestTheReason:
    """psycopg2 prints a SystemError where a session ends in the middle of COPY, and forgets what the server said."""

    class Slow:
        def __init__(self) -> None:
            self.blocks = 0

        def read(self, _size: int) -> bytes:
            self.blocks += 1
            time.sleep(0.5 if self.blocks == 3 else 0)
            return b"1\n" * 100_000 if self.blocks < 9 else b""

    def ended_midway(self, database: str, connection: Connection, copy: Callable[[Any, Any], Any]) -> psycopg2.Error:
        with closing(psycopg2.connect(database)) as victim, victim.cursor() as cursor:
            cursor.execute("CREATE TEMP TABLE n (n int)")
            killer = threading.Timer(
                0.2, lambda: connection.cursor().execute("SELECT pg_terminate_backend(%s)", (pid,))
            )
            pid = victim.info.backend_pid
            killer.start()
            with pytest.raises(psycopg2.Error) as caught:
                copy(cursor, self.Slow())
            killer.join()
            return caught.value

    def test_is_raised_and_nothing_is_printed(
        self, database: str, connection: Connection, capfd: pytest.CaptureFixture[str]
    ) -> None:
        def copy(cursor: Any, stream: Any) -> None:
            copy_stream(cursor, "COPY n FROM STDIN", stream, on_bytes=lambda _size, _rows: None)

        hook = sys.excepthook
        assert self.ended_midway(database, connection, copy).pgcode == "57P01"
        assert (capfd.readouterr().err, sys.excepthook) == ("", hook)

    def test_is_lost_and_a_systemerror_printed_by_psycopg2_alone(
        self, database: str, connection: Connection, capfd: pytest.CaptureFixture[str]
    ) -> None:
        def copy(cursor: Any, stream: Any) -> None:
            cursor.copy_expert("COPY n FROM STDIN", stream, size=1 << 18)

        assert self.ended_midway(database, connection, copy).pgcode is None
        assert "SystemError" in capfd.readouterr().err


@pytest.fixture(scope="module")
def standby(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """DSN of a standby that pg_basebackup has made of a primary with a table of two rows."""
    account = server_account()
    with server.temporary(profile="fast", root=_memory()) as primary:
        with psycopg2.connect(primary.dsn) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'x'), (7, 'y')")
        home = Home(primary.data_dir.parent / "standby")
        home.prepare(account)
        home.lock.touch()
        done = run_as(
            account, primary.bin_dir / "pg_basebackup", "-D", home.cluster, "-d", primary.dsn, "-R", "-X", "stream",
            "-c", "fast", timeout_seconds=120, cwd=home.path,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        shutil.copy2(primary.data_dir / "password", home.password)
        if account.drop:
            shutil.chown(home.password, account.uid, account.gid)
        try:
            yield server.start(home.path, profile="fast", bin_dir=primary.bin_dir).dsn
        finally:
            server.stop(home.path, "immediate")


class TestAStandby:
    def test_is_named_where_a_load_is_asked_of_it(self, standby: str, files: list[Path]) -> None:
        with pytest.raises(TargetError, match="the server is a standby and accepts no writes; name its primary"):
            ingest(files, "t", "id", standby)

    def test_makes_plans(self, standby: str, files: list[Path], tmp_path: Path) -> None:
        (tmp_path / "3.csv").write_text("id,v\n 4,e\nx,f\n")
        processor = ConflictAwareProcessor(standby, config=ParallelConfig(concurrency=2))
        plan = processor.plan([*files, tmp_path / "3.csv"], "t", ["id"], max_rejects=5)
        assert plan.overlap is not None
        assert (plan.overlap.distinct_keys, plan.overlap.shared_keys) == (3, 1)
        assert any("the server is a standby" in reason for reason in plan.reasons)

    def test_fails_the_doctor_by_name(self, standby: str) -> None:
        found = run_checks(standby, proves_backup=False).findings
        assert [finding.status for finding in found if "the server is a standby" in finding.advice] == [Status.FAIL]

    def test_makes_plans_from_the_command_line(self, standby: str, files: list[Path]) -> None:
        from typer.testing import CliRunner

        done = CliRunner().invoke(app, ["plan", *map(str, files), "--table", "t", "--key", "id", "--dsn", standby])
        assert (done.exit_code, "the server is a standby" in done.output) == (0, True)
