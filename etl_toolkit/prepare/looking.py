"""The table of a load: created, changed or only looked at, and the files as they fit it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from etl_toolkit.columns import match_columns, may_read_once
from etl_toolkit.create import create_missing
from etl_toolkit.drift import Change, add_columns, widen_columns
from etl_toolkit.keys import fold_name
from etl_toolkit.loading.assertions import check_expressions
from etl_toolkit.loading.conventions import offsets_at
from etl_toolkit.loading.ledger import loaded_before, staging_refusal, taken_files
from etl_toolkit.loading.session import Sessions
from etl_toolkit.loading.tombstones import describe_references, reference_hazards
from etl_toolkit.loading.writable import is_standby
from etl_toolkit.model import (
    ConflictAction,
    LoadedBefore,
    LoadSpec,
    SourceFile,
    Sources,
    TargetTable,
)
from etl_toolkit.sources import (
    leave_out_taken,
    read_once,
    with_offsets,
)
from etl_toolkit.target import fire_once, read_target
from etl_toolkit.workspace import Workspace
from etl_toolkit.write_rules import relax, spell_write_options


@dataclass(frozen=True)
class FoundTable:
    """What the catalog says, and the files as they fit it."""

    created: str | None
    target: TargetTable
    spec: LoadSpec
    sources: Sources
    refusal: str
    is_standby: bool
    loaded_before: tuple[LoadedBefore, ...]
    references: Sequence[str] = ()
    changes: Sequence[Change] = ()
    is_missing: bool = False  # as the files need it: what a trial has created or changed is not there any more

    @property
    def changed_sql(self) -> str | None:
        """The statements that create or change it."""
        return self.created or "; ".join(change.statement for change in self.changes) or None


def look_at_table(
    sources: Sources, spec: LoadSpec, workspace: Workspace, sessions: Sessions, connection: Any, *,
    is_resumed: bool, is_trial: bool,
) -> FoundTable:  # fmt: skip
    """Create or change the table if that is requested, and read it from the catalog; a trial rolls that back."""
    created = create_missing(connection, spec, sources.files, workspace) if spec.create_table else None
    target = read_target(connection, spec.table, spec.key)
    added = widened = None
    if spec.write.new_columns == "add" and not created:
        added = add_columns(connection, spec, target, sources.files, workspace)
        target = read_target(connection, spec.table, spec.key) if added else target
    order_by = spec.order_by and fold_name(spec.order_by, (column.name for column in target.columns))
    spec = spell_write_options(replace(spec, key=target.key, order_by=order_by), target)
    if spec.write.widen and not created:
        matched = localize_instants(match_columns(sources.files, target, spec), connection, workspace)
        target, widened = widen_columns(connection, spec, target, matched, workspace, is_trial=is_trial)
        target = read_target(connection, spec.table, spec.key) if widened and not is_trial else target
    changes = [change for change in (added, widened) if change]
    if spec.write.triggers == "once":
        target = fire_once(target)
    if spec.write.delete and not spec.write.delete.soft:
        with connection.cursor() as cursor:
            target = replace(target, hazards=(*target.hazards, *reference_hazards(cursor, target)))
    sources = replace(
        sources, files=localize_instants(match_columns(sources.files, target, spec), connection, workspace)
    )
    if spec.write.loaded == "skip" and not is_resumed:  # what is resumed is what the ledger lists
        contents = [file.content_hash for file in sources.files]
        taken = {file.content_hash: file for file in taken_files(connection, target.oid, contents)}
        sources = leave_out_taken(sources, taken, workspace)
    target = relax(target, spec, sources.files)
    if not is_resumed and may_read_once(sources.files, target, spec):  # what is resumed is what the ledger lists
        is_first_kept = spec.conflict_action is ConflictAction.IGNORE
        sources = read_once(sources, workspace, is_first_kept=is_first_kept)
    check_expressions(connection, target, spec.write, sources.files)
    refusal = staging_refusal(connection)
    if changes and not is_trial:
        sessions.commit(connection, note=f"columns of {target.qualified_name} were added or widened")
    if created and not is_trial:
        # Else the table is gone with the session, and was only needed to be read.
        sessions.commit(connection, note=f"the table {target.qualified_name} was created")
    may_turn_back = not created and not spec.force and spec.conflict_action is ConflictAction.UPDATE
    before = loaded_before(connection, target.oid, sources.files) if may_turn_back else ()
    references: Sequence[str] = ()
    if spec.write.deletes:
        with connection.cursor() as cursor:
            references = describe_references(cursor, target)
    return FoundTable(
        created, target, spec, sources, refusal, is_standby(connection), before, references, changes,
        is_missing=is_trial and (created is not None or bool(changes)),
    )  # fmt: skip


def localize_instants(files: tuple[SourceFile, ...], connection: Any, workspace: Workspace) -> tuple[SourceFile, ...]:
    """The files, with the offsets of the session's zone where instants of theirs become local times."""
    with connection.cursor() as cursor:
        return with_offsets(files, workspace, partial(offsets_at, cursor))
