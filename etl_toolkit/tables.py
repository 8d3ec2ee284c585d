"""Tables and sentences, rendered twice: as plain text for a terminal, as HTML for Jupyter and the report.

Everything that comes from outside (file names, columns, reasons) is escaped in HTML; control characters are replaced
in text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

NAME_WIDTH = 44

Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """A table with a caption; None shows as a dash. `sums`: the last row adds up the others.

    Columns of numbers are set right, and those whose names are in `right`: texts that begin with a number.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    sums: bool = False
    right: Sequence[str] = ()


def tabulate(
    caption: str, items: Iterable[Any], columns: Mapping[str, Callable[[Any], Cell]], *, right: Sequence[str] = ()
) -> Table:
    """Return a table with a row for each of `items`; `columns` say what stands under each name."""
    return Table(caption, list(columns), [[say(item) for say in columns.values()] for item in items], right=right)


def spell_count(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun: `1 batch`, `2 batches`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


@dataclass(frozen=True)
class Lines:
    """Sentences, one a line; `title` is the one that is read first."""

    title: str
    items: Sequence[str] = ()


Block = Table | Lines

# --- as plain text ----------------------------------------------------------------------------------------------------


def to_text(blocks: Sequence[Block]) -> str:
    """Render for a terminal."""
    return "\n\n".join(_table_text(block) if isinstance(block, Table) else _lines_text(block) for block in blocks)


def _lines_text(lines: Lines) -> str:
    return "\n".join([_printable(lines.title), *(f"  - {_printable(item)}" for item in lines.items)])


def _table_text(table: Table) -> str:
    head = [_printable(name) for name in table.head]
    body = [[_clipped(_printable(cell_text(cell))) for cell in row] for row in table.rows]
    right = _numeric(table)
    widths = [max(map(_width, column)) for column in zip(head, *body, strict=True)]
    lines = [_row_text(row, widths, right) for row in [head, ["-" * width for width in widths], *body]]
    if table.sums:
        lines.insert(-1, lines[1])
    return "\n".join([_printable(table.caption), *(f"  {line}" for line in lines)])


def _row_text(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = []
    for cell, width, to_right in zip(cells, widths, right, strict=True):
        gap = " " * (width - _width(cell))
        padded.append(gap + cell if to_right else cell + gap)
    return "  ".join(padded).rstrip()


def _numeric(table: Table) -> list[bool]:
    """Which columns are set right: nothing but numbers and dashes in them."""
    return [
        name in table.right or all(not isinstance(row[index], str) for row in table.rows)
        for index, name in enumerate(table.head)
    ]


def cell_text(cell: Cell) -> str:
    """Return what a cell shows."""
    if cell is None:
        return "–"
    return f"{cell:,.3f}" if isinstance(cell, float) else f"{cell:,}" if isinstance(cell, int) else cell


def _printable(text: str) -> str:
    """`text` on one line, without anything a terminal would obey."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def _clipped(text: str) -> str:
    return text if _width(text) <= NAME_WIDTH else "…" + text[-(NAME_WIDTH - 1) :]


def _width(text: str) -> int:
    """Columns `text` takes in a terminal."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


# --- as HTML ----------------------------------------------------------------------------------------------------------


def to_html(blocks: Sequence[Block]) -> str:
    """Render for Jupyter: tables with captions and header cells, no style but alignment, so that themes apply."""
    return f'<div class="etl-display">{"".join(map(_block_html, blocks))}</div>'


def _block_html(block: Block) -> str:
    if isinstance(block, Table):
        return table_html(block)
    items = "".join(f"<li>{escape(item)}</li>" for item in block.items)
    return f"<p><strong>{escape(block.title)}</strong></p>" + (f"<ul>{items}</ul>" if items else "")


def table_html(block: Table) -> str:
    """Render one table."""
    right = _numeric(block)
    head = "".join(
        f'<th scope="col" style="text-align:{_side(to_right)}">{escape(name)}</th>'
        for name, to_right in zip(block.head, right, strict=True)
    )
    rows = [
        "".join(
            f'<td style="text-align:{_side(to_right)}">{escape(cell_text(cell))}</td>'
            for cell, to_right in zip(row, right, strict=True)
        )
        for row in block.rows
    ]
    if block.sums:
        rows[-1] = rows[-1].replace("<td", "<th").replace("</td", "</th")
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    caption = f'<caption style="text-align:left;white-space:nowrap">{escape(block.caption)}</caption>'
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _side(to_right: bool) -> str:
    return "right" if to_right else "left"


# --- as Markdown ------------------------------------------------------------------------------------------------------


def table_markdown(block: Table) -> str:
    """Render one table for a repository, under its caption if it has one."""
    rows = [[name or " " for name in block.head], ["---"] * len(block.head)]
    rows += [[cell_text(cell) for cell in row] for row in block.rows]
    lines = ["| " + " | ".join(cell.replace("|", r"\|").replace("<", "&lt;") for cell in row) + " |" for row in rows]
    return "\n".join([*([block.caption, ""] if block.caption else []), *lines])
