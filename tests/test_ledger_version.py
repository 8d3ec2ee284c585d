"""A ledger that another release made is worked with where that is safe, and refused in one line where it is not."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etl_toolkit import ParallelConfig, ingest
from etl_toolkit.doctor import Status, run_checks
from etl_toolkit.loading import ledger
from etl_toolkit.loading.grants import ledger_sql
from tests.forked import run_command

ROOT = Path(__file__).parent.parent

NEWER = "version 2, and this release of etl-toolkit works with version 1; install the release of etl-toolkit that created it"
OLDER = "version 0, and this release of etl-toolkit works with version 1; let its owner rename it (ALTER SCHEMA"


@pytest.fixture
def orders(connection: Any, tmp_path: Path) -> Path:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    path = tmp_path / "a.csv"
    path.write_text("id,v\n1,a\n2,b\n")
    return path


@pytest.fixture
def command(database: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return run_command(*words, "--dsn", database)

    return run


def set_version(connection: Any, number: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE etl_toolkit.version SET number = %s", (number,))


def value(connection: Any, statement: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0]


def test_a_new_ledger_has_the_version_of_this_release(database: str, connection: Any, orders: Path) -> None:
    ingest(orders, "t", "id", database)
    assert value(connection, "SELECT array_agg(number) FROM etl_toolkit.version") == [ledger.VERSION]


@pytest.mark.parametrize(("number", "words"), [(2, NEWER), (0, OLDER)], ids=["newer", "older"])
def test_one_of_another_version_is_refused_in_one_line_by_every_command(
    database: str, connection: Any, orders: Path, command: Callable[..., Any], number: int, words: str
) -> None:
    run_id = ingest(orders, "t", "id", database).run_id
    orders.write_text("id,v\n3,c\n")
    set_version(connection, number)
    where = f"the ledger (schema etl_toolkit of database {connection.info.dbname}) has {words}"
    for words_of_command in (
        ["ingest", str(orders), "--table", "t", "--key", "id", "--quiet"],
        ["runs"],
        ["resume", run_id, "--quiet"],
        ["undo", run_id],
        ["rejects", run_id],
        ["explain", "--table", "t", "--key", "id=1"],
    ):
        done = command(*words_of_command)
        lines = done.stderr.splitlines()
        assert (done.returncode, len(lines), lines[0].startswith(f"etl-toolkit: {where}")) == (1, 1, True), done
    assert value(connection, "SELECT array_agg(id ORDER BY id) FROM t") == [1, 2]
    assert value(connection, "SELECT count(*) FROM etl_toolkit.runs") == 1


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_doctor_fails_what_a_load_would_refuse_once_and_knows_nothing_of_what_rests_on_it(
    database: str, connection: Any, orders: Path, number: int
) -> None:
    ingest(orders, "t", "id", database)
    set_version(connection, number)
    report = run_checks(
        database, "t", ["id"], ParallelConfig(concurrency=2, conflict_detection=False), proves_backup=False
    )
    is_ours = number == ledger.VERSION
    assert report.of("ledger").status is (Status.PASS if is_ours else Status.FAIL)
    assert (f"version {number}" in report.of("ledger").evidence) is not is_ours
    told = {finding.check: finding.status for finding in report.findings}
    resting = {"privileges": Status.PASS, "conflict detection": Status.WARN, "memory of loads": Status.PASS}
    assert {name: told[name] for name in resting} == (resting if is_ours else dict.fromkeys(resting, Status.UNPROVEN))


def test_one_of_the_first_release_which_had_no_version_is_worked_with(
    database: str, connection: Any, orders: Path
) -> None:
    first = ingest(orders, "t", "id", database).run_id
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE etl_toolkit.version")
    second = ingest(orders, "t", "id", database)
    assert (second.counts.unchanged, {run.run_id for run in ledger.past_runs(connection)}) == (
        2,
        {first, second.run_id},
    )


def test_the_grants_of_an_old_release_do_not_set_a_newer_ledger_back(
    database: str, connection: Any, orders: Path
) -> None:
    """An administrator may run what `db grants` prints at any time."""
    ingest(orders, "t", "id", database)
    set_version(connection, 2)
    with connection.cursor() as cursor:
        cursor.execute(ledger_sql())
    assert value(connection, "SELECT array_agg(number) FROM etl_toolkit.version") == [2]


def test_the_remedy_for_an_older_one_works(database: str, connection: Any, orders: Path) -> None:
    ingest(orders, "t", "id", database)
    set_version(connection, 0)
    with connection.cursor() as cursor:
        cursor.execute("ALTER SCHEMA etl_toolkit RENAME TO etl_toolkit_0")
    assert ingest(orders, "t", "id", database).counts.unchanged == 2
    assert value(connection, "SELECT count(*) FROM etl_toolkit_0.runs") == 1
