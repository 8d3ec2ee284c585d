"""What the user names, in order: paths, globs and frames."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

from etl_toolkit.errors import SourceError, UnknownFileError, UsageError

PACKED_SUFFIXES = (".gz", ".zst")
CSV_SUFFIXES = tuple(plain + packed for packed in ("", *PACKED_SUFFIXES) for plain in (".csv", ".tsv", ".txt"))
# How a file begins that is neither CSV nor Parquet, whatever its name says.
_OTHERS = (
    (b"\x1f\x8b", "compressed with gzip", "rename it to {}.gz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "rename it to {}.zst"),
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook", "unpack it, or save the sheet as CSV"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel workbook", "save the sheet as CSV"),
    (b"\xfd7zXZ\x00", "compressed with xz", "unpack it first"),
    (b"ARROW1\x00\x00", "an Arrow file", "read it with pyarrow, and load the table"),
    (b"Obj\x01", "an Avro file", "write it as Parquet or CSV"),
    (b"SQLite format 3\x00", "an SQLite database", "write its tables as CSV"),
)
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
PARQUET_SUFFIXES = (".parquet", ".pq", ".parq")


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """A sort key in which `part2` comes before `part10`."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def expand(inputs: Iterable[Any]) -> list[Any]:
    """Expand globs in natural order; what is not text or a path is taken to be a frame.

    A path that exists is taken literally, whatever characters it holds.
    """
    found: list[Any] = []
    for item in inputs:
        if not isinstance(item, str | os.PathLike):
            found.append(item)
        elif os.path.lexists(item):
            found.append(Path(item))
        elif matches := sorted(glob.glob(os.fspath(item), recursive=True), key=natural_order):  # noqa: PTH207  # any path
            found.extend(Path(match) for match in matches)
        else:
            raise UnknownFileError(
                f"{escape_name(item)}: no such file, and no file matches it; check the path or quote the glob"
            )
    if not found:
        raise UsageError("no files given; name at least one CSV or Parquet file, or a frame")
    return found


def kind_of(path: Path, told: str | None = None) -> Literal["csv", "parquet"]:
    """Return the format of a file: as given, or by its name.

    Raises SourceError for a directory, a pipe, an unknown ending, and content that is plainly something else.
    """
    name = path.name.lower()
    if storable(path) != str(path):
        raise SourceError(
            f"{escape_name(path)}: the file name is not UTF-8; rename the file, or give it another name with a link"
        )
    if path.is_dir():
        raise SourceError(f"{escape_name(path)}: is a directory; name its files, for example {escape_name(path)}/*.csv")
    if not path.exists():
        raise SourceError(f"{escape_name(path)}: is a link to a file that does not exist")
    if not path.is_file():
        raise SourceError(
            f"{escape_name(path)}: is not a regular file; a load reads its files more than once, so save it first"
        )
    _check_content(path, is_packed=name.endswith(PACKED_SUFFIXES), is_parquet=told == "parquet")
    if told == "parquet" or (told is None and name.endswith(PARQUET_SUFFIXES)):
        return "parquet"
    if told is not None or name.endswith(CSV_SUFFIXES):
        return "csv"
    raise SourceError(
        f"{escape_name(path)}: unknown type of file; known extensions are {', '.join(CSV_SUFFIXES + PARQUET_SUFFIXES)}; "
        "give its format with --format csv, pgtext or parquet"
    )


def _check_content(path: Path, *, is_packed: bool, is_parquet: bool) -> None:
    """Raise SourceError where a file is something else than its name says, by its first and last bytes."""
    with path.open("rb") as file:
        head = file.read(16)
        file.seek(max(0, path.stat().st_size - 4))
        tail = file.read(4)
    if tail == b"PARE" and head[:4] == b"PARE":
        raise SourceError(f"{escape_name(path)}: is an encrypted Parquet file; write it again without encryption")
    has_parquet_name = is_parquet or path.name.lower().endswith(PARQUET_SUFFIXES)
    if head[:4] == tail == b"PAR1" and not has_parquet_name:
        raise SourceError(f"{escape_name(path)}: is a Parquet file; rename it, or pass --format parquet")
    for magic, what, remedy in _OTHERS:
        if head.startswith(magic) and not is_packed:
            is_packed_parquet = has_parquet_name and "compressed" in what
            what_to_do = "unpack it first" if is_packed_parquet else remedy.format(escape_name(path))
            raise SourceError(f"{escape_name(path)}: is {what}; {what_to_do}")


def path_values(path: Path) -> tuple[tuple[str, str | None], ...]:
    """The columns that the directories of a path carry, as Hive writes them: `dt=2024-01-01/region=a%2Fb/x.parquet`.

    Where a name occurs twice, the innermost directory counts. `__HIVE_DEFAULT_PARTITION__` is NULL.
    """
    found: dict[str, tuple[str, str | None]] = {}
    for part in path.parent.parts:
        name, is_column, text = part.partition("=")
        if is_column and name:
            found[_decoded(name).casefold()] = _decoded(name), None if text == HIVE_NULL else _decoded(text)
    return tuple(found.values())


def partition_of(name: str) -> Path:
    """The directories of a file name that carry columns, one below the other."""
    return Path(*(part for part in Path(name).parent.parts if part.partition("=")[0] and "=" in part))


def _decoded(text: str) -> str:
    """A part of a path without percent-encoding; as it is, where what is encoded is no text."""
    try:
        found = unquote(storable(text), errors="strict")
    except UnicodeDecodeError:
        return storable(text)
    return storable(text) if "\0" in found else found


def escape_name(name: str | os.PathLike[str]) -> str:
    """A file name for one line of a message: control characters and what is not UTF-8 are spelled out."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(
        repr(character)[1:-1] if ord(character) < 32 or ord(character) == 127 else character for character in text
    )


def storable(name: str | os.PathLike[str]) -> str:
    """A file name as the ledger keeps it: the name itself, unless that is not UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
