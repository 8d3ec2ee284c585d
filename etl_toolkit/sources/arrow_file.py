"""Arrow IPC, as a file (Feather V2) or a stream: written as Parquet, a batch at a time, and read like it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from etl_toolkit.errors import SourceError
from etl_toolkit.model import SourceFile
from etl_toolkit.sources.exact import conversions, convert
from etl_toolkit.sources.inputs import escape_name, storable
from etl_toolkit.sources.octets import UNPACKED_MINIMUM_BYTES, UNPACKED_RATIO
from etl_toolkit.sources.records import PLAIN_SHAPE
from etl_toolkit.sources.typed import column_names, hash_file
from etl_toolkit.stopping import Stop


def examine_arrow(path: Path, copy: Path, stop: Stop) -> SourceFile:
    """Return an Arrow file as a SourceFile whose `readable` is Parquet. Raises SourceError."""
    import pyarrow as pa

    size = path.stat().st_size
    if not size:
        raise SourceError(f"{escape_name(path)}: is empty; an Arrow file has a schema even without rows")
    digest = hash_file(path, stop)
    try:
        with _opened(path) as (schema, batches):
            columns = column_names(schema.names, escape_name(path))
            rows = _write(batches, schema, copy, path, stop)
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, PermissionError):
            raise
        detail = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise SourceError(
            f"{escape_name(path)}: is not a readable Arrow file: {detail}; was it written to the end?"
        ) from None
    return SourceFile(
        0, storable(path), "parquet", columns, digest, size, path=path, readable=copy, records=rows,
        header=PLAIN_SHAPE.spell(columns),
    )  # fmt: skip


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Iterator[Any]]]:
    import pyarrow as pa

    with path.open("rb") as stream:
        is_file = stream.read(6) == b"ARROW1"
    with pa.OSFile(str(path)) as source:
        if is_file:
            reader = pa.ipc.open_file(source)
            yield reader.schema, map(reader.get_batch, range(reader.num_record_batches))
        else:
            reader = pa.ipc.open_stream(source)
            yield reader.schema, iter(reader)


def _write(batches: Iterator[Any], schema: Any, copy: Path, path: Path, stop: Stop) -> int:
    """Write the batches as Parquet; return the number of their rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted: dict[int, Callable[[Any], Any]] = conversions(schema, escape_name(path), in_parquet=False)
    schema = convert(schema.empty_table(), wanted).schema
    rows, size, most = 0, 0, max(UNPACKED_MINIMUM_BYTES, UNPACKED_RATIO * path.stat().st_size)
    with pq.ParquetWriter(copy, schema, compression="lz4") as writer:
        for batch in batches:
            stop.check()
            batch.validate(full=True)  # offsets of a damaged or hostile file may point anywhere
            size += batch.nbytes
            if size > most:
                raise SourceError(
                    f"{escape_name(path)}: unpacks to more than {UNPACKED_RATIO} times its size, as a decompression bomb does"
                )
            writer.write_table(convert(pa.Table.from_batches([batch]), wanted).cast(schema))
            rows += batch.num_rows
    return rows
