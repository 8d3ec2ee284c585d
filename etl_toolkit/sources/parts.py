"""Which bytes of a Parquet file a load reads: all but those of columns that are left out.

So its content is known by these bytes alone: files that differ in a column left out, and not in what their footers say
of it, have the same rows. The rest of an object is not fetched, and reads as zeros.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any


def parts_of(path: Path, metadata: Any, chosen: Collection[str]) -> list[tuple[int, int]]:
    """Where the parts of a file that are read begin and end, by pyarrow's FileMetaData; all of it where chunks overlap."""
    size = path.stat().st_size
    chunks = [(*span_of(chunk), is_chosen(chunk, chosen)) for _, chunk in chunks_of(metadata)]
    parts, at, above = [], 0, 0
    for begin, end, is_read in sorted(chunks):
        if begin < above or end > size:
            return [(0, size)]
        above = end
        if not is_read:
            parts.append((at, begin))
            at = end
    return [(begin, end) for begin, end in (*parts, (at, size)) if begin < end]


def chunks_of(metadata: Any, chosen: Collection[str] | None = None) -> Iterator[tuple[int, Any]]:
    """The column chunks of a file, or of some of its columns, with the number of their row group."""
    for group in range(metadata.num_row_groups):
        for chunk in map(metadata.row_group(group).column, range(metadata.num_columns)):
            if chosen is None or is_chosen(chunk, chosen):
                yield group, chunk


def span_of(chunk: Any) -> tuple[int, int]:
    """Where a column chunk begins and ends in its file."""
    first: int = min(filter(None, (chunk.dictionary_page_offset, chunk.data_page_offset)), default=0)
    return first, first + chunk.total_compressed_size


def is_chosen(chunk: Any, chosen: Collection[str]) -> bool:
    """Whether a chunk belongs to one of the columns, or might: names may have dots, as paths have."""
    path = chunk.path_in_schema
    return path in chosen or any(path[:at] in chosen for at, sign in enumerate(path) if sign == ".")


def read_batches(source: Any, chosen: Collection[str]) -> Iterator[Any]:
    """The batches of a ParquetFile, with NULL in columns that are not chosen."""
    import pyarrow as pa

    schema = schema_of(source, chosen)
    names = [name for name in schema.names if name in chosen]
    for batch in source.iter_batches(columns=names if len(names) < len(schema) else None):
        nulls = pa.nulls(batch.num_rows)
        arrays = [batch.column(name) if name in chosen else nulls for name in schema.names]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def schema_of(source: Any, chosen: Collection[str]) -> Any:
    """The Arrow schema of what `read_batches` returns."""
    import pyarrow as pa

    schema = source.schema_arrow
    fields = [field if field.name in chosen else pa.field(field.name, pa.null()) for field in schema]
    return pa.schema(fields, schema.metadata)
