"""Text in a Parquet file that is not UTF-8: its rows are rejected, and the others read from a copy without them.

DuckDB refuses a whole file for one such value, so it is looked for only where DuckDB has refused one.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import duckdb

from etl_toolkit.errors import SourceError
from etl_toolkit.model import Reject, SourceFile
from etl_toolkit.sources.inputs import escape_name
from etl_toolkit.sources.parts import read_batches, schema_of
from etl_toolkit.sources.records import ENCODING_SQLSTATE, PLAIN_SHAPE, encoding_reason
from etl_toolkit.sources.reject_limit import is_enough, too_many_rejects
from etl_toolkit.sources.relation import read_failure, typed_relation
from etl_toolkit.sources.typed import INDEX_PREFIX, loaded_columns
from etl_toolkit.workspace import Workspace


def check_texts(files: Sequence[SourceFile], workspace: Workspace) -> None:
    """Read all text that is to be loaded of Parquet files. Raises UnreadableTextError where one has text that is not UTF-8."""
    for file in files:
        if file.format != "parquet":
            continue
        taken = _taken(file)
        texts = [name for name, kind, is_taken in zip(_names(file), file.relation_types, taken, strict=True)
                 if is_taken and "VARCHAR" in kind]  # fmt: skip
        if texts:
            conditions = " OR ".join(f"hash({name}) IS NULL" for name in texts)
            try:
                workspace.query(f"SELECT count(*) FROM {typed_relation([file])} WHERE {conditions}")
            except duckdb.Error as error:
                raise read_failure([file], error) from None


def without_bad_texts(file: SourceFile, workspace: Workspace, *, max_rejects: int) -> SourceFile:
    """Return the file with a copy to read that lacks the rows with such text: they are its `malformed` ones.

    Raises RejectLimitError where they are more than `max_rejects`, SourceError where such text is inside of another type.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    assert file.readable is not None
    copy = file.readable.with_name(f"good_{file.position:05d}.parquet")
    malformed: list[Reject] = []
    first = 0
    with pq.ParquetFile(file.readable) as source, ExitStack() as stack:
        chosen = loaded_columns(file, source)
        writer = stack.enter_context(pq.ParquetWriter(copy, schema_of(source, chosen), compression="lz4"))
        for batch in read_batches(source, chosen):
            workspace.stop.check()
            found = _bad_rows(file, batch)
            malformed += [_reject(file, batch, row, first + row, why) for row, why in sorted(found.items())]
            if is_enough(len(malformed), max_rejects):
                break
            good = pa.array([row for row in range(batch.num_rows) if row not in found], pa.int64())
            writer.write_table(pa.Table.from_batches([batch.take(good) if found else batch]))
            first += batch.num_rows
    if len(malformed) > max_rejects:
        raise too_many_rejects([reject.named(file.name) for reject in malformed], max_rejects)
    return replace(file, readable=copy, malformed=tuple(malformed), records=first - len(malformed))


def _bad_rows(file: SourceFile, batch: Any) -> dict[int, str]:
    """The rows of a batch with such text, with the reason."""
    import pyarrow as pa
    import pyarrow.types as kinds

    found: dict[int, str] = {}
    own = [number for number, name in enumerate(batch.schema.names) if not name.startswith(INDEX_PREFIX)]
    for name, number, is_taken in zip(file.columns, own, _taken(file), strict=True):
        column = batch.column(number)
        kind = column.type.value_type if kinds.is_dictionary(column.type) else column.type
        if not is_taken or not (kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_nested(kind)):
            continue
        try:
            column.validate(full=True)
            continue
        except pa.ArrowInvalid:
            if kinds.is_nested(kind):
                raise SourceError(
                    f"{escape_name(file.name)}: column {name!r} has text that is not UTF-8 inside "
                    "another type; write the file again"
                ) from None
        values = column.dictionary_decode() if kinds.is_dictionary(column.type) else column
        for row, value in enumerate(values.cast(pa.large_binary()).to_pylist()):
            if value is not None and row not in found and (reason := _fault(value)):
                found[row] = f"{reason} (column {name})"
    return found


def _fault(value: bytes) -> str | None:
    """Why a text is none, in the words of the server."""
    try:
        value.decode()
    except UnicodeDecodeError as error:
        return encoding_reason(value, error)
    return None


def _reject(file: SourceFile, batch: Any, row: int, number: int, reason: str) -> Reject:
    values = [_shown_value(column, row) for column in batch.columns]
    return Reject(file.position, number, None, reason, ENCODING_SQLSTATE, PLAIN_SHAPE.spell(values))


def _shown_value(column: Any, row: int) -> str:
    import pyarrow as pa

    value = column[row]
    if not value.is_valid:
        return ""
    if pa.types.is_string(value.type) or pa.types.is_large_string(value.type):
        return str(value.cast(pa.large_binary()).as_py().decode("utf-8", "backslashreplace"))
    return str(value)


def _taken(file: SourceFile) -> list[bool]:
    return [bool(target) for target in file.target_types] or [True] * len(file.columns)


def _names(file: SourceFile) -> list[str]:
    return [f"c{number}" for number in range(len(file.columns))]
