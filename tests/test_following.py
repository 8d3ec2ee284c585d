"""How far a load is, from its events: phases, shares, rows and an estimate; and the card that shows them."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from psycopg2.extensions import connection as Connection

import etl_toolkit
from etl_toolkit import ConflictAwareProcessor, ParallelConfig, ingest
from etl_toolkit.cli.progress import Progress
from etl_toolkit.loading.run import Event
from etl_toolkit.model import Batch, Counts, FileKeys, KeyOverlap, Plan, Strategy
from etl_toolkit.observe.card import card_html
from etl_toolkit.observe.following import Following, Snapshot, in_one_line, in_time

ROWS = 1_000


def test_every_phase_that_a_load_measures_is_shown() -> None:
    texts = [path.read_text() for path in Path(etl_toolkit.__file__).parent.rglob("*.py")]
    measured = {name for text in texts for name in re.findall(r'phases\.phase\("(\w+)"', text)}
    following = Following(Clock())
    for name in sorted(measured):
        tell(following, "phase_started", phase=name)
    assert len(measured) > 10


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def followed(*, empty: bool = False) -> tuple[Following, Clock]:
    """A load of two batches that is about to send."""
    clock = Clock()
    following = Following(clock)
    overlap = KeyOverlap((FileKeys(0, "a.csv", ROWS, ROWS),), ROWS, 0, (), {}, ((0,),))
    plan = Plan(Strategy.HYBRID, (), ((Batch(0, (0,)), Batch(1, (1,))),), 1, "client", overlap, target_is_empty=empty)
    following(Event("started", {"table": "t"}))
    tell(following, "phase_started", phase="sources")
    clock.now += 1
    tell(following, "looked", bytes=1_000_000, total_bytes=1_000_000)
    tell(following, "phase_done", phase="sources", seconds=1.0)
    tell(following, "phase_started", phase="read")
    clock.now += 1
    tell(following, "phase_done", phase="read", seconds=1.0)
    tell(following, "planned", plan=plan, bytes=1_000_000)
    return following, clock


def tell(following: Following, name: str, **facts: Any) -> None:
    following(Event(name, facts))


def phase(seen: Snapshot, name: str) -> Any:
    return next(item for item in seen.phases if item.name == name)


def test_a_phase_that_is_over_is_done_and_has_its_seconds() -> None:
    following, clock = followed()
    tell(following, "phase_started", phase="copy")
    clock.now += 1
    seen = following.snapshot()
    assert (phase(seen, "look").is_done, phase(seen, "look").seconds) == (True, 1.0)
    assert phase(seen, "send").is_running


def test_rows_that_are_sent_are_no_end_of_the_load_while_they_are_to_be_merged() -> None:
    following, clock = followed()
    tell(following, "phase_started", phase="copy")
    clock.now += 4
    tell(following, "bytes", bytes=1, rows=ROWS)
    tell(following, "phase_done", phase="copy", seconds=4.0)
    tell(following, "phase_started", phase="merge")
    seen = following.snapshot()
    assert seen.share < 0.75
    assert seen.eta_seconds is not None
    assert seen.eta_seconds > 2
    clock.now += 1
    assert following.snapshot().share > seen.share


def test_batches_that_are_done_without_a_row_sent_count() -> None:
    following, _ = followed()
    tell(following, "batch_started", batch="file 1", worker="worker 1", files=["a.csv"])
    assert following.snapshot().lanes == (("worker 1", "file 1"),)
    tell(following, "batch_done", batch="file 1", worker="worker 1", rows=ROWS // 2, counts=Counts(), seconds=1.0)
    seen = following.snapshot()
    assert (seen.rows, seen.rows_total, seen.lanes) == (ROWS // 2, ROWS, (("worker 1", ""),))
    assert phase(seen, "send").share == 0.5


def test_a_load_that_is_complete_is_whole_whatever_was_sent() -> None:
    following, _ = followed()
    tell(following, "finished", status="complete", counts=Counts(read=ROWS, unchanged=ROWS), table="t", seconds=1.0)
    seen = following.snapshot()
    assert (seen.share, seen.rows, seen.eta_seconds) == (1.0, ROWS, None)
    assert all(item.share == 1.0 for item in seen.phases)


def test_the_title_says_why_a_load_stands_still_while_triggers_fire(database: str, connection: Connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE t (id bigint PRIMARY KEY); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "RETURN NEW; END $$; CREATE TRIGGER slow BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()"
        )
    following = Following()
    ingest(pa.table({"id": [1]}), "t", "id", database, on_event=following)
    assert "rows of a batch count once their triggers have fired" in following.snapshot().title
    assert "trigger" not in followed()[0].snapshot().title


def test_one_batch_is_one_batch() -> None:
    following, _ = followed()
    following.batches_total = 1
    assert "0 of 1 batch," in in_one_line(following.snapshot()) + ","


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.44, "0.4 s"), (12.3, "12 s"), (185, "3 min 5 s"), (7300, "2 h 1 min")]
)
def test_seconds_are_said_as_people_do(seconds: float, words: str) -> None:
    assert in_time(seconds) == words


def test_the_card_shows_names_as_text() -> None:
    following, _ = followed()
    following.table = "<script>"
    assert "<script>" not in card_html(following.snapshot(), {}, ["<b>"])


def test_a_real_load_is_followed_from_its_first_file_to_its_last_row(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id bigint PRIMARY KEY, v text)")
        cursor.execute("INSERT INTO t SELECT g, 'old' FROM generate_series(1, 50) g")
    files = []
    for number in range(3):
        files.append(tmp_path / f"{number}.csv")
        files[-1].write_text("id,v\n" + "".join(f"{number * 50 + n},{number}\n" for n in range(100)))
    for strategy in ("partitioned", "deterministic", "streaming"):
        following, shares = Following(), []

        def follow(event: Event, following: Following = following, shares: list[float] = shares) -> None:
            following(event)
            shares.append(following.snapshot().share)

        config = ParallelConfig(concurrency=2)
        result = ingest(files, "t", "id", database, strategy=strategy, config=config, on_event=follow)
        seen = following.snapshot()
        assert (seen.status, seen.share, seen.rows, seen.rows_total) == ("complete", 1.0, 300, 300)
        assert result.counts.read == 300
        assert all(0 <= share <= 1 for share in shares)


def test_lines_come_from_the_first_moment_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr("sys.stderr", said)
    monkeypatch.setattr("etl_toolkit.cli.progress.PLAIN_INTERVAL_SECONDS", 0.01)
    with Progress() as progress:
        assert said.getvalue().startswith("0%, starting\n")
        progress(Event("started", {"table": "t", "strategy": "auto"}, "r"))
        progress(Event("phase_started", {"phase": "sources"}, "r"))
        progress(Event("looked", {"bytes": 5, "total_bytes": 10}, "r"))
        deadline = time.monotonic() + 60
        while "look" not in said.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_load_that_runs_in_a_terminal_leaves_no_bar_behind(database: str, connection: Connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id bigint PRIMARY KEY)")
    with Progress() as progress:
        processor = ConflictAwareProcessor(database, on_event=progress)
        with pytest.raises(Exception, match="no such file"):
            processor.plan("no.csv", "t", "id")
    assert progress._live is None
