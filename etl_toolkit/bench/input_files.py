"""What the baselines need to know about a file, and the parts that the sorted-COPY floor loads."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import duckdb

# Key types that DuckDB sorts as the server does (text: under collation C). Others are sorted as text: still a load, not
# the floor any more.
SORTED_ALIKE = {
    "smallint",
    "integer",
    "bigint",
    "date",
    "timestamp with time zone",
    "timestamp without time zone",
    "uuid",
}


def column_names(file: str) -> list[str]:
    """Return the names in the header of a CSV file, or the columns of a Parquet file."""
    if file.endswith(".parquet"):
        with duckdb.connect() as connection:
            rows = connection.execute(f"DESCRIBE FROM {reader(file)}").fetchall()
            return [str(row[0]) for row in rows]
    with as_csv(file) as stream, TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
        return next(csv.reader(text))


@contextmanager
def as_csv(file: str) -> Iterator[IO[Any]]:
    """Open a CSV file, unpacked, as it is, and a Parquet file as the CSV file that DuckDB makes of it."""
    if not file.endswith(".parquet"):
        stream: IO[Any] = gzip.open(file) if file.endswith(".gz") else open(file, "rb")  # type: ignore[assignment]  # noqa: PTH123, SIM115
        with stream:
            yield stream
        return
    with TemporaryDirectory() as place, duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"COPY (FROM {reader(file)}) TO '{place}/file.csv' (FORMAT csv, HEADER)")
        with open(f"{place}/file.csv", "rb") as stream:  # noqa: PTH123
            yield stream


def sorted_parts(files: Sequence[str], key: Mapping[str, str], parts: int) -> list[str]:
    """Resolve duplicate keys, sort by key, split into `parts` CSV files; made once and kept beside the first file.

    `key` maps the key columns to their SQL types.
    """
    place = Path(files[0]).parent / f".sorted-{parts}"
    paths = [place / f"{number}.csv" for number in range(1, parts + 1)]
    if not all(path.exists() for path in paths):
        place.mkdir(exist_ok=True)
        order = ", ".join(
            f'"{name}"::{kind}' if kind in SORTED_ALIKE else f'"{name}"::VARCHAR' for name, kind in key.items()
        )
        union = " UNION ALL BY NAME ".join(f"SELECT {n} AS f, * FROM {reader(f)}" for n, f in enumerate(files))
        last = f"row_number() OVER (PARTITION BY {order} ORDER BY f DESC, a.rowid DESC) = 1"
        with duckdb.connect(config={"temp_directory": str(place)}) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute(f"CREATE TABLE a AS {union}")
            connection.execute(f"CREATE TABLE b AS FROM a QUALIFY {last}")
            connection.execute(f"CREATE TABLE c AS SELECT *, ntile({parts}) OVER (ORDER BY {order}) AS part FROM b")
            for number, path in enumerate(paths, 1):
                rows = f"SELECT * EXCLUDE (f, part) FROM c WHERE part = {number} ORDER BY {order}"
                connection.execute(f"COPY ({rows}) TO '{path}.partial' (FORMAT csv, HEADER)")
                Path(f"{path}.partial").replace(path)
    return [str(path) for path in paths]


def reader(file: str) -> str:
    """Return the DuckDB table function that reads `file`, every column of a CSV file as text."""
    quoted = file.replace("'", "''")
    if file.endswith(".parquet"):
        return f"read_parquet('{quoted}')"
    return f"read_csv('{quoted}', header = true, all_varchar = true)"
