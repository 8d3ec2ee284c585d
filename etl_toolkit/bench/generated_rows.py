"""The SQL with which DuckDB makes the rows of a workload.

DuckDB's own `hash()` may change between releases, and with it every file; so we bring our own.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from etl_toolkit.bench.workload import Workload

LARGEST_RANK = 1 << 32
SECONDS_2024 = 1_704_067_200

# Chris Wellons' `lowbias32`: one to one on 32 bits, so shuffling by it has no ties. https://nullprogram.com/blog/2018/07/31/
MACROS = """
CREATE MACRO m1(x) AS (xor(x, x >> 16) * 2146121005) & 4294967295;
CREATE MACRO m2(x) AS (xor(x, x >> 15) * 2221713035) & 4294967295;
CREATE MACRO m3(x) AS xor(x, x >> 16);
CREATE MACRO mix(x) AS m3(m2(m1(x & 4294967295::UBIGINT)));
"""


def rows_sql(workload: Workload, number: int, kind: str) -> str:
    """Return the SELECT that is file `number`, `kind` csv or parquet.

    In it `j` is a row, `rank` its key before scattering, `k` its key, `place` its place in the file, `v` the seed of
    its values.
    """
    start = number * workload.step + workload.seed * 97_003
    chance = random.Random(f"{workload.seed}/{number}")  # noqa: S311 - reproducible on purpose
    shuffle, values, repeats = (chance.getrandbits(32) for _ in range(3))
    dense = round(workload.skew * 1000)
    # The first `distinct` rows bring one key each, the rest repeat keys of theirs.
    rank = f"({start} + CASE WHEN j < {workload.distinct} THEN j ELSE mix(j + {repeats}) % {workload.distinct} END)"
    rank = f"({rank} % {LARGEST_RANK}::UBIGINT)"
    scattered = f"(rank * 2654435761::UBIGINT) % {LARGEST_RANK}::UBIGINT"
    # Dense keys stay as they are, the others move above 2^32, so the two cannot meet.
    key = scattered if not dense else (
        f"CASE WHEN mix(rank) % 1000 < {dense} THEN rank ELSE {LARGEST_RANK}::UBIGINT + {scattered} END"
    )  # fmt: skip
    place, value = (f"mix(xor(mix(j), {bits}::UBIGINT))" for bits in (shuffle, values))
    return f"""
        SELECT {_columns_sql(workload, kind)}
        FROM (SELECT j, {place} AS place, {value} AS v, ({key}) AS k
              FROM (SELECT j, {rank} AS rank FROM (SELECT range::UBIGINT AS j FROM range({workload.rows}))))
        ORDER BY place"""


def _columns_sql(workload: Workload, kind: str) -> str:
    columns = {
        "name": "'name_' || (v % 1000000)",
        "value": "round((mix(v + 1) % 100000000) / 997.0, 6)::DOUBLE",
        "amount": "((mix(v + 2) % 1000000000) / 100)::DECIMAL(12, 2)",
        "created_at": _timestamp_sql(f"({SECONDS_2024} + mix(v + 3) % 31536000)", kind),
        "active": "(v % 2 = 0)",
        "category": "'cat_' || (mix(v + 4) % 20)",
        "id": "k::BIGINT",
        "device": "'dev-' || lpad((k % 4096)::VARCHAR, 4, '0')",
        "measured_at": _timestamp_sql(f"({SECONDS_2024} + k // 4096)", kind),
    }
    names = [column.split(" ")[0] for column in workload.columns]
    return ", ".join(f"{columns[name]} AS {name}" for name in names)


def _timestamp_sql(seconds: str, kind: str) -> str:
    if kind == "parquet":
        return f"to_timestamp({seconds}::DOUBLE)"
    return f"strftime(make_timestamp({seconds}::BIGINT * 1000000), '%Y-%m-%d %H:%M:%S') || '+00'"
