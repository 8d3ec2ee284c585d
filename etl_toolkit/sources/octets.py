"""A CSV file as a stream of UTF-8 bytes, whatever it is on disk: compressed, in another encoding, with a byte order mark.

The bytes on disk are hashed as they pass, so that a file is read once.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import zstandard
from blake3 import blake3

from etl_toolkit.errors import SourceError, UsageError
from etl_toolkit.sources.inputs import escape_name
from etl_toolkit.sources.structure import BLOCK_BYTES, ByteStream

# A file may grow this much when it is unpacked; text rarely reaches a tenth of it, a decompression bomb a thousandfold.
UNPACKED_RATIO = 200
UNPACKED_MINIMUM_BYTES = 1 << 30
_XZ_BYTES = 256 << 20  # of memory: more than its highest level takes, and less than a file may ask for
_ZSTD_BYTES = 2048  # zstd unpacks a whole input at once: in the worst case 128 KiB of every four bytes

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


class HashedFile(io.RawIOBase):
    """A file opened for reading that is hashed and measured as it is read."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream = stream
        self._digest = blake3()
        self.size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return self._took(data)

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self._took(data)
        return data

    def _took(self, data: bytes) -> int:
        self._digest.update(data)
        self.size += len(data)
        return len(data)

    def finish(self) -> str:
        """Read what is left and return the hash of the whole file."""
        while self.read(BLOCK_BYTES):
            pass
        return self._digest.hexdigest()


class Utf8Stream:
    """The text of a CSV file as UTF-8 without a byte order mark.

    `is_direct` says that these are the very bytes of the file. Raises SourceError where the file does not decompress or
    decode.
    """

    def __init__(self, path: Path, raw: HashedFile, *, encoding: str | None) -> None:
        self._unpacked = _unpack(path, raw)
        self._name = escape_name(path)
        head = self._unpacked.read(4)
        mark, found = next(((mark, name) for mark, name in _MARKS if head.startswith(mark)), (b"", "utf-8"))
        codec = _python_codec(encoding)
        if codec and not (found == codec or (mark and found.startswith(codec))):
            mark = b""  # the encoding was given: the bytes only look like a mark
        self.encoding = codec or found
        decoder = found if mark else self.encoding
        self._head = head[len(mark) :]
        self._decoder = None if decoder == "utf-8" else codecs.getincrementaldecoder(decoder)()
        self._bytes_decoded = len(mark)
        self.is_direct = self._unpacked is raw and not mark and self._decoder is None

    def read(self, size: int, /) -> bytes:
        while True:
            data = self._head or self._unpacked.read(size)
            self._head = b""
            if self._decoder is None:
                return data
            try:
                text = self._decoder.decode(data, final=not data)
            except UnicodeError as error:
                raise self._undecodable(error) from None
            self._bytes_decoded += len(data)
            if text or not data:
                return text.encode("utf-8", "surrogatepass")  # a lone surrogate is no UTF-8: its row is malformed

    def _undecodable(self, error: UnicodeError) -> SourceError:
        near = self._bytes_decoded + (error.start if isinstance(error, UnicodeDecodeError) else 0)
        return SourceError(
            f"{self._name}: is not {self.encoding}: {getattr(error, 'reason', error)} near byte {near:,}; "
            "name the right encoding with --encoding"
        )


def _python_codec(name: str | None) -> str | None:
    """Return the canonical name of a text encoding; raises UsageError for one that Python does not know."""
    if name is None:
        return None
    try:
        found = codecs.lookup(name)
    except LookupError:
        raise UsageError(f"unknown encoding '{name}'; try utf-8, latin-1, cp1252 or utf-16") from None
    if not found._is_text_encoding:
        raise UsageError(f"'{name}' does not encode text; try utf-8, latin-1, cp1252 or utf-16")
    return {"utf-8-sig": "utf-8", "ascii": "utf-8"}.get(found.name, found.name)


@contextmanager
def open_utf8(path: Path, *, encoding: str | None) -> Iterator[tuple[HashedFile, Utf8Stream]]:
    """Open a CSV file. Raises SourceError naming it where it cannot be read."""
    try:
        with path.open("rb", buffering=0) as stream:
            raw = HashedFile(stream)
            yield raw, Utf8Stream(path, raw, encoding=encoding)
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
        detail = str(error).strip().rstrip(".")
        raise SourceError(f"{escape_name(path)}: cannot be decompressed: {detail}; is the file complete?") from None


def _unpack(path: Path, raw: HashedFile) -> ByteStream:
    name = path.name.lower()
    if name.endswith(".gz"):
        return _Bounded(gzip.GzipFile(fileobj=io.BufferedReader(raw, BLOCK_BYTES)), raw, path)
    if name.endswith(".zst"):
        return _Bounded(_ZstdFile(raw), raw, path)
    if name.endswith(".bz2"):
        return _Bounded(_Packed(raw, bz2.BZ2Decompressor), raw, path)
    if name.endswith(".xz"):
        return _Bounded(_Packed(raw, partial(lzma.LZMADecompressor, memlimit=_XZ_BYTES)), raw, path)
    return raw


class _ZstdFile:
    """The content of zstd frames, one after the other; unlike a stream reader it notices when the last is cut short."""

    def __init__(self, raw: HashedFile) -> None:
        self._raw = raw
        self._frame: Any = None
        self._packed = b""

    def read(self, _size: int, /) -> bytes:
        while True:
            self._packed = self._packed or self._raw.read(_ZSTD_BYTES)
            if not self._packed:
                if self._frame is not None:
                    raise EOFError("it ends before the end of its last zstd frame")
                return b""
            self._frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
            data: bytes = self._frame.decompress(self._packed)
            self._packed = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = None
            if data:
                return data


class _Packed:
    """The content of bzip2 or xz streams, one after the other."""

    def __init__(self, raw: HashedFile, new: Callable[[], Any]) -> None:
        self._raw, self._new = raw, new
        self._stream: Any = None
        self._packed = b""

    def read(self, size: int, /) -> bytes:
        while True:
            if self._stream is None or self._stream.eof:
                rest = (self._stream.unused_data if self._stream else b"").lstrip(b"\0") or self._raw.read(
                    BLOCK_BYTES
                ).lstrip(b"\0")
                if not rest:
                    return b""
                self._stream, self._packed = self._new(), rest
            if self._stream.needs_input and not self._packed and not (block := self._raw.read(BLOCK_BYTES)):
                raise EOFError("it ends before the end of its last stream")
            self._packed = self._packed or (block if self._stream.needs_input else b"")
            try:
                data: bytes = self._stream.decompress(self._packed, size)
            except OSError as error:  # of bzip2
                raise zlib.error(str(error)) from None
            self._packed = b""
            if data:
                return data


class _Bounded:
    """A decompressed stream that refuses to grow without measure."""

    def __init__(self, stream: ByteStream, raw: HashedFile, path: Path) -> None:
        self._stream, self._raw, self._path = stream, raw, path
        self._size = 0

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self._size += len(data)
        if self._size > max(UNPACKED_MINIMUM_BYTES, UNPACKED_RATIO * self._raw.size):
            raise SourceError(
                f"{escape_name(self._path)}: unpacks to more than {UNPACKED_RATIO} times its size ({self._size:,} bytes so far), "
                "as a decompression bomb does; if it is meant to, unpack it and load the result"
            )
        return data
