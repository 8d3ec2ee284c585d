"""The target table as the catalog describes it: columns, the unique index that arbitrates, and every hazard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg2 import sql

from etl_toolkit.errors import UnknownTableError
from etl_toolkit.hints import did_you_mean
from etl_toolkit.keys import fold_name
from etl_toolkit.model import Column, Hazard, HazardKind, TargetTable
from etl_toolkit.row_checks import read_checks, read_wide_indexes
from etl_toolkit.target.columns import read_columns, unique_keys
from etl_toolkit.target.hazards import (
    find_identity_hazards,
    find_partition_hazards,
    find_table_hazards,
    find_trigger_hazards,
    fire_once,
    read_foreign_keys,
)
from etl_toolkit.target.indexes import read_arbiter, why_not_hashable
from etl_toolkit.target.tables import find_table, require_table

__all__ = ["find_table", "fire_once", "read_target", "unique_keys"]


def read_target(connection: Any, table: str, key: Sequence[str]) -> TargetTable:
    """Read the table `table` (`name` or `schema.name`, quoted where needed) as it is to be upserted by `key`.

    The key columns may be spelled in another case, as those of files may. Raises TargetError where the table does not exist,
    lacks a key column, or has no unique index on exactly these columns that could arbitrate.
    """
    with connection.cursor() as cursor:
        found = require_table(cursor, table)
        columns = read_columns(cursor, found.oid)
        key = tuple(fold_name(name, (column.name for column in columns)) for name in key)
        _check_names(found.label, columns, key)
        arbiter, hazards = read_arbiter(cursor, found, columns, tuple(key))
        foreign_keys = read_foreign_keys(cursor, found.oid) if found.has_triggers else ()
        hazards += find_table_hazards(found, foreign_keys)
        hazards += find_trigger_hazards(cursor, found.oid) if found.has_triggers else []
        hazards += find_identity_hazards(columns, key)
        if found.kind == "p":
            hazards += find_partition_hazards(cursor, found.oid)
        if any(hazard.forces == "server" for hazard in hazards) and (
            reason := why_not_hashable(cursor, arbiter, found)
        ):
            hazards.append(Hazard(HazardKind.SERVER_KEY, reason, "sequential"))
        cursor.execute(sql.SQL("SELECT NOT EXISTS (SELECT 1 FROM {})").format(sql.Identifier(found.schema, found.name)))
        is_empty = bool(cursor.fetchone()[0])
        return TargetTable(
            schema=found.schema,
            name=found.name,
            oid=found.oid,
            columns=columns,
            key=tuple(key),
            arbiter=arbiter,
            hazards=tuple(hazards),
            foreign_keys=foreign_keys,
            is_partitioned=found.kind == "p",
            is_empty=is_empty,
            checks=read_checks(cursor, found.oid, key, is_partitioned=found.kind == "p") if found.has_checks else (),
            wide_indexes=read_wide_indexes(cursor, found.oid) if found.has_wide_indexes else (),
            server_version=connection.server_version,
            distribution=_read_distribution(cursor, found.oid) if found.has_citus else "",
        )


def _check_names(label: str, columns: Sequence[Column], key: Sequence[str]) -> None:
    names = {column.name for column in columns}
    if missing := [name for name in key if name not in names]:
        raise UnknownTableError(
            f"{label} has no column '{missing[0]}' for the key; its columns are {', '.join(sorted(names))}"
            f"{did_you_mean(missing[0], names)}"
        )


def _read_distribution(cursor: Any, oid: int) -> str:
    """How Citus distributes a table; empty where it does not."""
    cursor.execute(
        "SELECT CASE partmethod WHEN 'n' THEN 'as a reference table' ELSE 'by ' || coalesce("
        "pg_catalog.column_to_column_name(logicalrel, partkey::text), 'a column') END "
        "FROM pg_catalog.pg_dist_partition WHERE logicalrel = %s",
        (oid,),
    )
    row = cursor.fetchone()
    return str(row[0]) if row else ""
