"""Yesterday's job again: content that the table took before something newer is reported before and after it is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit import ConflictAwareProcessor, ParallelConfig, ingest
from etl_toolkit.model import LoadResult
from tests.oracle import Rows, write

CONFIG = ParallelConfig(concurrency=2)


def rows(value: str, keys: range) -> Rows:
    return Rows(("id", "v"), tuple((str(key), value) for key in keys))


@pytest.fixture
def yesterday(tmp_path: Path) -> str:
    return str(write(rows("yesterday", range(100)), tmp_path, "yesterday", "csv"))


@pytest.fixture
def today(tmp_path: Path) -> str:
    return str(write(rows("today", range(40, 160)), tmp_path, "today", "csv"))


def load(database: str, *files: Any, **options: Any) -> LoadResult:
    return ingest(list(files), "t", "id", database, **{"create_table": True, "config": CONFIG, **options})


@pytest.mark.parametrize("strategy", ["deterministic", "partitioned", "streaming"])
def test_rows_that_are_turned_back_are_counted(database: str, yesterday: str, today: str, strategy: str) -> None:
    first, second = load(database, yesterday), load(database, today)

    again = load(database, yesterday, strategy=strategy)

    (found,) = again.loaded_before
    assert (found.file, found.run_id, found.newer_runs) == (yesterday, first.run_id, (second.run_id,))
    assert (found.newer_rows, found.turned_back, again.counts.updated) == (120, 60, 60)
    assert f"warning: {yesterday}: reverted at most 60 rows that run {second.run_id} wrote since" in str(again)
    assert json.loads(json.dumps(again.as_dict()))["loaded_before"][0]["turned_back"] == 60


def test_it_is_reported_in_the_plan_and_before_the_first_row(database: str, yesterday: str, today: str) -> None:
    load(database, yesterday)
    load(database, today)
    events: list[Any] = []

    plan = ConflictAwareProcessor(database).plan([yesterday], "t", ["id"])
    load(database, yesterday, on_event=events.append)

    assert [(item.file, item.newer_rows, item.turned_back) for item in plan.loaded_before] == [(yesterday, 120, None)]
    names = [event.name for event in events]
    assert names.index("loaded_before") < names.index("batch_started")


def test_a_file_that_was_followed_by_another_one_in_its_own_run(database: str, yesterday: str, today: str) -> None:
    load(database, yesterday, today)

    (found,) = load(database, yesterday).loaded_before

    assert (found.newer_rows, found.turned_back) == (120, 60)


@pytest.mark.parametrize(
    "case", ["the same again", "the same files again", "in this order on purpose", "undone", "newer", "ignore", "force"]
)
def test_nothing_is_reported_where_nothing_newer_is_turned_back(
    database: str, yesterday: str, today: str, case: str
) -> None:
    load(database, yesterday)
    if case == "the same again":
        again = load(database, yesterday)
    elif case == "undone":
        newer = load(database, today, undoable=True)
        ConflictAwareProcessor(database).undo(newer.run_id)
        again = load(database, yesterday)
    else:
        load(database, today)
        files = {"the same files again": [yesterday, today], "in this order on purpose": [today, yesterday]}
        options: dict[str, dict[str, Any]] = {
            "newer": {"on_conflict": "newer", "order_by": "v"}, "ignore": {"on_conflict": "ignore"},
            "force": {"force": True},
        }  # fmt: skip
        again = load(database, *files.get(case, [yesterday]), **options.get(case, {}))

    assert again
    assert again.loaded_before == ()


def test_a_content_under_another_name(
    database: str, connection: Connection, tmp_path: Path, yesterday: str, today: str
) -> None:
    load(database, yesterday)
    load(database, today)
    other = str(write(rows("yesterday", range(100)), tmp_path, "other_name", "csv"))

    assert [item.file for item in load(database, other).loaded_before] == [other]


def test_another_table_has_its_own_past(database: str, yesterday: str, today: str) -> None:
    load(database, yesterday)
    load(database, today)

    assert ingest(yesterday, "u", "id", database, create_table=True).loaded_before == ()
