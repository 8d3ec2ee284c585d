"""Hostile input stays data, secrets stay secret, and DuckDB sees the input files and nothing else."""

from __future__ import annotations

import json
import logging
import os
import pickle
import pickletools
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import duckdb
import psutil
import psycopg2
import pyarrow.parquet as pq
import pytest
from psycopg2 import sql
from psycopg2.extensions import parse_dsn
from sqlalchemy import create_engine

from etl_toolkit import ConflictAwareProcessor, ParallelConfig, ingest, server
from etl_toolkit.doctor import run_checks
from etl_toolkit.errors import EtlError, UsageError
from etl_toolkit.loading.grants import ledger_sql, table_sql
from etl_toolkit.loading.run import Event
from etl_toolkit.loading.session import Sessions
from etl_toolkit.observe import JsonLog, PrometheusFile, Spans, fan_out
from etl_toolkit.request import load_spec
from etl_toolkit.sources import resolve
from etl_toolkit.workspace import open_workspace
from tests.forked import run_command

ROOT = Path(__file__).parent.parent
CANARY = "cAnArY-7f3a-p%40ss"  # as it is written in a URL; the password itself has an @
PASSWORD = CANARY.replace("%40", "@")

HOSTILE_NAMES = [
    'x"; DROP TABLE victim; --',
    "x'; DROP TABLE victim; --",
    "x$$; DROP TABLE victim; $$",
    "100% %s %(x)s {} {0} {{",
    "back\\slash \\. \\' e'\\n",
    "ünï çödé 表 🐘 \u202eevil",
    "select",
    "Mixed Case",
    "etl_loaded_at",
    "line\nbreak",
    "tab\tand;semicolon",
    "n" * 63,
    "ü" * 31,  # 62 bytes
]


def csv_field(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


@pytest.fixture
def victim(connection: Any) -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE victim (id int); INSERT INTO victim VALUES (1)")
    yield
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM victim")
        assert cursor.fetchone() == (1,)


class TestIdentifiers:
    @pytest.mark.parametrize("name", HOSTILE_NAMES)
    def test_any_name_of_schema_table_key_and_column_is_only_a_name(
        self, database: str, connection: Any, tmp_path: Path, victim: None, name: str
    ) -> None:
        """Loaded, rejected, undone and examined; each way composes the names once more."""
        key, column = sql.Identifier(name), sql.Identifier(name[:30] + "!")
        table = sql.Identifier(name, name)
        with connection.cursor() as cursor:
            cursor.execute(sql.SQL("CREATE SCHEMA {}").format(key))
            create = sql.SQL("CREATE TABLE {} ({} int PRIMARY KEY, {} int CHECK ({} < 100), other int)")
            cursor.execute(create.format(table, key, column, column))
            cursor.execute(sql.SQL("INSERT INTO {} VALUES (1, 1), (2, 2)").format(table))
        header = f"{csv_field(name)},{csv_field(name[:30] + '!')}\n"
        path = tmp_path / "in.csv"
        path.write_text(header + "1,10\n2,2\n3,30\n4,400\n")
        quoted = table.as_string(connection)
        processor = ConflictAwareProcessor(database, config=ParallelConfig(concurrency=2))
        result = processor.load([path], load_spec(quoted, [name], max_rejects=1, undoable=True))
        counts = result.counts
        assert (counts.inserted, counts.updated, counts.unchanged, counts.rejected) == (1, 1, 1, 1)
        report = run_checks(database, quoted, [name], proves_backup=False)
        assert report.of("privileges").status == "pass"
        processor.undo(result.run_id)
        with connection.cursor() as cursor:
            cursor.execute(sql.SQL("SELECT * FROM {} ORDER BY 1").format(table))
            assert cursor.fetchall() == [(1, 1, None), (2, 2, None)]

    def test_a_header_longer_than_a_name_can_be_meets_no_column_by_accident(
        self, database: str, connection: Any, tmp_path: Path
    ) -> None:
        """PostgreSQL cuts names at 63 bytes; a header must not be cut along with them."""
        with connection.cursor() as cursor:
            cursor.execute(sql.SQL("CREATE TABLE t (id int PRIMARY KEY, {} int)").format(sql.Identifier("c" * 63)))
        path = tmp_path / "in.csv"
        path.write_text("id," + "c" * 70 + "\n1,2\n")
        with pytest.raises(EtlError, match=r"is not in public\.t"):
            ingest(path, "t", "id", database)

    @pytest.mark.parametrize(
        "name", ["a'b.csv", 'a"b.csv', "a; DROP TABLE victim; --.csv", "a%s{}.csv", "line\nbreak.csv", "-x.csv"]
    )
    def test_any_file_name_is_only_a_name(
        self, database: str, connection: Any, tmp_path: Path, victim: None, name: str
    ) -> None:
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
        (tmp_path / name).write_text("id,v\n1,a\nx,b\n")
        result = ingest(tmp_path / name, "t", "id", database, max_rejects=1)
        assert (result.counts.inserted, result.counts.rejected) == (1, 1)

    def test_grants_quote_every_name(self) -> None:
        text = ledger_sql('r"; --') + table_sql('r"; --', 't"; --', schema='s"; --')
        assert '"r""; --"' in text
        assert '"s""; --"."t""; --"' in text

    def test_no_statement_for_postgresql_is_put_together_from_text(self) -> None:
        """Ruff's S608 is off where DuckDB's SQL is written. `bench` and `reporting` work on tables of their own making."""
        found = [
            line.strip()
            for path in sorted((ROOT / "etl_toolkit").rglob("*.py"))
            if path.relative_to(ROOT / "etl_toolkit").parts[0] not in ("bench", "reporting")
            for line in path.read_text(encoding="utf-8").splitlines()
            if re.search(r"cursor\.execute\(\s*f[\"']", line)
        ]
        # `calls` repeats "pg_catalog.set_config(%s, %s, …)", and ends with a call that is a constant.
        assert found == [
            'cursor.execute(f"SELECT pg_catalog.pg_backend_pid(), {calls}", [*values, *beats])',
        ]


class TestSecrets:
    """A password that must turn up nowhere: every artefact of loads, failures and checks is searched for it."""

    @pytest.fixture
    def dsn_with_canary(self, dsn: str, database: str) -> Iterator[str]:
        with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE ROLE canary SUPERUSER LOGIN PASSWORD %s", (PASSWORD,))
            connection.commit()
        parts = parse_dsn(database)
        yield f"postgresql://canary:{CANARY}@{parts['host']}:{parts['port']}/{parts['dbname']}"
        with closing(psycopg2.connect(database)) as connection, connection.cursor() as cursor:
            cursor.execute("REASSIGN OWNED BY canary TO CURRENT_USER; DROP OWNED BY canary; DROP ROLE canary")
            connection.commit()

    @pytest.fixture
    def files(self, tmp_path: Path) -> list[Path]:
        paths = [tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "bad.csv"]
        for path, lines in zip(paths, ["1,a\n2,b\n", "2,c\n3,d\n", "4,e\nx,f\n"], strict=True):
            path.write_text("id,v\n" + lines)
        return paths

    def test_a_password_is_in_no_artefact(
        self, dsn_with_canary: str, tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: Any
    ) -> None:
        artefacts: dict[str, str] = {}
        caplog.set_level(logging.DEBUG)
        monkeypatch.setenv("ETL_DSN", dsn_with_canary)
        with processes() as seen:
            self._load(dsn_with_canary, tmp_path, files, artefacts)
            artefacts["doctor, text"] = str(report := run_checks(dsn_with_canary, "t", ["id"]))
            artefacts["doctor, JSON"] = json.dumps(report.as_dict())
            assert report.of("backup").status == "pass"  # pg_dump did run
            self._fail(dsn_with_canary, files, artefacts)
            self._command_line(dsn_with_canary, files, artefacts)
            self._sweep(dsn_with_canary, tmp_path / "sweep", artefacts)
        # What the user types shows in the process list, and the guide says so; what we start must not.
        ours = [line for line in sorted(seen) if not re.search("etl_toolkit ingest .*--dsn", line)]
        artefacts |= {f"process list, {line}": line for line in ours}
        artefacts["log records"] = caplog.text
        self._ledger(dsn_with_canary, artefacts)
        assert any("pg_dump" in line for line in seen)
        assert {"run directory, executed/04_parallel_upsert_analysis.ipynb", "run directory, page.html"} < set(
            artefacts
        )
        assert find(artefacts) == []
        # The search does find what is there.
        assert find({"control": dsn_with_canary, "other": PASSWORD}) == ["control", "other"]

    def _load(self, dsn: str, directory: Path, files: list[Path], artefacts: dict[str, str]) -> None:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        exporter, provider = InMemorySpanExporter(), TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        events: list[Event] = []
        with (directory / "log.json").open("w") as stream:
            sink = fan_out(
                events.append, JsonLog(stream), PrometheusFile(directory / "etl.prom"), Spans(provider.get_tracer("t"))
            )
            config = ParallelConfig(performance_monitoring=True)
            processor = ConflictAwareProcessor(dsn, config=config, on_event=sink)
            result = processor.load(files[:2], load_spec("t", "id", create_table=True, undoable=True, max_rejects=1))
            plan = processor.plan(files[:2], "t", ["id"])
        artefacts["events"] = repr(events)
        artefacts["JSON log"] = (directory / "log.json").read_text()
        artefacts["Prometheus file"] = (directory / "etl.prom").read_text()
        artefacts["spans"] = "".join(span.to_json() for span in exporter.get_finished_spans())
        artefacts["result, text"] = f"{result} {result!r} {result._repr_html_()} {plan!r} {plan._repr_html_()}"
        artefacts["result, JSON"] = json.dumps(asdict(result), default=str, skipkeys=True)
        artefacts["result, pickle"] = disassembled(pickle.dumps(result))
        artefacts["repr of processor"] = repr(processor)
        artefacts["repr of sessions"] = repr(Sessions(dsn, config, "run"))
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(processor)
        provider.shutdown()

    def _fail(self, dsn: str, files: list[Path], artefacts: dict[str, str]) -> None:
        port = f":{parse_dsn(dsn)['port']}/"
        attempts = {
            "rejected row": dsn,
            "wrong user": dsn.replace("canary:", "nobody:"),
            "wrong port": dsn.replace(port, ":1/"),
            "wrong database": dsn.replace(port, f"{port}no_"),
            "wrong option": f"{dsn}?nonsense=1",
            "not encoded, @": dsn.replace(CANARY, PASSWORD),
            "not encoded, /": dsn.replace(CANARY, "cAnArY/7f3a"),
            "not encoded, %": dsn.replace(CANARY, "cAnArY%7f3z%"),
            "keywords, a space": "host=127.0.0.1 password=cAnArY cAnArY",
            "keywords, a quote": "host=127.0.0.1 password='cAnArY",
            "engine": create_engine(dsn.replace("postgresql://", "postgresql+psycopg2://").replace(port, ":1/")),
        }
        for name, target in attempts.items():
            with pytest.raises((EtlError, psycopg2.Error)) as error:
                ingest(files, "t", "id", target)
            artefacts[f"exception, {name}"] = f"{error.value!r} {error.value}"

    def _command_line(self, dsn: str, files: list[Path], artefacts: dict[str, str]) -> None:
        """Every command that meets the server, what it writes beside its output, and each kind of warning."""
        directory = files[0].parent / "cli"
        directory.mkdir()
        remote = f"{dsn}?hostaddr=127.0.0.1".replace("@127.0.0.1:", "@db.example.com:")
        with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT run_id FROM etl_toolkit.runs WHERE status = 'complete' ORDER BY started_at DESC LIMIT 1"
            )
            run_id = cursor.fetchone()[0]
        good, all_of_them = list(map(str, files[:2])), list(map(str, files))
        into = ["--table", "t", "--key", "id"]
        sinks = ["--log-json", str(directory / "log.json"), "--metrics", str(directory / "etl.prom"), "--undoable"]
        for name, (target, arguments) in {
            "ingest": (dsn, ["ingest", *good, *into, "--json"]),
            "ingest with warnings": (remote, ["ingest", *good, *into, *sinks]),
            "ingest, --dsn": ("", ["ingest", *good, *into, "--dsn", remote]),
            "ingest, --dsn that cannot be read": ("", ["ingest", *good, *into, "--dsn", dsn.replace(CANARY, PASSWORD)]),
            "ingest with rejects": (dsn, ["ingest", *all_of_them, *into, "--max-rejects", "1"]),
            "ingest that fails": (dsn, ["ingest", *all_of_them, *into]),
            "ingest, --dry-run": (dsn, ["ingest", *good, *into, "--dry-run"]),
            "plan": (dsn, ["plan", *good, *into, "--json"]),
            "overlap": (dsn, ["overlap", *good, "--key", "id"]),
            "runs": (dsn, ["runs"]),
            "runs, JSON": (dsn, ["runs", "--json"]),
            "resume": (dsn, ["resume", run_id]),
            "undo": (dsn, ["undo", run_id]),
            "rejects": (dsn, ["rejects", run_id, "--export", str(directory / "rejects.csv")]),
            "explain": (dsn, ["explain", "--table", "t", "--key", "id=1"]),
            "doctor": (remote, ["doctor", *into, "--skip-backup"]),
            "config": (dsn, ["config", "show"]),
            "grants": (dsn, ["db", "grants", "etl", "--table", "t"]),
            "no such command": (dsn, ["ingets"]),
        }.items():
            environment = {**os.environ, "ETL_DSN": target, "ETL_MEMORY_ALERT_RATIO": "0.000001"}
            if name in ("ingest with warnings", "ingest, --dsn", "doctor"):  # in the process list with their own words
                done = subprocess.run(
                    [sys.executable, "-m", "etl_toolkit", *arguments], env=environment, cwd=ROOT,
                    capture_output=True, text=True, check=False,
                )  # fmt: skip
            else:
                done = run_command(*arguments, env=environment, cwd=ROOT)
            assert "Traceback" not in done.stderr, done.stderr
            artefacts[f"command line, {name}"] = done.stdout + done.stderr
        assert "the connection to db.example.com is not encrypted" in artefacts["command line, ingest with warnings"]
        assert "of memory are in use" in artefacts["command line, ingest with warnings"]
        for path in sorted(directory.iterdir()):
            artefacts[f"file, {path.name}"] = path.read_text()

    def _sweep(self, dsn: str, directory: Path, artefacts: dict[str, str]) -> None:
        from etl_toolkit.bench import sweep
        from etl_toolkit.bench.sweep_config import SweepConfig
        from etl_toolkit.reporting.report import render

        config = SweepConfig(
            name="canary", strategies=("partitioned",), side_strategies=(), formats=("csv",), rows=(100,), files=(2,),
            overlaps=(0.5,), table_states=("empty",), workers=(1,), keys=("bigint",), batch_rows=(100,), twin=None, rounds=1,
        )  # fmt: skip
        sweep.run(config, directory=directory, dsn=dsn, command=["bench", "--dsn", dsn])
        render(directory, directory / "page.html")
        for path in directory.rglob("*"):
            if path.is_file():
                text = path.read_bytes().decode("latin-1")
                if path.suffix == ".parquet":  # its pages are compressed
                    text += str(pq.read_table(path).to_pydict()) + str(pq.read_metadata(path).metadata)
                artefacts[f"run directory, {path.relative_to(directory)}"] = text

    def _ledger(self, dsn: str, artefacts: dict[str, str]) -> None:
        with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
            for table in ("runs", "files", "batches", "rejects", "before_images"):
                cursor.execute(sql.SQL("SELECT t::text FROM etl_toolkit.{} t").format(sql.Identifier(table)))
                artefacts[f"ledger, {table}"] = repr(cursor.fetchall())
            cursor.execute("SELECT application_name FROM pg_stat_activity")
            artefacts["application names"] = repr(cursor.fetchall())

    def test_the_embedded_servers_password_is_in_no_repr_pickle_or_log(self) -> None:
        with server.temporary() as embedded:
            assert embedded.password
            ingest_log = (embedded.data_dir / "server.log").read_text(errors="replace")
            told = f"{embedded!r} {embedded} {ingest_log} {disassembled(pickle.dumps(embedded))}"
            assert embedded.password not in told
            assert pickle.loads(pickle.dumps(embedded)) == embedded  # noqa: S301 - our own
            assert embedded.password in embedded.dsn

    def test_a_malformed_dsn_says_what_to_do_and_repeats_nothing_of_it(self) -> None:
        with pytest.raises(UsageError) as error:
            Sessions("postgresql://u:pa@ss/word@host/db", ParallelConfig()).connect("test")
        assert "percent-encode" in str(error.value)
        assert not {"ss", "word", "pa"} & set(re.findall(r"\w+", str(error.value)))


def find(artefacts: dict[str, str]) -> list[str]:
    """The artefacts that hold the canary, in any of its spellings."""
    pattern = re.compile("canary[-/%]7f3|p(%40|@)ss|password='?canary|cAnArY cAnArY", re.IGNORECASE)
    return [name for name, text in artefacts.items() if pattern.search(text)]


def disassembled(data: bytes) -> str:
    return " ".join(str(argument) for _, argument, _ in pickletools.genops(data))


class processes:  # noqa: N801 - a context manager
    """The command lines of all processes, and the environment of our children, gathered meanwhile."""

    def __enter__(self) -> set[str]:
        self.seen: set[str] = set()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self.seen

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.over.wait(0.05):
            for process in psutil.process_iter():
                try:
                    command = self._command_line(process.pid)
                    self.seen.add(" ".join(command))
                    if any("pg_dump" in word or "pg_restore" in word for word in command[:1]):
                        self.seen.add(repr(process.environ()))
                except (psutil.Error, OSError):
                    continue

    def _command_line(self, process_id: int) -> list[str]:
        """In one read: two, as psutil's, join the beginning of one program to the end of the next, if it starts between them."""
        descriptor = os.open(f"/proc/{process_id}/cmdline", os.O_RDONLY)
        try:
            return os.read(descriptor, 1 << 20).decode(errors="replace").split("\0")
        finally:
            os.close(descriptor)


class TestDuckDB:
    """What a hostile file could make DuckDB do, if one of its queries could be bent: nothing."""

    @pytest.fixture
    def locked(self, tmp_path: Path) -> Iterator[Any]:
        (tmp_path / "in.csv").write_text("id,v\n1,a\n")
        (tmp_path / "other.csv").write_text("id,v\n1,a\n")
        with open_workspace(ParallelConfig(), threads=1) as workspace:
            resolve([tmp_path / "in.csv"], load_spec("t", "id").read, workspace)
            yield workspace

    def test_reads_the_inputs(self, locked: Any, tmp_path: Path) -> None:
        assert locked.query(f"SELECT count(*) FROM read_csv('{tmp_path}/in.csv')") == [(1,)]

    @pytest.mark.parametrize(
        "statement",
        [
            "SELECT * FROM read_text('/etc/passwd')",
            "SELECT * FROM read_text('{directory}/../../../../../../etc/passwd')",
            "SELECT * FROM read_text('/dev/fd/../../etc/passwd')",
            "SELECT * FROM read_text('/proc/self/environ')",
            "SELECT * FROM read_csv('{inputs}/other.csv')",
            "SELECT * FROM read_csv('{inputs}/../../etc/passwd')",
            "SELECT * FROM glob('/etc/*')",
            "SELECT * FROM '/etc/passwd'",
            "SELECT * FROM read_csv('http://127.0.0.1:1/x.csv')",
            "COPY (SELECT 1) TO '{inputs}/out.csv'",
            "ATTACH '{inputs}/x.duckdb'",
            "EXPORT DATABASE '{inputs}/exported'",
            "INSTALL httpfs",
            "LOAD httpfs",
            "LOAD '/tmp/evil.duckdb_extension'",
            "CREATE SECRET (TYPE s3)",
        ],
    )
    def test_reaches_no_file_host_or_extension_beyond(self, locked: Any, tmp_path: Path, statement: str) -> None:
        with pytest.raises(duckdb.Error):
            locked.query(statement.format(directory=locked.directory, inputs=tmp_path))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "other.csv"]

    def test_sees_no_variable_of_ours(self, locked: Any) -> None:
        secret = __import__("pandas").DataFrame({"password": ["x"]})
        assert len(secret) == 1
        with pytest.raises(duckdb.CatalogException):
            locked.query("SELECT * FROM secret")

    @pytest.mark.parametrize(
        "statement",
        [
            "SET enable_external_access = true",
            "SET lock_configuration = false",
            "SET allowed_paths = ['/etc/passwd']",
            "SET allowed_directories = ['/etc']",
            "SET python_enable_replacements = true",
            "SET autoinstall_known_extensions = true",
            "SET memory_limit = '1TB'",
            "RESET enable_external_access",
        ],
    )
    def test_cannot_be_told_otherwise(self, locked: Any, statement: str) -> None:
        with pytest.raises(duckdb.InvalidInputException):
            locked.query(statement)

    def test_would_read_all_that_without_the_lock(self) -> None:
        """The control: the same statement on a DuckDB as it comes."""
        with closing(duckdb.connect()) as open_to_all:
            assert open_to_all.execute("SELECT count(*) FROM read_text('/etc/passwd')").fetchall() == [(1,)]


class TestNoPickleIsLoaded:
    def test_no_module_unpickles_or_evaluates(self) -> None:
        pattern = re.compile(
            r"\bpickle\.loads?\(|\bmarshal\b|\bjoblib\b|\bread_pickle\(|allow_pickle=True|\beval\(|(?<![.\w])exec\("
        )
        found = [
            f"{path.relative_to(ROOT)}: {line.strip()}"
            for path in (ROOT / "etl_toolkit").rglob("*.py")
            for line in path.read_text(encoding="utf-8").splitlines()
            if pattern.search(line)
        ]
        # An empty text: it clears what an interrupt leaves behind in the interpreter.
        assert found == ['etl_toolkit/__main__.py: exec("")  # noqa: S102']


class TestExports:
    def test_rejected_rows_are_exported_as_they_stood_in_the_file(
        self, database: str, connection: Any, tmp_path: Path
    ) -> None:
        """On purpose: the export is to be mended and loaded again, so a formula stays one. The guide says so."""
        from etl_toolkit.rejected import export_rejects

        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
        path = tmp_path / "in.csv"
        path.write_text("id,v\n1,a\nx,=cmd|' /C calc'!A0\n")
        result = ingest(path, "t", "id", database, max_rejects=1)
        export_rejects(connection, result.run_id, tmp_path / "out.csv")
        assert (tmp_path / "out.csv").read_text() == "id,v\nx,=cmd|' /C calc'!A0\n"
        guide = (ROOT / "docs" / "rejects.md").read_text(encoding="utf-8")
        assert "spreadsheet" in guide


class TestDependencies:
    @pytest.mark.parametrize(
        ("log", "code", "expected"),
        [
            ("No known vulnerabilities found", 0, (0, "No known vulnerabilities found")),
            ("Found 2 known vulnerabilities in 1 package", 1, (2, "Found 2 known vulnerabilities in 1 package")),
            (
                "ERROR:pip_audit._cli:anyio: Dependency not found on PyPI and could not be audited: anyio (4.16.0)", 1,
                (0, "not audited: ERROR:pip_audit._cli:anyio: Dependency not found on PyPI and could not be audited: anyio (4.16.0)"),
            ),
            ("raise ProxyError(e)\nProxyError: Max retries exceeded", 1, (0, "not audited: ProxyError: Max retries exceeded")),
        ],
        ids=["clean", "vulnerable", "unknown to the service", "service out of reach"],
    )  # fmt: skip
    def test_an_audit_fails_for_a_vulnerability_and_never_passes_for_clean_unseen(
        self, tmp_path: Path, log: str, code: int, expected: tuple[int, str]
    ) -> None:
        """The words are those of pip-audit 2.10.1; a program that prints them replaces it and the network."""
        for name in ("requirements.lock", "requirements-uv.lock", "uv"):  # in this order: uv is up to date
            (tmp_path / name).touch()
        program = tmp_path / "a directory" / "pip-audit"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\ntest \"$1\" = --strict || exit 9\ncat >&2 <<'end'\n{log}\nend\nexit {code}\n")
        program.chmod(0o755)
        done = subprocess.run(
            ["make", "--file", str(ROOT / "Makefile"), "audit", f"AUDIT={program}", "UV=uv"], cwd=tmp_path,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout.strip()) == expected

    def test_every_one_is_locked_to_its_content(self) -> None:
        """`pip install --require-hashes` refuses a file that is not the one that was locked."""
        text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
        pinned = re.findall(
            r"^([A-Za-z0-9_.-]+)==\S+(?:\s*;[^\\\n]*)?\s*(\\\n\s+--hash=sha256:[0-9a-f]{64})?", text, re.MULTILINE
        )
        assert len(pinned) > 50
        assert [name for name, hashed in pinned if not hashed] == []
