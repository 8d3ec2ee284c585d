"""A content written down as the file or frame that a load is given."""

from __future__ import annotations

import gzip
import json
import re
import uuid
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.fuzz.case import Content


def write_file(content: Content, directory: Path) -> Path:
    """Write a CSV or Parquet file."""
    path = directory / content.path
    path.parent.mkdir(parents=True, exist_ok=True)
    if content.form == "parquet":
        pq.write_table(arrow_table(content), path, compression=content.flavour or "snappy", row_group_size=7)
    else:
        data = csv_bytes(content)
        path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def csv_bytes(content: Content) -> bytes:
    """The content as CSV, in the way of its feed: an empty text is quoted, and so is what only looks like something else."""
    dialect, feed = content.dialect, content.feed
    delimiter = feed.delimiter or dialect.delimiter
    marks = tuple(filter(None, (feed.comment, feed.until)))
    # A name may hold what would be taken for the delimiter, if nothing else shows which that is.
    alone = content.columns if len(content.columns) == 1 or not content.rows else ()

    def field(text: str | None) -> str:
        if text is None:
            return feed.null
        odd = (*delimiter, '"', "\n", "\r", feed.escape, *(",;|\t" if text in alone else ""))
        is_odd = (
            any(part and part in text for part in odd) or text in ("\\.", "\\N", feed.null) or text.startswith(marks)
        )
        # A line that is `\\.` ends the data of COPY before PostgreSQL 18; a blank one is no record.
        if dialect.quote_all or not text.strip() or is_odd or text != text.strip():
            spelled = text.replace(feed.escape, feed.escape * 2) if feed.escape else text
            return '"' + spelled.replace('"', '""') + '"'
        return text

    lines = [f'line {number} of "a title' for number in range(feed.skip)]
    for number, row in enumerate((content.columns, *content.rows)):
        fields = list(map(field, row))
        while feed.is_fitted and number and len(fields) > 2 and not fields[-1] and len(fields) <= len(content.columns):
            fields.pop()
        lines.append(delimiter.join(fields))
        if dialect.blank_every and number and number % dialect.blank_every == 0:
            lines.append("")
        if feed.comment and number % 3 == 0:
            lines.append(f'{feed.comment} "no record{delimiter}')
    lines += [feed.until + " of it", "more"] if feed.until else []
    lines += [f"{number} rows" for number in range(feed.footer)]
    text = dialect.line_end.join(lines) + (dialect.line_end if dialect.ends else "")
    mark = "\ufeff" if dialect.has_bom and dialect.encoding == "utf-8" else ""
    return (mark + text).encode(dialect.encoding, "surrogatepass")


def frame_of(content: Content) -> Any:
    """The frame that a content describes."""
    table = arrow_table(content)
    if content.form == "polars":
        import polars as pl

        return pl.from_arrow(table)
    if content.form == "pandas":
        import pandas as pd

        if content.flavour == "pyarrow":
            return table.to_pandas(types_mapper=pd.ArrowDtype)
        if content.flavour == "object" and "uuid" not in content.kinds:
            cells = {
                name: [None if row[place] is None else value_of(kind, row[place]) for row in content.rows]
                for place, (name, kind) in enumerate(zip(content.columns, content.kinds, strict=True))
            }
            return pd.DataFrame(cells, columns=list(content.columns), dtype=object)
        if content.flavour == "nullable":
            dtypes = {
                pa.int64(): pd.Int64Dtype(),
                pa.int16(): pd.Int16Dtype(),
                pa.bool_(): pd.BooleanDtype(),
                pa.string(): pd.StringDtype(),
            }
            return table.to_pandas(types_mapper=dtypes.get, integer_object_nulls=True)
        return table.to_pandas(integer_object_nulls=True)
    return table


def arrow_table(content: Content) -> pa.Table:
    arrays = []
    for place, kind in enumerate(content.kinds):
        cells = [None if row[place] is None else value_of(kind, row[place]) for row in content.rows]
        arrays.append(pa.array(cells, _CREATED[kind] if kind in _CREATED else arrow_type(kind)))
    return pa.table(arrays, names=list(content.columns))


def arrow_type(kind: str) -> pa.DataType:
    """The Arrow type that a kind names."""
    if match := re.fullmatch(r"(decimal\d+)\((\d+), (\d+)\)", kind):
        return getattr(pa, match[1])(int(match[2]), int(match[3]))
    if match := re.fullmatch(r"(large_)?list<(\w+)>", kind):
        return (pa.large_list if match[1] else pa.list_)(arrow_type(match[2]))
    if match := re.fullmatch(r"(\w+)\[(\w+)(?:, (.+))?\]", kind):
        name, unit, zone = match.groups()
        if name == "fixed_size_binary":
            return pa.binary(int(unit))
        return pa.timestamp(unit, zone) if name == "timestamp" else getattr(pa, name)(unit)
    return getattr(pa, kind)()


_CREATED: dict[str, pa.DataType] = {
    "dictionary": pa.dictionary(pa.int8(), pa.string()), "struct": pa.struct([("a", pa.int64()), ("b", pa.string())]),
    "map": pa.map_(pa.string(), pa.int64()), "json": pa.string(), "uuid": pa.uuid(), "float64": pa.float64(), "bool": pa.bool_(),
}  # fmt: skip

_PATTERNS: tuple[tuple[str, Callable[[str], Any]], ...] = (
    (r"u?int\d+", int), (r"float\d+", float), (r"decimal.*", Decimal), (r"bool", lambda text: text == "true"), (r"date\d+", date.fromisoformat),
    (r"time\d+\[.*", time.fromisoformat), (r"timestamp\[.*", datetime.fromisoformat), (r"duration.*", lambda text: timedelta(seconds=float(text.split()[0]))),
    (r".*binary.*", lambda text: bytes.fromhex(text[2:])), (r"struct", json.loads), (r"map", lambda text: list(json.loads(text).items())),
    (r"uuid", lambda text: uuid.UUID(text).bytes), (r".*list<.*", lambda text: _list(text)),  # noqa: PLW0108 - it is defined below
)  # fmt: skip


def value_of(kind: str, text: str) -> Any:
    """The Python value by which Arrow takes a text of this kind."""
    for pattern, convert in _PATTERNS:
        if re.fullmatch(pattern, kind):
            return convert(text)
    return text


def _list(text: str) -> list[Any]:
    """The items of an array, spelled as PostgreSQL or JSON does; no text in it holds a brace."""
    return json.loads("[" + re.sub(r'("(?:\\.|[^"\\])*")|NULL', lambda match: match[1] or "null", text[1:-1]) + "]")  # type: ignore[no-any-return]
