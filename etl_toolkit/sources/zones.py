"""Instants that go into columns without a time zone: they become the local time of the server's zone, as the server would say.

The server's own rules decide, not this machine's time zone data: its offsets on the days that occur are queried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from etl_toolkit.model import SourceFile
from etl_toolkit.sources.relation import names_of, typed_relation
from etl_toolkit.sources.typed import LOCAL_TYPES, is_instant
from etl_toolkit.workspace import Workspace

DAY_SECONDS = 86_400

AskOffsets = Callable[
    [Sequence[int]], list[int]
]  # the server's offset, in seconds, at each of some seconds of the epoch


def with_offsets(files: Sequence[SourceFile], workspace: Workspace, ask: AskOffsets) -> tuple[SourceFile, ...]:
    """The files, those with instants for columns without a time zone, or lists of them, with the server's offsets."""
    return tuple(
        replace(file, offsets=_offsets(file, workspace, ask)) if file.format != "csv" else file for file in files
    )


def _offsets(file: SourceFile, workspace: Workspace, ask: AskOffsets) -> tuple[tuple[int, int], ...]:
    columns = []
    for own, kind, target in zip(names_of(file), file.relation_types, file.target_types, strict=True):
        depth = kind.count("[") if target.startswith("_") else 0
        if target.removeprefix("_") in LOCAL_TYPES and is_instant(kind.partition("[")[0]):
            columns.append(f"unnest({'flatten(' * (depth - 1)}{own}{')' * (depth - 1)})" if depth else own)
    if not columns:
        return ()
    days = " UNION ".join(
        f"SELECT timezone('UTC', instant::TIMESTAMPTZ)::DATE - DATE '1970-01-01' FROM "
        f"(SELECT {column} AS instant FROM {typed_relation([file])}) WHERE isfinite(instant::TIMESTAMPTZ)"
        for column in columns
    )
    found = workspace.query(f"SELECT * FROM ({days}) AS days (day) ORDER BY day")
    return tuple(_pieces([day * DAY_SECONDS for (day,) in found], ask))


def _pieces(days: Sequence[int], ask: AskOffsets) -> list[tuple[int, int]]:
    """From which second on which offset holds, right on each of the days; a zone changes once a day at most."""
    if not days:
        return []
    offsets = ask([second for day in days for second in (day, day + DAY_SECONDS)])
    before, after = offsets[::2], offsets[1::2]
    changes = _changes([day for day, a, b in zip(days, before, after, strict=True) if a != b], ask)
    pieces: list[tuple[int, int]] = []
    for day, first, last in zip(days, before, after, strict=True):
        for second, offset in [(day, first)] if first == last else [(day, first), (changes[day], last)]:
            if not pieces or pieces[-1][1] != offset:
                pieces.append((second, offset))
    return pieces


def _changes(days: Sequence[int], ask: AskOffsets) -> dict[int, int]:
    """The second at which the offset changes, on each of the days: bisected on all of them at once."""
    begins, ends = list(days), [day + DAY_SECONDS for day in days]
    first = ask(begins) if days else []
    while any(end - begin > 1 for begin, end in zip(begins, ends, strict=True)):
        middles = [(begin + end) // 2 for begin, end in zip(begins, ends, strict=True)]
        for number, offset in enumerate(ask(middles)):
            if offset == first[number]:
                begins[number] = middles[number]
            else:
                ends[number] = middles[number]
    return dict(zip(days, ends, strict=True))
