"""What a sweep has measured so far: a file per run, each whole or not there, so that an interruption loses one run at most."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from etl_toolkit.bench.records import TIMELINE_SCHEMA, Sample
from etl_toolkit.bench.writing import write_json, write_samples, write_table


def place(directory: Path) -> Path:
    """Return where the journal of a run directory is."""
    return directory / "journal"


def keep(directory: Path, sample: Sample, timeline: Sequence[dict[str, Any]]) -> None:
    """Keep a finished run: what is in the journal is not measured again."""
    write_json(place(directory) / f"{sample.run_index:06d}.json", {"sample": asdict(sample), "timeline": timeline})


def samples(directory: Path) -> list[Sample]:
    """Return the runs in the journal, in their order."""
    return [Sample(**run["sample"]) for run in _runs(directory)]


def fold(directory: Path) -> list[Sample]:
    """Write the journal as `samples.parquet` and `timeline.parquet`, and return the runs in it."""
    done = samples(directory)
    readings = [row for run in _runs(directory) for row in run["timeline"]]
    write_samples(directory, done)
    write_table(directory / "timeline.parquet", pa.Table.from_pylist(readings, TIMELINE_SCHEMA))
    return done


def remove(directory: Path) -> None:
    """Remove the journal of a sweep that is finished."""
    shutil.rmtree(place(directory), ignore_errors=True)


def _runs(directory: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(place(directory).glob("*.json")):
        yield json.loads(path.read_text(encoding="utf-8"))
