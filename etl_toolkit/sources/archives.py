"""ZIP archives: each file in one is a file of the load, named `drops.zip!orders.csv`.

A name in an archive is a label and nothing else: whatever it says, the content is written to a file of ours.
"""

from __future__ import annotations

import lzma
import zipfile
import zlib
from functools import partial
from pathlib import Path

from etl_toolkit.errors import SourceError
from etl_toolkit.model import ReadOptions
from etl_toolkit.sources.fetched import Fetched, room_wanted
from etl_toolkit.sources.inputs import escape_name, kind_by_name, natural_order, storable
from etl_toolkit.sources.octets import UNPACKED_MINIMUM_BYTES, UNPACKED_RATIO
from etl_toolkit.sources.structure import BLOCK_BYTES
from etl_toolkit.stopping import Stop

_ENCRYPTED = 1  # a flag of a member
_FAILURES = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, EOFError, RuntimeError, ValueError)


def members(path: Path, file_format: str | None, pattern: str = "") -> list[Fetched]:
    """The files in an archive, in natural order, but for hidden ones; of unknown types none, unless they are asked for.

    Raises SourceError where it is damaged, encrypted or empty, or would unpack to more than such an archive should.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = [info for info in archive.infolist() if not info.is_dir() and not _is_hidden(info.filename)]
    except _FAILURES as error:
        raise _unreadable(path, error) from None
    found.sort(key=lambda info: natural_order(info.filename))
    names = [info.filename for info in found]
    if not found:
        raise SourceError(f"{escape_name(path)}: is a ZIP archive without files")
    if doubles := [name for name in names if names.count(name) > 1]:
        raise SourceError(f"{escape_name(path)}: has two files that are named {escape_name(doubles[0])}; pack it again")
    if not pattern and file_format is None and (unknown := [name for name in names if kind_by_name(name) is None]):
        raise SourceError(
            f"{escape_name(path)}: has files of an unknown type, as {escape_name(unknown[0])}; name those to load, for example "
            f"'{escape_name(path)}!*.csv', or give their format with --format"
        )
    size = sum(info.file_size for info in found)
    if size > max(UNPACKED_MINIMUM_BYTES, UNPACKED_RATIO * path.stat().st_size):
        raise SourceError(
            f"{escape_name(path)}: unpacks to {size:,} bytes, over {UNPACKED_RATIO} times its size, as a decompression bomb does; "
            "if it is meant to, unpack it and load the result"
        )
    return [
        Fetched(f"{storable(path)}!{storable(info.filename)}", info.file_size, partial(_unpack, path, info))
        for info in found
    ]


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) and part not in (".", "..") for part in Path(name).parts)


def _unpack(path: Path, info: zipfile.ZipInfo, below: Path, stop: Stop, _options: ReadOptions) -> Path:
    copy = below.with_name(below.name + "".join(Path(info.filename.lower()).suffixes[-2:]))
    if info.flag_bits & _ENCRYPTED:
        raise SourceError(f"{escape_name(path)}: {escape_name(info.filename)} is encrypted; unpack it first")
    written = 0
    try:
        with zipfile.ZipFile(path) as archive, archive.open(info) as member, copy.open("xb") as output:
            while data := member.read(BLOCK_BYTES):
                stop.check()
                written += len(data)
                if written > info.file_size:
                    raise zipfile.BadZipFile("a file is larger than the archive says")
                with room_wanted(copy):
                    output.write(data)
    except _FAILURES as error:
        raise _unreadable(path, error) from None
    return copy


def _unreadable(path: Path, error: Exception) -> SourceError:
    detail = str(error).strip().rstrip(".") or type(error).__name__
    return SourceError(f"{escape_name(path)}: cannot be unpacked: {detail}; is the archive complete?")
