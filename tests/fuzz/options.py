"""Options of writing for a case: tombstones in its files, a mirror, columns that are kept or set."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

from tests.fuzz.case import Case, Column, Content, Table, Writing

GONE, BATCH, SOURCE, MARK = "w_gone", "w_batch", "w_source", "w_op"
ONE_SPELLING = ("int2", "int4", "int8", "text", 'text COLLATE "C"', "uuid", "date", "bool", "mood")
MOST_ROWS = 100  # of a file: the oracle applies them one by one


def draw_writing(random: Random, case: Case) -> Case:
    """The case with options of writing, or as it is: what is coupled or has a predicate is left to tests of its own."""
    table, delete = case.table, _draw_delete(random, case)
    is_simple = not table.is_coupled and not table.predicate and not any("IDENTITY" in c.more for c in table.columns)
    if case.options["order_by"] and not _has_one_spelling(table):
        return case  # the oracle spells a new key as the row that wins, the load as the first file that has it
    if case.options["order_by"] and len({frozenset(content.expected.columns) for content in case.contents}) > 1:
        return case  # refused
    if random.random() < 0.4 or not is_simple or max(len(content.rows) for content in case.contents) > MOST_ROWS:
        return case
    write = {**delete, **_draw_columns(random, case, delete), **_draw_set(random, case)}
    if not {"delete", "update", "insert_only", "nulls"} & write.keys() and not _has_one_spelling(case.table):
        return case  # the oracle's new keys are spelled by a file's first row, the load's by its last
    if random.random() < 0.25 and not case.options["atomic"]:
        is_soft = delete and (delete["delete"].get("soft") or random.random() < 0.4)
        write |= {"missing": {"soft": GONE} if is_soft else "delete", "max_deletes": 1.0}
        write |= {"scope": f"{BATCH} IS NULL"} if random.random() < 0.4 else {}
    made = tuple(
        Column(name, kind, is_free=False) for name, kind in ((GONE, "bool"), (BATCH, "text"), (SOURCE, "text"))
    )
    return replace(
        case, table=replace(table, columns=(*table.columns, *made)), writing=Writing(write, MARK if delete else ""),
        contents=tuple(_marked(random, content) for content in case.contents) if delete else case.contents,
    )  # fmt: skip


def _has_one_spelling(table: Table) -> bool:
    """Whether equal keys are spelled alike."""
    return all(item.type in ONE_SPELLING for item in table.columns if item.name in table.key)


def _draw_delete(random: Random, case: Case) -> dict[str, Any]:
    if random.random() < 0.5:
        return {}
    is_soft = case.options["on_conflict"] != "ignore" and random.random() < 0.3
    return {"delete": {"column": MARK, "values": ["D"], **({"soft": GONE} if is_soft else {})}}


def _draw_columns(random: Random, case: Case, delete: dict[str, Any]) -> dict[str, Any]:
    """Which columns of which rows are written."""
    options, write = case.options, dict[str, Any]()
    if options["on_conflict"] == "ignore":
        return write
    everywhere = set.intersection(*(set(content.expected.columns) for content in case.contents))
    values = [item.name for item in case.table.columns if item.name in everywhere and item.name not in case.table.key]
    roll = random.random()
    if roll < 0.25:
        write["update"] = random.sample(values, random.randint(0, len(values)))
    elif roll < 0.5 and values:
        write["insert_only"] = random.sample(values, random.randint(1, len(values)))
    if random.random() < 0.35 and not options["order_by"]:
        write["nulls"] = "keep"
    if random.random() < 0.2 and not any("lower(" in part for part in case.table.arbiter):
        write["rows"] = "update"
    elif (
        not (write or options["order_by"] or delete.get("delete", {}).get("soft"))
        and options["on_conflict"] == "update"
    ):
        write |= {"rows": "insert"} if random.random() < 0.2 else {}
    return write


def _draw_set(random: Random, case: Case) -> dict[str, Any]:
    if random.random() < 0.75:
        return {}
    is_named = case.encoding == "UTF8" and all(content.form in ("csv", "parquet") for content in case.contents)
    return {"set": {BATCH: random.choice(("b1", "it's")), **({SOURCE: "$file"} if is_named else {})}}


def _marked(random: Random, content: Content) -> Content:
    """The content with a column that marks tombstones, at either end; what else is in one may be wrong where that is a text."""
    at = random.choice((0, len(content.columns)))
    rows = []
    for row in content.rows:
        mark = random.choices(("I", "D", "d", None), (6, 4, 1, 1))[0]
        rows.append((*row[:at], mark, *row[at:]))

    def put(items: tuple[str, ...], item: str) -> tuple[str, ...]:
        return (*items[:at], item, *items[at:])

    return replace(content, columns=put(content.columns, MARK), kinds=put(content.kinds, "string"), rows=tuple(rows))
