"""The types of the target's columns: texts of each, by the Arrow type that may carry them."""

from __future__ import annotations

from random import Random

from tests.spellings import EVERYWHERE, SPELLINGS

Texts = tuple[str, ...]

_INTEGERS = {"string": ("0", "1", "-7", "007", "+5", " 9 "), "int64": ("0", "1", "-7", "30000"), "int16": ("3", "-3"), "uint8": ("0", "120"), "uint64": ("7",), "float64": ("1", "-2"), "dictionary": ("1", "2")}  # fmt: skip
_TEXTS = {
    "string": ("", " ", "a", "A", "a ", " a", "NULL", "NA", "\\N", "\\", "\\.", "a,b", "a;b", "a\tb", 'a"b', '"', "a\nb", "a\r\nb", "'", "é", "e\u0301", "ß", "😀", "日本", "007", "1.0", "x" * 300, "\ufeff", "#"),
    "large_string": ("a", "é", ""), "string_view": ("a", "a string of more than twelve bytes"), "dictionary": ("a", "b", ""), "int64": ("7", "-9223372036854775808"), "json": ('{"a": 1}',),
}  # fmt: skip
_STAMPS = ("2024-02-29 12:34:56", "2024-10-27 02:30:00", "1999-12-31 23:59:59.123456", "1970-01-01 00:00:00", "0001-01-01 00:00:00", "9999-12-31 23:59:59.999999")  # fmt: skip
_WHOLE = (_STAMPS[0], _STAMPS[1], _STAMPS[3])

TYPES: dict[str, dict[str, Texts]] = {
    "int4": _INTEGERS, "int8": {**_INTEGERS, "uint32": ("4294967295",), "string": ("9223372036854775807", "0", "-0", "12")}, "int2": {"int16": ("-32768", "5"), "int8": ("-128",), "string": ("1", "02")},
    "numeric": {"string": ("1.0", "1.00", "NaN", "1e3", "-0.5", "0.30000000000000004"), "decimal128(12, 2)": ("1.50", "-0.01", "0.00"), "decimal256(50, 3)": ("12345678901234567890123456789012345678901234.567",), "int64": ("12",), "float64": ("0.1", "1e+20", "-2.5")},
    "numeric(8,2)": {"string": ("1.005", "99.994", "-7"), "decimal128(8, 2)": ("1.25",), "decimal128(20, 5)": ("3.14159",)},
    "float8": {"string": ("0.1", "1e-320", "-0", "Infinity", "NaN", "1e308"), "float64": ("0.1", "0.30000000000000004", "1e-320", "-0.0", "inf", "3"), "int64": ("3",), "float16": ("0.5",)},
    "float4": {"string": ("0.1", "3.4028235e38", "1e-45"), "float32": ("0.1", "-0.0", "3.4028235e+38", "2"), "float16": ("0.5",)},
    "bool": {"string": ("t", "false", "1", "yes", "off", " true "), "bool": ("true", "false")},
    "text": _TEXTS, 'text COLLATE "C"': _TEXTS, "varchar(3)": {"string": ("a", "abc", "é", ""), "dictionary": ("a",)}, "char(4)": {"string": ("a", "a ", "abcd", "")}, "citext": {"string": ("a", "A", "é", "É")},
    "name": {"string": ("a", "A b")}, '"char"': {"string": ("a", "")},
    "bytea": {"string": ("\\x4142", "\\x", "A\\101"), "binary": ("\\x4142", "\\x", "\\x00ff"), "large_binary": ("\\x5c5c",), "fixed_size_binary[2]": ("\\x4142",), "binary_view": ("\\x41",)},
    "uuid": {"string": ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "A0EEBC999C0B4EF8BB6D6BB9BD380A11", "{00000000-0000-0000-0000-000000000001}"), "uuid": ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",)},
    "date": {"string": ("2024-02-29", "05/06/2024", "20240102", "2024-01-02 BC", "infinity", "Jan 2 2024"), "date32": ("2024-02-29", "0001-01-01", "9999-12-31"), "date64": ("2024-02-29",), "timestamp[us, UTC]": ("2024-06-01 23:30:00+00",)},
    "time": {"string": ("12:34:56", "24:00", "23:59:60", "04:05 PM"), "time32[ms]": ("12:34:56.789", "00:00:00"), "time64[us]": ("23:59:59.999999",), "time64[ns]": ("01:02:03",)},
    "timetz": {"string": ("12:00+02", "12:00", "24:00Z", "12:00:00 UTC")},
    "timestamp": {"string": (*_STAMPS, "05/06/2024 10:00", "infinity", "2024-01-02T24:00", "2024-06-01 12:00+05"), "timestamp[s]": _WHOLE, "timestamp[ms]": _WHOLE, "timestamp[us]": _STAMPS, "timestamp[ns]": _STAMPS[:4], "date32": ("2024-02-29",), "timestamp[us, UTC]": ("2024-06-01 12:00:00+00", "2024-11-03 05:30:00+00", "2024-11-03 06:30:00+00")},
    "timestamptz": {"string": ("2024-06-01 12:00+02", "2024-06-01 10:00Z", "2024-06-01 12:00", "05/06/2024 10:00", "infinity", "2024-06-01 12:00 America/New_York"), "timestamp[us, UTC]": ("2024-06-01 12:00:00+00", "2024-11-03 06:30:00+00"), "timestamp[ns, Europe/Berlin]": ("2024-10-27 00:30:00+00", "2024-10-27 01:30:00+00"), "timestamp[us]": ("2024-06-01 12:00:00",)},
    "interval": {"string": ("1 day", "24:00:00", "P1Y2M", "-1 day +02:00", "1.5 h"), "duration[us]": ("5400 seconds", "-1.5 seconds"), "duration[s]": ("86400 seconds",)},
    "json": {"string": ('{"a": 1, "a": 2}', "[1, 2]", '"x"', "null"), "struct": ('{"a":1,"b":"x"}', '{"a":null,"b":"é"}')}, "jsonb": {"string": ('{"b": 1, "a": [1.10]}', "1.0", "null"), "struct": ('{"a":1,"b":"x"}', '{"a":-2,"b":null}'), "list<int64>": ("[1,2]", "[]"), "map": ('{"a":1,"b":2}', "{}")},
    "int4[]": {"string": ("{1,2}", "{}", "{NULL}", "[0:0]={1}"), "list<int64>": ("{1,NULL}", "{}", "{3}"), "large_list<int64>": ("{5}",)}, "text[]": {"string": ('{a,"b,c"}', '{"\\\\"}'), "list<string>": ('{"a","b,c"}', '{"\\"","\\\\",NULL,"NULL",""}')},
    "inet": {"string": ("10.0.0.1", "10.0.0.1/32", "::1", "10.0.0.0/8")}, "macaddr": {"string": ("08:00:2b:01:02:03", "08002b010203")}, "int4range": {"string": ("[1,2)", "(0,1]", "empty")}, "bit(3)": {"string": ("101", "B101")},
    "money": {"string": ("1", "$1.00", "-2.50")}, "oid": {"string": ("1", "01"), "uint32": ("4294967295",)}, "xid8": {"string": ("5", "0x5")}, "pg_lsn": {"string": ("0/1", "00/01")}, "tsvector": {"string": ("a b", "b a a")}, "point": {"string": ("(1,2)", "1,2")},
    "mood": {"string": ("sad", "ok", "it's"), "dictionary": ("ok", "sad")}, "pair": {"string": ("(1,a)", '(01,"a")')}, "positive": {"string": ("1", "2", "007"), "int64": ("5",)}, "code": {"string": ("ab", "a")},
}  # fmt: skip

# Types whose names, and that of their schema, are those of others, or hurt.
ELSEWHERE = {
    "int4": '"T %s"".x"."text"',
    "text": '"T %s"".x"."int4[]"',
    "date": '"T %s"".x"."date"',
    "citext": '"T %s"".x"."CITEXT"',
}
CREATED_ELSEWHERE = 'CREATE SCHEMA "T %s"".x"; ' + "; ".join(
    f"CREATE DOMAIN {name} AS {kind}" for kind, name in ELSEWHERE.items()
)

# What a CSV reader, COPY, DuckDB or SQL may stumble over, and a few letters.
CHARACTERS = 'abcABC019 \t\n\r\\""\',;|.:-_/%$#@*?!~^&(){}[]<>=+`éßİıàñ日本語😀\u00a0\u200b\u2028\u2029\ufeff\x01\x1f\x7f\x1a\x0b\x0c\x85'

NOT_IN = {"polars": ("uuid", "map", "decimal256(50, 3)"), "pandas": ("map",)}

# Types that a key may have, all of those with a btree order.
KEYS = tuple(name for name in TYPES if name not in ("json", "point", "code"))


def draw_kind(random: Random, declared: str, form: str) -> str:
    """The Arrow type of a column of this type: a CSV file has none but text."""
    kind = "string" if form == "csv" or random.random() < 0.4 else random.choice(list(TYPES[declared]))
    return "string" if kind in NOT_IN.get(form, ()) else kind


def draw_text(random: Random, declared: str, kind: str, *, bad: float = 0.0, null: float = 0.1) -> str | None:
    """A text of the type that the kind can carry; where it is text, now and then one that is odd or wrong."""
    if random.random() < null:
        return None
    if kind == "string" and random.random() < bad:
        plain = declared.replace(' COLLATE "C"', "")
        return random.choice(SPELLINGS.get(plain, EVERYWHERE))
    if declared.startswith("text") and kind in ("string", "large_string", "string_view") and random.random() < 0.25:
        return "".join(random.choice(CHARACTERS) for _ in range(random.choice((1, 2, 3, 5, 40))))
    return random.choice(TYPES[declared][kind if kind in TYPES[declared] else "string"])
