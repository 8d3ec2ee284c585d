"""Which columns a file gives to the table, named as the table names them, and how its records are laid out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from blake3 import blake3

from etl_toolkit.errors import SourceError, UnknownColumnError
from etl_toolkit.hints import did_you_mean, has_no_header
from etl_toolkit.keys import KEY_TYPES, KeyType, fold_name, key_type
from etl_toolkit.model import LEFT_OUT, Column, Layout, LoadSpec, SourceFile, TargetTable
from etl_toolkit.scan import missing_key_error
from etl_toolkit.sources.typed import LOCAL_TYPES
from etl_toolkit.write_rules import check_files, rows_meet

_DELETE_MARK = re.compile(
    r"_*(?:cdc_|dms_|dml_|row_)?(?:op|op_?type|operation|operation_type|action|change_?type|is_?deleted?|deleted?|deleted?_flag"
    r"|tombstone|row_?kind|row_?status)_*", re.IGNORECASE,
)  # fmt: skip
_ORDERED_TYPES = ("int2", "int4", "int8", "date", "timestamp", "timestamptz")


def match_columns(files: Sequence[SourceFile], target: TargetTable, spec: LoadSpec) -> tuple[SourceFile, ...]:
    """Name the columns of each file as the table does: exactly, else the only one that differs in case alone.

    A column that only the path of a file carries is taken where the table has it, and ignored where it has not. Raises
    SourceError for a column the table lacks (unless `extra_columns='ignore'`), for a missing key column and for a missing
    column that the table requires.
    """
    matched = tuple(_matched(file, target, spec) for file in files)
    check_files(spec, matched)
    return matched


def _matched(file: SourceFile, target: TargetTable, spec: LoadSpec) -> SourceFile:
    names = {column.name for column in target.columns}
    mark = spec.write.delete.column if spec.write.delete else None
    names |= {mark} if mark else set()
    folded: dict[str, list[str]] = {}
    for name in names:
        folded.setdefault(name.casefold(), []).append(name)
    taken = {name for name in file.columns if name in names}
    renamed = []
    for name in file.columns:
        candidates = [other for other in folded.get(name.casefold(), []) if other not in taken]
        renamed.append(name if name in names or len(candidates) != 1 else candidates[0])
    if len(set(renamed)) < len(renamed):
        raise SourceError(f"{file.name}: two of its columns differ only in case and match the same column of the table")
    where = f"{file.name}: "
    unknown = [name for name in renamed if name not in names and not name.startswith(LEFT_OUT)]
    if (extra := unknown) and spec.read.extra_columns == "error" and spec.write.new_columns != "ignore":
        free = [column.name for column in target.columns if column.name not in taken]
        words = (
            f"{where}{'columns' if extra[1:] else 'column'} {', '.join(map(repr, extra))} "
            f"{'are not in' if extra[1:] else 'is not in'} {target.qualified_name}, which has "
            f"{', '.join(column.name for column in target.columns)}{did_you_mean(extra[0], free)}"
        )
        if file.format == "csv" and has_no_header(extra):
            raise UnknownColumnError(f"{words}; if its first line is a row, name the columns with --headers")
        raise UnknownColumnError(f"{words}; {_remedy(extra)}")
    path_values = _path_values(file, folded, taken=set(renamed))
    present = {*renamed, *dict(path_values)}
    if missing := [name for name in target.key if name not in present]:
        raise missing_key_error(file, missing)
    if mark and mark not in present:
        raise UnknownColumnError(
            f"{where}lacks the column {mark!r} that marks deleted rows (delete){did_you_mean(mark, present)}"
        )
    required = [column.name for column in target.columns if column.is_required and spec.write.rows != "update"]
    if missing := [name for name in required if name not in present | set(spec.write.set)]:
        raise UnknownColumnError(
            f"{where}lacks column {', '.join(map(repr, missing))}, which {target.qualified_name} requires (NOT NULL, no default)"
        )
    if spec.order_by and spec.order_by not in present:
        raise UnknownColumnError(
            f"{where}lacks the column '{spec.order_by}' that decides which row wins (--order-by)"
            f"{did_you_mean(spec.order_by, present)}"
        )
    # Of a domain, the type below decides what texts mean, and what an instant becomes; how other values are spelled, not.
    below = {
        column.name: column.domain_of
        for column in target.columns
        if column.domain_of and (file.format == "csv" or column.domain_of.removeprefix("_") in LOCAL_TYPES)
    }
    types = {column.name: column.base_type for column in target.columns} | below
    target_types = tuple(types.get(name, "") for name in renamed)
    return replace(
        file,
        columns=tuple(renamed),
        source_columns=file.own_columns,
        target_types=target_types,
        path_values=path_values,
        content_hash=_with_path(file.content_hash, path_values),
    )


def _with_path(content_hash: str, path_values: tuple[tuple[str, str | None], ...]) -> str:
    """The content hash of a file whose path gives its rows a value: below another directory, it has other rows."""
    return blake3(f"{content_hash}{path_values}".encode()).hexdigest() if path_values else content_hash


def _remedy(extra: Sequence[str]) -> str:
    """What to do about columns that the table lacks; to leave one out may turn deletes into rows."""
    if marks := [name for name in extra if _DELETE_MARK.fullmatch(name)]:
        return (
            f"{marks[0]!r} seems to mark deleted rows, which would be loaded like any others without it: say which values do, "
            f'as in --write \'delete={{column = "{marks[0]}", values = ["D"]}}\', or add the column to the table'
        )
    return (
        "fix the header, leave such columns out with --extra-columns ignore, or add them to the table with "
        "--write new_columns=add"
    )


def _path_values(
    file: SourceFile, folded: Mapping[str, Sequence[str]], *, taken: Collection[str]
) -> tuple[tuple[str, str | None], ...]:
    """The columns of the table that the file's path carries and the file has not, with their texts."""
    found: dict[str, str | None] = {}
    for name, text in file.path_values:
        candidates = folded.get(name.casefold(), ())
        exact = name if name in candidates else candidates[0] if len(candidates) == 1 else None
        if exact is not None and exact not in taken:
            found[exact] = text
    return tuple(found.items())


def spelled_as(file: SourceFile, names: Sequence[str]) -> SourceFile:
    """The file with those of its columns named like one of the names that differ from it in case alone."""
    columns = tuple(fold_name(name, names) for name in file.columns)
    if len(set(columns)) < len(columns):
        return file
    path_values = tuple((fold_name(name, names), text) for name, text in file.path_values)
    return replace(file, columns=columns, source_columns=file.own_columns, path_values=path_values)


def layout_of(file: SourceFile, target: TargetTable) -> Layout:
    """The record layout of one file: its own columns that the table has and that can be written."""
    writable = {column.name for column in target.columns if not column.is_generated}
    columns = tuple(name for name in file.carried if name in writable)
    delimiter = file.dialect.delimiter if file.is_copyable or file.is_unquoted else ","
    return Layout(columns, delimiter, is_bare=file.is_bare and columns == file.columns)


def common_layout(files: Sequence[SourceFile], target: TargetTable) -> Layout | None:
    """One layout for all files, or None where they carry different columns: a later file changes only its own."""
    layouts = [layout_of(file, target) for file in files]
    if len({frozenset(layout.columns) for layout in layouts}) != 1:
        return None
    sent = Counter(layout for layout, file in zip(layouts, files, strict=True) if file.is_copyable)
    layout = sent.most_common(1)[0][0] if sent else layouts[0]
    return replace(layout, is_bare=set(layouts) == {layout} and layout.is_bare)  # others are written again


def may_read_once(files: Sequence[SourceFile], target: TargetTable, spec: LoadSpec) -> bool:
    """Whether content that is given several times may be read at one place alone, the last (the first for `ignore`).

    Between two places, other files find the rows of the first one. That shows in the end where they carry other columns
    (a constraint may look at both), where rows meet beyond the key, and where equal keys are spelled in several ways,
    since the key stays as its first writer spells it. A key that the client may compare has one spelling when stored.
    Where `$file` is stored, it is the first place that shows: the second one changes nothing.
    """
    if "$file" in spec.write.set.values():
        return False
    return not rows_meet(spec) and not target.hazards and common_layout(files, target) is not None


def key_types(target: TargetTable) -> list[KeyType]:
    """How the client reads each key part; a type it cannot compare is read as text, for display only."""
    return [key_type(target.column(name)) or KEY_TYPES["text"] for name in target.key]


def order_type(column: Column) -> KeyType | None:
    """How the client orders values of `column`, or None where only the server can."""
    return key_type(column) if column.base_type in _ORDERED_TYPES else None
