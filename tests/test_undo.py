"""`undo RUN`: the table as it was before the run, or a refusal that says why and changes nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from etl_toolkit import ConflictAwareProcessor, LoadResult, ParallelConfig
from etl_toolkit.errors import DatabaseError, LedgerError, StoppedError
from etl_toolkit.loading.run import Event
from etl_toolkit.request import load_spec
from etl_toolkit.stopping import Stop

TABLE = "CREATE TABLE t (id int PRIMARY KEY, v text, w numeric)"
FILLED = "INSERT INTO t SELECT g, 'old ' || g, g FROM generate_series(1, 60) g"
STRATEGIES = ("deterministic", "streaming", "full_parallel", "hybrid", "partitioned")

Load = Callable[..., LoadResult]


@pytest.fixture
def rows(connection: Any) -> Callable[[], list[str]]:
    """Every row of `t`, as text, in order."""

    def read() -> list[str]:
        with connection.cursor() as cursor:
            cursor.execute('SELECT t::text FROM t ORDER BY t::text COLLATE "C"')
            return [row[0] for row in cursor.fetchall()]

    return read


@pytest.fixture
def execute(connection: Any) -> Callable[[str], None]:
    def run(statement: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute(statement)

    return run


@pytest.fixture
def processor(database: str) -> ConflictAwareProcessor:
    return ConflictAwareProcessor(database, config=ParallelConfig(concurrency=2, chunk_size=20))


@pytest.fixture
def load(processor: ConflictAwareProcessor, tmp_path: Path) -> Load:
    """Load ranges of ids, a file each, whose values name the file and the call."""
    calls: list[int] = []

    def run(*ranges: range, key: Sequence[str] = ("id",), undoable: bool = True, **options: Any) -> LoadResult:
        calls.append(len(calls))
        files = []
        for number, ids in enumerate(ranges):
            path = tmp_path / f"{len(calls)}_{number}.csv"
            path.write_text("id,v,w\n" + "".join(f"{id_},new {len(calls)}/{number},{id_}.0\n" for id_ in ids))
            files.append(path)
        return processor.load(files, load_spec("t", list(key), undoable=undoable, **options))

    return run


class TestGivesTheTableBack:
    @pytest.mark.parametrize("strategy", STRATEGIES)
    @pytest.mark.parametrize("filled", [False, True], ids=["empty", "filled"])
    def test_after_every_strategy(
        self, load: Load, processor: ConflictAwareProcessor, execute: Any, rows: Any, strategy: str, filled: bool
    ) -> None:
        execute(TABLE)
        if filled:
            execute(FILLED)
        before = rows()
        second = range(100, 150) if strategy == "full_parallel" else range(40, 100)
        result = load(range(30, 70), second, strategy=strategy)
        after = rows()
        done = processor.undo(result.run_id)
        assert (after != before, rows() == before) == (True, True)
        assert done.deleted == result.counts.inserted
        # A row that two files of one run wrote is given back once.
        kept = len({*range(30, 70), *second} & set(range(1, 61))) if filled else 0
        assert done.restored == kept

    def test_after_files_loaded_as_one_transaction(
        self, load: Load, processor: ConflictAwareProcessor, execute: Any, rows: Any
    ) -> None:
        execute(TABLE)
        execute(FILLED)
        before = rows()
        result = load(range(50, 70), range(55, 80), atomic=True, strategy="deterministic")
        processor.undo(result.run_id)
        assert rows() == before

    @pytest.mark.parametrize(
        ("table", "key"),
        [
            ("CREATE TABLE t (id int, v text, w numeric); CREATE UNIQUE INDEX ON t (id) WHERE w > 0", ["id"]),
            ("CREATE TABLE t (id text, v text, w numeric); CREATE UNIQUE INDEX ON t (lower(id))", ["id"]),
            (
                "CREATE TABLE t (id int, v text, w numeric, PRIMARY KEY (id, v)) PARTITION BY HASH (id);"
                "CREATE TABLE t0 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
                "CREATE TABLE t1 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
                ["id", "v"],
            ),
            (
                "CREATE TABLE t (n int GENERATED ALWAYS AS IDENTITY, id int PRIMARY KEY, v varchar(20), w numeric,"
                " twice numeric GENERATED ALWAYS AS (w * 2) STORED, j json DEFAULT '{\"a\": [1, 2]}', b bytea DEFAULT '\\x00')",
                ["id"],
            ),
            ('CREATE TABLE t (w numeric, "drop" int, v text, id int PRIMARY KEY); ALTER TABLE t DROP "drop"', ["id"]),
        ],
        ids=["partial index", "expression index", "partitioned", "identity and generated", "dropped column"],
    )
    def test_of_every_kind_of_table(
        self, load: Load, processor: ConflictAwareProcessor, execute: Any, rows: Any, table: str, key: list[str]
    ) -> None:
        execute(table)
        execute("INSERT INTO t (id, v, w) SELECT g, 'old', g FROM generate_series(1, 60) g")
        before = rows()
        result = load(range(30, 90), key=key)
        assert rows() != before
        processor.undo(result.run_id)
        assert rows() == before

    def test_where_the_run_stopped_half_way(self, database: str, execute: Any, rows: Any, tmp_path: Path) -> None:
        execute(TABLE)
        execute(FILLED)
        before = rows()
        stop = Stop()

        def stop_after_the_first(event: Event) -> None:
            if event.name == "batch_done":
                stop.set()

        files = []
        for number, ids in enumerate((range(50, 70), range(60, 80))):
            files.append(tmp_path / f"{number}.csv")
            files[-1].write_text("id,v,w\n" + "".join(f"{id_},new {number},1\n" for id_ in ids))
        processor = ConflictAwareProcessor(database, on_event=stop_after_the_first)
        with pytest.raises(StoppedError):
            processor.load(files, load_spec("t", "id", strategy="deterministic", undoable=True), stop)
        half_way = rows()
        execute("SELECT 1")
        with psycopg2.connect(database) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT run_id, status FROM etl_toolkit.runs")
            run_id, status = cursor.fetchone()
        connection.close()
        processor.undo(run_id)
        assert (status, half_way != before, rows() == before) == ("interrupted", True, True)

    def test_of_one_run_after_the_other_the_latest_first(
        self, load: Load, processor: ConflictAwareProcessor, execute: Any, rows: Any
    ) -> None:
        execute(TABLE)
        execute(FILLED)
        states, runs = [rows()], []
        for start in (40, 50, 55):
            runs.append(load(range(start, start + 30)).run_id)
            states.append(rows())
        seen = []
        for run in reversed(runs):
            processor.undo(run)
            seen.append(rows())
        assert seen == states[-2::-1]

    def test_only_in_appearance_on_a_dry_run(
        self, load: Load, processor: ConflictAwareProcessor, execute: Any, rows: Any
    ) -> None:
        execute(TABLE)
        execute(FILLED)
        result = load(range(50, 70))
        after = rows()
        would = processor.undo(result.run_id, dry_run=True)
        assert (would.deleted, would.restored, would.dry_run, rows() == after) == (9, 11, True, True)
        assert processor.undo(result.run_id).restored == 11

    def test_of_a_load_that_only_inserted_even_where_it_was_not_asked_to_be_undoable(
        self, load: Load, processor: ConflictAwareProcessor, execute: Any, rows: Any
    ) -> None:
        execute(TABLE)
        result = load(range(1, 30), undoable=False)
        execute("INSERT INTO t VALUES (1000, 'somebody else''s', 1)")
        processor.undo(result.run_id)
        assert rows() == ['(1000,"somebody else\'s",1)']


class TestRefuses:
    """A refusal names the reason, and leaves every row as it is."""

    def refusal(self, processor: ConflictAwareProcessor, run_id: str, rows: Any, **options: Any) -> str:
        before = rows()
        with pytest.raises(LedgerError) as error:
            processor.undo(run_id, **options)
        assert rows() == before
        return str(error.value)

    @pytest.mark.parametrize(
        ("change", "count"),
        [
            ("UPDATE t SET v = 'mine' WHERE id IN (52, 65, 66)", "3 of the 20 rows"),
            ("DELETE FROM t WHERE id IN (53, 68)", "2 of the 20 rows"),
            ("UPDATE t SET v = v", "20 of the 20 rows"),
        ],
    )
    def test_rows_that_were_changed_since_and_says_how_many(
        self, load: Load, processor: ConflictAwareProcessor, execute: Any, rows: Any, change: str, count: str
    ) -> None:
        execute(TABLE)
        execute(FILLED)
        result = load(range(50, 70))
        execute(change)
        assert count in self.refusal(processor, result.run_id, rows)

    def test_a_run_that_overwrote_rows_without_keeping_them(
        self, load: Load, processor: ConflictAwareProcessor, execute: Any, rows: Any
    ) -> None:
        execute(TABLE)
        execute(FILLED)
        result = load(range(50, 70), undoable=False)
        assert "overwrote 11 rows without keeping them" in self.refusal(processor, result.run_id, rows)

    def test_an_older_run_before_the_later_one(
        self, load: Load, processor: ConflictAwareProcessor, execute: Any, rows: Any
    ) -> None:
        execute(TABLE)
        first, second = load(range(1, 20)), load(range(100, 120))
        assert f"run {second.run_id} has loaded into public.t" in self.refusal(processor, first.run_id, rows)
        assert processor.undo(first.run_id, force=True).deleted == 19

    def test_to_undo_twice(self, load: Load, processor: ConflictAwareProcessor, execute: Any, rows: Any) -> None:
        execute(TABLE)
        result = load(range(1, 20))
        processor.undo(result.run_id)
        assert "was already undone" in self.refusal(processor, result.run_id, rows)

    def test_a_run_there_never_was(
        self, load: Load, processor: ConflictAwareProcessor, execute: Any, rows: Any
    ) -> None:
        execute(TABLE)
        load(range(1, 20))
        assert "there is no run 20200101T000000-000000" in self.refusal(processor, "20200101T000000-000000", rows)

    def test_a_table_whose_columns_have_changed(
        self, load: Load, processor: ConflictAwareProcessor, execute: Any, rows: Any
    ) -> None:
        execute(TABLE)
        result = load(range(1, 20))
        execute("ALTER TABLE t ADD extra int")
        assert "the columns of public.t have changed" in self.refusal(processor, result.run_id, rows)

    def test_a_table_that_was_recreated(
        self, load: Load, processor: ConflictAwareProcessor, execute: Any, rows: Any
    ) -> None:
        execute(TABLE)
        result = load(range(1, 20))
        execute(f"DROP TABLE t; {TABLE}")
        assert "was dropped since" in self.refusal(processor, result.run_id, rows)

    def test_a_table_that_was_copied_row_by_row(
        self, load: Load, processor: ConflictAwareProcessor, execute: Any, rows: Any
    ) -> None:
        """After a dump and restore no row carries the number of its transaction any more."""
        execute(TABLE)
        result = load(range(1, 20))
        execute("CREATE TABLE copy AS SELECT * FROM t; TRUNCATE t; INSERT INTO t SELECT * FROM copy")
        assert "19 of the 19 rows" in self.refusal(processor, result.run_id, rows)

    def test_to_delete_rows_of_other_tables_along(
        self, load: Load, processor: ConflictAwareProcessor, execute: Any, rows: Any
    ) -> None:
        execute(TABLE)
        result = load(range(1, 20))
        execute("CREATE TABLE child (t_id int REFERENCES t ON DELETE CASCADE); INSERT INTO child VALUES (3), (3), (4)")
        assert "3 rows of public.child refer to rows" in self.refusal(processor, result.run_id, rows)

    def test_to_break_a_reference(self, load: Load, processor: ConflictAwareProcessor, execute: Any, rows: Any) -> None:
        execute(TABLE)
        result = load(range(1, 20))
        execute("CREATE TABLE child (t_id int REFERENCES t); INSERT INTO child VALUES (3)")
        before = rows()
        with pytest.raises(DatabaseError, match=r"nothing was undone.*SQLSTATE 23503"):
            processor.undo(result.run_id)
        assert rows() == before

    def test_where_a_trigger_would_not_give_the_rows_back_as_they_were(
        self, load: Load, processor: ConflictAwareProcessor, execute: Any, rows: Any
    ) -> None:
        execute(TABLE)
        execute(FILLED)
        execute(
            "CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN NEW.w = NEW.w + 1; RETURN NEW; END $$;"
            "CREATE TRIGGER stamp BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION stamp()"
        )
        result = load(range(50, 70))
        assert "11 of 11 rows would not be restored exactly" in self.refusal(processor, result.run_id, rows)

    def test_while_another_run_holds_the_table(
        self, load: Load, processor: ConflictAwareProcessor, execute: Any, rows: Any, connection: Any
    ) -> None:
        from etl_toolkit.loading import ledger

        execute(TABLE)
        result = load(range(1, 20))
        with connection.cursor() as cursor:
            cursor.execute("SELECT 't'::regclass::oid::bigint")
            ledger.lock_table(connection, cursor.fetchone()[0], "t", wait_seconds=0)
        assert "another run is loading public.t" in self.refusal(processor, result.run_id, rows)


class TestKeepsExactlyWhatItOverwrites:
    def test_a_row_changed_by_another_session_just_before_is_kept_as_that_session_left_it(
        self, load: Load, processor: ConflictAwareProcessor, execute: Any, rows: Any, database: str
    ) -> None:
        """The load waits for the other session's lock, and then must not keep what it saw before."""
        execute(TABLE)
        execute(FILLED)
        other = psycopg2.connect(database)
        with other.cursor() as cursor:
            cursor.execute("UPDATE t SET v = 'theirs' WHERE id = 55")
        releaser = threading.Timer(1.0, other.commit)
        releaser.start()
        result = load(range(50, 70))
        releaser.join()
        other.close()
        processor.undo(result.run_id)
        assert (result.retries, "(55,theirs,55)" in rows()) == (1, True)

    def test_an_undone_run_is_not_resumed(self, load: Load, processor: ConflictAwareProcessor, execute: Any) -> None:
        execute(TABLE)
        result = load(range(1, 20))
        processor.undo(result.run_id)
        with pytest.raises(LedgerError, match="is undone"):
            processor.resume(result.run_id)

    def test_the_same_files_load_again_after_it(
        self, load: Load, processor: ConflictAwareProcessor, execute: Any, rows: Any
    ) -> None:
        execute(TABLE)
        execute(FILLED)
        result = load(range(50, 70))
        after = rows()
        processor.undo(result.run_id)
        again = load(range(50, 70))
        assert (again.counts, [row.replace("new 2", "new 1") for row in rows()]) == (result.counts, after)
