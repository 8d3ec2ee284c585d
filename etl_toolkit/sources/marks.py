"""Marks of tombstones at either end of plain lines, cut off: what is left of a line is the record to send."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyarrow as pa

MarkAt = Literal[0, -1]  # the first field of a line, or the last


def cut_marks(block: Any, begins: Any, ends: Any, delimiter: str, mark_at: MarkAt) -> tuple[Any, Any, pa.Array]:
    """Return where each line begins and ends without its mark, and the marks.

    The line feed that ends a line is put, in place, where the line ends now.
    """
    widths = _measure(block, begins, ends, ord(delimiter), mark_at)
    if mark_at == 0:
        return begins + widths + 1, ends, _texts(block, begins, widths)
    marks, ends = _texts(block, ends - widths, widths), ends - widths - 1
    block[ends] = ord("\n")
    return begins, ends, marks


def _measure(block: Any, begins: Any, ends: Any, delimiter: int, mark_at: MarkAt) -> Any:
    """How long the first or the last field of each line is: most are a letter, so that one is found in a step or two."""
    widths, width, left = np.zeros_like(ends), 0, np.arange(len(ends))
    while len(left):
        places = begins[left] + width if mark_at == 0 else ends[left] - 1 - width
        if (places < begins[left]).any() or (places >= ends[left]).any():
            raise OSError("a line has changed")
        left = left[block[places] != delimiter]
        width += 1
        widths[left] = width
    return widths


def _texts(block: Any, begins: Any, widths: Any) -> pa.Array:
    """The texts that begin there, as an Arrow array of their own."""
    ends = np.cumsum(widths)
    data = block[np.repeat(begins - ends + widths, widths) + np.arange(ends[-1] if len(ends) else 0)]
    offsets = np.concatenate(([0], ends)).astype(np.int32)
    return pa.Array.from_buffers(pa.string(), len(widths), [None, pa.py_buffer(offsets), pa.py_buffer(data)])
