"""How the rows of a run meet the table, and what the columns get that no file has."""

from __future__ import annotations

from psycopg2.sql import SQL, Composable, Literal

from etl_toolkit.loading.merge import Upsert
from etl_toolkit.loading.naming import ours
from etl_toolkit.loading.run import Run
from etl_toolkit.loading.tripwire import Rivals
from etl_toolkit.model import Layout


def upsert_of(
    run: Run, layout: Layout, *, unique: bool = False, in_key_order: bool = False, several_files: bool = False,
    rivals: Rivals | None = None,
) -> Upsert:  # fmt: skip
    """The upsert of rows that are staged for a run; for the rest see `Upsert`."""
    spec = run.spec
    return Upsert(
        run.target, layout, spec.conflict_action, spec.order_by, unique=unique, sorted=in_key_order, several_files=several_files,
        undoable=spec.undoable, rivals=rivals, write=spec.write, marks=written_marks(run),
    )  # fmt: skip


def written_marks(run: Run) -> dict[str, Composable]:
    """What the columns get that no file has, each an expression over a staged row."""
    write, target = run.spec.write, run.target
    marks: dict[str, Composable] = {}
    if write.cleared:
        kind = target.column(write.cleared)
        is_marked = "etl_gone" if write.delete and write.delete.soft else "false"
        mark = is_marked if kind.base_type == "bool" else f"CASE WHEN {is_marked} THEN pg_catalog.now() END"
        marks[write.cleared] = ours(target, f"({mark})::{{}}").format(SQL(kind.type))
    for name, text in write.set.items():
        value: Composable = Literal(run.run_id if text == "$run" else text)
        if text == "now()":
            value = SQL("pg_catalog.now()")
        elif text == "$file":
            names = {file.position: file.name for file in run.files}
            by_position = [names.get(at) for at in range(max(names, default=-1) + 1)]
            value = ours(target, "({}::text[])[etl_file + 1]").format(Literal(by_position))
        marks[name] = SQL("{}::{}").format(value, SQL(target.column(name).type))
    return marks
