"""What a CSV record is: RFC 4180 over bytes. The one truth about a record's line, its raw text and its fault.

It is slow (a record at a time), so it only sees the parts of a file that `structure` did not find clean.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

ENCODING_SQLSTATE = "22021"  # character_not_in_repertoire
FORMAT_SQLSTATE = "22P04"  # bad_copy_file_format
LIMIT_SQLSTATE = "54000"  # program_limit_exceeded
CUT_BYTES = 1000  # what is kept of a record that is too long
_LINE_BREAK = re.compile(rb"[\r\n]")


@dataclass(frozen=True)
class Shape:
    """What the records of a file must look like.

    `delimiter` and `quote` are one byte each, `quote` empty where nothing quotes. `columns` names the fields (None:
    any number of them). No record may be longer than `max_bytes`.
    """

    delimiter: bytes
    quote: bytes
    columns: tuple[str, ...] | None
    max_bytes: int

    def spell(self, values: Sequence[str]) -> str:
        """Return one record of these values."""
        delimiter, quote = self.delimiter.decode(), self.quote.decode()
        special = {delimiter, quote, "\r", "\n"} - {""}
        return delimiter.join(
            quote + value.replace(quote, quote * 2) + quote if quote and special & set(value) else value
            for value in values
        )


PLAIN_SHAPE = Shape(b",", b'"', None, 0)


@dataclass(frozen=True)
class Fault:
    """Why a record is no record, in the words and with the code of PostgreSQL where it has any."""

    reason: str
    sqlstate: str


UNTERMINATED = Fault("unterminated CSV quoted field", FORMAT_SQLSTATE)


@dataclass(frozen=True)
class Record:
    """One record: the lines before it in its buffer, its bytes without the line break, its fault if it has one."""

    lines_before: int
    raw: bytes
    fault: Fault | None = None

    @property
    def text(self) -> str:
        r"""The record as text that PostgreSQL can store: bytes that are not UTF-8, and NUL, are spelled `\xe9`."""
        return self.raw.decode("utf-8", "backslashreplace").replace("\0", "\\x00")


@dataclass(frozen=True)
class Scanned:
    """The records of a buffer, the bytes and lines they took, and whether the last of them goes on behind the buffer."""

    records: list[Record]
    consumed: int
    lines: int
    is_cut: bool = False


@dataclass(frozen=True)
class Scanner:
    """Splits bytes into records of a shape.

    A quote must open at the start of a field and close at its end; inside, it is doubled. Where that fails, the line on
    which the record begins is malformed and reading goes on with the next line: a quote that never closes costs one
    line, not the rest of the file. Blank lines are no records.
    """

    shape: Shape
    _record: re.Pattern[bytes] = field(init=False, repr=False)
    _quoted: re.Pattern[bytes] | None = field(init=False, repr=False)
    _too_long: Fault = field(init=False, repr=False)

    def __post_init__(self) -> None:
        delimiter, quote = re.escape(self.shape.delimiter), re.escape(self.shape.quote)
        bare = rb"[^%b%b\r\n]*+" % (quote, delimiter)
        quoted = rb"%b[^%b]*+(?:%b%b[^%b]*+)*+%b" % ((quote,) * 6) if quote else None
        item = rb"(?:%b|%b)" % (quoted, bare) if quoted else bare
        object.__setattr__(self, "_record", re.compile(rb"%b(?:%b%b)*+" % (item, delimiter, item)))
        object.__setattr__(self, "_quoted", re.compile(quoted) if quoted else None)
        reason = f"record longer than {self.shape.max_bytes:,} bytes (max_line_bytes), or a quote that never closes"
        object.__setattr__(self, "_too_long", Fault(reason, LIMIT_SQLSTATE))

    def scan(self, buffer: bytes, *, at_end: bool, limit: int | None = None) -> Scanned:
        """Return the whole records at the start of `buffer`, which begins a record and, with `at_end`, ends the file.

        Where a buffer happens to end has no influence on what the records are. `limit` bounds their number.
        """
        records: list[Record] = []
        position, lines, size, longest = 0, 0, len(buffer), self.shape.max_bytes
        while position < size and len(records) != limit:
            end = self._record.match(buffer, position).end()  # type: ignore[union-attr]  # it matches the empty text
            fault = self._quoting_fault(buffer, position, end)
            goes_on = fault is UNTERMINATED or (fault is None and _is_open(buffer, end))
            if (size if fault is UNTERMINATED else end) - position > longest:
                fault = self._too_long
            elif goes_on and not at_end:
                break
            if fault is not None:
                end = _line_end(buffer, position)
                if end - position > longest:
                    fault = self._too_long
                if _is_open(buffer, end) and not at_end:
                    if fault is not self._too_long or end < size:
                        break
                    records.append(Record(lines, buffer[position : position + min(CUT_BYTES, longest)], fault))
                    return Scanned(records, size, lines, is_cut=True)
            raw = buffer[position:end]
            if fault is self._too_long:
                records.append(Record(lines, raw[: min(CUT_BYTES, longest)], fault))
            elif raw:
                records.append(Record(lines, raw, self._encoding_fault(raw) or fault or self._field_fault(raw)))
            lines += count_lines(raw) + (1 if end < size else 0)
            position = end + (2 if buffer[end : end + 2] == b"\r\n" else 1)
        return Scanned(records, min(position, size), lines)

    def fields(self, raw: bytes) -> list[bytes]:
        """Return the values of a record without a fault."""
        delimiter, quote = self.shape.delimiter, self.shape.quote
        if not quote or quote not in raw:
            return raw.split(delimiter)
        values, position = [], 0
        while True:
            quoted = self._quoted.match(raw, position) if self._quoted else None
            end = quoted.end() if quoted else raw.find(delimiter, position)
            end = len(raw) if end < 0 else end
            value = raw[position:end]
            values.append(value[1:-1].replace(quote + quote, quote) if quoted else value)
            if end >= len(raw):
                return values
            position = end + 1

    def _quoting_fault(self, buffer: bytes, start: int, end: int) -> Fault | None:
        """Why the record that starts at `start` stops at `end` without a line break, if it does."""
        if end == len(buffer) or buffer[end] in b"\r\n":
            return None
        if buffer[end : end + 1] != self.shape.quote:
            return Fault("text after a closing quote", FORMAT_SQLSTATE)
        if end == start or buffer[end - 1 : end] == self.shape.delimiter:
            return UNTERMINATED
        return Fault("quote inside an unquoted field", FORMAT_SQLSTATE)

    def _encoding_fault(self, raw: bytes) -> Fault | None:
        if b"\0" in raw:
            return Fault('invalid byte sequence for encoding "UTF8": 0x00', ENCODING_SQLSTATE)
        if raw.isascii():
            return None
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as error:
            reason = f"{encoding_reason(raw, error)}; if the file is Latin-1, give --encoding latin-1"
            return Fault(reason, ENCODING_SQLSTATE)
        return None

    def _field_fault(self, raw: bytes) -> Fault | None:
        if self.shape.columns is None:
            return None
        bare = self._quoted.sub(b"", raw) if self._quoted and self.shape.quote in raw else raw
        missing = len(self.shape.columns) - bare.count(self.shape.delimiter) - 1
        if missing > 0:
            return Fault(f'missing data for column "{self.shape.columns[-missing]}"', FORMAT_SQLSTATE)
        return Fault("extra data after last expected column", FORMAT_SQLSTATE) if missing < 0 else None


def encoding_reason(raw: bytes, error: UnicodeDecodeError) -> str:
    """What PostgreSQL says of bytes that are not UTF-8."""
    start = error.start
    length = {0xC: 2, 0xD: 2, 0xE: 3, 0xF: 4}.get(raw[start] >> 4, 1)
    spelled = " ".join(f"0x{byte:02x}" for byte in raw[start : start + length])
    return f'invalid byte sequence for encoding "UTF8": {spelled}'


def count_lines(data: bytes) -> int:
    """The line breaks in `data`: LF, CR LF or CR."""
    breaks = data.count(b"\n")
    return breaks + data.count(b"\r") - data.count(b"\r\n") if b"\r" in data else breaks


def _line_end(buffer: bytes, start: int) -> int:
    found = _LINE_BREAK.search(buffer, start)
    return found.start() if found else len(buffer)


def _is_open(buffer: bytes, end: int) -> bool:
    """Whether what follows the buffer decides if a line ends at `end`: a CR may be half of a CR LF."""
    return end == len(buffer) or (buffer[end] == 13 and end + 1 == len(buffer))
