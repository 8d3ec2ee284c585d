"""Quotes in whole records: where the records end, and which quotes say nothing, found for a block at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from etl_toolkit.sources.structure import inside_quotes

_LF, _CR, _QUOTE = b'\n\r"'
_KEPT = 0xFF  # no byte of UTF-8
_UNMARKED = bytes(_QUOTE if byte == _KEPT else byte for byte in range(256))


def drop_idle_quotes(block: Any, delimiter: str) -> tuple[Any, Any]:
    """Unquote, in place, the fields that need no quotes; return where records ended in the block, and where they end now.

    Quotes stay around an empty text, and around what holds a delimiter, a quote or a line break: so the server quotes as
    well. The block begins with a record, and its records are clean; what follows the last end stays as and where it is.
    """
    is_quote = block == _QUOTE
    quotes = np.flatnonzero(is_quote)
    feeds = block == _LF
    if not len(quotes):
        ends = np.flatnonzero(feeds)
        return ends, ends
    inside = inside_quotes(is_quote)
    ends = np.flatnonzero(feeds & ~inside)
    size = int(ends[-1]) + 1 if len(ends) else 0
    quotes = quotes[: np.searchsorted(quotes, size)]
    special = np.flatnonzero((feeds | (block == _CR) | (block == ord(delimiter)))[:size] & inside[:size])
    is_idle = np.repeat(~_is_needed(quotes[::2], quotes[1::2], special), 2)
    idle = quotes[is_idle]
    if not len(idle):
        return ends, ends
    block[quotes[~is_idle]] = _KEPT
    block[: size - len(idle)] = np.frombuffer(block[:size].tobytes().translate(_UNMARKED, b'"'), dtype=np.uint8)
    return ends, ends - np.searchsorted(idle, ends)


def _is_needed(openers: Any, closers: Any, special: Any) -> Any:
    """Which pairs of quotes have to stay. Of a field with doubled quotes each pair but the first opens with such a one."""
    is_needed = closers - openers == 1
    is_doubled = closers[:-1] + 1 == openers[1:]
    is_needed[:-1] |= is_doubled
    is_needed[1:] |= is_doubled
    is_needed[np.searchsorted(openers, special) - 1] = True
    return is_needed
