"""The machine that looks for wrong loads: its past finds are right now, and it sees what is wrong."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from tests.fuzz.__main__ import judging, seeds_on_file
from tests.fuzz.case import Case, Column, Content, Table, Writing
from tests.fuzz.draw import draw
from tests.fuzz.judge import judge
from tests.fuzz.shrink import shrink
from tests.fuzz.worker import Client
from tests.oracle import Rows

PLAIN = Case(
    seed=0, environment="plain", encoding="UTF8", settings=(),
    table=Table("public", "loaded", (Column("id", "int4"), Column("v", "text")), ("id",), ('"id"',), more=('PRIMARY KEY ("id")',)),
    before=Rows((), ()),
    contents=(
        Content("a.csv", "csv", ("id", "v"), ("string", "string"), (("1", "a"), ("2", "b"), ("x", "c"))),
        Content("b.csv", "csv", ("id", "v"), ("string", "string"), (("1", "d"), (None, "e"))),
    ),
    options={
        "strategy": "auto", "on_conflict": "update", "order_by": None, "max_rejects": 10, "atomic": False, "undoable": False,
        "concurrency": 1,
    },
)  # fmt: skip

MARKED = replace(
    PLAIN, writing=Writing({"delete": {"column": "w_op", "values": ["D"]}, "nulls": "keep"}, "w_op"),
    contents=(
        Content("a.csv", "csv", ("id", "v", "w_op"), ("string",) * 3, (("1", "a", "I"), ("2", "b", None), ("x", "c", "I"))),
        Content("b.csv", "csv", ("w_op", "v", "id"), ("string",) * 3, (("I", None, "1"), ("D", None, "2"), ("D", "e", None))),
    ),
)  # fmt: skip


def test_the_seeds_of_past_finds_are_right(dsn: str) -> None:
    with judging(dsn) as found_in:
        finds = {seed: found for seed in seeds_on_file() if (found := found_in(draw(seed)))}

    assert finds == {}


def test_a_seed_is_the_same_case_in_every_process() -> None:
    say = "from tests.fuzz.draw import draw; print(repr([draw(seed) for seed in range(40)]))"
    said = {
        subprocess.run(
            [sys.executable, "-c", say], cwd=Path(__file__).parents[1], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip

    assert len(said) == 1


class Meddling(Client):
    """A client whose loads are spoilt behind its back by a statement."""

    def __init__(self, statement: str) -> None:
        super().__init__("plain")
        self.statement = statement

    def ask(self, verb: str, **request: Any) -> dict[str, Any]:
        answer = super().ask(verb, **request)
        with psycopg2.connect(request["dsn"]) as connection, connection.cursor() as cursor:
            cursor.execute(self.statement)
        connection.close()
        return answer


@pytest.mark.parametrize(
    ("case", "statement", "sight"),
    [
        (PLAIN, "SELECT 1", ""),
        (PLAIN, "UPDATE loaded SET v = 'A' WHERE id = 1", "load: 2 rows differ: wrong (1,A); missing (1,d)"),
        (PLAIN, "DELETE FROM loaded WHERE id = 2", "load: 1 rows differ: missing (2,b)"),
        (PLAIN, "DELETE FROM etl_toolkit.rejects WHERE file = 1", "rejects: not rejected {(1, 1): '23502'}"),
        (MARKED, "SELECT 1", ""),
        (MARKED, "UPDATE loaded SET v = NULL WHERE id = 1", "load: 2 rows differ: wrong (1,); missing (1,a)"),
    ],
)
def test_a_spoilt_load_is_a_find(dsn: str, case: Case, statement: str, sight: str) -> None:
    client = Meddling(statement)
    admin = psycopg2.connect(dsn)
    admin.autocommit = True
    try:
        found = judge(case, dsn, admin, client)
    finally:
        client.close()
        admin.close()

    assert (found[0] if found else "") == sight


def test_shrinking_keeps_what_fails_and_leaves_out_the_rest() -> None:
    def fails(case: Case) -> bool:
        return any(("1", "d") in content.rows for content in case.contents)

    smaller = shrink(replace(PLAIN, settings=(("DateStyle", "ISO, DMY"),)), fails)

    assert [content.rows for content in smaller.contents] == [(("1", "d"),)]
    assert smaller.settings == ()
