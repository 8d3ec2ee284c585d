"""Parquet files and frames: their columns, and the text by which PostgreSQL reads a value of each type.

What DuckDB would change on the way (decimals beyond 38 digits become floats, durations numbers) is turned into text by
Arrow first.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from blake3 import blake3

from etl_toolkit.errors import SourceError, UsageError
from etl_toolkit.model import SourceFile
from etl_toolkit.sources.footer import check_unpacked_size
from etl_toolkit.sources.inputs import shown, storable
from etl_toolkit.sources.records import PLAIN_SHAPE
from etl_toolkit.stopping import Stop
from etl_toolkit.workspace import search_sql

HASHED_AT_ONCE = 64 << 20
LOCAL_TYPES = ("timestamp", "date", "time")  # of the server: they know no zone
INDEX_PREFIX = "__index_level_"  # what Arrow calls the levels of a pandas index that have no name


def examine_parquet(path: Path, copy: Path, stop: Stop | None = None) -> SourceFile:
    """Return a Parquet file as a SourceFile; with a copy where a type in it needs one. Raises SourceError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    stop = stop or Stop()
    size = path.stat().st_size
    if not size:
        raise SourceError(f"{shown(path)}: is empty; a Parquet file has a footer even without rows")
    digest = _hashed(path, stop)
    try:
        with pq.ParquetFile(path) as source:
            check_unpacked_size(path, source.metadata)
            schema, rows = source.schema_arrow, source.metadata.num_rows
            columns = _column_names(schema.names, shown(path))
            unreadable = _exotic(schema, shown(path), in_parquet=True)
            if unreadable:
                _rewrite(source, copy, unreadable, stop)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, PermissionError):
            raise
        detail = str(error).strip().splitlines()[0].rstrip(".")
        raise SourceError(
            f"{shown(path)}: is not a readable Parquet file: {detail}; was it written to the end?"
        ) from None
    return SourceFile(
        0,
        storable(path),
        "parquet",
        columns,
        digest,
        size,
        path=path,
        readable=copy if unreadable else None,
        records=rows,
        header=PLAIN_SHAPE.spell(columns),
    )


def _hashed(path: Path, stop: Stop) -> str:
    digest = blake3(max_threads=1)
    with (
        path.open("rb") as stream,
        mmap(stream.fileno(), 0, access=ACCESS_READ) as content,
        memoryview(content) as data,
    ):
        for start in range(0, len(data), HASHED_AT_ONCE):
            stop.check()
            digest.update(data[start : start + HASHED_AT_ONCE])
    return digest.hexdigest()


def examine_frame(frame: Any, number: int, stop: Stop) -> SourceFile:
    """Return an in-memory frame as a SourceFile that holds its Arrow table.

    Takes pandas, Arrow and whatever exports an Arrow stream (polars). NaN, NaT and NA of pandas become NULL. A pandas
    index is loaded only where it has a name.
    """
    import pyarrow as pa

    label = f"frame {number}"
    try:
        table = _arrow_table(frame)
    except (pa.ArrowException, ValueError, TypeError) as error:
        detail = "; ".join(str(argument) for argument in error.args) or str(error)
        raise SourceError(
            f"{label}: cannot be turned into an Arrow table: {detail}; give every column one type"
        ) from None
    columns = _column_names(table.column_names, label)
    kept = [index for index, name in enumerate(table.column_names) if not name.startswith(INDEX_PREFIX)]
    table = table.select(kept).replace_schema_metadata(None)
    table = _converted(table, _exotic(table.schema, label, in_parquet=False))
    digest = blake3()
    with pa.ipc.new_stream(_HashSink(digest, stop), table.schema) as writer:
        writer.write_table(table)
    own = [f"c{index}" for index in range(len(columns))]
    return SourceFile(
        0, f"{label} ({table.num_rows:,} rows)", "frame", columns, digest.hexdigest(), table.nbytes,
        frame=table.rename_columns(own), records=table.num_rows,
        header=PLAIN_SHAPE.spell(columns),
    )  # fmt: skip


def _arrow_table(frame: Any) -> Any:
    import pyarrow as pa

    if isinstance(frame, pa.Table):
        return frame
    if type(frame).__module__.partition(".")[0] == "pandas" and hasattr(frame, "columns"):
        has_names = any(name is not None for name in frame.index.names)
        return pa.Table.from_pandas(frame, preserve_index=has_names)
    if isinstance(frame, pa.RecordBatch):
        return pa.Table.from_batches([frame])
    if hasattr(frame, "__arrow_c_stream__"):
        return pa.RecordBatchReader.from_stream(frame).read_all()
    raise UsageError(f"cannot load a {type(frame).__name__}; give a path, a glob, a pandas frame or an Arrow table")


def _column_names(names: Sequence[str], label: str) -> tuple[str, ...]:
    columns = tuple(name for name in names if not name.startswith(INDEX_PREFIX))
    for number, name in enumerate(columns):
        if name in columns[:number]:
            raise SourceError(f"{label}: column {name!r} stands twice; rename one of them")
        if not name:
            raise SourceError(f"{label}: column {number + 1} has no name")
    return columns


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


def _exotic(schema: Any, label: str, *, in_parquet: bool) -> list[int]:
    """The columns whose type DuckDB does not read as it is."""
    import pyarrow.types as kinds

    def is_exotic(kind: Any) -> bool:
        if in_parquet:
            return bool(kinds.is_decimal256(kind) and kind.precision > 38) or bool(kinds.is_duration(kind))
        return bool(kinds.is_decimal256(kind)) or bool(kinds.is_float16(kind))

    def inner(kind: Any) -> list[Any]:
        return [kind.field(number).type for number in range(kind.num_fields)]

    def hides_exotic(kind: Any) -> bool:
        return any(is_exotic(part) or hides_exotic(part) for part in inner(kind))

    for field in schema:
        if hides_exotic(field.type):
            raise SourceError(
                f"{label}: column {field.name!r} is {field.type}, which cannot be read exactly; cast it to text"
            )
    return [index for index, field in enumerate(schema) if is_exotic(field.type)]


def _converted(table: Any, columns: Sequence[int]) -> Any:
    """The same Arrow table or batch with those columns as text that PostgreSQL reads, or as a wider float."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as kinds

    for index in columns:
        field, values = table.schema.field(index), table.column(index)
        if kinds.is_float16(field.type):
            values = values.cast(pa.float32())
        elif kinds.is_duration(field.type):
            microseconds = values.cast(pa.duration("us"), safe=False).cast(pa.int64())
            seconds = pc.multiply(
                microseconds.cast(pa.decimal128(19, 0)), pa.scalar("0.000001").cast(pa.decimal128(7, 6))
            )
            values = pc.binary_join_element_wise(seconds.cast(pa.string()), "seconds", " ")
        else:
            values = values.cast(pa.string())
        table = table.set_column(index, field.name, values)
    return table


def _rewrite(source: Any, copy: Path, columns: Sequence[int], stop: Stop) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _converted(source.schema_arrow.empty_table(), columns).schema
    with pq.ParquetWriter(copy, schema, compression="lz4") as writer:
        for batch in source.iter_batches():
            stop.check()
            writer.write_table(_converted(pa.Table.from_batches([batch]), columns))


def is_instant(kind: str) -> bool:
    """Whether values of the DuckDB type are instants, which have no local time before a zone is named."""
    return kind in ("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ_NS")


def typed_text(column: str, kind: str, target: str = "", offsets: Sequence[tuple[int, int]] = ()) -> str:
    """The text by which PostgreSQL reads a value of the DuckDB type `kind` into a column of the type `target`.

    `target` is the server's name of the type (`int4`, `_text` for an array of text), empty where it is not known. An
    instant is spelled in UTC, with its offset; where `offsets` of the server's zone are given, its local time without one
    goes into a column that has no zone.
    """
    if offsets and is_instant(kind) and target in LOCAL_TYPES:
        return _local_text(column, kind, offsets)
    if kind == "INTERVAL":  # without its own sign, a field takes that of the first one under IntervalStyle sql_standard
        return rf"regexp_replace({column}::VARCHAR, '(^| )(\d)', '\1+\2', 'g')"
    if kind == "BLOB":
        return rf"('\x' || lower(hex({column})))" if target in ("", "bytea", "domain") else f"decode({column})"
    if kind in ("DOUBLE", "FLOAT") and target not in ("float4", "float8"):
        # A nullable integer column of pandas is a float column; its whole numbers must still fit integer columns.
        whole = f"{column} = trunc({column}) AND abs({column}) < 9e18"
        return f"CASE WHEN {whole} THEN {column}::BIGINT::VARCHAR ELSE {column}::VARCHAR END"
    if kind.endswith("]"):
        if target.startswith("_"):
            return f"CASE WHEN {column} IS NOT NULL THEN {_array_text(column, kind, target[1:], 0)} END"
        return f"CASE WHEN {column} IS NOT NULL THEN to_json({column})::VARCHAR END"
    if kind.startswith(("STRUCT", "MAP", "UNION")):
        return f"CASE WHEN {column} IS NOT NULL THEN to_json({column})::VARCHAR END"
    if kind.startswith(("DATE", "TIMESTAMP")) and not kind.endswith("_NS"):
        return f"CASE WHEN {column} < DATE '0001-01-01' THEN replace({column}::VARCHAR, '(BC)', 'BC') ELSE {column}::VARCHAR END"
    return f"{column}::VARCHAR"


def _local_text(column: str, kind: str, offsets: Sequence[tuple[int, int]]) -> str:
    unit, a_second = ("ns", 10**9) if kind == "TIMESTAMPTZ_NS" else ("us", 10**6)
    ticks = f"epoch_{unit}({column})"
    shift = search_sql([(second * a_second, offset * a_second) for second, offset in offsets], ticks)
    make, local = ("make_timestamp_ns", "TIMESTAMP_NS") if unit == "ns" else ("make_timestamp", "TIMESTAMP")
    text = typed_text(f"{make}({ticks} + {shift})", local)
    return f"CASE WHEN isfinite({column}::TIMESTAMPTZ) THEN {text} ELSE {column}::VARCHAR END"


def _array_text(column: str, kind: str, target: str, depth: int) -> str:
    """A list as PostgreSQL spells an array; `depth` keeps the names of nested elements apart."""
    item, item_kind = f"item_{depth}", kind[: kind.rindex("[")]
    if item_kind.endswith("]"):
        text = _array_text(item, item_kind, target, depth + 1)
    else:
        plain = typed_text(item, item_kind, target)
        text = f"""'"' || replace(replace({plain}, '\\', '\\\\'), '"', '\\"') || '"'"""
    each = f"list_transform({column}, lambda {item}: CASE WHEN {item} IS NULL THEN 'NULL' ELSE {text} END)"
    return f"('{{' || coalesce(array_to_string({each}, ','), '') || '}}')"
