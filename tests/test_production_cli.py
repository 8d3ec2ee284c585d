"""`doctor`, `config`, `undo`, `db grants` by the real command line: what they print, and how they exit."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from etl_toolkit.config import ParallelConfig, template
from etl_toolkit.loading.grants import ledger_sql, table_sql
from tests.forked import run_command

ROOT = Path(__file__).parent.parent

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(database: str, connection: Any, tmp_path: Path) -> Command:
    """Run etl-toolkit with the server, and nothing else of ours, in the environment; `t` has three rows."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'x'), (2, 'x'), (3, 'x')")
    (tmp_path / "in.csv").write_text("id,v\n3,new\n4,new\n")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ETL_")}

    def run(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return run_command(*words, cwd=tmp_path, env={**clean, "ETL_DSN": database, **environ})

    return run


class TestDoctor:
    WORDS = ("doctor", "--table", "t", "--key", "id", "--skip-backup")

    def test_says_the_same_as_text_and_as_json_and_exits_with_4_where_a_check_failed(self, command: Command) -> None:
        environ = {"ETL_RETRY_ATTEMPTS": "1", "ETL_CONCURRENCY": "2"}
        text, told = command(*self.WORDS, **environ), command(*self.WORDS, "--json", **environ)
        report = json.loads(told.stdout)
        failed = {finding["check"] for finding in report["findings"] if finding["status"] == "fail"}
        shown = {line.split("FAIL")[1].split("  ")[1].strip() for line in text.stdout.splitlines() if " FAIL  " in line}
        assert (text.returncode, told.returncode, report["ok"], "retries" in failed) == (4, 4, False, True)
        assert shown == failed

    def test_exits_with_0_where_none_did(self, command: Command, connection: Any) -> None:
        """What a temporary server rightly fails is left to `test_doctor`; a sound one needs its own."""
        from etl_toolkit import server

        with server.temporary("durable") as sound:
            done = command("doctor", "--json", ETL_DSN=sound.dsn, ETL_CONCURRENCY="2", ETL_MEMORY_ALERT_RATIO="1")
        report = json.loads(done.stdout)
        assert (done.returncode, report["ok"], report["counts"]["fail"]) == (0, True, 0)

    def test_a_table_without_its_key_is_a_usage_error(self, command: Command) -> None:
        done = command("doctor", "--table", "t")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "etl-toolkit: --table needs --key: the columns of its unique index\n"


class TestConfig:
    def test_show_tells_each_value_and_the_place_that_gave_it(self, command: Command, tmp_path: Path) -> None:
        (tmp_path / "etl.toml").write_text('[load]\npreset = "production"\nchunk_size = 7\nretry_attempts = 7\n')
        words = ("config", "show", "--config", "etl.toml", "--jobs", "3", "--wait", "5")
        told = json.loads(command(*words, "--json", ETL_RETRY_ATTEMPTS="9").stdout)
        assert list(told) == list(ParallelConfig().as_dict())
        assert {name: (item["value"], item["from"]) for name, item in told.items() if item["from"] != "default"} == {
            "concurrency": ("3", "flag --jobs"),
            "lock_wait_seconds": ("5.0", "flag --wait"),
            "chunk_size": ("7", "etl.toml"),
            "retry_attempts": ("9", "environment ETL_RETRY_ATTEMPTS"),
            "performance_monitoring": ("true", "preset production"),
        }
        text = command(*words, ETL_RETRY_ATTEMPTS="9").stdout
        rows = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
        assert [row for row in rows if row[0] in told] == [[name, *item.values()] for name, item in told.items()]

    def test_a_mistake_anywhere_is_a_usage_error_that_names_the_place(self, command: Command, tmp_path: Path) -> None:
        (tmp_path / "etl.toml").write_text("[load]\nchunk_sise = 7\n")
        for words, environ, place in (
            (("--config", "etl.toml"), {}, "etl.toml: unknown setting chunk_sise"),
            ((), {"ETL_CHUNK_SIZE": "many"}, "environment ETL_CHUNK_SIZE: chunk_size must be a whole number"),
            (("--preset", "staging"), {}, "flag --preset: unknown preset 'staging'"),
        ):
            done = command("config", "show", *words, **environ)
            assert (done.returncode, done.stdout, place in done.stderr) == (2, "", True), done.stderr

    @pytest.mark.parametrize("name", ["production", "development"])
    def test_a_printed_template_is_a_configuration_one_can_load_with(
        self, command: Command, tmp_path: Path, name: str
    ) -> None:
        printed = command("config", "template", name).stdout
        assert printed == template(name)
        (tmp_path / "etl.toml").write_text(printed)
        done = command("ingest", "in.csv", "--table", "t", "--key", "id", "--config", "etl.toml", "--json")
        counts = json.loads(done.stdout)["counts"]
        assert (done.returncode, counts["inserted"], counts["updated"]) == (0, 1, 1)


def test_undo_says_what_it_would_do_does_it_and_does_it_once(command: Command, connection: Any) -> None:
    done = command("ingest", "in.csv", "--table", "t", "--key", "id", "--undoable", "--json")
    run_id = json.loads(done.stdout)["run_id"]
    trial, real, again = command("undo", run_id, "--dry-run"), command("undo", run_id), command("undo", run_id)
    assert trial.stdout == f"public.t: 1 rows would be deleted, 1 rows would be restored (run {run_id})\n"
    assert real.stdout == f"public.t: 1 rows deleted, 1 rows restored (run {run_id})\n"
    assert (again.returncode, again.stderr) == (1, f"etl-toolkit: run {run_id} was already undone\n")
    with connection.cursor() as cursor:
        cursor.execute("SELECT array_agg(t::text ORDER BY id) FROM t")
        assert cursor.fetchone() == (["(1,x)", "(2,x)", "(3,x)"],)


def test_db_grants_prints_what_an_administrator_runs(command: Command, tmp_path: Path) -> None:
    done = command("db", "grants", "etl_loader", "--table", "sales.orders", "--undo")
    assert done.stdout == ledger_sql("etl_loader") + table_sql("etl_loader", "orders", schema="sales", undo=True)
    text = 'table = "sales.orders"\nkey = "id"\n[files]\npaths = "in.csv"\n[write]\nmissing = '
    for missing, deletes in (('"delete"', True), ('{ soft = "gone_at" }', False)):
        (tmp_path / "f.toml").write_text(text + missing)
        done = command("db", "grants", "etl_loader", "--feed", "f.toml")
        assert done.stdout == ledger_sql("etl_loader") + table_sql(
            "etl_loader", "orders", schema="sales", deletes=deletes
        )


def test_progress_names_the_session_that_blocks_while_it_does(command: Command, database: str, tmp_path: Path) -> None:
    words = ["ingest", "in.csv", "--table", "t", "--key", "id"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "ETL_DSN": database}
    with closing(psycopg2.connect(database, application_name="somebody's psql")) as blocker:
        expected = f"blocked_by process {blocker.info.backend_pid} (somebody's psql, user {blocker.info.user}, idle in transaction"
        blocker.cursor().execute("UPDATE t SET v = 'held' WHERE id = 3")
        command_line = [sys.executable, "-m", "etl_toolkit", *words]
        with subprocess.Popen(command_line, cwd=tmp_path, env=environ, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            line = next(line for line in process.stderr if line.startswith("waiting: "))
            blocker.rollback()
            process.stderr.read()
            assert process.wait(timeout=60) == 0
    assert expected in line
