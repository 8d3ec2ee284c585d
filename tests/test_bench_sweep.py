"""A sweep checks every answer, survives interruption, leaves nothing on the server, writes a whole run directory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection
from typer.testing import CliRunner

from etl_toolkit.bench import analysis, cases, contenders, recommend, records, run_directory, sweep
from etl_toolkit.bench.answer import table_answer
from etl_toolkit.bench.contenders import Contender
from etl_toolkit.bench.databases import ScratchDatabases
from etl_toolkit.bench.records import RunRecord
from etl_toolkit.bench.shapes import SHAPES
from etl_toolkit.bench.statistics import FEWEST_RUNS_FOR_AN_INTERVAL
from etl_toolkit.bench.sweep import Progress
from etl_toolkit.bench.sweep_config import PRESETS, SweepConfig
from etl_toolkit.bench.workload import Workload, generate, table_sql
from etl_toolkit.bench.writing import write_manifest
from etl_toolkit.cli import app
from etl_toolkit.config import ParallelConfig
from etl_toolkit.errors import ConfigError, UsageError
from tests import bench_records as made

TINY = SweepConfig(
    name="tiny",
    strategies=("partitioned", "staged_merge"),
    side_strategies=(),
    formats=("csv",),
    rows=(200,),
    overlaps=(0.5,),
    table_states=("empty",),
    workers=(2,),
    keys=("bigint",),
    rounds=1,
    curve_readings=0,
)


@pytest.fixture(scope="module")
def record(dsn: str, tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return sweep.run(
        TINY, directory=tmp_path_factory.mktemp("bench") / "run", dsn=dsn, command=["bench", "--dsn", "password=secret"]
    )


def scratch_databases(dsn: str) -> list[str]:
    with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT datname FROM pg_database WHERE datname LIKE 'etl\\_bench\\_%'")
        found = [name for (name,) in cursor.fetchall()]
    connection.close()
    return found


# --- a whole sweep ------------------------------------------------------------------------------------------


def test_every_case_has_its_warm_up_and_its_rounds_and_right_answers(record: RunRecord) -> None:
    runs = sorted(
        (sample.strategy, sample.is_twin, sample.round, sample.correct, sample.error) for sample in record.samples
    )
    assert runs == [
        (strategy, is_twin, number, True, None)
        for strategy, is_twin in (("partitioned", False), ("partitioned", True), ("staged_merge", False))
        for number in (0, 1)
    ]


def test_the_directory_is_whole_and_the_journal_gone(record: RunRecord) -> None:
    assert sorted(path.name for path in record.directory.iterdir()) == [
        "manifest.json",
        "recommended.toml",
        "report.json",
        "samples.parquet",
        "timeline.parquet",
    ]


def test_the_recommended_file_is_of_what_was_measured(record: RunRecord, tmp_path: Path) -> None:
    recommend.write_config(tmp_path / "again.toml", record.manifest, record.report)
    assert (record.directory / "recommended.toml").read_text() == (tmp_path / "again.toml").read_text()
    # One round of 200 rows may speak for the baseline; without it, there is nothing against a recommendation.
    ours = [sample for sample in record.samples if sample.strategy == "partitioned"]
    recommend.write_config(tmp_path / "ours.toml", record.manifest, analysis.report(record.manifest, ours))
    recommended = ParallelConfig.from_toml(tmp_path / "ours.toml")
    assert (recommended.strategy, recommended.concurrency) == ("partitioned", 2)


def test_the_manifest_says_how_it_was_measured(record: RunRecord) -> None:
    manifest = record.manifest
    assert (manifest.status, manifest.seed, manifest.rounds) == ("finished", 0, 1)
    assert manifest.command == "bench --dsn …"
    assert manifest.monitor["cpu_seconds_per_reading"] > 0
    assert manifest.machine["fingerprint"]
    assert manifest.server["version"]
    assert "data_directory" not in manifest.pg_settings
    assert (
        manifest.workloads["csv-4x200-ov50-bigint"]["distinct_keys"] == Workload(rows=200, overlap=0.5).total_distinct
    )
    assert "secret" not in (record.directory / "manifest.json").read_text()


def test_every_run_was_watched(record: RunRecord) -> None:
    indices = sorted(sample.run_index for sample in record.samples)
    assert sorted(set(record.timeline.column("run_index").to_pylist())) == indices
    for sample in record.samples:
        assert sample.wall_seconds is not None
        assert (sample.wal_bytes or 0) > 0
        assert sample.client_cpu_user_seconds is not None
        assert sample.peak_client_pss_bytes is None or sample.peak_client_pss_bytes > 1_000_000


def test_ours_tells_its_phases_and_the_baseline_does_not(record: RunRecord) -> None:
    phases = {case["strategy"]: set(case["phases"]) for case in record.report["cases"]}
    assert phases == {"partitioned": set(records.PHASES), "staged_merge": set()}


def test_the_report_is_json_without_nan(record: RunRecord) -> None:
    text = (record.directory / "report.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == record.report


def test_a_finished_sweep_is_not_overwritten(record: RunRecord, dsn: str) -> None:
    with pytest.raises(UsageError, match="holds a finished sweep"):
        sweep.run(TINY, directory=record.directory, dsn=dsn)


def test_nothing_is_left_on_the_server(record: RunRecord, dsn: str) -> None:
    assert scratch_databases(dsn) == []


# --- what goes wrong ----------------------------------------------------------------------------------------


def test_a_wrong_answer_is_a_failed_run_with_its_reason(tmp_path: Path, database: str, connection: Connection) -> None:
    """The naive way on files that make it wrong: a large first file commits after a small second one.

    The first is large enough for it to be still under way when the second is done, whatever else the machine does.
    """
    (tmp_path / "1.csv").write_text("id,name\n" + "".join(f"{number},first\n" for number in range(300_000)))
    (tmp_path / "2.csv").write_text("id,name\n" + "".join(f"{number},second\n" for number in range(10)))
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE mine (id bigint PRIMARY KEY, name text); INSERT INTO mine VALUES (-1, 'kept')")
    config = replace(
        TINY,
        strategies=("naive_parallel", "staged_merge"),
        twin=None,
        own_files=(str(tmp_path / "*.csv"),),
        own_table="mine",
    )
    record = sweep.run(config, directory=tmp_path / "run", dsn=database)
    metrics = {case["strategy"]: case for case in record.report["cases"]}
    assert metrics["staged_merge"]["failures"] == 0
    assert metrics["naive_parallel"]["wall_seconds"] is None
    assert metrics["naive_parallel"]["errors"] == [
        "wrong answer: 300000 rows as after the sequential load, but not with the same values"
    ]
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM mine")
        assert cursor.fetchall() == [(-1, "kept")]


def test_a_strategy_that_declines_is_asked_once(tmp_path: Path, dsn: str) -> None:
    config = replace(TINY, strategies=("full_parallel",), twin=None, rounds=2)
    record = sweep.run(config, directory=tmp_path / "run", dsn=dsn)
    assert [(sample.round, sample.correct) for sample in record.samples] == [(0, False)]
    assert str(record.samples[0].error).startswith("UnsafeStrategyError: full_parallel is not safe here")
    assert "/" not in str(record.samples[0].error)


def test_an_interrupted_sweep_continues_and_measures_nothing_twice(tmp_path: Path, dsn: str) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep.run(TINY, directory=tmp_path / "run", dsn=dsn, on_progress=interrupt)
    stopped = records.load(tmp_path / "run")
    assert (stopped.manifest.status, len(stopped.samples)) == ("interrupted", 2)
    with pytest.raises(UsageError, match="holds another sweep"):
        sweep.run(replace(TINY, seed=1), directory=tmp_path / "run", dsn=dsn)

    continued: list[int] = []
    finished = sweep.run(
        TINY, directory=tmp_path / "run", dsn=dsn, on_progress=lambda done: continued.append(done.sample.run_index)
    )
    assert finished.manifest.status == "finished"
    assert finished.manifest.run_id == stopped.manifest.run_id
    assert sorted(sample.run_index for sample in finished.samples) == list(range(6))
    assert list(finished.samples[:2]) == list(stopped.samples)
    assert set(continued).isdisjoint(sample.run_index for sample in stopped.samples)
    assert scratch_databases(dsn) == []


def test_a_sweep_begun_on_another_machine_is_not_continued(tmp_path: Path) -> None:
    begun = run_directory.begin(tmp_path, TINY, ["bench"])
    assert run_directory.begin(tmp_path, TINY, ["bench"]).run_id == begun.run_id
    write_manifest(tmp_path, replace(begun, machine={**begun.machine, "fingerprint": "another"}))
    with pytest.raises(UsageError, match="another machine"):
        run_directory.begin(tmp_path, TINY, ["bench"])


def test_the_time_limit_ends_a_sweep_early_and_says_so(tmp_path: Path, dsn: str) -> None:
    config = replace(TINY, strategies=("staged_merge",), twin=None, rounds=9, time_limit_seconds=0.0)
    record = sweep.run(config, directory=tmp_path / "run", dsn=dsn)
    assert (record.manifest.status, len(record.samples)) == ("finished", 4)
    assert record.manifest.reason == "time limit of 0 s reached in round 4 of 9"


def test_a_sweep_by_settings_leaves_settings_out_where_time_is_short_and_never_runs(tmp_path: Path, dsn: str) -> None:
    config = replace(
        TINY, strategies=("staged_merge",), twin=None, rounds=3, warm_up=False, order="settings", overlaps=(0.5, 0.0),
        time_limit_seconds=0.0,
    )  # fmt: skip
    record = sweep.run(config, directory=tmp_path / "run", dsn=dsn)
    assert [(sample.overlap, sample.round) for sample in record.samples] == [(0.5, 1), (0.5, 2), (0.5, 3)]
    assert record.manifest.reason == "out of time after 1 of 2 settings (limit 0 s)"


def test_a_foreign_directory_is_not_written_to(tmp_path: Path, dsn: str) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty and not a run directory"):
        sweep.run(TINY, directory=tmp_path, dsn=dsn)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_role_that_may_not_create_databases_is_refused_with_the_reason(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE ROLE etl_bench_guest LOGIN PASSWORD 'guest'")
    try:
        guest = psycopg2.extensions.make_dsn(database, user="etl_bench_guest", password="guest")
        with pytest.raises(UsageError, match="may not create any"):
            sweep.run(TINY, directory=tmp_path / "run", dsn=guest)
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP ROLE etl_bench_guest")


# --- cases and states ---------------------------------------------------------------------------------------


def test_the_full_sweep_covers_every_strategy_of_ours_and_measures_the_noise() -> None:
    ours = {name for name, contender in contenders.CONTENDERS.items() if contender.kind == "ours"}
    planned, _ = cases.planned_cases(SweepConfig())
    assert [(case.strategy, case.executor) for case in planned if case.executor] == [
        ("partitioned", "processes:2"),
        ("partitioned", "dask:2"),
    ]
    assert ours <= {case.strategy for case in planned}
    assert sum(case.is_twin for case in planned) == 1
    assert len({case.name for case in planned}) == len(planned)
    twin = next(case for case in planned if case.is_twin)
    assert replace(twin, is_twin=False) in planned


def test_the_quick_sweep_measures_the_product_and_not_its_fixed_cost() -> None:
    """A million rows a load, three runs of each case, and a plain way beside `auto` in every setting."""
    planned, _ = cases.planned_cases(SweepConfig.quick())
    settings = {
        case.setting: {other.strategy for other in planned if other.setting == case.setting} for case in planned
    }
    assert {case.rows for case in planned} == {1_000_000}
    assert len(settings) >= 3
    assert [setting for setting, names in settings.items() if not {"auto", "staged_merge"} <= names] == []
    assert SweepConfig.quick().rounds >= FEWEST_RUNS_FOR_AN_INTERVAL


def test_a_setting_is_finished_before_the_next_where_time_is_short() -> None:
    planned, _ = cases.planned_cases(SweepConfig.quick())
    order = [case.setting for _, _, case in cases.schedule(planned, SweepConfig.quick())]
    assert order == sorted(order, key=list(dict.fromkeys(order)).index)
    assert len(order) == 3 * len(planned)


def test_rounds_hold_every_case_once_in_an_order_that_the_seed_gives() -> None:
    planned, _ = cases.planned_cases(SweepConfig.quick())
    config = replace(SweepConfig.quick(), rounds=2, order="rounds", warm_up=True)
    order = [(number, case.name) for _, number, case in cases.schedule(planned, config)]
    names = [case.name for case in planned]
    for number in range(3):
        assert sorted(name for turn, name in order if turn == number) == sorted(names)
    assert [name for turn, name in order if turn == 1] != [name for turn, name in order if turn == 2]
    assert order == [(number, case.name) for _, number, case in cases.schedule(planned, config)]
    assert [index for index, _, _ in cases.schedule(planned, config)] == list(range(3 * len(planned)))


def test_a_contender_that_is_not_installed_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Contender("absent", "peer", lambda *_: None, modules=("absent_module",))
    monkeypatch.setattr(contenders, "CONTENDERS", {**contenders.CONTENDERS, "absent": absent})
    planned, skipped = cases.planned_cases(replace(TINY, strategies=("absent", "staged_merge"), twin=None))
    assert [case.strategy for case in planned] == ["staged_merge"]
    assert skipped == {"absent": "absent_module is not installed; pip install absent_module"}


@pytest.fixture
def databases(dsn: str) -> Iterator[ScratchDatabases]:
    made = ScratchDatabases(dsn, "etl_bench_states_")
    yield made
    made.close()


@pytest.mark.parametrize(
    ("state", "present", "unchanged"),
    [
        ("empty", 0, 0),
        ("half", 500, 0),
        ("tenth", 1_000, pytest.approx(900, rel=0.1)),
        ("rewritten", 1_000, 0),
        ("unchanged", 1_000, 1_000),
    ],
)
def test_a_table_state_is_what_it_says(
    tmp_path: Path, databases: ScratchDatabases, state: records.TableState, present: int, unchanged: int
) -> None:
    made = generate(tmp_path, Workload(files=2, rows=500))
    start = databases.prepare(table_sql(made.workload, "target"), [str(path) for path in made.files], state)
    with psycopg2.connect(databases.reset(start)) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE loaded (LIKE target)")
        for path in made.files:
            with path.open() as file:
                cursor.copy_expert("COPY loaded FROM STDIN (FORMAT csv, HEADER)", file)
        cursor.execute("SELECT count(*) FROM target")
        assert cursor.fetchone() == (pytest.approx(present, rel=0.15),)
        cursor.execute("SELECT count(*) FROM target JOIN loaded USING (id) WHERE target *= loaded")
        assert cursor.fetchone() == (unchanged,)
    connection.close()
    assert start.expected.rows == 1_000


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_loads_as_file_by_file_into_a_table_of_which_a_tenth_changes(
    tmp_path: Path, databases: ScratchDatabases, shape: str
) -> None:
    made = generate(tmp_path, Workload(files=2, rows=60, overlap=0.5, shape=shape))
    files = [str(path) for path in made.files]
    start = databases.prepare(table_sql(made.workload, "target"), files, "tenth")
    place = databases.reset(start)
    assert start.expected.rows == made.distinct_keys
    contenders.find("auto").load(files, place, "target", 2)
    with closing(psycopg2.connect(place)) as connection:
        assert table_answer(connection, "target", start.columns) == start.expected


def test_a_run_begins_with_a_copy_that_the_run_before_has_not_touched(
    tmp_path: Path, databases: ScratchDatabases
) -> None:
    made = generate(tmp_path, Workload(files=1, rows=50))
    start = databases.prepare(table_sql(made.workload, "target"), [str(path) for path in made.files], "unchanged")
    for _ in range(2):
        connection = psycopg2.connect(databases.reset(start))
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM target")
            assert cursor.fetchone() == (50,)
            cursor.execute("TRUNCATE target")
        connection.close()


# --- the user's own files -----------------------------------------------------------------------------------


def test_own_files_without_a_table_get_one_inferred(tmp_path: Path, dsn: str) -> None:
    generate(tmp_path / "data", Workload(files=2, rows=200, overlap=0.5))
    config = replace(TINY, twin=None, own_files=(str(tmp_path / "data" / "*.csv"),), own_key=("id",))
    record = sweep.run(config, directory=tmp_path / "run", dsn=dsn)
    assert {sample.correct for sample in record.samples} == {True}
    assert {(sample.rows, sample.overlap, sample.key) for sample in record.samples} == {(400, 0.333, "own")}
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["part1.csv", "part2.csv"]
    assert scratch_databases(dsn) == []


def test_the_definition_of_the_users_table_comes_along(tmp_path: Path, database: str, connection: Connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            """CREATE TABLE "my table" (id bigint PRIMARY KEY, code varchar(4) COLLATE "C" NOT NULL UNIQUE,
            n int DEFAULT 7 CHECK (n > 0), twice int GENERATED ALWAYS AS (n * 2) STORED, serial serial);
            CREATE INDEX ON "my table" (lower(code)) WHERE n > 3"""
        )
        sql, key = sweep.workloads.table_definition.of_table(connection, '"my table"', "copy")
        cursor.execute(sql)
        cursor.execute("INSERT INTO copy (id, code) VALUES (1, 'abcd') RETURNING n, twice, serial")
        assert cursor.fetchone() == (7, 14, 1)
        cursor.execute("SELECT count(*) FROM pg_index WHERE indrelid = 'copy'::regclass")
        assert cursor.fetchone() == (3,)
        with pytest.raises(psycopg2.errors.CheckViolation):
            cursor.execute("INSERT INTO copy (id, code, n) VALUES (2, 'x', 0)")
    assert key == ("id",)


def test_own_files_need_a_table_or_a_key(tmp_path: Path, dsn: str) -> None:
    made = generate(tmp_path / "data", Workload(files=1, rows=10))
    with pytest.raises(UsageError, match="name the table"):
        sweep.run(replace(TINY, own_files=(str(made.files[0]),)), directory=tmp_path / "run", dsn=dsn)


# --- configuration ------------------------------------------------------------------------------------------


def test_a_configuration_file_starts_from_a_preset(tmp_path: Path) -> None:
    path = tmp_path / "bench.toml"
    path.write_text('[bench]\npreset = "quick"\nrows = [123]\nrounds = 7\n')
    assert SweepConfig.from_toml(path) == replace(SweepConfig.quick(), rows=(123,), rounds=7)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("[bench]\nrowz = [1]", ConfigError, "unknown setting rowz; known are"),
        ('[bench]\npreset = "slow"', ConfigError, "unknown preset 'slow'"),
        ('[bench]\nstrategies = ["paralel"]', UsageError, "unknown contender 'paralel'"),
        ('[bench]\ntable_states = ["full"]', UsageError, "unknown table state full"),
        ("[bench]\nrounds = 0", UsageError, "rounds is 0"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    tmp_path: Path, text: str, error: type[Exception], words: str
) -> None:
    path = tmp_path / "bench.toml"
    path.write_text(text)
    with pytest.raises(error, match=words):
        SweepConfig.from_toml(path)


def test_a_configuration_survives_the_manifest() -> None:
    for config in map(SweepConfig.preset, PRESETS):
        assert SweepConfig.from_mapping(json.loads(json.dumps(config.as_dict()))) == config


def test_a_load_uses_what_was_recommended(tmp_path: Path, database: str) -> None:
    """Strategy, workers, rows per batch and costs, from the file that a sweep writes to what a load does and predicts."""
    rule = {"when": {"overlap": [0, 0], "rows": [40, 40], "table_state": "empty"}, "evidence": [], "because": "",
            "then": {"strategy": "partitioned", "workers": 3, "batch_rows": 10}}  # fmt: skip
    cost = {"coefficients": {"load_milliseconds": 9_000.0}, "error_before": 0.5, "error_after": 0.1, "runs": 20}
    report = {"recommendations": [rule], "cost": cost}
    recommend.write_config(tmp_path / "recommended.toml", made.manifest([]), report)
    written = generate(tmp_path / "files", Workload(files=1, rows=40))
    words = [*map(str, written.files), "--table", "t", "--key", "id", "--create-table", "--dsn", database, "--json"]
    done = CliRunner().invoke(app, ["ingest", *words, "--config", str(tmp_path / "recommended.toml")])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["strategy"], result["counts"]["inserted"]) == ("partitioned", 40)
    assert 9.0 < result["predicted_seconds"]["partitioned"] < 9.1
    config = ParallelConfig.from_toml(tmp_path / "recommended.toml")
    assert (config.concurrency, config.chunk_size) == (3, 10)


# --- peers --------------------------------------------------------------------------------------------------


def test_peers_prints_its_table(tmp_path: Path, dsn: str) -> None:
    words = ["rows=100", "files=2", "rounds=1", "strategies=auto", "curve_readings=0"]
    settings = [word for each in words for word in ("--set", each)]
    done = CliRunner().invoke(app, ["bench", str(tmp_path / "run"), "--preset", "peers", "--dsn", dsn, *settings])
    assert done.exit_code == 0, done.output
    assert re.search(r"^  auto  .*\d\.\d\d ± ", done.stdout, re.MULTILINE)
    assert "Rows that `auto` wrote if nothing changed: 0." in done.stdout


@pytest.mark.peers
@pytest.mark.parametrize("name", ["dlt", "duckdb_postgres", "pandas"])
def test_a_peer_gives_the_sequential_result(name: str, tmp_path: Path, dsn: str) -> None:
    if reason := contenders.find(name).absence():
        pytest.skip(reason)
    config = replace(TINY, strategies=(name,), twin=None, rows=(50,), overlaps=(0.0,))
    record = sweep.run(config, directory=tmp_path / "run", dsn=dsn)
    assert {sample.error for sample in record.samples} == {None}
