"""The rows of past runs that carried a key, read from their files again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import duckdb

from etl_toolkit.columns import match_columns
from etl_toolkit.config import ParallelConfig
from etl_toolkit.errors import EtlError
from etl_toolkit.explain.explanation import Candidate
from etl_toolkit.keys import key_type
from etl_toolkit.loading import ledger
from etl_toolkit.loading.ledger import PastRun
from etl_toolkit.model import Delete, LoadSpec, Reject, SourceFile, TargetTable
from etl_toolkit.prepare import localize_instants
from etl_toolkit.sources import is_there, locate, number_in_file, resolve, text_relation, tombstone_expression
from etl_toolkit.stopping import Stop
from etl_toolkit.workspace import Workspace, literal, open_workspace


@dataclass(frozen=True)
class _Row:
    """One row of a file, by the number of its record and its line."""

    file: SourceFile
    number: int
    line: int | None
    values: dict[str, str | None]
    is_gone: bool  # a tombstone


def read_rows(
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


def find_candidates(connection: Any, run: PastRun, rows: Sequence[_Row], notes: list[str]) -> list[Candidate]:
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
            Candidate(
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
