"""`${NAME}` in the texts of a feed, and the secrets that have no place in one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import psycopg2
from psycopg2.extensions import parse_dsn

from etl_toolkit.typed_options import Mistake, VariableText

_VARIABLE = re.compile(r"\$(?:\{([^}]*)\}|\$(?=\{))")
_PASSWORD_IN_URL = re.compile(r"://[^/\s:@]*:([^/\s@]+)@")
_PASSWORD_IN_KEYWORDS = re.compile(r"(?:^|[\s?&])password\s*=\s*('[^']*'|[^\s&]+)", re.IGNORECASE)
ADVICE = (
    "holds a password, and a feed is a file that others read: leave the password out and put it into ~/.pgpass or PGPASSWORD, "
    "or write ${NAME} and set this variable"
)


def substitute(value: Any, environ: Mapping[str, str]) -> tuple[Any, list[Mistake]]:
    """Return a value of a TOML document with `${NAME}` replaced in all its texts (`$${` is `${`), and what is wrong.

    A text that is nothing but `${NAME}` becomes a VariableText.
    """
    if isinstance(value, str):
        return _substitute_text(value, environ)
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
    if pairs is None:
        return value, []
    replaced, mistakes = {}, []
    for place, item in pairs:
        replaced[place], found = substitute(item, environ)
        mistakes += [mistake.below(place) for mistake in found]
    return (replaced if isinstance(value, Mapping) else list(replaced.values())), mistakes


def _substitute_text(text: str, environ: Mapping[str, str]) -> tuple[str, list[Mistake]]:
    if has_password(text):
        return text, [Mistake((), ADVICE)]
    mistakes = []

    def value_of(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return "$"
        if name not in environ:
            mistakes.append(
                Mistake((), f"needs the environment variable {name}, which is not set" if name else "names no variable")
            )
        return environ.get(name, "")

    whole = _VARIABLE.fullmatch(text)
    return (VariableText if whole and whole[1] else str)(_VARIABLE.sub(value_of, text)), mistakes


def has_password(text: str) -> bool:
    """Whether a text, before anything is substituted, is a DSN or URL with a password in it."""
    hidden = _VARIABLE.sub("", text)
    if _PASSWORD_IN_URL.search(hidden):
        return True
    if not _PASSWORD_IN_KEYWORDS.search(hidden):
        return False
    try:
        return bool(parse_dsn(hidden).get("password"))
    except psycopg2.Error:
        return False
