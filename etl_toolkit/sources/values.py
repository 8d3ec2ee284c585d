"""What a text in a file means: NULL markers, blanks, numbers, dates and truth values as they are spelled there.

Everything is an expression of DuckDB over a text column, NULL for an unquoted empty field, and gives the text that PostgreSQL
reads. A text that does not fit becomes one that the server refuses: the row is rejected, and no value is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from etl_toolkit.model import PerColumn, ReadOptions, SourceFile
from etl_toolkit.workspace import literal

NUMBERS = ("int2", "int4", "int8", "numeric", "float4", "float8", "oid")
DATES = ("date", "timestamp", "timestamptz")
BLANKS = " \t\u00a0"  # in ASCII or not, that `trim` leaves out
_WIDE_BLANKS = " \u00a0\u202f"
UNKNOWN = ""  # the type of a column that the table does not have, or of which there is no table yet

# What a directive of a date format stands for, with and without another digit beside it.
_DIRECTIVES = {
    "Y": (r"\d{4}", r"\d{4}"), "y": (r"\d{2}", r"\d{2}"), "m": (r"\d{1,2}", r"\d{2}"), "d": (r"\d{1,2}", r"\d{2}"),
    "H": (r"\d{1,2}", r"\d{2}"), "I": (r"\d{1,2}", r"\d{2}"), "M": (r"\d{1,2}", r"\d{2}"), "S": (r"\d{1,2}", r"\d{2}"),
    "f": (r"\d{1,6}", r"\d{6}"), "j": (r"\d{1,3}", r"\d{3}"), "p": ("(?i:[ap]m)",) * 2,
    "b": ("(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)",) * 2,
    "B": ("(?i:january|february|march|april|may|june|july|august|september|october|november|december)",) * 2,
    "a": ("(?i:mon|tue|wed|thu|fri|sat|sun)",) * 2,
    "A": ("(?i:monday|tuesday|wednesday|thursday|friday|saturday|sunday)",) * 2,
    "%": ("%", "%"),
}  # fmt: skip
_NUMERIC = "YymdHIMSfj"
_TIMES = frozenset("HIMSfp")
_ZONE = r"(?:Z|[+-](?:0\d|1[0-5])(?::?[0-5]\d)?)"
_PART = re.compile(r"%(.)|([^%]+)", re.DOTALL)


def converts_values(options: ReadOptions) -> bool:
    """Whether a text of a file may mean something else than what it is."""
    return bool(
        options.null or options.quoted_empty == "null" or options.trim or options.date_format
        or options.true or options.false or spells_numbers(options)
    )  # fmt: skip


def spells_numbers(options: ReadOptions) -> bool:
    """Whether numbers are spelled in another way than the server's."""
    return options.decimal != "." or bool(options.thousands or options.currency)


def is_number(file: SourceFile, name: str) -> bool:
    """Whether a text of the column is a number by now, or one that ends with a parenthesis and is refused."""
    targets = dict(zip(file.columns, file.target_types, strict=False))
    return spells_numbers(file.read) and targets.get(name) in NUMBERS


def is_as_in_file(file: SourceFile, name: str) -> bool:
    """Whether a text of the column is part of what is in the file, or a word for a truth value."""
    target = dict(zip(file.columns, file.target_types, strict=False)).get(name, UNKNOWN)
    is_date = target in DATES and bool(_of_column(file.read.date_format, name))
    return target != UNKNOWN and not is_date and not is_number(file, name)


def nulls_of_reader(file: SourceFile) -> str:
    """What DuckDB's reader takes for NULL: a field without quotes, unless a quoted empty one is NULL as well.

    A text that only quotes can hold is none of the reader's.
    """
    special = [text for text in (file.dialect.delimiter, file.dialect.quote) if text]
    listed = file.read.null if not isinstance(file.read.null, Mapping) else ()
    markers = ["", *(text for text in listed if text and not any(part in text for part in special))]
    is_quoted = "true" if file.read.quoted_empty == "null" else "false"
    return f"nullstr = [{', '.join(map(literal, markers))}], allow_quoted_nulls = {is_quoted}"


def converted(relation: str, file: SourceFile, names: Sequence[str]) -> str:
    """A relation (file_index, names…) over one whose columns are texts as they are in the file."""
    options = file.read
    if not converts_values(options):
        return relation
    targets = file.target_types or (UNKNOWN,) * len(names)
    columns = list(zip(names, file.columns, targets, strict=True))
    if options.trim:
        relation = _layer(
            relation,
            [item for name in names for item in (name, f"{_trimmed(name, file.dialect.blanks)} AS {_bare(name)}")],
        )
    relation = _layer(relation, [f"{_without_nulls(name, own, options)} AS {name}" for name, own, _ in columns])
    return _layer(relation, [f"{_spelled(name, own, target, options)} AS {name}" for name, own, target in columns])


def _layer(relation: str, items: Sequence[str]) -> str:
    """One SELECT on top of another, so that no expression is evaluated twice."""
    return f"(SELECT file_index, {', '.join(items)} FROM {relation})"


def _trimmed(text: str, blanks: str) -> str:
    """Without the blanks around it. To look for ordinary ones alone takes a third of the time."""
    return f"trim({text})" if blanks == " " else f"trim({text}, {literal(blanks)})"


def _bare(name: str) -> str:
    return f"bare_{name}"


def _without_nulls(text: str, name: str, options: ReadOptions) -> str:
    """The text without the blanks around it; NULL for a marker, and for nothing but blanks.

    A marker without blanks that is for all columns was one for DuckDB's reader already, unless it is quoted.
    """
    bare = _bare(text) if options.trim else text
    conditions = []
    if isinstance(options.null, Mapping) and (markers := _of_column(options.null, name)):
        conditions.append(f"{bare} IN ({', '.join(map(literal, markers))})")
    elif options.null and options.quoted_empty == "null":
        conditions.append(f"{bare} IN ({', '.join(map(literal, options.null))})")
    if options.trim:
        markers = ["", *(options.null if not isinstance(options.null, Mapping) else ())]
        conditions.append(f"({bare} IN ({', '.join(map(literal, markers))}) AND {bare} <> {text})")
    return f"CASE WHEN {' OR '.join(conditions)} THEN NULL ELSE {bare} END" if conditions else text


def _of_column(values: PerColumn, name: str) -> Sequence[str]:
    """What an option has for a column: by its name, else what is for all others."""
    if not isinstance(values, Mapping):
        return values
    folded = {key.casefold(): value for key, value in values.items()}
    return folded.get(name.casefold(), folded.get("*", ()))


def _spelled(text: str, name: str, target: str, options: ReadOptions) -> str:
    """The text as the server reads it into a column of the type."""
    formats = _of_column(options.date_format, name)
    if formats and target in DATES:
        return f"CASE WHEN {text} IS NOT NULL THEN {_date(text, formats, otherwise=_refused(text, _words_of(formats)))} END"
    if target in NUMBERS and spells_numbers(options):
        return _number(
            text,
            options,
            otherwise=_refused(text, f"is no number with a decimal {'comma' if options.decimal == ',' else 'point'}"),
        )
    if target == "bool" and (options.true or options.false):
        return _truth(text, options, otherwise=text)
    if target == UNKNOWN:
        otherwise = text
        if options.true or options.false:
            otherwise = _truth(text, options, otherwise=otherwise)
        if spells_numbers(options):
            otherwise = _number(text, options, otherwise=otherwise)
        return _date(text, formats, otherwise=otherwise) if formats else otherwise
    return text


def _refused(text: str, reason: str) -> str:
    """A text that is of no type but text: the server names it in its message."""
    return f"{text} || {literal(f' ({reason})')}"


def _words_of(formats: Sequence[str]) -> str:
    return f"is not of the format {' or '.join(formats)}"


# --- numbers -----------------------------------------------------------------------------------------------------------


def _number(text: str, options: ReadOptions, *, otherwise: str) -> str:
    grammar = literal(number_grammar(options))
    plain = text
    has_blanks = options.currency or options.thousands == " "
    for sign in (*options.currency, *(_WIDE_BLANKS if has_blanks else ()), options.thousands.strip()):
        plain = f"replace({plain}, {literal(sign)}, '')" if sign else plain
    if options.decimal != ".":
        plain = f"replace({plain}, {literal(options.decimal)}, '.')"
    trailing = f"CASE WHEN ends_with({plain}, '-') THEN '-' || {plain}[:-2] ELSE {plain} END"
    special = f"regexp_full_match({text}, '[ \\t]*[-+]?(?i:nan|inf|infinity)[ \\t]*')"
    return (
        f"CASE WHEN {text} IS NULL THEN NULL WHEN regexp_full_match({text}, {grammar}) THEN {trailing} "
        f"WHEN {special} THEN {text} ELSE {otherwise} END"
    )


def number_grammar(options: ReadOptions) -> str:
    """A pattern (RE2) of the numbers: a sign before or behind, groups of three digits, decimals, an exponent, a currency."""
    digits = r"\d+"
    if options.thousands:
        separator = f"[{_quote(_WIDE_BLANKS)}]" if options.thousands == " " else _quote(options.thousands)
        digits = rf"(?:\d{{1,3}}(?:{separator}\d{{3}})+|\d+)"
    point = _quote(options.decimal)
    number = rf"(?:{digits}(?:{point}\d*)?|{point}\d+)(?:[eE][-+]?\d+)?"
    blank = f"[{_quote(_WIDE_BLANKS)}]*"
    if not options.currency:
        return rf"[ \t]*[-+]?{number}[ \t]*|{number}-"
    sign = f"(?:{'|'.join(map(_quote, options.currency))})"
    bare = rf"[-+]?{number}|{number}-"
    before = rf"[-+]?{sign}{blank}{number}|{sign}{blank}(?:[-+]{number}|{number}-)"
    behind = rf"[-+]?{number}{blank}{sign}|{number}(?:-{blank}{sign}|{blank}{sign}-)"
    return rf"{blank}(?:{bare}|{before}|{behind}){blank}"


def _quote(text: str) -> str:
    """The text as a pattern, also inside of a class."""
    return "".join(f"\\x{{{ord(character):x}}}" for character in text)


# --- dates -------------------------------------------------------------------------------------------------------------


def date_grammar(date_format: str) -> str:
    """A pattern (RE2) of the texts of a format, without its zone. Raises ValueError for a directive that is not known."""
    parts = list(_parts(date_format))
    grammar = ""
    for at, (directive, text) in enumerate(parts):
        if not directive:
            grammar += _quote(text)
            continue
        beside = [parts[near] for near in (at - 1, at + 1) if 0 <= near < len(parts)]
        is_tight = any((near and near in _NUMERIC) or text[-1:].isdigit() for near, text in beside)
        grammar += _DIRECTIVES[directive][is_tight]
    return grammar


def _parts(date_format: str) -> Iterator[tuple[str, str]]:
    """The directives and the texts between them; a zone is not among them."""
    position = 0
    while position < len(date_format):
        match = _PART.match(date_format, position)
        if match is None or (match[1] and match[1] not in _DIRECTIVES and match[1] != "z"):
            found = date_format[position : position + 2]
            raise ValueError(
                f"{found!r} is not known; known are %{', %'.join(filter(str.isalpha, _DIRECTIVES))} and %z"
            )
        position = match.end()
        if match[1] == "z" and position < len(date_format):
            raise ValueError("%z must be its end")
        if match[1] != "z":
            yield match[1] or "", match[2] or ""


def _date(text: str, formats: Sequence[str], *, otherwise: str) -> str:
    """The text as ISO 8601 in the first format that it is of."""
    return f"coalesce({', '.join(_date_in(text, date_format) for date_format in formats)}, {otherwise})"


def _date_in(text: str, date_format: str) -> str:
    has_zone = date_format.endswith("%z")
    bare = date_format.removesuffix("%z")
    grammar = date_grammar(date_format)
    local, zone, end = text, "", ""
    if has_zone:  # the offset stays as it is: for the server, too, it says nothing in a column without a time zone
        local = f"regexp_replace({text}, {literal(_ZONE + '$')}, '')"
        zone, end = f" || regexp_extract({text}, {literal(_ZONE + '$')})", _ZONE
    kind = "TIMESTAMP" if has_zone or _TIMES & {directive for directive, _ in _parts(date_format)} else "DATE"
    parsed = f"try_strptime({local}, {literal(bare)})"
    return (
        f"CASE WHEN regexp_full_match({text}, {literal(grammar + end)}) AND {parsed} >= TIMESTAMP '0001-01-01' "
        f"THEN {parsed}::{kind}::VARCHAR{zone} END"
    )


# --- truth -------------------------------------------------------------------------------------------------------------


def _truth(text: str, options: ReadOptions, *, otherwise: str) -> str:
    """The text as true or false where it is one of the words, whatever their case; else what the server makes of it."""
    cases = "".join(
        f" WHEN lower(trim({text}, {literal(BLANKS)})) IN ({', '.join(literal(word.lower()) for word in words)}) THEN '{value}'"
        for value, words in (("true", options.true), ("false", options.false))
        if words
    )
    return f"CASE{cases} ELSE {otherwise} END"
