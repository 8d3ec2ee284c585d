"""More rows are rejected than may be: when the search for them ends, and the error that names them."""

from __future__ import annotations

from collections.abc import Sequence

from etl_toolkit.errors import RejectLimitError
from etl_toolkit.model import RejectedRow
from etl_toolkit.sources.inputs import escape_name
from etl_toolkit.tables import spell_count

NAMED = 10  # rows in an error message


def is_enough(found: int, allowed: int) -> bool:
    """Whether the search for bad rows may end: the load fails, and there are more of them than its message names."""
    return found > max(allowed, NAMED)


def too_many_rejects(rows: Sequence[RejectedRow], allowed: int) -> RejectLimitError:
    """The error that ends a load at one reject too many; its notes name the rows after the first one.

    `rows` are in the order of the load, of each file together.
    """
    first, *others = rows[:NAMED]
    limit = f"more than {spell_count(allowed, 'row')} would be rejected" if allowed else "no row may be rejected"
    error = RejectLimitError(
        f"{escape_name(first.file)}, {_places([first])}: {_reason(first)}; {limit}, so nothing "
        "of this file is written; fix the file, or allow rejects with --max-rejects N",
        rejects=tuple(rows),
    )
    groups: dict[tuple[str, str], list[RejectedRow]] = {}
    for row in others:
        groups.setdefault((row.file, _reason(row)), []).append(row)
    for (name, reason), alike in groups.items():
        error.add_note(f"{escape_name(name)}, {_places(alike)}: {reason}")
    if len(rows) > NAMED:
        error.add_note(
            f"and at least {len(rows) - NAMED:,} more; with a limit that is high enough, the other rows are loaded, and "
            "`etl-toolkit rejects RUN` shows or exports the rejected ones"
        )
    return error


def _reason(row: RejectedRow) -> str:
    return f"{row.reason} (SQLSTATE {row.sqlstate})"


def _places(rows: Sequence[RejectedRow]) -> str:
    """Lines where the file has lines, else records; `rows` are of one file."""
    word = "record" if rows[0].line is None else "line"
    numbers = [f"{row.record + 1 if row.line is None else row.line:,}" for row in rows]
    return f"{word} {numbers[0]}" if len(numbers) == 1 else f"{word}s {', '.join(numbers[:-1])} and {numbers[-1]}"
