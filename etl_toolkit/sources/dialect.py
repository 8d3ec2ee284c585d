"""How a CSV file is spelled: its delimiter, and the names of its columns, from the first records."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import zip_longest
from pathlib import Path

from etl_toolkit.errors import SourceError
from etl_toolkit.model import ReadOptions
from etl_toolkit.sources.inputs import escape_name
from etl_toolkit.sources.records import Record, Scanner, Shape

DELIMITERS = (",", "\t", ";", "|")
SAMPLE_RECORDS = 20
_DELIMITER_NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a |"}
BLANKS = r"\s+"  # a delimiter of any number of blanks


@dataclass(frozen=True)
class Header:
    """What stands before the data: `size` bytes and `lines` lines of it, without which the columns are named here.

    `raw` is the one line that it is, `line` what is written for it; `is_tidy` says that there is nothing else.
    """

    delimiter: str
    columns: tuple[str, ...]
    has_header: bool
    raw: bytes
    size: int
    lines: int
    is_tidy: bool
    line: bytes = b""
    fits: tuple[int, int, int] = (
        0,
        0,
        0,
    )  # the sampled records with as many fields as there are columns, all of them, columns


def shape_of(options: ReadOptions, delimiter: str, columns: tuple[str, ...] | None, max_bytes: int) -> Shape:
    """What the records of a file that is read with these options must look like."""
    return Shape(
        delimiter.encode(), options.quote.encode(), columns, max_bytes, escape=(options.escape or "").encode(),
        is_blank=delimiter == BLANKS, comment=(options.comment or "").encode(),
        until=re.compile(options.until) if options.until else None, ragged=options.ragged, trim=options.trim,
    )  # fmt: skip


def read_header(head: bytes, path: Path, options: ReadOptions, *, at_end: bool, max_bytes: int) -> Header | None:
    """Return the header of the file that begins with `head`; None where more of the file is needed to tell.

    A file without a header has the columns that `headers` names, and a first record equal to them is a header. Raises
    SourceError for one that is nearly so: it would be loaded as a row.
    """
    take = partial(_take_sample, head, options, at_end=at_end, max_bytes=max_bytes)
    expected = len(options.headers) if options.headers else None
    if options.delimiter or ".tsv" in path.name.lower():
        samples = [take(options.delimiter or "\t")]
    else:
        samples = [take(delimiter) for delimiter in DELIMITERS if delimiter.encode() in head]
        if not any(sample.quality(expected)[0] for sample in samples):  # only then may one that does not occur be it
            samples = [take(delimiter) for delimiter in _possible(head)]
    if not any(sample.records for sample in samples) and not at_end:
        return None
    sample = max(samples, key=lambda sample: sample.quality(expected))
    if sample.records and len(sample.records) < (options.header or 0):
        raise SourceError(f"{escape_name(path)}: has fewer lines than its header, which takes {options.header}")
    if not sample.records:
        if options.headers is None:
            raise SourceError(
                f"{escape_name(path)}: is empty; a CSV file needs a header line (or name its columns with --headers)"
            )
        is_none = not head and not options.header
        return Header(sample.delimiter, options.headers, False, b"", 0, 0, is_tidy=is_none)
    names = sample.names(options)
    if options.headers is not None and (options.header == 0 or (options.header is None and names != options.headers)):
        if options.header is None:
            _check_no_header(names, options, path, line=sample.records[0].lines_before + 1)
        fits = sample.fits(len(options.headers))
        return Header(sample.delimiter, options.headers, False, b"", 0, 0, is_tidy=True, fits=fits)
    return _header_of(sample, names, head, path, options, at_end=at_end)


def _header_of(
    sample: _Sample, names: tuple[str, ...] | None, head: bytes, path: Path, options: ReadOptions, *, at_end: bool
) -> Header:
    """The header that the first records are."""
    count = int(options.header or 1)
    first = sample.records[0]
    line = options.skip + first.lines_before + 1
    if names is None:
        fault = next(record.fault for record in sample.records if record.fault)
        reason = fault.reason + ("; if the file is UTF-16, give --encoding utf-16-le" if b"\0" in first.raw else "")
        raise SourceError(f"{escape_name(path)}, line {line}: the header cannot be read: {reason}")
    if options.headers is not None and len(options.headers) != len(names):
        raise SourceError(
            f"{escape_name(path)}, line {line}: the header has {len(names)} columns, and headers names {len(options.headers)}"
        )
    columns = options.headers or names
    if options.names == "exact":
        _check_header(columns, path, lines=line)
    scanned = sample.scanner.scan(head, at_end=at_end, limit=count)
    is_line = count == 1 and not sample.scanner.shape.is_foreign and not set(first.raw) & set(b"\r\n")
    tidy = first.raw + b"\n" == head[: scanned.consumed] or (first.raw == head and at_end)
    numbered = sample.scanner.shape.canonical.delimiter.join(b"c%d" % number for number in range(len(columns)))
    is_named = count == 1 and columns == names
    return Header(
        sample.delimiter, columns, True, first.raw if is_named else b"", scanned.consumed, scanned.lines,
        is_tidy=tidy and is_line, line=first.raw if is_line else numbered, fits=sample.fits(len(names)),
    )  # fmt: skip


def describe_found(header: Header, asked: ReadOptions, encoding: str) -> str:
    """What was found out about a file and not asked for, and how sure it is; empty where it is the usual."""
    fitting, sampled, width = header.fits
    words = []
    if asked.delimiter is None and (header.delimiter != "," or fitting < sampled):
        name = _DELIMITER_NAMES.get(header.delimiter, header.delimiter)
        words.append(f"{name} between fields ({fitting} of the first {sampled} records have {width})")
    if header.has_header and header.lines > 1:
        words.append(f"the header ends in line {header.lines}")
    if asked.encoding is None and encoding != "utf-8":
        words.append(f"{encoding} by its byte order mark")
    return ", ".join(words)


def _possible(head: bytes) -> list[str]:
    """The delimiters to try, in order: of those that do not occur the first, for all of them split alike."""
    absent = [delimiter for delimiter in DELIMITERS if delimiter.encode() not in head]
    return [delimiter for delimiter in DELIMITERS if delimiter not in absent[1:]]


def _check_no_header(names: tuple[str, ...] | None, options: ReadOptions, path: Path, *, line: int) -> None:
    """Raise SourceError where the first record is mostly made of the names that are given for the columns."""
    given = [name.strip().casefold() for name in options.headers or ()]
    found = [name.casefold() for name in names or ()]
    same = sum(left == right for left, right in zip(given, found, strict=False))
    if 2 * same > len([name for name in found if name]):
        raise SourceError(
            f"{escape_name(path)}, line {line + options.skip}: looks like a header, and --headers would load it as a row; "
            f"skip it with --skip {line + options.skip}"
        )


def _check_header(names: tuple[str, ...], path: Path, *, lines: int) -> None:
    remedy = (
        "if this line is a row, name the columns with --headers; if it is a header, fix it, give --read names=snake, or skip "
        f"it with --skip {lines} and name all columns with --headers"
    )
    for number, name in enumerate(names, start=1):
        if not name:
            raise SourceError(f"{escape_name(path)}: column {number} of the header has no name; {remedy}")
        if name in names[: number - 1]:
            raise SourceError(f"{escape_name(path)}: column {name!r} appears twice in the header; {remedy}")


@dataclass(frozen=True)
class _Sample:
    """The first records of a file as one delimiter splits them."""

    delimiter: str
    scanner: Scanner
    records: list[Record]

    @cached_property
    def widths(self) -> list[int]:
        """How many fields each of the records has that can be read."""
        return [len(self.scanner.fields(record.raw)) for record in self.records if record.fault is None]

    def names(self, options: ReadOptions) -> tuple[str, ...] | None:
        """The names that the header has, each of its lines joined by blanks; None where it is malformed."""
        lines = self.records[: int(options.header or 1)]
        if any(record.fault for record in lines):
            return None
        cells = zip_longest(*(self.scanner.fields(record.raw) for record in lines), fillvalue=b"")
        return tuple(" ".join(filter(None, (cell.decode().strip() for cell in column))) for column in cells)

    def fits(self, width: int) -> tuple[int, int, int]:
        """How many of the records have so many fields, of how many."""
        return self.widths.count(width), len(self.records), width

    def quality(self, expected: int | None) -> tuple[int, int, int]:
        """How many of the records have the number of fields there should be: the first criterion where that is several.

        Of a file with one column nothing speaks for a delimiter, and the usual one is taken: a record that has it is malformed.
        """
        width = expected or (self.widths[0] if self.widths else 0)
        matching = self.widths.count(width)
        return (matching, width, matching) if width > 1 else (0, width, len(self.widths))


def _take_sample(head: bytes, options: ReadOptions, delimiter: str, *, at_end: bool, max_bytes: int) -> _Sample:
    scanner = Scanner(shape_of(options, delimiter, None, max_bytes))
    return _Sample(delimiter, scanner, scanner.scan(head, at_end=at_end, limit=SAMPLE_RECORDS).records)
