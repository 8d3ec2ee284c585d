"""Where the settings of a load come from, which of them wins, and what a mistake in them says."""

from __future__ import annotations

import tomllib
from dataclasses import fields, replace
from pathlib import Path

import pytest

from etl_toolkit import ParallelConfig
from etl_toolkit.config import TEMPLATES, describe, resolve_config, template
from etl_toolkit.errors import ConfigError

NAMES = [item.name for item in fields(ParallelConfig)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "etl.toml"
    path.write_text('[load]\npreset = "production"\nchunk_size = 7\nretry_attempts = 7\nlock_wait_seconds = 7\n')
    return path


class TestPrecedence:
    def test_flags_before_environment_before_file_before_preset_before_default(self, file: Path) -> None:
        environ = {"ETL_CHUNK_SIZE": "8", "ETL_RETRY_ATTEMPTS": "8"}
        config, origins = resolve_config(file, environ, {"chunk_size": 9})
        assert config == replace(ParallelConfig.production(), chunk_size=9, retry_attempts=8, lock_wait_seconds=7)
        assert {name: origins[name] for name in NAMES if origins[name] != "default"} == {
            "chunk_size": "flag --chunk-size",
            "retry_attempts": "environment ETL_RETRY_ATTEMPTS",
            "lock_wait_seconds": str(file),
            "concurrency": "preset production",
            "performance_monitoring": "preset production",
        }

    def test_nothing_given_is_the_default(self) -> None:
        config, origins = resolve_config(None, {}, {})
        assert (config, set(origins.values()), list(origins)) == (ParallelConfig(), {"default"}, NAMES)

    def test_a_flag_that_was_not_given_and_an_empty_variable_count_as_unset(self, file: Path) -> None:
        config, _ = resolve_config(file, {"ETL_CHUNK_SIZE": ""}, {"chunk_size": None})
        assert config.chunk_size == 7

    @pytest.mark.parametrize(
        ("environ", "flags", "workers"),
        [
            ({}, {}, 8),
            ({"ETL_PRESET": "development"}, {}, 2),
            ({"ETL_PRESET": "development"}, {"preset": "production"}, 8),
        ],
    )
    def test_the_preset_itself_is_named_by_the_first_that_names_one(
        self, file: Path, environ: dict[str, str], flags: dict[str, str], workers: int
    ) -> None:
        assert resolve_config(file, environ, flags)[0].workers == workers

    def test_a_value_of_a_lower_place_outlives_a_preset_named_higher_up(self, file: Path) -> None:
        assert resolve_config(file, {}, {"preset": "development"})[0].chunk_size == 7

    def test_the_file_may_be_named_by_the_environment(self, file: Path) -> None:
        assert resolve_config(None, {"ETL_CONFIG": str(file)}, {})[0].chunk_size == 7

    def test_variables_of_others_are_left_alone(self) -> None:
        environ = {"ETL_DSN": "postgresql://", "ETL_PG_BIN": "/usr/bin", "ETL_JOB_NAME": "x", "PATH": "/"}
        assert resolve_config(None, environ, {})[0] == ParallelConfig()


class TestShow:
    def test_tells_every_value_as_a_file_spells_it_and_where_it_comes_from(self, file: Path) -> None:
        rows = describe(*resolve_config(file, {"ETL_TEMP_DIRECTORY": '/a "b"'}, {}))
        assert [name for name, _, _ in rows] == NAMES
        text = "[load]\n" + "".join(f"{name} = {value}\n" for name, value, _ in rows if value != "not set")
        assert (
            ParallelConfig.from_mapping(tomllib.loads(text)["load"])
            == resolve_config(file, {"ETL_TEMP_DIRECTORY": '/a "b"'}, {})[0]
        )
        assert ("chunk_size", "7", str(file)) in rows


class TestValues:
    @pytest.mark.parametrize(
        ("text", "value"), [("yes", True), ("TRUE", True), ("1", True), ("off", False), ("0", False)]
    )
    def test_booleans_of_the_environment(self, text: str, value: bool) -> None:
        assert resolve_config(None, {"ETL_CONFLICT_DETECTION": text}, {})[0].conflict_detection is value

    @pytest.mark.parametrize(
        ("text", "value"), [("4096", 4096), ("512MB", 512 << 20), ("2 gb", 2 << 30), ("64kB", 64 << 10)]
    )
    def test_bytes_take_the_units_of_postgresql(self, text: str, value: int) -> None:
        assert resolve_config(None, {"ETL_MEMORY_LIMIT_BYTES": text}, {})[0].memory_limit_bytes == value

    @pytest.mark.parametrize(
        ("environ", "message"),
        [
            (
                {"ETL_CONCURRENCY": "many"},
                "environment ETL_CONCURRENCY: concurrency must be a whole number, not 'many'",
            ),
            ({"ETL_CONCURRENCY": "1.5"}, "environment ETL_CONCURRENCY: concurrency must be a whole number, not '1.5'"),
            ({"ETL_CONCURRENCY": "-1"}, "environment ETL_CONCURRENCY: concurrency must be 0 or more, not -1"),
            ({"ETL_CHUNK_SIZE": "0"}, "environment ETL_CHUNK_SIZE: chunk_size must be at least 1, not 0"),
            ({"ETL_SLA_SECONDS": "nan"}, "environment ETL_SLA_SECONDS: sla_seconds must be 0 or more, not nan"),
            ({"ETL_SLA_SECONDS": "inf"}, "environment ETL_SLA_SECONDS: sla_seconds must be 0 or more, not inf"),
            ({"ETL_CONFLICT_DETECTION": "maybe"}, "conflict_detection must be true or false, not 'maybe'"),
            (
                {"ETL_MEMORY_LIMIT_BYTES": "2 parsecs"},
                "memory_limit_bytes must be a number of bytes, or one with kB, MB",
            ),
            ({"ETL_MEMORY_ALERT_RATIO": "80"}, "memory_alert_ratio must be above 0 and at most 1, not 80.0"),
            ({"ETL_PRESET": "prod"}, "environment ETL_PRESET: unknown preset 'prod'; choose production or development"),
            ({"ETL_CONCURENCY": "3"}, "environment ETL_CONCURENCY: no such setting; did you mean ETL_CONCURRENCY?"),
        ],
    )
    def test_a_mistake_names_place_setting_and_what_would_do(self, environ: dict[str, str], message: str) -> None:
        with pytest.raises(ConfigError) as error:
            resolve_config(None, environ, {})
        assert message in str(error.value)

    def test_true_is_no_number(self) -> None:
        with pytest.raises(ConfigError, match="concurrency must be a whole number, not True"):
            ParallelConfig(concurrency=True)


class TestFile:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "has no table [load] with the settings of a load; it is empty"),
            ("[laod]\nconcurrency = 2\n", "has no table [load] with the settings of a load; it has [laod]"),
            ("[load]\nconcurency = 2\n", "unknown setting concurency; known are preset, concurrency,"),
            ("[load]\nconcurrency = '2'\n", "concurrency must be a whole number, not '2'"),
            ("[load]\nconcurrency = \n", "not valid TOML"),
            ("[load.cost]\nread_seconds = 1\n", "cost has no read_seconds; known are read_microseconds,"),
            ("[load.cost]\nread_microseconds = -1\n", "cost: read_microseconds must be a number, 0 or more, not -1"),
        ],
    )
    def test_a_mistake_names_the_file(self, tmp_path: Path, text: str, message: str) -> None:
        path = tmp_path / "bad.toml"
        path.write_text(text)
        for read in (ParallelConfig.from_toml, lambda path: resolve_config(path, {}, {})):
            with pytest.raises(ConfigError) as error:
                read(path)
            assert str(error.value).startswith(f"{path}: ")
            assert message in str(error.value)

    def test_one_that_is_not_there_is_said_so(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be read: No such file or directory"):
            resolve_config(tmp_path / "absent.toml", {}, {})


class TestTemplates:
    @pytest.mark.parametrize("name", TEMPLATES)
    def test_sets_or_shows_every_setting(self, name: str) -> None:
        lines = template(name).splitlines()
        shown = {line.lstrip("# ").split(" = ")[0] for line in lines if " = " in line}
        assert shown == {*NAMES, "preset"}

    def test_production_is_the_preset_with_patience(self, tmp_path: Path) -> None:
        path = tmp_path / "production.toml"
        path.write_text(template("production"))
        expected = replace(ParallelConfig.production(), lock_wait_seconds=900, idle_in_transaction_timeout_seconds=600)
        assert ParallelConfig.from_toml(path) == expected

    def test_development_is_the_preset_with_less_patience(self, tmp_path: Path) -> None:
        path = tmp_path / "development.toml"
        path.write_text(template("development"))
        expected = replace(
            ParallelConfig.development(), retry_attempts=2, retry_budget_seconds=5, lock_timeout_seconds=10,
            connect_timeout_seconds=3,
        )  # fmt: skip
        assert ParallelConfig.from_toml(path) == expected

    def test_an_unknown_one_names_those_there_are(self) -> None:
        with pytest.raises(ConfigError, match="unknown template 'staging'; choose production or development"):
            template("staging")
