"""The production checklist: every check passes where it should, and fails where it should, on real servers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from etl_toolkit import ParallelConfig, ingest, server
from etl_toolkit.doctor import DoctorReport, Finding, Status, capacity, run_checks
from etl_toolkit.errors import RejectLimitError
from etl_toolkit.loading.grants import database_sql, ledger_sql, table_sql
from tests.pooler import pooler

DEBIAN = Path("/usr/lib/postgresql/15/bin")
TABLE = "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, 'old' FROM generate_series(1, 50) g"


def execute(dsn: str, *statements: str) -> None:
    with closing(psycopg2.connect(dsn)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


def examine(dsn: str, table: str | None = None, **options: Any) -> DoctorReport:
    config = options.pop("config", ParallelConfig(concurrency=2))
    return run_checks(dsn, table, ["id"], config, proves_backup=options.pop("proves_backup", False), **options)


def status_of(report: DoctorReport, check: str) -> tuple[Status, bool]:
    """The status, and whether there is advice exactly where there should be."""
    finding = report.of(check)
    return finding.status, bool(finding.advice) == (finding.status is not Status.PASS)


PASSES, WARNS, FAILS, UNPROVEN = ((status, True) for status in Status)


@pytest.fixture(scope="module")
def sound() -> Iterator[str]:
    """A server as it should be: durable, with a table."""
    with server.temporary("durable") as embedded:
        yield embedded.dsn


@pytest.fixture(scope="module")
def mis_set() -> Iterator[str]:
    """A server set as none should be, that lets everybody in without a password."""
    with server.temporary("fast") as embedded:
        rules = embedded.data_dir / "cluster" / "pg_hba.conf"
        rules.write_text("host all all 127.0.0.1/32 trust\n" + rules.read_text())
        execute(
            embedded.dsn,
            "ALTER SYSTEM SET max_wal_size = '64MB'",
            "CREATE DATABASE stale",
            "UPDATE pg_database SET datcollversion = '0.0' WHERE datname = 'stale'",
            "SELECT pg_create_physical_replication_slot('forgotten')",
            "SELECT pg_reload_conf()",
        )
        yield embedded.dsn


@pytest.fixture
def table(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(TABLE)


class TestServer:
    def test_passes_on_a_sound_server(self, sound: str) -> None:
        """A warning for the superuser that the embedded server has, and no table named, are all there is."""
        report = examine(sound)
        expected = {finding.check: PASSES for finding in report.findings}
        expected |= {"role": WARNS, "table": UNPROVEN, "ledger": UNPROVEN}
        assert {check: status_of(report, check) for check in expected} == expected
        assert {"connections", "memory", "disk of the server", "fsync", "retries", "reject limit"} < set(expected)

    def test_fails_on_a_mis_set_one(self, mis_set: str) -> None:
        report = examine(mis_set)
        expected = {
            "fsync": FAILS,
            "full_page_writes": FAILS,
            "synchronous_commit": WARNS,
            "max_wal_size": WARNS,
            "replication": FAILS,
        }
        assert {check: status_of(report, check) for check in expected} == expected

    def test_a_database_sorted_by_another_version_of_the_system_fails(self, mis_set: str) -> None:
        assert status_of(examine(make_dsn(mis_set, dbname="stale")), "collation version") == FAILS

    def test_a_column_sorted_by_a_collation_of_another_version_fails(self, mis_set: str) -> None:
        execute(mis_set, "DROP DATABASE IF EXISTS columns", "CREATE DATABASE columns TEMPLATE template0")
        dsn = make_dsn(mis_set, dbname="columns")
        execute(dsn, "CREATE COLLATION moved (locale = 'C.UTF-8')", "CREATE TABLE t (v text COLLATE moved)")
        assert status_of(examine(dsn), "collation version") == PASSES
        execute(dsn, "UPDATE pg_collation SET collversion = '0.0' WHERE collname = 'moved'")
        assert status_of(examine(dsn), "collation version") == FAILS
        assert "moved (0.0, now " in examine(dsn).of("collation version").evidence

    def test_an_archiver_that_fails_is_found(self) -> None:
        """It may be switched on at the start of a server only."""
        with server.temporary() as embedded:
            execute(embedded.dsn, "ALTER SYSTEM SET archive_mode = on", "ALTER SYSTEM SET archive_command = 'false'")
            server.stop(embedded.data_dir)
            dsn = server.start(embedded.data_dir, profile="fast").dsn
            assert status_of(examine(dsn), "replication") == PASSES
            execute(dsn, "SELECT pg_switch_wal()")
            for _ in range(300):
                if status_of(report := examine(dsn), "replication") == FAILS:
                    break
                time.sleep(0.1)
            assert "archiving WAL fails, so WAL piles up" in report.of("replication").evidence

    def test_a_server_that_does_not_answer_is_a_finding(self) -> None:
        report = examine("host=127.0.0.1 port=1 user=u password=canary")
        assert (report.ok, [finding.check for finding in report.findings]) == (False, ["connection"])
        assert "canary" not in str(report)

    def test_a_standby_that_is_missing_is_found_and_does_not_hold_the_doctor_up(self, database: str) -> None:
        with server.temporary() as embedded:
            execute(
                embedded.dsn,
                TABLE,
                "ALTER SYSTEM SET synchronous_commit = on",
                "ALTER SYSTEM SET synchronous_standby_names = 'gone'",
                "SELECT pg_reload_conf()",
            )
            report = examine(embedded.dsn, "t", proves_backup=True)
        assert (status_of(report, "replication"), status_of(report, "backup")) == (FAILS, PASSES)

    def test_version_before_the_oldest_supported(self) -> None:
        """No such server is at hand; the check reads what libpq was told at connect time."""
        from etl_toolkit.doctor.server import check_version

        class Old:
            version = 130011

            def row(self, statement: str) -> tuple[str]:
                return ("13.11",)

        (finding,) = check_version(Old())  # type: ignore[arg-type]
        assert (finding.status, finding.evidence) == (Status.FAIL, "PostgreSQL 13.11")


class TestEncryption:
    def test_fails_for_another_host_in_plain_text(self, mis_set: str) -> None:
        """`hostaddr` leads to this machine; the name is what is asked for."""
        report = examine(make_dsn(mis_set, host="db.example.com", hostaddr="127.0.0.1"))
        assert status_of(report, "encryption") == FAILS
        assert report.of("encryption").evidence == "the connection to db.example.com is not encrypted"

    @pytest.mark.skipif(
        not DEBIAN.exists() or not shutil.which("openssl"), reason="needs a server with TLS, and openssl"
    )
    def test_passes_with_a_verified_certificate_and_warns_of_an_unverified_one(self, tmp_path: Path) -> None:
        with server.temporary(bin_dir=DEBIAN) as embedded:
            cluster = embedded.data_dir / "cluster"
            owner = cluster.stat()
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=db.example.com",
                 "-addext", "subjectAltName=DNS:db.example.com", "-keyout", "server.key", "-out", "server.crt"],
                cwd=tmp_path, check=True, capture_output=True,
            )  # fmt: skip
            for name in ("server.key", "server.crt"):
                shutil.copy(tmp_path / name, cluster / name)
                shutil.chown(cluster / name, owner.st_uid, owner.st_gid)
                (cluster / name).chmod(0o600)
            execute(embedded.dsn, "ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()")
            remote = make_dsn(embedded.dsn, host="db.example.com", hostaddr="127.0.0.1")
            verified = make_dsn(remote, sslmode="verify-full", sslrootcert=str(tmp_path / "server.crt"))
            assert status_of(examine(verified), "encryption") == PASSES
            assert status_of(examine(make_dsn(remote, sslmode="require")), "encryption") == WARNS


class TestPooler:
    """`mis_set` lets the pooler in without a password."""

    @pytest.mark.parametrize(("per_session", "status"), [(False, FAILS), (True, WARNS)], ids=["transaction", "session"])
    def test_one_in_between_is_found(self, mis_set: str, per_session: bool, status: tuple[Status, bool]) -> None:
        port = int(parse_dsn(mis_set)["port"])
        with pooler(port, per_session=per_session) as other_port:
            report = examine(make_dsn(mis_set, port=other_port, sslmode="disable", gssencmode="disable"))
        assert status_of(report, "pooler") == status


class TestCapacity:
    @pytest.mark.parametrize(("limit", "status"), [(8, PASSES), (7, FAILS)])
    def test_connections_of_the_role_are_counted_against_workers_and_five_more(
        self, mis_set: str, limit: int, status: tuple[Status, bool]
    ) -> None:
        """The doctor's own one will be free for the load."""
        execute(mis_set, f"CREATE ROLE limited LOGIN CONNECTION LIMIT {limit}")
        try:
            report = examine(make_dsn(mis_set, user="limited"), config=ParallelConfig(concurrency=3))
            assert status_of(report, "connections") == status
            assert f"{limit} free (the role's limit {limit}, 1 in use), 8 needed" in report.of("connections").evidence
        finally:
            execute(mis_set, "DROP ROLE limited")

    def test_sessions_of_other_users_count_for_a_role_that_is_not_told_what_they_do(self, mis_set: str) -> None:
        execute(mis_set, "CREATE ROLE plain LOGIN")
        try:
            with ExitStack() as stack:
                for _ in range(5):
                    stack.enter_context(closing(psycopg2.connect(mis_set)))
                evidence = examine(make_dsn(mis_set, user="plain")).of("connections").evidence
            match = re.search(r"reserved, (\d+) in use", evidence)
            assert match is not None
            assert int(match[1]) >= 6
        finally:
            execute(mis_set, "DROP ROLE plain")

    def test_connections_of_the_database_and_of_the_server_count_as_well(self, database: str) -> None:
        name = parse_dsn(database)["dbname"]
        execute(database, f'ALTER DATABASE "{name}" CONNECTION LIMIT 4')
        assert status_of(examine(database), "connections") == FAILS
        execute(database, f'ALTER DATABASE "{name}" CONNECTION LIMIT -1')
        assert status_of(examine(database, config=ParallelConfig(concurrency=96)), "connections") == FAILS

    def test_memory_above_the_alert_fails_and_a_plan_above_it_warns(self, database: str) -> None:
        report = examine(database, config=ParallelConfig(memory_alert_ratio=1e-6))
        assert (status_of(report, "memory"), status_of(report, "memory plan")) == (FAILS, WARNS)
        assert status_of(examine(database, config=ParallelConfig(memory_limit_bytes=1 << 20)), "memory plan") == PASSES

    def test_a_temporary_directory_without_room_fails(self, database: str) -> None:
        assert (
            status_of(examine(database, config=ParallelConfig(temp_directory="/proc")), "disk of the client") == FAILS
        )
        assert (
            status_of(examine(database, config=ParallelConfig(temp_directory="/nowhere")), "disk of the client")
            == FAILS
        )

    def test_a_disk_of_the_server_without_room_fails(self, sound: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """No disk is filled for it: what counts as room is set higher than any disk has."""
        assert status_of(examine(sound), "disk of the server") == PASSES
        monkeypatch.setattr(capacity, "LEAST_FREE_RATIO", 1.0)
        assert status_of(examine(sound), "disk of the server") == FAILS

    def test_the_disk_of_a_server_that_hides_its_place_is_unproven(self, mis_set: str) -> None:
        execute(mis_set, "CREATE ROLE nobody_much LOGIN")
        try:
            report = examine(make_dsn(mis_set, user="nobody_much"))
            assert (status_of(report, "disk of the server"), status_of(report, "role")) == (UNPROVEN, UNPROVEN)
            execute(mis_set, "GRANT pg_read_all_stats TO nobody_much")
            assert status_of(examine(make_dsn(mis_set, user="nobody_much")), "role") == PASSES
            assert status_of(examine(mis_set), "role") == WARNS
        finally:
            execute(mis_set, "DROP ROLE nobody_much")


class TestConfiguration:
    @pytest.mark.parametrize(
        ("config", "check"),
        [
            (ParallelConfig(retry_attempts=1), "retries"),
            (ParallelConfig(retry_budget_seconds=0), "retries"),
            (ParallelConfig(lock_timeout_seconds=0), "lock timeout"),
        ],
    )
    def test_error_handling_that_is_off_fails(self, database: str, config: ParallelConfig, check: str) -> None:
        assert status_of(examine(database, config=config), check) == FAILS

    def test_a_reject_limit_that_lets_anything_through_warns(self, database: str) -> None:
        assert status_of(examine(database, max_rejects=10_000_000), "reject limit") == WARNS

    def test_the_development_preset_is_no_production_setting(self, database: str, table: None) -> None:
        report = examine(database, "t", config=ParallelConfig.development())
        assert status_of(report, "conflict detection") == WARNS

    def test_conflict_detection_off_fails_where_files_are_known_to_share_keys(
        self, database: str, table: None, tmp_path: Path
    ) -> None:
        load(database, tmp_path, range(1, 20), range(10, 30))
        assert status_of(examine(database, "t"), "conflict detection") == PASSES
        report = examine(database, "t", config=ParallelConfig(conflict_detection=False))
        assert status_of(report, "conflict detection") == FAILS


class TestTable:
    def test_passes_for_a_plain_one(self, database: str, table: None) -> None:
        report = examine(database, "t")
        checks = ("table", "couplings", "privileges", "sequences", "fill factor")
        assert {check: status_of(report, check) for check in checks} == dict.fromkeys(checks, PASSES)

    @pytest.mark.parametrize("statement", ["SELECT 1", "CREATE TABLE t (id int)", "CREATE VIEW t AS SELECT 1 AS id"])
    def test_fails_where_it_is_missing_or_has_no_key(self, database: str, statement: str) -> None:
        execute(database, statement)
        report = examine(database, "t")
        assert (status_of(report, "table"), report.ok) == (FAILS, False)

    def test_without_one_only_the_server_is_checked(self, database: str) -> None:
        assert status_of(examine(database), "table") == UNPROVEN

    def test_what_couples_its_rows_is_named(self, database: str, table: None) -> None:
        execute(
            database, "CREATE UNIQUE INDEX by_v ON t (v) WHERE id > 100", "ALTER TABLE t ADD parent int REFERENCES t"
        )
        report = examine(database, "t")
        assert status_of(report, "couplings") == WARNS
        assert "by_v" in report.of("couplings").evidence
        assert "t_parent_fkey" in report.of("couplings").evidence

    def test_a_rewrite_rule_fails(self, database: str, table: None) -> None:
        execute(database, "CREATE RULE r AS ON INSERT TO t DO ALSO NOTHING")
        assert status_of(examine(database, "t"), "couplings") == FAILS

    @pytest.mark.parametrize(("value", "status"), [(1_000_000, PASSES), (1_800_000_000, WARNS), (2_100_000_000, FAILS)])
    def test_a_sequence_that_runs_out(
        self, database: str, table: None, value: int, status: tuple[Status, bool]
    ) -> None:
        execute(database, "ALTER TABLE t ADD n serial", f"SELECT setval('t_n_seq', {value})")
        assert status_of(examine(database, "t"), "sequences") == status

    def test_a_bigint_sequence_behind_an_int_column_runs_out_with_the_column(self, database: str, table: None) -> None:
        execute(
            database, "CREATE SEQUENCE s", "ALTER TABLE t ADD n int DEFAULT nextval('s')", "ALTER SEQUENCE s OWNED BY t.n",
            "SELECT setval('s', 2100000000)",
        )  # fmt: skip
        assert status_of(examine(database, "t"), "sequences") == FAILS

    def test_many_updates_that_find_no_room_on_their_page(self, database: str, table: None) -> None:
        execute(database, "CREATE INDEX ON t (v)", "INSERT INTO t SELECT g, 'x' FROM generate_series(51, 2000) g")
        with closing(psycopg2.connect(database)) as connection, connection.cursor() as cursor:
            for number in range(3):
                cursor.execute("UPDATE t SET v = %s", (str(number),))
            connection.commit()
            if connection.server_version >= 150000:
                cursor.execute("SELECT pg_stat_force_next_flush()")
                connection.commit()
        assert status_of(examine(database, "t"), "fill factor") == WARNS
        execute(database, "ALTER TABLE t SET (fillfactor = 80)")
        assert status_of(examine(database, "t"), "fill factor") == PASSES


class TestPrivileges:
    @pytest.fixture
    def role(self, dsn: str, database: str, table: None) -> Iterator[str]:
        name = "etl_doctor_role"
        execute(dsn, f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
        execute(database, "REVOKE ALL ON SCHEMA public FROM public")
        yield make_dsn(database, user=name, password="secret")
        execute(database, f"DROP OWNED BY {name}")
        execute(dsn, f"DROP ROLE {name}")

    def test_a_load_without_rows_shows_what_is_missing(self, database: str, role: str) -> None:
        name = "etl_doctor_role"
        assert status_of(examine(role, "public.t"), "table") == FAILS  # may not even look into the schema
        execute(database, f"GRANT USAGE ON SCHEMA public TO {name}; GRANT SELECT ON t TO {name}")
        assert "creating the ledger" in examine(role, "t").of("privileges").evidence
        execute(database, ledger_sql(name))
        finding = examine(role, "t").of("privileges")
        assert finding.status is Status.FAIL
        assert finding.evidence == "writing to public.t: permission denied for table t"
        execute(database, table_sql(name, "t"), database_sql(name, parse_dsn(database)["dbname"]))
        assert status_of(examine(role, "t"), "privileges") == PASSES

    def test_nothing_is_left_of_it(self, database: str, table: None) -> None:
        examine(database, "t")
        with closing(psycopg2.connect(database)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT to_regnamespace('etl_toolkit'), (SELECT count(*) FROM t WHERE v = 'old')")
            assert cursor.fetchone() == (None, 50)

    def test_without_the_right_to_make_a_database_backup_is_unproven(self, database: str, role: str) -> None:
        execute(database, table_sql("etl_doctor_role", "t"), ledger_sql("etl_doctor_role"))
        report = examine(role, "t", proves_backup=True)
        assert [status_of(report, check) for check in ("backup", "rollback", "undo")] == [UNPROVEN] * 3
        assert "permission denied to create database" in report.of("backup").evidence


def load(dsn: str, directory: Path, *ranges: range, rows: str = "{id},new") -> None:
    files = []
    for number, ids in enumerate(ranges):
        files.append(directory / f"{number}.csv")
        files[-1].write_text("id,v\n" + "".join(rows.format(id=id_) + "\n" for id_ in ids))
    ingest(files, "t", "id", dsn)


class TestHistory:
    def test_without_a_run_baseline_is_unproven_and_ledger_too(self, database: str, table: None) -> None:
        report = examine(database, "t")
        assert (status_of(report, "baseline"), status_of(report, "ledger")) == (UNPROVEN, UNPROVEN)

    def test_a_run_that_took_longer_than_promised_fails(self, database: str, table: None, tmp_path: Path) -> None:
        load(database, tmp_path, range(1, 20))
        statement = "UPDATE etl_toolkit.runs SET finished_at = started_at + interval '90 s'"
        execute(database, statement)
        assert status_of(examine(database, "t", config=ParallelConfig(sla_seconds=91)), "SLA") == PASSES
        assert status_of(examine(database, "t", config=ParallelConfig(sla_seconds=89)), "SLA") == FAILS
        assert status_of(examine(database, "t"), "SLA") == UNPROVEN

    def test_a_run_much_slower_than_those_before_it_warns(self, database: str, table: None, tmp_path: Path) -> None:
        for _ in range(4):
            load(database, tmp_path, range(1, 20))
        execute(database, "UPDATE etl_toolkit.runs SET finished_at = started_at + interval '10 s'")
        assert status_of(examine(database, "t"), "baseline") == PASSES
        execute(
            database,
            "UPDATE etl_toolkit.runs SET finished_at = started_at + interval '30 s' "
            "WHERE started_at = (SELECT max(started_at) FROM etl_toolkit.runs)",
        )
        assert status_of(examine(database, "t"), "baseline") == WARNS

    def test_a_last_run_that_failed_fails_and_says_why_without_row_data(
        self, database: str, table: None, tmp_path: Path
    ) -> None:
        load(database, tmp_path, range(1, 20))
        assert status_of(examine(database, "t"), "last run") == PASSES
        execute(
            database,
            "UPDATE etl_toolkit.runs SET status = 'failed', error = 'invalid input syntax for type integer: \"private\"'",
        )
        finding = examine(database, "t").of("last run")
        assert finding.status is Status.FAIL
        assert 'invalid input syntax for type integer: "…"' in finding.evidence

    def test_an_interrupted_run_warns(self, database: str, table: None, tmp_path: Path) -> None:
        load(database, tmp_path, range(1, 20))
        assert status_of(examine(database, "t"), "ledger") == PASSES
        execute(database, "UPDATE etl_toolkit.runs SET status = 'interrupted'")
        assert status_of(examine(database, "t"), "ledger") == WARNS


class TestMemoryOfLoads:
    """What the doctor says of loads that were: it was not there when they ran."""

    def test_passes_below_the_alert_fails_above_it_and_is_unproven_before_the_first(
        self, database: str, table: None, tmp_path: Path
    ) -> None:
        assert status_of(examine(database, "t"), "memory of loads") == UNPROVEN
        load(database, tmp_path, range(1, 20))
        assert (
            status_of(examine(database, "t", config=ParallelConfig(memory_alert_ratio=1.0)), "memory of loads")
            == PASSES
        )
        low = ParallelConfig(memory_alert_ratio=1e-3)
        assert status_of(examine(database, "t", config=low), "memory of loads") == FAILS

    def test_a_load_that_failed_counts_and_an_earlier_one_warns(
        self, database: str, table: None, tmp_path: Path
    ) -> None:
        with pytest.raises(RejectLimitError):
            load(database, tmp_path, range(1, 20), rows="x{id},bad")
        execute(database, "UPDATE etl_toolkit.runs SET plan = plan || '{\"memory_peak_ratio\": 0.93}'")
        finding = examine(database, "t").of("memory of loads")
        assert (finding.status, finding.evidence[:3]) == (Status.FAIL, "93%")
        load(database, tmp_path, range(1, 20))
        config = ParallelConfig(memory_alert_ratio=0.9)
        assert status_of(examine(database, "t", config=config), "memory of loads") == WARNS


class TestBackup:
    """Rehearsed in a scratch database, which is gone afterwards."""

    CHECKS = ("backup", "rollback", "undo")

    def test_passes_for_a_table_with_types_functions_and_references_of_its_own(self, database: str) -> None:
        execute(
            database,
            "CREATE TYPE mood AS ENUM ('a', 'b'); CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent VALUES (1);"
            'CREATE SCHEMA "My Schema"; CREATE TABLE "My Schema"."T;x" (id int PRIMARY KEY, m mood DEFAULT \'a\', '
            "p int DEFAULT 1 REFERENCES parent, n bigserial, j json DEFAULT '[1, 2]', f float8 DEFAULT random(), "
            "twice int GENERATED ALWAYS AS (id * 2) STORED, empty text DEFAULT '', missing text);"
            'INSERT INTO "My Schema"."T;x" (id) SELECT g FROM generate_series(1, 3000) g',
        )
        report = examine(database, '"My Schema"."T;x"', proves_backup=True)
        assert [status_of(report, check) for check in self.CHECKS] == [PASSES] * 3
        assert report.of("backup").evidence == "3,000 rows dumped, 3,000 restored into a scratch database, equal"
        with closing(psycopg2.connect(database)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_database WHERE datname LIKE 'etl_doctor_%'")
            assert cursor.fetchone() == (0,)

    def test_a_partitioned_one_is_dumped_with_its_partitions(self, database: str) -> None:
        execute(
            database,
            "CREATE TABLE t (id int PRIMARY KEY, v text) PARTITION BY HASH (id);"
            "CREATE TABLE t0 PARTITION OF t FOR VALUES WITH (MODULUS 1, REMAINDER 0);"
            "INSERT INTO t SELECT g, 'x' FROM generate_series(1, 50) g",
        )
        report = examine(database, "t", proves_backup=True)
        if "cannot dump a table with its partitions" in report.of("backup").evidence:
            pytest.skip(report.of("backup").evidence)
        assert [status_of(report, check) for check in self.CHECKS] == [PASSES] * 3

    def test_fails_where_the_restored_rows_are_not_those_dumped(self, database: str) -> None:
        """A constraint that looks into another table: the rows are valid today, and cannot be restored."""
        execute(
            database,
            "CREATE TABLE allowed AS SELECT 1 AS id;"
            "CREATE FUNCTION ok(int) RETURNS bool LANGUAGE sql AS 'SELECT EXISTS (SELECT FROM public.allowed WHERE id = $1)';"
            "CREATE TABLE t (id int PRIMARY KEY CHECK (ok(id)), v text); INSERT INTO t VALUES (1, 'x')",
        )
        report = examine(database, "t", proves_backup=True)
        assert status_of(report, "backup") == FAILS
        assert report.of("backup").evidence == "1 rows dumped, 0 restored into a scratch database, NOT equal"

    def test_rollback_and_undo_fail_where_a_trigger_writes_behind_the_transactions_back(self, mis_set: str) -> None:
        execute(mis_set, "DROP DATABASE IF EXISTS behind", "CREATE DATABASE behind TEMPLATE template0")
        dsn = make_dsn(mis_set, dbname="behind")
        port = parse_dsn(dsn)["port"]
        execute(
            dsn,
            "CREATE EXTENSION dblink; CREATE TABLE t (id int PRIMARY KEY, v text);"
            "INSERT INTO t VALUES (1, 'x'), (2, 'x'), (3, 'x');"
            "CREATE FUNCTION leak() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM public.dblink_exec("
            f"format('host=127.0.0.1 port={port} user=postgres dbname=%s', current_database()), "
            "format('INSERT INTO public.t VALUES (%s, ''leaked'') ON CONFLICT DO NOTHING', -NEW.id)); RETURN NEW; END $$;"
            "CREATE TRIGGER leak BEFORE INSERT ON t FOR EACH ROW WHEN (NEW.id > 0) EXECUTE FUNCTION leak()",
        )
        report = examine(dsn, "t", proves_backup=True)
        assert [status_of(report, check) for check in self.CHECKS] == [PASSES, FAILS, FAILS]

    @pytest.mark.parametrize("options", [{"proves_backup": False}, {"proves_backup": True, "backup_limit_bytes": 1}])
    def test_is_unproven_where_it_was_not_asked_for_or_the_table_is_too_large(
        self, database: str, table: None, options: dict[str, Any]
    ) -> None:
        report = examine(database, "t", **options)
        assert [status_of(report, check) for check in self.CHECKS] == [UNPROVEN] * 3

    def test_of_an_empty_table_only_the_dump_is_proven(self, database: str, table: None) -> None:
        execute(database, "TRUNCATE t")
        report = examine(database, "t", proves_backup=True)
        assert [status_of(report, check) for check in self.CHECKS] == [PASSES, UNPROVEN, UNPROVEN]


class TestReport:
    def test_as_json_holds_what_the_text_shows(self, database: str, table: None) -> None:
        report = examine(database, "t")
        told = json.loads(json.dumps(report.as_dict()))
        assert told["ok"] is report.ok is all(finding["status"] != "fail" for finding in told["findings"])
        assert sum(told["counts"].values()) == len(told["findings"]) == len({f["check"] for f in told["findings"]})
        text = " ".join(report.as_text().split())
        for finding in told["findings"]:
            assert " ".join(finding["evidence"].split()) in text.replace(" → ", " ")

    def test_is_ok_with_warnings_and_unproven_checks_but_not_with_a_failed_one(self) -> None:
        findings = tuple(Finding(str(status), status, "") for status in Status)
        assert [DoctorReport("here", findings[:count]).ok for count in (1, 2)] == [True, True]
        assert DoctorReport("here", findings).ok is False

    def test_shows_no_control_character_of_a_name(self) -> None:
        report = DoctorReport("here", (Finding("table", Status.PASS, "\x1b]0;owned\x07"),))
        assert "\x1b" not in report.as_text()

    def test_a_check_that_breaks_does_not_hide_the_others(self, database: str, table: None, tmp_path: Path) -> None:
        load(database, tmp_path, range(1, 20))
        execute(database, "DROP TABLE etl_toolkit.batches CASCADE")
        report = examine(database, "t")
        assert status_of(report, "privileges") == FAILS
        assert status_of(report, "sequences") == PASSES
