"""Second unique indexes and foreign keys that couple nothing in this load: then it need not be in order.

An index beside the key matters only if one of its values belongs to two keys: in the files, rows that lose included, or in a
file and in the table. A foreign key of another table matters only if it refers to a row that a tombstone would delete; one of
the table to itself only if a row of the files, whether it wins or loses, refers to a row that is not in the table yet. The
server is asked, since equality is its own. Another session may still write such a value afterwards: then a row is refused, and
nothing is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from typing import Any

import psycopg2
from psycopg2.sql import SQL, Composable, Identifier, Literal

from etl_toolkit.keys import key_type
from etl_toolkit.loading.copy import RecordReader, copy_stream, is_row_error
from etl_toolkit.loading.key_parts import names, table
from etl_toolkit.loading.rejects import select_orphans
from etl_toolkit.loading.staging_tables import copy_into, staging_table
from etl_toolkit.loading.tombstones import are_referred_to, read_references
from etl_toolkit.model import ForeignKey, Hazard, HazardKind, Layout, LoadSpec, Strategy, TargetTable
from etl_toolkit.scan import PROVEN, UNPROVEN
from etl_toolkit.sources import has_no_quotes
from etl_toolkit.strategies.suspects import Inquiry, fields_of
from etl_toolkit.write_rules import count_origins

PAIRS = "etl_pairs"


def drop_harmless(inquiry: Inquiry, spec: LoadSpec) -> tuple[TargetTable, tuple[str, ...]]:
    """Return the table without them, and the reasons; as it is if one of them, or anything else, does couple rows.

    A load that is in order anyway does not ask. Put together of several rows, the values of an index on several columns would
    be others than in the files.
    """
    target = inquiry.target
    references = [hazard for hazard in target.hazards if hazard.kind is HazardKind.REFERENCED]
    loops = [hazard for hazard in target.hazards if hazard.kind is HazardKind.SELF_REFERENCE]
    indexes = [hazard for hazard in target.hazards if hazard not in (*references, *loops)]
    own_keys = [key for key in target.foreign_keys if key.is_self] if loops else []
    columns = [*(hazard.columns for hazard in indexes), *(key.columns for key in own_keys)]
    is_mixed = any(count_origins(spec, target, names) > 1 for names in columns)
    if spec.strategy is Strategy.DETERMINISTIC or (columns and (spec.write.set or is_mixed)):
        return target, ()
    if loops and (indexes or spec.write.deletes):
        return target, ()
    if not all(_may_be_harmless(hazard, target, inquiry.layout) for hazard in indexes):
        return target, ()
    if not all(_refers_to_keys(key, target, inquiry.layout) for key in own_keys):
        return target, ()
    if any(_couples(inquiry, hazard.columns) for hazard in indexes) or (references and _are_referred_to(inquiry)):
        return target, ()
    if any(_refers_to_new_rows(inquiry, key) for key in own_keys):
        return target, ()
    reasons = [
        f"no value of {', '.join(hazard.columns)} belongs to two keys, in the files or the table: its index couples no rows"
        for hazard in indexes
    ]
    reasons += ["no other table refers to a row that is to be deleted"] if references else []
    reasons += [f"all rows that {key.name} refers to are in the table already: it couples no rows" for key in own_keys]
    return replace(target, hazards=()), tuple(reasons)


def _may_be_harmless(hazard: Hazard, target: TargetTable, layout: Layout) -> bool:
    """Whether it is an index on columns of the files, of types whose `=` is surely that of the index."""
    is_index = hazard.kind is HazardKind.SECOND_UNIQUE and bool(hazard.columns)
    return is_index and all(name in layout.columns and key_type(target.column(name)) for name in hazard.columns)


def _refers_to_keys(key: ForeignKey, target: TargetTable, layout: Layout) -> bool:
    """Whether columns of the files refer to those of the key, which no update changes."""
    return set(key.columns) <= set(layout.columns) and set(key.referenced_columns) <= set(target.key)


def _couples(inquiry: Inquiry, columns: Sequence[str]) -> bool:
    """Whether a value of the columns belongs to two keys, as far as the server can tell."""
    target = inquiry.target
    return _ask(inquiry, {*target.key, *columns}, "true", lambda _: _two_keys(columns, target))


def _are_referred_to(inquiry: Inquiry) -> bool:
    """Whether another table refers to a row that a tombstone would delete, as far as the role may see."""
    target = inquiry.target
    if target.is_empty:
        return False
    return _ask(
        inquiry, set(target.key), "gone",
        lambda cursor: are_referred_to(target, staging_table(PAIRS), read_references(cursor, target)),
    )  # fmt: skip


def _refers_to_new_rows(inquiry: Inquiry, key: ForeignKey) -> bool:
    """Whether a row refers to one that is not in the table yet, or may be refused or have to wait although it is.

    MATCH FULL refuses a key that is given in part. A row that is referred to is locked, which has to wait while columns of a
    unique index are changed in it; workers commit together.
    """
    target = inquiry.target
    question = SQL(
        "SELECT EXISTS ({orphans}) OR (SELECT count(*) > 1 FROM pg_catalog.pg_index WHERE indrelid = {oid} AND indisunique) "
        "OR EXISTS (SELECT FROM pg_catalog.pg_constraint WHERE conrelid = {oid} AND confmatchtype = 'f')"
    ).format(orphans=select_orphans(key, staging_table(PAIRS), SQL("true")), oid=Literal(target.oid))
    return _ask(inquiry, set(key.columns), "true", lambda _: question)


def _ask(inquiry: Inquiry, wanted: Set[str], where: str, question: Callable[[Any], Composable]) -> bool:
    """The answer to a question about some columns of rows of the files, which the server has in a table; true if it refuses one."""
    scan, target, layout = inquiry.scan, inquiry.target, inquiry.layout
    pair = replace(layout, columns=tuple(name for name in layout.columns if name in wanted))
    is_unquoted = all(has_no_quotes(file, layout) for file in scan.files)
    check = inquiry.sessions.stop.check
    rows = f"SELECT place FROM rows WHERE doubt IN ({PROVEN}, {UNPROVEN}) AND {where}"
    query = f"SELECT DISTINCT {fields_of(layout, pair, is_unquoted=is_unquoted)} AS record FROM found"

    def ask(connection: Any) -> bool:
        with (
            connection.cursor() as cursor,
            scan.with_records(inquiry.workspace, rows) as source,
            RecordReader(source, query, scan.files) as records,
        ):
            cursor.execute(
                SQL("CREATE TEMP TABLE {} ON COMMIT DROP AS SELECT {} FROM {} WITH NO DATA").format(
                    Identifier(PAIRS), names(pair.columns), table(target)
                )
            )
            try:
                copy_stream(cursor, copy_into(staging_table(PAIRS), pair), records, on_bytes=lambda *_: check())
            except psycopg2.Error as error:
                if not is_row_error(error):
                    raise
                return True  # a value that the server refuses: rows will be rejected, in order
            try:
                cursor.execute(question(cursor))
            except psycopg2.errors.InsufficientPrivilege:
                return True
            return bool(cursor.fetchone()[0])

    return inquiry.sessions.ask("couplings", ask)


def _two_keys(columns: Sequence[str], target: TargetTable) -> Composable:
    pairs = staging_table(PAIRS)
    known = SQL(" AND ").join(SQL("{} IS NOT NULL").format(Identifier(name)) for name in columns)
    in_files = SQL(
        "SELECT EXISTS (SELECT FROM (SELECT DISTINCT {keys}, {values} FROM {pairs} WHERE {known}) AS pairs GROUP BY {values} "
        "HAVING count(*) > 1)"
    ).format(keys=names(target.key), values=names(columns), pairs=pairs, known=known)
    if target.is_empty:
        return in_files
    same = SQL(" AND ").join(SQL("present.{0} = pairs.{0}").format(Identifier(name)) for name in columns)
    return SQL(
        "{} OR EXISTS (SELECT FROM {} AS pairs JOIN {} AS present ON {} WHERE ROW({}) IS DISTINCT FROM ROW({}))"
    ).format(in_files, pairs, table(target), same, names(target.key, "present"), names(target.key, "pairs"))
