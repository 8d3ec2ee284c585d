"""Which of the rows with a key won, and by which rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg2.sql import SQL, Literal

from etl_toolkit.explain.explanation import Candidate, Occurrence
from etl_toolkit.explain.present import read_as
from etl_toolkit.loading.ledger import PastRun
from etl_toolkit.model import ConflictAction, LoadSpec, TargetTable


def judge_rows(
    connection: Any, target: TargetTable, found: Sequence[tuple[PastRun, Sequence[Candidate]]]
) -> tuple[list[Occurrence], Candidate | None]:
    """Say of each row, the latest first, whether it won and why; and which one the table should hold now."""
    holder: Candidate | None = None
    verdicts: dict[int, str] = {}
    for run, rows in reversed(found):  # the oldest run first
        read_as(connection, run)
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


def _winner(connection: Any, target: TargetTable, spec: LoadSpec, rows: Sequence[Candidate]) -> int:
    """The place of the row that wins among those of one run, in loading order."""
    if spec.conflict_action is ConflictAction.IGNORE:
        return 0
    ranks = _ranks(connection, target, spec.order_by, rows)
    return max(range(len(rows)), key=lambda place: (ranks[place], place))


def _prevails(connection: Any, target: TargetTable, spec: LoadSpec, rows: Sequence[Candidate]) -> bool:
    """Whether the second row, of a load, takes the place of the first one, which is in the table."""
    if spec.conflict_action is ConflictAction.NEWER:
        there, loaded = _ranks(connection, target, spec.order_by, rows)
        return loaded >= there
    return spec.conflict_action is ConflictAction.UPDATE


def _ranks(connection: Any, target: TargetTable, order_by: str | None, rows: Sequence[Candidate]) -> list[int]:
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


def _effect(spec: LoadSpec, winner: Candidate) -> str:
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
