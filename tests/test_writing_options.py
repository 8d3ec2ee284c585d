"""The options of writing: whatever the strategy, the table is what applying the rows one by one, in order, would have left."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from threading import Thread
from typing import Any

import psycopg2
import pyarrow as pa
import pytest
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import make_dsn

from etl_toolkit import ConflictAwareProcessor, Delete, ParallelConfig, ReadOptions, WriteOptions, explain_row, ingest
from etl_toolkit.display import result_warnings
from etl_toolkit.errors import (
    AccountingError,
    LedgerError,
    RejectLimitError,
    TargetError,
    TooManyDeletesError,
    UnknownColumnError,
    UnsafeStrategyError,
)
from etl_toolkit.loading import failpoints
from etl_toolkit.model import LoadResult, SoftDelete
from etl_toolkit.request import load_spec
from tests.fault_worker import nth
from tests.oracle import Replay, Rows, differing_rows, write

STRATEGIES = ("auto", "full_parallel", "hybrid", "deterministic", "streaming", "partitioned")
CONFIG = ParallelConfig(chunk_size=7, sub_batch_size=5, concurrency=2)
SEEDS = int(os.environ.get("WRITING_SEEDS", "3"))  # a load takes a third of a second
COLUMNS = ("id", "op", "name", "amount", "made", "version")
OUTCOMES = (
    "inserted", "updated", "unchanged", "superseded_same_file", "superseded_later_file", "rejected", "stale", "deleted", "absent",
)  # fmt: skip
DDL = (
    "(id {key} PRIMARY KEY, name text, amount numeric(10, 2), made text, version bigint, note text DEFAULT 'new', "
    "gone_at timestamptz, source text, batch text)"
)
DELETE = {"delete": Delete("op", ("D",))}
SOFT = {"delete": Delete("op", ("D",), soft="gone_at")}

# Options of the load, and those of the oracle.
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "delete": (DELETE, {}),
    "delete newer": (DELETE, {"action": "newer", "order_by": "version"}),
    "delete ordered": (DELETE, {"order_by": "version"}),
    "delete ignore": (DELETE, {"action": "ignore"}),
    "soft": (SOFT, {}),
    "soft newer": (SOFT, {"action": "newer", "order_by": "version"}),
    "update": ({"update": ("name", "amount")}, {}),
    "insert only": ({"insert_only": ("made",)}, {}),
    "insert only newer": ({"insert_only": ("made",)}, {"action": "newer", "order_by": "version"}),
    "nulls": ({"nulls": "keep"}, {}),
    "nulls, insert only, delete": ({"nulls": "keep", "insert_only": ("made",), **DELETE}, {}),
    "rows update": ({"rows": "update"}, {}),
    "rows update, nulls, delete": ({"rows": "update", "nulls": "keep", **DELETE}, {}),
    "rows insert": ({"rows": "insert"}, {}),
    "rows insert, delete": ({"rows": "insert", **DELETE}, {}),
    "set, nulls, missing soft": (
        {"set": {"batch": "b1", "source": "$file"}, "nulls": "keep", "missing": SoftDelete("gone_at")},
        {},
    ),
    "update, batch": ({"update": ("amount",), "set": {"batch": "b1"}}, {}),
    "set": ({"set": {"batch": "b1", "source": "$file"}}, {}),
    "set, delete": ({"set": {"batch": "b1"}, **DELETE}, {}),
    "missing": ({"missing": "delete"}, {}),
    "missing soft, delete": ({"missing": SoftDelete("gone_at"), **DELETE}, {}),
    "missing in scope": ({"missing": "delete", "scope": "mod(id, 2) = 0 AND note = 'old'"}, {}),
    "set, soft, nulls": ({"set": {"batch": "b1"}, "nulls": "keep", **SOFT}, {}),
}


# Where a load ends that is resumed: strategy and failpoint.
ENDS = (
    ("deterministic", "committed"), ("partitioned", "committed"), ("streaming", "committed"), ("auto", "completed"),
    ("partitioned", "finishing"),
)  # fmt: skip


def files_of(seed: int, *, marked: bool) -> list[Rows]:
    """Some files of few keys, many of them NULL in one column or another; where rows are `marked`, some delete their key."""
    chance = random.Random(seed)  # noqa: S311 - the same files every time
    keys = chance.choice((4, 12, 40))
    contents = []
    for number in range(chance.choice((1, 2, 3, 4))):
        rows = []
        for place in range(chance.choice((1, 8, 25))):
            op = chance.choices(("I", "D"), (3, 1))[0]
            values: list[str | None] = [
                chance.choice((f"n{number}", f"n{place}", "same", None)), chance.choice(("1.00", "2.50", None)),
                chance.choice((f"m{number}.{place}", None)), chance.choice(("1", "2", "3", "4", None)),
            ]  # fmt: skip
            key = str(chance.randrange(keys) + number * chance.choice((0, 0, 50)))
            rows.append((key, op, *values) if marked else (key, *values))
        contents.append(Rows(COLUMNS if marked else ("id", *COLUMNS[2:]), tuple(rows)))
    return contents


def spoil(contents: list[Rows], seed: int) -> tuple[list[Rows], list[Rows]]:
    """The files with some values that no number is, and without the rows that are rejected for them: of a tombstone, none is."""
    chance = random.Random(seed)  # noqa: S311 - the same files every time
    spoilt, good = [], []
    for content in contents:
        at = content.columns.index("amount")
        rows = [(*row[:at], "much", *row[at + 1 :]) if chance.random() < 0.15 else row for row in content.rows]
        is_taken = [row[at] != "much" or ("op" in content.columns and row[1] == "D") for row in rows]
        spoilt.append(replace(content, rows=tuple(rows)))
        good.append(replace(content, rows=tuple(row for row, taken in zip(rows, is_taken, strict=True) if taken)))
    return spoilt, good


def respell(contents: list[Rows], seed: int) -> list[Rows]:
    """The files with some keys spelled as decimals."""
    chance = random.Random(seed)  # noqa: S311 - the same files every time
    return [
        replace(content, rows=tuple((f"{row[0]}{chance.choice(('', '.0'))}", *row[1:]) for row in content.rows))
        for content in contents
    ]


def expect(connection: Connection, contents: list[Rows], options: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    """Let the oracle load `expected`."""
    delete, missing = options.get("delete"), options.get("missing")
    soft = missing.soft if isinstance(missing, SoftDelete) else None
    Replay(
        "expected", "id", mark=delete and delete.column, soft=delete and delete.soft, cleared=soft,
        missing="soft" if soft else missing, scope=options.get("scope", "true"),
        update=options.get("update"), insert_only=options.get("insert_only", ()), rows=options.get("rows", "all"),
        keeps_nulls=options.get("nulls") == "keep", set=options.get("set", {}), **told,
    ).load(connection, contents)  # fmt: skip


def fill(connection: Connection, ddl: str, seed: int) -> None:
    with connection.cursor() as cursor:
        for name in ("loaded", "expected"):
            cursor.execute(f"DROP TABLE IF EXISTS {name}; CREATE TABLE {name} {ddl}")
            if seed % 3:
                cursor.execute(
                    f"INSERT INTO {name} SELECT g, 'same', CASE WHEN g % 2 = 0 THEN 2.5 END, 'before', g % 5, 'old', "
                    f"CASE WHEN g % 4 = 0 THEN '-infinity'::timestamptz END, 's', 'b0' FROM generate_series(0, 20) g"
                )


def plain_marks(connection: Connection, options: Mapping[str, Any]) -> None:
    """Leave out of the table what the oracle does not know: when a row was marked, and the directory of a file."""
    with connection.cursor() as cursor:
        cursor.execute("UPDATE loaded SET gone_at = '-infinity' WHERE gone_at IS NOT NULL")
        if "source" in options.get("set", {}):
            cursor.execute(
                "UPDATE loaded SET source = substring(source FROM '([0-9]+)(\\.csv|\\.parquet)?$') WHERE source <> 's'"
            )


def check_balance(result: LoadResult, contents: list[Rows]) -> None:
    """The counts add up, by arithmetic of our own."""
    assert result
    for counts, content in zip(result.files.values(), contents, strict=True):
        found = asdict(counts)
        assert found["read"] == len(content.rows) == sum(found[name] for name in OUTCOMES), found
        assert min(found.values()) >= 0, found


@pytest.mark.parametrize("key", ["int", "numeric"])
@pytest.mark.parametrize("name", OPTIONS)
def test_every_strategy_leaves_what_the_rows_leave_one_by_one(
    shared: tuple[str, Connection], tmp_path: Path, name: str, key: str
) -> None:
    dsn, connection = shared
    options, told = OPTIONS[name]
    loaded = 0
    for seed in range(SEEDS):
        contents = good = files_of(seed, marked="delete" in options)
        if seed % 2 and "missing" not in options:  # a mirror deletes nothing if rows are rejected
            contents, good = spoil(contents, seed)
        forms = ("csv", "quoted", "parquet", "csv" if "set" in options else "frame")  # a frame has a name of its own
        directory = tmp_path / str(seed)
        directory.mkdir()
        files = [write(content, directory, f"{n}", forms[(seed + n) % 4]) for n, content in enumerate(contents)]  # type: ignore[arg-type]
        others = STRATEGIES[:5] if key == "int" else ("deterministic",)
        for strategy in ("partitioned", others[(seed + len(name)) % len(others)]):
            fill(connection, DDL.format(key=key), seed)
            try:
                result = ingest(
                    files, "loaded", "id", dsn, strategy=strategy, config=CONFIG, order_by=told.get("order_by"),  # type: ignore[arg-type]
                    on_conflict=told.get("action", "update"), write=WriteOptions(**options, max_deletes=1.0), max_rejects=1000,
                )  # fmt: skip
            except UnsafeStrategyError:
                assert strategy in ("full_parallel", "hybrid", "partitioned")
                continue
            expect(connection, good, options, told)
            plain_marks(connection, options)
            assert differing_rows(connection, "loaded", "expected") == [], (seed, strategy, result.reasons)
            check_balance(result, contents)
            assert result.counts.rejected == sum(len(content.rows) for content in contents) - sum(
                len(content.rows) for content in good
            )
            loaded += 1
    assert loaded > SEEDS // 2


def end() -> None:
    raise RuntimeError("the process ends here")


@pytest.mark.parametrize(("name", "seed"), [(name, seed) for seed, name in enumerate(OPTIONS)])
def test_a_load_that_ends_midway_is_resumed_with_its_options(
    shared: tuple[str, Connection], tmp_path: Path, name: str, seed: int
) -> None:
    dsn, connection = shared
    options, told = OPTIONS[name]
    strategy, point = ENDS[seed % len(ENDS)]
    strategy = "auto" if "set" in options else strategy  # they may be loaded in order only
    contents = [content for more in (seed, seed + 40) for content in files_of(more, marked="delete" in options)]
    files = [write(content, tmp_path, f"{n}", "csv") for n, content in enumerate(contents)]
    fill(connection, DDL.format(key="int"), seed)
    with failpoints.installed({point: nth(1, end)}), pytest.raises(RuntimeError):
        ingest(
            files, "loaded", "id", dsn, strategy=strategy, config=CONFIG, order_by=told.get("order_by"),  # type: ignore[arg-type]
            on_conflict=told.get("action", "update"), write=WriteOptions(**options, max_deletes=1.0),
        )  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute("SELECT run_id FROM etl_toolkit.runs ORDER BY started_at DESC LIMIT 1")
        result = ConflictAwareProcessor(dsn, config=CONFIG).resume(cursor.fetchone()[0])
    expect(connection, contents, options, told)
    plain_marks(connection, options)
    assert differing_rows(connection, "loaded", "expected") == [], (strategy, point, result.reasons)
    check_balance(result, contents)


@pytest.mark.parametrize("order", [
    "op id name amount", "id op name amount", "id name amount op", "x op id name amount y", "y id name amount x op x",
    "id name amount x", "x y id name amount",
])  # fmt: skip
def test_fields_in_front_of_a_record_and_behind_it_are_no_part_of_it(
    shared: tuple[str, Connection], tmp_path: Path, order: str
) -> None:
    """The mark of tombstones, and columns `x` and `y` that the table lacks."""
    dsn, connection = shared
    fill(connection, DDL.format(key="int"), 1)
    chance = random.Random(order)  # noqa: S311 - the same files every time
    values = {
        "op": ("D", "gone since a while", None, "U", "Dé"), "x": ("", "long" * 9, "D"), "y": (None, "é"),
        "name": ("é", None, "n"), "amount": ("1.00", None),
    }  # fmt: skip
    columns = [f"{name}{at}" if name == "x" else name for at, name in enumerate(order.split())]

    def row(**fields: str) -> tuple[str | None, ...]:
        found = {
            "id": str(chance.randrange(12)),
            **{name: chance.choice(some) for name, some in values.items()},
            **fields,
        }
        return tuple(found[name.rstrip("0123456789")] for name in columns)

    contents = [Rows(tuple(columns), tuple(row() for _ in range(20))) for _ in range(2)]
    files = [write(content, tmp_path, str(n), "csv") for n, content in enumerate(contents)]
    with files[1].open("a") as stream:  # the last line of the file, without its end
        stream.write(",".join(text or "" for text in row(id="77", amount="much", op="U")))
    is_marked = "op" in columns
    result = ingest(
        files, "loaded", "id", dsn, strategy="partitioned", config=CONFIG, max_rejects=1, extra_columns="ignore",
        write=WriteOptions(delete=Delete("op", ("D", "gone since a while")) if is_marked else None),
    )  # fmt: skip
    known = [at for at, name in enumerate(columns) if name[0] not in "xy"]
    kept = [
        Rows(tuple(columns[at] for at in known), tuple(tuple(values[at] for at in known) for values in content.rows))
        for content in contents
    ]
    Replay("expected", "id", mark="op" if is_marked else None, marks=("D", "gone since a while")).load(connection, kept)
    assert differing_rows(connection, "loaded", "expected") == []
    assert [(item.line, item.raw) for item in result.rejects] == [(22, files[1].read_text().splitlines()[-1])]


@pytest.mark.parametrize("strategy", ["deterministic", "partitioned"])
@pytest.mark.parametrize("name", ["delete", "soft", "rows update, nulls, delete", "missing", "missing soft, delete"])
def test_undo_gives_back_what_was_deleted(
    shared: tuple[str, Connection], tmp_path: Path, name: str, strategy: str
) -> None:
    dsn, connection = shared
    options, _ = OPTIONS[name]
    for seed, key in ((1, "int"), (2, "int"), (4, "int"), (11, "numeric")):
        contents = files_of(seed, marked="delete" in options)
        if key == "numeric":
            contents = respell(contents, seed)
        fill(connection, DDL.format(key=key), seed)
        files = [write(content, tmp_path, f"{seed}_{n}", "csv") for n, content in enumerate(contents)]
        processor = ConflictAwareProcessor(dsn, config=CONFIG)
        spec = load_spec(
            "loaded", "id", strategy=strategy, write=WriteOptions(**options, max_deletes=1.0), undoable=True
        )
        processor.undo(processor.load(files, spec).run_id)
        assert differing_rows(connection, "loaded", "expected") == [], seed


@pytest.mark.parametrize("more", ["", ", name text"])
@pytest.mark.parametrize("dead", ["", "2.0,D\n"])
def test_undo_gives_back_the_spelling_of_a_key_that_was_deleted_and_inserted_anew(
    database: str, connection: Connection, tmp_path: Path, more: str, dead: str
) -> None:
    path = tmp_path / "in.csv"
    path.write_text(f"id,op\n1.0,D\n{dead}1.00,I\n3,I\n")
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE t (id numeric PRIMARY KEY{more}); INSERT INTO t VALUES (1), (2)")
        result = ingest(path, "t", "id", database, write=WriteOptions(**DELETE), undoable=True)
        cursor.execute("SELECT id::text FROM t ORDER BY id")
        assert [text for (text,) in cursor.fetchall()] == ["1.00", *([] if dead else ["2"]), "3"]
        ConflictAwareProcessor(database).undo(result.run_id)
        cursor.execute("SELECT id::text FROM t ORDER BY id")
        assert [text for (text,) in cursor.fetchall()] == ["1", "2"]


@pytest.fixture
def mirrored(database: str, connection: Connection, tmp_path: Path) -> Callable[..., LoadResult]:
    """Load files of these ids into a table of the keys 0 to 99, as a mirror."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, region text)")
        cursor.execute("INSERT INTO t SELECT g, CASE WHEN g < 50 THEN 'eu' ELSE 'us' END FROM generate_series(0, 99) g")

    def load(ids: Iterable[object], name: str = "in.csv", *, max_rejects: int = 0, **options: Any) -> LoadResult:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("id\n" + "".join(f"{key}\n" for key in ids))
        write = WriteOptions(**{"missing": "delete", **options})
        return ingest(path, "t", "id", database, write=write, max_rejects=max_rejects, config=CONFIG)

    return load


def count(connection: Connection) -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM t")
        return int(cursor.fetchone()[0])


def test_a_few_keys_are_deleted_without_reading_the_table(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    path = tmp_path / "in.csv"
    path.write_text("id,name,op\n" + "".join(f"{key},,D\n" for key in range(7, 100_000, 5_000)))
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, name text)")
        cursor.execute("INSERT INTO t SELECT g, repeat('x', 100) FROM generate_series(1, 100000) g")
        cursor.execute("VACUUM ANALYZE t")

        def read() -> tuple[int, int]:
            cursor.execute("SELECT seq_tup_read, idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 't'")
            return cursor.fetchone()

        assert ingest(path, "t", "id", database, write=WriteOptions(**DELETE)).counts.deleted == 20
        until = time.monotonic() + 10
        while not read()[1] and time.monotonic() < until:  # a session reports what it has read when it ends
            time.sleep(0.01)
        scanned, looked_up = read()
        assert (scanned < 100, looked_up) == (True, 20)


def test_too_many_missing_keys_stop_the_load_before_it_writes(
    mirrored: Callable[..., LoadResult], connection: Connection
) -> None:
    with pytest.raises(
        TooManyDeletesError, match=r"11 of 100 keys of public.t \(11%\) are in no file, and max_deletes allows 10"
    ):
        mirrored(range(11, 120))
    assert count(connection) == 100
    assert mirrored(range(11, 120), max_deletes=11).counts.removed == 11
    assert count(connection) == 109


@pytest.mark.parametrize(("ids", "options"), [([], {}), ([*range(95), "bad"], {"max_rejects": 1})])
def test_no_rows_and_rejected_rows_delete_nothing(
    mirrored: Callable[..., LoadResult], connection: Connection, ids: list[object], options: dict[str, Any]
) -> None:
    result = mirrored(ids, max_deletes=1.0, **options)
    assert (result.counts.removed, count(connection)) == (0, 100)
    assert [note for note in result_warnings(result) if "no key was deleted" in note]


def test_a_mirror_keeps_to_the_directories_of_its_files(
    mirrored: Callable[..., LoadResult], connection: Connection
) -> None:
    assert mirrored(range(48), "region=eu/in.csv", scope="$path").counts.removed == 2
    assert count(connection) == 98


@pytest.mark.parametrize("key", ["int", "numeric"])
def test_a_mirror_counts_neither_marked_rows_nor_those_without_a_key(
    database: str, connection: Connection, tmp_path: Path, key: str
) -> None:
    path = tmp_path / "in.csv"
    path.write_text("id\n" + "".join(f"{key}\n" for key in range(55)))
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE t (id {key} UNIQUE, gone boolean)")
        cursor.execute("INSERT INTO t SELECT nullif(g, 99), g >= 60 FROM generate_series(0, 99) g")
        cursor.execute("INSERT INTO t SELECT NULL FROM generate_series(0, 99) g")
    mirror = WriteOptions(missing=SoftDelete("gone"))
    assert ingest(path, "t", "id", database, write=mirror).counts.removed == 5
    with pytest.raises(TooManyDeletesError, match="44 of 99 keys"):
        ingest(path, "t", "id", database, write=WriteOptions(missing="delete"))


@pytest.mark.parametrize("key", ["int", "numeric"])
def test_a_key_that_is_no_value_is_rejected_from_a_mirror_too(
    database: str, connection: Connection, tmp_path: Path, key: str
) -> None:
    path = tmp_path / "in.csv"
    path.write_text("id\n1\nbad\n")
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE t (id {key} PRIMARY KEY); INSERT INTO t VALUES (2), (3)")
    result = ingest(path, "t", "id", database, write=WriteOptions(missing="delete", max_deletes=2), max_rejects=1)
    assert (result.counts.inserted, result.counts.rejected, count(connection)) == (1, 1, 3)


@pytest.mark.parametrize("rows", ["update", "all"])
def test_a_row_that_another_session_makes_newer_meanwhile_stays(
    database: str, connection: Connection, tmp_path: Path, rows: Any
) -> None:
    path = tmp_path / "in.csv"
    path.write_text("id,version,name\n1,5,ours\n2,5,ours\n")
    with connection.cursor() as cursor, psycopg2.connect(database) as other, other.cursor() as theirs:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, version int, name text)")
        cursor.execute("INSERT INTO t VALUES (1, 1, 'old'), (2, 1, 'old')")
        theirs.execute("UPDATE t SET version = 9, name = 'theirs' WHERE id = 2")

        def commit_once_waited_for() -> None:
            for _ in range(300):
                cursor.execute("SELECT FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'")
                if cursor.rowcount:
                    break
                time.sleep(0.05)
            other.commit()

        waiter = Thread(target=commit_once_waited_for)
        waiter.start()
        write = WriteOptions(rows=rows)
        result = ingest(path, "t", "id", database, order_by="version", on_conflict="newer", write=write)
        waiter.join()
        cursor.execute("SELECT t::text FROM t ORDER BY id")
        assert cursor.fetchall() == [("(1,5,ours)",), ("(2,9,theirs)",)]
        if rows == "update":
            assert (result.counts.updated, result.counts.stale) == (1, 1)


@pytest.mark.parametrize(
    ("guard", "options"),
    [
        ("policy", {"rows": "update"}),
        ("policy", DELETE),
        ("policy", SOFT),
        ("policy", {"missing": "delete", "max_deletes": 1}),
        ("trigger", {"rows": "update"}),
    ],
)
def test_what_a_policy_or_a_trigger_silently_keeps_is_not_counted_as_written(
    database: str, connection: Connection, tmp_path: Path, guard: str, options: dict[str, Any]
) -> None:
    path = tmp_path / "in.csv"
    name = "old" if "missing" in options else "new"
    path.write_text(f"id,name,op\n1,{name},D\n2,{name},D\n")
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, name text, gone_at timestamptz)")
        cursor.execute("INSERT INTO t VALUES (1, 'old'), (2, 'old'), (3, 'old')")
        if guard == "trigger":
            cursor.execute("CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
            cursor.execute("CREATE TRIGGER f BEFORE UPDATE ON t FOR EACH ROW WHEN (NEW.id = 2) EXECUTE FUNCTION f()")
        else:
            cursor.execute("ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY seen ON t FOR SELECT USING (true)")
            cursor.execute("CREATE POLICY added ON t FOR INSERT WITH CHECK (true)")
            cursor.execute("CREATE POLICY changed ON t FOR UPDATE USING (id = 1)")
            cursor.execute("CREATE POLICY deleted ON t FOR DELETE USING (id = 1)")
        role = f"loader_{connection.info.dbname}"
        cursor.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'; GRANT ALL ON t TO {role}")
        cursor.execute(f"GRANT CREATE, TEMPORARY ON DATABASE {connection.info.dbname} TO {role}")
    dsn = make_dsn(database, user=role, password="x")
    write = WriteOptions(**{"new_columns": "ignore", **options})
    with pytest.raises(AccountingError):
        ingest(path, "t", "id", dsn, write=write)


def test_the_plan_predicts_no_insert_of_rows_that_are_only_updated(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    path = tmp_path / "in.csv"
    path.write_text("id\n1.0\n2\n")
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id numeric PRIMARY KEY)")
    assert (
        ConflictAwareProcessor(database).plan(path, "t", "id", write=WriteOptions(rows="update")).predicted_inserts == 0
    )


@pytest.mark.parametrize(
    ("options", "action"),
    [
        ({}, "update"), ({}, "ignore"), ({}, "newer"), (SOFT, "update"), ({"delete": Delete("op", ("D",), soft="is_gone")}, "newer"),
        ({"missing": SoftDelete("gone_at")}, "update"), ({"rows": "update"}, "update"), ({"nulls": "keep"}, "update"),
    ],
)  # fmt: skip
def test_the_plan_predicts_what_the_load_does(
    database: str, connection: Connection, tmp_path: Path, options: dict[str, Any], action: str
) -> None:
    path = tmp_path / "in.csv"
    path.write_text("id,name,version,op\n1,new,2,\n2,old,1,\n3,old,1,\n4,,0,\n5,new,1,\n6,new,1,D\n")
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, name text, version int, gone_at timestamptz, is_gone bool)")
        cursor.execute(
            "INSERT INTO t SELECT g, 'old', 1, CASE g WHEN 3 THEN now() END, g = 3 FROM generate_series(1, 4) g"
        )
    order_by = "version" if action == "newer" else None
    given: dict[str, Any] = {
        "write": WriteOptions(**options, new_columns="ignore", max_deletes=1.0), "on_conflict": action, "order_by": order_by,
        "strategy": "partitioned",
    }  # fmt: skip
    plan = ConflictAwareProcessor(database).plan(path, "t", "id", **given)
    counts = ingest(path, "t", "id", database, **given).counts
    assert (plan.predicted_inserts, plan.predicted_updates, plan.predicted_unchanged) == (
        counts.inserted, counts.updated, counts.unchanged + counts.stale
    )  # fmt: skip


def test_new_columns_are_added_planned_and_can_be_typed(database: str, connection: Connection, tmp_path: Path) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, name text); INSERT INTO t VALUES (1, 'old'), (2, 'kept')")
        path = tmp_path / "in.csv"
        path.write_text("id,name,price,seen,Code,op\n1,new,1.50,2026-01-02,7,U\n2,,,,,D\n")
        write = WriteOptions(new_columns="add", types={"code": "smallint"}, delete=Delete("op", ("D",)))
        plan = ConflictAwareProcessor(database).plan(path, "t", "id", write=write)
        assert any("columns would be added: ALTER TABLE" in reason for reason in plan.reasons)
        cursor.execute("SELECT count(*) FROM information_schema.columns WHERE table_name = 't'")
        assert cursor.fetchone() == (2,)
        result = ingest(path, "t", "id", database, write=write)
        assert "ADD COLUMN" in str(result.created_sql)
        cursor.execute(
            "SELECT attname || ' ' || atttypid::regtype FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 2"
        )
        assert [row[0] for row in cursor.fetchall()] == ["price numeric", "seen date", "Code smallint"]
        cursor.execute("SELECT t::text FROM t")
        assert cursor.fetchall() == [("(1,new,1.50,2026-01-02,7)",)]
        path.write_text("id,name,other\n3,x,y\n")
        assert ingest(path, "t", "id", database, write=WriteOptions(new_columns="ignore")).counts.inserted == 1
        with pytest.raises(UnknownColumnError, match=r"column 'other' is not in public\.t"):
            ingest(path, "t", "id", database)


def column_types(connection: Connection, table: str = "t") -> dict[str, str]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = %s::regclass "
            "AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            (table,),
        )
        return dict(cursor.fetchall())


def test_narrow_columns_are_widened_on_request(database: str, connection: Connection, tmp_path: Path) -> None:
    types = {
        "id": "integer",
        "a": "smallint",
        "b": "integer",
        "c": "bigint",
        "d": "character varying(3)",
        "e": "smallint",
    }
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE t ({', '.join(map(' '.join, types.items()))}, PRIMARY KEY (id), CHECK (a > 0))")
        first, second = tmp_path / "1.csv", tmp_path / "2.csv"
        first.write_text('id,a,b,c,d,e,op\n1,40.000,1,2,"a  ",x,U\n2,1,3000000000,1,vier,1,U\n3,1,1,1,1,99999,D\n')
        second.write_text("id,d,c,op\n2,siebenX,12345678901234567890,U\n")
        given: dict[str, Any] = {"delete": Delete("op", ("D",)), "new_columns": "add"}
        read = ReadOptions(thousands=".", decimal=",")
        with pytest.raises(RejectLimitError):
            ingest([first, second], "t", "id", database, read=read, write=WriteOptions(**given))
        write = WriteOptions(widen=True, **given)
        plan = ConflictAwareProcessor(database).plan([first, second], "t", "id", read=read, write=write, max_rejects=1)
        assert [reason for reason in plan.reasons if reason.startswith("columns would be widened: ALTER TABLE")]
        assert column_types(connection) == types
        result = ingest([first, second], "t", "id", database, read=read, write=write, max_rejects=1)
        assert [(item.record, item.sqlstate) for item in result.rejects] == [
            (0, "22P02")
        ]  # x is no integer of any width
        wider = {"a": "integer", "b": "bigint", "c": "numeric", "d": "character varying(12)"}
        assert column_types(connection) == types | wider
        cursor.execute("SELECT t::text FROM t")
        assert cursor.fetchall() == [("(2,1,3000000000,12345678901234567890,siebenX,1)",)]
        assert ingest([first, second], "t", "id", database, read=read, write=write, max_rejects=1).created_sql is None


def test_a_widened_column_keeps_its_collation_default_and_rules(database: str, connection: Connection) -> None:
    frame = pa.table({"id": [1, 2], "n": [3_000_000_000, 2], "d": ["vierzehn", None]})
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE t (id int PRIMARY KEY, n serial NOT NULL, d varchar(3) COLLATE \"C\" DEFAULT 'x' CHECK (d <> 'bad'))"
        )
        assert ingest(frame, "t", "id", database, write=WriteOptions(widen=True)).counts.inserted == 2
        assert column_types(connection) == {"id": "integer", "n": "bigint", "d": "character varying(12)"}
        cursor.execute("SELECT collation_name, column_default FROM information_schema.columns WHERE column_name = 'd'")
        assert cursor.fetchone() == ("C", "'x'::character varying")
        cursor.execute("INSERT INTO t (id) VALUES (3) RETURNING t::text")
        assert cursor.fetchone() == ("(3,1,x)",)
        with pytest.raises(RejectLimitError):
            ingest(pa.table({"id": [4], "n": [1], "d": ["bad"]}), "t", "id", database, write=WriteOptions(widen=True))


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ("CREATE VIEW v AS SELECT a FROM t", r"rule _RETURN on view v"),
        ("CREATE INDEX i ON t (a)", r"index i"),
        ("CREATE INDEX i ON t ((a + 1)) WHERE a > 2", r"index i"),
        ("ALTER TABLE t ADD g int GENERATED ALWAYS AS (a + 1) STORED", r".* column g of table t"),
        ("CREATE TABLE r (a smallint PRIMARY KEY); ALTER TABLE t ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES r", r"constraint f on table t"),
        ("DROP TABLE t; CREATE TABLE t (id int, a smallint, PRIMARY KEY (id, a)) PARTITION BY LIST (a)", r".*t(_pkey on table t)?"),
        ("CREATE TABLE p (a smallint); DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY) INHERITS (p)", r"the table that it is inherited from"),
    ],
)  # fmt: skip
def test_a_column_on_which_something_depends_is_not_widened(
    database: str, connection: Connection, tmp_path: Path, more: str, what: str
) -> None:
    path = tmp_path / "in.csv"
    path.write_text("id,a\n1,40000\n")
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE t (id int PRIMARY KEY, a smallint DEFAULT 1 NOT NULL); {more}")
    key = ["id", "a"] if "PARTITION" in more else "id"
    with pytest.raises(
        TargetError, match=rf"column 'a' of public\.t is smallint, and its values need integer; .* because {what}"
    ):
        ingest(path, "t", key, database, write=WriteOptions(widen=True))
    assert column_types(connection)["a"] == "smallint"


def test_undo_drops_the_columns_that_the_run_added(database: str, connection: Connection, tmp_path: Path) -> None:
    processor, write = ConflictAwareProcessor(database), WriteOptions(new_columns="add")
    first, second = tmp_path / "1.csv", tmp_path / "2.csv"
    first.write_text("id,a\n1,old\n")
    second.write_text("id,a,b\n1,new,5\n2,two,6\n")
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (7)")
        runs = [
            processor.load(path, load_spec("t", "id", write=write, undoable=True)).run_id for path in (first, second)
        ]
        cursor.execute("UPDATE t SET b = 1 WHERE id = 7")
        with pytest.raises(
            LedgerError, match=r"column 'b' of public\.t, which the run added, has 1 values that others wrote"
        ):
            processor.undo(runs[1])
        cursor.execute("UPDATE t SET b = NULL WHERE id = 7; CREATE INDEX i ON t (b)")
        with pytest.raises(LedgerError, match=r"index i depends on column 'b' of public\.t, which the run added"):
            processor.undo(runs[1])
        cursor.execute("DROP INDEX i")
        assert processor.undo(runs[1], dry_run=True).dropped == ("b",)
        assert column_types(connection) == {"id": "integer", "a": "text", "b": "bigint"}
        assert processor.undo(runs[1]).dropped == ("b",)
        cursor.execute("SELECT t::text FROM t ORDER BY id")
        assert cursor.fetchall() == [("(1,old)",), ("(7,)",)]
        assert processor.undo(runs[0]).dropped == ("a",)
        cursor.execute("SELECT t::text FROM t ORDER BY id")
        assert cursor.fetchall() == [("(7)",)]


def test_undo_makes_widened_columns_narrow_again_where_their_values_fit(database: str, connection: Connection) -> None:
    types = {"id": "integer", "a": "smallint", "n": "integer", "d": "character varying(3)", "e": "bigint"}
    frame = pa.table({"id": [1], "a": [40000], "n": [3_000_000_000], "d": ["siebenX"], "e": ["12345678901234567890"]})
    processor = ConflictAwareProcessor(database)
    spec = load_spec("t", "id", write=WriteOptions(widen=True), undoable=True)
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE t ({', '.join(map(' '.join, types.items()))}, PRIMARY KEY (id))")
        cursor.execute(
            "ALTER TABLE t ALTER d TYPE varchar(3) COLLATE \"C\"; INSERT INTO t VALUES (7, 7, -7, 'abc', NULL)"
        )
        run = processor.load(frame, spec).run_id
        assert column_types(connection) != types
        assert processor.undo(run, dry_run=True).narrowed == ("a", "d", "e", "n")
        assert processor.undo(run).narrowed == ("a", "d", "e", "n")
        assert column_types(connection) == types
        cursor.execute("SELECT collation_name FROM information_schema.columns WHERE column_name = 'd'")
        assert cursor.fetchone() == ("C",)
        run = processor.load(frame, spec).run_id
        cursor.execute("UPDATE t SET d = 'abcd', e = 0.5 WHERE id = 7; CREATE INDEX ON t (a)")  # by somebody else
        undone = processor.undo(run)
        assert (undone.narrowed, undone.still_wide) == (("n",), ("a", "d", "e"))
        cursor.execute("SELECT t::text FROM t")
        assert cursor.fetchall() == [("(7,7,-7,abcd,0.5)",)]


def test_a_created_table_lacks_the_column_that_only_marks_tombstones(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    path = tmp_path / "in.csv"
    path.write_text("id,name,Op\n1,x,U\n2,y,D\n")
    write = WriteOptions(delete=Delete("op", ("D",)))
    plan = ConflictAwareProcessor(database).plan(path, "t", "id", write=write, create_table=True)
    assert [
        reason for reason in plan.reasons if "would be created (without op, which only marks deleted rows)" in reason
    ]
    assert ingest(path, "t", "id", database, write=write, create_table=True).counts.inserted == 1
    assert column_types(connection) == {"id": "bigint", "name": "text"}
    kept = WriteOptions(delete=Delete("op", ("D",)), update=("name", "op"))
    assert ingest(path, "kept", "id", database, write=kept, create_table=True).counts.inserted == 1
    assert column_types(connection, "kept") == {"id": "bigint", "name": "text", "Op": "text"}


KINDS = {
    "partitioned": "(id int PRIMARY KEY, name text) PARTITION BY RANGE (id)",
    "second unique": "(id int PRIMARY KEY, name text UNIQUE)",
    "expression": "(id int, name text)",
    "partial": "(id int, name text)",
    "trigger": "(id int PRIMARY KEY, name text)",
}
MORE = {
    "partitioned": "CREATE TABLE p PARTITION OF t FOR VALUES FROM (0) TO (100)",
    "expression": "CREATE UNIQUE INDEX ON t ((id))",
    "partial": "CREATE UNIQUE INDEX ON t (id) WHERE id < 100",
    "trigger": "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN coalesce(NEW, OLD); END'; "
    "CREATE TRIGGER f BEFORE INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION f()",
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_table_has_its_keys_deleted_and_given_back(
    database: str, connection: Connection, tmp_path: Path, kind: str
) -> None:
    first = Rows(("id", "name", "op"), (("1", "x", "U"), ("2", "y", "U"), ("3", None, "D")))
    second = Rows(("id", "name", "op"), (("1", None, "D"), ("4", "three", "U"), ("2", "z", "U")))
    files = [write(content, tmp_path, f"{n}", "csv") for n, content in enumerate((first, second))]
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE t {KINDS[kind]}; {MORE.get(kind, '')}")
        cursor.execute("INSERT INTO t VALUES (3, 'three'), (9, 'nine')")
        for strategy in ("auto", "deterministic"):
            processor = ConflictAwareProcessor(database, config=CONFIG)
            spec = load_spec("t", "id", strategy=strategy, write=WriteOptions(**DELETE), undoable=True)  # type: ignore[arg-type]
            result = processor.load(files, spec)
            cursor.execute("SELECT id, name FROM t ORDER BY id")
            assert cursor.fetchall() == [(2, "z"), (4, "three"), (9, "nine")]
            check_balance(result, [first, second])
            processor.undo(result.run_id)
            cursor.execute("SELECT id, name FROM t ORDER BY id")
            assert cursor.fetchall() == [(3, "three"), (9, "nine")]


@pytest.mark.parametrize("strategy", ["deterministic", "streaming", "partitioned"])
def test_of_a_tombstone_only_the_key_is_judged(
    database: str, connection: Connection, tmp_path: Path, strategy: Any
) -> None:
    path = tmp_path / "in.csv"
    path.write_text("id,size,op\n1,,D\n2,much,D\n,5,D\n7x,5,D\n3,,U\n4,5,U\n")
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, size int NOT NULL); INSERT INTO t VALUES (1, 1), (2, 2)")
        result = ingest(path, "t", "id", database, write=WriteOptions(**DELETE), strategy=strategy, max_rejects=3)
        assert [(item.record, item.sqlstate) for item in result.rejects] == [(2, "23502"), (3, "22P02"), (4, "23502")]
        assert (result.counts.deleted, result.counts.inserted) == (2, 1)


def test_rows_at_the_end_of_the_input_are_ranked_beside_their_marks(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    text = "id,v,op\n" + "".join(f"{key},{'y' * 50},{'D' if key % 5 == 0 else 'U'}\n" for key in range(200))
    files = [tmp_path / f"{number}.csv" for number in range(2)]
    for number, path in enumerate(files):
        path.write_text(text.replace("y" * 9, str(number)))
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    counts = ingest(files, "t", "id", database, strategy="partitioned", write=WriteOptions(**DELETE)).counts
    assert (counts.inserted, counts.absent) == (160, 40)


def test_a_column_named_like_one_of_ours_does_not_keep_rows_from_being_put_together(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    path = tmp_path / "in.csv"
    path.write_text("id,etl_row,etl_key,op\n1,a,,U\n1,,b,U\n2,,,D\n3,bad,,U\n")
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, etl_row text UNIQUE, etl_key text)")
        cursor.execute("INSERT INTO t VALUES (2, 'x'), (4, 'bad')")
        result = ingest(path, "t", "id", database, write=WriteOptions(nulls="keep", **DELETE), max_rejects=1)
        cursor.execute("SELECT t::text FROM t ORDER BY id")
        assert cursor.fetchall() == [("(1,a,b)",), ("(4,bad,)",)]
    assert [(item.line, item.sqlstate) for item in result.rejects] == [(5, "23505")]


def test_the_row_of_a_deleted_key_is_explained(database: str, connection: Connection, tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("id,op\n1,U\n1,D\n")
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY)")
    ingest(path, "t", "id", database, write=WriteOptions(**DELETE))
    told = explain_row("t", {"id": "1"}, database)
    assert (told.row, told.notes) == (None, ())
    assert told.occurrences[0].verdict.endswith("it is a tombstone, and deletes the key")
