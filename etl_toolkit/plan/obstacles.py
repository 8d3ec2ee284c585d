"""What stands between a load and a strategy: where it would not give the sequential result, and why."""

from __future__ import annotations

from collections.abc import Sequence

from etl_toolkit.columns import order_type
from etl_toolkit.model import KeyOverlap, Strategy
from etl_toolkit.plan.question import Question
from etl_toolkit.row_checks import half_read_checks, whole_row_checks
from etl_toolkit.write_rules import count_origins

ROWS_MEET = "rows that a later row replaces leave values behind, so all rows are sent and the server puts them together"


def find_obstacles(question: Question) -> dict[Strategy, str]:
    """For each strategy that would not give the sequential result here, why."""
    if question.sequential:
        detail = "; ".join(f"{hazard.kind}: {hazard.detail}" for hazard in question.sequential)
        return dict.fromkeys((Strategy.FULL_PARALLEL, Strategy.HYBRID, Strategy.PARTITIONED), detail)
    obstacles: dict[Strategy, str] = {}
    if reason := question.server_reason:
        disjoint = (Strategy.FULL_PARALLEL, Strategy.HYBRID)
        obstacles |= dict.fromkeys(disjoint, f"files cannot be proven disjoint: {reason}")
    elif question.overlap is not None and question.overlap.shared_keys:
        sharing = _describe_sharing(question.overlap)
        obstacles[Strategy.FULL_PARALLEL] = f"files overlap: {sharing}, and whichever commits last would win"
    if obstacle := _find_partition_obstacle(question):
        obstacles[Strategy.PARTITIONED] = obstacle
    return obstacles


def find_range_obstacle(question: Question) -> str:
    """Why the client cannot collapse these files and divide them into key ranges; empty where it can."""
    return question.server_reason or find_obstacles(question).get(Strategy.PARTITIONED, "")


def _find_partition_obstacle(question: Question) -> str:
    """Why rows cannot be collapsed across files, though nothing couples rows of different keys; empty where they can."""
    target, layout, order_by = question.target, question.layout, question.spec.order_by
    if question.server_reason and question.staging_refusal:
        return f"{question.server_reason}, and {question.staging_refusal}"
    if obstacle := _find_writing_obstacle(question):
        return obstacle
    if layout is None:
        return "the files have different columns, so rows cannot be collapsed across files"
    if not target.is_empty and (half_read := half_read_checks(target, layout)):
        reads = ", ".join(name for name in half_read[0].columns if name not in layout.columns)
        return (
            f"{half_read[0].name or 'an expression of the table'} reads columns that are not in the files ({reads}), so "
            "a row that loses to a later file may be refused because of the row in the table"
        )
    if whole := whole_row_checks(target):
        return f"{whole[0].name} reads the whole row, so a row that loses to a later file cannot be checked without writing it"
    if order_by and question.key_path == "client" and order_type(target.column(order_by)) is None:
        return f"only the server can order {target.column(order_by).type} values"
    return ""


def _find_writing_obstacle(question: Question) -> str:
    """Why an option of writing needs files to be loaded in order, empty where it does not."""
    spec, overlap = question.spec, question.overlap
    is_server = question.key_path == "server"
    may_share = len(question.files) > 1 and (is_server or overlap is None or overlap.shared_keys > 0)
    if spec.write.set and not spec.order_by and may_share:
        return "set says which file changed a row last, so files that may share keys are loaded in order"
    if reads := _mixed_columns(question):
        return f"{' and '.join(reads)} may come from different rows or options, and the table has a rule about them"
    if question.rows_meet and question.staging_refusal and (is_server or not question.may_compose):
        return f"{ROWS_MEET}, and {question.staging_refusal}"
    return ""


def _mixed_columns(question: Question) -> Sequence[str]:
    """The columns of a CHECK, foreign key or expression that do not all come from one row of the files.

    They come from several rows of a key, the one in the table included, or from an option. File by file, each row on the way is
    judged; put together, the last one alone, and as a row to insert.
    """
    spec, target = question.spec, question.target
    given = {*spec.write.set, spec.write.cleared}
    keeps_values = spec.write.keeps_values and (question.rows_meet or not target.is_empty)
    plain = {column.name: column.reads or (column.name,) for column in target.columns}
    for read in [*(check.columns for check in target.checks), *(key.columns for key in target.foreign_keys)]:
        columns = list(dict.fromkeys(source for name in read for source in plain.get(name, (name,))))
        if given.intersection(columns) or (keeps_values and count_origins(spec, target, columns) > 1):
            return [name for name in columns if name not in target.key]
    return ()


def _describe_sharing(overlap: KeyOverlap) -> str:
    """Which files share the most keys; if there are too many pairs to count, how many keys are shared."""
    if not overlap.pairs:
        return f"{overlap.shared_keys:,} keys appear in more than one file"
    (left, right), keys = max(overlap.pairs.items(), key=lambda item: item[1])
    return f"{overlap.file_at[left].name} and {overlap.file_at[right].name} share {keys:,} keys"
