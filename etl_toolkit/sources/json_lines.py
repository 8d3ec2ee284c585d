"""JSON lines: an object a line becomes a record, its keys are the columns.

A text becomes its characters; numbers stay as they are spelled, digit by digit, and so do objects and arrays, as JSON. `null`
and a key that is not there are NULL.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from etl_toolkit.errors import SourceError
from etl_toolkit.model import CsvDialect, ReadOptions, SourceFile
from etl_toolkit.sources.csv_file import Bounds, Examination
from etl_toolkit.sources.dialect import Header
from etl_toolkit.sources.inputs import escape_name, storable
from etl_toolkit.sources.octets import open_utf8
from etl_toolkit.sources.records import (
    CUT_BYTES,
    ENCODING_SQLSTATE,
    LIMIT_SQLSTATE,
    PLAIN_SHAPE,
    Fault,
    Record,
    encoding_reason,
)
from etl_toolkit.sources.structure import BLOCK_BYTES, ByteStream, Piece
from etl_toolkit.sources.typed import column_names
from etl_toolkit.sources.values import BLANKS, converts_values

JSON_SQLSTATE = "22032"  # invalid_json_text
_BLANK = re.compile(r"[ \t\r\n]*")
_SPECIAL = re.compile(r'[,"\r\n]')


def examine_json(path: Path, options: ReadOptions, copy: Path, bounds: Bounds) -> SourceFile:
    """Read a file of JSON lines and return it as a SourceFile, with a copy as CSV.

    The columns are the keys in the order in which they first occur; a key that occurs late makes the file read again. Raises
    SourceError, and RejectLimitError at one malformed record too many.
    """
    options = replace(options, decimal=".", thousands="", currency=())  # JSON says how numbers are spelled
    columns: tuple[str, ...] = ()
    while True:
        try:
            return _convert(path, options, columns, copy, bounds)
        except _NewKeysError:
            with open_utf8(path, encoding=options.encoding) as (_, text):
                columns = _keys(_lines(text, bounds.max_line_bytes), bounds)


def reopen_json(file: SourceFile, max_line_bytes: int) -> Generator[Piece]:
    """The pieces of a file as it was found, once more."""
    assert file.path is not None
    with open_utf8(file.path, encoding=file.dialect.encoding) as (_, text):
        yield from _pieces(text, file.own_columns, max_line_bytes)


class _NewKeysError(Exception):
    """A key that is no column yet."""


def _convert(path: Path, options: ReadOptions, columns: tuple[str, ...], copy: Path, bounds: Bounds) -> SourceFile:
    copy.unlink(missing_ok=True)
    with open_utf8(path, encoding=options.encoding) as (raw, text):
        lines = _lines(text, bounds.max_line_bytes)
        first: list[tuple[int, bytes]] = []
        if not columns:
            first = next(lines, [])
            columns = _keys(iter([first]), bounds)
        if columns:
            column_names(columns, escape_name(path))
        shape = replace(PLAIN_SHAPE, columns=columns, max_bytes=bounds.max_line_bytes)
        numbered = b",".join(b"c%d" % number for number in range(len(columns)))
        header = Header(",", columns, True, b"", 0, 0, is_tidy=False, line=numbered)
        examined, seen = Examination(path, copy, header, shape, is_copied=True), 0
        with examined:
            number = 0
            for batch in _and_then(first, lines):
                piece = _piece(batch, number, columns, bounds.max_line_bytes)
                number += piece.count
                examined.take(piece, bounds)
                bounds.stop.check()
                bounds.on_look(max(0, raw.size - seen))
                seen = raw.size
            examined.finish(bounds)
        content_hash = raw.finish()
    if not columns:
        raise SourceError(f"{escape_name(path)}: has no JSON object, so it has no columns")
    is_literal = not converts_values(options)
    return SourceFile(
        0, storable(path), "csv", columns, content_hash, raw.size, path=path,
        dialect=CsvDialect(encoding=text.encoding, is_json=True, blanks=BLANKS),
        is_plain=examined.is_plain and is_literal, is_copyable=examined.is_copyable and is_literal,
        is_bare=examined.is_plain and is_literal and not examined.has_backslash, readable=copy,
        malformed=tuple(examined.malformed), records=examined.count, longest_record_bytes=examined.longest, read=options,
    )  # fmt: skip


def _and_then(
    first: list[tuple[int, bytes]], rest: Iterator[list[tuple[int, bytes]]]
) -> Iterator[list[tuple[int, bytes]]]:
    if first:
        yield first
    yield from rest


def _lines(stream: ByteStream, max_line_bytes: int) -> Iterator[list[tuple[int, bytes]]]:
    """The lines of a stream that are not blank, with their numbers, a block at a time; of one that is too long a part."""
    held, number, is_cut = b"", 0, False
    while True:
        block = stream.read(BLOCK_BYTES)
        data = held + block
        *whole, held = data.split(b"\n")
        if not block:
            whole, held = [*whole, held], b""
        found = []
        for line in whole:
            number += 1
            if line.strip() and not is_cut:
                found.append((number, line.removesuffix(b"\r")))
            is_cut = False
        if len(held) > max_line_bytes:
            if not is_cut:
                found.append((number + 1, held))
            held, is_cut = b"", True
        if found:
            yield found
        if not block:
            return


def _keys(batches: Iterator[list[tuple[int, bytes]]], bounds: Bounds) -> tuple[str, ...]:
    """All keys of the lines that can be read, in the order in which they first occur."""
    found: dict[str, None] = {}
    for batch in batches:
        bounds.stop.check()
        for _, line in batch:
            parsed = _parse(line, bounds.max_line_bytes)
            if not isinstance(parsed, Fault):
                found |= dict.fromkeys(parsed)
    return tuple(found)


def _pieces(stream: ByteStream, columns: tuple[str, ...], max_line_bytes: int) -> Iterator[Piece]:
    number = 0
    for batch in _lines(stream, max_line_bytes):
        piece = _piece(batch, number, columns, max_line_bytes)
        number += piece.count
        yield piece


def _piece(batch: list[tuple[int, bytes]], first_record: int, columns: tuple[str, ...], max_line_bytes: int) -> Piece:
    places = {name: number for number, name in enumerate(columns)}
    first_line = batch[0][0]
    records = []
    for number, line in batch:
        parsed = _parse(line, max_line_bytes)
        if isinstance(parsed, Fault):
            records.append(
                Record(
                    number - first_line,
                    line[: min(CUT_BYTES, max_line_bytes)] if len(line) > max_line_bytes else line,
                    parsed,
                )
            )
            continue
        fields = [b""] * len(columns)
        try:
            for name, value in parsed.items():
                fields[places[name]] = value
        except KeyError:
            raise _NewKeysError from None
        records.append(Record(number - first_line, line, None, b",".join(fields)))
    return Piece(first_record, first_line, 0, len(records), records=tuple(records))


# --- one line ----------------------------------------------------------------------------------------------------------


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


# Nothing is made of a number: its text is what counts.
_DECODER: Any = json.JSONDecoder(parse_float=lambda _: 0.0, parse_int=lambda _: 0, parse_constant=_refuse)
_Fields = dict[str, bytes]
_NUL = "a NUL character"


def _parse(line: bytes, max_line_bytes: int) -> _Fields | Fault:
    """The fields of an object as CSV, by their keys; or why the line is none."""
    if len(line) > max_line_bytes:
        return Fault(f"record longer than {max_line_bytes:,} bytes (max_line_bytes)", LIMIT_SQLSTATE)
    try:
        return _fields(line.decode())
    except UnicodeDecodeError as error:
        return Fault(encoding_reason(line, error), ENCODING_SQLSTATE)
    except UnicodeEncodeError as error:
        what = _NUL if error.reason == _NUL else "half of a surrogate pair"
        return Fault(f"a text has {what}", ENCODING_SQLSTATE)
    except RecursionError:
        return Fault("JSON is nested too deeply", LIMIT_SQLSTATE)
    except (ValueError, StopIteration, IndexError) as error:
        detail = f": {error}" if isinstance(error, _JsonError) else ""
        return Fault(f"invalid JSON{detail}", JSON_SQLSTATE)


class _JsonError(ValueError):
    """What is wrong with a line, in words for its reader."""


def _fields(text: str) -> _Fields:
    skip: Callable[[int], int] = lambda at: _BLANK.match(text, at).end()  # type: ignore[union-attr]  # noqa: E731
    at = skip(0)
    if text[at : at + 1] != "{":
        raise _JsonError("the line is no object")
    found: _Fields = {}
    at = skip(at + 1)
    while text[at] != "}" or found:
        if text[at] != '"':
            raise ValueError
        name, at = _DECODER.parse_string(text, at + 1, True)
        at = skip(at)
        if text[at] != ":":
            raise ValueError
        begin = skip(at + 1)
        value, at = _DECODER.scan_once(text, begin)
        if name in found:
            raise _JsonError(f"key {name!r} appears twice")
        found[name] = _field(value, text[begin:at])
        at = skip(at)
        if text[at] == "}":
            break
        if text[at] != ",":
            raise ValueError
        at = skip(at + 1)
    if skip(at + 1) != len(text):
        raise _JsonError("there is more behind the object")
    return found


def _field(value: Any, spelled: str) -> bytes:
    """A value as a field of CSV."""
    if spelled == "null":
        return b""
    text = value if isinstance(value, str) else spelled
    if "\0" in text:
        raise UnicodeEncodeError("utf-8", text, 0, 1, _NUL)
    if text in ("", "\\.") or _SPECIAL.search(text):
        text = '"' + text.replace('"', '""') + '"'
    return text.encode()
