"""What a CSV record is: RFC 4180 over bytes. The one truth about a record's line, its raw text and its fault.

It is slow (a record at a time), so it only sees the parts of a file that `structure` did not find clean.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from etl_toolkit.model import Ragged

ENCODING_SQLSTATE = "22021"  # character_not_in_repertoire
FORMAT_SQLSTATE = "22P04"  # bad_copy_file_format
LIMIT_SQLSTATE = "54000"  # program_limit_exceeded
CUT_BYTES = 1000  # what is kept of a record that is too long
_BLANKS = b" \t"
_LINE_BREAK = re.compile(rb"[\r\n]")


@dataclass(frozen=True)
class Shape:
    """What the records of a file must look like.

    `quote` is one byte, or empty where nothing quotes. `columns` names the fields (None: any number of them); a record
    with fewer or more is malformed, unless `ragged` says otherwise. No record may be longer than `max_bytes`. An `escape`
    takes the meaning of the character behind it. Where `is_blank`, any run of blanks delimits. Lines that begin with
    `comment` are left out, and the first line that `until` matches ends the data. With `trim`, blanks may stand around
    quotes.
    """

    delimiter: bytes
    quote: bytes
    columns: tuple[str, ...] | None
    max_bytes: int
    escape: bytes = b""
    is_blank: bool = False
    comment: bytes = b""
    until: re.Pattern[str] | None = None
    ragged: Ragged = "reject"
    trim: bool = False

    @property
    def is_foreign(self) -> bool:
        """Whether neither DuckDB nor the server would split such records: they are spelled anew."""
        return len(self.delimiter) != 1 or self.escape != b"" or self.is_blank

    @property
    def canonical(self) -> Shape:
        """What the records look like once they are spelled anew."""
        if not self.is_foreign:
            return self
        return Shape(OWN_DELIMITER, b'"', self.columns, self.max_bytes)

    def is_comment(self, buffer: bytes, position: int) -> bool:
        """Whether the line that begins here is none of the data."""
        return self.comment != b"" and buffer.startswith(self.comment, position)

    def is_end(self, line: bytes) -> bool:
        """Whether the data ends before this line."""
        return self.until is not None and self.until.match(line.decode("utf-8", "replace")) is not None

    def spell(self, values: Sequence[str]) -> str:
        """Return one record of these values."""
        delimiter, quote = " " if self.is_blank else self.delimiter.decode(), self.quote.decode()
        special = [text for text in (delimiter, quote, "\r", "\n") if text]
        return delimiter.join(
            quote + value.replace(quote, quote * 2) + quote
            if quote and any(text in value for text in special)
            else value
            for value in values
        )


OWN_DELIMITER = b"\x1e"
PLAIN_SHAPE = Shape(b",", b'"', None, 0)


@dataclass(frozen=True)
class Fault:
    """Why a record is no record, in the words and with the code of PostgreSQL where it has any."""

    reason: str
    sqlstate: str


UNTERMINATED = Fault("unterminated CSV quoted field", FORMAT_SQLSTATE)


@dataclass(frozen=True)
class Record:
    """One record: the lines before it in its buffer, its bytes without the line break, its fault if it has one.

    `spelled` are its bytes as the shape's canonical form has them, where those are others.
    """

    lines_before: int
    raw: bytes
    fault: Fault | None = None
    spelled: bytes | None = None

    @property
    def data(self) -> bytes:
        """The record as it is loaded."""
        return self.raw if self.spelled is None else self.spelled

    @property
    def text(self) -> str:
        r"""The record as text that PostgreSQL can store: bytes that are not UTF-8, and NUL, are spelled `\xe9`."""
        return self.raw.decode("utf-8", "backslashreplace").replace("\0", "\\x00")


@dataclass(frozen=True)
class Scanned:
    """The records of a buffer, the bytes and lines they took, and whether the last of them goes on behind the buffer.

    `is_ended` says that the data ends here.
    """

    records: list[Record]
    consumed: int
    lines: int
    is_cut: bool = False
    is_ended: bool = False


@dataclass(frozen=True)
class Grammar:
    """Patterns of a whole record, of one field, and of a quoted field."""

    record: bytes
    item: bytes
    quoted: bytes


def compose_grammar(shape: Shape) -> Grammar:
    """The patterns of a shape; none of them ever goes back."""
    delimiter, quote, escape = re.escape(shape.delimiter), re.escape(shape.quote), re.escape(shape.escape)
    if shape.is_blank:
        delimiter, excluded = rb"[ \t]++", rb" \t"
    else:
        excluded = re.escape(shape.delimiter[:1])
    escaped = rb"%b(?:\r\n|.)" % escape
    bare = rb"[^%b%b%b\r\n]" % (quote, excluded, escape)
    if escape or (len(shape.delimiter) > 1 and not shape.is_blank):
        others = [bare + b"++"]
        others += [rb"%b(?!%b)" % (excluded, re.escape(shape.delimiter[1:]))] if len(shape.delimiter) > 1 else []
        others += [escaped] if escape else []
        bare = rb"(?:%b)" % b"|".join(others)
    bare += b"++" if shape.is_blank else b"*+"
    quoted = b""
    if quote and escape:
        quoted = rb"%b(?:[^%b%b]++|%b|%b%b)*+%b" % (quote, quote, escape, escaped, quote, quote, quote)
    elif quote:
        quoted = rb"%b[^%b]*+(?:%b%b[^%b]*+)*+%b" % ((quote,) * 6)
    around = rb"[ \t]*+" if shape.trim and quote else b""
    item = rb"(?:%b%b%b|%b)" % (around, quoted, around, bare) if quoted else bare
    record = rb"%b(?:%b%b)*+" % (item, delimiter, item)
    if shape.is_blank:
        record = rb"[ \t]*+(?:%b)?+[ \t]*+" % record
    return Grammar(record, item, quoted)


@dataclass(frozen=True)
class _Found:
    """Where a record or a comment ends, its fault, and whether it goes on behind the buffer; or that the data ends."""

    end: int
    fault: Fault | None = None
    is_cut: bool = False
    is_comment: bool = False
    is_end: bool = False


@dataclass(frozen=True)
class Scanner:
    """Splits bytes into records of a shape.

    A quote must open at the start of a field and close at its end; inside, it is doubled. Where that fails, the line on
    which the record begins is malformed and reading goes on with the next line: a quote that never closes costs one
    line, not the rest of the file. Blank lines are no records.
    """

    shape: Shape
    _record: re.Pattern[bytes] = field(init=False, repr=False)
    _item: re.Pattern[bytes] = field(init=False, repr=False)
    _quoted: re.Pattern[bytes] | None = field(init=False, repr=False)
    _too_long: Fault = field(init=False, repr=False)

    def __post_init__(self) -> None:
        grammar = compose_grammar(self.shape)
        object.__setattr__(self, "_record", re.compile(grammar.record, re.DOTALL))
        object.__setattr__(self, "_item", re.compile(grammar.item, re.DOTALL))
        object.__setattr__(self, "_quoted", re.compile(grammar.quoted, re.DOTALL) if grammar.quoted else None)
        reason = f"record longer than {self.shape.max_bytes:,} bytes (max_line_bytes), or a quote that never closes"
        object.__setattr__(self, "_too_long", Fault(reason, LIMIT_SQLSTATE))

    def scan(self, buffer: bytes, *, at_end: bool, limit: int | None = None) -> Scanned:
        """Return the whole records at the start of `buffer`, which begins a record and, with `at_end`, ends the file.

        Where a buffer happens to end has no influence on what the records are. `limit` bounds their number.
        """
        records: list[Record] = []
        position, lines, size = 0, 0, len(buffer)
        while position < size and len(records) != limit:
            found = self._find(buffer, position, at_end=at_end)
            if found is None:
                break
            if found.is_end:
                return Scanned(records, position, lines, is_ended=True)
            raw = buffer[position : found.end]
            if found.fault is self._too_long:
                records.append(Record(lines, raw[: min(CUT_BYTES, self.shape.max_bytes)], found.fault))
            elif not found.is_comment and raw and not (self.shape.is_blank and not raw.strip(_BLANKS)):
                fault = self._encoding_fault(raw) or found.fault
                records.append(Record(lines, raw, fault) if fault else self._judge(lines, raw))
            if found.is_cut:
                return Scanned(records, size, lines, is_cut=True)
            lines += count_lines(raw) + (1 if found.end < size else 0)
            position = found.end + (2 if buffer[found.end : found.end + 2] == b"\r\n" else 1)
        return Scanned(records, min(position, size), lines)

    def _find(self, buffer: bytes, position: int, *, at_end: bool) -> _Found | None:
        """What begins here; None if what follows the buffer decides."""
        size, longest = len(buffer), self.shape.max_bytes
        if self.shape.comment or self.shape.until:
            end = _line_end(buffer, position)
            is_whole = at_end or not _is_open(buffer, end)
            if not is_whole and end - position <= longest:
                return None
            if is_whole and (self.shape.is_end(buffer[position:end]) or self.shape.is_comment(buffer, position)):
                return _Found(end, is_end=self.shape.is_end(buffer[position:end]), is_comment=True)
        end = self._record.match(buffer, position).end()  # type: ignore[union-attr]  # it matches the empty text
        fault = self._quoting_fault(buffer, position, end)
        goes_on = fault is UNTERMINATED or (fault is None and _is_open(buffer, end))
        if (size if fault is UNTERMINATED else end) - position > longest:
            fault = self._too_long
        elif goes_on and not at_end:
            return None
        if fault is None:
            return _Found(end)
        end = _line_end(buffer, position)
        if end - position > longest:
            fault = self._too_long
        is_cut = _is_open(buffer, end) and not at_end
        if is_cut and (fault is not self._too_long or end < size):
            return None
        return _Found(end, fault, is_cut=is_cut)

    def fields(self, raw: bytes) -> list[bytes]:
        """Return the values of a record without a fault."""
        return [value for value, _ in self._values(raw)]

    def _values(self, raw: bytes) -> list[tuple[bytes, bool]]:
        """The values of a record without a fault, and whether each is quoted."""
        shape, position = self.shape, 0
        if not shape.is_foreign and not (shape.quote and shape.quote in raw):
            return [(value, False) for value in raw.split(shape.delimiter)]
        if shape.is_blank:
            raw = raw.strip(_BLANKS)
        values = []
        while True:
            match = self._item.match(raw, position)
            assert match is not None
            values.append(self._value(match[0]))
            if match.end() >= len(raw):
                return values
            position = match.end() + (0 if shape.is_blank else len(shape.delimiter))
            while shape.is_blank and raw[position : position + 1] in (b" ", b"\t"):
                position += 1

    def _value(self, item: bytes) -> tuple[bytes, bool]:
        quote, escape = self.shape.quote, self.shape.escape
        bare = item.strip(_BLANKS) if self.shape.trim else item
        if quote and bare.startswith(quote):
            value = bare[1:-1]
            if escape and escape in value:
                return _unescape(value, escape, quote), True
            return value.replace(quote + quote, quote), True
        if not escape or escape not in item:
            return item, False
        if item == b"\\N":  # as MySQL spells NULL
            return b"", False
        return _unescape(item, escape, b""), False

    def _judge(self, lines: int, raw: bytes) -> Record:
        """A record whose bytes are without a fault: whether it has all its fields, and how it is spelled."""
        shape = self.shape
        if shape.columns is None:
            return Record(lines, raw)
        has_quotes = shape.quote != b"" and shape.quote in raw
        fault = None if shape.is_foreign else self._field_fault(raw)
        if not shape.is_foreign and fault is None and not (shape.trim and has_quotes):
            return Record(lines, raw)
        if fault is not None and shape.ragged == "reject":
            return Record(lines, raw, fault)
        values = self._values(raw)
        missing = len(shape.columns) - len(values)
        if missing > 0 and shape.ragged in ("pad", "fit"):
            values += [(b"", False)] * missing
        elif missing < 0 and shape.ragged in ("cut", "fit"):
            values = values[:missing]
        elif missing:
            return Record(lines, raw, self._count_fault(missing))
        out = shape.canonical
        return Record(lines, raw, None, out.delimiter.join(_spell(*value, out) for value in values))

    def _quoting_fault(self, buffer: bytes, start: int, end: int) -> Fault | None:
        """Why the record that starts at `start` stops at `end` without a line break, if it does."""
        if end == len(buffer) or buffer[end] in b"\r\n":
            return None
        if self.shape.escape and buffer[end:] == self.shape.escape:
            return UNTERMINATED
        if buffer[end : end + 1] != self.shape.quote:
            return Fault("text after a closing quote", FORMAT_SQLSTATE)
        before = buffer[start:end].rstrip(_BLANKS) if self.shape.trim else buffer[start:end]
        if not before or before.endswith((b" ", b"\t") if self.shape.is_blank else self.shape.delimiter):
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
        return self._count_fault(len(self.shape.columns) - bare.count(self.shape.delimiter) - 1)

    def _count_fault(self, missing: int) -> Fault | None:
        assert self.shape.columns is not None
        if missing > 0:
            return Fault(f'missing data for column "{self.shape.columns[-missing]}"', FORMAT_SQLSTATE)
        return Fault("extra data after last expected column", FORMAT_SQLSTATE) if missing < 0 else None


def _unescape(value: bytes, escape: bytes, quote: bytes) -> bytes:
    """The value that is spelled with escapes, and where it is quoted with double quotes."""
    pattern = rb"%b(\r\n|.)" % re.escape(escape) + (rb"|%b(%b)" % (quote, quote) if quote else b"")
    return re.sub(pattern, lambda match: match[1] if match[1] is not None else match[2], value, flags=re.DOTALL)


def _spell(value: bytes, is_quoted: bool, shape: Shape) -> bytes:
    quote = shape.quote
    is_special = shape.delimiter in value or b"\n" in value or b"\r" in value or (quote != b"" and quote in value)
    if not quote or not (is_quoted or is_special):
        return value
    return quote + value.replace(quote, quote + quote) + quote


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
