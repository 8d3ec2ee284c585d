"""A limit of memory that is too small for a load is told with the remedy, wherever in the load DuckDB meets it."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit import ParallelConfig, ingest
from etl_toolkit.bench.workload import GeneratedFiles, Workload, generate, table_sql
from etl_toolkit.errors import SourceError
from etl_toolkit.sources.relation import read_failure

WORKLOAD = Workload(files=2, rows=100_000, overlap=0.5)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> GeneratedFiles:
    return generate(tmp_path_factory.mktemp("memory"), WORKLOAD)


@pytest.mark.parametrize("megabytes", [8, 12])
def test_a_limit_that_is_too_small_is_reported(
    database: str, connection: Connection, tmp_path: Path, generated: GeneratedFiles, megabytes: int
) -> None:
    with connection.cursor() as cursor:
        cursor.execute(table_sql(WORKLOAD, "loaded"))
    config = ParallelConfig(concurrency=2, memory_limit_bytes=megabytes << 20, temp_directory=str(tmp_path))

    with pytest.raises(SourceError, match="DuckDB needs more memory than it may use; raise memory_limit_bytes"):
        ingest([str(path) for path in generated.files], "loaded", "id", database, config=config)

    assert list(tmp_path.iterdir()) == []
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM loaded")
        assert cursor.fetchone() == (0,)


def test_what_does_not_fit_into_memory_beside_duckdb_is_spilled(
    database: str, connection: Connection, tmp_path: Path, generated: GeneratedFiles
) -> None:
    with connection.cursor() as cursor:
        cursor.execute(table_sql(WORKLOAD, "loaded"))
    config = ParallelConfig(concurrency=2, memory_limit_bytes=24 << 20, temp_directory=str(tmp_path))

    result = ingest([str(path) for path in generated.files], "loaded", "id", database, config=config)

    assert (result.strategy, result.counts.inserted) == ("partitioned", 150_000)


@pytest.mark.parametrize("kind", [duckdb.OutOfMemoryException, duckdb.IOException, OSError])
def test_a_shortage_of_memory_is_recognised_whatever_error_it_arrives_in(kind: type[Exception]) -> None:
    error = kind("Out of Memory Error: failed to allocate data of size 128.0 KiB (12.1 MiB/12.0 MiB used)")

    assert "raise memory_limit_bytes" in str(read_failure((), error))
