"""What may be asked of the reading of files: options that no file can have are refused before one is opened."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

from etl_toolkit.errors import UsageError
from etl_toolkit.model import PerColumn, Ragged, ReadOptions
from etl_toolkit.sources.dialect import BLANKS
from etl_toolkit.sources.values import date_grammar

MOST_HEADER_LINES = 10
_FORMATS = ("csv", "pgtext", "jsonl", "parquet", "arrow")
_SEPARATORS = (".", ",", "'", "\u2019", "_", " ")


def check_options(options: ReadOptions) -> ReadOptions:
    r"""Return the options with `\t` read as a tab, and one text as a list of one. Raises UsageError for what cannot be."""
    delimiter = "\t" if options.delimiter == "\\t" else options.delimiter
    if delimiter is not None and (not 1 <= len(delimiter) <= 16 or set(delimiter) & set('\r\n\0"')):
        raise UsageError(
            f"the delimiter must be one character or a few, without line breaks and quotes, not {delimiter!r}: , ; | or \\t"
        )
    quote = options.quote
    if not _may_mark(quote, delimiter):
        raise UsageError(f"the quote must be one ASCII character other than the delimiter, or empty, not {quote!r}")
    escape = None if options.escape == quote else options.escape  # quotes are doubled in any case
    if escape is not None and not (escape and _may_mark(escape, delimiter)):
        raise UsageError(f"the escape must be one ASCII character other than the delimiter, not {escape!r}")
    for name in options.headers or ():
        if not name or options.headers is None or options.headers.count(name) > 1:
            raise UsageError(f"headers must be distinct names that are not empty; {name!r} is not")
    if options.format not in (None, *_FORMATS):
        raise UsageError(f"unknown format {options.format!r}; choose {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}")
    if options.skip < 0:
        raise UsageError(f"the number of lines to skip must be 0 or more, not {options.skip}")
    checked = replace(
        options, delimiter=delimiter, escape=escape, null=_listed(options.null), date_format=_listed(options.date_format),
        currency=_as_tuple(options.currency), true=_as_tuple(options.true), false=_as_tuple(options.false),
        columns=_as_tuple(options.columns),
    )  # fmt: skip
    _check_lines(checked)
    _check_columns(checked)
    _check_values(checked)
    return checked


def _may_mark(character: str, delimiter: str | None) -> bool:
    """Whether a character, or none, may quote or escape."""
    return len(character) <= 1 and character.isascii() and character not in ("\r", "\n", "\0") and (
        not character or character not in (" \t" if delimiter == BLANKS else delimiter or "")
    )  # fmt: skip


def _check_lines(options: ReadOptions) -> None:
    if options.comment is not None and (not options.comment or set(options.comment) & set("\r\n\0")):
        raise UsageError(f"comment must be the text that lines begin with, for example #, not {options.comment!r}")
    if options.footer < 0:
        raise UsageError(f"the number of lines of the footer must be 0 or more, not {options.footer}")
    if options.header is not None and not 0 <= options.header < MOST_HEADER_LINES:
        raise UsageError(f"a header has up to {MOST_HEADER_LINES - 1} lines, not {options.header}")
    if options.header == 0 and not options.headers:
        raise UsageError("where there is no header, name the columns with headers (--headers)")
    try:
        re.compile(options.until or "")
    except re.error as error:
        raise UsageError(f"until is no regular expression: {error}") from None
    if options.ragged not in get_args(Ragged):
        raise UsageError(f"unknown choice for ragged {options.ragged!r}; choose {', '.join(get_args(Ragged))}")
    if options.format == "pgtext" and (options.comment or options.until or options.escape):
        raise UsageError("comment, until and escape are not for COPY's text format")


def _as_tuple(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _listed(value: PerColumn | str) -> PerColumn:
    return {name: _as_tuple(each) for name, each in value.items()} if isinstance(value, Mapping) else _as_tuple(value)


def _check_columns(options: ReadOptions) -> None:
    if options.names not in ("exact", "snake"):
        raise UsageError(f"unknown form of names {options.names!r}; choose exact or snake")
    for option, names in (("columns", list(options.columns)), ("rename", list((options.rename or {}).values()))):
        for name in names:
            if not name or "\0" in name:
                raise UsageError(f"{option}: a name must not be empty")
            if names.count(name) > 1:
                raise UsageError(f"{option}: {name!r} is named twice")


def _check_values(options: ReadOptions) -> None:
    if options.quoted_empty not in ("text", "null"):
        raise UsageError(f"quoted_empty must be text or null, not {options.quoted_empty!r}")
    if options.decimal not in (".", ","):
        raise UsageError(f"decimal must be . or , and not {options.decimal!r}")
    if options.thousands and options.thousands not in _SEPARATORS:
        raise UsageError(f"thousands must be one of {' '.join(_SEPARATORS[:-1])} or a blank, not {options.thousands!r}")
    if options.thousands == options.decimal:
        raise UsageError(
            f"thousands and decimal are both {options.decimal!r}; name the one that is before the decimals as decimal"
        )
    _check_words(options)
    _check_date_formats(options.date_format)


def _check_words(options: ReadOptions) -> None:
    for sign in options.currency:
        is_sign = (
            sign.strip() and sign not in (*".,'eE()",) and not any(part.isdigit() or part in "+-" for part in sign)
        )
        if not is_sign:
            raise UsageError(f"a currency is a sign or a code, for example € or EUR, and not {sign!r}")
    for word in options.true:
        if word.lower() in (other.lower() for other in options.false):
            raise UsageError(f"{word!r} is given for both true and false")


def _check_date_formats(asked: PerColumn) -> None:
    formats = asked.values() if isinstance(asked, Mapping) else [asked]
    for date_format in (item for some in formats for item in some):
        try:
            date_grammar(date_format)
        except ValueError as error:
            raise UsageError(f"date_format {date_format!r}: {error}") from None
        if "%" not in date_format:
            raise UsageError(f"date_format {date_format!r}: has no directive; for example %d.%m.%Y")
