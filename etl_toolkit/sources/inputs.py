"""What a file is, by its name and its first bytes, and what its path says."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from etl_toolkit.errors import SourceError

PACKED_SUFFIXES = (".gz", ".zst", ".bz2", ".xz")
CSV_SUFFIXES = tuple(plain + packed for packed in ("", *PACKED_SUFFIXES) for plain in (".csv", ".tsv", ".txt"))
JSON_SUFFIXES = tuple(plain + packed for packed in ("", *PACKED_SUFFIXES) for plain in (".jsonl", ".ndjson"))
ARROW_SUFFIXES = (".arrow", ".arrows", ".feather", ".ipc")
Kind = Literal["csv", "json", "parquet", "arrow"]
# How a file begins that is neither CSV nor Parquet, whatever its name says.
_OTHERS = (
    (b"\x1f\x8b", "compressed with gzip", "rename it to {}.gz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "rename it to {}.zst"),
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook", "rename it to {}.zip, or save the sheet as CSV"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel workbook", "save the sheet as CSV"),
    (b"\xfd7zXZ\x00", "compressed with xz", "rename it to {}.xz"),
    (b"BZh", "compressed with bzip2", "rename it to {}.bz2"),
    (b"ARROW1\x00\x00", "an Arrow file", "rename it to {}.arrow, or pass --format arrow"),
    (b"FEA1", "an old Feather file", "write it as Arrow IPC (Feather V2) or Parquet"),
    (b"Obj\x01", "an Avro file", "write it as Parquet or CSV"),
    (b"SQLite format 3\x00", "an SQLite database", "write its tables as CSV"),
)
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
PARQUET_SUFFIXES = (".parquet", ".pq", ".parq")
_SUFFIXES: Mapping[Kind, tuple[str, ...]] = {
    "csv": CSV_SUFFIXES, "json": JSON_SUFFIXES, "parquet": PARQUET_SUFFIXES, "arrow": ARROW_SUFFIXES
}  # fmt: skip
_KINDS: Mapping[str, Kind] = {
    "csv": "csv", "pgtext": "csv", "jsonl": "json", "parquet": "parquet", "arrow": "arrow"
}  # fmt: skip
_KNOWN = [suffix for some in _SUFFIXES.values() for suffix in some if not suffix.endswith(PACKED_SUFFIXES)]
_KNOWN += [f"{' or '.join(PACKED_SUFFIXES)} behind those of text", ".zip"]
_MEMBER = re.compile(r"(\.zip)!", re.IGNORECASE)  # what is between an archive and a file in it


def natural_order(name: str) -> str:
    """A sort key in which `part2` comes before `part10`: how many digits a number has decides before they do."""
    return re.sub(r"\d+", lambda found: f"\0{chr(len(digits := str(int(found[0]))))}{digits}", name)


def kind_of(path: Path, named: str | None = None) -> Kind:
    """Return the format of a file: as given, or by its name.

    Raises SourceError for an unknown ending, and for content that is plainly something else.
    """
    name = path.name.lower()
    if storable(path) != str(path):
        raise SourceError(
            f"{escape_name(path)}: the file name is not UTF-8; rename the file, or give it another name with a link"
        )
    if not path.exists():
        raise SourceError(f"{escape_name(path)}: is a link to a file that does not exist")
    if not path.is_file():
        raise SourceError(f"{escape_name(path)}: is neither a file nor a pipe")
    kind = _KINDS[named] if named else kind_by_name(name)
    _check_content(path, kind, is_packed=name.endswith(PACKED_SUFFIXES))
    if kind is not None:
        return kind
    raise SourceError(
        f"{escape_name(path)}: unknown type of file; known extensions are {', '.join(_KNOWN)}; "
        "give its format with --format csv, pgtext, jsonl, parquet or arrow"
    )


def kind_by_name(name: str) -> Kind | None:
    """The format that the name of a file says it has."""
    for kind, suffixes in _SUFFIXES.items():
        if name.lower().endswith(suffixes):
            return kind
    return None


def _check_content(path: Path, kind: Kind | None, *, is_packed: bool) -> None:
    """Raise SourceError where a file is something else than its name says, by its first and last bytes."""
    with path.open("rb") as file:
        head = file.read(16)
        file.seek(max(0, path.stat().st_size - 4))
        tail = file.read(4)
    if tail == b"PARE" and head[:4] == b"PARE":
        raise SourceError(f"{escape_name(path)}: is an encrypted Parquet file; write it again without encryption")
    if head[:4] == tail == b"PAR1" and kind != "parquet":
        raise SourceError(f"{escape_name(path)}: is a Parquet file; rename it, or pass --format parquet")
    for magic, what, remedy in _OTHERS:
        if head.startswith(magic) and not is_packed and not (kind == "arrow" and magic.startswith(b"ARROW1")):
            is_packed_parquet = kind in ("parquet", "arrow") and "compressed" in what
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


def place_of(name: str) -> Path:
    """The path of a file by its name, in which an archive is like a directory."""
    return Path(_MEMBER.sub(r"\1/", name))


def partition_of(name: str) -> Path:
    """The directories of a file name that carry columns, one below the other."""
    return Path(*(part for part in place_of(name).parent.parts if part.partition("=")[0] and "=" in part))


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
