"""How the lines of a text file seem to be divided: the delimiter, quote and escape by which most lines have the same fields."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from etl_toolkit.sources import BLANKS

FREQUENT_DELIMITERS = (",", ";", "\t", "|")
_DELIMITERS = (*FREQUENT_DELIMITERS, "||", "|~|", "::", "~", "^")
_UNIT = "\x1f"  # what a delimiter of several characters is replaced by: the csv module takes one
SAMPLE_LINES = 200


@dataclass(frozen=True)
class Layout:
    """A way to divide lines. `fits` says how many records have as many fields as most, how many there are, and the fields."""

    delimiter: str = ","
    quote: str = '"'
    escape: str | None = None
    skip: int = 0
    fits: tuple[int, int, int] = (0, 0, 0)

    def read(self, lines: Sequence[str]) -> list[list[str]]:
        """The records that these lines are, those of blank lines included."""
        delimiter = self.delimiter
        if delimiter == BLANKS:
            lines = [re.sub(r"[ \t]+", _UNIT, line.strip()) + "\n" for line in lines]
        elif len(delimiter) > 1:
            lines = [line.replace(delimiter, _UNIT) for line in lines]
        if len(delimiter) > 1:
            delimiter = _UNIT
        return list(csv.reader(lines, delimiter=delimiter, quotechar=self.quote, escapechar=self.escape))

    def describe(self) -> str:
        return "{} of the first {} records have {} fields".format(*self.fits)


def find_layout(lines: Sequence[str]) -> Layout:
    """The layout that gives most lines the same number of fields, of equal ones the plainest; it skips what is before them."""
    lines = lines[:SAMPLE_LINES]
    text = "".join(lines)
    layouts = [
        Layout(delimiter, quote, escape)
        for delimiter in _DELIMITERS if delimiter in text
        for quote in ('"', *("'" if "'" in text else ""))
        for escape in (None, *("\\" if "\\" + quote in text else ""))
    ]  # fmt: skip
    tried = [_try(layout, lines) for layout in layouts]
    if not any(2 * rating[0] > len(lines) for rating, _ in tried) and re.search(r"\S(  +|\t)\S", text):
        tried.append(_try(Layout(BLANKS), lines))
    # `max` keeps the first of equal ones.
    return max(tried, key=lambda item: item[0], default=((), Layout()))[1]


def _try(layout: Layout, lines: Sequence[str]) -> tuple[tuple[int, bool, int], Layout]:
    """How well a layout divides the lines, and the layout with what was found."""
    try:
        records = layout.read(lines)
    except csv.Error:
        return (0, False, 0), layout
    counts = [len(record) for record in records]
    widths = Counter(count for count in counts if count > 1).most_common(1)
    if not widths:
        return (0, False, 0), layout
    width, often = widths[0]
    skip = counts.index(width)
    is_named = all(name.strip() for name in records[skip])  # "id||name" is no header of three columns
    quoted = sum(len(cell) > 1 and cell[0] == cell[-1] == "'" for record in records for cell in record)
    found = replace(layout, skip=skip, fits=(often, sum(map(bool, counts)), width))
    return (often, is_named, -quoted), found
