"""Other people's loaders at the same work, each the way its documentation shows."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

import duckdb
import psycopg2
import pyarrow as pa
from psycopg2 import sql
from psycopg2.extensions import parse_dsn

from etl_toolkit.bench import baselines
from etl_toolkit.bench.input_files import column_names, reader


def duckdb_postgres(files: Sequence[str], dsn: str, table: str, workers: int) -> None:
    """Insert file by file into a staging table through DuckDB's postgres extension, then ON CONFLICT in the server."""
    with closing(psycopg2.connect(dsn)) as connection, duckdb.connect() as duck:
        duck.execute(f"SET threads = {workers}")
        load_extension(duck)
        quoted = dsn.replace("'", "''")
        duck.execute(f"ATTACH '{quoted}' AS server (TYPE postgres)")
        for number, file in enumerate(files):
            names = column_names(file)
            staging = f"staging_{number}"
            with connection, connection.cursor() as cursor:
                columns = sql.SQL(", ").join(map(sql.Identifier, names))
                cursor.execute(
                    sql.SQL("CREATE UNLOGGED TABLE {} AS SELECT {}, 0::bigint AS line FROM {} WITH NO DATA").format(
                        sql.Identifier(staging), columns, sql.SQL(table)
                    )
                )
            duck.execute("CALL pg_clear_cache()")
            listed = ", ".join(f'"{name}"' for name in names)
            duck.execute(
                f"INSERT INTO server.public.{staging} SELECT {listed}, row_number() OVER () FROM {reader(file)}"
            )
            with connection, connection.cursor() as cursor:
                source = sql.Identifier(staging)
                baselines.merge(cursor, table, names, source=source, order="line DESC")
                cursor.execute(sql.SQL("DROP TABLE {}").format(source))


def duckdb_postgres_missing() -> str | None:
    """Say why DuckDB's postgres extension cannot be used."""
    try:
        with duckdb.connect() as duck:
            load_extension(duck)
    except duckdb.Error as error:
        return f"DuckDB's postgres extension does not install: {str(error).splitlines()[0][:100]}"
    return None


def dlt_upsert(files: Sequence[str], dsn: str, table: str, workers: int) -> None:  # noqa: ARG001 - one signature for all
    """Run one dlt pipeline per file, with the merge strategy `upsert` and the table's primary key."""
    os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
    import dlt
    from dlt.destinations import postgres

    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        key = baselines.primary_key(cursor, table)
        cursor.execute("SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
                       "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped", (table,))  # fmt: skip
        types = dict(cursor.fetchall())
    with TemporaryDirectory() as place:
        pipeline = dlt.pipeline(
            "etl_toolkit_bench", pipelines_dir=place, destination=postgres(_url(dsn)), dataset_name="public"
        )
        for file in files:
            with duckdb.connect() as duck:
                duck.execute("SET TimeZone = 'UTC'")
                typed = ", ".join(f'"{name}"::{types[name]} AS "{name}"' for name in column_names(file))
                arrow: pa.Table = duck.execute(f"SELECT {typed} FROM {reader(file)}").to_arrow_table()
            disposition = {"disposition": "merge", "strategy": "upsert"}
            pipeline.run(arrow, table_name=table, write_disposition=disposition, primary_key=list(key))


def pandas_to_sql(files: Sequence[str], dsn: str, table: str, workers: int) -> None:  # noqa: ARG001
    """Read each file into a frame and insert it with `to_sql(method="multi")`: no upsert."""
    import pandas as pd
    from sqlalchemy import create_engine

    engine = create_engine("postgresql+psycopg2://", creator=lambda: psycopg2.connect(dsn))
    for file in files:
        frame = pd.read_parquet(file) if file.endswith(".parquet") else pd.read_csv(file)
        # 65,535 is the largest number of parameters in one statement.
        frame.to_sql(
            table, engine, if_exists="append", index=False, method="multi", chunksize=65_535 // len(frame.columns)
        )
    engine.dispose()


def load_extension(duck: duckdb.DuckDBPyConnection) -> None:
    """Load the extension from its wheel (`duckdb-extension-postgres-scanner`), else have DuckDB download it."""
    spec = importlib.util.find_spec("duckdb_extension_postgres_scanner")
    for place in (spec.submodule_search_locations or []) if spec else []:
        for file in Path(place).glob(f"extensions/v{duckdb.__version__}/postgres_scanner.duckdb_extension"):
            duck.execute(f"LOAD '{file}'")
            return
    duck.execute("INSTALL postgres")
    duck.execute("LOAD postgres")


def _url(dsn: str) -> str:
    place = parse_dsn(dsn)
    login = ":".join(quote(str(place[name]), safe="") for name in ("user", "password") if name in place)
    return f"postgresql://{login}@{place.get('host', 'localhost')}:{place.get('port', 5432)}/{place['dbname']}"
