"""One pass over a CSV file: hash, dialect, structure. What is malformed is set aside; other deviations are corrected.

A file that is UTF-8 and clean is read where it lies. Of any other one a copy is made in the working directory: unpacked,
in UTF-8, every record ended by LF, malformed records and blank lines left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from etl_toolkit.errors import SourceError
from etl_toolkit.model import CsvDialect, ReadOptions, Reject, SourceFile
from etl_toolkit.sources.copy_text import CopyText, null_field
from etl_toolkit.sources.dialect import Header, describe_found, read_header, shape_of
from etl_toolkit.sources.fetched import room_wanted
from etl_toolkit.sources.footer_lines import WithoutFooter
from etl_toolkit.sources.inputs import escape_name, storable
from etl_toolkit.sources.octets import Utf8Stream, open_utf8
from etl_toolkit.sources.records import Shape
from etl_toolkit.sources.reject_limit import is_enough, too_many_rejects
from etl_toolkit.sources.structure import BLOCK_BYTES, Piece, pieces
from etl_toolkit.sources.values import BLANKS, converts_values
from etl_toolkit.stopping import Stop

EXCEL_SEPARATOR = re.compile(rb"\"?sep=([\x01-\x09\x0b\x0c\x0e-\x7f])\"?(?:\r\n|\r|\n)", re.IGNORECASE)
_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n)")
Text = Utf8Stream | WithoutFooter | CopyText
LINE_SEPARATOR = "\x1f"  # stands for "no delimiter": a plain file has none of it


@dataclass(frozen=True)
class Bounds:
    """What ends the look at a file: too many malformed records, too many bytes in a record, a load that is stopped."""

    max_rejects: int
    max_line_bytes: int
    stop: Stop = field(default_factory=Stop)
    on_look: Callable[[int], None] = lambda _size: None  # called with the bytes of a file that were looked at


def examine_csv(path: Path, options: ReadOptions, copy: Path, bounds: Bounds) -> SourceFile:
    """Read a CSV file once and return it as a SourceFile, with a corrected copy at `copy` if it needs one.

    Raises SourceError where it is no CSV file, RejectLimitError at one malformed record too many.
    """
    with open_utf8(path, encoding=options.encoding) as (raw, text):
        asked, skip = options, options.skip
        copy_text = (options.delimiter or "\t") if options.format == "pgtext" else ""
        stream, options = _as_csv(text, options, copy_text)
        header, rest = _header(stream, path, options, bounds)
        shape = shape_of(options, header.delimiter, header.columns, bounds.max_line_bytes)
        says_nothing = options.format is None and not options.null and not options.escape
        is_as_it_is = stream.is_direct and header.is_tidy and not shape.is_foreign and not shape.until
        examined = Examination(path, copy, header, shape, is_copied=not is_as_it_is, says_nothing=says_nothing)
        seen = 0
        with examined:
            for piece in _pieces(stream, shape, rest, header, skip):
                bounds.stop.check()
                examined.take(piece, bounds)
                bounds.on_look(raw.size - seen)
                seen = raw.size
            examined.finish(bounds)
        content_hash = raw.finish()
    own = shape.canonical
    dialect = CsvDialect(
        own.delimiter.decode(), own.quote.decode(), text.encoding, header.has_header, skip, copy_text,
        own_delimiter=header.delimiter if shape.is_foreign else "", blanks=examined.blanks,
    )  # fmt: skip
    is_literal = not converts_values(options)
    return SourceFile(
        0, storable(path), "csv", header.columns, content_hash, raw.size, path=path, dialect=dialect,
        is_plain=examined.is_plain and is_literal, is_copyable=examined.is_copyable and is_literal,
        is_bare=examined.is_plain and is_literal and not examined.has_backslash, is_unquoted=examined.is_plain,
        readable=examined.copy if examined.is_copied else None,
        malformed=tuple(examined.malformed), records=examined.count, longest_record_bytes=examined.longest,
        marked_line=examined.marked_line, found=describe_found(header, asked, text.encoding),
        header=header.raw.decode() or shape.spell(header.columns),
    )  # fmt: skip


def reopen(file: SourceFile, max_line_bytes: int) -> Generator[Piece]:
    """The pieces of a CSV file as it was found, once more."""
    assert file.path is not None
    dialect = file.dialect
    options = replace(file.read, delimiter=dialect.copy_text or delimiter_of(file), encoding=dialect.encoding)
    bounds = Bounds(0, max_line_bytes)
    with open_utf8(file.path, encoding=dialect.encoding) as (_, text):
        stream, options = _as_csv(text, options, dialect.copy_text)
        header, rest = _header(stream, file.path, options, bounds)
        yield from _pieces(stream, shape_in_file(file, max_line_bytes), rest, header, dialect.skip)


def delimiter_of(file: SourceFile) -> str:
    """The delimiter in the file itself."""
    return file.dialect.own_delimiter or file.dialect.delimiter


def shape_in_file(file: SourceFile, max_line_bytes: int) -> Shape:
    """What the records of a CSV file look like in the file itself."""
    quote = '"' if file.dialect.copy_text else file.read.quote
    return shape_of(replace(file.read, quote=quote), delimiter_of(file), file.own_columns, max_line_bytes)


def _pieces(stream: Text, shape: Shape, rest: bytes, header: Header, skip: int) -> Iterator[Piece]:
    found = pieces(stream, shape, held=rest, first_line=1 + header.lines)
    if not isinstance(stream, CopyText):
        yield from found
        return
    for piece in found:  # a record of COPY's text format is a line, whatever its values hold
        records = piece.records and tuple(replace(record, lines_before=at) for at, record in enumerate(piece.records))
        yield replace(piece, first_line=1 + header.lines + skip + piece.first_record, records=records)


def _as_csv(text: Utf8Stream, options: ReadOptions, copy_text: str) -> tuple[Text, ReadOptions]:
    """The stream as CSV, and how it is to be read: a header in it counts like in any other CSV file."""
    stream = WithoutFooter(text, options.footer) if options.footer else text
    if not copy_text:
        return stream, options
    return CopyText(stream, copy_text, skip=options.skip), replace(options, delimiter=",", quote='"', skip=0)


def _header(stream: Text, path: Path, options: ReadOptions, bounds: Bounds) -> tuple[Header, bytes]:
    """Read up to the end of the header; return it and what was read of the data."""
    head = b""
    while True:
        block = stream.read(max(BLOCK_BYTES, len(head)))
        head += block
        if len(head) < BLOCK_BYTES and block:
            continue
        skipped = _size_of_lines(head, options.skip, at_end=not block)
        if skipped is None:
            continue
        separator = EXCEL_SEPARATOR.match(head) if not options.skip and options.format != "pgtext" else None
        if separator:  # Excel says so in the first line
            options = replace(options, delimiter=options.delimiter or separator[1].decode())
            skipped = separator.end()
        header = read_header(head[skipped:], path, options, at_end=not block, max_bytes=bounds.max_line_bytes)
        if header is not None:
            size, is_tidy = skipped + header.size, header.is_tidy and not skipped
            lines = header.lines + options.skip + (separator is not None)
            header = replace(header, size=size, lines=lines, is_tidy=is_tidy)
            return header, head[size:]


def _size_of_lines(head: bytes, count: int, *, at_end: bool) -> int | None:
    """The number of bytes in this many lines; None if more must be read to know."""
    size = 0
    for _ in range(count):
        found = _LINE.match(head, size)
        if found is None or (not at_end and found.end() == len(head)):
            return len(head) if at_end else None
        size = found.end()
    return size


@dataclass
class Examination:
    """What is known of a file so far, and the copy of it, begun at the first piece that cannot stay as it is."""

    path: Path
    copy: Path
    header: Header
    shape: Shape
    is_copied: bool
    says_nothing: bool = False  # of what \N is
    marked_line: int | None = None  # the first with a field that is \N alone
    malformed: list[Reject] = field(default_factory=list)
    count: int = 0
    longest: int = 0
    is_plain: bool = True
    is_copyable: bool = True
    has_backslash: bool = False
    blanks: str = " "
    _bytes_read: int = 0
    _output: BinaryIO | None = None

    def __enter__(self) -> Examination:
        self.is_copyable = len(self.header.columns) > 1
        self.is_plain = self.is_copyable
        if self.is_copied:
            self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        if self._output is not None:
            self._output.close()

    def take(self, piece: Piece, bounds: Bounds) -> None:
        """Account for a piece, and copy what is good of it."""
        if self.says_nothing and self.marked_line is None:
            self._look_for_marks(piece)
        data, count, longest = piece.data, piece.count, piece.longest
        if piece.records is not None:
            good = [record.data for record in piece.records if record.fault is None]
            self._set_aside(piece, bounds)
            data, count = b"".join(raw + b"\n" for raw in good), len(good)
            longest = max(map(len, good), default=0)
        if not piece.is_verbatim and self._output is None:
            self._begin()
        if self._output is not None:
            with room_wanted(self.copy):
                self._output.write(data)
        self.count += count
        self.longest = max(self.longest, longest)
        self._bytes_read += piece.size
        self.has_backslash = self.has_backslash or b"\\" in data
        if self.shape.trim and self.blanks != BLANKS and (b"\t" in data or b"\xc2\xa0" in data):
            self.blanks = BLANKS
        quote = self.shape.canonical.quote
        has_quotes = b'"' in data or (quote and quote in data)
        self.is_copyable = self.is_copyable and not (has_quotes and quote != b'"')
        self.is_plain = self.is_plain and not (has_quotes or LINE_SEPARATOR.encode() in data)

    def _look_for_marks(self, piece: Piece) -> None:
        data = piece.data or b"".join(record.raw + b"\n" for record in piece.records or ())
        if b"\\N" not in data or not (found := null_field(self.shape.delimiter).search(data)):
            return
        self.marked_line = piece.first_line + data.count(b"\n", 0, found.start() + 1)
        if self.header.delimiter == "\t":
            raise SourceError(
                f"{escape_name(self.path)}, line {self.marked_line:,}: a field is \\N, which is NULL in PostgreSQL's COPY text "
                "format; load the file with --format pgtext, or with --format csv if these are characters"
            )

    def _set_aside(self, piece: Piece, bounds: Bounds) -> None:
        for number, record in enumerate(piece.records or ()):
            if record.fault is None:
                continue
            line = piece.first_line + record.lines_before
            reason, sqlstate = record.fault.reason, record.fault.sqlstate
            self.malformed.append(Reject(0, piece.first_record + number, line, reason, sqlstate, record.text))
            if is_enough(len(self.malformed), bounds.max_rejects):
                self.finish(bounds)

    def finish(self, bounds: Bounds) -> None:
        """Raise RejectLimitError where more records are malformed than may be."""
        if len(self.malformed) > bounds.max_rejects:
            name = storable(self.path)
            raise too_many_rejects([reject.named(name) for reject in self.malformed], bounds.max_rejects)

    def _begin(self) -> None:
        """Begin the copy with what was read before: a header that is one line, and clean records as they are."""
        self.is_copied = True
        with room_wanted(self.copy):
            self._output = self.copy.open("wb")
            if self.header.has_header:
                self._output.write(self.header.line + b"\n")
            if self._bytes_read:
                with self.path.open("rb") as stream:
                    stream.seek(self.header.size)
                    _copy_bytes(stream, self._output, self._bytes_read)


def _copy_bytes(source: BinaryIO, target: BinaryIO, size: int) -> None:
    while size and (data := source.read(min(size, BLOCK_BYTES))):
        target.write(data)
        size -= len(data)
