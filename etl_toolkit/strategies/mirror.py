"""Keys of the table that are in no file of the load: counted before anything is written, and deleted after the last file.

Where DuckDB can compare the keys, the keys of the table are read out and compared there; else the keys of the files are
staged and the server compares them, again at the end: a key that another session has inserted meanwhile goes as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg2
from psycopg2.sql import SQL, Composable, Composed, Identifier, Literal

from etl_toolkit.columns import key_types
from etl_toolkit.errors import AccountingError, TooManyDeletesError
from etl_toolkit.loading import ledger
from etl_toolkit.loading.copy import copy_records, is_row_error
from etl_toolkit.loading.failpoints import reach
from etl_toolkit.loading.key_parts import key_aliases, key_items, match_keys, names
from etl_toolkit.loading.merge import Upsert, present_rows
from etl_toolkit.loading.naming import ours, own_name
from etl_toolkit.loading.run import Run
from etl_toolkit.loading.second_result import first_reason_kept
from etl_toolkit.loading.session import Sessions
from etl_toolkit.loading.staging_tables import copy_into, create_staging, drop_staging
from etl_toolkit.loading.tombstones import TOMBSTONES, bury, is_unmarked, narrow, numbered_dead_rows, tombstone_table
from etl_toolkit.model import (
    Batch,
    Counts,
    CsvDialect,
    Delete,
    KeyOverlap,
    Layout,
    LoadSpec,
    SourceFile,
    Strategy,
    TargetTable,
)
from etl_toolkit.scan import KeyScan
from etl_toolkit.sources import is_in_reach, line_texts, quoted_where_needed
from etl_toolkit.strategies.compare import set_unchanged_apart
from etl_toolkit.strategies.lanes import load_with_retry
from etl_toolkit.strategies.staging import records_query
from etl_toolkit.strategies.written import written_marks
from etl_toolkit.workspace import Workspace, literal
from etl_toolkit.write_rules import may_compose

NO_FILE = -1  # the position of the file that a missing key comes from
_KEYS = "etl_keys"


@dataclass(frozen=True)
class Missing:
    """How many keys of the scope the table has, and how many of these are in no file."""

    keys: int
    present: int


def _present_in_scope(target: TargetTable, spec: LoadSpec, files: Sequence[SourceFile]) -> Composed:
    """A FROM and WHERE of the rows that may go: those of the scope, but none without a key, and none that is marked already."""
    found = [scope_condition(spec, files)]
    if not target.arbiter.nulls_not_distinct:
        found += [SQL("{} IS NOT NULL").format(alias) for alias in key_aliases(target)]
    if soft := spec.write.missing_soft:
        found.append(is_unmarked(target, soft, "present"))
    return SQL("({}) AS present WHERE {}").format(present_rows(target), SQL(" AND ").join(found))


def scope_condition(spec: LoadSpec, files: Sequence[SourceFile]) -> Composable:
    """Which rows of the table the files speak for: a condition on its columns."""
    if spec.write.scope is None:
        return SQL("true")
    if spec.write.scope != "$path":
        return SQL("({})").format(SQL(spec.write.scope))
    places = {file.path_values for file in files}
    return SQL("({})").format(SQL(" OR ").join(map(_in_directory, sorted(places, key=str))))


def _in_directory(values: Sequence[tuple[str, str | None]]) -> Composed:
    return SQL("({})").format(
        SQL(" AND ").join(
            SQL("{} IS NULL").format(Identifier(name))
            if text is None
            else SQL("{} = {}").format(Identifier(name), Literal(text))
            for name, text in values
        )
    )


def may_compare_here(target: TargetTable, scan: KeyScan | None, overlap: KeyOverlap | None) -> bool:
    """Whether DuckDB knows every key of the files, as the server would compare it."""
    return scan is not None and overlap is not None and not overlap.unproven and not target.forced("server")


def find_missing(
    spec: LoadSpec, target: TargetTable, scan: KeyScan, workspace: Workspace, sessions: Sessions
) -> Missing:
    """Fill the workspace's table `missing` with the keys of the scope (t0, …, as texts) that are in no file; count them."""
    columns = [f"t{number}" for number in range(len(target.key))]
    path = workspace.directory / "present_keys.csv"
    query = SQL("COPY (SELECT {} FROM {}) TO STDOUT (FORMAT csv)").format(
        names(target.key), _present_in_scope(target, spec, scan.files)
    )

    def read(connection: Any) -> int:
        with path.open("wb", buffering=1 << 20) as sink, connection.cursor() as cursor, first_reason_kept():
            cursor.copy_expert(query, sink)
            return int(cursor.rowcount)

    count = sessions.ask("missing", read, is_printing=True)
    reach("compared")
    kinds = ", ".join(f"'{name}': 'VARCHAR'" for name in columns)
    keys = (
        f"read_csv({literal(str(path))}, columns = {{{kinds}}}, auto_detect = false, header = false, delim = ',', "
        "quote = '\"', escape = '\"', new_line = '\\n', allow_quoted_nulls = false, compression = 'none', strict_mode = true)"
    )
    try:
        return Missing(_keep_missing(target, scan, workspace, keys), count)
    finally:
        path.unlink()


def _keep_missing(target: TargetTable, scan: KeyScan, workspace: Workspace, keys: str) -> int:
    """Fill the table `missing` with those keys (t0, …) of a relation that are in no file; return how many these are."""
    texts = [f"t{number}" for number in range(len(target.key))]
    typed = ", ".join(
        f"TRY_CAST({text} AS {kind.duckdb_type}) AS {name}"
        for text, name, kind in zip(texts, scan.key_columns, key_types(target), strict=True)
    )
    workspace.query(
        f"CREATE OR REPLACE TABLE missing AS SELECT {', '.join(texts)} FROM (SELECT *, {typed} FROM {keys}) "
        f"ANTI JOIN keys USING ({scan.key_sql})"  # a third of the time that NOT EXISTS takes
    )
    return int(workspace.query("SELECT count(*) FROM missing")[0][0])


def _find_beside_unchanged(run: Run) -> Missing | None:
    """The same of all rows of the table, where these are read out in any case: most of them are in the files unchanged."""
    target, scan, layout, spec = run.target, run.scan, run.layout, run.spec
    if run.plan.strategy is not Strategy.PARTITIONED or spec.write.scope or may_compose(spec) or not (scan and layout):
        return None
    # A file as the server prints the rows.
    printed = SourceFile(0, "", "csv", layout.columns, "", 0, dialect=CsvDialect(layout.delimiter))
    is_plain_key = all(target.column(name).not_null and is_in_reach(printed, name) for name in target.key)
    if run.plan.overlap is None or len(layout.columns) == 1 or not is_plain_key:
        return None
    count = set_unchanged_apart(run, run.plan.overlap, keeps_others=True)
    if count is None:
        return None
    run.is_compared = True
    texts = ", ".join(f"{text} AS t{number}" for number, text in enumerate(line_texts(printed, target.key)))
    keys = f"(SELECT {texts} FROM (SELECT record AS line FROM unequal WHERE row IS NULL))"
    return Missing(_keep_missing(target, scan, run.workspace, keys), count)


def count_missing(
    spec: LoadSpec, target: TargetTable, files: Sequence[SourceFile], workspace: Workspace, sessions: Sessions
) -> Missing:
    """Let the server count the keys of the scope that are in no file; nothing is kept. Raises for a key that it refuses."""

    def count(connection: Any) -> Missing:
        with connection.cursor() as cursor:
            return _stage(cursor, spec, target, files, workspace, check=sessions.stop.check)

    return sessions.ask("missing", count)


def check_missing(spec: LoadSpec, target: TargetTable, found: Missing) -> None:
    """Raise TooManyDeletesError where more keys would go than `max_deletes` allows."""
    limit = spec.write.max_deletes
    allowed = int(limit * found.present) if isinstance(limit, float) else limit
    if found.keys > allowed:
        share = f" ({found.keys / found.present:.0%})" if found.present else ""
        raise TooManyDeletesError(
            f"{found.keys:,} of {found.present:,} keys of {target.qualified_name}{share} are in no file, and max_deletes "
            f"allows {allowed:,}; nothing was deleted. Check that all files are there, or raise max_deletes"
        )


def forecast_missing(run: Run) -> None:
    """Count the missing keys before anything is written. Raises TooManyDeletesError where there are too many."""
    if run.spec.write.missing == "keep":
        return
    is_here = may_compare_here(run.target, run.scan, run.plan.overlap)
    found = _find_beside_unchanged(run) if is_here else None
    if found is None:
        with run.phases.phase("missing"):
            if is_here:
                assert run.scan is not None
                found = find_missing(run.spec, run.target, run.scan, run.workspace, run.sessions)
            else:
                try:
                    found = count_missing(run.spec, run.target, run.files, run.workspace, run.sessions)
                except psycopg2.Error as error:
                    if not is_row_error(error):
                        raise
                    return  # a key that the server refuses: its row will be rejected, and then no key is deleted
    check_missing(run.spec, run.target, found)


def why_kept(spec: LoadSpec, counts: Counts) -> str:
    """Why no key is deleted, although that was asked for; empty if there is nothing in the way."""
    if spec.write.missing == "keep" or (counts.read and not counts.rejected):
        return ""
    cause = "rows were rejected, and their keys may be those of the table" if counts.read else "the files have no rows"
    return f"no key was deleted for being in no file: {cause}"


def missing_batch(run: Run) -> Batch:
    """The batch of the keys that are in no file: the last one."""
    return Batch(1 + max(batch.number for batch in run.plan.batches), ())


def delete_missing(run: Run, counts: Counts) -> Counts:
    """Delete the keys that are in no file, or mark their rows; return how many as `removed`."""
    if run.spec.write.missing == "keep" or why_kept(run.spec, counts):
        return Counts()
    done = load_with_retry(run, missing_batch(run), _delete_once)
    return done.get(NO_FILE, Counts())


def _delete_once(run: Run, batch: Batch) -> dict[int, Counts]:
    with run.sessions.lend(batch.label) as connection, connection.cursor() as cursor:
        claimed = ledger.claim(cursor, run.run_id, batch, undoable=run.spec.undoable)
        if not claimed.is_ours:
            run.sessions.commit(connection)
            return dict(claimed.counts)
        reach("claimed")
        with run.phases.phase("missing"):
            if may_compare_here(run.target, run.scan, run.plan.overlap):
                _send_missing(run, cursor)
            else:
                check_missing(run.spec, run.target, _stage_missing(run, cursor))
            layout = Layout(run.target.key)
            marks = {name: text for name, text in run.spec.write.set.items() if text != "$file"}  # it is in none
            write = replace(run.spec.write, delete=Delete("", soft=run.spec.write.missing_soft), set=marks)
            upsert = Upsert(run.target, layout, undoable=run.spec.undoable, write=write, marks=written_marks(run))
            buried = bury(cursor, upsert, numbered_dead_rows(upsert))
            removed = sum(item.deleted for item in buried.values())
            if kept := sum(item.rows - item.deleted - item.absent for item in buried.values()):
                raise AccountingError(
                    f"{kept:,} keys of {run.target.qualified_name} are in no file, but a trigger or a policy has kept their rows; "
                    "the files are loaded, and no key was deleted"
                )
            cursor.execute(drop_staging(TOMBSTONES))
        counts = {NO_FILE: Counts(removed=removed)}
        ledger.complete(cursor, run.run_id, batch, counts)
        reach("completed")
        with run.phases.phase("commit"):
            run.sessions.commit(connection)
        reach("committed")
    return counts


def _create_dead(cursor: Any, target: TargetTable) -> None:
    cursor.execute(create_staging(narrow(target), Layout(target.key), name=TOMBSTONES, is_numbered=True))


def _send_missing(run: Run, cursor: Any) -> None:
    """COPY the missing keys that DuckDB has found."""
    _create_dead(cursor, run.target)
    layout = Layout((own_name(run.target, "etl_file"), own_name(run.target, "etl_n"), *run.target.key))
    texts = [quoted_where_needed(f"t{number}", ",") for number in range(len(run.target.key))]
    query = f"SELECT concat_ws(',', {NO_FILE}, 1, {', '.join(texts)}) AS record FROM missing"
    with run.workspace.cursor() as source:
        copy_records(cursor, source, query, copy_into(tombstone_table(), layout), on_bytes=run.on_bytes)


def _stage_missing(run: Run, cursor: Any) -> Missing:
    return _stage(cursor, run.spec, run.target, run.files, run.workspace, check=run.check)


def _stage(
    cursor: Any, spec: LoadSpec, target: TargetTable, files: Sequence[SourceFile], workspace: Workspace, *,
    check: Callable[[], None],
) -> Missing:  # fmt: skip
    """Stage the keys of all files, and let the server find those of the table that are not among them."""
    layout = Layout(target.key)
    staged = Identifier("pg_temp", _KEYS)
    # Without conditions: a row that is refused keeps all keys in the table later on.
    cursor.execute(
        SQL("CREATE TEMP TABLE {} ON COMMIT DROP AS SELECT {} FROM {} WITH NO DATA").format(
            Identifier(_KEYS), names(target.key), Identifier(target.schema, target.name)
        )
    )
    for file in files:
        with workspace.cursor() as source:
            query = records_query(file, layout)
            copy_records(cursor, source, query, copy_into(staged, layout), on_bytes=lambda *_: check())
    _create_dead(cursor, target)
    keys = SQL("SELECT {} FROM {}").format(key_items(target), staged)
    scoped = _present_in_scope(target, spec, files)
    columns = names(target.key)
    cursor.execute(SQL("ANALYZE {}").format(staged))
    cursor.execute(
        ours(
            target,
            "INSERT INTO {} (etl_file, etl_n, {}) SELECT {}, 1, {} FROM {} AND NOT EXISTS (SELECT FROM ({}) AS staged WHERE {})",
        ).format(
            tombstone_table(), columns, Literal(NO_FILE), columns, scoped, keys, match_keys(target, "present", "staged")
        )
    )
    missing = int(cursor.rowcount)
    cursor.execute(SQL("SELECT count(*) FROM {}").format(scoped))
    return Missing(missing, int(cursor.fetchone()[0]))
