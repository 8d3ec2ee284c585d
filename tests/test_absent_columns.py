"""Keys, conditions and generated columns that depend on columns which the files do not carry: what the table would put there."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit import ConflictAwareProcessor, ParallelConfig, ingest
from etl_toolkit.errors import UnsafeStrategyError
from etl_toolkit.explain import explain
from tests.oracle import Oracle, Row, Rows, differing_rows, write
from tests.test_coupling import create
from tests.test_rejects import recorded, without

STRATEGIES = ("auto", "deterministic", "streaming", "partitioned")
SMALL = ParallelConfig(chunk_size=2, sub_batch_size=2)

# Name → (columns and indexes of the table, predicate of the key, key parts). The files carry k and v.
SOFT_DELETES: dict[str, tuple[str, str | None, tuple[str, ...]]] = {
    "partial index": (
        "k int, v text, deleted_at timestamptz); CREATE UNIQUE INDEX ON @ (k) WHERE deleted_at IS NULL", "deleted_at IS NULL", (),
    ),
    "constant default": (
        "k int, v text, live bool NOT NULL DEFAULT true); CREATE UNIQUE INDEX ON @ (k) WHERE live", "live", (),
    ),
    "default of the moment": (
        "k int, v text, at timestamptz DEFAULT now()); CREATE UNIQUE INDEX ON @ (k) WHERE at IS NOT NULL", "at IS NOT NULL", (),
    ),
    "sequence": (
        "k int, v text, n bigserial); CREATE UNIQUE INDEX ON @ (k) WHERE n > 0", "n > 0", (),
    ),
    "identity": (
        "k int, v text, n int GENERATED ALWAYS AS IDENTITY); CREATE UNIQUE INDEX ON @ (k) WHERE n > 0", "n > 0", (),
    ),
    "generated column": (
        "k int, v text, w int, live bool GENERATED ALWAYS AS (w IS NULL) STORED); CREATE UNIQUE INDEX ON @ (k) WHERE live", "live",
        (),
    ),
    "expression": (
        "k text, v text, deleted_at timestamptz); CREATE UNIQUE INDEX ON @ (lower(k)) WHERE deleted_at IS NULL",
        "deleted_at IS NULL", ("lower(k)",),
    ),
    "other columns demand something": (
        "k int PRIMARY KEY, v text, lo int DEFAULT 1, hi int, kind text DEFAULT 'a' CHECK (kind = 'a'), CHECK (lo < hi), "
        "joined text GENERATED ALWAYS AS (v || kind) STORED NOT NULL)", None, (),
    ),
}  # fmt: skip
BEFORE = {
    "partial index": "INSERT INTO @ VALUES (1, 'deleted', '2024-01-01 00:00Z'), (1, 'deleted too', '2024-01-02 00:00Z'), (2, 'there', NULL)",
    "constant default": "INSERT INTO @ VALUES (1, 'deleted', false), (1, 'deleted too', false), (2, 'there', true)",
    "generated column": "INSERT INTO @ VALUES (1, 'deleted', 1), (1, 'deleted too', 1), (2, 'there', NULL)",
    "expression": "INSERT INTO @ VALUES ('1', 'deleted', '2024-01-01 00:00Z'), ('2', 'there', NULL)",
}
CONTENTS = [
    Rows(("k", "v"), (("1", "a"), ("2", "b"), ("1", "c"))),
    Rows(("k", "v"), (("3", "d"), ("2", "e"))),
    Rows(("k", "v"), (("1", "f"), ("4", "g"))),
]


def names_to_compare(kind: str) -> list[str] | None:
    return ["k", "v"] if kind in ("default of the moment", "sequence", "identity") else None


OPTIONS: tuple[dict[str, Any], ...] = (
    {}, {"on_conflict": "ignore"}, {"on_conflict": "newer", "order_by": "v"}, {"order_by": "v"}, {"undoable": True},
    {"atomic": True},
)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "strategy", "options"),
    [
        (kind, strategy, OPTIONS[(row + step * column) % len(OPTIONS)])
        for row, kind in enumerate(SOFT_DELETES)
        for column, strategy in enumerate(STRATEGIES)
        for step in (1, 2)
        if column or step == 1
    ],
)
def test_a_key_that_depends_on_columns_the_files_lack(
    database: str, connection: Connection, tmp_path: Path, kind: str, strategy: str, options: dict[str, Any]
) -> None:
    ddl, predicate, key = SOFT_DELETES[kind]
    create(connection, f"CREATE TABLE @ ({ddl}")
    if kind in BEFORE:
        create_rows(connection, BEFORE[kind])
    files = [write(content, tmp_path, f"part{number}", "csv") for number, content in enumerate(CONTENTS)]

    load = partial(ingest, files, "loaded", "k", database, strategy=strategy, concurrency=2, config=SMALL, **options)
    assert load()
    if (kind, strategy) == ("other columns demand something", "partitioned"):
        with pytest.raises(UnsafeStrategyError, match="may be refused because of the row in the table"):
            load()
    else:
        assert load()

    action, order_by = options.get("on_conflict", "update"), options.get("order_by")
    for _ in range(2):
        Oracle("expected", ("k",), action, order_by, key=key, predicate=predicate).load(connection, CONTENTS)
    assert differing_rows(connection, "loaded", "expected", names_to_compare(kind)) == []


def create_rows(connection: Connection, statement: str) -> None:
    with connection.cursor() as cursor:
        for name in ("loaded", "expected"):
            cursor.execute(statement.replace("@", name))


@pytest.mark.parametrize("kind", SOFT_DELETES)
def test_plan_and_load_agree(database: str, connection: Connection, tmp_path: Path, kind: str) -> None:
    create(connection, f"CREATE TABLE @ ({SOFT_DELETES[kind][0]}")
    if kind in BEFORE:
        create_rows(connection, BEFORE[kind])
    file = write(CONTENTS[1], tmp_path, "a", "csv")

    plan = ConflictAwareProcessor(database).plan(file, "loaded", ["k"])
    result = ingest(file, "loaded", "k", database)

    assert plan.strategy == result.strategy
    if plan.predicted_inserts is not None:
        assert (plan.predicted_inserts, plan.predicted_updates) == (result.counts.inserted, result.counts.updated)


def test_explain_shows_the_row_that_the_index_covers(database: str, connection: Connection, tmp_path: Path) -> None:
    create(connection, f"CREATE TABLE @ ({SOFT_DELETES['partial index'][0]}")
    create_rows(connection, BEFORE["partial index"])
    ingest(write(CONTENTS[0], tmp_path, "a", "csv"), "loaded", "k", database)

    explained = explain(database, "loaded", {"k": "1"})

    assert explained.row == {"k": "1", "v": "c", "deleted_at": None}
    assert not explained.notes


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_row_whose_default_is_beyond_the_index_is_rejected(
    database: str, connection: Connection, tmp_path: Path, strategy: str
) -> None:
    create(connection, "CREATE TABLE @ (k int, v text, live bool); CREATE UNIQUE INDEX ON @ (k) WHERE live")
    file = write(Rows(("k", "v"), (("1", "a"),)), tmp_path, "a", "csv")

    result = ingest(file, "loaded", "k", database, strategy=strategy, max_rejects=1)

    assert result.counts.rejected == 1
    assert recorded(connection) == {(0, 0, "23514")}


# Name → (DDL, rows of (k, v), refused places with SQLSTATE). Other columns come from defaults.
DEMANDS: dict[str, tuple[str, list[Row], dict[int, str]]] = {
    "check with a default": (
        "CREATE TABLE @ (k int PRIMARY KEY, v int, most int DEFAULT 5, CHECK (v < most))",
        [("1", "1"), ("2", "9"), ("2", "2"), ("3", "7")], {1: "23514", 3: "23514"},
    ),
    "check of a generated column": (
        "CREATE TABLE @ (k int PRIMARY KEY, v int, w int DEFAULT 1, sum int GENERATED ALWAYS AS (v + w) STORED CHECK (sum < 9))",
        [("1", "1"), ("2", "9"), ("2", "2"), ("3", "8")], {1: "23514", 3: "23514"},
    ),
    "generated column that is not null": (
        "CREATE TABLE @ (k int PRIMARY KEY, v int, half int GENERATED ALWAYS AS (nullif(v, 0)) STORED NOT NULL)",
        [("1", "1"), ("2", "0"), ("2", "2"), ("3", "0")], {1: "23502", 3: "23502"},
    ),
    "generated column over a default": (
        "CREATE TABLE @ (k int PRIMARY KEY, v int, w int DEFAULT 3, q int GENERATED ALWAYS AS (100 / (v - w)) STORED)",
        [("1", "1"), ("2", "3"), ("2", "2"), ("3", "3")], {1: "22012", 3: "22012"},
    ),
    "check and column of one name": (
        "CREATE TABLE @ (k int PRIMARY KEY, v int, CONSTRAINT q CHECK (v < 9), q json GENERATED ALWAYS AS ((1 / v)::text::json) STORED)",
        [("1", "1"), ("2", "0"), ("2", "2"), ("3", "9")], {1: "22012", 3: "23514"},
    ),
    "index expression": (
        "CREATE TABLE @ (k int PRIMARY KEY, v text); CREATE INDEX ON @ ((v::int))",
        [("1", "1"), ("2", "x"), ("2", "2"), ("3", "y")], {1: "22P02", 3: "22P02"},
    ),
    "index predicate": (
        "CREATE TABLE @ (k int PRIMARY KEY, v text); CREATE INDEX ON @ (k) WHERE v::int > 0",
        [("1", "1"), ("2", "x"), ("2", "2"), ("3", "y")], {1: "22P02", 3: "22P02"},
    ),
    "index expression behind a predicate": (
        "CREATE TABLE @ (k int PRIMARY KEY, v text); CREATE INDEX ON @ ((v::int)) WHERE v <> 'x'",
        [("1", "1"), ("2", "x"), ("2", "2"), ("3", "y")], {3: "22P02"},
    ),
}  # fmt: skip
VIRTUAL: dict[str, tuple[str, list[Row], dict[int, str]]] = {
    "check of a virtual column": (
        "CREATE TABLE @ (k int PRIMARY KEY, v int, twice int GENERATED ALWAYS AS (v * 2) VIRTUAL CHECK (twice < 10))",
        [("1", "1"), ("2", "9"), ("2", "2"), ("3", "8")], {1: "23514", 3: "23514"},
    ),
    "virtual column that is not null": (
        "CREATE TABLE @ (k int PRIMARY KEY, v int, half int GENERATED ALWAYS AS (nullif(v, 0)) VIRTUAL NOT NULL)",
        [("1", "1"), ("2", "0"), ("2", "2"), ("3", "0")], {1: "23502", 3: "23502"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("strategy", "workers"), [("auto", 1), ("deterministic", 3), ("streaming", 1), ("partitioned", 3), ("hybrid", 2)]
)
@pytest.mark.parametrize("kind", [*DEMANDS, *VIRTUAL])
def test_what_a_table_demands_of_columns_the_files_lack(
    database: str, connection: Connection, tmp_path: Path, kind: str, strategy: str, workers: int
) -> None:
    if kind in VIRTUAL and connection.server_version < 180000:
        pytest.skip("virtual generated columns came with PostgreSQL 18")
    ddl, rows, refused = {**DEMANDS, **VIRTUAL}[kind]
    create(connection, ddl)
    first = Rows(("k", "v"), tuple(rows))
    contents = [first, Rows(("k", "v"), (("3", "4"), ("1", "4")))]  # the last one of the bad rows loses to a later file
    files = [write(content, tmp_path, f"part{number}", "csv") for number, content in enumerate(contents)]

    result = ingest(files, "loaded", "k", database, strategy=strategy, concurrency=workers, max_rejects=5)

    assert recorded(connection) == {(0, place, sqlstate) for place, sqlstate in refused.items()}
    assert result.counts.rejected == len(refused)
    Oracle("expected", ("k",)).load(connection, without(contents, {(0, place) for place in refused}))
    assert differing_rows(connection, "loaded", "expected") == []


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_generated_column_may_be_the_key(
    database: str, connection: Connection, tmp_path: Path, strategy: str
) -> None:
    """The files carry it, as a table that was copied out does; the server computes it again."""
    create(
        connection, "CREATE TABLE @ (code text, v text, folded text GENERATED ALWAYS AS (lower(code)) STORED UNIQUE)"
    )
    contents = [
        Rows(("code", "folded", "v"), (("A", "a", "1"), ("b", "b", "2"), ("a", "a", "3"))),
        Rows(("code", "folded", "v"), (("B", "b", "4"), (None, None, "5"))),
    ]
    files = [write(content, tmp_path, f"part{number}", "csv") for number, content in enumerate(contents)]

    result = ingest(files, "loaded", "folded", database, strategy=strategy, max_rejects=1)

    assert result.counts.rejected == 1
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM loaded ORDER BY 3")
        assert cursor.fetchall() == [("a", "3", "a"), ("B", "4", "b")]
