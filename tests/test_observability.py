"""What a load tells while it runs: log, metrics, spans, who blocks it, what it uses. And that telling never fails it."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from etl_toolkit import ConflictAwareProcessor, LoadResult, ParallelConfig
from etl_toolkit.errors import DatabaseError, LedgerError, RejectLimitError, SourceError
from etl_toolkit.loading import ledger
from etl_toolkit.loading.run import Event
from etl_toolkit.loading.session import Sessions
from etl_toolkit.memory import memory_limit_bytes, memory_state
from etl_toolkit.observe import JsonLog, PrometheusFile, Spans, Watch, fan_out
from etl_toolkit.request import load_spec

Load = Callable[..., LoadResult]
Sink = Callable[[Event], None]

ONE_WORKER = ParallelConfig(concurrency=1)  # of two, one may begin with the next file


@pytest.fixture
def load(database: str, connection: Any, tmp_path: Path) -> Load:
    """Load two overlapping files (or the given text) into `t`, telling `sink`."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, 'x' FROM generate_series(1, 90) g"
        )

    def run(sink: Sink, *, config: ParallelConfig | None = None, text: str | None = None, **options: Any) -> LoadResult:
        texts = (
            [text] if text else ["id,v\n" + "".join(f"{n},{start}\n" for n in range(start, 150)) for start in (50, 80)]
        )
        files = []
        for number, content in enumerate(texts):
            files.append(tmp_path / f"{number}.csv")
            files[-1].write_text(content)
        processor = ConflictAwareProcessor(database, config=config or ParallelConfig(concurrency=2), on_event=sink)
        return processor.load(files, load_spec("t", "id", **options))

    return run


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


class TestJsonLog:
    def test_tells_a_load_from_start_to_finish(self, load: Load) -> None:
        stream = io.StringIO()
        result = load(JsonLog(stream), config=ONE_WORKER, strategy="deterministic")
        told = lines(stream)
        names = [line["event"] for line in told]
        assert names == ["started", "planned", *["batch_started", "batch_done"] * 2, "finished"]
        assert {line["run"] for line in told} == {result.run_id}
        assert {line["level"] for line in told} == {"info"}
        first, last = told[3], told[-1]
        assert (first["batch"], first["rows"], first["counts"]["inserted"]) == ("file 1", 100, 59)
        assert (last["status"], last["counts"], last["retries"]) == ("complete", asdict(result.counts), 0)
        assert last["phases"].keys() == result.phases.keys()

    def test_has_no_key_twice_in_any_line_and_names_the_run_once(self, load: Load, database: str) -> None:
        """A key that stands twice is lost by most readers; so is trust in a log that says a thing under two names."""
        stream = io.StringIO()
        run_ids = {
            load(JsonLog(stream), config=ParallelConfig(performance_monitoring=True, memory_alert_ratio=1e-6)).run_id
        }
        run_ids.add(load(JsonLog(stream), strategy="deterministic").run_id)
        with pytest.raises(RejectLimitError):
            load(JsonLog(stream), text="id,v\nx,y\n")
        names: list[str] = []

        def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            keys = [key for key, _ in pairs]
            assert sorted(keys) == sorted(set(keys))
            return dict(pairs)

        for line in stream.getvalue().splitlines():
            told = json.loads(line, object_pairs_hook=unique)
            names.append(told["event"])
            assert [key for key, value in told.items() if value == told["run"]] == ["run"]
        assert {"started", "planned", "memory_alert", "batch_started", "batch_done", "finished"} <= set(names)
        assert len(run_ids) == 2

    def test_names_the_files_of_a_batch_and_the_strategy_with_its_reasons(self, load: Load) -> None:
        stream = io.StringIO()
        result = load(JsonLog(stream))
        planned, batch = (
            next(line for line in lines(stream) if line["event"] == name) for name in ("planned", "batch_started")
        )
        assert planned["plan"]["reasons"] == list(result.reasons)
        assert [Path(name).name for name in batch["files"]] == ["0.csv", "1.csv"]

    def test_says_why_a_load_failed_without_the_values_of_the_row(self, load: Load) -> None:
        stream = io.StringIO()
        with pytest.raises(RejectLimitError):
            load(JsonLog(stream), text="id,v\n1,a\nconfidential,b\n")
        last = lines(stream)[-1]
        assert (last["event"], last["level"], last["status"], last["error"]) == (
            "finished",
            "error",
            "failed",
            "RejectLimitError",
        )
        assert 'invalid input syntax for type integer: "…" (SQLSTATE 22P02)' in last["message"]
        assert "confidential" not in stream.getvalue()

    def test_a_load_that_fails_before_it_is_planned_is_reported_too(self, load: Load) -> None:
        stream = io.StringIO()
        with pytest.raises(SourceError, match="column 'nope' is not in"):
            load(JsonLog(stream), text="nope\n")
        assert [line["event"] for line in lines(stream)] == ["started", "finished"]

    def test_a_retry_carries_attempt_and_sqlstate(self, load: Load, database: str) -> None:
        stream = io.StringIO()
        killed = threading.Event()

        def kill_once(event: Event) -> None:
            if event.name == "bytes" and not killed.is_set():
                killed.set()
                with closing(psycopg2.connect(database)) as other, other.cursor() as cursor:
                    cursor.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '%% file 1'"
                    )

        result = load(fan_out(kill_once, JsonLog(stream)), strategy="deterministic")
        retries = [line for line in lines(stream) if line["event"] == "retry"]
        assert (bool(result), result.retries, len(retries)) == (True, 1, 1)
        assert (retries[0]["level"], retries[0]["batch"], retries[0]["attempt"]) == ("warning", "file 1", 1)
        assert retries[0]["sqlstate"] in ("57P01", None)  # None: the connection was gone before the server could say


class TestPrometheus:
    def test_writes_one_file_that_a_parser_takes(self, load: Load, tmp_path: Path) -> None:
        parser = pytest.importorskip("prometheus_client.parser")
        path = tmp_path / "etl.prom"
        result = load(
            PrometheusFile(path, job='the "nightly"\nload'), config=ParallelConfig(performance_monitoring=True)
        )
        families = {family.name: family.samples for family in parser.text_string_to_metric_families(path.read_text())}
        assert {sample.labels["job_name"] for samples in families.values() for sample in samples} == {
            'the "nightly"\nload'
        }
        rows = {sample.labels["outcome"]: int(sample.value) for sample in families["etl_toolkit_last_run_rows"]}
        assert rows == asdict(result.counts)
        assert families["etl_toolkit_last_run_success"][0].value == 1
        assert {sample.labels["phase"] for sample in families["etl_toolkit_last_run_phase_seconds"]} == set(
            result.phases
        )
        resources = {sample.labels["resource"] for sample in families["etl_toolkit_last_run_resource"]}
        assert "client_peak_pss_bytes" in resources

    def test_a_failed_run_says_so_and_keeps_the_time_of_the_last_success(self, load: Load, tmp_path: Path) -> None:
        path = tmp_path / "etl.prom"
        metrics = PrometheusFile(path)
        load(metrics)
        succeeded = value(path, "etl_toolkit_last_success_timestamp_seconds")
        with pytest.raises(RejectLimitError):
            load(metrics, text="id,v\nx,y\n")
        assert value(path, "etl_toolkit_last_run_success") == 0.0
        assert value(path, "etl_toolkit_last_success_timestamp_seconds") == succeeded
        assert value(path, "etl_toolkit_last_run_timestamp_seconds") > succeeded

    def test_is_readable_for_the_collector_and_leaves_nothing_else(self, load: Load, tmp_path: Path) -> None:
        directory = tmp_path / "textfile"
        directory.mkdir()
        load(PrometheusFile(directory / "etl.prom"))
        assert [(item.name, item.stat().st_mode & 0o777) for item in directory.iterdir()] == [("etl.prom", 0o644)]


def value(path: Path, name: str) -> float:
    return next(float(line.rsplit(" ", 1)[1]) for line in path.read_text().splitlines() if line.startswith(name + "{"))


class TestSpans:
    @pytest.fixture
    def exported(self) -> Iterator[tuple[Any, Any]]:
        sdk = pytest.importorskip("opentelemetry.sdk.trace")
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        exporter, provider = InMemorySpanExporter(), sdk.TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        yield provider.get_tracer("test"), exporter
        provider.shutdown()

    def test_a_span_per_batch_below_that_of_the_load(self, load: Load, exported: Any) -> None:
        tracer, exporter = exported
        result = load(Spans(tracer))
        *batches, whole = exporter.get_finished_spans()
        assert [span.name for span in batches] == ["etl_toolkit.batch"] * len(result.plan.batches)
        assert {span.parent.span_id for span in batches} == {whole.context.span_id}
        assert (whole.name, whole.status.is_ok or whole.status.is_unset) == ("etl_toolkit.load", True)
        assert whole.attributes["etl.rows.read"] == result.counts.read
        assert sum(span.attributes["etl.rows.read"] for span in batches) == result.counts.read

    def test_a_failed_load_ends_every_span_as_an_error(self, load: Load, exported: Any, connection: Any) -> None:
        tracer, exporter = exported
        with connection.cursor() as cursor:
            cursor.execute(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;"
                "CREATE TRIGGER refuse BEFORE INSERT ON t FOR EACH STATEMENT EXECUTE FUNCTION refuse()"
            )
        with pytest.raises(DatabaseError):
            load(Spans(tracer), config=ONE_WORKER)
        spans = [(span.name, span.status.description) for span in exporter.get_finished_spans()]
        assert spans == [("etl_toolkit.batch", "DatabaseError"), ("etl_toolkit.load", "DatabaseError")]
        assert exporter.get_finished_spans()[-1].attributes["db.response.status_code"] == "P0001"


class TestWaiting:
    def test_names_the_session_that_blocks(self, load: Load, database: str) -> None:
        waited = threading.Event()
        told: list[Event] = []
        blocker = psycopg2.connect(database, application_name="somebody's psql")

        def release_when_told(event: Event) -> None:
            told.append(event)
            if event.name == "waiting" and not waited.is_set():
                waited.set()
                blocker.rollback()

        with blocker.cursor() as cursor:
            cursor.execute("UPDATE t SET v = 'held' WHERE id = 60")
        result = load(release_when_told)
        pid, user = blocker.info.backend_pid, blocker.info.user
        blocker.close()
        waiting = next(event for event in told if event.name == "waiting")
        expected = f"process {pid} (somebody's psql, user {user}, idle in transaction, since "
        assert waiting.facts["blocked_by"].startswith(expected)
        assert waiting.facts["session"].startswith(("worker", "file"))
        assert (waiting.run_id, "wait_over" in [event.name for event in told]) == (result.run_id, True)
        assert result.resources["lock_wait_seconds"] > 0

    def test_names_the_run_that_holds_the_table(self, load: Load, database: str, connection: Any) -> None:
        told: list[Event] = []
        sessions = Sessions(database, ParallelConfig(), "20200101T000000-abcdef")
        with connection.cursor() as cursor, sessions.session("coordinator") as holder:
            cursor.execute("SELECT 't'::regclass::oid::bigint")
            ledger.lock_table(holder, cursor.fetchone()[0], "t", wait_seconds=0)
            with pytest.raises(LedgerError, match="20200101T000000-abcdef"):
                load(told.append, config=ParallelConfig(lock_wait_seconds=0.1))
        waiting = next(event for event in told if event.name == "waiting")
        assert "etl_toolkit 20200101T000000-abcdef coordinator" in waiting.facts["blocked_by"]


class TestResources:
    def test_are_those_of_client_and_server(self, load: Load) -> None:
        result = load(lambda event: None, config=ParallelConfig(performance_monitoring=True))
        expected = {
            "client_peak_pss_bytes", "server_peak_pss_bytes", "client_cpu_seconds", "server_cpu_seconds",
            "memory_peak_ratio", "samples", "sampling_cpu_seconds", "lock_wait_seconds",
        }  # fmt: skip
        assert set(result.resources) == expected
        assert result.resources["client_peak_pss_bytes"] > 10 << 20
        assert result.resources["server_peak_pss_bytes"] > 1 << 20
        assert 0 < result.resources["memory_peak_ratio"] < 1

    def test_are_not_sampled_unless_asked_for(self, load: Load) -> None:
        assert set(load(lambda event: None).resources) <= {"lock_wait_seconds", "memory_peak_ratio"}

    @pytest.mark.parametrize("monitored", [True, False])
    def test_an_alert_is_raised_once_above_the_threshold(self, load: Load, monitored: bool) -> None:
        told: list[Event] = []
        load(told.append, config=ParallelConfig(performance_monitoring=monitored, memory_alert_ratio=1e-6))
        alerts = [event.facts for event in told if event.name == "memory_alert"]
        assert len(alerts) == 1
        assert 0 < alerts[0]["used_bytes"] < alerts[0]["limit_bytes"] == memory_state().limit_bytes

    def test_no_alert_is_raised_below_it(self, load: Load) -> None:
        told: list[Event] = []
        load(told.append, config=ParallelConfig(performance_monitoring=True, memory_alert_ratio=1.0))
        assert "memory_alert" not in [event.name for event in told]


class TestMemoryLimit:
    """cgroup files as the kernel writes them, in a directory of our own."""

    @pytest.mark.parametrize(
        ("own", "files"),
        [
            ("0::/a/b\n", {"a/memory.max": "max", "a/b/memory.max": "1000", "a/b/memory.current": "900"}),
            ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "1000", "a/memory.current": "900"}),
            ("0::/elsewhere\n", {"memory.max": "1000", "memory.current": "900"}),
            (
                "4:cpu:/x\n5:memory:/a\n0::/\n",
                {"memory/a/memory.limit_in_bytes": "1000", "memory/a/memory.usage_in_bytes": "900"},
            ),
        ],
        ids=["v2", "v2, of the parent", "v2, seen from inside a container", "v1"],
    )
    def test_is_that_of_the_tightest_cgroup(self, tmp_path: Path, own: str, files: dict[str, str]) -> None:
        for name, text in files.items():
            (tmp_path / "cg" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "cg" / name).write_text(text + "\n")
        (tmp_path / "own").write_text(own)
        state = memory_state(tmp_path / "cg", tmp_path / "own")
        assert (state.limit_bytes, state.used_bytes, state.of) == (1000, 900, "the cgroup")
        assert memory_limit_bytes(tmp_path / "cg", tmp_path / "own") == 1000

    def test_does_not_count_file_pages_that_the_kernel_would_give_up(self, tmp_path: Path) -> None:
        (tmp_path / "memory.max").write_text("1000\n")
        (tmp_path / "memory.current").write_text("990\n")
        (tmp_path / "memory.stat").write_text("anon 100\ninactive_file 50\n")
        (tmp_path / "own").write_text("0::/\n")
        assert memory_state(tmp_path, tmp_path / "own").used_bytes == 940

    def test_is_that_of_the_machine_where_no_cgroup_has_one(self, tmp_path: Path) -> None:
        (tmp_path / "memory.max").write_text("max\n")
        (tmp_path / "own").write_text("0::/\n")
        assert memory_state(tmp_path, tmp_path / "own").of == "the machine"


class TestTelemetryNeverFailsALoad:
    def test_a_sink_that_raises_is_left_out_and_the_others_go_on(self, load: Load, caplog: Any) -> None:
        seen: list[str] = []

        def broken(event: Event) -> None:
            seen.append(event.name)
            raise OSError("no space left on device")

        stream = io.StringIO()
        with caplog.at_level(logging.WARNING, logger="etl_toolkit"):
            result = load(fan_out(broken, JsonLog(stream)))
        assert (bool(result), seen, lines(stream)[-1]["event"]) == (True, ["started"], "finished")
        assert [record.message for record in caplog.records if "broken" in record.message]

    def test_a_callback_of_the_caller_is_no_exception(self, load: Load) -> None:
        def broken(event: Event) -> None:
            raise RuntimeError("a bug in the caller's progress bar")

        assert load(broken)

    def test_a_closed_log_or_a_missing_directory_is_none_either(self, load: Load, tmp_path: Path) -> None:
        stream = io.StringIO()
        stream.close()
        assert load(fan_out(JsonLog(stream), PrometheusFile(tmp_path / "absent" / "etl.prom")))

    def test_a_watch_that_cannot_connect_ends_quietly(self, caplog: Any) -> None:
        config = ParallelConfig(performance_monitoring=True)
        sessions = Sessions("host=127.0.0.1 port=1", config, "run")
        with caplog.at_level(logging.WARNING, logger="etl_toolkit"), Watch(sessions, lambda event: None) as watch:
            assert set(watch.resources()) == {"memory_peak_ratio"}
        assert "monitoring of run run has ended" in caplog.text

    def test_an_interrupt_by_the_caller_still_gets_through(self, load: Load) -> None:
        def interrupt(event: Event) -> None:
            if event.name == "planned":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            load(interrupt)


def test_the_watch_leaves_no_thread_and_no_session_behind(load: Load, connection: Any) -> None:
    load(lambda event: None, config=ParallelConfig(performance_monitoring=True))
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_stat_clear_snapshot(), count(*) FROM pg_stat_activity WHERE application_name LIKE '%% watch'"
        )
        sessions = cursor.fetchone()[1]
    assert (sessions, [t.name for t in threading.enumerate() if t.name.startswith("etl-")]) == (0, [])
