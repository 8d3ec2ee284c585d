"""Parquet files: their columns; and the text by which PostgreSQL reads a value of each type, of frames as well.

What DuckDB would change on the way (decimals beyond 38 digits become floats, durations numbers) or cannot read is read by Arrow
first (`exact`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from blake3 import blake3

from etl_toolkit.errors import SourceError
from etl_toolkit.model import LEFT_OUT, ReadOptions, SourceFile
from etl_toolkit.sources.exact import conversions, convert
from etl_toolkit.sources.footer import (
    check_not_encrypted,
    check_row_counts,
    check_unpacked_size,
    has_other_lists,
    has_unknown_encoding,
)
from etl_toolkit.sources.inputs import escape_name, storable
from etl_toolkit.sources.naming import chosen_columns
from etl_toolkit.sources.pages import verify_checksums
from etl_toolkit.sources.parts import parts_of, read_batches, schema_of
from etl_toolkit.sources.records import PLAIN_SHAPE
from etl_toolkit.stopping import Stop
from etl_toolkit.workspace import search_sql

HASHED_AT_ONCE = 64 << 20
LOCAL_TYPES = ("timestamp", "date", "time")  # of the server: they know no zone
INDEX_PREFIX = "__index_level_"  # what Arrow calls the levels of a pandas index that have no name


def examine_parquet(path: Path, copy: Path, options: ReadOptions, stop: Stop | None = None) -> SourceFile:
    """Return a Parquet file as a SourceFile; with a copy where a type in it needs one. Raises SourceError.

    Of columns that are left out nothing is read, and nothing counts for its content.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    stop = stop or Stop()
    size = path.stat().st_size
    if not size:
        raise SourceError(f"{escape_name(path)}: is empty; a Parquet file has a footer even without rows")
    try:
        with pq.ParquetFile(path) as source:
            check_not_encrypted(path, source.metadata)
            check_row_counts(path, source.metadata)
            check_unpacked_size(path, source.metadata)
            rows, columns = source.metadata.num_rows, column_names(source.schema_arrow.names, escape_name(path))
            chosen = _choose(source, columns, options)
            digest = hash_file(path, stop, parts_of(path, source.metadata, chosen))
            verify_checksums(path, source.metadata, chosen)
            wanted = conversions(schema_of(source, chosen), escape_name(path), in_parquet=True)
            is_other = has_unknown_encoding(source.metadata, chosen) or has_other_lists(
                source.schema, source.schema_arrow
            )
            if is_rewritten := bool(wanted) or is_other:
                _rewrite(source, copy, wanted, chosen, stop)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, PermissionError):
            raise
        detail = str(error).strip().splitlines()[0].rstrip(".")
        raise SourceError(
            f"{escape_name(path)}: is not a readable Parquet file: {detail}; was it written to the end?"
        ) from None
    return SourceFile(
        0,
        storable(path),
        "parquet",
        columns,
        digest,
        size,
        path=path,
        readable=copy if is_rewritten else None,
        chosen=tuple(chosen) if options.columns else (),
        records=rows,
        header=PLAIN_SHAPE.spell(columns),
    )


def read_by_arrow(file: SourceFile, copy: Path, stop: Stop) -> SourceFile:
    """Return a Parquet file that DuckDB cannot read with a copy by Arrow. Raises SourceError if Arrow cannot either."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    assert file.readable is not None
    try:
        with pq.ParquetFile(file.readable) as source:
            _rewrite(source, copy, {}, loaded_columns(file, source), stop)
    except (pa.ArrowException, OSError) as error:
        detail = str(error).strip().splitlines()[0].rstrip(".")
        raise SourceError(f"{escape_name(file.name)}: cannot be read: {detail}; write it again") from None
    return replace(file, readable=copy)


def find_parts(path: Path, options: ReadOptions) -> list[tuple[int, int]]:
    """Where the parts of a Parquet file that are read begin and end; its footer is all that is looked at.

    Raises SourceError where that cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as source:
            check_not_encrypted(path, source.metadata)
            columns = column_names(source.schema_arrow.names, escape_name(path))
            return parts_of(path, source.metadata, _choose(source, columns, options))
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{escape_name(path)}: has no footer that can be read: {error}") from None


def _choose(source: Any, columns: Sequence[str], options: ReadOptions) -> Collection[str]:
    """The columns of a ParquetFile that are read, with the levels of an index if all are."""
    return chosen_columns(columns, options) if options.columns else source.schema_arrow.names


def loaded_columns(file: SourceFile, source: Any) -> Collection[str]:
    """The columns of a ParquetFile that a file gives, by their names in it."""
    own = [name for name in source.schema_arrow.names if not name.startswith(INDEX_PREFIX)]
    left_out = {name for name, new in zip(own, file.columns, strict=True) if new.startswith(LEFT_OUT)}
    return set(file.chosen or source.schema_arrow.names) - left_out


def hash_file(path: Path, stop: Stop, parts: Iterable[tuple[int, int]] | None = None) -> str:
    """The hash of a file that is not empty, or of parts of it."""
    digest = blake3(max_threads=1)
    with (
        path.open("rb") as stream,
        mmap(stream.fileno(), 0, access=ACCESS_READ) as content,
        memoryview(content) as data,
    ):
        for begin, end in parts or [(0, len(data))]:
            for start in range(begin, end, HASHED_AT_ONCE):
                stop.check()
                digest.update(data[start : min(end, start + HASHED_AT_ONCE)])
    return digest.hexdigest()


def column_names(names: Sequence[str], label: str) -> tuple[str, ...]:
    """Return the names without levels of an index that have none. Raises SourceError for an empty or double one."""
    columns = tuple(name for name in names if not name.startswith(INDEX_PREFIX))
    for number, name in enumerate(columns):
        if name in columns[:number]:
            raise SourceError(f"{label}: column {name!r} appears twice; rename one of them")
        if not name:
            raise SourceError(f"{label}: column {number + 1} has no name")
    return columns


def _rewrite(
    source: Any, copy: Path, wanted: dict[int, Callable[[Any], Any]], chosen: Collection[str], stop: Stop
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = convert(schema_of(source, chosen).empty_table(), wanted).schema
    with pq.ParquetWriter(copy, schema, compression="lz4") as writer:
        for batch in read_batches(source, chosen):
            stop.check()
            writer.write_table(convert(pa.Table.from_batches([batch]), wanted).cast(schema))


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
    if kind == "BLOB" or kind.startswith("GEOMETRY"):
        return _bytes_text(column, kind, target)
    if kind == "VARIANT":
        return f"{column}::JSON::VARCHAR"
    if kind in ("DOUBLE", "FLOAT") and target not in ("float4", "float8"):
        # A nullable integer column of pandas is a float column; its whole numbers must still fit integer columns.
        whole = f"{column} = trunc({column}) AND abs({column}) < 9e18"
        return f"CASE WHEN {whole} THEN {column}::BIGINT::VARCHAR ELSE {column}::VARCHAR END"
    if kind.endswith("]"):
        if target.startswith("_"):
            return f"CASE WHEN {column} IS NOT NULL THEN {_array_text(column, kind, target[1:], offsets, 0)} END"
        return f"CASE WHEN {column} IS NOT NULL THEN to_json({column})::VARCHAR END"
    if kind.startswith(("STRUCT", "MAP", "UNION")):
        return f"CASE WHEN {column} IS NOT NULL THEN to_json({column})::VARCHAR END"
    if kind.startswith(("DATE", "TIMESTAMP")) and not kind.endswith("_NS"):
        return f"CASE WHEN {column} < DATE '0001-01-01' THEN replace({column}::VARCHAR, '(BC)', 'BC') ELSE {column}::VARCHAR END"
    return f"{column}::VARCHAR"


def _bytes_text(column: str, kind: str, target: str) -> str:
    """Bytes, of a geometry its well-known binary: as `bytea`, in hexadecimal for PostGIS, else the characters that they are."""
    is_geometry = kind != "BLOB"
    digits = f"lower(hex({f'ST_AsWKB({column})' if is_geometry else column}))"
    if target in ("", "bytea", "domain"):
        return rf"('\x' || {digits})"
    return digits if is_geometry or target.endswith((".geometry", ".geography")) else f"decode({column})"


def _local_text(column: str, kind: str, offsets: Sequence[tuple[int, int]]) -> str:
    unit, a_second = ("ns", 10**9) if kind == "TIMESTAMPTZ_NS" else ("us", 10**6)
    ticks = f"epoch_{unit}({column})"
    shift = search_sql([(second * a_second, offset * a_second) for second, offset in offsets], ticks)
    make, local = ("make_timestamp_ns", "TIMESTAMP_NS") if unit == "ns" else ("make_timestamp", "TIMESTAMP")
    text = typed_text(f"{make}({ticks} + {shift})", local)
    return f"CASE WHEN isfinite({column}::TIMESTAMPTZ) THEN {text} ELSE {column}::VARCHAR END"


def hides_bytes(kind: str, target: str) -> bool:
    """Whether values of the DuckDB type become JSON, and have bytes inside."""
    has_bytes = "BLOB" in kind or "GEOMETRY" in kind
    is_json = kind.startswith(("STRUCT", "MAP", "UNION")) or (kind.endswith("]") and not target.startswith("_"))
    return has_bytes and (is_json or "STRUCT" in kind or "MAP" in kind)


def _array_text(column: str, kind: str, target: str, offsets: Sequence[tuple[int, int]], depth: int) -> str:
    """A list as PostgreSQL spells an array; `depth` keeps the names of nested elements apart."""
    item, item_kind = f"item_{depth}", kind[: kind.rindex("[")]
    if item_kind.endswith("]"):
        text = _array_text(item, item_kind, target, offsets, depth + 1)
    else:
        plain = typed_text(item, item_kind, target, offsets)
        text = f"""'"' || replace(replace({plain}, '\\', '\\\\'), '"', '\\"') || '"'"""
    each = f"list_transform({column}, lambda {item}: CASE WHEN {item} IS NULL THEN 'NULL' ELSE {text} END)"
    return f"('{{' || coalesce(array_to_string({each}, ','), '') || '}}')"
