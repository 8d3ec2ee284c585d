"""The cells of a pandas column as Arrow can take them without changing what they mean.

Arrow gives all mappings of a column the keys of all of them, sets an order, and times of several zones the first one's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from math import isnan
from typing import Any
from uuid import UUID

_ENCODE = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_ENCODE_NUMBER = json.JSONEncoder().encode  # an infinity as well: no JSON, which the server says of its row


class CellError(Exception):
    """Why a column of a frame cannot be loaded: it names the column."""


def as_arrow(column: Any) -> Any:
    """Return a pandas column as it is, or as another one that Arrow does not change. Raises CellError."""
    kind = column.dtype
    if type(kind).__name__ == "SparseDtype":
        return column.sparse.to_dense()
    if str(kind) != "object":
        return column
    cells = [cell for cell in column if not _is_missing(cell)]
    try:
        if any([_holds_mapping(cell) for cell in cells]):  # noqa: C419  # all of them: a set may hide behind a mapping
            return _texts_of(column, json_text, is_json=True)
        if cells and all(isinstance(cell, datetime | time) for cell in cells):
            return _of_times(column, {cell.tzinfo for cell in cells}, is_time=isinstance(cells[0], time))
    except _NoTextError as error:
        raise CellError(f"column {column.name!r} holds {error}; turn it into text") from None
    if all(type(cell) is int for cell in cells) and any(not -(2**63) <= cell < 2**63 for cell in cells):
        return column.map(Decimal, na_action="ignore")
    return column


def _of_times(column: Any, zones: set[Any], *, is_time: bool) -> Any:
    if None in zones and len(zones) > 1:
        raise _NoTextError("times with a zone and without one")
    if len(zones) > 1 or (is_time and None not in zones):
        return _texts_of(column, lambda cell: cell.isoformat(), is_json=False)
    return column


class _NoTextError(Exception):
    """What a cell holds that has no text."""


def json_text(value: Any) -> str:
    """Return a value as JSON, every number as it is written. Raises _NoTextError for what JSON has no form for."""
    try:
        return "null" if _is_missing(value) else _ENCODE(value)  # most are what the encoder knows, which is fast
    except (TypeError, ValueError):
        return _spelled_out(value)


def _spelled_out(value: Any) -> str:
    if hasattr(value, "tolist"):  # of numpy
        value = value.tolist()
    if isinstance(value, Mapping):
        items = (f"{_ENCODE(_key(key))}: {json_text(item)}" for key, item in value.items())
        return f"{{{', '.join(items)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(json_text, value))}]"
    if isinstance(value, Decimal) and value.is_finite():
        return str(value)
    if isinstance(value, date | time):  # a datetime is a date
        return f'"{value.isoformat()}"'
    if isinstance(value, UUID):
        return f'"{value}"'
    if isinstance(value, str | bool | int | float):
        return _ENCODE_NUMBER(value)
    raise _NoTextError(f"a {type(value).__name__}, which JSON cannot represent")


def _key(key: Any) -> str:
    if isinstance(key, str):
        return key
    if isinstance(key, bool | int | float):
        return _ENCODE_NUMBER(key)
    raise _NoTextError(f"a mapping with a {type(key).__name__} as a key")


def _texts_of(column: Any, text_of: Any, *, is_json: bool) -> Any:
    import pandas as pd
    import pyarrow as pa

    texts = [None if _is_missing(cell) else text_of(cell) for cell in column]
    values = pa.array(texts, pa.string())
    if is_json:
        values = pa.ExtensionArray.from_storage(pa.json_(), values)
    return pd.Series(pd.arrays.ArrowExtensionArray(values), index=column.index, name=column.name)


def _is_missing(cell: Any) -> bool:
    """Whether pandas takes a cell for missing: None, NaN, NaT, NA."""
    return cell is None or type(cell).__name__ in ("NaTType", "NAType") or (isinstance(cell, float) and isnan(cell))


def _holds_mapping(cell: Any) -> bool:
    """Whether there is a mapping in a cell. Raises _NoTextError where there is a set, which has no order."""
    if isinstance(cell, set | frozenset):
        raise _NoTextError("sets, whose elements have no order")
    if isinstance(cell, Mapping):
        return True
    if isinstance(cell, list | tuple) or (hasattr(cell, "tolist") and getattr(cell, "ndim", False)):
        elements: Iterable[Any] = cell
        return any([_holds_mapping(element) for element in elements])  # noqa: C419  # all of them, as above
    return False
