"""Whatever the strategy, the workers and the format: the table is what loading the files one by one would have left."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2.extensions import connection as Connection

from etl_toolkit import ParallelConfig, ingest
from etl_toolkit.errors import UnsafeStrategyError, UsageError
from etl_toolkit.model import LoadResult
from tests.oracle import Oracle, Rows, differing_rows, write

STRATEGIES = ("auto", "full_parallel", "hybrid", "deterministic", "streaming", "partitioned")
WORKERS = (1, 2, 3, 8)
FORMATS = ("csv", "parquet", "mixed", "frame")
OVERLAPS = ("none", "chain", "all")
STATES = ("empty", "filled")
SMALL_CHUNKS = ParallelConfig(chunk_size=7, sub_batch_size=5)


def covering(*factors: Sequence[str | int]) -> list[tuple[Any, ...]]:
    """Cases in which all values of every two factors meet, and those of the first with any two others but 1 and 2."""
    subsets = [(0, *pair) for pair in itertools.combinations(range(1, len(factors)), 2) if pair != (1, 2)] + [(1, 2)]
    wanted = {(at, values) for at in subsets for values in itertools.product(*(factors[index] for index in at))}
    everything = list(itertools.product(*factors))

    def covered(case: tuple[Any, ...]) -> set[Any]:
        return {(at, tuple(case[index] for index in at)) for at in subsets}

    cases = []
    while wanted:
        best = max(everything, key=lambda case: len(covered(case) & wanted))
        cases.append(best)
        wanted -= covered(best)
    return cases


def balanced(result: LoadResult, rows_per_file: Sequence[int]) -> None:
    """The counts add up, per file and in sum, by arithmetic of our own; and as many rows were read as were written down."""
    assert result
    outcomes = (
        "inserted",
        "updated",
        "unchanged",
        "superseded_same_file",
        "superseded_later_file",
        "rejected",
        "stale",
    )
    per_file = [asdict(counts) for counts in result.files.values()]
    assert [counts["read"] for counts in per_file] == list(rows_per_file)
    for counts in (*per_file, asdict(result.counts)):
        assert counts["read"] == sum(counts[name] for name in outcomes), counts
        assert min(counts.values()) >= 0, counts
    for name in ("read", *outcomes):
        assert asdict(result.counts)[name] == sum(counts[name] for counts in per_file)


def files_of(overlap: str) -> list[Rows]:
    """Four files of 24 rows: no shared keys, each sharing some with the next, or all the same keys; two doubled rows each."""
    step = {"none": 100, "chain": 15, "all": 0}[overlap]
    contents = []
    for number in range(4):
        keys = [number * step + index for index in range(22)]
        keys.sort(key=lambda key: key * 17 % 23)
        keys += keys[:2]
        rows = [
            (str(key), f"file {number} row {place}", None if key % 5 == 0 else str(key * 10))
            for place, key in enumerate(keys)
        ]
        contents.append(Rows(("id", "name", "amount"), tuple(rows)))
    return contents


def is_refused(strategy: str, overlap: str) -> bool:
    """The one refusal these files deserve: files that share keys, loaded all at once."""
    return strategy == "full_parallel" and overlap != "none"


@pytest.mark.parametrize(
    ("strategy", "workers", "form", "overlap", "state"), covering(STRATEGIES, WORKERS, FORMATS, OVERLAPS, STATES)
)
def test_every_strategy_leaves_the_sequential_result(
    database: str,
    connection: Connection,
    tmp_path: Path,
    strategy: str,
    workers: int,
    form: str,
    overlap: str,
    state: str,
) -> None:
    contents = files_of(overlap)
    with connection.cursor() as cursor:
        for name in ("loaded", "expected"):
            cursor.execute(
                f"CREATE TABLE {name} (id int PRIMARY KEY, name text, amount bigint, note text DEFAULT 'kept')"
            )
            if state == "filled":
                cursor.execute(f"INSERT INTO {name} SELECT n, 'before', n, 'before' FROM generate_series(10, 40) n")
    forms = {"mixed": ("csv", "parquet", "frame", "quoted"), "frame": ("frame", "arrow")}.get(form, (form,))
    files = [
        write(content, tmp_path, f"part{number}", forms[number % len(forms)], integers=("id", "amount"))
        for number, content in enumerate(contents)
    ]

    def load() -> LoadResult:
        return ingest(files, "loaded", "id", database, strategy=strategy, concurrency=workers, config=SMALL_CHUNKS)

    if is_refused(strategy, overlap):
        with pytest.raises(UnsafeStrategyError, match=r"files overlap: .* share \d+ keys"):
            load()
        assert differing_rows(connection, "loaded", "expected") == []
        return
    result = load()

    Oracle("expected", ("id",)).load(connection, contents)
    assert differing_rows(connection, "loaded", "expected") == []
    balanced(result, [24] * 4)
    if strategy != "auto":
        assert result.strategy == strategy

    again = load()
    assert differing_rows(connection, "loaded", "expected") == []
    balanced(again, [24] * 4)
    if again.strategy == "partitioned":
        assert again.counts.written == 0  # collapsed rows, all in the table already


# --- properties --------------------------------------------------------------------------------------------------------


NASTY = (
    "", " ", "  x ", '"', '""', ",", ";", "\t", "\n", "\r\n", "\\", "\\.", "\\N", "NULL", "NA", "null", "'", "a,b", "é", "😀", "\u2028",
    "\ufeffx", "0", "007", "1.0", "a\nb", '"a"', "#", "x" * 300,
)  # fmt: skip
texts = st.one_of(
    st.sampled_from(NASTY), st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=6)
)
values = st.one_of(st.none(), texts)
strategies = st.sampled_from(STRATEGIES)
workers = st.sampled_from(WORKERS)
forms = st.one_of(
    st.sampled_from(("csv", "quoted", "parquet", "frame", "arrow")).map(lambda form: [form] * 6),
    st.lists(st.sampled_from(("csv", "quoted", "parquet", "frame", "arrow")), min_size=6, max_size=6),
)


@st.composite
def with_copies(draw: st.DrawFn, contents: st.SearchStrategy[list[Rows]]) -> list[Rows]:
    """Files, and every other time one or two of them once more, anywhere behind themselves."""
    drawn = draw(contents)
    for _ in range(draw(st.sampled_from((0, 0, 1, 2))) if drawn else 0):
        original = draw(st.integers(0, len(drawn) - 1))
        drawn.insert(draw(st.integers(original + 1, len(drawn))), drawn[original])
    return drawn


def places_read(contents: Sequence[Rows], written_as: Sequence[str], action: str) -> list[int]:
    """The files that are read: of those that are the same, the last one (for `ignore` the first)."""
    if len({frozenset(content.columns) for content in contents}) > 1:
        return [*range(len(contents))]
    same: dict[Any, list[int]] = {}
    for place, file in enumerate(zip(contents, written_as, strict=False)):
        same.setdefault(file, []).append(place)
    return sorted(places[0 if action == "ignore" else -1] for places in same.values())


def check(
    shared: tuple[str, Connection], ddl: str, contents: Sequence[Rows], written_as: Sequence[str], oracle: Oracle, *,
    refused: Sequence[str] = (), before: Rows | None = None, integers: Sequence[str] = (), **options: Any,
) -> LoadResult | None:  # fmt: skip
    """Load into `loaded`, ask the oracle for `expected`, compare. A strategy in `refused` has to refuse instead."""
    dsn, connection = shared
    with connection.cursor() as cursor:
        for name in ("loaded", "expected"):
            cursor.execute(f"DROP TABLE IF EXISTS {name}; CREATE TABLE {name} {ddl}")
    if before:
        for name in ("loaded", "expected"):
            Oracle(name, oracle.key_columns, key=oracle.key, predicate=oracle.predicate).load(connection, [before])
    with tempfile.TemporaryDirectory(prefix="etl_test_") as directory:
        files = [
            write(content, Path(directory), f"part{number}", form, integers=integers)  # type: ignore[arg-type]
            for number, (content, form) in enumerate(zip(contents, written_as, strict=False))
        ]
        try:
            result = ingest(
                files, "loaded", oracle.key_columns, dsn, config=SMALL_CHUNKS, order_by=oracle.order_by,
                on_conflict=oracle.action, **options,
            )  # fmt: skip
        except UnsafeStrategyError:
            assert options["strategy"] in refused
            return None
    assert options["strategy"] not in refused
    oracle.load(connection, contents)
    assert differing_rows(connection, "loaded", "expected") == []
    kept = places_read(contents, written_as, oracle.action)
    balanced(result, [len(contents[place].rows) for place in kept])
    assert len(result.duplicates) == len(contents) - len(kept)
    return result


def overlapping(
    contents: Sequence[Rows], *key: str, written_as: Sequence[str], action: str = "update"
) -> tuple[str, ...]:
    """Who has to refuse files that share keys, and nothing else."""
    seen: set[tuple[Any, ...]] = set()
    for content in (contents[place] for place in places_read(contents, written_as, action)):
        places = [content.columns.index(name) for name in key]
        own = {tuple(row[place] for place in places) for row in content.rows}
        if seen & own:
            return ("full_parallel",)
        seen |= own
    return ()


def rows_of(columns: tuple[str, ...], *cells: st.SearchStrategy[str | None], most: int = 8) -> st.SearchStrategy[Rows]:
    return st.lists(st.tuples(*cells), max_size=most).map(lambda rows: Rows(columns, tuple(rows)))


def files(
    columns: tuple[str, ...], *cells: st.SearchStrategy[str | None], most: int = 8
) -> st.SearchStrategy[list[Rows]]:
    return with_copies(st.lists(rows_of(columns, *cells, most=most), min_size=1, max_size=4))


def examples(count: int) -> Any:
    return settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


few_integers = st.integers(1, 3).map(str)
small_integers = st.integers(-3, 12).map(str)


@examples(40)
@given(
    contents=files(("id", "v", "w"), small_integers, values, values),
    before=st.one_of(st.none(), rows_of(("id", "v", "w"), small_integers, values, values)),
    forms=forms, strategy=strategies, workers=workers, action=st.sampled_from(("update", "update", "ignore")),
)  # fmt: skip
def test_any_text_in_any_format(
    shared: tuple[str, Connection], contents: list[Rows], before: Rows | None, forms: list[str], strategy: str, workers: int,
    action: Any,
) -> None:  # fmt: skip
    check(
        shared, "(id int PRIMARY KEY, v text, w varchar(400))", contents, forms, Oracle("expected", ("id",), action),
        before=before, refused=overlapping(contents, "id", written_as=forms, action=action), integers=("id",), strategy=strategy, concurrency=workers,
    )  # fmt: skip


@examples(25)
@given(
    contents=files(("a", "b", "v"), texts, texts, values),
    before=st.one_of(st.none(), rows_of(("a", "b", "v"), texts, texts, values)),
    forms=forms, strategy=strategies, workers=workers,
)  # fmt: skip
def test_composite_text_keys(
    shared: tuple[str, Connection],
    contents: list[Rows],
    before: Rows | None,
    forms: list[str],
    strategy: str,
    workers: int,
) -> None:
    check(
        shared, '(v text, a text, b text COLLATE "C", PRIMARY KEY (b, a))', contents, forms, Oracle("expected", ("a", "b")),
        before=before, refused=overlapping(contents, "a", "b", written_as=forms), strategy=strategy, concurrency=workers,
    )  # fmt: skip


moments = st.one_of(st.none(), st.sampled_from(("-1", "0", "1", "2", "03", "+2")))


@examples(40)
@given(
    contents=files(("id", "seen", "v"), few_integers, moments, texts),
    before=st.one_of(st.none(), rows_of(("id", "seen", "v"), few_integers, moments, texts)),
    forms=forms, strategy=strategies, workers=workers, action=st.sampled_from(("update", "newer")),
    kind=st.sampled_from(("int", "numeric")),
)  # fmt: skip
def test_the_greatest_order_value_wins(
    shared: tuple[str, Connection], contents: list[Rows], before: Rows | None, forms: list[str], strategy: str, workers: int,
    action: Any, kind: str,
) -> None:  # fmt: skip
    refused = overlapping(contents, "id", written_as=forms)
    if kind == "numeric":
        refused = (*refused, "partitioned")  # only the server can order these
    elif any("+2" in row for content in contents for row in content.rows):
        refused = ("full_parallel", "hybrid")  # a spelling that only the server can read
    check(
        shared, f"(id int PRIMARY KEY, seen {kind}, v text)", contents, forms, Oracle("expected", ("id",), action, "seen"),
        before=before, refused=refused, integers=("id",), strategy=strategy,
        concurrency=workers,
    )  # fmt: skip


@st.composite
def files_with_own_columns(draw: st.DrawFn) -> list[Rows]:
    """Files that carry the key and any of the other columns, in any order."""
    contents = []
    for _ in range(draw(st.integers(1, 4))):
        columns = draw(st.permutations(["id", *draw(st.lists(st.sampled_from(("u", "v", "w")), unique=True))]))
        cells = [small_integers if name == "id" else values for name in columns]
        contents.append(draw(rows_of(tuple(columns), *cells)))
    return draw(with_copies(st.just([content for content in contents if len(content.columns) > 1 or content.rows])))


@examples(25)
@given(
    contents=files_with_own_columns(), before=rows_of(("id", "u", "v", "w"), small_integers, values, values, values),
    forms=forms, strategy=strategies, workers=workers, action=st.sampled_from(("update", "ignore")),
)  # fmt: skip
def test_a_later_file_changes_only_its_own_columns(
    shared: tuple[str, Connection],
    contents: list[Rows],
    before: Rows,
    forms: list[str],
    strategy: str,
    workers: int,
    action: Any,
) -> None:
    if not contents:
        return
    refused = overlapping(contents, "id", written_as=forms, action=action)
    if len({frozenset(content.columns) for content in contents}) > 1:
        refused = (*refused, "partitioned")  # rows of different columns cannot be collapsed into one
    check(
        shared, "(id int PRIMARY KEY, u text DEFAULT 'u', v text, w text DEFAULT 'w')", contents, forms,
        Oracle("expected", ("id",), action), before=before, refused=refused, integers=("id",),
        strategy=strategy, concurrency=workers,
    )  # fmt: skip


@examples(20)
@given(
    contents=files(("a", "b"), texts, small_integers), before=st.one_of(st.none(), rows_of(("a", "b"), texts, small_integers)),
    forms=forms, strategy=strategies, workers=workers,
)  # fmt: skip
def test_tables_of_nothing_but_keys(
    shared: tuple[str, Connection],
    contents: list[Rows],
    before: Rows | None,
    forms: list[str],
    strategy: str,
    workers: int,
) -> None:
    check(
        shared, "(a text, b smallint, PRIMARY KEY (a, b))", contents, forms, Oracle("expected", ("a", "b")), before=before,
        refused=overlapping(contents, "a", "b", written_as=forms), strategy=strategy, concurrency=workers,
    )  # fmt: skip


# --- tables of every kind ------------------------------------------------------------------------------------------------

TABLES = {
    "quoted identifiers": (
        '"Sales ""2024"""."Order, Lines"', '"Line ""Id"" %s" int PRIMARY KEY, "Value;" text, "select" int', ('Line "Id" %s',),
        ('Line "Id" %s', "Value;", "select"), {},
    ),
    "partitioned by range": (
        "warehouse.facts", "id int, v text, n int, PRIMARY KEY (id)", ("id",), ("id", "v", "n"), {"partition": "RANGE (id)"},
    ),
    "partitioned by hash": (
        "warehouse.facts", "id int, v text, n int, PRIMARY KEY (id)", ("id",), ("id", "v", "n"), {"partition": "HASH (id)"},
    ),
    "generated column": (
        "warehouse.facts", "double int GENERATED ALWAYS AS (n * 2) STORED, id int PRIMARY KEY, v text, n int", ("id",),
        ("id", "v", "n"), {},
    ),
    "identity always": (
        "warehouse.facts", "id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text, n int", ("id",), ("id", "v", "n"),
        {"overriding": True},
    ),
    "identity by default": (
        "warehouse.facts", "id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, v text, n int", ("id",), ("id", "v", "n"), {},
    ),
    "serial beside another key": (
        "warehouse.facts", "surrogate serial PRIMARY KEY, id int UNIQUE NOT NULL, v text, n int", ("id",), ("id", "v", "n"),
        {"compared": ("id", "v", "n")},
    ),
    "serial beside a nullable key": (
        "warehouse.facts", "surrogate serial PRIMARY KEY, id int UNIQUE, v text, n int", ("id",), ("id", "v", "n"),
        {"compared": ("id", "v", "n")},
    ),
    "dropped column": (
        "warehouse.facts", "gone int, id int PRIMARY KEY, v text, n int", ("id",), ("id", "v", "n"), {"drop": "gone"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", TABLES)
def test_tables_of_every_kind(
    database: str, connection: Connection, tmp_path: Path, kind: str, state: str, strategy: str
) -> None:
    from psycopg2.extensions import quote_ident
    from psycopg2.sql import SQL

    name, ddl, key, columns, extra = TABLES[kind]
    schema, table = name.split(".")
    quoted_columns = ", ".join(quote_ident(column, connection) for column in columns)
    expected = f"expected_side.{table}"
    with connection.cursor() as cursor:
        for side in (schema, "expected_side"):
            cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {side}")
            partition = f" PARTITION BY {extra['partition']}" if "partition" in extra else ""
            cursor.execute(SQL(f"CREATE TABLE {side}.{table} ({ddl}){partition}"))
            if partition.endswith("RANGE (id)"):
                cursor.execute(
                    f"CREATE TABLE {side}.low PARTITION OF {side}.{table} FOR VALUES FROM (MINVALUE) TO (30)"
                )
                cursor.execute(
                    f"CREATE TABLE {side}.high PARTITION OF {side}.{table} FOR VALUES FROM (30) TO (MAXVALUE)"
                )
            elif partition:
                for rest in range(2):
                    bound = f"FOR VALUES WITH (MODULUS 2, REMAINDER {rest})"
                    cursor.execute(f"CREATE TABLE {side}.part{rest} PARTITION OF {side}.{table} {bound}")
            if "drop" in extra:
                cursor.execute(f"ALTER TABLE {side}.{table} DROP COLUMN {extra['drop']}")
            if state == "filled":
                overriding = "OVERRIDING SYSTEM VALUE" if extra.get("overriding") else ""
                cursor.execute(
                    SQL(f"INSERT INTO {side}.{table} ({quoted_columns}) {overriding} SELECT n, 'before', n ")
                    + SQL("FROM generate_series(10, 40) n")
                )
    overlap = "none" if strategy == "full_parallel" else "chain"
    contents = [Rows(columns, content.rows) for content in files_of(overlap)]
    paths = [
        write(content, tmp_path, f"f{number}", "csv" if number % 2 else "quoted")
        for number, content in enumerate(contents)
    ]

    result = ingest(paths, name, key, database, strategy=strategy, concurrency=2)

    oracle = Oracle(expected, key, overriding=bool(extra.get("overriding")))
    oracle.load(connection, contents)
    assert differing_rows(connection, name, expected, extra.get("compared")) == []
    balanced(result, [24] * 4)


def test_the_order_column_and_ignore_contradict_each_other(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE loaded (id int PRIMARY KEY, seen int)")
    file = write(Rows(("id", "seen"), (("1", "2"), ("1", "1"))), tmp_path, "a", "csv")

    with pytest.raises(UsageError, match="ignore"):
        ingest(file, "loaded", "id", database, on_conflict="ignore", order_by="seen")


def test_order_by_needs_the_same_columns_in_every_file(database: str, connection: Connection, tmp_path: Path) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE loaded (id int PRIMARY KEY, seen int, v text DEFAULT 'default', w text)")
    first = write(Rows(("id", "seen", "v"), (("1", "2", "a"),)), tmp_path, "a", "csv")
    second = write(Rows(("id", "seen", "w"), (("1", "1", "b"),)), tmp_path, "b", "csv")

    with pytest.raises(UsageError, match="columns"):
        ingest([first, second], "loaded", "id", database, order_by="seen")


def test_the_same_content_is_loaded_once_and_reported(database: str, connection: Connection, tmp_path: Path) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE loaded (id int PRIMARY KEY, v text)")
    content = Rows(("id", "v"), (("1", "a"), ("2", "b")))
    first, second = write(content, tmp_path, "a", "csv"), write(content, tmp_path, "b", "csv")

    result = ingest([first, second], "loaded", "id", database)

    assert result.duplicates == ((str(first), str(second)),)
    assert result.counts.read == 2
    balanced(result, [2])
