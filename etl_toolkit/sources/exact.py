"""Arrow columns as types that DuckDB reads exactly: each type is taken as it is, converted without loss, or refused by name.

The list is of what may pass, so a type that nobody has looked at is refused rather than read as something else.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from etl_toolkit.errors import SourceError

PANDAS_TEXTS = ("pandas.period", "pandas.interval")  # what pandas prints for them; Arrow has ordinals and bounds
_AS_IS = ("arrow.uuid", "arrow.json")
_WKB = ("geoarrow.wkb", "ogc.wkb")
_OF_EXTENSION = b"ARROW:extension:name"


def conversions(schema: Any, label: str, *, in_parquet: bool) -> dict[int, Callable[[Any], Any]]:
    """How to convert the columns, by number, that DuckDB would not read as they are. Raises SourceError naming a column."""
    found = {}
    for number, field in enumerate(schema):
        try:
            conversion = _conversion(field, in_parquet=in_parquet)
        except _NoTextError as error:
            raise SourceError(
                f"{label}: column {field.name!r} is {field.type}, {error}, and cannot be read exactly; cast it to text"
            ) from None
        if conversion is not None:
            found[number] = conversion
    return found


def convert(table: Any, wanted: dict[int, Callable[[Any], Any]]) -> Any:
    """The same Arrow table or batch with those columns converted."""
    for number, conversion in wanted.items():
        table = table.set_column(number, table.schema.field(number).name, conversion(table.column(number)))
    return table


class _NoTextError(Exception):
    """Why a type has no text that PostgreSQL could read."""


def _conversion(field: Any, *, in_parquet: bool) -> Callable[[Any], Any] | None:
    import pyarrow as pa

    kind = field.type
    if extension := getattr(kind, "extension_name", (field.metadata or {}).get(_OF_EXTENSION, b"").decode()):
        return _of_extension(extension, is_known=isinstance(kind, pa.BaseExtensionType))
    if pa.types.is_run_end_encoded(kind) or (pa.types.is_dictionary(kind) and not in_parquet):
        inner = _conversion(pa.field(field.name, kind.value_type), in_parquet=in_parquet)
        if pa.types.is_dictionary(kind):
            return inner and (lambda values: inner(_decoded(values)))
        return lambda values: (inner or _unchanged)(_run_end_decoded(values))
    if pa.types.is_duration(kind):
        return _durations
    if kind == pa.month_day_nano_interval():
        return _intervals
    wanted = _readable(kind, in_parquet=in_parquet, is_nested=False)
    return None if wanted.equals(kind) else lambda values: values.cast(wanted)


def _of_extension(name: str, *, is_known: bool) -> Callable[[Any], Any] | None:
    """The conversion of an extension type; of one that Arrow does not know here, the column holds the storage."""
    import pyarrow as pa

    if name in _AS_IS or (name in _WKB and not is_known):
        return None
    if name in _WKB:
        return _storage
    if name == "arrow.bool8" and is_known:
        return lambda values: _storage(values).cast(pa.bool_())
    if name in PANDAS_TEXTS and is_known:
        return _pandas_texts
    raise _NoTextError(f"the extension type {name}")


def _readable(kind: Any, *, in_parquet: bool, is_nested: bool) -> Any:
    """The Arrow type that DuckDB reads exactly and that holds all values of `kind`: most often `kind` itself."""
    import pyarrow as pa
    import pyarrow.types as kinds

    if isinstance(kind, pa.BaseExtensionType):
        if kind.extension_name in _AS_IS:
            return kind
        raise _NoTextError(f"with the extension type {kind.extension_name} inside")
    if kinds.is_dictionary(kind):
        values = _readable(kind.value_type, in_parquet=in_parquet, is_nested=is_nested)
        return kind if values.equals(kind.value_type) else values
    if kinds.is_nested(kind):
        return _container(
            kind, lambda part: part.with_type(_readable(part.type, in_parquet=in_parquet, is_nested=True))
        )
    if kinds.is_decimal256(kind) and not (in_parquet and kind.precision <= 38):
        if is_nested:
            raise _NoTextError("with numbers of more than 38 digits inside")
        return pa.string()
    if kinds.is_interval(kind) or (kinds.is_duration(kind) and (in_parquet or kind.unit == "ns")):
        raise _NoTextError("with durations inside")
    if kinds.is_float16(kind) and not in_parquet:
        return pa.float32()
    if kinds.is_primitive(kind) or kinds.is_null(kind) or kinds.is_decimal(kind) or _is_binary(kind) or _is_text(kind):
        return kind
    raise _NoTextError("a type that cannot be written as text")


def _container(kind: Any, part: Callable[[Any], Any]) -> Any:
    """The list, struct or map type with each of its parts replaced."""
    import pyarrow as pa
    import pyarrow.types as kinds

    if kinds.is_struct(kind):
        return pa.struct([part(field) for field in kind])
    if kinds.is_map(kind):
        return pa.map_(part(kind.key_field), part(kind.item_field))
    if kinds.is_fixed_size_list(kind):
        return pa.list_(part(kind.value_field), kind.list_size)
    if kinds.is_large_list(kind):
        return pa.large_list(part(kind.value_field))
    if kinds.is_list(kind):
        return pa.list_(part(kind.value_field))
    if (kinds.is_list_view(kind) or kinds.is_large_list_view(kind)) and part(kind.value_field).equals(kind.value_field):
        return kind  # the cast of pyarrow 26 to a list loses elements
    raise _NoTextError("a type that cannot be written as text")


def _is_binary(kind: Any) -> bool:
    import pyarrow.types as kinds

    return bool(
        kinds.is_binary(kind)
        or kinds.is_large_binary(kind)
        or kinds.is_fixed_size_binary(kind)
        or kinds.is_binary_view(kind)
    )


def _is_text(kind: Any) -> bool:
    import pyarrow.types as kinds

    return bool(kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind))


def _unchanged(values: Any) -> Any:
    return values


def _storage(values: Any) -> Any:
    import pyarrow as pa

    if isinstance(values, pa.ChunkedArray):
        return pa.chunked_array([chunk.storage for chunk in values.chunks], values.type.storage_type)
    return values.storage


def _run_end_decoded(values: Any) -> Any:
    import pyarrow.compute as pc

    return pc.run_end_decode(values)


def _decoded(values: Any) -> Any:
    """A dictionary column without its dictionary; the cast that Arrow offers does not know every type of value."""
    import pyarrow as pa

    chunks = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
    return pa.chunked_array([chunk.dictionary.take(chunk.indices) for chunk in chunks], values.type.value_type)


def _pandas_texts(values: Any) -> Any:
    import pyarrow as pa

    texts = values.to_pandas().map(str, na_action="ignore")
    return pa.array([text if isinstance(text, str) else None for text in texts], pa.string())


def _durations(values: Any) -> Any:
    """The seconds, exactly; the server rounds to its microseconds."""
    import pyarrow as pa

    digits = {"s": 0, "ms": 3, "us": 6, "ns": 9}[values.type.unit]
    return pa.array([_seconds(ticks, digits) for ticks in values.cast(pa.int64()).to_pylist()], pa.string())


def _seconds(ticks: int | None, digits: int) -> str | None:
    return None if ticks is None else f"{Decimal(ticks).scaleb(-digits):f} seconds"


def _intervals(values: Any) -> Any:
    """Each field with its sign: under IntervalStyle sql_standard, that of the first one would be all the others'."""
    import pyarrow as pa

    texts = [
        None
        if item is None
        else f"{item.months:+} months {item.days:+} days {Decimal(item.nanoseconds).scaleb(-9):+f} seconds"
        for item in values.to_pylist()
    ]
    return pa.array(texts, pa.string())
