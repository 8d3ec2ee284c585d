"""Which keys and values the client may compare: types, and spellings of them, on which DuckDB and the server agree.

Key equality is the server's. For the types listed here, a value spelled in the listed grammar is equal to another one in
DuckDB exactly when it is equal for the server (`tests/test_key_equality.py` asks the server). Every other type, and every
other spelling, is *unproven*: the load then takes the server path. The grammars are RE2, and deliberately narrow: a
spelling that they refuse costs speed, one that they accept wrongly would cost rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from etl_toolkit.model import Column, Layout, TargetTable

SHORT_RECORD_BYTES = 300  # a number with this many digits is far from the limits of float8 (1e308) and numeric

_INTEGER = r"-?\d+"


def _days_of_years(*, february: str) -> str:
    """Months and days of a year whose February has a last day below 30 that ends with one of `february`."""
    return (
        rf"(?:0(?:[13578]-(?:0[1-9]|[12]\d|3[01])|[469]-(?:0[1-9]|[12]\d|30)|2-(?:0[1-9]|1\d|2{february}))"
        r"|1(?:[02]-(?:0[1-9]|[12]\d|3[01])|1-(?:0[1-9]|[12]\d|30)))"
    )


# No two branches begin with the same characters, so RE2 needs one pass. The leap years among those that end with 00 are left out.
_COMMON, _LEAP = _days_of_years(february="[0-8]"), _days_of_years(february="[0-9]")
_DAY = (
    rf"[12]\d(?:0(?:[48]-{_LEAP}|[01235679]-{_COMMON})|[2468](?:[048]-{_LEAP}|[1235679]-{_COMMON})"
    rf"|[13579](?:[26]-{_LEAP}|[01345789]-{_COMMON}))"
)
_TIME = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?"
_OFFSET = r"(?:Z|[+-](?:0\d|1[0-3])(?::?[0-5]\d)?)"
_UUID = r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"


def fold_name(name: str, names: Iterable[str]) -> str:
    """Return the one of the names that is meant: the same, else the only one that differs in case alone, else itself."""
    listed = list(names)
    alike = [other for other in listed if other.casefold() == name.casefold()]
    return alike[0] if name not in listed and len(alike) == 1 else name


@dataclass(frozen=True)
class KeyType:
    """A key type the client can compare: its DuckDB type, and the grammar of the spellings it may judge.

    Of these it judges none that DuckDB cannot cast: a number that is too large for the type.
    """

    duckdb_type: str
    grammar: str | None  # None: every text is fine

    @property
    def is_one_pass(self) -> bool:
        """Whether RE2 can extract such a text from a line in one pass: twice as fast as to split and to match."""
        return self.grammar is not None and self.duckdb_type != "VARCHAR"

    @property
    def is_integer(self) -> bool:
        return self.grammar == _INTEGER


KEY_TYPES = {
    "int2": KeyType("SMALLINT", _INTEGER),
    "int4": KeyType("INTEGER", _INTEGER),
    "int8": KeyType("BIGINT", _INTEGER),
    "uuid": KeyType("UUID", _UUID),
    "date": KeyType("DATE", _DAY),
    "timestamp": KeyType("TIMESTAMP", rf"{_DAY}[ T]{_TIME}"),
    "timestamptz": KeyType("TIMESTAMPTZ", rf"{_DAY}[ T]{_TIME}{_OFFSET}"),
    "text": KeyType("VARCHAR", None),
    "varchar": KeyType("VARCHAR", None),
}


def key_type(column: Column) -> KeyType | None:
    """Return how the client compares keys of `column`, or None where only the server can."""
    if not column.is_deterministic:
        return None
    kind = KEY_TYPES.get(column.base_type)
    if kind is not None and kind.duckdb_type == "VARCHAR" and not column.is_utf8:
        # Of other characters two may become one in the encoding of the database, or one may be two to it.
        limit = column.type_modifier - 4 if column.base_type == "varchar" else -1
        return KeyType("VARCHAR", rf"[\x01-\x7F]{{0,{min(limit, 1000)}}}" if limit >= 0 else r"[\x01-\x7F]*")
    if kind is not None and column.base_type == "varchar" and column.type_modifier > 4:
        # Beyond n characters the server cuts trailing blanks, so two texts may become one key.
        return KeyType("VARCHAR", _characters(column.type_modifier - 4))
    if kind is not None and column.base_type in ("timestamp", "timestamptz") and column.type_modifier >= 0:
        return None  # timestamp(n) rounds, so two texts may become one key
    return kind


def _characters(limit: int) -> str:
    """A grammar for at most `limit` characters; RE2 repeats at most 1,000 times."""
    return rf"(?s:.{{0,{min(limit, 1000)}}})"


def _json() -> str:
    """Objects and arrays of plain values, or of flat ones of these, as a CSV field."""
    text, number = r"\"\"CHARACTER*\"\"", r"-?(?:0|[1-9]\d{0,30})(?:\.\d{1,30})?"
    plain = f"(?:{text}|{number}|true|false|null)"

    def pack(value: str) -> str:
        return rf"\[(?:{value}(?:, ?{value})*)?\]|\{{(?:{text}: ?{value}(?:, ?{text}: ?{value})*)?\}}"

    return rf"(?:\{{\}}|\[\]|\"(?:{pack(f'(?:{plain}|{pack(plain)})')})\")"


_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IP4 = rf"{_OCTET}(?:\.{_OCTET}){{3}}"
_IP6 = r"[0-9a-fA-F]{1,4}(?::[0-9a-fA-F]{1,4}){7}"
_JSON = _json()
_VALUES = {
    "text": "TEXT*",
    "int2": r"-?\d{1,4}",
    "int4": r"-?\d{1,9}",
    "int8": r"-?\d{1,18}",
    "float4": r"-?\d{1,9}(?:\.\d{1,9})?",
    "float8": r"-?DIGITS(?:\.DIGITS)?",
    "bool": r"(?:t|f|true|false|0|1)",
    "uuid": _UUID,
    "date": _DAY,
    "timestamp": rf"{_DAY}[ T]{_TIME}",
    "time": _TIME,
    "interval": rf"(?:\d{{1,5}} (?:year|mon|month|week|day|hour|minute|second)s?|(?:\d{{1,5}} days? )?{_TIME})",
    "inet": rf"(?:{_IP4}(?:/(?:3[0-2]|[12]?\d))?|{_IP6})",
    "cidr": rf"(?:{_IP4}|{_IP6})",
    "macaddr": r"[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}",
    "bytea": r"\\x(?:[0-9a-fA-F]{2})*",
    "json": _JSON,
    "jsonb": _JSON,
    "timestamptz": rf"{_DAY}[ T]{_TIME}{_OFFSET}?",  # without an offset it is read in some zone, whichever that is
}


def value_grammar(column: Column) -> str | None:
    """Return a grammar of texts that the server surely accepts for `column`, unquoted but for JSON; None: no such grammar.

    `TEXT` in it stands for one character of text, which depends on the delimiter, `CHARACTER` for one of a text in JSON, `DIGITS`
    for a number of digits that any float8 or numeric takes: the caller puts them in.
    """
    if column.base_type == "interval" and column.type_modifier >= 0:
        return None
    if column.base_type in ("varchar", "bpchar"):
        limit = column.type_modifier - 4
        return "TEXT*" if limit < 0 else f"TEXT{{0,{limit}}}" if limit <= 1000 else None
    if column.base_type == "numeric":
        return _numeric_grammar(column.type_modifier)
    return _VALUES.get(column.base_type)


def _numeric_grammar(modifier: int) -> str | None:
    if modifier < 0:
        return r"-?DIGITS(?:\.DIGITS)?"
    precision, scale = (modifier - 4) >> 16 & 0xFFFF, (modifier - 4) & 0x7FF
    whole = precision - scale
    if scale > precision or scale >= 1024 or whole < 2:
        return None
    return rf"-?\d{{1,{whole - 1}}}(?:\.DIGITS)?"  # a digit fewer than fits: rounding may carry


def record_grammar(
    target: TargetTable,
    layout: Layout,
    *,
    is_short: bool = False,
    is_unquoted: bool = False,
    proven: Sequence[str] = (),
    apart: Collection[str] = (),
) -> str | None:
    """Return a grammar of whole records that the server surely accepts into `target`; None where there is none.

    `is_short` says that no record is longer than SHORT_RECORD_BYTES: then digits need not be counted, which RE2 does at
    the price of a third of its speed; `is_unquoted` that none has a quote. The values of `proven` columns are known to be well
    spelled; those of columns `apart` are judged elsewhere, so any text will do.

    A table with CHECK constraints, domains, foreign keys, generated columns, partitions or indexes on expressions has none:
    any of them may refuse a row whose every value is well spelled, and the client cannot evaluate them.
    """
    if (
        target.checks
        or target.foreign_keys
        or any(column.is_generated and column.not_null for column in target.columns)
    ):
        return None
    delimiter = _delimiter(layout)
    others = "" if all(column.is_utf8 for column in target.columns) else r"\x{80}-\x{10FFFF}"  # may be refused
    text = rf"[^\"\r\n\x00{delimiter}{others}]"
    digits = r"\d+" if is_short else r"\d{1,100}"
    parts = []
    for name in layout.columns:
        column = target.column(name)
        kind = key_type(column) if name in proven else None
        if kind and kind.duckdb_type != "VARCHAR":  # what matched is a number, a date, …; a text may still hold a NUL
            parts.append(f"[^{delimiter}]+")
            continue
        if name in apart:
            parts.append(_field(layout))
            continue
        grammar = value_grammar(column)
        if grammar is None:
            return None
        grammar = grammar.replace("DIGITS", digits)
        is_text = grammar.startswith("TEXT")
        grammar = grammar.replace("TEXT", text).replace("CHARACTER", rf"[^\"\\\x00-\x1F{others}]")
        if is_text:
            # Unquoted empty is NULL; a quoted text is spelled out by the second alternative.
            at_least_one = grammar.replace("{0,", "{1,") if "{0," in grammar else grammar[:-1] + "+"
            quoted = rf"|\"(?:[^\"\x00{others}]|\"\")*\"" if column.type_modifier < 0 else ""
            grammar = f"(?:{at_least_one}{quoted})"
        elif not is_unquoted and column.base_type not in ("json", "jsonb"):
            grammar = rf"(?:{grammar}|\"{grammar}\")"
        parts.append(grammar if column.not_null else f"(?:{grammar})?")
    return delimiter.join(parts)


def _delimiter(layout: Layout) -> str:
    return f"\\x{ord(layout.delimiter):02x}"


def _field(layout: Layout) -> str:
    """A grammar of any field of a record, quoted or not."""
    return rf"(?:\"(?:[^\"]|\"\")*\"|[^\"\r\n{_delimiter(layout)}]*)"


def field_grammar(layout: Layout, name: str) -> str:
    """A grammar whose first group is the field of a column as it is spelled in a record, quotes included."""
    field, delimiter = _field(layout), _delimiter(layout)
    return rf"^(?:{field}{delimiter}){{{layout.columns.index(name)}}}({field})(?:{delimiter}|$)"


def fields_grammar(layout: Layout) -> str:
    """A grammar that matches a delimiter and the field behind it, which is the first group, as it is spelled in a record."""
    return rf"{_delimiter(layout)}({_field(layout)})"
