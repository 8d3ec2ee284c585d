"""What the footer of a Parquet file declares, checked before a page of it is read."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from etl_toolkit.errors import SourceError
from etl_toolkit.sources.inputs import escape_name
from etl_toolkit.sources.octets import UNPACKED_MINIMUM_BYTES, UNPACKED_RATIO
from etl_toolkit.sources.parts import chunks_of

_SIGNATURE_BYTES = 28
_WIDTHS = {"INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12}


def check_unpacked_size(path: Path, metadata: Any) -> None:
    """Raise SourceError where a file would unpack to more than a compressed CSV file may (`octets`)."""
    size, packed = unpacked_bytes(metadata), path.stat().st_size
    if size > max(UNPACKED_MINIMUM_BYTES, UNPACKED_RATIO * packed):
        raise SourceError(
            f"{escape_name(path)}: by its footer it unpacks to {size:,} bytes or more, over {UNPACKED_RATIO} times its size, as a "
            "decompression bomb does; if it is meant to, write it again with compression and dictionaries off, or as CSV"
        )


def check_not_encrypted(path: Path, metadata: Any) -> None:
    """Raise SourceError for a file with encrypted columns behind a footer that is not: such a footer is signed.

    Call it first: pyarrow ends the process if it is asked about an encrypted column.
    """
    with path.open("rb") as file:
        file.seek(-8, os.SEEK_END)
        size = int.from_bytes(file.read(4), "little")
    if size == metadata.serialized_size + _SIGNATURE_BYTES:
        raise SourceError(f"{escape_name(path)}: has encrypted columns; write it again without encryption")


def has_unknown_encoding(metadata: Any, chosen: Collection[str]) -> bool:
    """Whether a column that is read is encoded as Arrow can read and DuckDB cannot: split into byte streams, and no number."""
    return any(
        "BYTE_STREAM_SPLIT" in chunk.encodings and chunk.physical_type == "FIXED_LEN_BYTE_ARRAY"
        for _, chunk in chunks_of(metadata, chosen)
    )


def check_row_counts(path: Path, metadata: Any) -> None:
    """Raise SourceError where the footer contradicts itself about the number of rows."""
    found = sum(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
    if found != metadata.num_rows:
        raise SourceError(
            f"{escape_name(path)}: is damaged: its footer counts {metadata.num_rows:,} rows, its row groups {found:,}; "
            "copy it again from where it was written, or write it again"
        )


def has_other_lists(schema: Any, arrow_schema: Any) -> bool:
    """Whether a list or map is not built of three levels, as files of today have them.

    Of older forms, such as a `repeated` field without more, DuckDB takes a list of structs with one field for a list of its values.
    """
    paths = [schema.column(number).path for number in range(len(schema))]
    return [len(path.split(".")) for path in paths] != [
        depth for field in arrow_schema for depth in _depths(field.type, field.name.count(".") + 1)
    ]


def _depths(kind: Any, above: int) -> list[int]:
    """How deep in the schema the values of a type are, if lists and maps have three levels."""
    import pyarrow as pa
    import pyarrow.types as kinds

    if isinstance(kind, pa.BaseExtensionType):
        return _depths(kind.storage_type, above)
    if kinds.is_struct(kind):
        return [depth for part in kind for depth in _depths(part.type, above + part.name.count(".") + 1)]
    if kinds.is_map(kind):
        return [*_depths(kind.key_type, above + 2), *_depths(kind.item_type, above + 2)]
    if kinds.is_nested(kind):
        return _depths(kind.value_type, above + 2)
    return [above]


def unpacked_bytes(metadata: Any) -> int:
    """Return the least number of bytes that all columns take, by pyarrow's FileMetaData.

    The sizes in a footer are those of encoded pages, where one value repeated a billion times takes
    a few bytes. So values are counted as well: by their width, a NULL or a text of unknown length as one byte.
    """
    return sum(max(chunk.total_uncompressed_size, _value_bytes(chunk)) for _, chunk in chunks_of(metadata))


def _value_bytes(chunk: Any) -> int:
    statistics = chunk.statistics
    nulls = statistics.null_count if statistics is not None and statistics.has_null_count else 0
    return int(nulls + (chunk.num_values - nulls) * _WIDTHS.get(chunk.physical_type, 1))
