"""How a CSV file is spelled: its delimiter, and the names of its columns, from the first records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from etl_toolkit.errors import SourceError
from etl_toolkit.model import ReadOptions
from etl_toolkit.sources.inputs import escape_name
from etl_toolkit.sources.records import Record, Scanner, Shape, count_lines

DELIMITERS = (",", "\t", ";", "|")
SAMPLE_RECORDS = 20


@dataclass(frozen=True)
class Header:
    """What stands before the data: `size` bytes and `lines` lines of it, without which the columns are named here.

    `is_tidy` says that it is exactly one line, or nothing.
    """

    delimiter: str
    columns: tuple[str, ...]
    has_header: bool
    raw: bytes
    size: int
    lines: int
    is_tidy: bool


def read_header(head: bytes, path: Path, options: ReadOptions, *, at_end: bool, max_bytes: int) -> Header | None:
    """Return the header of the file that begins with `head`; None where more of the file is needed to tell.

    A file without a header has the columns that `headers` names, and a first record equal to them is a header. Raises
    SourceError for one that is nearly so: it would be loaded as a row.
    """
    candidates = (
        [options.delimiter] if options.delimiter else ["\t"] if ".tsv" in path.name.lower() else _possible(head)
    )
    samples = [
        _Sample.take(head, delimiter, options.quote, at_end=at_end, max_bytes=max_bytes) for delimiter in candidates
    ]
    if not any(sample.records for sample in samples) and not at_end:
        return None
    expected = len(options.headers) if options.headers else None
    sample = max(samples, key=lambda sample: sample.quality(expected))
    if not sample.records:
        if options.headers is None:
            raise SourceError(
                f"{escape_name(path)}: is empty; a CSV file needs a header line (or name its columns with --headers)"
            )
        return Header(sample.delimiter, options.headers, False, b"", 0, 0, is_tidy=not head)
    first = sample.records[0]
    names = None if first.fault else tuple(field.decode().strip() for field in sample.scanner.fields(first.raw))
    if options.headers is not None and names != options.headers:
        _check_no_header(names, options, path, line=first.lines_before + 1)
        return Header(sample.delimiter, options.headers, False, b"", 0, 0, is_tidy=True)
    if first.fault is not None or names is None:
        reason = first.fault.reason if first.fault else ""
        if b"\0" in first.raw:
            reason += "; if the file is UTF-16, give --encoding utf-16-le"
        raise SourceError(f"{escape_name(path)}, line {first.lines_before + 1}: the header cannot be read: {reason}")
    columns = names
    if options.names == "exact":
        _check_header(names, path, lines=options.skip + first.lines_before + 1)
    size = head.find(first.raw) + len(first.raw)
    size += 2 if head[size : size + 2] == b"\r\n" else min(1, len(head) - size)
    tidy = first.raw + b"\n" == head[:size] or (first.raw == head and at_end)
    is_tidy = tidy and b"\n" not in first.raw and b"\r" not in first.raw
    return Header(sample.delimiter, columns, True, first.raw, size, count_lines(head[:size]), is_tidy)


def _possible(head: bytes) -> list[str]:
    """The delimiters to try, in order: of those that do not occur the first, for all of them split alike."""
    absent = [delimiter for delimiter in DELIMITERS if delimiter.encode() not in head]
    return [delimiter for delimiter in DELIMITERS if delimiter not in absent[1:]]


def _check_no_header(names: tuple[str, ...] | None, options: ReadOptions, path: Path, *, line: int) -> None:
    """Raise SourceError where the first record is mostly made of the names that are given for the columns."""
    told = [name.strip().casefold() for name in options.headers or ()]
    found = [name.casefold() for name in names or ()]
    same = sum(left == right for left, right in zip(told, found, strict=False))
    if 2 * same > len([name for name in found if name]):
        raise SourceError(
            f"{escape_name(path)}, line {line + options.skip}: looks like a header, and --headers would load it as a row; "
            f"skip it with --skip {line + options.skip}"
        )


def _check_header(names: tuple[str, ...], path: Path, *, lines: int) -> None:
    remedy = (
        f"fix the header, give --read names=snake, or skip it with --skip {lines} and name all columns with --headers"
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

    @classmethod
    def take(cls, head: bytes, delimiter: str, quote: str, *, at_end: bool, max_bytes: int) -> _Sample:
        scanner = Scanner(Shape(delimiter.encode(), quote.encode(), None, max_bytes))
        return cls(delimiter, scanner, scanner.scan(head, at_end=at_end, limit=SAMPLE_RECORDS).records)

    def quality(self, expected: int | None) -> tuple[int, int, int]:
        """How many of the records have the number of fields there should be: the first criterion where that is several.

        Of a file with one column nothing speaks for a delimiter, and the usual one is taken: a record that has it is malformed.
        """
        counts = [len(self.scanner.fields(record.raw)) for record in self.records if record.fault is None]
        width = expected or (counts[0] if counts else 0)
        matching = counts.count(width)
        return (matching, width, matching) if width > 1 else (0, width, len(counts))
