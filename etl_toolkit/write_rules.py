"""What the options of writing ask of a table and its files: their columns, and how they go together. Pure: no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from etl_toolkit.errors import UnknownColumnError, UsageError
from etl_toolkit.hints import did_you_mean
from etl_toolkit.keys import fold_name
from etl_toolkit.model import ConflictAction, LoadSpec, SoftDelete, SourceFile, TargetTable, WriteOptions

_COLUMN = re.compile(r'("([^"]|"")+"|\w+)( COLLATE .*)?')
TIMES = ("date", "timestamp", "timestamptz")


def spell_write_options(spec: LoadSpec, target: TargetTable) -> LoadSpec:
    """The spec with columns named as the table names them; `rows = "insert"` is the conflict action `ignore`.

    Raises UsageError where options contradict each other, UnknownColumnError for a column that the table lacks.
    """
    write = spec.write
    check_together(spec)
    if write.is_plain and write.missing == "keep":
        return spec
    names = [column.name for column in target.columns]

    def spell(given: Iterable[str], option: str) -> tuple[str, ...]:
        spelled = tuple(fold_name(name, names) for name in given)
        if unknown := [name for name in spelled if name not in names]:
            raise UnknownColumnError(
                f"{option}: {target.qualified_name} has no column {unknown[0]!r}{did_you_mean(unknown[0], names)}"
            )
        if fixed := [name for name in spelled if name in target.key or target.column(name).is_generated]:
            why = "is part of the key" if fixed[0] in target.key else "is generated"
            raise UsageError(f"{option}: column {fixed[0]!r} {why} and cannot be set")
        return spelled

    delete, missing = write.delete, write.missing
    if delete:
        soft = spell([delete.soft], "delete.soft")[0] if delete.soft else None
        delete = replace(delete, column=fold_name(delete.column, names), soft=soft)
    if isinstance(missing, SoftDelete):
        missing = SoftDelete(spell([missing.soft], "missing.soft")[0])
    _check_deletes(replace(write, delete=delete, missing=missing), target)
    updated = None if write.update is None else spell(write.update, "update")
    return replace(
        spec,
        conflict_action=ConflictAction.IGNORE if write.rows == "insert" else spec.conflict_action,
        write=replace(
            write, delete=delete, missing=missing, update=updated, insert_only=spell(write.insert_only, "insert_only"),
            set=dict(zip(spell(write.set, "set"), write.set.values(), strict=True)),
        ),
    )  # fmt: skip


def _check_deletes(write: WriteOptions, target: TargetTable) -> None:
    if (soft := write.cleared) and target.column(soft).base_type not in ("bool", *TIMES):
        raise UsageError(f"soft: column {soft!r} is {target.column(soft).type}; name a boolean or a timestamp")
    generated = [name for name in target.key if target.column(name).is_generated]
    if generated and (write.delete or write.missing != "keep"):
        raise UsageError(f"key column {generated[0]!r} is generated, so no row can be deleted by it")
    if write.rows == "update" and not all(map(_COLUMN.fullmatch, target.arbiter.expressions)):
        raise UsageError(f"rows = update needs a key of columns, and index {target.arbiter.index} has an expression")


def check_together(spec: LoadSpec) -> None:
    """Raise UsageError where options contradict each other."""
    write, action = spec.write, spec.conflict_action
    ignores = action is ConflictAction.IGNORE or write.rows == "insert"
    contradictions = [
        (
            write.update is not None and write.insert_only,
            "update and insert_only say the same thing twice; give one of them",
        ),
        (
            write.keeps_values and ignores,
            "update, insert_only and nulls say nothing where rows that are there are not updated",
        ),
        (write.rows == "update" and ignores, "rows = update writes nothing where rows that are there are not updated"),
        (
            write.rows == "insert" and action is ConflictAction.NEWER,
            "rows = insert updates none, on-conflict newer does",
        ),
        (
            write.nulls == "keep" and spec.order_by,
            "nulls = keep goes by the order of the files, order-by does not; give one",
        ),
        (
            write.delete and write.delete.soft and ignores,
            "delete.soft updates the rows that it marks, but none may be updated",
        ),
    ]
    if write.missing != "keep":
        contradictions += [
            (
                spec.atomic,
                "missing deletes keys in a transaction of its own, after the files; it cannot be atomic with them",
            ),
            (write.loaded == "skip", "missing needs all files: those that loaded = skip leaves out have keys, too"),
            (
                isinstance(write.max_deletes, float) and write.max_deletes > 1,
                "max_deletes is a share up to 1.0, or a whole number",
            ),
        ]
    contradictions += [
        (
            re.fullmatch(r"\$[A-Za-z_]+", text) and text not in ("$file", "$run"),
            f"set.{name} is {text}; known are $file and $run, and any text that does not look like one of them",
        )
        for name, text in write.set.items()
    ]
    for is_given, words in contradictions:
        if is_given:
            raise UsageError(words)


def check_files(spec: LoadSpec, files: Sequence[SourceFile]) -> None:
    """Raise UsageError where an option does not go with the columns of the files."""
    write = spec.write
    carried = {name for file in files for name in file.carried}
    for option, names in (("update", write.update or ()), ("insert_only", write.insert_only)):
        if missing := [name for name in names if name not in carried]:
            raise UsageError(f"{option}: no file has a column {missing[0]!r}{did_you_mean(missing[0], carried)}")
    given = dict.fromkeys(write.set, "set")
    if soft := write.missing_soft:
        given[soft] = "missing.soft"
    if write.delete and write.delete.soft:
        given[write.delete.soft] = "delete.soft"
    if write.missing != "keep" and write.scope == "$path" and not all(file.path_values for file in files):
        raise UsageError("scope = $path needs files in directories like region=eu/, for columns that the table has")
    if twice := [name for name in given if name in carried]:
        raise UsageError(f"{given[twice[0]]}: column {twice[0]!r} is in the files as well, which give it another value")


def rows_meet(spec: LoadSpec) -> bool:
    """Whether a row that loses to a later one of its key leaves something behind, so that no row can be left out."""
    return not spec.order_by and (
        spec.write.keeps_values or _lingers(spec)
    )  # by an order column one row of each key counts


def _lingers(spec: LoadSpec) -> bool:
    """Whether a tombstone that loses leaves something behind, other than that what came before it does not count."""
    write = spec.write
    return write.delete is not None and bool(
        write.delete.soft or spec.conflict_action is ConflictAction.IGNORE or write.rows == "update"
    )


def may_compose(spec: LoadSpec) -> bool:
    """Whether what the rows of one key leave, behind the last tombstone among them, is a row with columns from several of them."""
    return spec.write.keeps_values and rows_meet(spec) and not _lingers(spec)


def count_origins(spec: LoadSpec, target: TargetTable, columns: Iterable[str]) -> int:
    """From how many rows of one key the columns of a row may come, apart from those of the key."""
    write = spec.write
    others = {name for name in columns if name not in target.key}
    updated = {
        name for name in others if name not in write.insert_only and (write.update is None or name in write.update)
    }
    return int(bool(others - updated)) + (len(updated) if write.nulls == "keep" else int(bool(updated)))


def may_copy(spec: LoadSpec) -> bool:
    """Whether the records of absent keys may go into the table as they are."""
    write = spec.write
    return not (write.set or write.rows == "update" or write.cleared)


def relax(target: TargetTable, spec: LoadSpec, files: Sequence[SourceFile]) -> TargetTable:
    """The table as it judges a row of the files by itself: where no row is inserted, only by the columns that are updated."""
    if spec.write.rows != "update":
        return target
    carried = {*target.key, *(name for file in files for name in file.carried)}
    checks = tuple(check for check in target.checks if carried.issuperset(check.columns))
    columns = target.columns
    if spec.write.nulls == "keep":
        columns = tuple(replace(item, not_null=item.not_null and item.name in target.key) for item in columns)
    return replace(target, checks=checks, columns=columns)
