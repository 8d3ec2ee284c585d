"""Texts become dates, times and intervals as the server, the database or the role says, or as the load asks for."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from psycopg2.extensions import connection as Connection
from typer.testing import CliRunner

from etl_toolkit import ConflictAwareProcessor, ParallelConfig, ingest
from etl_toolkit.cli import app
from etl_toolkit.errors import UsageError
from etl_toolkit.explain import explain
from etl_toolkit.loading import failpoints
from etl_toolkit.model import Strategy
from etl_toolkit.strategies import compare

COLUMNS = "id int PRIMARY KEY, day date, at timestamptz, local timestamp, span interval, days daterange"
HEADER = "id,day,at,local,span,days\n"
LINES = (
    '1,05/06/2024,05/06/2024 12:00,05/06/2024 12:00,-1 2:03:04,"[01/02/2024,03/04/2024)"\n'
    '2,2024-06-05,2024-10-27 02:30:00,2024-06-05T01:02:03,1-2,"[2024-01-02,2024-03-04)"\n'
    "3,5 Jun 2024,2024-06-05 12:00:00+00,,-1 day,\n"
)
SERVERS = {
    "as shipped": {},
    "german": {"DateStyle": "German", "TimeZone": "Europe/Berlin", "IntervalStyle": "iso_8601"},
    "sql": {"DateStyle": "SQL, DMY", "TimeZone": "America/New_York", "IntervalStyle": "sql_standard"},
}

SetUp = Callable[..., None]


@pytest.fixture
def set_up(database: str, connection: Connection) -> SetUp:
    """Let the database say how texts are read."""

    def alter(**settings: str) -> None:
        name = connection.info.dbname
        with connection.cursor() as cursor:
            for setting, value in settings.items():
                cursor.execute(f"ALTER DATABASE {name} SET {setting} = %s", (value,))

    return alter


@pytest.fixture
def execute(connection: Connection) -> Callable[[str], None]:
    def run(statement: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute(statement)

    return run


def rows(connection: Connection, table: str) -> list[str]:
    """The rows as a session sees them that was opened before any setting was changed."""
    with connection.cursor() as cursor:
        cursor.execute(f'SELECT t::text FROM {table} AS t ORDER BY t::text COLLATE "C"')
        return [row[0] for row in cursor.fetchall()]


def copy_by_psql(dsn: str, path: Path, table: str) -> None:
    command = f"\\copy {table} FROM '{path}' (FORMAT csv, HEADER)"
    subprocess.run(["psql", "-X", "-v", "ON_ERROR_STOP=1", "-d", dsn, "-c", command], check=True, capture_output=True)


class TestTheServersOwn:
    @pytest.mark.parametrize("server", SERVERS)
    def test_values_are_those_of_a_copy_by_the_same_role(
        self, database: str, connection: Connection, set_up: SetUp, execute: Any, tmp_path: Path, server: str
    ) -> None:
        set_up(**SERVERS[server])
        path = tmp_path / "in.csv"
        path.write_text(HEADER + (LINES if server != "as shipped" else LINES.replace(",1-2,", ",1 day,")))
        execute(f"CREATE TABLE copied ({COLUMNS})")
        copy_by_psql(database, path, "copied")
        for strategy in Strategy:
            execute(f"DROP TABLE IF EXISTS loaded; CREATE TABLE loaded ({COLUMNS})")
            ingest([path], "loaded", "id", database, strategy=strategy)
            assert rows(connection, "loaded") == rows(connection, "copied"), strategy

    def test_a_role_ranks_above_the_database(
        self, database: str, connection: Connection, set_up: SetUp, execute: Any, tmp_path: Path
    ) -> None:
        set_up(DateStyle="ISO, MDY")
        name = connection.info.dbname
        execute(
            f"CREATE TABLE t (id int PRIMARY KEY, day date); ALTER ROLE CURRENT_USER IN DATABASE {name} SET DateStyle = 'DMY'"
        )
        (tmp_path / "in.csv").write_text("id,day\n1,05/06/2024\n")
        ingest(tmp_path / "in.csv", "t", "id", database)
        assert rows(connection, "t") == ["(1,2024-06-05)"]

    def test_keys_are_those_that_the_server_reads(
        self, database: str, connection: Connection, set_up: SetUp, execute: Any, tmp_path: Path
    ) -> None:
        set_up(DateStyle="ISO, DMY", TimeZone="Europe/Berlin")
        execute("CREATE TABLE t (day date, at timestamptz, v text, PRIMARY KEY (day, at))")
        spelled = [
            "2024-06-05,2024-06-05 12:00:00+02",
            "05/06/2024,2024-06-05 10:00:00Z",
            "5.6.2024,2024-06-05 12:00:00",
        ]
        for number, key in enumerate(spelled):
            (tmp_path / f"{number}.csv").write_text(f"day,at,v\n{key},{number}\n")
        result = ingest(f"{tmp_path}/*.csv", "t", ["day", "at"], database)
        assert (rows(connection, "t"), result.counts.superseded_later_file) == (
            ['(2024-06-05,"2024-06-05 10:00:00+00",2)'],
            2,
        )

    def test_unchanged_rows_are_found_whatever_the_server_prints(
        self, database: str, connection: Connection, set_up: SetUp, execute: Any, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        """The table is read out and held against the file: a text may be printed of one date, and be read as another."""
        monkeypatch.setattr(compare, "SMALLEST_LOAD", 1)
        set_up(DateStyle="SQL, DMY", TimeZone="America/New_York", IntervalStyle="sql_standard")
        execute(f"CREATE TABLE t ({COLUMNS}); CREATE TABLE copied ({COLUMNS})")
        lines = [
            f"{n},0{n % 9 + 1}/02/2024,0{n % 9 + 1}/02/2024 12:00,2024-01-01 00:00:00,1 2:03:04," for n in range(40)
        ]
        iso = [
            f"{n},2024-01-0{n % 9 + 1},2024-06-05 12:00:00+00,2024-01-01 00:00:00,-1 days +00:00:01,"
            for n in range(40, 99)
        ]
        path = tmp_path / "in.csv"
        path.write_text(HEADER + "".join(f"{line}\n" for line in lines + iso))
        copy_by_psql(database, path, "copied")
        ingest(path, "t", "id", database, strategy="partitioned")
        again = ingest(path, "t", "id", database, strategy="partitioned")
        assert (rows(connection, "t"), again.counts.unchanged) == (rows(connection, "copied"), 99)


class TestInstants:
    @pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "<+02>-02"])
    def test_become_the_local_time_that_the_server_gives_them(
        self, database: str, connection: Connection, set_up: SetUp, execute: Any, tmp_path: Path, zone: str
    ) -> None:
        set_up(TimeZone=zone)
        hours = pd.date_range("2024-10-26T20:00Z", "2024-11-04T12:00Z", freq="59min").as_unit("us")
        old = pd.DatetimeIndex(["1880-06-01T12:00:00Z", "1945-05-24T01:02:03.000004Z", "2400-07-01T00:00Z"]).as_unit(
            "us"
        )
        at = hours.append(old).sort_values()
        pq.write_table(
            pa.table({"id": range(len(at)), "at": at, "local": at, "day": at, "said": at}), tmp_path / "in.parquet"
        )
        columns = "id int PRIMARY KEY, at timestamptz, local timestamp, day date, said text"
        execute(f"CREATE TABLE t ({columns})")
        ingest(tmp_path / "in.parquet", "t", "id", database)
        with psycopg2.connect(database) as other, other.cursor() as cursor:
            cursor.execute("SELECT count(*), count(*) FILTER (WHERE at::timestamp = local AND at::date = day) FROM t")
            assert cursor.fetchone() == (len(at), len(at))
            cursor.execute("SET TimeZone = 'UTC'")
            cursor.execute("SELECT count(*) FROM t WHERE at::text = said")
            assert cursor.fetchone() == (len(at),)

    def test_nanoseconds_and_infinity_keep_what_the_server_can_hold(
        self, database: str, connection: Connection, set_up: SetUp, execute: Any
    ) -> None:
        set_up(TimeZone="Europe/Berlin")
        execute("CREATE TABLE t (id int PRIMARY KEY, local timestamp)")
        ingest(
            pa.table({"id": [1], "local": pa.array([1_720_000_000_123_456_000], pa.timestamp("ns", "UTC"))}),
            "t",
            "id",
            database,
        )
        assert rows(connection, "t") == ['(1,"2024-07-03 11:46:40.123456")']


class TestIntervals:
    @pytest.mark.parametrize("style", ["postgres", "sql_standard", "iso_8601"])
    def test_of_a_frame_keep_the_sign_of_each_field(
        self, database: str, connection: Connection, set_up: SetUp, execute: Any, style: str
    ) -> None:
        """Under sql_standard a text that begins with a sign has it for all fields without one."""
        set_up(IntervalStyle=style)
        execute("CREATE TABLE t (id int PRIMARY KEY, span interval)")
        spans = pa.array(
            [(-1, 2, 3_000_000_000), (13, -2, -1_500_000_000), (0, -1, 7_200_000_000_000)], pa.month_day_nano_interval()
        )
        ingest(pa.table({"id": [1, 2, 3], "span": spans}), "t", "id", database)
        assert rows(connection, "t") == [
            '(1,"-1 mons +2 days 00:00:03")', '(2,"1 year 1 mon -2 days -00:00:01.5")', '(3,"-1 days +02:00:00")',
        ]  # fmt: skip


class TestWhatALoadAsksFor:
    def test_ranks_above_the_servers_own(
        self, database: str, connection: Connection, set_up: SetUp, execute: Any, tmp_path: Path
    ) -> None:
        set_up(DateStyle="ISO, MDY", TimeZone="UTC")
        execute("CREATE TABLE t (id int PRIMARY KEY, day date, at timestamptz)")
        (tmp_path / "in.csv").write_text("id,day,at\n1,05/06/2024,2024-06-05 12:00\n")
        asked = ["--date-style", "DMY", "--timezone", "Asia/Tokyo"]
        done = CliRunner().invoke(
            app, ["ingest", str(tmp_path / "in.csv"), "--table", "t", "--key", "id", "--dsn", database, "-q", *asked]
        )
        assert done.exit_code == 0, done.output
        assert rows(connection, "t") == ['(1,2024-06-05,"2024-06-05 03:00:00+00")']

    def test_is_named_by_the_plan_where_it_matters(
        self, database: str, set_up: SetUp, execute: Any, tmp_path: Path
    ) -> None:
        set_up(DateStyle="ISO, MDY", TimeZone="Europe/Berlin")
        execute("CREATE TABLE t (id int PRIMARY KEY, day date, at timestamptz)")
        processor = ConflictAwareProcessor(database)
        named = []
        for columns in ("id", "id,day", "id,day,at"):
            (tmp_path / "in.csv").write_text(columns + "\n" + ",".join("1" for _ in columns.split(",")) + "\n")
            plan = processor.plan(tmp_path / "in.csv", "t", ["id"], date_style="DMY")
            named += [reason.partition(": ")[2] for reason in plan.reasons if "DateStyle" in reason]
        assert named == ["DateStyle ISO, DMY", "DateStyle ISO, DMY; TimeZone Europe/Berlin"]

    @pytest.mark.parametrize("asked", [{"date_style": "DYM"}, {"timezone": "Europe/Berlino"}])
    def test_is_refused_where_the_server_does_not_know_it(
        self, database: str, execute: Any, tmp_path: Path, asked: dict[str, str]
    ) -> None:
        execute("CREATE TABLE t (id int PRIMARY KEY)")
        (tmp_path / "in.csv").write_text("id\n1\n")
        with pytest.raises(UsageError, match=next(iter(asked.values()))):
            ingest(tmp_path / "in.csv", "t", "id", database, **asked)


class TestLater:
    def test_a_resumed_run_reads_as_it_began(
        self, database: str, connection: Connection, set_up: SetUp, execute: Any, tmp_path: Path
    ) -> None:
        set_up(DateStyle="ISO, DMY", TimeZone="Europe/Berlin")
        execute("CREATE TABLE t (id int PRIMARY KEY, day date, at timestamptz)")
        for number in (1, 2):
            (tmp_path / f"{number}.csv").write_text(f"id,day,at\n{number},05/06/2024,2024-06-05 12:00\n")

        def stop() -> None:
            raise KeyboardInterrupt

        processor = ConflictAwareProcessor(database, config=ParallelConfig(concurrency=1))
        with failpoints.installed({"begun": stop}), pytest.raises(KeyboardInterrupt):
            ingest(f"{tmp_path}/*.csv", "t", "id", database, strategy="deterministic")
        set_up(DateStyle="ISO, MDY", TimeZone="UTC")
        with connection.cursor() as cursor:
            cursor.execute("SELECT run_id FROM etl_toolkit.runs")
            processor.resume(cursor.fetchone()[0])
        assert rows(connection, "t") == [f'({n},2024-06-05,"2024-06-05 10:00:00+00")' for n in (1, 2)]

    @pytest.mark.parametrize("server", ["german", "sql"])
    def test_undo_gives_back_what_was_there(
        self, database: str, connection: Connection, set_up: SetUp, execute: Any, tmp_path: Path, server: str
    ) -> None:
        set_up(**SERVERS[server])
        execute(f"CREATE TABLE t ({COLUMNS})")
        execute(
            "INSERT INTO t VALUES (1, '2024-02-01', '2024-02-01 12:00+05:30', '2024-02-01', '-3 days -4 hours', NULL), "
            "(2, '0044-03-15 BC', '2024-02-01 12:00+00', '2024-02-01', '-1 mon 2 days', '[2024-01-02,2024-03-04)')"
        )
        before = rows(connection, "t")
        (tmp_path / "in.csv").write_text(HEADER + LINES)
        result = ingest(tmp_path / "in.csv", "t", "id", database, undoable=True)
        assert rows(connection, "t") != before
        set_up(**SERVERS["sql" if server == "german" else "german"])
        ConflictAwareProcessor(database).undo(result.run_id)
        assert rows(connection, "t") == before

    def test_explain_reads_the_files_as_their_run_did(
        self, database: str, set_up: SetUp, execute: Any, tmp_path: Path
    ) -> None:
        set_up(DateStyle="SQL, DMY", TimeZone="Europe/Berlin")
        execute("CREATE TABLE t (id int PRIMARY KEY, day date, at timestamptz)")
        (tmp_path / "in.csv").write_text("id,day,at\n1,05/06/2024,2024-06-05 12:00\n")
        ingest(tmp_path / "in.csv", "t", "id", database)
        set_up(DateStyle="ISO, MDY", TimeZone="Asia/Tokyo")
        found = explain(database, "t", {"id": "1"})
        assert found.notes == ()
        assert found.row == {"id": "1", "day": "2024-06-05", "at": "2024-06-05 19:00:00+09"}


def test_an_instant_becomes_local_time_in_a_domain_too(database: str, connection: Connection, tmp_path: Path) -> None:
    at = datetime(2024, 6, 1, 23, 30, tzinfo=UTC)
    pq.write_table(pa.table({"id": [1], "day": [at], "at": [at]}), tmp_path / "in.parquet")
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE DOMAIN day AS date; CREATE DOMAIN moment AS timestamp; CREATE TABLE t (id int PRIMARY KEY, day day, at moment)"
        )
        ingest(tmp_path / "in.parquet", "t", "id", database, timezone="Asia/Tokyo")
        cursor.execute("SELECT day::text, at::text FROM t")
        assert cursor.fetchone() == ("2024-06-02", "2024-06-02 08:30:00")
