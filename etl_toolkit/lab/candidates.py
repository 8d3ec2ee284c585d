"""What may be chosen: the files of a place, the tables of a database, and the columns that may be a key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from etl_toolkit.config import ParallelConfig
from etl_toolkit.model import ReadOptions
from etl_toolkit.sources import read_failure, resolve, text_relation
from etl_toolkit.target import find_table
from etl_toolkit.workspace import open_workspace

SAMPLE_ROWS = 10_000
SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".pq", ".gz", ".zst")

_TABLES = """
SELECT CASE WHEN pg_catalog.pg_table_is_visible(c.oid) THEN '' ELSE pg_catalog.quote_ident(n.nspname) || '.' END
       || pg_catalog.quote_ident(c.relname)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname NOT IN ('information_schema', 'etl_toolkit')
      AND NOT pg_catalog.starts_with(n.nspname::text, 'pg_')
ORDER BY 1 LIMIT 1000
"""
_KEYS = """
SELECT i.indisprimary, pg_catalog.array_agg(a.attname::text ORDER BY k.n)
FROM pg_catalog.pg_index i
CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::smallint[]) WITH ORDINALITY AS k (attnum, n)
JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indrelid = %s AND i.indisunique AND i.indisvalid AND i.indexprs IS NULL AND k.n <= i.indnkeyatts
GROUP BY i.indexrelid, i.indisprimary ORDER BY i.indisprimary DESC, i.indexrelid
"""


@dataclass(frozen=True)
class KeyCandidate:
    """Columns that may be the key, and what speaks for them."""

    columns: tuple[str, ...]
    reason: str


def find_files(place: str | Path) -> list[str]:
    """Return the files of a directory that can be loaded, or those that a glob names, in natural order."""
    from etl_toolkit.sources.inputs import natural_order

    path = Path(place)
    found = path.iterdir() if path.is_dir() else path.parent.glob(path.name)
    names = [str(item) for item in found if item.is_file() and item.suffix in SUFFIXES]
    return sorted(names, key=natural_order)


def list_tables(connection: Any) -> list[str]:
    """Return the tables of the database, as they are named in SQL."""
    with connection.cursor() as cursor:
        cursor.execute(_TABLES)
        return [name for (name,) in cursor.fetchall()]


def keys_of_table(connection: Any, table: str) -> list[KeyCandidate]:
    """Return the unique indexes of a table, the primary key first; none where there is no such table."""
    with connection.cursor() as cursor:
        oid = find_table(cursor, table)
        if oid is None:
            return []
        cursor.execute(_KEYS, (oid,))
        kinds = {True: "primary key", False: "unique index"}
        return [
            KeyCandidate(tuple(columns), f"{kinds[is_primary]} of {table}") for is_primary, columns in cursor.fetchall()
        ]


def keys_of_file(name: str, read: ReadOptions, config: ParallelConfig) -> list[KeyCandidate]:
    """Return the columns of a file that have a different value in each of its first rows, those named like a key first."""
    with open_workspace(config, threads=2) as workspace:
        (file,) = resolve([name], read, workspace, max_rejects=SAMPLE_ROWS).files
        relation, texts = text_relation([file], file.columns)
        columns = ", ".join(f"{text} AS c{n}" for n, text in enumerate(texts))
        counts = ", ".join(f"count(c{n}), count(DISTINCT c{n})" for n in range(len(texts)))
        try:
            found = workspace.query(
                f"SELECT count(*), {counts} FROM (SELECT {columns} FROM {relation} LIMIT {SAMPLE_ROWS})"
            )
        except duckdb.Error as error:
            raise read_failure([file], error) from None
    rows, *numbers = found[0]
    unique = [
        column
        for column, filled, distinct in zip(file.columns, numbers[::2], numbers[1::2], strict=True)
        if rows and filled == distinct == rows
    ]
    reason = f"different in each of the first {rows:,} rows of {Path(name).name}"
    return [KeyCandidate((column,), reason) for column in _likely_first(unique)]


def _likely_first(columns: Sequence[str]) -> list[str]:
    return sorted(columns, key=lambda name: not name.lower().endswith(("id", "key", "code", "no", "number")))
