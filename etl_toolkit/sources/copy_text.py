r"""PostgreSQL's COPY text format, as `COPY TO` and pg_dump write it: a stream of it becomes CSV, record for record.

A field that is `\N` alone is NULL, a backslash begins an escape, nothing is quoted.
"""

from __future__ import annotations

import re
from itertools import islice

from etl_toolkit.sources.structure import ByteStream

_ESCAPE = re.compile(rb"\\([0-7]{1,3}|x[0-9a-fA-F]{1,2}|.)", re.DOTALL)
_CHARACTERS = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_QUOTED = re.compile(rb'[,"\r\n]')
_END = b"\\."


def null_field(delimiter: bytes) -> re.Pattern[bytes]:
    """What finds a field of a backslash and N alone, in lines."""
    around = re.escape(delimiter)
    return re.compile(rb"(?:^|%b)\\N(?:%b|\r?$)" % (around, around), re.MULTILINE)


class CopyText:
    """The records of a stream in COPY's text format, behind `skip` lines, as CSV."""

    is_direct = False

    def __init__(self, stream: ByteStream, delimiter: str, *, skip: int = 0) -> None:
        self._stream = stream
        self._delimiter = delimiter.encode()
        self._skip = skip
        self._rest = b""
        self._is_ended = False

    def read(self, size: int, /) -> bytes:
        """The next records; empty at the end."""
        while not self._is_ended:
            block = self._stream.read(size)
            data = self._rest + block
            cut = data.rfind(b"\n") + 1 if block else len(data)
            while block and cut and _is_open(data[: cut - 1]):  # the last line goes on behind the block
                cut = data.rfind(b"\n", 0, cut - 1) + 1
            self._rest = data[cut:]
            self._is_ended = not block
            if found := self._records(data[:cut]):
                return found
        return b""

    def _records(self, data: bytes) -> bytes:
        lines = iter(data.removesuffix(b"\n").split(b"\n") if data else ())
        skipped = len(list(islice(lines, self._skip)))
        self._skip -= skipped
        found: list[bytes] = []
        before = b""
        for part in lines:
            line = before + part
            if _is_open(line):  # an escaped line break is part of the value
                before = line + b"\n"
                continue
            before, line = b"", line.removesuffix(b"\r")
            if line == _END:
                self._is_ended = True
                break
            found.append(b",".join(map(_field, line.split(self._delimiter))))
        if before:
            found.append(b",".join(map(_field, before[:-1].split(self._delimiter))))
        return b"".join(record + b"\n" for record in found)


def _is_open(line: bytes) -> bool:
    """Whether the line break behind it is escaped: an odd number of backslashes before it."""
    return (len(line) - len(line.rstrip(b"\\"))) % 2 == 1


def _field(text: bytes) -> bytes:
    """A field as CSV: NULL is nothing, the empty text is quoted."""
    if text == b"\\N":
        return b""
    value = _ESCAPE.sub(_character, text) if b"\\" in text else text
    if not value or value == _END or _QUOTED.search(value):
        return b'"' + value.replace(b'"', b'""') + b'"'
    return value


def _character(match: re.Match[bytes]) -> bytes:
    escaped = match[1]
    if escaped[:1].isdigit() and escaped[:1] < b"8":
        return bytes([int(escaped, 8) & 255])
    if escaped[:1] == b"x" and len(escaped) > 1:
        return bytes([int(escaped[1:], 16)])
    return _CHARACTERS.get(escaped, escaped)
