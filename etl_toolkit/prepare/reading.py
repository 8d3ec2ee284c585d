"""The files of a load: resolved, read, and their keys in the workspace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from etl_toolkit.columns import key_types, order_type
from etl_toolkit.config import ParallelConfig
from etl_toolkit.loading.run import Phases
from etl_toolkit.model import (
    Layout,
    LoadSpec,
    SourceFile,
    Sources,
    TargetTable,
)
from etl_toolkit.scan import KeyScan, scan
from etl_toolkit.sources import (
    UnreadableTextError,
    check_texts,
    check_unchanged,
    resolve,
    without_bad_texts,
)
from etl_toolkit.workspace import Workspace
from etl_toolkit.write_rules import may_compose


def as_list(files: Any) -> list[Any]:
    """One path, glob or frame, or several of them, as a list."""
    is_one = isinstance(files, str | bytes | Mapping) or not isinstance(files, Iterable)
    # An open file yields its lines: it is refused as what it is.
    if is_one or any(hasattr(files, name) for name in ("columns", "schema", "read")):
        return [files]
    return list(files)


def resolve_files(
    files: Any,
    spec: LoadSpec,
    config: ParallelConfig,
    workspace: Workspace,
    phases: Phases,
    *,
    only: Sequence[str] = (),
) -> Sources:
    """Look at the files that are named, or only at some of their columns, under the limits of the configuration."""
    return resolve(
        as_list(files), spec.read, workspace, max_rejects=spec.max_rejects, max_line_bytes=config.max_line_bytes,
        is_composed=may_compose(spec), only=only,
        on_look=lambda size, total: phases.tell("looked", bytes=size, total_bytes=total),
    )  # fmt: skip


def _scan(
    files: tuple[SourceFile, ...], target: TargetTable, spec: LoadSpec, layout: Layout | None, workspace: Workspace
) -> KeyScan:
    order = None
    if spec.order_by and (kind := order_type(target.column(spec.order_by))):
        order = (spec.order_by, kind)
    delete = spec.write.delete
    return scan(
        files, spec.key, workspace,
        key_types=key_types(target), layout=layout, order=order, delete=delete, is_composed=may_compose(spec),
    )  # fmt: skip


def read_files(
    files: tuple[SourceFile, ...], target: TargetTable, spec: LoadSpec, layout: Layout | None, *, workspace: Workspace,
    is_scanned: bool = True,
) -> tuple[tuple[SourceFile, ...], KeyScan | None]:  # fmt: skip
    """Scan the keys of the files, with `layout` their records as well, and check that none has changed meanwhile."""
    read = partial(_read, target=target, spec=spec, layout=layout, workspace=workspace, is_scanned=is_scanned)
    return _with_good_texts(files, read, spec, workspace)


def _with_good_texts(
    files: tuple[SourceFile, ...], read: Callable[[tuple[SourceFile, ...]], KeyScan | None], spec: LoadSpec,
    workspace: Workspace,
) -> tuple[tuple[SourceFile, ...], KeyScan | None]:  # fmt: skip
    """Read the files; one with text that is not UTF-8 is read again without the rows that have it, which are rejected."""
    while True:
        try:
            return files, read(files)
        except UnreadableTextError as error:
            bad = next(file for file in files if file.position == error.position)
            good = without_bad_texts(bad, workspace, max_rejects=spec.max_rejects)
            files = tuple(good if file is bad else file for file in files)


def _read(
    files: tuple[SourceFile, ...], *, target: TargetTable, spec: LoadSpec, layout: Layout | None, workspace: Workspace,
    is_scanned: bool,
) -> KeyScan | None:  # fmt: skip
    if layout is None:
        check_texts(files, workspace)  # else they are read along
    if not is_scanned:
        return None
    scanned = _scan(files, target, spec, layout, workspace)
    for file in files:
        check_unchanged(file)
    return scanned
