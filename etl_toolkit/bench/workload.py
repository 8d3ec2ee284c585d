"""Seeded files to load: the same seed gives the same bytes, and every number about them is known, not measured.

File `f` holds the key ranks `[f * step, f * step + distinct)`: with `overlap` 0 the ranges touch, with 0.5 each file
shares half its keys with the one before, with 1 all files hold the same keys. An odd factor scatters the ranks over
2^32 keys, one to one; each file is shuffled in its own order, or else concurrent loaders would move in step and hide
their races. DuckDB writes the files, in bounded memory.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import duckdb

from etl_toolkit.bench.generated_rows import LARGEST_RANK, MACROS, FileRows, base_columns, rows_sql
from etl_toolkit.bench.shapes import SHAPES, Shape, Writing
from etl_toolkit.errors import UsageError

Format = Literal["csv", "parquet", "mixed"]
KeyKind = Literal["bigint", "text_timestamp"]

FORMATS = ("csv", "parquet", "mixed")
KEY_KINDS = ("bigint", "text_timestamp")

_VALUES = {"name": "text", "value": "double precision", "amount": "numeric(12,2)"}
_MARKS = {"active": "boolean", "category": "text"}
COLUMNS = {
    "bigint": {"id": "bigint", **_VALUES, "created_at": "timestamptz", **_MARKS},
    "text_timestamp": {"device": "text", "measured_at": "timestamptz", **_VALUES, **_MARKS},
}
ENDINGS = {"gz": ".csv.gz", "parquet": ".parquet"}
OPTIONS = {
    "quoted": "FORMAT csv, HEADER, FORCE_QUOTE *",
    "gz": "FORMAT csv, HEADER, COMPRESSION gzip",
    "parquet": "FORMAT parquet, COMPRESSION zstd",
}
KEYS = {"bigint": ("id",), "text_timestamp": ("device", "measured_at")}


@dataclass(frozen=True)
class Workload:
    """What to generate.

    `rows` counts the rows of one file; `overlap` is the share of keys that a file has in common with the one before;
    `duplicates_within` the share of its rows that are one too many for their key. Shares run from 0 to 1. `shape` is one of
    `SHAPES`: what else differs, in files and table; it implies a bigint key unless it says otherwise.
    """

    files: int = 4
    rows: int = 500_000
    overlap: float = 0.0
    format: Format = "csv"
    key: KeyKind = "bigint"
    seed: int = 0
    duplicates_within: float = 0.0
    shape: str = "base"

    def __post_init__(self) -> None:
        for name in ("overlap", "duplicates_within"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be a fraction from 0 to 1 (50% is 0.5)")
        if self.format not in FORMATS or self.key not in KEY_KINDS:
            raise UsageError(f"format {self.format!r} and key {self.key!r}: choose from {FORMATS} and {KEY_KINDS}")
        if self.shape not in SHAPES or (self.shape != "base" and self.key != "bigint"):
            raise UsageError(
                f"shape {self.shape!r} with key {self.key!r}: choose from {', '.join(SHAPES)}, with key bigint"
            )
        if self.files < 1 or self.rows < 1:
            raise UsageError(f"{self.files} files of {self.rows} rows: both must be at least 1")
        if self.total_distinct > LARGEST_RANK:
            raise UsageError(
                f"{self.total_distinct} distinct keys are more than 2^32; choose fewer rows or more overlap"
            )

    @property
    def distinct(self) -> int:
        """Distinct keys of one file."""
        return max(1, self.rows - round(self.rows * self.duplicates_within))

    @property
    def step(self) -> int:
        """How many keys a file has that the file before it has not."""
        return self.distinct - round(self.distinct * self.overlap)

    @property
    def total_distinct(self) -> int:
        """Distinct keys of all files together."""
        return self.distinct + (self.files - 1) * self.step

    @property
    def shared(self) -> int:
        """Distinct keys that appear in more than one file."""
        if self.files == 1:
            return 0
        between = max(0, 2 * self.step - self.distinct)  # keys of a middle file that neither neighbour has
        return self.total_distinct - 2 * self.step - (self.files - 2) * between

    @property
    def form(self) -> Shape:
        """What its shape changes."""
        return SHAPES[self.shape]

    @property
    def columns(self) -> dict[str, str]:
        """The columns of files and table, each with its SQL type."""
        own = {name: kind for name, (kind, _) in self.form.columns.items()}
        return {**COLUMNS[self.key], **own}

    @property
    def primary_key(self) -> tuple[str, ...]:
        """The key columns."""
        return KEYS[self.key] if self.key != "bigint" else self.form.key

    def expressions(self, *, has_types: bool) -> dict[str, str]:
        """The columns as expressions of DuckDB; a shape leaves one empty where only the type in the table differs."""
        usual = base_columns(has_types=has_types)
        own = {name: expression for name, (_, expression) in self.form.columns.items() if expression}
        return {name: own.get(name) or usual[name] for name in self.columns}


@dataclass(frozen=True)
class GeneratedFiles:
    """The files of one workload, in order, and the exact numbers about them."""

    workload: Workload
    files: tuple[Path, ...]
    rows: int
    distinct_keys: int
    shared_keys: int
    size_bytes: int

    def summary(self) -> dict[str, object]:
        """Return the numbers for a manifest, without directories: they differ from machine to machine."""
        names = [path.name for path in self.files]
        return asdict(self.workload) | {
            "file_names": names, "total_rows": self.rows, "distinct_keys": self.distinct_keys,
            "shared_keys": self.shared_keys, "size_bytes": self.size_bytes,
        }  # fmt: skip


def table_sql(workload: Workload, table: str) -> str:
    """Return CREATE TABLE for the files of `workload`; `table` is SQL, quoted where it needs to be."""
    return replace(workload.form, key=workload.primary_key).table_sql(table, workload.columns)


def generate(out: Path | str, workload: Workload) -> GeneratedFiles:
    """Write the files of `workload` into the directory `out` and return them in load order.

    Each file appears under its name only when it is whole. Sorting spills into `out` above 512 MB.
    """
    place = Path(out)
    place.mkdir(parents=True, exist_ok=True)
    paths = []
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": "512MB",
        "temp_directory": str(place / ".spill"),
        "threads": 2,
    }
    with duckdb.connect(config=settings) as connection:
        connection.execute("SET enable_progress_bar = false")
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(MACROS)
        for number, writing in enumerate(_writings(workload)):
            path = place / f"part{number + 1:0{len(str(workload.files))}}{ENDINGS.get(writing, '.csv')}"
            half_done = path.with_name(f".{path.name}.partial")
            target = str(half_done).replace("'", "''")
            rows = rows_sql(_rows_of(workload, number), workload.expressions(has_types=writing == "parquet"))
            connection.execute(f"COPY ({rows}) TO '{target}' ({OPTIONS.get(writing, 'FORMAT csv, HEADER')})")
            if writing == "crlf":
                half_done.write_bytes(half_done.read_bytes().replace(b"\n", b"\r\n"))
            half_done.replace(path)
            paths.append(path)
    size_bytes = sum(path.stat().st_size for path in paths)
    total = workload.files * workload.rows
    return GeneratedFiles(workload, tuple(paths), total, workload.total_distinct, workload.shared, size_bytes)


def _writings(workload: Workload) -> Iterator[Writing]:
    for number in range(workload.files):
        parquet = workload.format == "parquet" or (workload.format == "mixed" and number % 2 == 1)
        yield "parquet" if parquet else workload.form.writing


def _rows_of(workload: Workload, number: int) -> FileRows:
    chance = random.Random(f"{workload.seed}/{number}")  # noqa: S311 - reproducible on purpose
    shuffle, values, repeats = (chance.getrandbits(32) for _ in range(3))
    start = number * workload.step + workload.seed * 97_003
    return FileRows(workload.rows, workload.distinct, start, shuffle, values, repeats)
