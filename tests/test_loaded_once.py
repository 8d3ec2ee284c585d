"""`loaded = "skip"`: as if the files were loaded one by one, and none whose content the table has taken. Content counts."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from psycopg2.extensions import connection as Connection

import etl_toolkit
from etl_toolkit import ConflictAwareProcessor, ParallelConfig, WriteOptions, ingest
from etl_toolkit.errors import DatabaseError, EtlError, LedgerError, RejectLimitError, StoppedError, UnknownFileError
from etl_toolkit.loading import ledger
from etl_toolkit.model import LoadResult
from etl_toolkit.stopping import Stop
from tests.forked import run_command

CONFIG = ParallelConfig(concurrency=2)
SKIP = WriteOptions(loaded="skip")
STRATEGIES = ["auto", "deterministic", "partitioned", "streaming", "hybrid"]


@pytest.fixture
def put(tmp_path: Path) -> Any:
    def write(name: str, value: str, keys: range | list[Any]) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("id,v\n" + "".join(f"{key},{value}\n" for key in keys))
        return str(path)

    return write


@pytest.fixture
def rows(connection: Connection) -> Any:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, v text, dt date)")

    def read() -> list[tuple[int, str]]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT id, v FROM t ORDER BY id")
            return list(cursor.fetchall())

    return read


def load(database: str, *files: Any, **options: Any) -> LoadResult:
    return ingest(list(files), "t", "id", database, **{"config": CONFIG, "write": SKIP, **options})


def skipped(result: LoadResult) -> list[str]:
    return [Path(item.file).name for item in result.skipped]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_the_table_has_is_left_out(database: str, rows: Any, put: Any, strategy: str) -> None:
    old, newer, latest = put("a", "old", [1, 2, 3]), put("b", "newer", [2]), put("c", "latest", [3, 4])
    options = {"strategy": strategy, "format": "csv"}
    first = load(database, old, newer, **options)
    assert (first.counts.read, first.skipped) == (4, ())
    assert load(database, old, newer, latest, **options).counts.read == 2  # `old` would turn 2 back

    nothing = load(database, old, newer, latest, **options)

    assert nothing
    assert (nothing.counts.read, skipped(nothing)) == (0, ["a", "b", "c"])
    assert rows() == [(1, "old"), (2, "newer"), (3, "latest"), (4, "latest")]
    told = json.loads(json.dumps(nothing.as_dict()))["skipped"]
    assert (told[0]["taken_as"], told[0]["run_id"]) == (old, first.run_id)
    assert f"skipped: {old}: the table took its content on " in str(nothing)
    plan = ConflictAwareProcessor(database).plan([old, latest], "t", "id", write=SKIP, format="csv")
    assert [Path(item.file).name for item in plan.skipped] == ["a", "c"]
    assert "the table has taken all of these files before" in plan.reasons


def test_without_skip_it_is_loaded_again(database: str, rows: Any, put: Any) -> None:
    """The control: this is what `skip` spares."""
    old, newer = put("a.csv", "old", [1, 2]), put("b.csv", "newer", [2])
    load(database, old)
    load(database, newer)
    assert load(database, old, write=WriteOptions()).skipped == ()
    assert rows() == [(1, "old"), (2, "old")]


def test_content_counts_and_not_the_name(database: str, rows: Any, put: Any) -> None:
    first = put("a.csv", "x", [1])
    load(database, first)
    renamed = shutil.copy(first, first.replace("a.csv", "renamed.csv"))
    put("a.csv", "y", [1, 2])
    result = load(database, renamed, first)
    assert skipped(result) == ["renamed.csv"]
    assert str(result.skipped[0]).count("as " + first) == 1
    assert rows() == [(1, "y"), (2, "y")]


def test_the_same_content_twice_in_a_load_is_taken_once_where_it_comes_first(
    database: str, rows: Any, put: Any
) -> None:
    """One by one: a, b, and then a is what the table has. Without `skip` it counts where it comes last."""
    a, b = put("a.csv", "a", [1]), put("b.csv", "b", [1])
    result = load(database, a, b, a)
    assert (skipped(result), result.counts.read) == (["a.csv"], 2)
    assert rows() == [(1, "b")]


def test_the_same_bytes_below_another_directory_of_a_column_are_other_content(
    database: str, connection: Connection, rows: Any, put: Any
) -> None:
    one, two = put("dt=2024-01-01/a.csv", "x", [1]), put("dt=2024-01-02/a.csv", "x", [1])
    load(database, one)
    assert load(database, two).skipped == ()
    with connection.cursor() as cursor:
        cursor.execute("SELECT dt::text FROM t")
        assert cursor.fetchall() == [("2024-01-02",)]
    assert skipped(load(database, one, two)) == ["a.csv", "a.csv"]


def test_other_reading_is_other_content(database: str, rows: Any, put: Any) -> None:
    path = put("a.csv", "x", [1, 2])
    load(database, path)
    assert load(database, path, skip=1, headers=["id", "v"]).skipped == ()


def test_frames_are_known_by_their_content(database: str, rows: Any) -> None:
    frames = [pd.DataFrame({"id": [n], "v": [str(n)]}) for n in range(3)]
    load(database, frames[1])
    assert load(database, *frames).counts.read == 2
    assert rows() == [(0, "0"), (1, "1"), (2, "2")]


def test_what_was_undone_is_not_taken(database: str, rows: Any, put: Any) -> None:
    path = put("a.csv", "x", [1])
    run = load(database, path, undoable=True)
    ConflictAwareProcessor(database).undo(run.run_id)
    assert load(database, path).counts.inserted == 1


def test_what_was_rejected_in_part_is_taken_and_what_failed_is_not(database: str, rows: Any, put: Any) -> None:
    path = put("a.csv", "x", [1, "one", 2])
    with pytest.raises(RejectLimitError):
        load(database, path)
    assert etl_toolkit.files("t", database) == []
    assert load(database, path, max_rejects=1).counts.rejected == 1
    assert skipped(load(database, path, max_rejects=1)) == ["a.csv"]


def test_another_table_has_its_own_and_a_new_one_has_none(
    database: str, connection: Connection, rows: Any, put: Any
) -> None:
    path = put("a.csv", "x", [1])
    load(database, path)
    assert ingest(path, "u", "id", database, create_table=True, write=SKIP).counts.read == 1
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, v text)")
    assert load(database, path).counts.read == 1


def fail_after(database: str, batches: int, files: list[str], **options: Any) -> str:
    """Load until so many batches are committed, and stop there."""
    stop, seen = Stop(), []

    def on_event(event: Any) -> None:
        if event.name == "batch_done":
            seen.append(event)
            if len(seen) == batches:
                stop.set("enough")

    with pytest.raises(StoppedError) as caught:
        ingest(
            files, "t", "id", database, config=ParallelConfig(concurrency=1), on_event=on_event, stop=stop, **options
        )
    return caught.value.run_id


def test_of_a_run_that_was_stopped_the_files_that_are_committed_are_taken(database: str, rows: Any, put: Any) -> None:
    files = [put(f"{n}.csv", str(n), range(n, n + 3)) for n in range(4)]
    run_id = fail_after(database, 2, files, strategy="streaming", write=SKIP)
    taken = [Path(file.name).name for file in etl_toolkit.files("t", database)]
    assert sorted(taken) == ["0.csv", "1.csv"]
    resumed = ConflictAwareProcessor(database).resume(run_id)
    assert resumed.counts.read == 12
    assert skipped(load(database, *files)) == ["0.csv", "1.csv", "2.csv", "3.csv"]
    assert rows() == [(0, "0"), (1, "1"), (2, "2"), (3, "3"), (4, "3"), (5, "3")]


def test_of_a_run_with_a_hole_no_file_behind_the_hole_is_taken(
    database: str, connection: Connection, rows: Any, put: Any
) -> None:
    """Where a commit was lost, its file is loaded again, and so is what came after it: else old rows would come last."""
    files = [put(f"{n}.csv", str(n), [1]) for n in range(3)]
    fail_after(database, 2, files, strategy="streaming")
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM etl_toolkit.batches WHERE number = (SELECT min(number) FROM etl_toolkit.batches)")
    result = load(database, *files)
    assert (result.counts.read, rows()) == (3, [(1, "2")])


def test_files_that_another_run_takes_meanwhile_are_left_out(
    database: str, rows: Any, put: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table is looked at before the run has the lock on it."""
    a, b = put("a.csv", "a", [1]), put("b.csv", "b", [1, 2])
    lock, done = ledger.lock_table, []

    def lock_late(*arguments: Any, **options: Any) -> None:
        if not done:
            done.append(True)
            load(database, a, b)
            load(database, put("c.csv", "newest", [1]))
        lock(*arguments, **options)

    monkeypatch.setattr(ledger, "lock_table", lock_late)
    assert skipped(load(database, a, b)) == ["a.csv", "b.csv"]
    assert rows() == [(1, "newest"), (2, "b")]


def test_a_file_is_listed_and_forgotten(database: str, rows: Any, put: Any) -> None:
    a, b = put("a.csv", "a", [1, 2]), put("b.csv", "b", [2])
    run = load(database, a, b)

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return run_command(*words, "--table", "t", "--dsn", database)

    listed = json.loads(call("files", "--json").stdout)
    assert [(file["name"], file["rows"], file["size_bytes"], file["run_id"]) for file in listed] == [
        (b, 1, 9, run.run_id), (a, 2, 13, run.run_id),
    ]  # fmt: skip
    assert "Files that t has taken" in call("files").stdout
    refused = call("forget", a, a.replace("a.csv", "aa.csv"))
    assert (refused.returncode, "did you mean" in refused.stderr) == (2, True), refused.stderr
    assert len(etl_toolkit.files("t", database)) == 2
    assert call("forget", a).stdout == f"forgotten: {a} (2 rows, run {run.run_id})\n"
    assert [file.name for file in etl_toolkit.files("t", database)] == [b]
    with pytest.raises(UnknownFileError):
        etl_toolkit.forget("t", a, database)
    assert skipped(load(database, a, b)) == ["b.csv"]  # and has taken `a` once more
    hashes = [file.content_hash for file in etl_toolkit.files("t", database)]
    assert len(etl_toolkit.forget("t", hashes, database)) == 2
    assert rows() == [(1, "a"), (2, "a")]


def test_a_ledger_that_cannot_be_read_is_no_empty_one(
    database: str, connection: Connection, rows: Any, put: Any
) -> None:
    load(database, put("a.csv", "a", [1]))
    with connection.cursor() as cursor:
        cursor.execute("UPDATE etl_toolkit.version SET number = 99")
    with pytest.raises(LedgerError, match="version 99"):
        load(database, put("a.csv", "a", [1]))
    with pytest.raises((EtlError, DatabaseError)):
        etl_toolkit.files("t", database)


@pytest.mark.parametrize("seed", range(2))
def test_any_sequence_of_loads_is_as_if_loaded_one_by_one_and_none_twice(
    database: str, rows: Any, put: Any, seed: int
) -> None:
    """The oracle: a dictionary, and the set of what was taken; loads, undo and forget in any order."""
    chance = random.Random(seed)  # noqa: S311
    files = [put(f"{n}.csv", str(n), sorted(chance.sample(range(12), 5))) for n in range(6)]
    keys = [[int(line.split(",")[0]) for line in Path(path).read_text().splitlines()[1:]] for path in files]
    table: dict[int, str] = {}
    taken: set[int] = set()
    for _ in range(8):
        chosen = [chance.randrange(len(files)) for _ in range(chance.randint(1, 4))]
        before = dict(table), set(taken)
        run = load(database, *(files[n] for n in chosen), strategy=chance.choice(STRATEGIES), undoable=True)
        left_out = []
        for n in chosen:
            if n in taken:
                left_out.append(f"{n}.csv")
            else:
                taken.add(n)
                table |= dict.fromkeys(keys[n], str(n))
        assert (skipped(run), rows()) == (left_out, sorted(table.items()))
        if len(left_out) < len(chosen) and chance.random() < 0.3:
            ConflictAwareProcessor(database).undo(run.run_id)
            table, taken = before
        elif taken and chance.random() < 0.3:
            etl_toolkit.forget("t", files[forgotten := chance.choice(sorted(taken))], database)
            taken.discard(forgotten)
    assert rows() == sorted(table.items())
    assert {Path(file.name).name for file in etl_toolkit.files("t", database)} == {f"{n}.csv" for n in taken}


def test_files_that_are_all_skipped_load_with_an_order_column(put: Any, rows: Any, database: str) -> None:
    file = put("a.csv", "x", range(3))
    load(database, file, order_by="v")
    assert skipped(load(database, file, order_by="v")) == ["a.csv"]
    assert rows() == [(key, "x") for key in range(3)]
