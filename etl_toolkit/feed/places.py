"""Where in a TOML document a key is: `tomllib` gives values without their lines."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

Path = tuple[str | int, ...]


def line_of(text: str, path: Path) -> int | None:
    """Return the line, from 1, on which the value at `path` is set, else the nearest table around it; None if there is none."""
    places: dict[Path, int] = {}
    for line, found in _statements(text):
        places.setdefault(found, line)
    for length in range(len(path), 0, -1):
        if path[:length] in places:
            return places[path[:length]]
    return None


def _statements(text: str) -> Iterator[tuple[int, Path]]:
    """The line and path of each key and table.

    A statement begins on a line if the lines before it are a document of their own: then no text or list is open.
    """
    lines = [line + "\n" for line in text.split("\n")]  # as editors count them: a comment may hold other line breaks
    starts = [number for number in range(len(lines)) if _is_document("".join(lines[:number]))]
    table: Path = ()
    counted: dict[Path, int] = {}
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        statement = "".join(lines[start:end])
        found = tomllib.loads(statement) if _is_document(statement) else {}
        if statement.lstrip().startswith("["):
            table = next(_keys(found, is_leaf_only=True), ())
            if statement.lstrip().startswith("[["):
                counted[table] = counted.get(table, -1) + 1
                table = (*table, counted[table])
            yield start + 1, table
        else:
            for path in _keys(found):
                yield start + 1, (*table, *path)


def _keys(values: Mapping[str, Any], *, is_leaf_only: bool = False) -> Iterator[Path]:
    for name, value in values.items():
        inner = (
            [(name, *path) for path in _keys(value, is_leaf_only=is_leaf_only)] if isinstance(value, Mapping) else []
        )
        if not (is_leaf_only and inner):
            yield (name,)
        yield from inner


def _is_document(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True
