"""Names that hurt: whatever a load may itself call something, and what SQL or a shell trips over."""

from __future__ import annotations

from random import Random

# Everything that the package's SQL or DuckDB's calls a column, table, alias or function, in more than one case.
OURS = (
    "k0", "K0", "k1", "o", "O", "record", "rows", "Rows", "file", "place", "line", "raw", "doubt", "winner", "mask", "c0", "c1", "frame_0", "incoming",
    "etl_file", "etl_row", "etl_k0", "etl_place", "etl_probe", "etl_staging", "etl_oracle", "staged", "present", "excluded", "EXCLUDED", "t", "q", "r", "s",
    "x", "n", "i", "item_0", "rowid", "filename", "file_row_number", "files", "runs", "batches", "rejects", "loaded", "source", "target", "keys", "key",
    "old", "new", "OLD", "value", "values", "position", "ordinal", "column0", "line_number", "texts", "typed", "last", "p", "j", "b", "a", "w", "v", "hash",
)  # fmt: skip
# `ctid`, `xmin`, `tableoid` and their like cannot be columns of a table.
RESERVED = (
    "select", "SELECT", "table", "user", "order", "group", "from", "where", "null", "default", "end", "all", "using", "primary", "check", "current_date",
    "session_user", "timestamp", "date", "interval", "int", "row", "json", "pivot", "qualify", "asof", "macro", "lambda", "struct", "map", "list", "exclude",
)  # fmt: skip
ODD = (
    "a b", "a.b", "a,b", "a;b", "a'b", 'a"b', 'a""b', "a\\b", "a%b", "%s", "%(a)s", "a:b", "$1", "a/b", "{a}", "{}", "a\tb", "A", "Ab", "AB", "ab", "é", "É", "größe", "GRÖSSE",
    "ß", "日本", "😀", "İ", "ı", "x" * 63, "é" * 31, "1", "007", "-", "--", "/*", "*", "?", "#", "@", "a\u00a0b", "\u200b", "pg_temp", "public", "None", "NaN", "true",
    "index", "level_0",
)  # fmt: skip


def hostile_name(random: Random, encoding: str, taken: set[str]) -> str:
    """A name that the database's encoding can hold, and that no one of `taken` is, even in another case."""
    folded = {name.casefold() for name in taken}
    while True:
        name = random.choice(random.choice((OURS, RESERVED, ODD)))
        if name.casefold() in folded or not can_hold(name, encoding):
            continue
        return name


def plain_name(random: Random, taken: set[str]) -> str:
    return next(name for number in range(99) if (name := f"{random.choice('abcdefgh')}{number}") not in taken)


def can_hold(text: str, encoding: str) -> bool:
    codec = {"UTF8": "utf-8", "LATIN1": "latin-1", "WIN1252": "cp1252", "EUC_JP": "euc_jp"}[encoding]
    try:
        return len(text.encode(codec)) <= 63
    except UnicodeEncodeError:
        return False
