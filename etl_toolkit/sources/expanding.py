"""What the user names, in order: paths, globs, directories, archives, pipes, objects of a store and frames."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from etl_toolkit.errors import SourceError, UnknownFileError, UsageError
from etl_toolkit.sources.archives import members
from etl_toolkit.sources.fetched import Fetched
from etl_toolkit.sources.inputs import escape_name, kind_by_name, natural_order
from etl_toolkit.sources.objects import is_url, objects_of, try_url
from etl_toolkit.sources.pipes import STDIN, piped
from etl_toolkit.sources.stores import without_secrets
from etl_toolkit.tables import spell_count

_SHOWN = 3


def expand(inputs: Iterable[Any], file_format: str | None = None) -> list[Any]:
    """Expand globs, directories and archives in natural order; what is not text or a path is taken to be a frame.

    Returns paths, frames, and `Fetched` for what has to be unpacked or read to its end first. A path that exists is taken
    literally, whatever characters it holds.
    """
    found: list[Any] = []
    for item in inputs:
        found += _expanded(os.fspath(item), file_format) if isinstance(item, str | os.PathLike) else [item]
    if not found:
        raise UsageError("no files given; name at least one CSV or Parquet file, or a frame")
    if sum(isinstance(item, Fetched) and item.name == STDIN for item in found) > 1:  # a frame may have a column `name`
        raise UsageError("standard input (-) can be read once only")
    return found


def _expanded(name: str, file_format: str | None) -> list[Any]:
    if name == STDIN:
        return [piped(name)]
    if os.path.lexists(name):
        return list(_of_path(Path(name), file_format))
    if is_url(name):
        return list(objects_of(name, file_format))
    if matches := sorted(glob.glob(name, recursive=True), key=natural_order):  # noqa: PTH207  # any path
        return [item for match in matches for item in _of_path(Path(match), file_format)]
    archive, pattern = split_member(name)
    if pattern and Path(archive).is_file():
        chosen = [
            item
            for item in members(Path(archive), file_format, pattern)
            if fnmatchcase(split_member(item.name)[1], pattern)
        ]
        if chosen:
            return chosen
    raise UnknownFileError(
        f"{escape_name(name)}: no such file, and no file matches it; check the path or quote the glob"
    )


def name_for_hosts(name: str) -> str | None:
    """What another host can be sent: an absolute path, or a URL; None for one with a secret, or a query that may be one."""
    if not is_url(name):
        return os.path.abspath(name)  # noqa: PTH100 - links stay links
    scheme, _, rest = name.partition("://")
    shown = without_secrets(name)
    return shown if shown == f"{scheme.lower()}://{rest}" else None


def try_source(name: str) -> str:
    """Look for what is named so, read its beginning, and say how many files there are.

    Raises SourceError, UnknownFileError or UsageError where a load could not read it.
    """
    if is_url(name):
        count = try_url(name)
    else:
        found = _expanded(name, "any")
        count = len(found)
        try:
            if isinstance(found[0], Path):
                with found[0].open("rb") as file:
                    file.read(1)
        except OSError as error:
            raise SourceError(f"{escape_name(str(found[0]))}: cannot be read: {error.strerror}") from None
    return f"{without_secrets(name) if is_url(name) else escape_name(name)} ({spell_count(count, 'file')})"


def split_member(name: str) -> tuple[str, str]:
    """The archive of `drops/a.zip!b.csv` and the name in it; that is empty for any other file."""
    at = name.lower().find(".zip!")
    return (name, "") if at < 0 else (name[: at + 4], name[at + 5 :])


def is_there(name: str) -> bool:
    """Whether a file that was loaded under this name can be read again."""
    archive, member = split_member(name)
    return is_url(name) or Path(name).exists() or (bool(member) and Path(archive).exists())


def _of_path(path: Path, file_format: str | None) -> Iterator[Any]:
    """What a path that exists stands for."""
    if path.is_dir():
        for below in _files_below(path, file_format):
            yield from _of_path(below, file_format)
    elif path.name.lower().endswith(".zip") and path.is_file():
        yield from members(path, file_format)
    elif path.exists() and stat.S_ISFIFO(path.stat().st_mode):
        yield piped(str(path))
    else:
        yield path


def _files_below(directory: Path, file_format: str | None) -> list[Path]:
    """The files of a directory and of those in it, but for hidden ones and those that begin with `_`, as Spark writes them.

    Raises SourceError where there is none, and for files of which it is not known how to read them.
    """
    found = []
    for place, directories, names in os.walk(directory):
        directories[:] = [name for name in directories if not name.startswith((".", "_"))]
        found += [Path(place, name) for name in names if not name.startswith((".", "_"))]
    found.sort(key=lambda path: natural_order(os.fspath(path)))
    if not found:
        raise SourceError(f"{escape_name(directory)}: is a directory without files")
    unknown = [path for path in found if kind_by_name(path.name) is None and not path.name.lower().endswith(".zip")]
    if unknown and file_format is None:
        listed = ", ".join(escape_name(path.name) for path in unknown[:_SHOWN]) + (", …" if unknown[_SHOWN:] else "")
        raise SourceError(
            f"{escape_name(directory)}: has files of an unknown type ({listed}); name its files, for example "
            f"{escape_name(directory)}/*.csv, or give their format with --format"
        )
    return found
