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


UPSERT = "INSERT INTO race VALUES {} ON CONFLICT (id) DO UPDATE SET value = excluded.value"


def last_commit_wins(stage: Stage, place: Path) -> Race:
    """Two files share their keys; the first file's worker commits last."""
    stage.ask(f"{trials.CREATE}")
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
    return Race(
        "last-commit-wins", "The last COMMIT wins, not the last file",
        "Two workers upsert files that share keys. Both succeed, and the order of their COMMITs decides which "
        "values remain: file 2 comes last and should win, but file 1 does.",
        stage.steps, f"{wrong:,} of {KEYS:,} keys ended with the value of file 1, without any error", wrong == KEYS,
        (
            "`partitioned` (and `auto`, which picks it here): rows are collapsed across files by their position before "
            "anything is sent, and each key belongs to one worker",
            "`hybrid`: files that share a key are in the same group, and each group is loaded in order by one worker",
            "`full_parallel`: refuses files that share keys",
            "`deterministic` and `streaming`: one file after the other",
        ),
        try_all(stage.dsn, files, expected),
    )  # fmt: skip


def deadlock(stage: Stage, place: Path) -> Race:
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
    return Race(
        "deadlock", "Two upserts in opposite key order: deadlock",
        "Each worker holds a row that the other wants next. The server ends one of them after `deadlock_timeout`; its "
        "whole transaction is lost.",
        stage.steps, seen, "40P01" in seen,
        (
            "`partitioned`: a key range per worker, so no two workers ever touch one row",
            "`hybrid`, `full_parallel`: workers hold files that share no key",
            "all: a merge writes in the order of the key, so that ordered loads by other programs only wait",
            "all: if a deadlock (40P01) occurs nevertheless, the batch is repeated after checking the ledger",
        ),
        try_all(stage.dsn, files, expected),
    )  # fmt: skip


def create_table(stage: Stage, place: Path) -> Race:
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
    return Race(
        "create-table", "CREATE TABLE IF NOT EXISTS is not safe in parallel",
        "IF NOT EXISTS checks before it creates, without a lock in between: if two workers start together, one "
        "fails with a unique violation in the catalog, and its file is not loaded.",
        stage.steps, seen, "23505" in seen,
        (
            "all: the coordinator creates table and ledger under an advisory lock, before any worker starts",
            "all: a second load of a table waits for the first one (`lock_wait_seconds`), or fails with a message that names it",
        ),
        [try_one(STRATEGIES[0], stage.dsn, files, expected, loading=trials.two_first_loads)],
    )  # fmt: skip


def twice_in_one_statement(stage: Stage, place: Path) -> Race:
    """One statement brings one key twice."""
    stage.ask(f"{trials.CREATE}")
    with stage.actor("worker") as worker:
        seen = worker.say(UPSERT.format("(1, 'first'), (1, 'second')"))
    rows = [(key, "first") for key in range(1, KEYS + 1)] + [(key, "second") for key in range(1, KEYS + 1)]
    files = [write_csv(place / "twice.csv", rows), write_csv(place / "other.csv", [(KEYS + 1, "second")])]
    expected = Expectation("SELECT count(*) FROM race WHERE value = 'second'", KEYS + 1, "keys with their last row")
    return Race(
        "twice-in-one-statement", "The same key twice in one statement: SQLSTATE 21000",
        "ON CONFLICT DO UPDATE refuses to touch a row a second time within one statement. A staging table that holds "
        "a key twice makes the whole merge fail.",
        stage.steps, seen, "21000" in seen,
        (
            "`partitioned`: one row per key is picked in DuckDB, by file and position in the file, before it is sent",
            "the others: the merge reads `DISTINCT ON (key) … ORDER BY key, ctid DESC`: the last staged row of each key",
        ),
        try_all(stage.dsn, files, expected),
    )  # fmt: skip


def blind_retry(stage: Stage, place: Path) -> Race:
    """The reply to a COMMIT is lost; meanwhile somebody writes a newer value; the retry takes it back."""
    stage.ask(f"{trials.CREATE}")
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
    return Race(
        "blind-retry", "A lost COMMIT reply and a blind retry",
        "The server committed, but the client does not know. A retry is harmless only as long as nobody else has "
        "written the row; otherwise it restores the old value.",
        stage.steps, f"the row holds the value '{value}'", value == "old file",
        (
            "all: the first statement of a batch claims it in the ledger, in the transaction of the data; after a "
            "lost reply, the retry checks whether the claim exists",
            "all: a run whose table was taken over by a later run cannot claim anything more (the row of the run acts as a fence)",
        ),
        try_all(stage.dsn, files, once, loading=trials.load_with_lost_reply),
    )  # fmt: skip


def merge_beside_a_writer(stage: Stage, place: Path) -> Race:
    """MERGE decides that a key is absent, and another session inserts it first."""
    stage.ask(f"{trials.CREATE}")
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
    return Race(
        "merge-beside-a-writer", "MERGE and plain COPY with a concurrent writer",
        "MERGE looks for the key first and inserts later. If another session inserts the key in between, it fails "
        "with a unique violation; so does a plain COPY into the table.",
        stage.steps, seen, "23505" in seen,
        (
            "all: rows are written by INSERT … ON CONFLICT, which waits for the other writer and then updates",
            "`partitioned`: COPY straight into the table only if none of the keys exists yet; if another writer inserts "
            "one in between, the range is rolled back and loaded through staging and ON CONFLICT",
        ),
        try_all(stage.dsn, files, expected, loading=trials.load_beside_another_writer),
    )  # fmt: skip


RACES: Mapping[str, Callable[[Stage, Path], Race]] = {
    "last-commit-wins": last_commit_wins,
    "deadlock": deadlock,
    "create-table": create_table,
    "twice-in-one-statement": twice_in_one_statement,
    "blind-retry": blind_retry,
    "merge-beside-a-writer": merge_beside_a_writer,
}
