"""Tables that Citus distributes: what is reported of them; on a plain server, their statements leave what others do.

The tests with a cluster run where ETL_CITUS_DSN names one. Elsewhere its catalog is imitated: the table is taken to be
distributed, and every statement is the one for such tables.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit import ParallelConfig, ingest
from etl_toolkit.errors import UsageError
from etl_toolkit.loading.citus import is_key_violation
from etl_toolkit.target import read_target
from tests.oracle import Oracle, Rows, differing_rows, write

CATALOG = """
SET allow_system_table_mods = on;
CREATE TABLE pg_catalog.pg_dist_partition (logicalrel regclass, partmethod "char", partkey text);
CREATE FUNCTION pg_catalog.column_to_column_name(regclass, text) RETURNS text LANGUAGE sql AS 'SELECT $2';
RESET allow_system_table_mods;
GRANT SELECT ON pg_catalog.pg_dist_partition TO PUBLIC
"""
CLUSTER = os.environ.get("ETL_CITUS_DSN")
KINDS = {
    "distributed": "SELECT create_distributed_table('{}', 'id')",
    "reference": "SELECT create_reference_table('{}')",
}


def contents() -> list[Rows]:
    return [
        Rows(
            ("id", "v", "n"),
            tuple((str((file * 20 + row) % 70), f"file {file}", f"{row}.0") for row in [*range(40), 1]),
        )
        for file in range(3)
    ]


def disjoint() -> list[Rows]:
    return [
        Rows(("id", "v", "n"), tuple((str(file * 100 + row), "new", "1") for row in range(40))) for file in range(3)
    ]


def create(cursor: Any, state: str) -> None:
    for name in ("loaded", "expected"):
        cursor.execute(f"DROP TABLE IF EXISTS {name}; CREATE TABLE {name} (id bigint PRIMARY KEY, v text, n numeric)")
        if state == "filled":
            cursor.execute(f"INSERT INTO {name} SELECT n, 'file 2', 3.00 FROM generate_series(0, 300, 3) n")


def load_and_compare(
    dsn: str, connection: Connection, tmp_path: Path, strategy: str, state: str, *, prepare: str
) -> None:
    some = disjoint() if strategy == "full_parallel" else contents()
    files = [
        write(each, tmp_path, f"p{at}", form)
        for at, (each, form) in enumerate(zip(some, ("csv", "quoted", "parquet"), strict=True))
    ]
    with connection.cursor() as cursor:
        create(cursor, state)
        cursor.execute(prepare.format("loaded"))
    Oracle("expected", ("id",)).load(connection, some)
    for _ in range(2):  # the second time, no row changes
        result = ingest(files, "loaded", "id", dsn, strategy=strategy, config=ParallelConfig(concurrency=2))
        assert result
        assert differing_rows(connection, "loaded", "expected") == []


STRATEGIES = ("partitioned", "deterministic", "streaming", "full_parallel", "hybrid")


@pytest.mark.parametrize("state", ["empty", "filled"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_statements_for_distributed_tables_give_the_same_on_a_plain_server(
    database: str, connection: Connection, tmp_path: Path, strategy: str, state: str
) -> None:
    with connection.cursor() as cursor:
        cursor.execute(CATALOG)
    mark = "INSERT INTO pg_catalog.pg_dist_partition VALUES ('{}', 'h', 'id')"
    load_and_compare(database, connection, tmp_path, strategy, state, prepare=mark)


def test_the_catalog_says_how_a_table_is_distributed_and_undo_is_refused_before_the_load(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    with connection.cursor() as cursor:
        create(cursor, "empty")
        assert read_target(connection, "loaded", ["id"]).distribution == ""  # no Citus
        cursor.execute(CATALOG)
        assert read_target(connection, "loaded", ["id"]).distribution == ""
        cursor.execute("INSERT INTO pg_catalog.pg_dist_partition VALUES ('loaded', 'h', 'id'), ('expected', 'n', NULL)")
    assert read_target(connection, "loaded", ["id"]).distribution == "by id"
    assert read_target(connection, "expected", ["id"]).distribution == "as a reference table"

    with pytest.raises(UsageError, match=r"is distributed by Citus, .* cannot be undone; leave --undoable out"):
        ingest(write(contents()[0], tmp_path, "p", "csv"), "loaded", "id", database, undoable=True)


def test_a_key_that_a_node_has_already_is_known_by_its_message(database: str, connection: Connection) -> None:
    with connection.cursor() as cursor:
        create(cursor, "empty")
        plain = read_target(connection, "loaded", ["id"])
        cursor.execute(CATALOG)
        cursor.execute("INSERT INTO pg_catalog.pg_dist_partition VALUES ('loaded', 'h', 'id')")
        target = read_target(connection, "loaded", ["id"])
        for message, is_key in (('duplicate key value violates unique constraint "k"', True), ("disk on fire", False)):
            with pytest.raises(psycopg2.Error) as raised:
                cursor.execute("DO $$ BEGIN RAISE EXCEPTION '" + message + "' USING ERRCODE = 'XX000'; END $$")
            assert is_key_violation(raised.value, target) is is_key
            assert not is_key_violation(raised.value, plain), "on a plain server, an internal error is one"


@pytest.mark.citus
@pytest.mark.skipif(CLUSTER is None, reason="ETL_CITUS_DSN names no Citus cluster")
@pytest.mark.parametrize("state", ["empty", "filled"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_cluster_ends_up_as_if_the_files_had_been_loaded_one_by_one(
    tmp_path: Path, kind: str, strategy: str, state: str
) -> None:
    assert CLUSTER is not None
    connection = psycopg2.connect(CLUSTER)
    connection.autocommit = True
    load_and_compare(CLUSTER, connection, tmp_path, strategy, state, prepare=KINDS[kind])
    connection.close()
