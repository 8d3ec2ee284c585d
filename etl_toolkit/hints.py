"""What the user may have meant: the nearest of the existing names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

_VALUE = re.compile(r"[-+]?\d+([.,]\d+)*|\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}.*|\S+@\S+\.\S+")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean order_id?)`, or nothing if no name is similar. Case, `_` and `-` count for little."""
    plain = {_plain(item): item for item in reversed(list(known))}
    close = get_close_matches(_plain(name), plain, 1, cutoff=0.6)
    return f" (did you mean {plain[close[0]]}?)" if close else ""


def has_no_header(columns: Sequence[str]) -> bool:
    """Whether the names of a file's columns look like the values of its first row."""
    return any(_VALUE.fullmatch(name) for name in columns)


def _plain(name: str) -> str:
    return re.sub(r"[_\s-]", "", name.casefold())
