"""How files are read, in words for a plan: what was asked for, and what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from etl_toolkit.model import ReadOptions, SourceFile
from etl_toolkit.sources.inputs import escape_name

_SHOWN = 3


def reading_in_words(files: Sequence[SourceFile]) -> list[str]:
    """What was found in files that are not read as plain CSV, the same of several files once; and the options asked for."""
    words = []
    by_found: dict[str, list[str]] = {}
    for file in files:
        if file.found:
            by_found.setdefault(file.found, []).append(escape_name(file.name))
    for found, names in list(by_found.items())[:_SHOWN]:
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        words.append(f"found in {names[0]}{others}: {found}")
    if asked := _asked(files[0].read) if files else "":
        words.append(f"files are read with {asked}")
    return words


def _asked(options: ReadOptions) -> str:
    """The options that are not the default, as they are given."""
    given = {item.name: getattr(options, item.name) for item in fields(options)}
    defaults = {item.name: item.default for item in fields(options)}
    shown = {
        name: value
        for name, value in given.items()
        if value != defaults[name] and name not in ("date_style", "timezone")
    }
    return ", ".join(f"{name} = {_spelled(value)}" for name, value in shown.items())


def _spelled(value: object) -> str:
    return repr(list(value) if isinstance(value, tuple) else value)
