"""Fields at either end of plain lines that are no part of the record to send, cut off; one of them may mark tombstones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class Cut:
    """What is left of a line of so many `fields`: those from `first` to `last`; and the place of the `mark`, if it is needed."""

    fields: int
    first: int
    last: int
    mark: int | None = None


def cut_lines(block: Any, ends: Any, delimiter: str, cut: Cut) -> tuple[Any, Any, pa.Array | None]:
    """Return where the record in each line of a block begins and ends, and the marks.

    The line feed that ends a line is put, in place, where the record ends.
    """
    begins = np.concatenate(([0], ends[:-1] + 1))
    found = np.flatnonzero(block[: ends[-1]] == ord(delimiter))
    if len(found) != len(ends) * (cut.fields - 1):
        raise OSError("a line has changed")
    places = found.reshape(len(ends), cut.fields - 1)
    if (places[:, 0] < begins).any() or (places[:, -1] > ends).any():
        raise OSError("a line has changed")

    def begin(field: int) -> Any:
        return places[:, field - 1] + 1 if field else begins

    def end(field: int) -> Any:
        return places[:, field] if field < cut.fields - 1 else ends

    marks = None if cut.mark is None else _texts(block, begin(cut.mark), end(cut.mark) - begin(cut.mark))
    block[end(cut.last)] = ord("\n")
    return begin(cut.first), end(cut.last), marks


def _texts(block: Any, begins: Any, widths: Any) -> pa.Array:
    """The texts that begin there, as an Arrow array of their own."""
    ends = np.cumsum(widths)
    data = block[np.repeat(begins - ends + widths, widths) + np.arange(ends[-1])]
    offsets = np.concatenate(([0], ends)).astype(np.int32)
    return pa.Array.from_buffers(pa.string(), len(widths), [None, pa.py_buffer(offsets), pa.py_buffer(data)])
