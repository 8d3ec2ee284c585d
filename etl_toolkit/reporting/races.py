"""Races of parallel upserts, each made to happen between two sessions, and every strategy on the same stage.

A race is reproduced, not described: the interleaving is forced with locks, so that it happens every time, and the transcript is
what the server answered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg2

from etl_toolkit.bench.records import STRATEGIES
from etl_toolkit.reporting import trials
from etl_toolkit.reporting.content import read_texts
from etl_toolkit.reporting.stage import Stage, Step
from etl_toolkit.reporting.trials import Expectation, Trial, try_all, try_one, write_csv
from etl_toolkit.reporting.wiretap import WireTap

KEYS = 1000


@dataclass(frozen=True)
class Race:
    """One race: what happens, the transcript, what was seen, whether it happened, and how each strategy fared."""

    name: str
    title: str
    what: str
    steps: Sequence[Step]
    seen: str
    happened: bool
    prevention: Sequence[str]
    trials: Sequence[Trial]


Made = tuple[str, bool, Sequence[Trial]]  # what was seen, whether the race happened, and how each strategy fared
UPSERT = "INSERT INTO race VALUES {} ON CONFLICT (id) DO UPDATE SET value = excluded.value"


def last_commit_wins(stage: Stage, place: Path) -> Made:
    """Two files share their keys; the first file's worker commits last."""
    stage.ask(trials.CREATE)
    with stage.actor("worker of file 1") as first, stage.actor("worker of file 2") as second:
        for worker, value in ((first, "file 1"), (second, "file 2")):
            worker.say(
                f"CREATE TEMP TABLE staging AS SELECT id, '{value}' AS value FROM generate_series(1, {KEYS}) AS id"
            )
        merge = "INSERT INTO race SELECT id, value FROM staging ON CONFLICT (id) DO UPDATE SET value = excluded.value"
        second.say("BEGIN")
        second.say(merge)
        first.say("BEGIN")
        first.start(merge)
        second.say("COMMIT")
        first.finish()
        first.say("COMMIT")
        wrong = int(first.say("SELECT count(*) FROM race WHERE value = 'file 1'"))
    files = [write_csv(place / f"last{n}.csv", [(key, f"file {n}") for key in range(1, KEYS + 1)]) for n in (1, 2)]
    expected = Expectation("SELECT count(*) FROM race WHERE value = 'file 2'", KEYS, "keys with the last file's value")
    seen = f"{wrong:,} of {KEYS:,} keys ended with the value of file 1, without any error"
    return seen, wrong == KEYS, try_all(stage.dsn, files, expected)


def deadlock(stage: Stage, place: Path) -> Made:
    """Two workers take the same two keys in opposite order."""
    stage.ask(f"{trials.CREATE}; INSERT INTO race VALUES (1, 'old'), (2, 'old')")
    with stage.actor("worker A") as first, stage.actor("worker B") as second:
        first.say("BEGIN")
        second.say("BEGIN")
        first.say(UPSERT.format("(1, 'A')"))
        second.say(UPSERT.format("(2, 'B')"))
        first.start(UPSERT.format("(2, 'A')"))
        outcome = second.say(UPSERT.format("(1, 'B')"))
        other = first.finish()
        second.say("ROLLBACK")
        first.say("COMMIT")
    seen = next((text for text in (outcome, other) if "40P01" in text), "no deadlock")
    forward = [(key, "up") for key in range(1, KEYS + 1)]
    back = [(key, "down") for key in range(KEYS, 0, -1)]
    files = [write_csv(place / "up.csv", forward), write_csv(place / "down.csv", back)]
    counted = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    query = f"SELECT ({counted}) - {stage.ask(counted)} + {KEYS} - count(*) FROM race WHERE value = 'down'"
    expected = Expectation(query, 0, "deadlocks and wrong keys")
    return seen, "40P01" in seen, try_all(stage.dsn, files, expected)


def create_table(stage: Stage, place: Path) -> Made:
    """Two sessions create one table, both with IF NOT EXISTS."""
    create = trials.CREATE.replace("TABLE race", "TABLE IF NOT EXISTS race")
    with stage.actor("worker A") as first, stage.actor("worker B") as second:
        first.say("BEGIN")
        first.say(create)
        second.start(create)
        first.say("COMMIT")
        seen = second.finish()
    files = [write_csv(place / f"first{n}.csv", [(key, f"file {n}") for key in range(n, KEYS, 2)]) for n in (1, 2)]
    expected = Expectation("SELECT count(*) FROM race", KEYS - 1, "rows of both first loads")
    return seen, "23505" in seen, [try_one(STRATEGIES[0], stage.dsn, files, expected, loading=trials.two_first_loads)]


def twice_in_one_statement(stage: Stage, place: Path) -> Made:
    """One statement brings one key twice."""
    stage.ask(trials.CREATE)
    with stage.actor("worker") as worker:
        seen = worker.say(UPSERT.format("(1, 'first'), (1, 'second')"))
    rows = [(key, "first") for key in range(1, KEYS + 1)] + [(key, "second") for key in range(1, KEYS + 1)]
    files = [write_csv(place / "twice.csv", rows), write_csv(place / "other.csv", [(KEYS + 1, "second")])]
    expected = Expectation("SELECT count(*) FROM race WHERE value = 'second'", KEYS + 1, "keys with their last row")
    return seen, "21000" in seen, try_all(stage.dsn, files, expected)


def blind_retry(stage: Stage, place: Path) -> Made:
    """The reply to a COMMIT is lost; meanwhile somebody writes a newer value; the retry takes it back."""
    stage.ask(trials.CREATE)
    upsert = UPSERT.format("(1, 'old file')")
    with (
        WireTap(stage.dsn, lambda _, statement: statement == "COMMIT") as tap,
        closing(psycopg2.connect(tap.tapped_dsn)) as client,
        client.cursor() as cursor,
    ):
        process = client.info.backend_pid
        client.autocommit = True
        cursor.execute(f"BEGIN; {upsert}")
        stage.note("loader", f"BEGIN; {upsert}", str(cursor.statusmessage))
        with suppress(psycopg2.OperationalError):
            cursor.execute("COMMIT")
        stage.note("loader", "COMMIT", "the connection breaks before the reply: was it committed?")
    while stage.ask(f"SELECT count(*) FROM pg_stat_activity WHERE pid = {process:d}"):
        pass
    with stage.actor("newer load") as newer, stage.actor("loader, again") as again:
        newer.say("SELECT value FROM race WHERE id = 1")
        newer.say(UPSERT.format("(1, 'newer file')"))
        again.say(upsert)
        value = again.say("SELECT value FROM race WHERE id = 1")
    files = [write_csv(place / f"retry{n}.csv", [(key, "file") for key in range(n, KEYS + 1, 2)]) for n in (1, 2)]
    once = Expectation("SELECT count(*) FROM race WHERE value = 'file'", KEYS, "keys with the file's value")
    fared = try_all(stage.dsn, files, once, loading=trials.load_with_lost_reply)
    return f"the row holds the value '{value}'", value == "old file", fared


def merge_beside_a_writer(stage: Stage, place: Path) -> Made:
    """MERGE decides that a key is absent, and another session inserts it first."""
    stage.ask(trials.CREATE)
    merge = (
        "MERGE INTO race USING (VALUES (1, 'merged')) AS s (id, value) ON race.id = s.id "
        "WHEN MATCHED THEN UPDATE SET value = s.value WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.value)"
    )
    with stage.actor("other writer") as other, stage.actor("worker") as worker:
        other.say("BEGIN")
        other.say("INSERT INTO race VALUES (1, 'other')")
        worker.start(merge)
        other.say("COMMIT")
        seen = worker.finish()
    files = [
        write_csv(place / "low.csv", [(key, "loaded") for key in range(1, 501)]),
        write_csv(place / "high.csv", [(key, "loaded") for key in range(501, KEYS + 1)]),
    ]
    expected = Expectation("SELECT count(*) FROM race WHERE value = 'loaded'", KEYS, "keys with the file's value")
    return seen, "23505" in seen, try_all(stage.dsn, files, expected, loading=trials.load_beside_another_writer)


RACES: Mapping[str, Callable[[Stage, Path], Made]] = {
    make.__name__.replace("_", "-"): make
    for make in (last_commit_wins, deadlock, create_table, twice_in_one_statement, blind_retry, merge_beside_a_writer)
}


def reproduce(name: str, stage: Stage, place: Path) -> Race:
    """Make a race happen on the stage, and let our strategies load files that provoke it."""
    seen, happened, fared = RACES[name](stage, place)
    text = read_texts()["races"][name]
    return Race(name, text["title"], text["what"], stage.steps, seen, happened, text["prevention"], fared)
