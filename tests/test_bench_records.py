"""A run directory reads back as it was written, and says so when it cannot be read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from etl_toolkit.bench import journal, records, writing
from etl_toolkit.bench.machine import without_secrets
from etl_toolkit.bench.records import SAMPLE_SCHEMA, TIMELINE_SCHEMA
from etl_toolkit.errors import UsageError
from tests import bench_records as made

CASE = made.case("partitioned")


def test_a_record_reads_back_as_it_was_written(tmp_path: Path) -> None:
    manifest, samples = made.manifest([CASE]), made.samples({CASE: (1.0, 2.0)})
    writing.write_manifest(tmp_path, manifest)
    writing.write_samples(tmp_path, samples)
    read = records.load(tmp_path)
    assert read.manifest == manifest
    assert list(read.samples) == samples
    assert read.timeline.schema == TIMELINE_SCHEMA


def test_what_was_not_available_is_null_in_the_file(tmp_path: Path) -> None:
    writing.write_samples(tmp_path, made.samples({CASE: (1.0,)}))
    table = pq.read_table(tmp_path / "samples.parquet")
    assert table.schema.equals(SAMPLE_SCHEMA)
    assert table.column("server_cpu_seconds").to_pylist() == [None, None]


def test_a_record_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    writing.write_manifest(tmp_path, replace(made.manifest([CASE]), version=99))
    with pytest.raises(UsageError, match="record of version 99"):
        records.load(tmp_path)


def test_another_directory_is_no_record(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a run directory"):
        records.load(tmp_path)


def test_a_run_that_a_kill_cut_off_is_left_out_of_the_journal(tmp_path: Path) -> None:
    first, second = made.samples({CASE: (1.0,)})
    journal.keep(tmp_path, first, [])
    whole = next(journal.place(tmp_path).iterdir())
    (whole.parent / "000007.json.partial").write_bytes(whole.read_bytes()[:5])
    journal.keep(tmp_path, second, [])
    assert journal.samples(tmp_path) == [first, second]


def test_a_record_shows_itself_escaped(tmp_path: Path) -> None:
    report = {"finding": "<b>1 < 2</b>", "cases": []}
    assert "&lt;b&gt;1 &lt; 2&lt;/b&gt;" in replace(made.record({CASE: (1.0,)}), report=report)._repr_html_()


def test_names_of_cases_are_unique_per_axis() -> None:
    cases = [
        CASE,
        made.case("hybrid"),
        made.case("partitioned", overlap=0.5),
        made.case("partitioned", files=2),
        made.case("partitioned", rows=8_000),
        made.case("partitioned", format="parquet"),
        made.case("partitioned", table_state="half"),
        made.case("partitioned", workers=4),
        made.case("partitioned", key="text_timestamp"),
        made.case("partitioned", batch_rows=10),
        made.case("partitioned", is_twin=True),
    ]
    assert len({case.name for case in cases}) == len(cases)


@pytest.mark.parametrize(
    "words",
    [
        ["etl-toolkit", "bench", "--dsn", "postgresql://u:secret@h/d", "--quick"],
        ["etl-toolkit", "bench", "--dsn=host=h password=secret", "--quick"],
        ["etl-toolkit", "bench", "--dsn", "host=h password=secret", "--quick"],
    ],
)
def test_the_command_in_a_manifest_holds_no_password(words: list[str]) -> None:
    text = without_secrets(words)
    assert "secret" not in text
    assert text.startswith("etl-toolkit bench --dsn")
    assert text.endswith("--quick")
