"""Bad rows go to the rejects table, good rows into the table, and neither set depends on how the load was run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit import ParallelConfig, ingest
from etl_toolkit.errors import RejectLimitError, UnsafeStrategyError
from etl_toolkit.loading.copy import is_row_error
from etl_toolkit.loading.rejects import _LINE
from etl_toolkit.strategies import suspects
from tests.oracle import Format, Oracle, Row, Rows, differing_rows, write

STRATEGIES = ("auto", "hybrid", "deterministic", "streaming", "partitioned")
COLUMNS = ("id", "n", "name", "age", "grade", "day", "place")
DDL = """
CREATE TABLE @ (
    id int PRIMARY KEY, n smallint, name varchar(5), age positive, grade text CHECK (grade IN ('a', 'b')),
    day date NOT NULL, place int REFERENCES place
)
"""
GOOD: Row = ("0", "1", "good", "5", "a", "2024-01-01", "1")
# What is wrong with a row, by column, and the SQLSTATE it is refused with.
FAULTS: dict[str, tuple[dict[str, str | None], str]] = {
    "not a number": ({"n": "x"}, "22P02"),
    "number too large": ({"n": "70000"}, "22003"),
    "text too long": ({"name": "sixsix"}, "22001"),
    "no such day": ({"day": "2023-02-29"}, "22008"),
    "not a day": ({"day": "tomorrow-ish"}, "22007"),
    "NOT NULL": ({"day": None}, "23502"),
    "CHECK": ({"grade": "z"}, "23514"),
    "domain": ({"age": "-1"}, "23514"),
    "foreign key": ({"place": "99"}, "23503"),
    "NULL key": ({"id": None}, "23502"),
    "key not a number": ({"id": "seven"}, "22P02"),
    "key too large": ({"id": "99999999999"}, "22003"),
}


def row(key: int, **changes: str | None) -> Row:
    cells = dict(zip(COLUMNS, GOOD, strict=True)) | {"id": str(key), "name": f"v{key}"} | changes
    return tuple(cells[name] for name in COLUMNS)


def bad(key: int, fault: str) -> Row:
    return row(key, **FAULTS[fault][0])


@pytest.fixture
def tables(connection: Connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE place (id int PRIMARY KEY); INSERT INTO place VALUES (1), (2)")
        cursor.execute("CREATE DOMAIN positive AS int CHECK (VALUE > 0)")
        for name in ("loaded", "expected"):
            cursor.execute(DDL.replace("@", name))


def without(contents: Sequence[Rows], refused: set[tuple[int, int]]) -> list[Rows]:
    """The contents without the records (file, record) that are to be refused."""
    return [
        Rows(content.columns, tuple(item for place, item in enumerate(content.rows) if (number, place) not in refused))
        for number, content in enumerate(contents)
    ]


def recorded(connection: Connection) -> set[tuple[int, int, str]]:
    """The rejects of the latest run: file position, record, SQLSTATE. No reason has a name that is ours, not the user's."""
    with connection.cursor() as cursor:
        cursor.execute(r"SELECT reason FROM etl_toolkit.rejects WHERE reason ~ 'etl_|\mc\d+\M|pg_temp|relation .rows'")
        assert cursor.fetchall() == []
        cursor.execute(
            "SELECT file, record, sqlstate FROM etl_toolkit.rejects WHERE run_id = "
            "(SELECT run_id FROM etl_toolkit.runs ORDER BY started_at DESC LIMIT 1)"
        )
        return set(cursor.fetchall())


def files_of(contents: Sequence[Rows], directory: Path, forms: Sequence[Format]) -> list[Any]:
    return [
        write(content, directory, f"part{number}", forms[number % len(forms)])
        for number, content in enumerate(contents)
    ]


# Bad rows that would have lost anyway, bad rows that would have won, in the first, a middle and the last place.
MIXED = [
    Rows(COLUMNS, (bad(1, "NOT NULL"), row(2), row(3, name="one"), bad(4, "CHECK"), row(5), bad(6, "NULL key"))),
    Rows(
        COLUMNS,
        (
            row(1, name="two"), bad(2, "foreign key"), bad(3, "text too long"), row(4, name="two"), bad(5, "domain"),
            row(7), bad(7, "not a number"), bad(8, "no such day"), bad(8, "key too large"), row(8),
        ),
    ),
    Rows(COLUMNS, (bad(8, "key not a number"), row(9), row(7, name="three"), bad(9, "number too large"))),
]  # fmt: skip
MIXED_REJECTS = {
    (0, 0, "23502"), (0, 3, "23514"), (0, 5, "23502"), (1, 1, "23503"), (1, 2, "22001"), (1, 4, "23514"), (1, 6, "22P02"),
    (1, 7, "22008"), (1, 8, "22003"), (2, 0, "22P02"), (2, 3, "22003"),
}  # fmt: skip


@pytest.mark.parametrize("state", ["empty", "filled"])
@pytest.mark.parametrize("forms", [("csv",), ("parquet",), ("quoted", "arrow", "frame")], ids="-".join)
@pytest.mark.parametrize(
    ("strategy", "workers", "detection"),
    [
        (name, 1 + number % 3, detection)
        for number, name in enumerate(STRATEGIES)
        for detection in (True, False)
        if detection or name != "hybrid"  # which is refused without detection
    ],
)
def test_the_rejects_do_not_depend_on_how_the_load_is_run(
    database: str, connection: Connection, tables: None, tmp_path: Path, strategy: str, workers: int,
    forms: tuple[Format, ...], state: str, detection: bool,
) -> None:  # fmt: skip
    if state == "filled":
        for name in ("loaded", "expected"):
            Oracle(name, ("id",)).load(
                connection, [Rows(COLUMNS, tuple(row(key, name="old") for key in range(0, 20, 2)))]
            )
    good = without(MIXED, {(file, record) for file, record, _ in MIXED_REJECTS})
    config = ParallelConfig(chunk_size=3, sub_batch_size=2, conflict_detection=detection)

    result = ingest(
        files_of(MIXED, tmp_path, forms), "loaded", "id", database, strategy=strategy, concurrency=workers, config=config,
        max_rejects=len(MIXED_REJECTS),
    )  # fmt: skip

    Oracle("expected", ("id",)).load(connection, good)
    assert differing_rows(connection, "loaded", "expected") == []
    assert recorded(connection) == MIXED_REJECTS
    assert [counts.rejected for counts in result.files.values()] == [3, 6, 2]
    assert [counts.read for counts in result.files.values()] == [len(content.rows) for content in MIXED]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_reject_too_many_writes_nothing_of_its_file(
    database: str, connection: Connection, tables: None, tmp_path: Path, strategy: str
) -> None:
    contents = [
        Rows(COLUMNS, (row(1), row(2))),
        Rows(COLUMNS, (row(3), bad(4, "CHECK"), row(2, name="two"), bad(5, "NOT NULL"), row(6))),
        Rows(COLUMNS, (row(7),)),
    ]

    with pytest.raises(RejectLimitError, match=r"part1.csv.*more than 1 row") as raised:
        ingest(files_of(contents, tmp_path, ["csv"]), "loaded", "id", database, strategy=strategy, max_rejects=1)

    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM loaded ORDER BY id")
        found = [key for (key,) in cursor.fetchall()]
        cursor.execute("SELECT status, error LIKE '%RejectLimitError%' FROM etl_toolkit.runs")
        assert cursor.fetchall() == [("failed", True)]
    assert set(found) <= {1, 2, 7}, "other files may be there, this one must not"
    assert "line 3" in str(raised.value)
    assert recorded(connection) == {(1, 1, "23514"), (1, 3, "23502")}


@pytest.mark.parametrize("strategy", ["deterministic", "streaming", "partitioned"])
@pytest.mark.parametrize("fault", ["CHECK", "NULL key", "foreign key", "not a number"])
@pytest.mark.parametrize("place", ["first", "last", "only", "all"])
def test_wherever_the_bad_row_is(
    database: str, connection: Connection, tables: None, tmp_path: Path, place: str, fault: str, strategy: str
) -> None:
    bad_places = {"first": [0], "last": [2], "only": [0], "all": [0, 1, 2, 3, 4]}[place]
    count = {"only": 1, "all": 5}.get(place, 3)
    rows = tuple(bad(key + 1, fault) if key in bad_places else row(key + 1) for key in range(count))
    contents = [Rows(COLUMNS, (row(10), row(11))), Rows(COLUMNS, rows)]
    refused = {(1, number) for number in bad_places}

    ingest(
        files_of(contents, tmp_path, ["csv"]), "loaded", "id", database, strategy=strategy, concurrency=2, max_rejects=10,
        config=ParallelConfig(sub_batch_size=2, chunk_size=2),
    )  # fmt: skip

    Oracle("expected", ("id",)).load(connection, without(contents, refused))
    assert differing_rows(connection, "loaded", "expected") == []
    assert recorded(connection) == {(*item, FAULTS[fault][1]) for item in refused}


@pytest.mark.parametrize("detection", [True, False], ids=["", "without detection"])
@pytest.mark.parametrize("strategy", ["deterministic", "streaming", "partitioned"])
@pytest.mark.parametrize("fault", ["CHECK", "NOT NULL", "foreign key", "domain", "text too long"])
def test_a_bad_row_is_rejected_though_it_would_have_lost(
    database: str, connection: Connection, tables: None, tmp_path: Path, fault: str, strategy: str, detection: bool
) -> None:
    contents = [
        Rows(COLUMNS, (row(1), bad(2, fault), row(2), row(3))),  # loses to a row of its own file
        Rows(COLUMNS, (bad(4, fault), row(5))),  # loses to a row of a later file
        Rows(COLUMNS, (row(4), row(1, name="three"))),
    ]

    result = ingest(
        files_of(contents, tmp_path, ["csv"]), "loaded", "id", database, strategy=strategy, concurrency=2, max_rejects=5,
        config=ParallelConfig(conflict_detection=detection),
    )  # fmt: skip

    assert recorded(connection) == {(0, 1, FAULTS[fault][1]), (1, 0, FAULTS[fault][1])}
    assert [counts.rejected for counts in result.files.values()] == [1, 1, 0]
    Oracle("expected", ("id",)).load(connection, without(contents, {(0, 1), (1, 0)}))
    assert differing_rows(connection, "loaded", "expected") == []


def test_losers_are_looked_at_one_by_one_only_after_the_server_refused_them_together(
    database: str, connection: Connection, tables: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OneByOneError(Exception):
        pass

    def refuse(*_: Any) -> Any:
        raise OneByOneError

    monkeypatch.setattr(suspects, "refused_records", refuse)
    winners = Rows(COLUMNS, (row(1, name="two"), row(2, name="two")))
    fine, one_bad = ((row(1), row(2)), (row(1), bad(2, "foreign key")))

    ingest(files_of([Rows(COLUMNS, fine), winners], tmp_path, ["quoted"]), "loaded", "id", database)

    for _ in range(5):  # the control; whatever DuckDB was about to do, it is this error that arrives
        with pytest.raises(OneByOneError):
            ingest(files_of([Rows(COLUMNS, one_bad), winners], tmp_path, ["quoted"]), "loaded", "id", database)


def test_a_connection_lost_while_bad_rows_are_looked_for_is_replaced(
    database: str, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker that met the bad row has ended by then: its failure ends nothing else."""
    has_refused, lost = suspects.has_refused, []

    def lose_one(*arguments: Any) -> bool:
        if not lost:
            lost.append(psycopg2.OperationalError("server closed the connection unexpectedly"))
            raise lost[0]
        return has_refused(*arguments)

    monkeypatch.setattr(suspects, "has_refused", lose_one)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE loaded (id int PRIMARY KEY, v int)")
    (tmp_path / "a.csv").write_text("id,v\n1,1\n2,x\n3,3\n")

    result = ingest(tmp_path / "a.csv", "loaded", "id", database, strategy="partitioned", max_rejects=1)

    assert ([reject.line for reject in result.rejects], result.counts.inserted, len(lost)) == ([3], 2, 1)


@pytest.mark.parametrize("strategy", ["deterministic", "partitioned"])
def test_a_text_key_with_a_nul_is_rejected_though_it_fits(
    database: str, connection: Connection, tmp_path: Path, strategy: str
) -> None:
    with connection.cursor() as cursor:
        for name in ("loaded", "expected"):
            cursor.execute(f"CREATE TABLE {name} (id varchar(5) PRIMARY KEY, v text)")
    contents = [
        Rows(("id", "v"), (("a\0b", "loses"), ("c", "first"))),
        Rows(("id", "v"), (("a\0b", "wins"), ("c", "second"))),
    ]

    ingest(files_of(contents, tmp_path, ["parquet"]), "loaded", "id", database, strategy=strategy, max_rejects=2)

    assert recorded(connection) == {(0, 0, "22021"), (1, 0, "22021")}
    Oracle("expected", ("id",)).load(connection, without(contents, {(0, 0), (1, 0)}))
    assert differing_rows(connection, "loaded", "expected") == []


@pytest.mark.parametrize("value", ["1.5x", "9" * 310], ids=["no number", "too great, in a record too long to be short"])
@pytest.mark.parametrize("strategy", ["deterministic", "partitioned"])
def test_a_loser_that_is_no_number_is_rejected(
    database: str, connection: Connection, tmp_path: Path, strategy: str, value: str
) -> None:
    with connection.cursor() as cursor:
        for name in ("loaded", "expected"):
            cursor.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, v float8)")
    contents = [Rows(("id", "v"), (("1", value), ("2", "2.5"))), Rows(("id", "v"), (("1", "3.5"),))]

    ingest(files_of(contents, tmp_path, ["csv"]), "loaded", "id", database, strategy=strategy, max_rejects=1)

    assert recorded(connection) == {(0, 0, "22P02" if "x" in value else "22003")}
    Oracle("expected", ("id",)).load(connection, without(contents, {(0, 0)}))
    assert differing_rows(connection, "loaded", "expected") == []


@pytest.mark.parametrize("strategy", ["deterministic", "partitioned"])
def test_a_check_on_columns_that_the_file_does_not_carry_is_left_to_the_table(
    database: str, connection: Connection, tmp_path: Path, strategy: str
) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE loaded (id int PRIMARY KEY, v text CHECK (v <> 'z'), w int DEFAULT 5, CHECK (w IS NOT NULL), "
            "sum int GENERATED ALWAYS AS (id + w) STORED NOT NULL)"
        )
    contents = [Rows(("id", "v"), (("1", "a"), ("2", "z"), ("1", "b"), ("2", "z"), ("2", "c")))]

    ingest(files_of(contents, tmp_path, ["csv"]), "loaded", "id", database, strategy=strategy, max_rejects=2)

    assert recorded(connection) == {(0, 1, "23514"), (0, 3, "23514")}
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM loaded ORDER BY id")
        assert cursor.fetchall() == [(1, "b", 5, 6), (2, "c", 5, 7)]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_reject_says_what_where_and_why(
    database: str, connection: Connection, tables: None, tmp_path: Path, fault: str
) -> None:
    contents = [Rows(COLUMNS, (row(1), bad(2, fault), row(3)))]

    ingest(files_of(contents, tmp_path, ["csv"]), "loaded", "id", database, max_rejects=1)

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT f.name, line, sqlstate, raw, reason FROM etl_toolkit.rejects JOIN etl_toolkit.files f ON position = file"
        )
        ((name, line, sqlstate, raw, reason),) = cursor.fetchall()
    assert (name, line, sqlstate) == (str(tmp_path / "part0.csv"), 3, FAULTS[fault][1])
    assert raw == (tmp_path / "part0.csv").read_text().splitlines()[2]
    column = next(iter(FAULTS[fault][0]))
    assert column in reason or "value too long" in reason or "foreign key" in reason


TYPES = {
    "numeric(4,2)": ("12.34", "123.4", "22003"), "bigint": ("1", "1.5", "22P02"), "bool": ("t", "maybe", "22P02"),
    "float8": ("1e5", "1e400", "22003"), "uuid": ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "a0eebc99", "22P02"),
    "json": ('{"a": 1}', "{a: 1}", "22P02"), "jsonb": ("[1]", "[1", "22P02"), "int[]": ("{1,2}", "{1,x}", "22P02"),
    "bytea": ("\\x4142", "\\x4", "22023"), "inet": ("10.0.0.1", "10.0.0.256", "22P02"), "interval": ("1 day", "1 dy", "22007"),
    "time": ("12:00", "25:00", "22008"), "timestamptz": ("2024-01-01 12:00+02", "2024-01-01 12:00+99", "22009"),
    "char(3)": ("abc", "abcd", "22001"), "bit(3)": ("101", "10", "22026"), "int4range": ("[1,2)", "[2,1)", "22000"),
    "mood": ("sad", "glad", "22P02"), "money": ("$1", "one", "22P02"), "point": ("(1,2)", "(1)", "22P02"),
}  # fmt: skip


@pytest.mark.parametrize("strategy", ["deterministic", "partitioned"])
@pytest.mark.parametrize("declared", TYPES)
def test_texts_that_a_type_cannot_read(
    database: str, connection: Connection, tmp_path: Path, declared: str, strategy: str
) -> None:
    good, wrong, sqlstate = TYPES[declared]
    with connection.cursor() as cursor:
        cursor.execute(
            f"CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE loaded (id int PRIMARY KEY, v {declared})"
        )
    # The second bad row is superseded by the row after it.
    contents = [
        Rows(("id", "v"), (("1", good), ("2", wrong), ("3", None))),
        Rows(("id", "v"), (("1", wrong), ("4", wrong), ("4", good))),
    ]

    ingest(files_of(contents, tmp_path, ["csv", "parquet"]), "loaded", "id", database, strategy=strategy, max_rejects=3)

    assert recorded(connection) == {(0, 1, sqlstate), (1, 0, sqlstate), (1, 1, sqlstate)}
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, v IS NULL FROM loaded ORDER BY id")
        assert cursor.fetchall() == [(1, False), (3, True), (4, False)]


KINDS = {
    "no partition": (
        "CREATE TABLE @ (id int PRIMARY KEY, v int) PARTITION BY RANGE (id); "
        "CREATE TABLE @_low PARTITION OF @ FOR VALUES FROM (0) TO (10) PARTITION BY LIST (id); "
        "CREATE TABLE @_lowest PARTITION OF @_low FOR VALUES IN (1, 2, 3, 4); "
        "CREATE TABLE @_high PARTITION OF @ FOR VALUES FROM (20) TO (30)",
        [("1", "1"), ("9", "2"), ("15", "3"), ("25", "4")], {1: "23514", 2: "23514"},
    ),
    "generated column": (
        "CREATE TABLE @ (id int PRIMARY KEY, v int, part int GENERATED ALWAYS AS (100 / v) STORED)",
        [("1", "1"), ("2", "0"), ("2", "2"), ("3", "0")], {1: "22012", 3: "22012"},
    ),
    "predicate of the key": (
        "CREATE TABLE @ (id int, v int); CREATE UNIQUE INDEX ON @ (id) WHERE id > 0",
        [("1", "1"), ("-1", "2"), ("0", "3"), ("2", "4")], {1: "23514", 2: "23514"},
    ),
    "expression of the key": (
        "CREATE TABLE @ (id int, v int); CREATE UNIQUE INDEX ON @ ((100 / id))",
        [("1", "1"), ("0", "2"), ("2", "3")], {1: "22012"},
    ),
    "deferred foreign key": (
        "CREATE TABLE IF NOT EXISTS parent (id int PRIMARY KEY); INSERT INTO parent VALUES (1) ON CONFLICT DO NOTHING; "
        "CREATE TABLE @ (id int PRIMARY KEY, v int REFERENCES parent DEFERRABLE INITIALLY DEFERRED)",
        [("1", "1"), ("2", "2"), ("3", "1")], {1: "23503"},
    ),
    "MATCH FULL, and a parent with a table that inherits": (
        "CREATE TABLE IF NOT EXISTS parent (id int, v int, PRIMARY KEY (id, v)); CREATE TABLE IF NOT EXISTS heir () INHERITS (parent); "
        "INSERT INTO parent SELECT g, 1 FROM generate_series(1, 3) g ON CONFLICT DO NOTHING; INSERT INTO heir VALUES (3, 2); "
        "CREATE TABLE @ (id int PRIMARY KEY, v int, FOREIGN KEY (id, v) REFERENCES parent MATCH FULL)",
        [("1", "1"), ("2", None), ("2", "1"), ("3", "2"), ("3", "1")], {1: "23503", 3: "23503"},
    ),
}  # fmt: skip


KEYS_FOR_THE_SERVER = ("predicate of the key", "expression of the key")


@pytest.mark.parametrize(
    ("kind", "strategy"),
    [
        (kind, strategy)
        for kind in KINDS
        for strategy in STRATEGIES
        if strategy != "hybrid" or kind not in KEYS_FOR_THE_SERVER  # hybrid is refused there
    ],
)
def test_tables_that_refuse_well_spelled_rows(
    database: str, connection: Connection, tmp_path: Path, kind: str, strategy: str
) -> None:
    ddl, rows, refused = KINDS[kind]
    with connection.cursor() as cursor:
        for name in ("loaded", "expected"):
            cursor.execute(ddl.replace("@", name))
    contents = [Rows(("id", "v"), tuple(rows))]

    result = ingest(
        files_of(contents, tmp_path, ["csv"]), "loaded", "id", database, strategy=strategy, concurrency=2, max_rejects=5
    )

    assert recorded(connection) == {(0, place, sqlstate) for place, sqlstate in refused.items()}
    assert result.counts.rejected == len(refused)
    arbiter = {"predicate of the key": {"predicate": "id > 0"}, "expression of the key": {"key": ("(100 / id)",)}}
    oracle = Oracle("expected", ("id",), **arbiter.get(kind, {}))  # type: ignore[arg-type]
    oracle.load(connection, without(contents, {(0, place) for place in refused}))
    assert differing_rows(connection, "loaded", "expected") == []


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "hybrid"])  # it refuses such files
@pytest.mark.parametrize("is_filled", [False, True], ids=["empty", "filled"])
def test_a_row_whose_key_is_null_is_rejected_although_the_index_would_take_it(
    database: str, connection: Connection, tmp_path: Path, strategy: str, is_filled: bool
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE loaded (a int, b timestamptz, v text); CREATE UNIQUE INDEX ON loaded (a, b)")
        if is_filled:
            cursor.execute("INSERT INTO loaded VALUES (0, '2024-01-01 00:00+00', 'before')")
    path = tmp_path / "part0.csv"
    path.write_text("a,b,v\n1,2024-06-01 12:00+02,x\n2,,y\n,2024-06-01 12:00+02,z\n")

    for _ in range(2):
        ingest([path], "loaded", ["a", "b"], database, strategy=strategy, max_rejects=2)

    assert recorded(connection) == {(0, 1, "23502"), (0, 2, "23502")}
    with connection.cursor() as cursor:
        cursor.execute("SELECT a, v FROM loaded WHERE a IS DISTINCT FROM 0")
        assert cursor.fetchall() == [(1, "x")]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_records_of_several_lines_do_not_mislead(
    database: str, connection: Connection, tmp_path: Path, strategy: str
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE loaded (id int PRIMARY KEY, v text, n int)")
    rows = (
        ("1", "a\nb\nc", "1"), ("2", "d", "x"), ("3", "\n", "3"), ("4", "e\r\nf", "4"), ("5", "\r", "5"), ("6", "\n\n", "y"),
        ("7", "g\rh", "7"), ("8", "i", "z"),
    )  # fmt: skip

    ingest(
        files_of([Rows(("id", "v", "n"), rows)], tmp_path, ["csv"]),
        "loaded",
        "id",
        database,
        strategy=strategy,
        max_rejects=3,
    )

    assert recorded(connection) == {(0, 1, "22P02"), (0, 5, "22P02"), (0, 7, "22P02")}
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM loaded ORDER BY id")
        assert cursor.fetchall() == [(1,), (3,), (4,), (5,), (7,)]


@pytest.mark.parametrize("strategy", ["deterministic", "partitioned"])
def test_thousands_of_bad_rows_in_one_piece(
    database: str, connection: Connection, tmp_path: Path, strategy: str
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE loaded (id int PRIMARY KEY, n int)")
    rows = tuple((str(key), "x" if 100 <= key < 2100 else "1") for key in range(2200))

    result = ingest(
        files_of([Rows(("id", "n"), rows)], tmp_path, ["csv"]),
        "loaded",
        "id",
        database,
        strategy=strategy,
        max_rejects=2000,
    )

    assert (result.counts.inserted, result.counts.rejected) == (200, 2000)
    assert recorded(connection) == {(0, key, "22P02") for key in range(100, 2100)}


@pytest.mark.parametrize("strategy", ["auto", "deterministic", "streaming", "hybrid"])
def test_a_row_that_only_the_row_in_the_table_makes_bad_is_rejected(
    database: str, connection: Connection, tmp_path: Path, strategy: str
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE loaded (id int PRIMARY KEY, low int, high int, CHECK (low <= high))")
        cursor.execute("INSERT INTO loaded VALUES (1, 1, 5)")

    files = files_of([Rows(("id", "low"), (("1", "9"), ("2", "9")))], tmp_path, ["csv"])
    ingest(files, "loaded", "id", database, strategy=strategy, max_rejects=5)

    assert recorded(connection) == {(0, 0, "23514")}
    with connection.cursor() as cursor:
        cursor.execute("SELECT reason FROM etl_toolkit.rejects")
        assert "loaded_check" in cursor.fetchone()[0]  # type: ignore[index]
        cursor.execute("SELECT * FROM loaded ORDER BY id")
        assert cursor.fetchall() == [(1, 1, 5), (2, 9, None)]


def test_rows_are_not_collapsed_across_files_where_the_row_in_the_table_may_make_them_bad(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE loaded (id int PRIMARY KEY, low int, high int, CHECK (low <= high))")
        cursor.execute("INSERT INTO loaded VALUES (1, 1, 5)")

    with pytest.raises(UnsafeStrategyError, match=r"loaded_check reads columns that are not in the files \(high\)"):
        ingest(
            files_of([Rows(("id", "low"), (("1", "9"),))], tmp_path, ["csv"]), "loaded", "id", database,
            strategy="partitioned",
        )  # fmt: skip


@pytest.mark.parametrize("strategy", ["auto", "deterministic", "streaming", "hybrid"])
def test_a_check_of_the_whole_row_is_for_the_table_to_judge(
    database: str, connection: Connection, tmp_path: Path, strategy: str
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE loaded (id int PRIMARY KEY, v text)")
        cursor.execute("ALTER TABLE loaded ADD CONSTRAINT whole CHECK (loaded IS NOT NULL)")
    contents = [Rows(("id", "v"), (("1", "a"), ("2", None), ("3", None), ("3", "c"))), Rows(("id", "v"), (("2", "b"),))]
    files = files_of(contents, tmp_path, ["csv", "csv"])

    assert ingest(
        files, "loaded", "id", database, strategy=strategy, max_rejects=5, config=ParallelConfig(chunk_size=1)
    )

    assert recorded(connection) == {(0, 1, "23514")}
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM loaded ORDER BY id")
        assert cursor.fetchall() == [(1, "a"), (2, "b"), (3, "c")]


def test_a_row_whose_parent_is_missing_in_the_table_itself_is_rejected(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE loaded (id int PRIMARY KEY, parent int REFERENCES loaded)")

    ingest(
        files_of([Rows(("id", "parent"), (("2", "1"), ("1", None), ("3", "9")))], tmp_path, ["csv"]), "loaded", "id",
        database, max_rejects=5,
    )  # fmt: skip

    assert recorded(connection) == {(0, 2, "23503")}
    with connection.cursor() as cursor:
        cursor.execute("SELECT reason FROM etl_toolkit.rejects")
        assert "loaded_parent_fkey" in cursor.fetchone()[0]  # type: ignore[index]
        cursor.execute("SELECT id FROM loaded ORDER BY id")
        assert cursor.fetchall() == [(1,), (2,)]


@pytest.mark.parametrize("strategy", ["deterministic", "partitioned"])
def test_a_bad_row_leaves_no_data_in_the_message(
    database: str, connection: Connection, tables: None, tmp_path: Path, strategy: str
) -> None:
    contents = [Rows(COLUMNS, (row(1, grade="top-secret-grade"),))]

    with pytest.raises(RejectLimitError) as raised:
        ingest(files_of(contents, tmp_path, ["csv"]), "loaded", "id", database, strategy=strategy)

    assert "top-secret-grade" not in str(raised.value)


@pytest.mark.parametrize("strategy", ["deterministic", "partitioned"])
def test_a_type_that_is_named_like_another_is_not_taken_for_it(
    database: str, connection: Connection, tmp_path: Path, strategy: str
) -> None:
    """The row that loses would pass for a date; what the table has is an enum of that name."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TYPE public.date AS ENUM ('a', 'b'); CREATE TABLE loaded (id int PRIMARY KEY, v public.date)"
        )
    first = Rows(("id", "v"), (("1", "2024-01-01"), ("2", "a")))
    files = [write(first, tmp_path, "a", "csv"), write(Rows(("id", "v"), (("1", "b"),)), tmp_path, "b", "csv")]

    result = ingest(files, "loaded", "id", database, strategy=strategy, max_rejects=1)

    assert (result.counts.rejected, result.counts.inserted) == (1, 2)


# How servers of other languages say it, out of PostgreSQL's own catalogs (src/backend/po).
@pytest.mark.parametrize(
    "context",
    [
        "COPY etl_probe, line 17, column n: “99”",
        "COPY etl_probe, Zeile 17, Spalte n: „99“",
        "COPY etl_probe, ligne 17, colonne n : « 99 »",
        "etl_probeのCOPY、行 17、列 n: 99",
        "etl_probe 복사, 17번째 줄, n 열: 99",
        "COPY etl_probe, строка 17, столбец n: 99",
        "SQL function f1 statement 1\nCOPY etl_probe, line 17",
    ],
)
def test_the_line_of_a_bad_row_is_found_in_every_language(context: str) -> None:
    found = _LINE.search(context)
    assert found is not None
    assert found[1] == "17"


# How the server's catalogs of messages translate 'COPY %s, line %llu, column %s: "%s"', and the same without a column.
CONTEXTS = {
    "en": ('COPY etl_probe, line 3, column v: "$$ 1"', 'COPY etl_probe, line 3: "1,$$ 2"'),
    "de": ("COPY etl_probe, Zeile 3, Spalte v: »$$ 1«", "COPY etl_probe, Zeile 3: »1,$$ 2«"),
    "es": ("COPY etl_probe, línea 3, columna v: «$$ 1»", "COPY etl_probe, línea 3: «1,$$ 2»"),
    "fr": ("COPY etl_probe, ligne 3, colonne v : « $$ 1 »", "COPY etl_probe, ligne 3 : « 1,$$ 2 »"),
    "ja": ('etl_probeのCOPY、行 3、列 v: "$$ 1"', 'etl_probeのCOPY、行 3: "1,$$ 2"'),
    "ko": ('etl_probe 복사, 3번째 줄, v 열: "$$ 1"', 'etl_probe 복사, 3번째 줄: "1,$$ 2"'),
    "ru": ('COPY etl_probe, строка 3, столбец v: "$$ 1"', 'COPY etl_probe, строка 3: "1,$$ 2"'),
    "ka": ('COPY etl_probe, ხაზი 3, სვეტი v: "$$ 1"', 'COPY etl_probe, ხაზი 3: "1,$$ 2"'),
}


def error(context: str, code: str = "42601") -> Any:
    return SimpleNamespace(pgcode=code, diag=SimpleNamespace(context=context, source_function=None))


@pytest.mark.parametrize("language", CONTEXTS)
def test_an_error_about_a_value_is_one_of_its_row(language: str) -> None:
    of_a_value, of_a_line = CONTEXTS[language]
    assert is_row_error(error(of_a_value))
    assert not is_row_error(error(of_a_line))


def test_statements_in_a_context_are_no_values() -> None:
    assert not is_row_error(
        error('SQL statement "COPY t, 1, 2"\nPL/pgSQL function f(integer, integer) line 3, at SQL statement')
    )
    assert not is_row_error(error("SQL-Anweisung »COPY t, 1, 2«"))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_load_that_is_refused_names_its_bad_rows(database: str, tables: None, tmp_path: Path, strategy: str) -> None:
    faults = ["CHECK", "not a number", "CHECK", "NOT NULL", "foreign key"]
    contents = [Rows(COLUMNS, (row(0), *(bad(key, fault) for key, fault in enumerate(faults, start=1))))]

    with pytest.raises(RejectLimitError) as raised:
        ingest(files_of(contents, tmp_path, ["csv"]), "loaded", "id", database, strategy=strategy)

    error = raised.value
    assert [(item.line, item.sqlstate) for item in error.rejects] == [
        (3, "23514"), (4, "22P02"), (5, "23514"), (6, "23502"), (7, "23503")
    ]  # fmt: skip
    assert ", line 3: " in str(error), "the first one"
    assert [note.split("part0.csv, ")[1].split(":")[0] for note in error.notes] == [
        "line 4",
        "line 5",
        "line 6",
        "line 7",
    ]


@pytest.mark.parametrize("strategy", ["deterministic", "partitioned"])
def test_of_many_bad_rows_ten_are_named_and_the_others_are_said_to_be_there(
    database: str, tables: None, tmp_path: Path, strategy: str
) -> None:
    contents = [Rows(COLUMNS, tuple(bad(key, "CHECK") for key in range(40)))]

    with pytest.raises(RejectLimitError, match=r"line 2: .*more than 3 rows") as raised:
        ingest(files_of(contents, tmp_path, ["csv"]), "loaded", "id", database, strategy=strategy, max_rejects=3)

    alike, more = raised.value.notes
    assert "part0.csv, lines 3, 4, 5, 6, 7, 8, 9, 10 and 11: new row" in alike
    assert more.startswith("and at least 1 more; ")


def test_malformed_records_of_all_files_are_named(database: str, tables: None, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("id,day\n1,2024-01-01\n2,2024-01-01,x\n3\n4,2024-01-01\n")

    with pytest.raises(RejectLimitError, match=r"a\.csv, line 3: ") as raised:
        ingest(str(tmp_path / "*.csv"), "loaded", "id", database)

    assert [(Path(item.file).name, item.line) for item in raised.value.rejects] == [
        ("a.csv", 3), ("a.csv", 4), ("b.csv", 3), ("b.csv", 4)
    ]  # fmt: skip


def test_rows_that_a_trigger_refuses_are_named(database: str, connection: Connection, tmp_path: Path) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE loaded (id int PRIMARY KEY, v int); CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql "
            "AS $$ BEGIN IF NEW.v < 0 THEN RAISE check_violation USING MESSAGE = 'negative'; END IF; RETURN NEW; END $$; "
            "CREATE TRIGGER t BEFORE INSERT ON loaded FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
    contents = [Rows(("id", "v"), tuple((str(key), str(key % 3 - 1)) for key in range(9)))]

    with pytest.raises(RejectLimitError, match="line 2: negative") as raised:
        ingest(files_of(contents, tmp_path, ["csv"]), "loaded", "id", database)

    assert [note.split("part0.csv, ")[1] for note in raised.value.notes] == ["lines 5 and 8: negative (SQLSTATE 23514)"]
