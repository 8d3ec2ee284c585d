"""A load whose outcome is held against a table that the sequential oracle has filled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection

from etl_toolkit import ParallelConfig, ingest
from etl_toolkit.model import LoadResult
from tests.oracle import Format, Rows, differing_rows, write

CONFIG = ParallelConfig(concurrency=2)


def load_as_expected(
    database: str, connection: Connection, directory: Path, contents: Sequence[Rows], *,
    key: str | Sequence[str] = "id", form: Format = "csv", **options: Any,
) -> LoadResult:  # fmt: skip
    """Load the files into `loaded`, `partitioned` by two workers unless told otherwise; it must then be as `expected`."""
    paths = [write(content, directory, f"{number}", form) for number, content in enumerate(contents)]
    result = ingest(paths, "loaded", key, database, **{"strategy": "partitioned", "config": CONFIG, **options})
    assert differing_rows(connection, "loaded", "expected") == []
    return result
