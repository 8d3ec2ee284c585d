"""A catalogue of spellings: for every type that PostgreSQL brings, texts that it reads, reads oddly, or refuses.

It says nothing about which is which: the server says so, through `\\copy`. A type that is missing here fails a test.
"""

from __future__ import annotations

# fmt: off

EVERYWHERE = ("", " ", "NULL", "\\N", "\\.", "x", "é", " 1 ", "a\nb")

_INTEGERS = (
    "1", "007", "+7", "-0", " 7", "7 ", "\t7\n", "1_000", "1__000", "_1", "1_", "0x1F", "0X1f", "0o17", "0b101", "0x", "1.0",
    "1e3", "٧", "127", "128", "32767", "32768", "-32768", "-32769", "2147483647", "2147483648", "-2147483648", "4294967295",
    "4294967296", "9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809", "1 2",
    "0x8000", "-0x8000", "true", "--1", "- 1", "$1", "1,000",
)
_NUMBERS = (
    *_INTEGERS, ".5", "5.", ".", "1.5e-3", "1E+10", "1e", "1e400", "1e-400", "1e308", "1e309", "1e-320", "4.9e-324", "1e-46",
    "3.4028235e38", "3.5e38", "nan", "NAN", "+NaN", "inf", "Infinity", "-Infinity", "+inf", "iNfInItY", "infinit", "-0.0",
    "0.1", "0.30000000000000004", "123456789012345678901234567890.123456789", "1.00", "1.10", "0x1.8p1", "1_0.0_1", "1e1_0",
    "9" * 200, "0." + "0" * 60 + "1", "99.995", "99.994", "999.99", "1d", "1f",
)
_DATES = (
    "2024-02-29", "2023-02-29", "2024-1-2", "20240102", "240102", "2024.012", "Jan 2 2024", "2 January 2024", "05/06/2024",
    "31/12/2024", "12/31/2024", "1/2/3", "99-01-02", "2024-13-01", "2024-04-31", "infinity", "-infinity", "+infinity", "epoch",
    "J2451187", "2024-01-02 BC", "44-03-15 BC", "0001-01-01", "0000-01-01", "9999-12-31", "10000-01-01", "294276-12-31",
    "294277-01-01", "5874897-12-31", "5874898-01-01", "4714-11-24 BC", "4714-11-23 BC", "4713-01-01 BC", "1582-10-10", "1900-02-29",
    "2024-W05-1", "2024-060", "Sunday", "2024-01-02AD", "02-Jan-24", "2024-Jan-02", "y2024m1d2",
)
_CLOCKS = (
    "00:00", "12:34:56", "12:34:56.789", "12:34:56.1234567", "24:00", "24:00:00", "24:00:00.000001", "24:00:01", "23:59:60",
    "23:59:60.5", "23:59:59.9999999", "23:60", "12:00:60", "25:00", "-1:00", "04:05 AM", "04:05 PM", "12:00 AM", "13:00 PM",
    "040506", "0405", "T040506", "allballs", "4:5:6", "04:05:06,7", "12:34:56.", "12.5",
)
_ZONES = (
    "Z", "z", "+00", "+0530", "+05:30", "-13:59:59", "+16", "-15:59:59", " UTC", " EST", " Europe/Berlin", " Mars/Base",
    "+05:30:15",
)
_STAMPS = (
    *_DATES, "2024-01-02 03:04:05", "2024-01-02T03:04:05", "2024-01-02t03:04", "2024-01-02  03:04", "20240102T030405",
    "2024-01-02 24:00:00", "2024-12-31 24:00", "2024-01-02 24:00:01", "2016-12-31 23:59:60", "2016-12-31 23:59:60Z",
    "2024-01-02 03:04:05.1234565", "2024-01-02 23:59:59.9999995", "1999-12-31 23:59:59.9999999", "2024-01-02 3:4:5 PM",
    "2024-10-27 02:30:00", "2024-03-31 02:30:00", "2024-03-10 02:30:00 America/New_York", "2024-01-02 03:04:05 BC",
    "0044-03-15 12:00:00 BC", "2024-01-02 03:04:05,5", "1704164645", "2024-01-02 -3:04", "infinity 00:00",
    *(f"2024-01-02 03:04:05{zone}" for zone in _ZONES),
)
_LETTERS = (
    "a", "abc", "abcd", "a  ", "a       ", "  a", "Ab", "ß", "é", "e\u0301", "😀", "'", '"', '""', "a,b", "a;b", "a\tb", "a\nb", "a\r\nb",
    "a\rb", "\\", "\\\\", "\\n", "\\N", "a\\b", "NULL", "NA", "\ufeffa", "\u2028", "\u00a0", "\x01", "\x7f", "x" * 64, "x" * 300, "#", "=1+1",
    "true", "日本", "%s", "$1", ":x", "{a}", "--", "/*",
)
_NETWORKS = (
    "10.0.0.1", "10.0.0.1/32", "10.0.0.1/24", "10.0.0.0/24", "10", "10.0", "10.0/16", "010.000.000.001", "10.0.0.256", "10.0.0.1/33",
    "::1", "0:0::1", "::ffff:10.0.0.1", "2001:DB8::/32", "2001:db8::1/32", "::1/129", "fe80::1%eth0", "10.0.0.1/", "1.2.3.4.5",
    "0.0.0.0/0", "::/0",
)
_POINTS = (
    "(1,2)", "1,2", " ( 1 , 2 ) ", "(1,2", "(1)", "(NaN,Infinity)", "(1e308,-0)", "(1e309,0)", "(0.1,0.30000000000000004)", "(1,2,3)",
)
_WORDS = (
    "a", "a b", "'a b'", "'a''b'", "a:1", "a:1A,2B", "a:0", "a:16384", "a:99999", "a:1,1,1", "b a a", "a & b", "a|!b", "(a", "a <-> b",
    "a <2> b", "a:*", "a:AB*", "!!a", "& a", "''", "A", "the", "x" * 2047, "\\", "'\\'",
)
_SNAPSHOTS = (
    "10:20:10,14,15", "10:10:", "10:20:", "20:10:", "10:20:30", "10:20:15,14", "1:9223372036854775807:", "0:1:", "10:20",
)
_JSON = (
    "1", "1.0", "1e2", "1.10", "-0", "01", "null", "true", "True", '"a"', '"\\u00e9"', '"\\u0000"', '"\\ud83d\\ude00"', '"\\ud83d"', "'a'",
    '{"a": 1}', '{"b":1,"a":2}', '{"a":1,"a":2}', '{ "a" : [ 1 , 2 ] }', "{a:1}", "[1,]", "[]", "{}", "[1", '"a\nb"', '"\t"', "NaN",
    "Infinity", "1e400", "12345678901234567890.123456789", '{"":""}', " [1] ", "// 1", '{"a":null}', '"' + "é" * 40 + '"',
)
_PATHS = (
    "$", "$.a", "$.a[*] ? (@.b > 1)", "lax $.a", "strict $", "$.a.b.**", "$.", "a", "$ . a", '$."a b"', "1 + 1", "$.a ? (@ like_regex \"(\")", "$[1 to 2]", "@")
_REGISTERED = (
    "0", "-", "int4", "pg_catalog.int4", "integer", "pg_class", "now", "pg_catalog", "postgres", '"C"', "english", "simple", "=", "+", "now()",
    "+(integer,integer)", "sum(int4)", "4294967295", "4294967296", "no.such.thing", '"', "16", "abs(integer)", "-1",
)
_OPAQUE = ("1", "{}", "(1)", "\\x00", "{\"a\": 1}")

# Ranges are made of two bounds of their element type, and these shapes.
_SHAPES = (
    "empty", "EMPTY", " empty ", "[{0},{1})", "[{0},{1}]", "({0},{1}]", "({0},{1})", "[{0},{0}]", "[{0},{0})", "[{1},{0}]", "[,{1})",
    "({0},]", "(,)", "[,]", " [{0},{1}) ", "[ {0} , {1} )", '["{0}","{1}")', "[{0}]", "{0},{1}", "[{0},{1}", "[x,{1})", "[{0},{1})x",
)
_BOUNDS = {
    "int4range": ("1", "10"), "int8range": ("1", "9223372036854775807"), "numrange": ("1.0", "1.50"),
    "daterange": ("2024-01-01", "2024-02-29"), "tsrange": ("2024-01-01 00:00", "2024-02-29 24:00"),
    "tstzrange": ("2024-01-01 00:00+02", "2024-02-29"),
}
_RANGES = {name: tuple(shape.format(*bounds) for shape in _SHAPES) for name, bounds in _BOUNDS.items()}
_MULTIRANGES = {
    name.replace("range", "multirange"): (
        "{}", "{ }", "{empty}", "{,}", *("{" + text + "}" for text in texts), f"{{{texts[3]},{texts[4]}}}", f"{{{texts[3]} {texts[4]}}}", "[1,2)",
    )
    for name, texts in _RANGES.items()
}

SPELLINGS: dict[str, tuple[str, ...]] = {
    "bool": ("t", "true", "TRUE", " true ", "tru", "tr", "1", "01", "on", "o", "of", "off", "yes", "y", "ye", "f", "fals", "no", "n", "2", "wahr"),
    "int2": _INTEGERS, "int4": _INTEGERS, "int8": _INTEGERS, "oid": _INTEGERS, "xid": _INTEGERS, "cid": _INTEGERS, "xid8": _INTEGERS,
    "float4": _NUMBERS, "float8": _NUMBERS, "numeric": _NUMBERS, "numeric(5,2)": _NUMBERS, "numeric(2,-3)": _NUMBERS, "numeric(3,5)": _NUMBERS,
    "money": (
        "1", "1.00", "$1.00", "$1,234.56", "1,2,3", "-$1", "($1)", "$-1", "1.005", "1.004", "€1", "1.234,56", "$", "92233720368547758.07",
        "92233720368547758.08", "-92233720368547758.08", "1e2", "1 000", "+1", "$ 1",
    ),
    "text": _LETTERS, "varchar": _LETTERS, "varchar(3)": _LETTERS, "bpchar": _LETTERS, "char(3)": _LETTERS, "name": _LETTERS, '"char"': (*_LETTERS, "\\101", "\\400", "\\1"),
    "refcursor": _LETTERS,
    "bytea": ("\\x", "\\x4142", "\\xDEADbeef", "\\x4", "\\x4g", "\\x 41 42", "\\X41", "A", "\\101", "\\000", "\\400", "\\8", "\\\\", "\\", "a\\b", "é", "x41"),
    "date": (*_DATES, "2024-01-02 03:04:05", "2024-01-02T23:59:60Z", "24:00"), "time": (*_CLOCKS, *(f"12:00{zone}" for zone in _ZONES), "2024-01-02 12:00"),
    "timetz": (*(f"12:00{zone}" for zone in _ZONES), *_CLOCKS, "2024-07-02 12:00 Europe/Berlin"), "time(1)": _CLOCKS,
    "timestamp": _STAMPS, "timestamptz": _STAMPS, "timestamp(0)": _STAMPS, "timestamptz(2)": _STAMPS,
    "interval": (
        "1 day", "1 day 2:03:04", "24:00:00", "1440 min", "1 mon", "30 days", "P1Y2M3DT4H5M6S", "P0001-02-03T04:05:06", "PT0S", "P", "1-2", "1-2 3 4:05:06",
        "-1 day +02:03", "1 day ago", "@ 1 minute", "0", "1", "1.5", "1.5 months", "1e3 s", "1 fortnight", "infinity", "-infinity", "178000000 years",
        "178000001 years", "2147483648 months", "1 day 1 day", "+-1 day", "1:2:3.4567891", "-0:00:01", "1 century", "day", "P1.5D", "04:05:60", "-P1D",
    ),
    "interval(0)": ("1.5 s", "0.4999 s", "00:00:59.9"), "interval year to month": ("1 year", "1 year 2 mons 3 days", "14 mons", "1-2"),
    "uuid": (
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}", "a0eebc999c0b4ef8bb6d6bb9bd380a11",
        "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11", "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1", "g0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        " a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    ),
    "json": _JSON, "jsonb": _JSON, "jsonpath": _PATHS,
    "inet": _NETWORKS, "cidr": _NETWORKS,
    "macaddr": ("08:00:2b:01:02:03", "08-00-2B-01-02-03", "08002b010203", "08002b:010203", "0800.2b01.0203", "08:00:2b:01:02", "08:00:2b:01:02:0g", "08:00:2b:01:02:03:04:05"),
    "macaddr8": ("08:00:2b:01:02:03:04:05", "08002b0102030405", "08:00:2b:01:02:03", "08002b:0102030405", "08:00:2b:01:02", "0800.2b01.0203.0405"),
    "bit": ("1", "0", "B1", "b1", "X1", "10", "2"), "bit(3)": ("101", "B101", "b101", "X5", "x7", "1010", "10", "1 1"),
    "varbit": ("101", "B101", "X1F", "x1g", "0101010101", "2", "B", "X"), "varbit(4)": ("1", "1111", "11111", "X1F"),
    "point": _POINTS, "line": ("{1,2,3}", "{0,0,1}", "[(0,0),(1,1)]", "(0,0),(1,1)", "0,0,1,1", "(1,1),(1,1)", "{1,2}"), "lseg": ("[(0,0),(1,1)]", "(0,0),(1,1)", "0,0,1,1", "[(0,0)]", "((0,0),(1,1))"),
    "box": ("(0,0),(1,1)", "((1,1),(0,0))", "0,0,1,1", "(0,1),(1,0)", "(0,0)", "[(0,0),(1,1)]"), "path": ("[(0,0),(1,1)]", "((0,0),(1,1))", "(0,0),(1,1)", "0,0,1,1", "[]", "((0,0))", "[(0,0)"),
    "polygon": ("((0,0),(1,1),(1,0))", "(0,0),(1,1)", "0,0", "()", "((0,0)"), "circle": ("<(0,0),1>", "((0,0),1)", "0,0,1", "(0,0),1", "<(0,0),-1>", "<(0,0)>", "<(0,0),NaN>"),
    "xml": ("<a/>", "<a>", "a", "<a>&amp;</a>", "<?xml version='1.0'?><a/>"),
    "tsvector": _WORDS, "tsquery": _WORDS, "pg_lsn": ("0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF", "1/", "/1", "100000000/0", "g/0", "0/0 ", "00/00"),
    "pg_snapshot": _SNAPSHOTS, "txid_snapshot": _SNAPSHOTS, "tid": ("(0,1)", "(4294967295,65535)", "(-1,0)", "(4294967296,0)", "(0,65536)", "0,1", " (0,1)", "(0,1"),
    "aclitem": ("postgres=r/postgres", "=r/postgres", "=rw*/nobody_here", "postgres=z/postgres", "group postgres=r/postgres", "=r"),
    "int2vector": ("1 2", "", " 1  2 ", "1,2", "1 x", "32768"), "oidvector": ("1 2", "", "1,2", "4294967296"),
    **dict.fromkeys((
        "regclass", "regcollation", "regconfig", "regdictionary", "regnamespace", "regoper", "regoperator", "regproc", "regprocedure", "regrole", "regtype",
    ), _REGISTERED),
    **dict.fromkeys((
        "gtsvector", "pg_brin_bloom_summary", "pg_brin_minmax_multi_summary", "pg_dependencies", "pg_mcv_list", "pg_ndistinct", "pg_node_tree",
    ), _OPAQUE),
    **_RANGES, **_MULTIRANGES,
    # Types that users make; `CREATED` makes these.
    "mood": ("sad", "ok", "Sad", " sad", "glad", "it's"), "pair": ("(1,a)", '(1,"a")', "(01,a)", "(,)", "(1)", "(1,a,b)", '(1,"a""b")', "( 1 ,a)", "1,a", "(x,a)"),
    "positive": ("1", "0", "-1", "x", "007"), "code": ("ab", "abc", "a", "AB"), "spans": ("[1,2)", "{[1,2)}", "x"),
}

CREATED = """
CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN code AS varchar(2) CHECK (VALUE = lower(VALUE));
CREATE DOMAIN spans AS int4multirange;
"""

# Arrays read their elements by the element's type, so a few shapes over a few of its spellings are enough.
ARRAY_SHAPES = (
    "{{}}", "{{{0}}}", "{{{0},{1}}}", '{{"{0}","{1}"}}', "{{ {0} , NULL }}", "{{NULL,null}}", "[2:3]={{{0},{1}}}", "[0:0]={{{0},{1}}}", "{{{{{0}}},{{{1}}}}}", "{{{{{0}}},{1}}}", "{{{0}", "{0}", "{{,}}", '{{"x\\"y"}}',
)
ARRAYS_IN_FULL = ("int4", "text", "numeric", "timestamptz", "box", "jsonb", "mood", "pair", "int4range")  # `box` has another delimiter
# fmt: on


def array_spellings(element: str) -> tuple[str, ...]:
    """Texts for an array of the type: shapes filled with the first texts of it that hold no character of arrays."""
    shapes = ARRAY_SHAPES if element in ARRAYS_IN_FULL else ARRAY_SHAPES[1:5]
    plain = [text for text in SPELLINGS[element] if text and not set(text) & set('{}",\\ \n\r')] or ["x"]
    return tuple(shape.format(plain[0], plain[-1]) for shape in shapes)
