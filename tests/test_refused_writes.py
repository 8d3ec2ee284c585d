"""Rows that only writing them shows to be bad: each is a reject, found in the order of the files, and the rest is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg2.extensions import connection as Connection

from etl_toolkit import Delete, ParallelConfig, WriteOptions, ingest
from etl_toolkit.errors import DatabaseError, RejectLimitError
from tests.oracle import Oracle, Replay, Row, Rows, differing_rows, write
from tests.test_coupling import create
from tests.test_rejects import recorded, without
from tests.test_sequential_result import examples

COLUMNS = ("k", "v")
TRIGGER = (
    "CREATE TABLE @ (k int PRIMARY KEY, v text); CREATE FUNCTION refuse_@() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
    "IF NEW.v LIKE 'bad%' THEN RAISE EXCEPTION 'no' {}; END IF; RETURN NEW; END $$; "
    "CREATE TRIGGER refuse {} ON @ {} FOR EACH ROW EXECUTE FUNCTION refuse_@()"
)
LONG = "".join(chr(0x100 + (n * 7919 + n * n) % 20000) for n in range(1500))  # 4,000 bytes that do not compress well
# Name → (DDL, files, refused (file, record) → SQLSTATE).
KINDS: dict[str, tuple[str, list[list[Row]], dict[tuple[int, int], str]]] = {
    "trigger before": (
        TRIGGER.format("", "BEFORE INSERT OR UPDATE", ""),
        [[("1", "a"), ("2", "bad"), ("3", "c"), ("4", "bad"), ("4", "ok")], [("1", "bad"), ("5", "e")]],
        {(0, 1): "P0001", (1, 0): "P0001"},
    ),
    "trigger after": (
        TRIGGER.format("USING ERRCODE = 'XY123'", "AFTER INSERT OR UPDATE", "").replace("CREATE TRIGGER", "CREATE TRIGGER"),
        [[("1", "bad"), ("2", "b"), ("3", "bad")], [("1", "ok"), ("2", "bad")]],
        {(0, 0): "XY123", (0, 2): "XY123", (1, 1): "XY123"},
    ),
    "deferred constraint trigger": (
        TRIGGER.format("", "AFTER INSERT OR UPDATE", "DEFERRABLE INITIALLY DEFERRED").replace(
            "CREATE TRIGGER", "CREATE CONSTRAINT TRIGGER"
        ),
        [[("1", "a"), ("2", "bad")], [("3", "c")]], {(0, 1): "P0001"},
    ),
    "second unique index": (
        "CREATE TABLE @ (k int PRIMARY KEY, v text UNIQUE)",
        # 2 wants a value before 1 gives it up, which 3 takes after that; without its last row, 4 has an earlier one.
        [[("1", "a"), ("9", "z")], [("2", "a"), ("1", "b"), ("3", "c"), ("4", "c"), ("4", "z")], [("3", "a"), ("5", "d"), ("6", "d")]],
        {(1, 0): "23505", (1, 3): "23505", (1, 4): "23505", (2, 2): "23505"},
    ),
    "second unique index, an earlier row of the key is left": (
        "CREATE TABLE @ (k int PRIMARY KEY, v text UNIQUE)",
        [[("1", "a")], [("2", "b"), ("3", "c"), ("2", "a")]], {(1, 2): "23505"},
    ),
    "second unique index, deferred": (
        "CREATE TABLE @ (k int PRIMARY KEY, v text UNIQUE DEFERRABLE INITIALLY DEFERRED)",
        [[("1", "a"), ("2", "b")], [("1", "b"), ("2", "a")], [("3", "a"), ("4", "d")]], {(2, 0): "23505"},
    ),
    "unique default that the files leave as it is": (
        "CREATE TABLE @ (k int PRIMARY KEY, v text, w int DEFAULT 5 UNIQUE)",
        [[("1", "a"), ("2", "b")], [("1", "c"), ("3", "d")]], {(0, 1): "23505", (1, 1): "23505"},
    ),
    "unique expression": (
        "CREATE TABLE @ (k int PRIMARY KEY, v text); CREATE UNIQUE INDEX ON @ (lower(v))",
        [[("1", "a"), ("2", "A")], [("3", "b"), ("1", "B")]], {(0, 1): "23505", (1, 1): "23505"},
    ),
    "exclusion constraint": (
        "CREATE TABLE @ (k int PRIMARY KEY, v int4range, EXCLUDE USING gist (v WITH &&))",
        [[("1", "[1,5)"), ("2", "[4,9)"), ("3", "[5,7)")], [("4", "[6,8)"), ("1", "[10,12)"), ("5", "[1,5)")]],
        {(0, 1): "23P01", (1, 0): "23P01"},
    ),
    "reference to the table itself": (
        "CREATE TABLE @ (k int PRIMARY KEY, v int REFERENCES @)",
        [[("3", "2"), ("2", "1"), ("1", None), ("4", "8"), ("8", "9")], [("5", "4"), ("6", "5"), ("7", "3")]],
        {(0, 3): "23503", (0, 4): "23503", (1, 0): "23503", (1, 1): "23503"},
    ),
    "identity beside the key": (
        "CREATE TABLE @ (v int GENERATED ALWAYS AS IDENTITY, k text UNIQUE)",
        [[("a", "1"), ("b", "2")], [("b", "3"), ("c", "4"), ("a", "1")]], {(1, 0): "428C9"},
    ),
    "identity that is the primary key": (
        "CREATE TABLE @ (v int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, k text UNIQUE)",
        [[("a", "1"), ("b", "2")], [("b", "3"), ("c", "4"), ("a", "1"), ("d", "1")]], {(1, 0): "428C9", (1, 3): "23505"},
    ),
}  # fmt: skip


def load(
    database: str, connection: Connection, directory: Path, contents: Sequence[Rows], strategy: str, limit: int,
    workers: int = 2, **options: str | bool,
) -> None:  # fmt: skip
    files = [write(content, directory, f"part{number}", "csv") for number, content in enumerate(contents)]
    result = ingest(
        files, "loaded", "k", database, strategy=strategy, concurrency=workers, max_rejects=limit,
        config=ParallelConfig(chunk_size=2, sub_batch_size=2), **options,
    )  # fmt: skip
    assert result.counts.rejected == len(recorded(connection))


@pytest.mark.parametrize(
    ("strategy", "workers", "atomic"),
    [("auto", 1, False), ("deterministic", 3, False), ("streaming", 2, False), ("deterministic", 2, True)],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_that_the_table_refuses_is_rejected_in_file_order(
    database: str, connection: Connection, tmp_path: Path, kind: str, strategy: str, workers: int, atomic: bool
) -> None:
    ddl, rows, refused = KINDS[kind]
    create(connection, ddl)
    contents = [Rows(COLUMNS, tuple(part)) for part in rows]

    load(database, connection, tmp_path, contents, strategy, len(refused), workers, atomic=atomic)

    assert recorded(connection) == {(*place, sqlstate) for place, sqlstate in refused.items()}
    oracle = Oracle("expected", ("k",), overriding="identity" in kind)
    if "identity" not in kind:  # which plain SQL cannot load again
        oracle.load(connection, without(contents, set(refused)))
        assert differing_rows(connection, "loaded", "expected") == []
    with connection.cursor() as cursor:
        cursor.execute("SELECT line, raw FROM etl_toolkit.rejects ORDER BY file, record")
        lines = [
            (tmp_path / f"part{file}.csv").read_text().splitlines()[record + 1] for file, record in sorted(refused)
        ]
        assert cursor.fetchall() == [
            (record + 2, line) for (_, record), line in zip(sorted(refused), lines, strict=True)
        ]


@pytest.mark.parametrize("default", ["", "DEFAULT gen_random_uuid()"])
def test_a_unique_column_that_new_rows_cannot_share_couples_nothing(
    database: str, connection: Connection, tmp_path: Path, default: str
) -> None:
    create(connection, f"CREATE TABLE @ (k int PRIMARY KEY, v text, w uuid {default} UNIQUE)")
    contents = [Rows(COLUMNS, (("1", "a"), ("2", "b"))), Rows(COLUMNS, (("1", "c"), ("3", "d")))]

    load(database, connection, tmp_path, contents, "partitioned", 0)

    Oracle("expected", ("k",)).load(connection, contents)
    assert differing_rows(connection, "loaded", "expected", COLUMNS) == []


@pytest.mark.parametrize("strategy", ["deterministic", "streaming"])
def test_one_refused_row_too_many_fails_the_load(
    database: str, connection: Connection, tmp_path: Path, strategy: str
) -> None:
    create(connection, KINDS["second unique index"][0])
    contents = [Rows(COLUMNS, (("1", "a"), ("2", "a"), ("3", "a")))]

    with pytest.raises(RejectLimitError, match=r"part0\.csv.*line 3"):
        load(database, connection, tmp_path, contents, strategy, 1)

    with connection.cursor() as cursor:
        cursor.execute("SELECT FROM loaded")
        assert cursor.rowcount == 0


@pytest.mark.parametrize("strategy", ["auto", "deterministic", "streaming", "partitioned", "hybrid"])
@pytest.mark.parametrize("kind", ["index", "key", "expression", "bytes", "domain", "array"])
def test_an_index_entry_that_is_too_large_is_one_reject(
    database: str, connection: Connection, tmp_path: Path, kind: str, strategy: str
) -> None:
    if (kind, strategy) == ("expression", "hybrid"):
        strategy = "deterministic"
    with connection.cursor() as cursor:
        cursor.execute("CREATE DOMAIN long_text AS text")
    create(connection, {
        "index": "CREATE TABLE @ (k text PRIMARY KEY, v text); CREATE INDEX ON @ (v)",
        "key": "CREATE TABLE @ (k text, v text, PRIMARY KEY (k, v))",
        "expression": "CREATE TABLE @ (k text PRIMARY KEY, v text); CREATE INDEX ON @ (upper(v), k)",
        "bytes": "CREATE TABLE @ (k text PRIMARY KEY, v bytea); CREATE INDEX ON @ (v)",
        "array": "CREATE TABLE @ (k text PRIMARY KEY, v text, a text[] GENERATED ALWAYS AS (ARRAY[v]) STORED); CREATE INDEX ON @ (a)",
        "domain": "CREATE TABLE @ (k text PRIMARY KEY, v long_text); CREATE INDEX ON @ (v)",
    }[kind])  # fmt: skip
    contents = [
        Rows(COLUMNS, (("1", "a"), ("2", LONG), ("3", "x" * 9000), ("4", LONG), ("4", "d"), ("5", LONG))),
        Rows(COLUMNS, (("5", "e"), ("1", "f"))),
    ]
    files = [write(content, tmp_path, f"part{number}", "csv") for number, content in enumerate(contents)]
    key = ["k", "v"] if kind == "key" else ["k"]

    result = ingest(files, "loaded", key, database, strategy=strategy, max_rejects=3)

    assert recorded(connection) == {(0, 1, "54000"), (0, 3, "54000"), (0, 5, "54000")}
    assert result.counts.rejected == 3
    Oracle("expected", tuple(key)).load(connection, without(contents, {(0, 1), (0, 3), (0, 5)}))
    assert differing_rows(connection, "loaded", "expected") == []


@pytest.mark.parametrize("strategy", ["deterministic", "partitioned"])
def test_an_index_may_include_a_column_that_has_no_order(
    database: str, connection: Connection, tmp_path: Path, strategy: str
) -> None:
    create(connection, "CREATE TABLE @ (k text PRIMARY KEY, v text, j json); CREATE INDEX ON @ (v) INCLUDE (j, k)")
    contents = [Rows(("k", "v", "j"), (("1", "a", "[1]"), ("2", LONG, "{}"), ("3", "c", f'["{LONG}"]')))]
    files = [write(content, tmp_path, "part", "csv") for content in contents]

    ingest(files, "loaded", "k", database, strategy=strategy, max_rejects=2)

    assert recorded(connection) == {(0, 1, "54000"), (0, 2, "54000")}
    Oracle("expected", ("k",)).load(connection, without(contents, {(0, 1), (0, 2)}))
    assert differing_rows(connection, "loaded", "expected") == []


@pytest.mark.parametrize("strategy", ["auto", "deterministic", "streaming"])
def test_a_check_that_the_row_in_the_table_breaks_rejects_the_row(
    database: str, connection: Connection, tmp_path: Path, strategy: str
) -> None:
    create(connection, "CREATE TABLE @ (k int PRIMARY KEY, v int, high int, CHECK (v <= high))")
    with connection.cursor() as cursor:
        for name in ("loaded", "expected"):
            cursor.execute(f"INSERT INTO {name} VALUES (1, 1, 5), (3, 1, 5)")
    # The first row of 1 loses to a later file, the first of 3 to a later row: only the former is ever written.
    contents = [
        Rows(COLUMNS, (("1", "9"), ("2", "9"), ("3", "9"), ("3", "2"))),
        Rows(COLUMNS, (("1", "4"),)),
    ]

    load(database, connection, tmp_path, contents, strategy, 1)

    assert recorded(connection) == {(0, 0, "23514")}
    Oracle("expected", ("k",)).load(connection, without(contents, {(0, 0)}))
    assert differing_rows(connection, "loaded", "expected") == []


def test_thousands_of_rows_with_a_few_refused_take_few_savepoints(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    create(connection, "CREATE TABLE @ (k int PRIMARY KEY, v text UNIQUE)")
    bad = {100, 4000, 4001, 9999}
    rows = tuple((str(n), "v0" if n in bad else f"v{n}") for n in range(10_000))

    load(database, connection, tmp_path, [Rows(COLUMNS, rows)], "deterministic", 4)

    assert recorded(connection) == {(0, n, "23505") for n in bad}
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM loaded")
        assert cursor.fetchone() == (10_000 - len(bad),)


@pytest.mark.parametrize("strategy", ["auto", "deterministic", "streaming"])
@pytest.mark.parametrize("key_of_the_table", ["PRIMARY KEY", ""])
def test_the_same_files_load_again_with_their_identities(
    database: str, connection: Connection, tmp_path: Path, key_of_the_table: str, strategy: str
) -> None:
    create(
        connection, f"CREATE TABLE @ (id int GENERATED ALWAYS AS IDENTITY {key_of_the_table}, k text UNIQUE, v text)"
    )
    contents = [
        Rows(("id", "k", "v"), (("7", "a", "1"), ("8", "b", "2"))),
        Rows(("id", "k", "v"), (("7", "a", "3"), ("9", "c", "4"))),
    ]
    files = [write(content, tmp_path, f"part{number}", "csv") for number, content in enumerate(contents)]

    for _ in range(2):
        assert ingest(files, "loaded", "k", database, strategy=strategy, undoable=True)

    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM loaded ORDER BY id")
        assert cursor.fetchall() == [(7, "a", "3"), (8, "b", "2"), (9, "c", "4")]


# --- properties --------------------------------------------------------------------------------------------------------

# It fires after the row is written: a row that would change nothing is not, while plain SQL shows it to a trigger before.
REFUSING = (
    "CREATE FUNCTION refuse_@() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.v = 2 OR TG_OP = 'UPDATE' AND "
    "NEW.v < OLD.v THEN RAISE EXCEPTION 'no'; END IF; RETURN NEW; END $$; "
    "CREATE TRIGGER refuse AFTER INSERT OR UPDATE ON @ FOR EACH ROW EXECUTE FUNCTION refuse_@()"
)
PLAIN = "(k int PRIMARY KEY, v int, w int)"
# Name → (DDL, what to write about the arbiter for the oracle, whether rows are coupled).
ANY: dict[str, tuple[str, dict[str, Any], bool]] = {
    "unique": (f"CREATE TABLE @ {PLAIN}; CREATE UNIQUE INDEX ON @ (v)", {}, True),
    "unique, two columns": (f"CREATE TABLE @ {PLAIN}; CREATE UNIQUE INDEX ON @ (v, w)", {}, True),
    "unique expression": (f"CREATE TABLE @ {PLAIN}; CREATE UNIQUE INDEX ON @ (abs(v))", {}, True),
    "unique with a predicate": (f"CREATE TABLE @ {PLAIN}; CREATE UNIQUE INDEX ON @ (v) WHERE w > 0", {}, True),
    "exclusion": (f"CREATE TABLE @ {PLAIN}; ALTER TABLE @ ADD EXCLUDE (v WITH =, w WITH =)", {}, True),
    "trigger": (f"CREATE TABLE @ {PLAIN}; {REFUSING}", {}, True),
    "trigger and unique": (f"CREATE TABLE @ {PLAIN}; CREATE UNIQUE INDEX ON @ (v); {REFUSING}", {}, True),
    "soft delete and unique": (
        "CREATE TABLE @ (k int, v int UNIQUE, w int, gone bool); CREATE UNIQUE INDEX ON @ (k) WHERE gone IS NULL",
        {"predicate": "gone IS NULL"}, True,
    ),
    "expression of the key and unique": (
        "CREATE TABLE @ (k int, v int UNIQUE, w int); CREATE UNIQUE INDEX ON @ ((k + 1))", {"key": ("(k + 1)",)}, True,
    ),
    "demands": (
        "CREATE TABLE @ (k int PRIMARY KEY, v int, w int, least int DEFAULT 0, CHECK (v > least), "
        "q int GENERATED ALWAYS AS (10 / w) STORED); CREATE INDEX ON @ ((10 / (v - 3)))", {}, False,
    ),
    "demands behind a partial key": (
        "CREATE TABLE @ (k int, v int, w int, gone bool DEFAULT false, CHECK (v > 0 OR gone)); "
        "CREATE UNIQUE INDEX ON @ (k) WHERE NOT gone; CREATE INDEX ON @ ((10 / w)) WHERE v > 1", {"predicate": "NOT gone"}, False,
    ),
}  # fmt: skip
few = st.sampled_from(("1", "2", "3", "4", "5"))
cells = st.sampled_from(("1", "2", "3", "0", "-1", "4", None))
crowded = st.lists(st.tuples(few, cells, cells), min_size=3, max_size=9)


@examples(60)
@given(
    contents=st.lists(crowded.map(lambda rows: Rows(("k", "v", "w"), tuple(rows))), min_size=2, max_size=3, unique=True),
    kind=st.sampled_from(sorted(ANY)), workers=st.sampled_from((1, 3)), action=st.sampled_from(("update", "update", "ignore")),
    strategy=st.sampled_from(("auto", "deterministic", "streaming", "partitioned")),
    forms=st.lists(st.sampled_from(("csv", "quoted", "parquet")), min_size=3, max_size=3),
)  # fmt: skip
def test_rejects_and_table_are_those_of_loading_row_by_row(
    shared: tuple[str, Connection], contents: list[Rows], kind: str, workers: int, action: Any, strategy: str,
    forms: list[Any], tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    dsn, connection = shared
    ddl, arbiter, is_coupled = ANY[kind]
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS loaded, expected")
        for name in ("loaded", "expected"):
            cursor.execute(ddl.replace("@", name).replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
    directory = tmp_path_factory.mktemp("any")
    files = [
        write(content, directory, f"part{number}", form)
        for number, (content, form) in enumerate(zip(contents, forms, strict=False))
    ]
    refused = Oracle("expected", ("k",), action, **arbiter).load_rejecting(connection, contents)

    result = ingest(
        files, "loaded", "k", dsn, strategy="auto" if is_coupled and strategy == "partitioned" else strategy,
        on_conflict=action, concurrency=workers, max_rejects=100, config=ParallelConfig(chunk_size=2, sub_batch_size=2),
    )  # fmt: skip

    assert differing_rows(connection, "loaded", "expected") == []
    assert result.counts.rejected == len(refused)
    if result.counts.read:
        assert {(file, record) for file, record, _ in recorded(connection)} == refused


OF_WRITING: dict[str, dict[str, Any]] = {
    "delete": {"delete": Delete("op", ("D",))},
    "update": {"update": ("v",)},
    "insert_only": {"insert_only": ("v",)},
    "nulls": {"nulls": "keep"},
    "nulls, insert_only, delete": {"nulls": "keep", "insert_only": ("w",), "delete": Delete("op", ("D",))},
    "rows update": {"rows": "update"},
    "rows update, nulls": {"rows": "update", "nulls": "keep"},
    "rows insert": {"rows": "insert"},
    "set": {"set": {"x": "2"}},
}
REFUSING_DELETES = REFUSING.replace("BEGIN", "BEGIN IF TG_OP = 'DELETE' AND OLD.v = 3 THEN RAISE EXCEPTION 'no'; END IF;").replace(
    "INSERT OR UPDATE", "INSERT OR UPDATE OR DELETE"
)  # fmt: skip
WIDE = "(k int PRIMARY KEY, v int, w int, x int)"
TABLES = {
    "unique": f"CREATE TABLE @ {WIDE}; CREATE UNIQUE INDEX ON @ (v)",
    "unique, two columns": f"CREATE TABLE @ {WIDE}; CREATE UNIQUE INDEX ON @ (v, w)",
    "exclusion": f"CREATE TABLE @ {WIDE}; ALTER TABLE @ ADD EXCLUDE (v WITH =, w WITH =)",
    "trigger": f"CREATE TABLE @ {WIDE}; {REFUSING_DELETES}",
    "trigger and unique": f"CREATE TABLE @ {WIDE}; CREATE UNIQUE INDEX ON @ (v, x); {REFUSING_DELETES}",
    "check": f"CREATE TABLE @ {WIDE}; ALTER TABLE @ ADD CHECK (v < w + 3)",
    "check of what is set": f"CREATE TABLE @ {WIDE}; ALTER TABLE @ ADD CHECK (v <= x)",
    "reference": f"CREATE TABLE @ {WIDE}; CREATE TABLE of_@ (k int REFERENCES @)",
}


@examples(40)
@given(
    contents=st.lists(
        st.lists(st.tuples(few, st.sampled_from("IIID"), cells, cells), min_size=3, max_size=9), min_size=2, max_size=3
    ),
    kind=st.sampled_from(sorted(TABLES)), name=st.sampled_from(sorted(OF_WRITING)), workers=st.sampled_from((1, 3)),
    strategy=st.sampled_from(("auto", "auto", "deterministic", "streaming")), is_empty=st.booleans(),
    forms=st.lists(st.sampled_from(("csv", "quoted", "parquet")), min_size=3, max_size=3),
)  # fmt: skip
def test_rejects_are_those_of_writing_what_the_rows_of_a_key_leave(
    shared: tuple[str, Connection], contents: list[list[Row]], kind: str, name: str, workers: int, strategy: Any,
    is_empty: bool, forms: list[Any], tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    dsn, connection = shared
    options, ddl = OF_WRITING[name], TABLES[kind]
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS loaded, expected, of_loaded, of_expected")
        for table in ("loaded", "expected"):
            cursor.execute(ddl.replace("@", table).replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
            if not is_empty:
                cursor.execute(f"INSERT INTO {table} VALUES (1, 3, 7, 9), (2, NULL, 5, 9), (3, 4, 9, 9)")
                if kind == "reference":
                    cursor.execute(f"INSERT INTO of_{table} VALUES (1), (3)")
    columns = ("k", "op", "v", "w") if "delete" in options else ("k", "v", "w")
    parts = [
        Rows(columns, tuple(row if "delete" in options else (row[0], *row[2:]) for row in part)) for part in contents
    ]  # type: ignore[misc]
    directory = tmp_path_factory.mktemp("writing")
    files = [
        write(part, directory, f"{number}", form) for number, (part, form) in enumerate(zip(parts, forms, strict=False))
    ]
    delete = options.get("delete")
    replay = Replay(
        "expected", "k", mark=delete and delete.column, update=options.get("update"), insert_only=options.get("insert_only", ()),
        keeps_nulls=options.get("nulls") == "keep", rows=options.get("rows", "all"), set=options.get("set", {}),
    )  # fmt: skip
    by_itself = ddl.split(";")[0] + " ON COMMIT DROP"
    if "CHECK (v < w" in ddl:
        by_itself += "; ALTER TABLE @ ADD CHECK (v < w + 3)"
    refused = replay.load_rejecting(connection, parts, by_itself.replace("CREATE TABLE @", "CREATE TEMP TABLE arena"))

    result = ingest(
        files, "loaded", "k", dsn, strategy=strategy, concurrency=workers, max_rejects=100, write=WriteOptions(**options),
        config=ParallelConfig(chunk_size=2, sub_batch_size=2),
    )  # fmt: skip

    assert differing_rows(connection, "loaded", "expected") == []
    assert result.counts.rejected == len(refused)
    assert {(file, record) for file, record, _ in recorded(connection)} == refused


def test_a_statement_that_is_refused_whatever_its_rows_fails_the_load(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE t (k int PRIMARY KEY, v text); CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE 'closed on Sundays'; END $$; "
            "CREATE TRIGGER refuse BEFORE INSERT ON t FOR EACH STATEMENT EXECUTE FUNCTION refuse()"
        )
    path = write(Rows(COLUMNS, (("1", "a"), ("2", "b"))), tmp_path, "a", "csv")
    with pytest.raises(DatabaseError, match=r"closed on Sundays \(SQLSTATE P0001\)"):
        ingest(path, "t", "k", database, max_rejects=10)
