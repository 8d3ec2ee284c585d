"""Why a row holds what it holds: the files of past runs that carried its key, which of their rows won, and by which rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
from psycopg2.sql import SQL, Identifier, Literal

from etl_toolkit.config import ParallelConfig
from etl_toolkit.errors import EtlError, UsageError
from etl_toolkit.keys import key_type
from etl_toolkit.loading import ledger
from etl_toolkit.loading.ledger import PastRun
from etl_toolkit.loading.session import Sessions
from etl_toolkit.model import ConflictAction, LoadSpec, SourceFile, TargetTable
from etl_toolkit.plan import match_columns
from etl_toolkit.sources import number_in_file, resolve, text_relation
from etl_toolkit.target import read_target
from etl_toolkit.workspace import Workspace, literal, open_workspace


@dataclass(frozen=True)
class Occurrence:
    """One row of a file of a run that carries the key. `record` counts the data records of the file from 0."""

    run_id: str
    file: str
    record: int
    values: Mapping[str, str | None]
    verdict: str


@dataclass(frozen=True)
class Explanation:
    """The row as it is now (None: not there), and every row of the latest runs that carried its key, newest first."""

    table: str
    key: Mapping[str, str]
    row: Mapping[str, str | None] | None
    occurrences: tuple[Occurrence, ...]
    notes: tuple[str, ...] = ()


def explain(
    dsn: str, table: str, key: Mapping[str, str], *, config: ParallelConfig | None = None, runs: int = 10
) -> Explanation:
    """Explain the row of `table` whose key columns have these texts, from the last `runs` complete runs.

    Raises TargetError for an unknown table or key, UsageError where a key column is missing.
    """
    config = config or ParallelConfig()
    sessions = Sessions(dsn, config, "explain")
    with sessions.session("explain") as connection:
        target = read_target(connection, table, tuple(key))
        row = _present_row(connection, target, key)
        past = ledger.past_runs(connection, target=target.qualified_name, limit=runs)
    past = [run for run in past if run.target_oid == target.oid]  # not of an earlier table of this name
    occurrences: list[Occurrence] = []
    notes: list[str] = []
    decided = False
    for run in past:
        if run.status != "complete":
            notes.append(f"run {run.run_id} is {run.status}: some of its batches may have been written")
        found = _occurrences_in(run, target, key, config, notes)
        occurrences += _judged(found, run, decided=decided)
        decided = decided or bool(found)
    if row is not None and not occurrences:
        notes.append(
            "no file of the runs looked at carries this key: the row was written by something else, or earlier"
        )
    return Explanation(target.qualified_name, dict(key), row, tuple(occurrences), tuple(notes))


def parse_key(texts: Sequence[str]) -> dict[str, str]:
    """Turn `id=42` or `a=1,b=2` into a mapping. Raises UsageError where there is no `=`."""
    pairs = [part for text in texts for part in text.split(",")]
    if any("=" not in pair for pair in pairs):
        raise UsageError("a key is given as COLUMN=VALUE, for example --key id=42 (or --key a=1 --key b=2)")
    return {name.strip(): value for name, _, value in (pair.partition("=") for pair in pairs)}


def _present_row(connection: Any, target: TargetTable, key: Mapping[str, str]) -> dict[str, str | None] | None:
    condition = SQL(" AND ").join(
        SQL("{} = {}::{}").format(Identifier(name), Literal(value), SQL(target.column(name).type))
        for name, value in key.items()
    )
    texts = SQL(", ").join(SQL("{}::text").format(Identifier(column.name)) for column in target.columns)
    with connection.cursor() as cursor:
        cursor.execute(
            SQL("SELECT {} FROM {} WHERE {}").format(texts, Identifier(target.schema, target.name), condition)
        )
        found = cursor.fetchone()
    return dict(zip((column.name for column in target.columns), found, strict=True)) if found else None


def _occurrences_in(
    run: PastRun, target: TargetTable, key: Mapping[str, str], config: ParallelConfig, notes: list[str]
) -> list[tuple[SourceFile, int, dict[str, str | None]]]:
    """The rows of a run's files with this key, in loading order."""
    there = [(name, content) for _, name, content in run.files if Path(name).exists()]
    for _, name, _ in run.files:
        if not Path(name).exists():
            notes.append(f"run {run.run_id}: {name} is not there any more")
    if not there:
        return []
    spec = LoadSpec.from_mapping(run.spec)
    with open_workspace(config, threads=2) as workspace:
        try:
            names = [name for name, _ in there]
            sources = resolve(
                names, spec.read, workspace, max_rejects=spec.max_rejects, max_line_bytes=config.max_line_bytes
            )
            files = match_columns(sources.files, target, spec)
            contents = dict(there)
            rows = []
            for file in files:
                if contents.get(file.name) != file.content_hash:
                    notes.append(f"run {run.run_id}: {file.name} has changed since")
                    continue
                rows += [(file, number, values) for number, values in _rows_with_key(file, target, key, workspace)]
            return rows
        except (EtlError, duckdb.Error) as error:
            notes.append(f"run {run.run_id}: its files cannot be read again: {error}")
            return []


def _rows_with_key(
    file: SourceFile, target: TargetTable, key: Mapping[str, str], workspace: Workspace
) -> list[tuple[int, dict[str, str | None]]]:
    names = [name for name in file.columns if any(column.name == name for column in target.columns)]
    relation, texts = text_relation(file, names, workspace)
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
        f"SELECT * FROM (SELECT row_number() OVER () - 1 AS number, {columns} FROM {relation}) WHERE {' AND '.join(conditions)}"
    )
    return [(number_in_file(file, row[0]), dict(zip(names, row[1:], strict=True))) for row in rows]


def _judged(
    found: list[tuple[SourceFile, int, dict[str, str | None]]], run: PastRun, *, decided: bool
) -> list[Occurrence]:
    """Say of each row of one run whether it won and why; the latest first."""
    spec = LoadSpec.from_mapping(run.spec)
    if not found:
        return []
    winner = _winner(found, spec)
    rule = _rule(spec, len(found), several_files=len({file.position for file, _, _ in found}) > 1)
    occurrences = []
    for index, (file, number, values) in enumerate(found):
        verdict = (
            f"won: {rule}" if index == winner else f"lost to {found[winner][0].name}, record {found[winner][1] + 1}"
        )
        if decided and index == winner:
            verdict = "won its run; a later run won over it"
        occurrences.append(Occurrence(run.run_id, file.name, number, values, verdict))
    return occurrences[::-1]


def _winner(found: list[tuple[SourceFile, int, dict[str, str | None]]], spec: LoadSpec) -> int:
    if spec.conflict_action is ConflictAction.IGNORE:
        return 0
    if spec.order_by is None:
        return len(found) - 1
    values = [row.get(spec.order_by) for _, _, row in found]

    def rank(index: int) -> tuple[bool, Any, int]:
        value = values[index]
        try:
            return (value is not None, float(value or 0), index)
        except ValueError:
            return (value is not None, value or "", index)

    try:
        return max(range(len(found)), key=rank)
    except TypeError:
        return max(range(len(found)), key=lambda index: (values[index] is not None, str(values[index]), index))


def _rule(spec: LoadSpec, rows: int, *, several_files: bool) -> str:
    if rows == 1:
        return "the only row with this key"
    if spec.conflict_action is ConflictAction.IGNORE:
        return "the first row with a key is kept (on-conflict ignore)"
    if spec.order_by:
        return f"the greatest {spec.order_by} wins, ties go to the last row"
    return "the last row of the last file wins" if several_files else "the last row of the file wins"
