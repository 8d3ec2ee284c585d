"""Where a load is started changes no value: not the machine's time zone or locale, nor what it tells libpq."""

from __future__ import annotations

import json
import os
from pathlib import Path

import duckdb
import pandas as pd
import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit import ParallelConfig, ingest
from etl_toolkit.workspace import open_workspace
from tests.environments import ENVIRONMENTS, NEW_YORK, TOKYO, UNGUARDED, run_in

# The first two of them are both 01:30 in the autumn night of New York.
INSTANTS = ["2024-11-03T05:30:00Z", "2024-11-03T06:30:00Z", "2024-01-01T12:00:00Z", None]
COLUMNS = "as_timestamp timestamp, as_date date, as_text text, as_instant timestamptz"

LOADS = """
import json, sys
import psycopg2
from etl_toolkit import ingest
dsn, parquet, csv, table = sys.argv[1:]
ingest([parquet], f"{table}_instants", "id", dsn)
ingest([csv], f"{table}_texts", "id", dsn, strategy="partitioned", undoable=True)
import pandas as pd
frame = pd.DataFrame({"id": [1, 2], "at": pd.to_datetime(["2024-11-03T05:30Z", "2024-11-03T06:30Z"])})
ingest(frame, f"{table}_frame", ["at"], dsn)
"""


def texts(connection: Connection, table: str) -> list[tuple[str | None, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT (ROW(t.*)::text) FROM {table} AS t ORDER BY 1")
        return [row[0] for row in cursor.fetchall()]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("inputs")
    instants = pa.array(pd.to_datetime(pd.Series(INSTANTS)), pa.timestamp("us", tz="Europe/Berlin"))
    names = [column.split()[0] for column in COLUMNS.split(", ")]
    pq.write_table(
        pa.table([pa.array(range(len(INSTANTS))), *[instants] * 4], names=["id", *names]), directory / "in.parquet"
    )
    (directory / "größe.csv").write_text(
        "id,day,at,local,span,größe\n"
        "1,05/06/2024,2024-11-03 01:30:00,2024-05-06 00:00:00+05,-1 2:03:04,é€\n2,2024-05-06,2024-07-01 12:00,,1 day,ß\n"
    )
    return directory / "in.parquet", directory / "größe.csv"


def load_in(shared: tuple[str, Connection], inputs: tuple[Path, Path], name: str, script: str = LOADS) -> list[object]:
    """Load in a process with such an environment; return the texts of all that was stored."""
    dsn, connection = shared
    environment = {**ENVIRONMENTS, "unguarded": {**TOKYO, **NEW_YORK, "PGOPTIONS": "-c datestyle=DMY"}}[name]
    with connection.cursor() as cursor:
        cursor.execute(
            f"DROP TABLE IF EXISTS {name}_instants, {name}_texts, {name}_frame;"
            f"CREATE TABLE {name}_instants (id int PRIMARY KEY, {COLUMNS});"
            f"CREATE TABLE {name}_frame (id int, at timestamp PRIMARY KEY);"
            f"CREATE TABLE {name}_texts "
            "(id int PRIMARY KEY, day date, at timestamptz, local timestamp, span interval, größe text)"
        )
    run_in(environment, script, dsn, *map(str, inputs), name)
    return [texts(connection, f"{name}_{part}") for part in ("instants", "texts", "frame")]


@pytest.fixture(scope="module")
def expected(shared: tuple[str, Connection], inputs: tuple[Path, Path]) -> list[object]:
    return load_in(shared, inputs, "plain")


class TestTheMachine:
    def test_instants_become_local_times_of_the_server(self, expected: list[object]) -> None:
        assert expected[0] == [
            '(0,"2024-11-03 05:30:00",2024-11-03,"2024-11-03 05:30:00+00","2024-11-03 05:30:00+00")',
            '(1,"2024-11-03 06:30:00",2024-11-03,"2024-11-03 06:30:00+00","2024-11-03 06:30:00+00")',
            '(2,"2024-01-01 12:00:00",2024-01-01,"2024-01-01 12:00:00+00","2024-01-01 12:00:00+00")',
            "(3,,,,)",
        ]

    @pytest.mark.parametrize("name", ["tokyo", "new_york"])
    def test_its_environment_changes_no_value(
        self, shared: tuple[str, Connection], inputs: tuple[Path, Path], expected: list[object], name: str
    ) -> None:
        assert load_in(shared, inputs, name) == expected

    def test_would_change_values_if_libpq_saw_the_environment(
        self, shared: tuple[str, Connection], inputs: tuple[Path, Path], expected: list[object]
    ) -> None:
        assert load_in(shared, inputs, "unguarded", UNGUARDED + LOADS)[1] != expected[1]

    def test_leaves_the_environment_as_it_was(self, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in {"PGTZ": "Asia/Tokyo", "PGOPTIONS": "-c geqo=off"}.items():
            monkeypatch.setenv(name, value)
        ingest(pd.DataFrame({"id": [1]}), "made", "id", database, create_table=True, concurrency=2)
        assert (os.environ["PGTZ"], os.environ["PGOPTIONS"]) == ("Asia/Tokyo", "-c geqo=off")

    def test_obeys_the_options_that_the_dsn_gives(self, database: str, connection: Connection, tmp_path: Path) -> None:
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE t (id int PRIMARY KEY, day date)")
        path = tmp_path / "a.csv"
        path.write_text("id,day\n1,05/06/2024\n")
        ingest([path], "t", "id", psycopg2.extensions.make_dsn(database, options="-c datestyle=DMY"))
        assert texts(connection, "t") == ["(1,2024-06-05)"]


class TestDuckDB:
    SETTINGS = ("TimeZone", "python_enable_replacements", "enable_progress_bar", "lock_configuration")
    SCRIPT = """
import json, sys
from etl_toolkit.config import ParallelConfig
from etl_toolkit.workspace import open_workspace
names = json.loads(sys.argv[1])
ask = "SELECT " + ", ".join(f"current_setting('{name}')::VARCHAR" for name in names)
with open_workspace(ParallelConfig(), threads=1) as workspace:
    workspace.lock_down([])
    with workspace.cursor() as cursor:
        print(json.dumps([cursor.execute(ask).fetchone(), workspace.duckdb.execute(ask).fetchone()]))
"""

    def test_every_cursor_has_the_settings_of_its_connection(self) -> None:
        # A script given by -c counts as interactive, for which DuckDB shows a progress bar.
        found = json.loads(run_in(TOKYO, self.SCRIPT, json.dumps(self.SETTINGS)))
        assert found == [["UTC", "false", "false", "true"]] * 2

    def test_a_cursor_would_inherit_none_of_them(self) -> None:
        script = (
            "import duckdb; connection = duckdb.connect(); connection.execute(\"SET TimeZone = 'UTC'\")\n"
            "print(connection.cursor().execute(\"SELECT current_setting('TimeZone')\").fetchone()[0])"
        )
        assert run_in(TOKYO, script).strip() == "Asia/Tokyo"

    def test_a_cursor_reads_no_variable_of_the_program(self) -> None:
        secrets = pd.DataFrame({"id": [1]})  # noqa: F841
        with open_workspace(ParallelConfig(), threads=1) as workspace, workspace.cursor() as cursor:
            cursor.execute("SELECT 1")
            with pytest.raises(duckdb.CatalogException, match="secrets"):
                cursor.execute("SELECT * FROM secrets")
