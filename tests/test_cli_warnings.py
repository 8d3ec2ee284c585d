"""What somebody has to see to is told in words on stderr, by the command line itself, with and without `--quiet`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import make_dsn

from tests.forked import run_command

ROOT = Path(__file__).parent.parent

Ingest = Callable[..., list[str]]


@pytest.fixture(params=[False, True], ids=["with progress", "quiet"])
def ingest(request: Any, database: str, connection: Any, tmp_path: Path) -> Ingest:
    """Load two files into a table whose keys only the server can compare; return the warnings on stderr."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id text, v text); CREATE UNIQUE INDEX ON t (lower(id))")
    (tmp_path / "a.csv").write_text("id,v\nA,1\nb,2\n")
    (tmp_path / "b.csv").write_text("id,v\na,3\n")

    def run(dsn: str = database, **environ: str) -> list[str]:
        words = ["ingest", str(tmp_path / "*.csv"), "--table", "t", "--key", "id", "--strategy", "partitioned"]
        environment = {**os.environ, "ETL_DSN": dsn, "ETL_MEMORY_ALERT_RATIO": "1", **environ}
        done = run_command(*words, *(["--quiet"] if request.param else []), env=environment)
        assert done.returncode == 0, done.stderr
        assert (done.stdout == "") is request.param
        lines = done.stderr.splitlines()
        assert any(line.startswith("run ") for line in lines) is not request.param
        return [line for line in lines if line.startswith("warning: ")]

    return run


def test_nothing_where_there_is_nothing_to_see_to(ingest: Ingest) -> None:
    assert ingest() == []


def test_another_host_in_plain_text(ingest: Ingest, database: str) -> None:
    """`hostaddr` leads to this machine; the name is what is asked for."""
    remote = make_dsn(database, host="db.example.com", hostaddr="127.0.0.1")
    assert ingest(remote) == [
        "warning: the connection to db.example.com is not encrypted: anyone on the network path can read every row; "
        "put sslmode=verify-full into the DSN"
    ]


def test_variables_that_are_meant_for_other_clients(ingest: Ingest) -> None:
    (warning,) = ingest(PGOPTIONS="-c datestyle=German", PGTZ="Asia/Tokyo")
    assert warning.startswith("warning: PGOPTIONS, PGTZ of the environment is ignored, because it would change how")


def test_memory_above_the_alert(ingest: Ingest) -> None:
    (warning,) = ingest(ETL_MEMORY_ALERT_RATIO="0.000001")
    assert warning.startswith("warning: ")
    assert " GB of memory are in use (" in warning
    assert "lower memory_limit_bytes or --jobs" in warning


def test_staging_tables_that_could_not_be_dropped(ingest: Ingest, connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN IF EXISTS (SELECT FROM "
            "pg_event_trigger_dropped_objects() WHERE schema_name = 'etl_toolkit') THEN RAISE 'no'; END IF; END $$;"
            "CREATE EVENT TRIGGER refuse ON sql_drop EXECUTE FUNCTION refuse()"
        )
    expected = (
        "warning: up to 2 staging tables could not be dropped and were left in schema etl_toolkit; "
        "the next load into this database drops them"
    )
    assert ingest() == [expected]
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_class WHERE starts_with(relname, 'stage_') AND relkind = 'r'")
        assert cursor.fetchone() == (2,)
        cursor.execute("DROP EVENT TRIGGER refuse")
    assert ingest() == []
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_class WHERE starts_with(relname, 'stage_') AND relkind = 'r'")
        assert cursor.fetchone() == (0,)


def test_quiet_prints_a_line_about_rejected_rows_and_nothing_else(
    database: str, connection: Any, tmp_path: Path
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY)")
    (tmp_path / "a.csv").write_text("id\n1\nx\n")
    command = ["ingest", str(tmp_path / "a.csv"), "--table", "t", "--key", "id", "--max-rejects", "1", "--quiet"]
    done = run_command(*command, "--dsn", database)

    assert (done.returncode, done.stdout) == (3, "")
    assert re.fullmatch(
        r"warning: rejected rows: 1; see them with: etl-toolkit rejects \d{8}T\d{6}-\w{6}\n", done.stderr
    )
