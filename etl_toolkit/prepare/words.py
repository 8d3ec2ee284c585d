"""What the plan says about files and table beyond the choice of a strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from etl_toolkit.create import marks_only
from etl_toolkit.loading.conventions import conventions_in_words
from etl_toolkit.model import (
    Plan,
    SourceFile,
    TargetTable,
)
from etl_toolkit.prepare.looking import FoundTable
from etl_toolkit.sources import (
    escape_name,
    reading_in_words,
)

STANDBY = (
    "the server is a standby, which has no temporary tables, so no rows were tried out: the plan does not show which rows would "
    "change or be refused; load on its primary"
)


def with_words(
    plan: Plan, found: FoundTable, files: tuple[SourceFile, ...], harmless: Sequence[str], conventions: Mapping[str, str],
    *, is_trial: bool,
) -> Plan:  # fmt: skip
    """The plan with what was found out about files and table."""
    sources = found.sources
    reasons = [*plan.reasons, *found.references, *harmless]
    if is_trial:
        reasons += _changes_in_words(found)
    if found.is_standby:
        reasons.append(STANDBY)
    plan = replace(
        plan, duplicates=sources.duplicates, skipped=sources.skipped, loaded_before=found.loaded_before,
        reasons=tuple(reasons), added=tuple(name for change in found.changes for name in change.added),
        widened={name: kind for change in found.changes for name, kind in change.widened.items()},
    )  # fmt: skip
    return with_words_on_values(plan, files, found.target, conventions)


def _changes_in_words(found: FoundTable) -> list[str]:
    """Say how the table would be created or changed."""
    words = [
        f"columns would be {'added' if change.added else 'widened'}: {change.statement}" for change in found.changes
    ]
    if found.created:
        without = f" (without {mark}, which only marks deleted rows)" if (mark := marks_only(found.spec)) else ""
        words.append(f"the table does not exist and would be created{without}: {' '.join(found.created.split())}")
    return words


def _marks_in_words(files: Sequence[SourceFile]) -> list[str]:
    """Say of the first file that has such a field that a backslash and N are loaded as they are."""
    return [
        f"{escape_name(file.name)}, line {file.marked_line:,}: a field is \\N, which is loaded as these characters; if it is NULL, "
        "load with --read 'null=\\N'"
        for file in files
        if file.marked_line is not None
    ][:1]


def with_words_on_values(
    plan: Plan, files: tuple[SourceFile, ...], target: TargetTable, conventions: Mapping[str, str]
) -> Plan:
    """The plan with what is said of the values: those that paths carry, and the settings under which texts are read."""
    plan = replace(plan, reasons=(*plan.reasons, *reading_in_words(files), *_marks_in_words(files)))
    if of_paths := sorted({name for file in files for name, _ in file.path_values}):
        reason = f"{', '.join(of_paths)} of a row is what the directory of its file says"
        plan = replace(plan, reasons=(*plan.reasons, reason))
    if words := conventions_in_words(files, target, conventions):
        plan = replace(plan, reasons=(*plan.reasons, words))
    return plan
