"""Names and frames become the ordered files of a load, each of them looked at once."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import duckdb
from blake3 import blake3

from etl_toolkit.errors import EtlError, RejectLimitError, SourceError
from etl_toolkit.model import ReadOptions, RejectedRow, SkippedFile, SourceFile, Sources, TakenFile
from etl_toolkit.sources.arrow_file import examine_arrow
from etl_toolkit.sources.asked import check_options
from etl_toolkit.sources.csv_file import Bounds, examine_csv
from etl_toolkit.sources.expanding import expand
from etl_toolkit.sources.fetched import Fetched
from etl_toolkit.sources.frames import examine_frame
from etl_toolkit.sources.inputs import escape_name, kind_of, path_values, place_of
from etl_toolkit.sources.json_lines import examine_json
from etl_toolkit.sources.linking import is_linked, link_or_copy
from etl_toolkit.sources.naming import check_names, name_columns
from etl_toolkit.sources.reject_limit import too_many_rejects
from etl_toolkit.sources.relation import parquet_relation, read_failure, typed_relation
from etl_toolkit.sources.rooms import records_bytes
from etl_toolkit.sources.typed import INDEX_PREFIX, examine_parquet, read_by_arrow
from etl_toolkit.workspace import Workspace

MAX_LINE_BYTES = 64 << 20
EXAMINERS = 2  # more of them wait for each other: much of the check holds the interpreter


def resolve(
    inputs: Sequence[Any], options: ReadOptions, workspace: Workspace, *,
    max_rejects: int = 0, max_line_bytes: int = MAX_LINE_BYTES, on_look: Callable[[int, int], None] = lambda *_: None,
    is_composed: bool = False, only: Sequence[str] = (),
) -> Sources:  # fmt: skip
    """Return the files to load, in order, each looked at once: content hash, columns, dialect, malformed records.

    Afterwards the workspace's DuckDB can read these files and nothing else. Raises SourceError naming the file, its fault
    and a remedy, RejectLimitError where a file has more than `max_rejects` malformed records. `on_look` is called, by several
    threads, with the bytes of the files looked at since, and those of all files. With `is_composed`, as much memory as holds
    the records is reserved for others that are put together of them. Where only some columns are of interest, others need not be
    read, of Parquet files, and their content is that of these columns.
    """
    options = check_options(options)
    items = expand(inputs, options.format)
    total = sum(item.stat().st_size for item in items if isinstance(item, Path) and item.is_file())
    total += sum(item.size for item in items if isinstance(item, Fetched))
    bounds = Bounds(max_rejects, max_line_bytes, workspace.stop, lambda size: on_look(size, total))
    bounds.on_look(0)
    looked_at = replace(options, columns=tuple(only)) if only else options
    tasks = [_task(item, number, looked_at, bounds, workspace) for number, item in enumerate(items, start=1)]
    with ThreadPoolExecutor(max_workers=EXAMINERS, thread_name_prefix="etl-examine") as pool:
        examined = _good_ones(list(pool.map(_tried, tasks)), max_rejects)
    examined = [_read_as(file, options) for file in examined]
    check_names(examined, options)
    real_paths = _RealPaths()
    files = [_placed(file, position, workspace, real_paths) for position, file in enumerate(examined)]
    workspace.reserve(records_bytes(files) * (2 if is_composed else 1))
    workspace.lock_down(file.path for file in files if file.path is not None)
    return Sources(tuple(files))


def _tried(task: Callable[[], SourceFile]) -> SourceFile | RejectLimitError:
    try:
        return task()
    except RejectLimitError as error:
        return error


def _good_ones(examined: Sequence[SourceFile | RejectLimitError], max_rejects: int) -> list[SourceFile]:
    """Raise RejectLimitError, with the malformed records of all files, where one has too many of them."""
    good = [item for item in examined if isinstance(item, SourceFile)]
    if len(good) < len(examined):
        found: list[RejectedRow] = []
        for item in examined:
            found += (
                item.rejects
                if isinstance(item, RejectLimitError)
                else [reject.named(item.name) for reject in item.malformed]
            )
        raise too_many_rejects(found, max_rejects)
    return good


def _read_as(file: SourceFile, options: ReadOptions) -> SourceFile:
    """The file with its columns named, and known by how it is read as well as by its bytes.

    Two feeds may read the same bytes and get different rows: what one has loaded, the other has not.
    """
    said = {
        item.name: getattr(options, item.name)
        for item in fields(options)
        if item.name != "extra_columns" and getattr(options, item.name) != item.default
    }
    if file.format != "csv":
        said = {name: value for name, value in said.items() if name in ("names", "rename", "columns")}
    named = name_columns(file if file.dialect.is_json else replace(file, read=options), options)
    if not said:
        return named
    spelled = json.dumps(said, sort_keys=True).encode()
    return replace(named, content_hash=blake3(file.content_hash.encode() + spelled).hexdigest())


def read_once(sources: Sources, workspace: Workspace, *, is_first_kept: bool) -> Sources:
    """Leave out, and list, every file whose content is given at another place that counts instead; close the gaps.

    That gives what loading it at each place gives only where all files carry the same columns, keys that are equal are
    spelled alike, and nothing couples rows beyond the key: `plan.may_read_once`.
    """
    in_turn = sources.files if is_first_kept else sources.files[::-1]
    kept: dict[Any, SourceFile] = {}
    for file in in_turn:
        kept.setdefault(_content(file), file)
    files = sorted(kept.values(), key=lambda file: file.position)
    left_out = [(file.name, kept[_content(file)].name) for file in sources.files if kept[_content(file)] is not file]
    moved = tuple(_moved(file, at, workspace) for at, file in enumerate(files))
    return replace(sources, files=moved, duplicates=tuple(left_out))


def leave_out_taken(sources: Sources, taken: Mapping[str, TakenFile], workspace: Workspace) -> Sources:
    """Leave out, and list, every file whose content is `taken`, or is that of a file before it; close the gaps.

    As if the files were loaded one by one, and none twice.
    """
    first: dict[str, str] = {}
    files: list[SourceFile] = []
    skipped: list[SkippedFile] = []
    for file in sources.files:
        content = file.content_hash
        if content in taken:
            past = taken[content]
            skipped.append(SkippedFile(file.name, past.name, past.run_id, past.taken_at))
        elif content in first:
            skipped.append(SkippedFile(file.name, first[content]))
        else:
            first[content] = file.name
            files.append(_moved(file, len(files), workspace))
    return Sources(tuple(files), skipped=tuple(skipped))


def _content(file: SourceFile) -> Any:
    return file.content_hash, file.format, file.dialect, file.columns, file.path_values


def _moved(file: SourceFile, position: int, workspace: Workspace) -> SourceFile:
    """The file at a place before its own that no other has now."""
    if file.position == position:
        return file
    if file.format == "frame":
        workspace.query(f"DROP TABLE IF EXISTS frame_{position}")
        workspace.query(f"ALTER TABLE frame_{file.position} RENAME TO frame_{position}")
    malformed = tuple(replace(reject, file=position) for reject in file.malformed)
    return replace(file, position=position, malformed=malformed)


def _task(
    item: Any, number: int, options: ReadOptions, bounds: Bounds, workspace: Workspace
) -> Callable[[], SourceFile]:
    copy = workspace.directory / f"copy_{number:05d}"
    if isinstance(item, Fetched):
        return partial(_fetch, item, copy, options, bounds)
    if not isinstance(item, Path):
        return partial(examine_frame, item, number, workspace.stop)
    return partial(_examine, item, copy, options, bounds, place=item)


def _fetch(item: Fetched, copy: Path, options: ReadOptions, bounds: Bounds) -> SourceFile:
    """Examine content that is no file yet; what is wrong with it is said of its own name."""
    path = item.fetch(copy.with_name(copy.name.replace("copy", "in")), bounds.stop, options)
    try:
        examined = _examine(path, copy, options, bounds, place=place_of(item.name))
    except RejectLimitError as error:
        named = [replace(row, file=item.name) for row in error.rejects]
        raise too_many_rejects(named, bounds.max_rejects) from None
    except EtlError as error:
        raise type(error)(str(error).replace(escape_name(path), escape_name(item.name))) from None
    return replace(examined, name=item.name)


def _examine(path: Path, copy: Path, options: ReadOptions, bounds: Bounds, *, place: Path) -> SourceFile:
    bounds.stop.check()
    try:
        kind = kind_of(path, options.format)
        stamp = _stamp(path)  # before the first byte is read
        if kind == "parquet":
            examined = examine_parquet(path, copy.with_suffix(".parquet"), options, bounds.stop)
            bounds.on_look(examined.size_bytes)
        elif kind == "arrow":
            examined = examine_arrow(path, copy.with_suffix(".parquet"), bounds.stop)
            bounds.on_look(examined.size_bytes)
        elif kind == "json":
            examined = examine_json(path, options, copy.with_suffix(".csv"), bounds)
        else:
            examined = examine_csv(path, options, copy.with_suffix(".csv"), bounds)
        own = {name.casefold() for name in examined.columns}  # a file that has the column itself says it row by row
        of_path = tuple((name, text) for name, text in path_values(place) if name.casefold() not in own)
        return replace(examined, stamp=stamp, path_values=of_path)
    except OSError as error:
        raise SourceError(f"{escape_name(path)}: cannot be read: {error.strerror or error}") from None


def _stamp(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def check_unchanged(file: SourceFile) -> None:
    """Raise SourceError if a file has changed since it was inspected: what was read since may be anything."""
    if not file.stamp or not is_linked(file):
        return  # a frame, or a copy of our own
    _check_stamp(file)


def _check_stamp(file: SourceFile) -> None:
    assert file.path is not None
    try:
        is_same = _stamp(file.path) == file.stamp
    except OSError:
        is_same = False
    if not is_same:
        raise SourceError(
            f"{escape_name(file.name)}: was changed or removed while it was being loaded, so nothing of it is written; "
            "load it again once it is complete"
        )


class _RealPaths(dict[str, str]):
    """Paths without links; directories are looked up once, for many files lie in few of them."""

    def __missing__(self, directory: str) -> str:
        self[directory] = os.path.realpath(directory)
        return self[directory]

    def of(self, path: Path) -> str:
        directory, name = os.path.split(path)
        return os.path.realpath(path) if path.is_symlink() else os.path.join(self[directory], name)  # noqa: PTH118


def _placed(file: SourceFile, position: int, workspace: Workspace, real_paths: _RealPaths) -> SourceFile:
    """Give the file its position, and a name in the working directory that no path can spoil."""
    if file.frame is not None:
        try:
            workspace.duckdb.register("incoming", file.frame)
            workspace.duckdb.execute(f"CREATE TABLE frame_{position} AS SELECT * FROM incoming")
            workspace.duckdb.unregister("incoming")
        except duckdb.Error as error:
            detail = str(error).strip().splitlines()[0]
            raise SourceError(f"{file.name}: cannot be loaded: {detail}; cast the column to text") from None
        placed = replace(file, position=position, frame=None)  # DuckDB holds it now
        return replace(
            placed,
            relation_types=tuple(kind for _, kind in _described(placed, typed_relation([placed]), workspace)[1:]),
        )
    if file.path is None:
        raise AssertionError(f"{file.name} is neither a frame nor a file")
    readable = Path(f"{workspace.directory}/file_{position:05d}.{file.format}")
    if file.readable is not None:
        file.readable.rename(readable)
    elif "\\" in (path := real_paths.of(file.path)):  # which DuckDB takes for a separator
        shutil.copyfile(path, readable)
        _check_stamp(file)
    elif not link_or_copy(path, readable):
        _check_stamp(file)
    malformed = tuple(replace(reject, file=position) for reject in file.malformed)
    placed = replace(file, position=position, readable=readable, malformed=malformed)
    return _with_relation(placed, workspace) if file.format == "parquet" else placed


def _with_relation(file: SourceFile, workspace: Workspace) -> SourceFile:
    """Name the columns of a Parquet file by their place, but for the levels of a pandas index that have no name."""
    try:
        described = _described(file, parquet_relation([file]), workspace)
    except SourceError:
        file = read_by_arrow(file, workspace.directory / f"arrow_{file.position:05d}.parquet", workspace.stop)
        described = _described(file, parquet_relation([file]), workspace)
    kinds = tuple(kind for name, kind in described if not name.startswith(INDEX_PREFIX))
    if len(kinds) != len(file.columns):
        raise SourceError(
            f"{escape_name(file.name)}: DuckDB finds {len(kinds)} columns where Arrow finds {len(file.columns)}"
        )
    numbers = count()
    names = tuple(
        f"left_out_{place}" if name.startswith(INDEX_PREFIX) else f"c{next(numbers)}"
        for place, (name, _) in enumerate(described)
    )
    return replace(file, relation_columns=names, relation_types=kinds)


def _described(file: SourceFile, relation: str, workspace: Workspace) -> list[tuple[str, str]]:
    """Names and types of a relation's columns, as DuckDB finds them."""
    try:
        return [(row[0], row[1]) for row in workspace.query(f"DESCRIBE SELECT * FROM {relation}")]
    except duckdb.Error as error:
        raise read_failure([file], error) from None
