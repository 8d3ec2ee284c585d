"""`--create-table`: a table that can hold all the files, with types no narrower than their values.

Conservative: a type is given only where every value of every file is spelled as that type alone would be spelled. `007`
stays text, since as a number it would lose its zeros; integers become bigint, decimals numeric. DuckDB looks at every
value, in its own memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import duckdb
import psycopg2
from psycopg2.sql import SQL, Composed, Identifier

from etl_toolkit.errors import SourceError, UnknownTableError, UsageError, map_driver_error
from etl_toolkit.hints import did_you_mean
from etl_toolkit.model import LoadSpec, SourceFile
from etl_toolkit.sources import csv_relation, in_chosen_order, read_failure
from etl_toolkit.target import find_table
from etl_toolkit.workspace import Workspace, literal

_LOCK = 0x65746C5F7462  # "etl_tb": one creator at a time, CREATE IF NOT EXISTS races
_COLUMNS_PER_QUERY = 50
_NAME_BYTES, _TABLE_COLUMNS = 63, 1600  # limits of PostgreSQL

_DIGITS = r"(?:0|[1-9]\d{0,99})"
_DAY = r"[1-9]\d{3}-\d\d-\d\d"
_TIME = r"[ T](?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d{1,6}0{0,3})?)?"
_OFFSET = r"(?:Z|[+-](?:0\d|1[0-4])(?::?[0-5]\d)?)"

# What a text may be, the first that fits. None of them fits what PostgreSQL would give back in another spelling of value.
_SPELLINGS = {
    "integer": r"0|-?[1-9]\d{0,17}",
    "decimal": rf"-?[1-9]\d{{18,99}}|-?{_DIGITS}\.\d{{1,100}}",
    "exponent": rf"-?{_DIGITS}(?:\.\d{{1,100}})?[eE][+-]?\d{{1,3}}",
    "boolean": r"(?i:true|false)",
    "uuid": r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}",
    "date": _DAY,
    "timestamp": _DAY + _TIME,
    "timestamptz": _DAY + _TIME + _OFFSET,
}
_DATED = ("date", "timestamp", "timestamptz")

# What the columns of Parquet files and frames are, by DuckDB's name for their type.
_TYPED = {
    **dict.fromkeys(("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"), "integer"),
    **dict.fromkeys(("UBIGINT", "HUGEINT", "UHUGEINT"), "decimal"),
    "FLOAT": "real",
    "DOUBLE": "float",
    **dict.fromkeys(("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"), "timestamp"),
    **dict.fromkeys(("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ", "TIMESTAMPTZ_NS"), "timestamptz"),
    **dict.fromkeys(("TIME", "TIME_NS"), "time"),
    "BOOLEAN": "boolean",
    "DATE": "date",
    "UUID": "uuid",
    "BLOB": "bytea",
    "VARIANT": "jsonb",
    "INTERVAL": "interval",
    "JSON": "jsonb",
    '"NULL"': "",
}

# The type of a column whose values are all of one kind; mixtures are in `_column_type`.
_TYPES = {
    "integer": "bigint",
    "decimal": "numeric",
    "real": "real",
    "float": "double precision",
    **{
        kind: kind
        for kind in ("boolean", "uuid", "date", "timestamp", "timestamptz", "time", "interval", "bytea", "jsonb")
    },
}


@dataclass(frozen=True)
class NewColumn:
    """A column of the table to create."""

    name: str
    type: str


def create_missing(connection: Any, spec: LoadSpec, files: Sequence[SourceFile], workspace: Workspace) -> str | None:
    """Create the table of `spec` unless it exists; return the statement, or None where there was nothing to do.

    The caller commits, or rolls back to leave no trace. Raises SourceError where the files have no common key, or
    columns that no table can have.
    """
    try:
        with connection.cursor() as cursor:
            if find_table(cursor, spec.table) is not None:
                return None
            mark = (marks_only(spec) or "").casefold()
            inferred = [item for item in infer_columns(files, spec.key, workspace) if item.name.casefold() != mark]
            columns = retype(inferred, spec.write.types)
            cursor.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s)", (_LOCK,))
            if find_table(cursor, spec.table) is not None:
                return None
            statement = create_statement(_name_parts(cursor, spec.table), columns, spec.key)
            cursor.execute(statement)
            return str(statement.as_string(connection))
    except (psycopg2.errors.DuplicateTable, psycopg2.errors.UniqueViolation):
        connection.rollback()  # a session that does not take our lock was faster: the table exists, which is all we need
        return None
    except psycopg2.errors.InvalidSchemaName:
        schema = spec.table.rpartition(".")[0]
        raise UnknownTableError(
            f"creating table {spec.table}: its schema does not exist; create it first: CREATE SCHEMA {schema};"
        ) from None
    except psycopg2.Error as error:
        raise map_driver_error(error, doing=f"creating table {spec.table}") from None


def marks_only(spec: LoadSpec) -> str | None:
    """The column that marks tombstones, unless it is asked for as a column of the table as well."""
    write = spec.write
    mark = write.delete.column if write.delete else None
    asked = (*spec.key, *spec.read.columns, *(write.update or ()), *write.insert_only, *write.types)
    return None if mark and mark.casefold() in (name.casefold() for name in asked) else mark


def retype(columns: Sequence[NewColumn], types: Mapping[str, str], known: Iterable[str] = ()) -> list[NewColumn]:
    """The columns, those that are named with the type that is given for them.

    Raises UsageError for a type of a column that is neither one of them nor `known`.
    """
    given = {name.casefold(): kind for name, kind in types.items()}
    names = [*(column.name for column in columns), *known]
    if unknown := [name for name in types if name.casefold() not in map(str.casefold, names)]:
        raise UsageError(f"types: there is no column {unknown[0]!r}{did_you_mean(unknown[0], names)}")
    return [replace(column, type=given.get(column.name.casefold(), column.type)) for column in columns]


def create_statement(name: Sequence[str], columns: Sequence[NewColumn], key: Sequence[str]) -> Composed:
    """Compose CREATE TABLE with the key as its primary key."""
    items = [SQL("    {} {}").format(Identifier(column.name), SQL(column.type)) for column in columns]
    items.append(SQL("    PRIMARY KEY ({})").format(SQL(", ").join(map(Identifier, key))))
    return SQL("CREATE TABLE {} (\n{}\n)").format(Identifier(*name), SQL(",\n").join(items))


def _name_parts(cursor: Any, table: str) -> list[str]:
    """Schema and name as `find_table` will look for them: read as SQL, or literally where that is no SQL name."""
    cursor.execute("SAVEPOINT etl_name")
    try:
        cursor.execute("SELECT pg_catalog.parse_ident(%s)", (table,))
        parts: list[str] = cursor.fetchone()[0]
    except psycopg2.errors.InvalidParameterValue:
        cursor.execute("ROLLBACK TO SAVEPOINT etl_name")
        parts = table.split(".")
    return parts


def infer_columns(files: Sequence[SourceFile], key: Sequence[str], workspace: Workspace) -> list[NewColumn]:
    """Return the columns of all files, in order of appearance, each with a type that takes all of its values.

    Columns of several files that differ in case alone are one, spelled as in the first, or as the key spells it.
    """
    names = _common_names(files, key)
    in_order = in_chosen_order(dict.fromkeys(names.values()), files[0].read) if files else []
    _check_limits(in_order)
    kinds: dict[str, set[str]] = {name: set() for name in in_order}
    for file in files:
        if missing := [name for name in key if name not in {names[file.position, own] for own in file.carried}]:
            listed = ", ".join(file.carried)
            raise SourceError(
                f"{file.name}: has no key column {', '.join(map(repr, missing))}; its columns are {listed}"
            )
        for own, found in _kinds(file, workspace).items():
            if (file.position, own) in names:
                kinds[names[file.position, own]] |= found
    if empty := [name for name in key if not kinds[name]]:
        if not any(file.records for file in files):
            where = ", ".join(file.name for file in files)
            raise SourceError(
                f"{where}: has no rows, so the types of its columns are not known; create the table first"
            )
        raise SourceError(f"key column {empty[0]!r} is NULL in every row of every file; a primary key needs values")
    return [NewColumn(name, _column_type(name, found, files)) for name, found in kinds.items()]


def _common_names(files: Sequence[SourceFile], key: Sequence[str]) -> Mapping[tuple[int, str], str]:
    """The table's name for each file's column."""
    spelled: dict[str, str] = {}
    for name in (*key, *(name for file in files for name in file.carried)):
        spelled.setdefault(name.casefold(), name)
    names = {}
    for file in files:
        folded = [name.casefold() for name in file.carried]
        for name in file.carried:
            is_only_one = folded.count(name.casefold()) == 1
            names[file.position, name] = spelled[name.casefold()] if is_only_one else name
    return names


def _check_limits(names: Sequence[str]) -> None:
    if too_long := [name for name in names if len(name.encode()) > _NAME_BYTES]:
        raise SourceError(f"column {too_long[0]!r} is longer than the {_NAME_BYTES} bytes PostgreSQL takes; rename it")
    if len(names) > _TABLE_COLUMNS:
        raise SourceError(f"{len(names):,} columns are more than the {_TABLE_COLUMNS:,} a table can have")


def _kinds(file: SourceFile, workspace: Workspace) -> dict[str, set[str]]:
    """What the values of each column are; nothing for a column without values."""
    try:
        of_path = _path_kinds(file, workspace)
        if file.format == "csv":
            return _csv_kinds(file, workspace) | of_path
    except duckdb.Error as error:
        raise read_failure([file], error) from None
    found = {name: _typed_kind(kind) for name, kind in zip(file.columns, file.relation_types, strict=True)}
    return {name: {kind} if kind else set() for name, kind in found.items()} | of_path


def _path_kinds(file: SourceFile, workspace: Workspace) -> dict[str, set[str]]:
    kinds: dict[str, set[str]] = {}
    for name, text in file.path_values:
        code = workspace.query(f"SELECT {_spelling_code('text')} FROM (SELECT ?::VARCHAR AS text)", [text])[0][0]
        kinds[name] = set() if code is None else {(*_SPELLINGS, "text")[code.bit_length() - 1]}
    return kinds


def _csv_kinds(file: SourceFile, workspace: Workspace) -> dict[str, set[str]]:
    kinds = (*_SPELLINGS, "text")
    masks: list[int] = []
    for start in range(0, len(file.columns), _COLUMNS_PER_QUERY):
        places = range(start, min(start + _COLUMNS_PER_QUERY, len(file.columns)))
        codes = ", ".join(f"coalesce(bit_or({_spelling_code(f'c{place}')}), 0)" for place in places)
        masks += workspace.query(f"SELECT {codes} FROM {csv_relation([file])}")[0]
    return {
        name: {kind for bit, kind in enumerate(kinds) if mask & 1 << bit}
        for name, mask in zip(file.columns, masks, strict=True)
    }


def _spelling_code(text: str) -> str:
    """A DuckDB expression: one bit for what a text is spelled as, NULL for NULL."""
    cases = []
    for bit, (kind, grammar) in enumerate(_SPELLINGS.items()):
        exists = f" AND TRY_CAST({text}[:10] AS DATE) IS NOT NULL" if kind in _DATED else ""
        cases.append(f"WHEN regexp_full_match({text}, {literal(grammar)}){exists} THEN {1 << bit}")
    return f"CASE WHEN {text} IS NULL THEN NULL {' '.join(cases)} ELSE {1 << len(_SPELLINGS)} END"


def _typed_kind(kind: str) -> str:
    """What the values of a DuckDB type are: a key of `_TYPES`, an SQL array type, or text."""
    if kind.endswith("]"):
        item = _TYPES.get(_typed_kind(kind[: kind.rindex("[")]), "")
        inner = kind[: kind.rindex("[")]
        if inner == "VARCHAR":
            item = "text"
        return f"{item}[]" if item and not inner.endswith("]") else "jsonb"
    if kind.startswith(("STRUCT", "MAP", "UNION")):
        return "jsonb"
    if kind.startswith("GEOMETRY"):
        return "bytea"
    return "decimal" if kind.startswith("DECIMAL") else _TYPED.get(kind, "text")


def _column_type(name: str, kinds: set[str], files: Sequence[SourceFile]) -> str:
    """The type that takes values of all these kinds without changing what they say."""
    if "bytea" in kinds and len(kinds) > 1:
        where = ", ".join(file.name for file in files)
        raise SourceError(f"column {name!r} is binary in one file and something else in another ({where})")
    if len(kinds) == 1:
        (kind,) = kinds
        return kind if kind.endswith("[]") else _TYPES.get(kind, "text")
    if kinds == {"real", "float"}:
        return "double precision"
    if kinds and kinds <= {"integer", "decimal", "exponent", "real", "float"} and kinds & {"decimal", "real", "float"}:
        return "numeric"
    return "timestamp" if kinds == {"date", "timestamp"} else "text"
