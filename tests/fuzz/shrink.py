"""A smaller case that fails alike: parts are left out for as long as it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from tests.fuzz.case import Case, Content, Dialect
from tests.oracle import Rows


def shrink(case: Case, fails: Callable[[Case], bool]) -> Case:
    """Leave out whatever can be left out so that `fails` still holds, until nothing can."""
    while True:
        for smaller in _smaller(case):
            if fails(smaller):
                case = smaller
                break
        else:
            return case


def _smaller(case: Case) -> Iterator[Case]:
    """Simpler cases, those first that leave most out."""
    for contents in _without_one(case.contents):
        if contents:
            yield replace(case, contents=contents)
    yield from _plainer(case)
    for settings in _without_one(case.settings):
        yield replace(case, settings=settings)
    for statements in _without_one(case.table.statements):
        yield replace(case, table=replace(case.table, statements=statements))
    for more in _without_one(case.table.more):
        yield replace(case, table=replace(case.table, more=more))
    for column in case.table.columns:
        if column.name not in case.table.key:
            yield _without_column(case, column.name)
    yield from _writing_less(case)
    for number, content in enumerate(case.contents):
        for smaller in _less(content):
            yield replace(case, contents=(*case.contents[:number], smaller, *case.contents[number + 1 :]))


def _without_one(items: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    for number in range(len(items)):
        yield items[:number] + items[number + 1 :]


def _plainer(case: Case) -> Iterator[Case]:
    """The case with one thing as it is in most loads."""
    usual = {"environment": "plain", "encoding": "UTF8", "before": Rows((), ()), "fault": None, "config": {}}
    for name, value in usual.items():
        if getattr(case, name) != value:
            yield replace(case, **{name: value})
    options = {"undoable": False, "atomic": False, "concurrency": 1, "strategy": "auto"}
    for name, value in options.items():
        if case.options[name] != value:
            yield replace(case, options={**case.options, name: value})
    if case.options["order_by"] or case.options["on_conflict"] != "update":
        yield replace(case, options={**case.options, "order_by": None, "on_conflict": "update"})


def _writing_less(case: Case) -> Iterator[Case]:
    """The case without one of its options of writing."""
    for name in case.writing.options:
        options = {other: value for other, value in case.writing.options.items() if other != name}
        if name == "delete":  # what were tombstones are rows then
            unmarked = replace(case, writing=replace(case.writing, options=options, mark=""))
            yield _without_column(unmarked, case.writing.mark)
        else:
            yield replace(case, writing=replace(case.writing, options=options))


def _less(content: Content) -> Iterator[Content]:
    """The content with fewer rows, or spelled plainly."""
    half = len(content.rows) // 2
    cuts = [(0, half), (half, len(content.rows))] if half else []
    for start, end in [*cuts, *((at, at + 1) for at in range(len(content.rows)))]:
        yield replace(content, rows=content.rows[:start] + content.rows[end:])
    if content.dialect != Dialect() and not content.path.endswith(".tsv"):
        yield replace(content, dialect=Dialect())


def _without_column(case: Case, name: str) -> Case:
    """The case without a column; where the table needs it, its definition fails, and so does not fail alike."""
    contents = []
    for content in case.contents:
        places = [place for place, column in enumerate(content.columns) if column != name]
        contents.append(replace(
            content, columns=tuple(content.columns[place] for place in places), kinds=tuple(content.kinds[place] for place in places),
            rows=tuple(tuple(row[place] for place in places if place < len(row)) for row in content.rows),
            path_values=tuple(pair for pair in content.path_values if pair[0] != name),
        ))  # fmt: skip
    places = [place for place, column in enumerate(case.before.columns) if column != name]
    before = Rows(
        tuple(case.before.columns[place] for place in places),
        tuple(tuple(row[place] for place in places) for row in case.before.rows),
    )
    columns = tuple(column for column in case.table.columns if column.name != name)
    return replace(case, table=replace(case.table, columns=columns), contents=tuple(contents), before=before)
