"""Where the table has some of the keys, those that it lacks go straight into it; the others are merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit import Delete, ParallelConfig, WriteOptions, ingest
from etl_toolkit.loading.run import Event
from etl_toolkit.strategies import presence
from tests.loads import load_as_expected
from tests.oracle import Oracle, Replay, Rows, differing_rows, write

KEYS = {
    "integer": ("id int", "{}"),
    "leap days": ("id timestamptz", "2024-02-29 {:02d}:{:02d}:00+01"),
    "text": ("id text", "key {}"),
    "text with commas": ("id text", "key, {}"),
}


@pytest.fixture(autouse=True)
def small_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "SMALLEST_LOAD", 1)


def rows(spelling: str, ids: range, value: str) -> Rows:
    def key(number: int) -> str:
        return spelling.format(number // 60, number % 60) if "02d" in spelling else spelling.format(number)

    return Rows(("id", "v"), tuple((key(number), f"{value} {number}") for number in ids))


def fill(connection: Connection, kind: str, present: Rows, later: tuple[Rows, ...], **rules: Any) -> None:
    for name in ("loaded", "expected"):
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE TABLE {name} ({kind} PRIMARY KEY, v text)")
        Oracle(name, ("id",)).load(connection, [present])
    Oracle("expected", ("id",), **rules).load(connection, later)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE loaded")


@pytest.mark.parametrize("action", ["update", "ignore"])
@pytest.mark.parametrize("key", KEYS)
def test_absent_keys_are_copied_and_the_others_merged(
    tmp_path: Path, database: str, connection: Connection, key: str, action: str
) -> None:
    kind, spelling = KEYS[key]
    files = (rows(spelling, range(400), "a"), rows(spelling, range(300, 700), "b"))
    fill(connection, kind, rows(spelling, range(0, 1000, 2), "old"), files, action=action)
    events: list[Event] = []
    result = load_as_expected(
        database, connection, tmp_path, files, on_conflict=action, undoable=action == "update", on_event=events.append
    )
    present = result.counts.updated if action == "update" else result.counts.unchanged
    assert (result.counts.inserted, present) == (350, 350)
    assert [count.inserted for count in result.files.values()] == ([150, 200] if action == "update" else [200, 150])
    assert not [event for event in events if event.name == "fallback"]
    assert result.plan.key_path == "client"
    if action == "update":  # a COPY that can be undone has a transaction number of its own
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(DISTINCT xmin::text) FROM loaded WHERE v NOT LIKE 'old%'")
            assert cursor.fetchone() == (2 if key == "text with commas" else 4,)


def test_a_key_that_a_tombstone_makes_room_for_is_copied(tmp_path: Path, database: str, connection: Connection) -> None:
    fill(connection, "id int", rows("{}", range(0, 400, 2), "old"), ())
    # Of each of 100 keys, half of them in the table: a row; a tombstone, and a row behind it; a row before it.
    contents = [
        Rows(("id", "v", "op"), tuple((str(key), f"{name} {key}", op) for key in range(100, 400) if key % 3 in some))
        for name, op, some in (("a", "U", (0, 2)), ("b", "D", (1, 2)), ("c", "U", (1,)))
    ]
    Replay("expected", "id", mark="op").load(connection, contents)
    paths = [write(content, tmp_path, str(number), "csv") for number, content in enumerate(contents)]
    events: list[Event] = []
    result = ingest(
        paths, "loaded", "id", database, strategy="partitioned", config=ParallelConfig(concurrency=2),
        write=WriteOptions(delete=Delete("op", ("D",))), on_event=events.append,
    )  # fmt: skip
    assert differing_rows(connection, "loaded", "expected") == []
    counts = result.counts
    assert (counts.inserted, counts.updated, counts.deleted, counts.absent) == (100, 100, 50, 50)
    assert not [event for event in events if event.name == "fallback"]
    with connection.cursor() as cursor:  # a COPY that can be undone has a transaction number of its own
        cursor.execute(
            "SELECT count(*) FROM loaded WHERE xmin IN (SELECT xmin FROM loaded WHERE v LIKE 'a%' AND id % 2 = 0) "
            "AND v LIKE 'c%'"
        )
        assert cursor.fetchone() == (0,)


def test_a_key_that_another_session_writes_meanwhile_is_updated(
    tmp_path: Path, database: str, connection: Connection
) -> None:
    files = (rows("{}", range(400), "a"),)
    fill(connection, "id int", rows("{}", range(0, 400, 2), "old"), files)
    events: list[Event] = []

    def interfere(event: Event) -> None:
        events.append(event)
        if event.name == "batch_started" and sum(each.name == "batch_started" for each in events) == 1:
            with psycopg2.connect(database) as other, other.cursor() as cursor:
                cursor.execute("INSERT INTO loaded VALUES (11, 'theirs'), (391, 'theirs')")
            other.close()

    result = load_as_expected(database, connection, tmp_path, files, on_event=interfere)
    assert (result.counts.inserted, result.counts.updated) == (198, 202)
    assert [event for event in events if event.name == "fallback"]


def test_a_worker_that_loses_its_session_loads_the_same_again(
    tmp_path: Path, database: str, connection: Connection
) -> None:
    files = (rows("{}", range(400), "a"), rows("{}", range(300, 600), "b"))
    fill(connection, "id int", rows("{}", range(0, 400, 2), "old"), files)
    killed: list[int] = []

    def kill(event: Event) -> None:
        if event.name == "batch_done" and not killed:
            with psycopg2.connect(database) as other, other.cursor() as cursor:
                cursor.execute(
                    "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'etl_toolkit % worker %' "
                    "AND pg_terminate_backend(pid)"
                )
                killed.extend(pid for (pid,) in cursor.fetchall())
            other.close()

    result = load_as_expected(database, connection, tmp_path, files, on_event=kill)
    assert killed
    assert (result.counts.inserted, result.counts.updated) == (400, 200)
