"""What a sweep has measured so far, kept so that an interruption at any point loses one run at most.

A run is in the journal with its timeline or it is not: the timeline is written first, the line in `samples.jsonl` last.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from etl_toolkit.bench.records import TIMELINE_SCHEMA, Sample
from etl_toolkit.bench.writing import write_samples, write_table


def timeline_path(directory: Path, run_index: int) -> Path:
    """Return where the timeline of one run goes while the sweep runs."""
    place = directory / "journal"
    place.mkdir(parents=True, exist_ok=True)
    return place / f"timeline-{run_index:06d}.parquet"


def append(directory: Path, sample: Sample) -> None:
    """Append a finished run and force it to disk: what is in the journal is not measured again."""
    place = directory / "journal"
    place.mkdir(parents=True, exist_ok=True)
    path = place / "samples.jsonl"
    cut_off = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" * cut_off + json.dumps(asdict(sample), allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def samples(directory: Path) -> list[Sample]:
    """Return the runs in the journal; a line that a kill has cut off is left out."""
    path = directory / "journal" / "samples.jsonl"
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(Sample(**json.loads(line)))
        except json.JSONDecodeError:
            continue
    return found


def fold(directory: Path) -> list[Sample]:
    """Write the journal as `samples.parquet` and `timeline.parquet`, and return the runs in it."""
    done = samples(directory)
    parts = [TIMELINE_SCHEMA.empty_table()]
    for index in sorted({sample.run_index for sample in done}):
        path = timeline_path(directory, index)
        if path.exists():
            parts.append(pq.read_table(path, schema=TIMELINE_SCHEMA))
    write_samples(directory, done)
    write_table(directory / "timeline.parquet", pa.concat_tables(parts))
    return done


def remove(directory: Path) -> None:
    """Remove the journal of a sweep that is finished."""
    shutil.rmtree(directory / "journal", ignore_errors=True)
