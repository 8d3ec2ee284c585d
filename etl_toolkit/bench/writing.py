"""Writing the files of a run directory: under a temporary name, then renamed, so that no reader sees half of one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from etl_toolkit.bench.records import SAMPLE_SCHEMA, Manifest, Sample


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write `manifest.json`."""
    write_json(directory / "manifest.json", asdict(manifest))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON; NaN and infinity, which JSON does not have, are an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half_done = path.with_name(path.name + ".partial")
    half_done.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    half_done.replace(path)


def write_samples(directory: Path, samples: Iterable[Sample]) -> None:
    """Write `samples.parquet`."""
    write_table(directory / "samples.parquet", pa.Table.from_pylist([asdict(s) for s in samples], SAMPLE_SCHEMA))


def write_table(path: Path, table: pa.Table) -> None:
    """Write an Arrow table as Parquet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half_done = path.with_name(path.name + ".partial")
    pq.write_table(table, half_done, compression="zstd")
    half_done.replace(path)
