"""Which rows of a file are tombstones: rows that delete their key."""

from __future__ import annotations

from etl_toolkit.model import Delete
from etl_toolkit.workspace import literal

_NO = ("", "f", "false", "n", "no", "off", "0")
_YES = ("t", "true", "y", "yes", "on", "1")
_TIME = r"\d{4}-\d\d-\d\d.*|\d{9,19}"
UNKNOWN_MARK = ", which does not say whether the row is deleted; list the values that do"


def tombstone_expression(text: str, delete: Delete) -> str:
    """A DuckDB expression, never NULL, of whether a row is a tombstone, out of the text of its `delete.column`.

    Without `values`, a truth value says so itself, and a time is one at which the row was deleted. Any other text fails the query:
    nobody has said what it means.
    """
    if delete.values:
        return f"coalesce({text} IN ({', '.join(map(literal, delete.values))}), false)"
    word = f"lower(trim({text}))"
    example = f'delete = {{ column = "{delete.column}", values = ["D"] }}'
    message = (
        f"{literal(f'column {delete.column!r} holds ')} || {text} || {literal(f'{UNKNOWN_MARK}, as in {example}')}"
    )
    return (
        f"CASE WHEN {text} IS NULL OR {word} IN ({', '.join(map(literal, _NO))}) THEN false "
        f"WHEN {word} IN ({', '.join(map(literal, _YES))}) OR regexp_full_match({word}, {literal(_TIME)}) THEN true "
        f"ELSE error({message}) END"
    )
