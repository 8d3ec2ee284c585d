"""From a seed to a case. The same seed gives the same case, whatever the machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from random import Random
from typing import Any
from uuid import UUID

from tests.fuzz.case import Case, Column, Content, Dialect, Fault, Feed, Table
from tests.fuzz.environments import CLIENTS, ENCODINGS, draw_settings
from tests.fuzz.options import draw_writing
from tests.fuzz.tables import draw_table
from tests.fuzz.types import draw_kind, draw_text
from tests.oracle import Row, Rows

FORMS = ("csv", "csv", "csv", "parquet", "parquet", "arrow", "pandas", "polars")
STRATEGIES = ("auto", "auto", "partitioned", "deterministic", "streaming", "hybrid", "full_parallel")
ORDERED = ("int4", "int8", "date", "timestamp", "timestamptz", "text", "numeric", "float8")
POINTS = ("begun", "claimed", "copied", "merged", "completed", "committed", "finishing")
MANY: dict[str, Callable[[Random], str]] = {
    "int4": lambda random: str(random.randint(-2000, 2000)), "int8": lambda random: str(random.randint(1, 1 << 62)),
    "text": lambda random: f"{random.randint(0, 5000):x}", "uuid": lambda random: str(UUID(int=random.getrandbits(128))),
    "date": lambda random: str(date.fromordinal(random.randint(1, 900_000))), "int2": lambda random: str(random.randint(-99, 9999)),
    "timestamptz": lambda random: f"{date.fromordinal(random.randint(700_000, 740_000))} 12:00:00Z",
}  # fmt: skip
CLIENT_RUN = 16  # seeds in a row share a client: one process serves them all


def draw(seed: int) -> Case:
    """The case of a seed."""
    random = Random(seed)  # noqa: S311 - nothing secret
    environment = Random(seed // CLIENT_RUN).choice(list(CLIENTS))  # noqa: S311
    encoding = random.choice(ENCODINGS)
    table = draw_table(random, encoding)
    pool = _key_pool(random, table)
    carried = [_carried(random, table)] * 8 if random.random() < 0.7 else [_carried(random, table) for _ in range(8)]
    before = (
        Rows((), ())
        if random.random() < 0.5 or table.is_coupled
        else _rows(random, table, carried[0], ["string"] * len(carried[0]), pool, bad=0.0)
    )
    contents = [
        _content(random, table, carried[number % 8], pool, number)
        for number in range(random.choice((1, 2, 2, 3, 3, 4, 6) * 7 + (() if len(pool) > 100 else (25,))))
    ]
    if random.random() < 0.25:  # the same again, at a later place
        again = random.choice(contents)
        contents.append(replace(again, path=f"again {again.path}" if "/" not in again.path else f"again/{again.path}"))
    fault = Fault(random.choice(POINTS), random.randint(1, 3)) if random.random() < 0.08 else None
    if fault:  # frames cannot be resumed
        contents = [
            content
            if content.form in ("csv", "parquet")
            else replace(content, form="parquet", path=f"{content.path}.parquet", flavour="")
            for content in contents
        ]
    feed = _feed(Random(f"feed {seed}"))  # noqa: S311 - of its own, so that a seed draws what it drew before
    contents = [replace(content, feed=feed) for content in contents]
    case = Case(
        seed, environment, encoding, draw_settings(random), table, before, tuple(contents),
        options=_options(random, table, contents, carried), config=_config(random, max(len(content.rows) for content in contents)), fault=fault, feed=feed,
    )  # fmt: skip
    return draw_writing(Random(f"write {seed}"), case)  # noqa: S311 - likewise


def _feed(random: Random) -> Feed:
    """Most often plain CSV."""
    if random.random() < 0.6:
        return Feed()
    return Feed(
        delimiter=random.choice(("", "", "||", "§", "|~|")), escape=random.choice(("", "", "\\")), null=random.choice(("", "NA", "\\N", "a")),
        comment=random.choice(("", "#", "--")), until=random.choice(("", "THE END")), skip=random.choice((0, 0, 2)),
        footer=random.choice((0, 0, 1, 3)), is_fitted=random.random() < 0.3,
    )  # fmt: skip


def _carried(random: Random, table: Table) -> list[Column]:
    """The columns that a file carries: the key, what must be there, and most of the others."""
    return [
        column for column in table.columns
        if column.name in table.key or (column.is_free and (("NOT NULL" in column.more and "DEFAULT" not in column.more) or random.random() < 0.85))
    ]  # fmt: skip


def _key_pool(random: Random, table: Table) -> list[Row]:
    """Few keys, so that they meet, in all their spellings; now and then many, of types that a client compares."""
    columns = [next(column for column in table.columns if column.name == name) for name in table.key]
    if all(column.type in MANY for column in columns) and random.random() < 0.2:
        return [tuple(MANY[column.type](random) for column in columns) for _ in range(1000)]
    return [
        tuple(draw_text(random, column.type, "string", bad=0.08, null=0.02) for column in columns)
        for _ in range(random.randint(3, 14))
    ]


def _rows(
    random: Random, table: Table, columns: list[Column], kinds: list[str], pool: list[Row], *, bad: float
) -> Rows:
    rows = []
    many = (600, 1500, 4000) if len(pool) > 100 else (0, 1, 3, 8, 20)
    for _ in range(random.choice(many) if bad else random.randint(1, 10)):
        key = dict(zip(table.key, random.choice(pool), strict=True))
        rows.append(tuple(
            key[column.name] if column.name in key and kind == "string"
            else draw_text(random, column.type, kind, bad=bad, null=0.0 if column.name in key or "NOT NULL" in column.more or not bad else 0.12)
            for column, kind in zip(columns, kinds, strict=True)
        ))  # fmt: skip
    return Rows(tuple(column.name for column in columns), tuple(rows))


def _content(random: Random, table: Table, columns: list[Column], pool: list[Row], number: int) -> Content:
    form = random.choice(FORMS)
    path, path_values = f"part{number}", ()
    free = [
        column
        for column in columns
        if column.name not in table.key
        and column.type in ("int4", "text", "date")
        and column.name.isalnum()
        and column.name.isascii()
    ]
    if form in ("csv", "parquet") and free and random.random() < 0.12:
        column = random.choice(free)
        value = {"int4": "7", "text": "a b", "date": "2024-01-02"}[column.type]
        path, path_values = f"{column.name}={value.replace(' ', '%20')}/{path}", ((column.name, value),)
        columns = [other for other in columns if other is not column]
    elif random.random() < 0.1:
        path = random.choice(("é", "a b", "it's", "[1]", "100%", "-x", "日本")) + str(number)
    columns = random.sample(columns, k=len(columns)) if random.random() < 0.3 else columns
    kinds = [draw_kind(random, column.type, form) for column in columns]
    rows = _rows(
        random, table, columns, kinds, pool, bad=1e-9 if len(pool) > 100 else random.choice((0.001, 0.001, 0.05))
    )
    if form == "csv" and len(columns) == 1:  # NULL would be a blank line, which is no record
        rows = replace(rows, rows=tuple(row for row in rows.rows if row != (None,)))
    dialect = _dialect(random, rows) if form == "csv" else Dialect()
    if form == "csv" and random.random() < 0.05 and rows.rows:  # a record of too many fields
        place = random.randrange(len(rows.rows))
        rows = replace(rows, rows=tuple((*row, "more") if at == place else row for at, row in enumerate(rows.rows)))
    flavour = random.choice(
        {"pandas": ("numpy", "pyarrow", "nullable", "object"), "parquet": ("zstd", "snappy", "none")}.get(form, ("",))
    )
    ending = {"csv": random.choice((".csv", ".csv", ".csv", ".csv.gz", ".tsv")), "parquet": ".parquet"}.get(form, "")
    if ending == ".tsv":
        dialect = replace(dialect, delimiter="\t")
    return Content(path + ending, form, rows.columns, tuple(kinds), rows.rows, dialect, path_values, flavour)


def _dialect(random: Random, rows: Rows) -> Dialect:
    if random.random() < 0.5:
        return Dialect()
    delimiter = random.choice((",", ",", ";", "\t", "|"))
    return Dialect(
        delimiter if len(rows.columns) > 1 else ",", random.random() < 0.3, random.choice(("\n", "\r\n")), random.random() < 0.2,
        random.random() < 0.8, random.choice((0, 0, 1, 3)) if len(rows.columns) > 1 else 0,
        random.choice(("utf-8", "utf-8", "utf-8", "utf-16")),
    )  # fmt: skip


def _options(random: Random, table: Table, contents: list[Content], carried: list[list[Column]]) -> dict[str, Any]:
    action = random.choice(("update", "update", "update", "ignore", "newer"))
    orders = [
        column.name for column in carried[0]
        if column.type in ORDERED and column.name not in table.key and all(column.name in content.expected.columns for content in contents)
    ]  # fmt: skip
    sets = {frozenset(content.expected.columns) for content in contents}
    if table.is_coupled:  # which row is written last is then the oracle's question, and it has one answer
        orders = []
    order_by = (
        random.choice(orders)
        if orders and (action == "newer" or (action == "update" and len(sets) == 1 and random.random() < 0.2))
        else None
    )
    if action == "newer" and not order_by:
        action = "update"
    return {
        "strategy": random.choice(STRATEGIES), "on_conflict": action, "order_by": order_by, "max_rejects": random.choice((0, 2, 1000, 1000, 1000)),
        "atomic": random.random() < 0.2, "undoable": random.random() < 0.3, "concurrency": random.choice((1, 2, 2, 3)),
        "date_style": random.choice(("DMY", "ISO, YMD")) if random.random() < 0.05 else None,
        "timezone": random.choice(("Asia/Tokyo", "UTC")) if random.random() < 0.05 else None,
    }  # fmt: skip


def _config(random: Random, rows: int) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if random.random() < 0.4:
        # Thousands of chunks, or of steps in a search for bad rows, show nothing that hundreds do not, and take minutes.
        config |= {
            "chunk_size": max(random.choice((1, 3, 7)), rows // 100),
            "sub_batch_size": max(random.choice((1, 2, 5)), rows // 100),
        }
    if random.random() < 0.15:
        config |= {"conflict_detection": False, "deterministic_processing": random.random() < 0.5}
    if random.random() < 0.25:
        config |= {"memory_limit_bytes": 100 << 20}  # and records are kept in a file: see the worker
    return config
