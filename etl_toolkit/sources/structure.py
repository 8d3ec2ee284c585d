"""Which bytes of a CSV file are clean: the rules of `records`, checked for a block at a time instead of a record.

Clean means that every record has the right number of fields, that quotes only open, close and double where they may,
and that the bytes are UTF-8 without NUL. Line ends other than LF, and blank lines, are corrected on the way. What is not
clean goes to the `Scanner`, which knows why; `tests/test_sources.py` holds the two against each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from etl_toolkit.sources.records import Record, Scanner, Shape, count_lines

BLOCK_BYTES = 1 << 20  # in a smaller one, threads wait for each other more than they work
CHECKED_BYTES = 1 << 22  # the check takes ten times that while it runs
SCANNED_AT_ONCE = 5_000  # records; behind a fault, what follows is most often clean again
_LF, _CR = 10, 13
_BLANKS, _OUTER_BLANKS = re.compile(rb"[ \t]+"), re.compile(rb"^[ \t]+|[ \t]+$", re.MULTILINE)


class ByteStream(Protocol):
    """Anything with `read`; a short read means nothing, an empty one the end."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class Piece:
    """Consecutive whole records of a file.

    `first_record` counts data records from 0, `first_line` lines from 1, `size` the bytes in the file. A clean piece has
    its bytes in `data`, each record ended by LF; `is_verbatim` says they are those of the file, which `source` holds else.
    Another one has its `records` instead, faults and all.
    """

    first_record: int
    first_line: int
    size: int
    count: int
    data: bytes = b""
    is_verbatim: bool = False
    records: tuple[Record, ...] | None = None
    longest: int = 0
    source: bytes = b""


@dataclass(frozen=True)
class Clean:
    """The clean records at the start of a buffer, in the bytes `data` with LF line ends, and the bytes they took."""

    consumed: int
    count: int
    data: bytes
    is_verbatim: bool
    longest: int
    lines: int | None = None  # None: to be counted


def pieces(
    stream: ByteStream, shape: Shape, *, held: bytes = b"", first_line: int = 1, window: int = BLOCK_BYTES
) -> Iterator[Piece]:
    """Split a stream, of which `held` was read before, into pieces. What they hold depends on the bytes alone.

    A window of the bytes is looked at; it grows until it holds a whole record, at most to the longest one allowed.
    """
    scanner = Scanner(shape)
    record, line, start, size, is_cut, at_end = 0, first_line, 0, window, False, False
    while not (at_end and start >= len(held)):
        while not at_end and len(held) - start < size:
            block = stream.read(max(BLOCK_BYTES, size - len(held) + start))
            held, start, at_end = held[start:] + block, 0, not block
        end, is_last = start + size, at_end and start + size >= len(held)
        if not is_last and not is_cut:
            end = held.rfind(b"\n", start, end) + 1 or end  # most often a record's end: nothing to be cut off again
        buffer = held[start:end]
        if is_cut:
            skipped, is_cut = _past_line(buffer, at_end=is_last)
            start, line = start + skipped, line + (not is_cut)
            size = window if skipped else size * 2
            continue
        piece, lines, is_cut, is_ended = _piece(buffer, scanner, at_end=is_last)
        if piece.size:
            yield replace(piece, first_record=record, first_line=line)
        if is_ended:
            return
        record, line, start = record + piece.count, line + lines, start + piece.size
        size = window if piece.size else size * 2


def _piece(buffer: bytes, scanner: Scanner, *, at_end: bool) -> tuple[Piece, int, bool, bool]:
    """The whole records at the start of a buffer, their lines, whether the last is cut there, and whether the data ends."""
    found = clean(buffer, scanner.shape, at_end=at_end) if len(buffer) <= CHECKED_BYTES else None
    if found is not None:
        source = found.data if found.is_verbatim else buffer[: found.consumed]
        lines = found.lines if found.lines is not None else count_lines(source)
        piece = Piece(0, 0, found.consumed, found.count, found.data, found.is_verbatim, None, found.longest, source)
        return piece, lines, False, False
    scanned = scanner.scan(buffer, at_end=at_end, limit=SCANNED_AT_ONCE)
    records, source = scanned.records, buffer[: scanned.consumed]
    if any(record.fault for record in records):
        piece = Piece(0, 0, len(source), len(records), records=tuple(records))
        return piece, scanned.lines, scanned.is_cut, scanned.is_ended
    data = b"".join(record.data + b"\n" for record in records)
    longest = max((len(record.data) for record in records), default=0)
    is_verbatim = data in (source, source + b"\n")
    return (
        Piece(0, 0, len(source), len(records), data, is_verbatim, None, longest, source),
        scanned.lines,
        False,
        scanned.is_ended,
    )


def _past_line(buffer: bytes, *, at_end: bool) -> tuple[int, bool]:
    """Return the bytes to skip to get past the current line, and whether it goes on behind the buffer."""
    feed, back = buffer.find(b"\n"), buffer.find(b"\r")
    if back >= 0 and (feed < 0 or back < feed):
        if back + 1 == len(buffer) and not at_end:
            return back, True
        return back + (2 if feed == back + 1 else 1), False
    return (len(buffer), True) if feed < 0 else (feed + 1, False)


def clean(buffer: bytes, shape: Shape, *, at_end: bool) -> Clean | None:
    """Return the clean records at the start of a buffer; None where one of them is not, or is longer than the buffer."""
    if _has_marks(buffer, shape):
        return None
    if shape.is_foreign:
        return _clean_foreign(buffer, shape, at_end=at_end)
    simple = b"\r" not in buffer and not (shape.quote and shape.quote in buffer)
    found = _clean_lines(buffer, shape, at_end=at_end) if simple else None
    found = found or _clean_quoted(buffer, shape, at_end=at_end)
    return found if found and found.longest <= shape.max_bytes and _is_text(found.data) else None


def _has_marks(buffer: bytes, shape: Shape) -> bool:
    """Whether a line of the buffer may be a comment, or the end of the data."""
    if shape.comment and (
        buffer.startswith(shape.comment) or b"\n" + shape.comment in buffer or b"\r" + shape.comment in buffer
    ):
        return True
    return shape.until is not None and any(map(shape.is_end, buffer.splitlines()))


def _clean_foreign(buffer: bytes, shape: Shape, *, at_end: bool) -> Clean | None:
    """Lines without quotes and escapes, with a delimiter that is spelled as the one of our own."""
    cut = len(buffer) if at_end else buffer.rfind(b"\n") + 1
    data, own = buffer[:cut].replace(b"\r\n", b"\n"), shape.canonical
    special = {b"\r", own.delimiter, own.quote, shape.quote, shape.escape} - {b""}
    if not cut or any(character in data for character in special):
        return None
    if shape.is_blank:
        data = _BLANKS.sub(own.delimiter, _OUTER_BLANKS.sub(b"", data))
    else:
        data = data.replace(shape.delimiter, own.delimiter)
    found = _clean_lines(data, own, at_end=True)
    if found is None or found.longest > shape.max_bytes or not _is_text(found.data):
        return None
    return replace(found, consumed=cut, is_verbatim=False)


def _is_text(data: bytes) -> bool:
    if b"\0" in data:
        return False
    if data.isascii():
        return True
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _clean_lines(buffer: bytes, shape: Shape, *, at_end: bool) -> Clean | None:
    """The usual case: no quote and no CR in the buffer, so every LF ends a record."""
    cut = len(buffer) if at_end else buffer.rfind(b"\n") + 1
    if not cut:
        return None
    data = buffer if cut == len(buffer) else buffer[:cut]
    closed = data if data.endswith(b"\n") else data + b"\n"
    array = np.frombuffer(closed, dtype=np.uint8)
    longest = _fields_match(array == _LF, array == ord(shape.delimiter), shape)
    return None if longest is None else Clean(cut, longest[0], closed, True, longest[1], lines=longest[0])


def _fields_match(ends: Any, delimiters: Any, shape: Shape) -> tuple[int, int] | None:
    """Return the number of records and the longest one's bytes, where each has as many fields as there are columns."""
    last = np.flatnonzero(ends)
    if not len(last):
        return 0, 0
    lengths = np.diff(last, prepend=-1)
    wanted = len(shape.columns or ()) - 1
    # Bytes may overflow, but only upwards: then the total is too large.
    counts = np.add.reduceat(
        delimiters.view(np.uint8), last - lengths + 1, dtype=np.uint8 if wanted < 256 else np.uint32
    )
    if not (counts == wanted).all() or np.count_nonzero(delimiters) != wanted * len(last):
        return None
    if lengths.min() < 2:  # a blank line, in a file of one column
        return None
    return len(last), int(lengths.max()) - 1


def _clean_quoted(buffer: bytes, shape: Shape, *, at_end: bool) -> Clean | None:
    """Any buffer: with quotes, other line ends, blank lines."""
    size = len(buffer) - (1 if not at_end and buffer.endswith(b"\r") else 0)  # is it half of a CR LF?
    original = np.frombuffer(buffer, dtype=np.uint8)[:size]
    ends = (original == _LF) | (original == _CR)
    inside = None
    if shape.quote and shape.quote in buffer:
        quotes = original == ord(shape.quote)
        inside = inside_quotes(quotes)
        if at_end and inside[-1:].any():
            return None
        if not _quotes_match(quotes, inside, ends | quotes | (original == ord(shape.delimiter))):
            return None
        ends &= ~inside
    cut = size if at_end else _last(ends) + 1
    if not cut:
        return None
    array, ends = original[:cut], ends[:cut]
    inside = inside[:cut] if inside is not None else np.zeros(cut, dtype=np.bool_)
    array, inside, is_verbatim = _with_line_feeds(array, ends, inside)
    if array[-1:].tolist() != [_LF] or inside[-1]:
        array, inside = np.append(array, np.uint8(_LF)), np.append(inside, False)
    array, inside, has_no_blanks = _without_blank_lines(array, inside)
    matched = _fields_match((array == _LF) & ~inside, (array == ord(shape.delimiter)) & ~inside, shape)
    if matched is None:
        return None
    return Clean(cut, matched[0], array.tobytes(), is_verbatim and has_no_blanks, matched[1])


def inside_quotes(quotes: Any) -> Any:
    """Where the number of quotes so far is odd: a running parity, 64 bytes at a time (Langdale and Lemire, 2019)."""
    words = np.zeros(-(-len(quotes) // 64), dtype="<u8")
    packed = np.packbits(quotes, bitorder="little")
    words.view(np.uint8)[: len(packed)] = packed
    for shift in (1, 2, 4, 8, 16, 32):
        words ^= words << np.uint64(shift)
    is_odd = np.bitwise_xor.accumulate(words >> np.uint64(63))
    words[1:] ^= np.negative(is_odd[:-1])  # all ones where the words before end inside a field
    return np.unpackbits(words.view(np.uint8), count=len(quotes), bitorder="little").view(np.bool_)


def _last(mask: Any) -> int:
    return int(len(mask) - 1 - mask[::-1].argmax()) if mask.any() else -1


def _quotes_match(quotes: Any, inside: Any, edges: Any) -> bool:
    """Whether every quote opens a field, closes one, or is half of a doubled one; `edges` are where fields end, and quotes."""
    opens = quotes & inside
    closes = quotes ^ opens
    return not ((opens[1:] > edges[:-1]).any() or (closes[:-1] > edges[1:]).any())


def _with_line_feeds(array: Any, ends: Any, inside: Any) -> tuple[Any, Any, bool]:
    """Turn every CR LF and CR that ends a record into LF."""
    returns = np.flatnonzero(ends & (array == _CR))
    if not len(returns):
        return array, inside, True
    array = array.copy()
    has_feed = array[np.minimum(returns + 1, len(array) - 1)] == _LF
    has_feed &= returns + 1 < len(array)
    array[returns[~has_feed]] = _LF
    keep = np.ones(len(array), dtype=np.bool_)
    keep[returns[has_feed]] = False
    return array[keep], inside[keep], False


def _without_blank_lines(array: Any, inside: Any) -> tuple[Any, Any, bool]:
    ends = np.flatnonzero((array == _LF) & ~inside)
    blank = ends[np.diff(ends, prepend=-1) == 1]
    if not len(blank):
        return array, inside, True
    keep = np.ones(len(array), dtype=np.bool_)
    keep[blank] = False
    return array[keep], inside[keep], False
