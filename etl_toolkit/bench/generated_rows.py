"""The SQL with which DuckDB makes the rows of a workload.

DuckDB's own `hash()` may change between releases, and with it every file; so we bring our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from etl_toolkit.bench.shapes import SECONDS_2024

LARGEST_RANK = 1 << 32

# Chris Wellons' `lowbias32`: one to one on 32 bits, so shuffling by it has no ties. https://nullprogram.com/blog/2018/07/31/
MACROS = """
CREATE MACRO m1(x) AS (xor(x, x >> 16) * 2146121005) & 4294967295;
CREATE MACRO m2(x) AS (xor(x, x >> 15) * 2221713035) & 4294967295;
CREATE MACRO m3(x) AS xor(x, x >> 16);
CREATE MACRO mix(x) AS m3(m2(m1(x & 4294967295::UBIGINT)));
"""


@dataclass(frozen=True)
class FileRows:
    """The rows of one file: how many, of how many keys, from which rank on; three seeds."""

    rows: int
    distinct: int
    start: int
    shuffle: int
    values: int
    repeats: int


def rows_sql(file: FileRows, columns: Mapping[str, str]) -> str:
    """Return the SELECT that is a file; `columns` are its columns as expressions.

    In it `j` is a row, `rank` its key before scattering, `k` its key, `place` its place in the file, `v` the seed of
    its values.
    """
    # The first `distinct` rows bring one key each, the rest repeat keys of theirs.
    repeated = f"mix(j + {file.repeats}) % {file.distinct}"
    rank = f"({file.start} + CASE WHEN j < {file.distinct} THEN j ELSE {repeated} END)"
    rank = f"({rank} % {LARGEST_RANK}::UBIGINT)"
    key = f"(rank * 2654435761::UBIGINT) % {LARGEST_RANK}::UBIGINT"
    place, value = (f"mix(xor(mix(j), {bits}::UBIGINT))" for bits in (file.shuffle, file.values))
    return f"""
        SELECT {", ".join(f"{expression} AS {name}" for name, expression in columns.items())}
        FROM (SELECT j, {place} AS place, {value} AS v, ({key}) AS k
              FROM (SELECT j, {rank} AS rank FROM (SELECT range::UBIGINT AS j FROM range({file.rows}))))
        ORDER BY place"""


def base_columns(*, has_types: bool) -> dict[str, str]:
    """Return the expressions of the benchmark's own columns; in a file that `has_types` an instant is one, else text."""
    return {
        "name": "'name_' || (v % 1000000)",
        "value": "round((mix(v + 1) % 100000000) / 997.0, 6)::DOUBLE",
        "amount": "((mix(v + 2) % 1000000000) / 100)::DECIMAL(12, 2)",
        "created_at": _timestamp_sql(f"({SECONDS_2024} + mix(v + 3) % 31536000)", has_types=has_types),
        "active": "(v % 2 = 0)",
        "category": "'cat_' || (mix(v + 4) % 20)",
        "id": "k::BIGINT",
        "device": "'dev-' || lpad((k % 4096)::VARCHAR, 4, '0')",
        "measured_at": _timestamp_sql(f"({SECONDS_2024} + k // 4096)", has_types=has_types),
    }


def _timestamp_sql(seconds: str, *, has_types: bool) -> str:
    if has_types:
        return f"to_timestamp({seconds}::DOUBLE)"
    return f"strftime(make_timestamp({seconds}::BIGINT * 1000000), '%Y-%m-%d %H:%M:%S') || '+00'"
