"""Where a row comes from: the files of past runs that contained its key, which of their rows won, and by which rule."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
from psycopg2.sql import SQL, Identifier, Literal

from etl_toolkit.columns import match_columns
from etl_toolkit.config import ParallelConfig
from etl_toolkit.errors import EtlError, UsageError, driver_errors_mapped
from etl_toolkit.keys import key_type
from etl_toolkit.loading import ledger
from etl_toolkit.loading.conventions import PRINTED, set_locally
from etl_toolkit.loading.ledger import PastRun
from etl_toolkit.loading.session import Sessions
from etl_toolkit.model import ConflictAction, Delete, LoadSpec, Reject, SourceFile, TargetTable
from etl_toolkit.prepare import localize_instants
from etl_toolkit.sources import is_there, locate, number_in_file, resolve, text_relation, tombstone_expression
from etl_toolkit.stopping import Stop, run_stoppable
from etl_toolkit.target import read_target
from etl_toolkit.workspace import Workspace, literal, open_workspace


@dataclass(frozen=True)
class Occurrence:
    """One row of a file of a run that carries the key.

    `record` counts the data records of the file from 0, `line` its lines from 1 (None where the file has no lines).
    """

    run_id: str
    file: str
    record: int
    values: Mapping[str, str | None]
    verdict: str
    line: int | None = None

    @property
    def place(self) -> str:
        """The name of the file, and where the row is in it."""
        where = f"line {self.line:,}" if self.line is not None else f"record {self.record + 1:,}"
        return f"{Path(self.file).name}, {where}"


@dataclass(frozen=True)
class Explanation:
    """The row as it is now (None: not there), and every row of the latest runs that carried its key, newest first."""

    table: str
    key: Mapping[str, str]
    row: Mapping[str, str | None] | None
    occurrences: tuple[Occurrence, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Row:
    """One row of a file, by the number of its record and its line."""

    file: SourceFile
    number: int
    line: int | None
    values: dict[str, str | None]
    is_gone: bool  # a tombstone


@dataclass(frozen=True)
class _Candidate:
    """One row of a file with the key, and why it had no part in the outcome (`out`).

    It `is_partial` if the row of the table need not have its values.
    """

    run_id: str
    file: str
    record: int
    values: Mapping[str, str | None]
    out: str | None
    key: tuple[str, ...] = ()
    is_gone: bool = False  # a tombstone
    is_partial: bool = False
    line: int | None = None

    @property
    def place(self) -> str:
        return f"{self.file}, record {self.record + 1}"


def explain(
    dsn: str, table: str, key: Mapping[str, str], *, config: ParallelConfig | None = None, runs: int = 10
) -> Explanation:
    """Explain the row of `table` whose key columns have these texts, from the last `runs` complete runs.

    Raises TargetError for an unknown table or key, UsageError where a key column is missing.
    """
    config, stop = config or ParallelConfig(), Stop()
    sessions = Sessions(dsn, config, "explain", stop=stop)
    with stop.calling(sessions.cancel_all):
        return run_stoppable(lambda: _explain(sessions, table, key, config=config, runs=runs), stop)


def _explain(
    sessions: Sessions, table: str, key: Mapping[str, str], *, config: ParallelConfig, runs: int
) -> Explanation:
    doing = f"explaining a row of {table}"
    with driver_errors_mapped(doing=doing), sessions.session("explain") as connection:
        target = read_target(connection, table, tuple(key))
        key = dict(zip(target.key, key.values(), strict=True))
        row = _present_row(connection, target, key)
        as_read = row
        past = ledger.past_runs(connection, target=target.qualified_name, limit=runs)
        past = [run for run in past if run.target_oid == target.oid]  # not of an earlier table of this name
        notes: list[str] = [
            f"keys in files are compared by their spelling, because only the server can compare values of {name}"
            for name in key
            if key_type(target.column(name)) is None
        ]
        found = []
        for run in past:
            _read_as(connection, run)
            rows = _rows_of(connection, run, target, key, config=config, notes=notes, stop=sessions.stop)
            found.append((run, _candidates(connection, run, rows, notes)))
        occurrences, holder = _judge_rows(connection, target, found)
        if holder is not None:
            _read_as(connection, next(run for run in past if run.run_id == holder.run_id))
            as_read = _present_row(connection, target, key)
        if holder is not None and not holder.is_partial and as_read != _as_stored(connection, target, as_read, holder):
            notes.append(
                "the row differs from the files: it existed before, or something else has written or deleted it since"
            )
    if row is not None and not occurrences:
        notes.append(
            "no file of the runs examined contains this key: the row was written by something else, or earlier"
        )
    return Explanation(target.qualified_name, dict(key), row, tuple(occurrences), tuple(notes))


def parse_key(texts: Sequence[str]) -> dict[str, str]:
    """Turn `id=42` or `a=1,b=2` into a mapping. Raises UsageError where there is no `=`."""
    pairs = [part for text in texts for part in re.split(r",(?=[^,=]+=)", text)]  # a value may hold a comma
    if any("=" not in pair for pair in pairs):
        raise UsageError("a key is given as COLUMN=VALUE, for example --key id=42 (or --key a=1 --key b=2)")
    return {name.strip(): value for name, _, value in (pair.partition("=") for pair in pairs)}


def _present_row(connection: Any, target: TargetTable, key: Mapping[str, str]) -> dict[str, str | None] | None:
    equality = dict(zip(target.arbiter.expressions, target.arbiter.equality, strict=True))
    condition = SQL(" AND ").join(
        SQL("{} {} {}::{}").format(
            column, SQL(equality.get(name) or equality.get(column.as_string(connection), "=")), Literal(value),
            SQL(target.column(name).type),
        )
        for name, value in key.items()
        for column in [Identifier(name)]
    )  # fmt: skip
    if target.arbiter.predicate:
        condition += SQL(" AND ({})").format(SQL(target.arbiter.predicate))
    texts = SQL(", ").join(SQL("{}::text").format(Identifier(column.name)) for column in target.columns)
    with connection.cursor() as cursor:
        cursor.execute(
            SQL("SELECT {} FROM {} WHERE {}").format(texts, Identifier(target.schema, target.name), condition)
        )
        found = cursor.fetchone()
    return dict(zip((column.name for column in target.columns), found, strict=True)) if found else None


def _read_as(connection: Any, run: PastRun) -> None:
    """Read texts, and print values, as the run did, until the next one or the end of the transaction."""
    with connection.cursor() as cursor:
        set_locally(cursor, run.plan.get("conventions", PRINTED))


def _rows_of(
    connection: Any, run: PastRun, target: TargetTable, key: Mapping[str, str], *, config: ParallelConfig, notes: list[str],
    stop: Stop,
) -> list[_Row]:  # fmt: skip
    """The rows of a run's files with this key, in loading order."""
    there = [file for file in run.files if is_there(file[1])]
    for _, name, _ in run.files:
        if not is_there(name):
            notes.append(f"run {run.run_id}: {name} no longer exists")
    if not there:
        return []
    spec = LoadSpec.from_mapping(run.spec)
    with open_workspace(config, threads=2, stop=stop) as workspace:
        try:
            names = [name for _, name, _ in there]
            sources = resolve(
                names, spec.read, workspace, max_rejects=spec.max_rejects, max_line_bytes=config.max_line_bytes
            )
            files = localize_instants(match_columns(sources.files, target, spec), connection, workspace)
            rows: list[_Row] = []
            for file, (position, _, content) in zip(files, there, strict=True):
                if content != file.content_hash:
                    notes.append(f"run {run.run_id}: {file.name} has changed since")
                    continue
                recorded = replace(file, position=position)
                found = _rows_with_key(file, target, key, spec.write.delete, workspace)
                lines = _lines_of(file, [number for number, _, _ in found], workspace, config)
                rows += [_Row(recorded, number, lines[number], values, gone) for number, values, gone in found]
            return rows
        except (EtlError, duckdb.Error) as error:
            stop.check()
            notes.append(f"run {run.run_id}: its files cannot be read again: {error}")
            return []


def _rows_with_key(
    file: SourceFile, target: TargetTable, key: Mapping[str, str], delete: Delete | None, workspace: Workspace
) -> list[tuple[int, dict[str, str | None], bool]]:
    names = [name for name in file.carried if any(column.name == name for column in target.columns)]
    relation, texts = text_relation([file], [*names, *([delete.column] if delete else [])])
    gone = tombstone_expression(texts.pop(), delete) if delete else "false"
    conditions = []
    for name, value in key.items():
        kind = key_type(target.column(name))
        text = f"c{names.index(name)}"
        if kind is None or kind.grammar is None:
            conditions.append(f"{text} = {literal(value)}")
        else:
            conditions.append(
                f"TRY_CAST({text} AS {kind.duckdb_type}) = TRY_CAST({literal(value)} AS {kind.duckdb_type})"
            )
    columns = ", ".join(f"{text} AS c{number}" for number, text in enumerate(texts))
    rows = workspace.query(
        f"SELECT * FROM (SELECT row_number() OVER () - 1 AS number, {gone} AS gone, {columns} FROM {relation}) "
        f"WHERE {' AND '.join(conditions)}"
    )
    return [(number_in_file(file, row[0]), dict(zip(names, row[2:], strict=True)), row[1]) for row in rows]


def _lines_of(
    file: SourceFile, numbers: Sequence[int], workspace: Workspace, config: ParallelConfig
) -> dict[int, int | None]:
    """The lines of some records of a file."""
    asked = [Reject(file.position, number, None, "", "", "") for number in numbers]
    return {item.record: item.line for item in locate(file, asked, workspace, max_line_bytes=config.max_line_bytes)}


def _candidates(connection: Any, run: PastRun, rows: Sequence[_Row], notes: list[str]) -> list[_Candidate]:
    """The rows of a run, each with the reason why it had no part in the outcome, if there is one."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT file, record, reason FROM etl_toolkit.rejects WHERE run_id = %s", (run.run_id,))
        refused = {
            (file, record): reason
            for file, record, reason in ledger.read(cursor.fetchall(), ledger.encoding_of(connection))
        }
        cursor.execute(
            "SELECT DISTINCT per_file.position::int FROM etl_toolkit.batches "
            "CROSS JOIN LATERAL jsonb_object_keys(counts) AS per_file (position) WHERE run_id = %s",
            (run.run_id,),
        )
        loaded = {position for (position,) in cursor.fetchall()}
    if run.status not in ("complete", "undone"):
        notes.append(f"run {run.run_id} is {run.status}: some of its batches may have been written")
    found = []
    write = LoadSpec.from_mapping(run.spec).write
    is_partial = write.keeps_values or write.rows == "update" or bool(write.delete and write.delete.soft)
    for row in rows:
        at = (row.file.position, row.number)
        out = f"rejected: {refused[at]}" if at in refused else None
        if run.status == "undone":
            out = "its run was undone"
        elif run.status != "complete" and row.file.position not in loaded:
            out = "its file was not loaded"
        found.append(
            _Candidate(
                run.run_id,
                row.file.name,
                row.number,
                row.values,
                out,
                tuple(run.spec["key"]),
                row.is_gone,
                is_partial,
                row.line,
            )
        )
    return found


def _judge_rows(
    connection: Any, target: TargetTable, found: Sequence[tuple[PastRun, Sequence[_Candidate]]]
) -> tuple[list[Occurrence], _Candidate | None]:
    """Say of each row, the latest first, whether it won and why; and which one the table should hold now."""
    holder: _Candidate | None = None
    verdicts: dict[int, str] = {}
    for run, rows in reversed(found):  # the oldest run first
        _read_as(connection, run)
        spec = LoadSpec.from_mapping(run.spec)
        competing = [row for row in rows if row.out is None]
        if not competing:
            continue
        winner = competing[_winner(connection, target, spec, competing)]
        verdicts |= {id(row): f"lost to {winner.place}" for row in competing}
        if holder is not None and not _prevails(connection, target, spec, [holder, winner]):
            verdicts[id(winner)] = (
                f"won its run, and lost to {holder.place}, which was already there: {spec.conflict_action}"
            )
            continue
        if holder is not None:
            verdicts[id(holder)] = f"won its run; {winner.place} of a later run won over it"
        files = len({row.file for row in competing})
        verdicts[id(winner)] = f"won: {_rule(spec, len(competing), several_files=files > 1)}{_effect(spec, winner)}"
        holder = winner
    occurrences = [
        Occurrence(row.run_id, row.file, row.record, row.values, row.out or verdicts[id(row)], row.line)
        for _, rows in found
        for row in reversed(rows)
    ]
    return occurrences, holder


def _winner(connection: Any, target: TargetTable, spec: LoadSpec, rows: Sequence[_Candidate]) -> int:
    """The place of the row that wins among those of one run, in loading order."""
    if spec.conflict_action is ConflictAction.IGNORE:
        return 0
    ranks = _ranks(connection, target, spec.order_by, rows)
    return max(range(len(rows)), key=lambda place: (ranks[place], place))


def _prevails(connection: Any, target: TargetTable, spec: LoadSpec, rows: Sequence[_Candidate]) -> bool:
    """Whether the second row, of a load, takes the place of the first one, which is in the table."""
    if spec.conflict_action is ConflictAction.NEWER:
        there, loaded = _ranks(connection, target, spec.order_by, rows)
        return loaded >= there
    return spec.conflict_action is ConflictAction.UPDATE


def _ranks(connection: Any, target: TargetTable, order_by: str | None, rows: Sequence[_Candidate]) -> list[int]:
    """How the values of the order column compare, by the server, NULL lowest; all alike where there is no such column."""
    if order_by is None:
        return [0] * len(rows)
    statement = SQL(
        "SELECT dense_rank() OVER (ORDER BY value::{} NULLS FIRST) FROM unnest({}::text[]) WITH ORDINALITY AS t (value, n) "
        "ORDER BY n"
    ).format(SQL(target.column(order_by).type), Literal([row.values.get(order_by) for row in rows]))
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return [rank for (rank,) in cursor.fetchall()]


def _as_stored(
    connection: Any, target: TargetTable, row: Mapping[str, str | None] | None, holder: _Candidate
) -> dict[str, str | None] | None:
    """The row as it would be with the values of a file's row, each as its column spells it; the key stays as it is."""
    if holder.is_gone:
        return None
    if row is None:
        return {}
    names = [name for name in holder.values if name in row and name not in holder.key]
    texts = [SQL("{}::{}::text").format(Literal(holder.values[name]), SQL(target.column(name).type)) for name in names]
    with connection.cursor() as cursor:
        cursor.execute(SQL("SELECT {}").format(SQL(", ").join(texts or [SQL("NULL")])))
        return {**row, **dict(zip(names, cursor.fetchone(), strict=False))}


def _effect(spec: LoadSpec, winner: _Candidate) -> str:
    """What a row does beyond being written, with options of writing."""
    if winner.is_gone:
        soft = spec.write.delete and spec.write.delete.soft
        return (
            f"; it is a tombstone, and marks the row in {soft}" if soft else "; it is a tombstone, and deletes the key"
        )
    if spec.write.keeps_values:
        return "; columns that it does not set keep what earlier rows gave them (update, insert_only, nulls)"
    return ""


def _rule(spec: LoadSpec, rows: int, *, several_files: bool) -> str:
    if rows == 1:
        return "the only row with this key"
    if spec.conflict_action is ConflictAction.IGNORE:
        return "the first row with a key is kept (on-conflict ignore)"
    if spec.order_by:
        return f"the greatest {spec.order_by} wins, ties go to the last row"
    return "the last row of the last file wins" if several_files else "the last row of the file wins"
