"""Frames of pandas, polars, Arrow: what their cells mean, as an Arrow table whose types DuckDB reads exactly.

A cell means what its library prints, or writes as JSON where it holds a mapping; a column for which there is no such text is
refused by name.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

from blake3 import blake3

from etl_toolkit.errors import SourceError, UsageError
from etl_toolkit.model import SourceFile
from etl_toolkit.sources.cells import CellError, as_arrow
from etl_toolkit.sources.exact import conversions, convert
from etl_toolkit.sources.records import PLAIN_SHAPE
from etl_toolkit.sources.typed import INDEX_PREFIX, column_names
from etl_toolkit.stopping import Stop


def examine_frame(frame: Any, number: int, stop: Stop) -> SourceFile:
    """Return an in-memory frame as a SourceFile that holds its Arrow table.

    Takes pandas, Arrow and whatever exports an Arrow stream (polars). NaN, NaT and NA of pandas become NULL. A pandas
    index is loaded only where it has a name.
    """
    import pyarrow as pa

    label = f"frame {number}"
    try:
        table = _arrow_table(frame)
    except CellError as error:
        raise SourceError(f"{label}: {error}") from None
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        detail = "; ".join(str(argument) for argument in error.args) or str(error)
        detail = re.sub(r" at 0x[0-9a-f]+", "", detail)
        raise SourceError(
            f"{label}: cannot be turned into an Arrow table: {detail}; give every column one type"
        ) from None
    columns = column_names(table.column_names, label)
    kept = [index for index, name in enumerate(table.column_names) if not name.startswith(INDEX_PREFIX)]
    table = table.select(kept).replace_schema_metadata(None)
    table = convert(table, conversions(table.schema, label, in_parquet=False))
    digest = blake3()
    with pa.ipc.new_stream(_HashSink(digest, stop), table.schema) as writer:
        writer.write_table(table)
    own = [f"c{index}" for index in range(len(columns))]
    return SourceFile(
        0, f"{label} ({table.num_rows:,} rows)", "frame", columns, digest.hexdigest(), table.nbytes,
        frame=table.rename_columns(own), records=table.num_rows,
        header=PLAIN_SHAPE.spell(columns),
    )  # fmt: skip


def _of_polars(frame: Any) -> Any:
    import pyarrow as pa

    for name, kind in frame.collect_schema().items():
        if "Object" in str(kind):
            raise CellError(f"column {name!r} holds Python objects, which have no text; cast it to text")
        if str(kind) in ("Int128", "UInt128"):  # polars hands them out under a name that is its own
            frame = frame.with_columns(frame[name].cast(str))
    return pa.RecordBatchReader.from_stream(frame).read_all()


def _arrow_table(frame: Any) -> Any:
    import pyarrow as pa

    if isinstance(frame, pa.Table):
        return frame
    if type(frame).__module__.partition(".")[0] == "pandas" and hasattr(frame, "columns"):
        has_names = any(name is not None for name in frame.index.names)
        plain = frame.copy(deep=False)
        for number, (_, column) in enumerate(frame.items()):
            if (values := as_arrow(column)) is not column:
                plain.isetitem(number, values)
        return pa.Table.from_pandas(plain, preserve_index=has_names)
    if type(frame).__module__.partition(".")[0] == "polars" and type(frame).__name__ == "DataFrame":
        return _of_polars(frame)
    if isinstance(frame, pa.RecordBatch):
        return pa.Table.from_batches([frame])
    if hasattr(frame, "__arrow_c_stream__"):
        return pa.RecordBatchReader.from_stream(frame).read_all()
    name = type(frame).__name__
    raise UsageError(f"cannot load a {name}; {_way_to_load(frame)}")


def _way_to_load(item: Any) -> str:
    """What to give instead of something that is neither a file nor a frame."""
    if type(item).__name__ == "LazyFrame":
        return "give its .collect(), or the files that it scans"
    if hasattr(item, "read"):
        return "give the path of the file: it is read more than once, by several threads"
    if isinstance(item, Mapping):
        return "its values may be columns or rows: give pandas.DataFrame(…) or pyarrow.table(…) of it"
    return "give a path, a glob, a pandas frame or an Arrow table"


class _HashSink(io.RawIOBase):
    """A file that hashes what is written to it."""

    def __init__(self, digest: Any, stop: Stop) -> None:
        super().__init__()
        self._digest = digest
        self._stop = stop

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self._stop.check()
        self._digest.update(memoryview(data).cast("B") if len(data) else b"")
        return len(data)
