"""Key equality is the server's: detection, routing and collapse agree with the unique index that arbitrates.

The client may judge a key only where DuckDB provably agrees with the index; here the server is asked about every kind.
"""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Sequence
from itertools import permutations, product
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import psycopg2
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg2.extensions import connection as Connection

from etl_toolkit import ConflictAwareProcessor, ParallelConfig, ingest, scan
from etl_toolkit.errors import UnsafeStrategyError
from etl_toolkit.keys import KEY_TYPES, SHORT_RECORD_BYTES, key_type, record_grammar, value_grammar
from etl_toolkit.loading.staging_tables import copy_into
from etl_toolkit.model import Layout, ReadOptions, TargetTable
from etl_toolkit.sources import resolve
from etl_toolkit.target import read_target
from etl_toolkit.workspace import open_workspace
from tests.oracle import Oracle, Rows, differing_rows, write
from tests.texts_of import text_of

SMALL = ParallelConfig(chunk_size=3, sub_batch_size=2)


@pytest.fixture(scope="module")
def bench(shared: tuple[str, Connection]) -> tuple[str, Connection]:
    """The module's database, with the types that the tests need."""
    with shared[1].cursor() as cursor:
        cursor.execute(
            "CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy'); CREATE DOMAIN positive AS int CHECK (VALUE > 0)"
        )
        cursor.execute("CREATE TYPE pair AS (a int, b text); SET TimeZone = 'UTC'")
    return shared


def require(connection: Connection, statement: str) -> None:
    """Run a statement that a server may not be able to; skip with its own reason then."""
    with connection.cursor() as cursor:
        try:
            cursor.execute(statement)
        except (psycopg2.errors.FeatureNotSupported, psycopg2.errors.UndefinedFile) as error:
            pytest.skip(str(error).strip().splitlines()[0])


def examples(count: int) -> Any:
    return settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


# --- texts that hurt -------------------------------------------------------------------------------------------------

digits = st.integers(-(2**63), 2**63 - 1) | st.integers(-99, 99)
numbers = st.one_of(
    digits.map(str),
    st.tuples(st.sampled_from(("", "+", "-", " ", "0", "00", "-0", "0x", "0b", "0o")), st.integers(0, 30)).map(
        lambda pair: f"{pair[0]}{pair[1]}"
    ),
    st.sampled_from(
        ("007", "+7", " 7", "7 ", "0x7", "1_000", "1000", "7.0", "7e0", "٧", "", "-0", "0", "000000000007")
    ),
)
decimals = numbers | st.sampled_from(
    ("1.0", "1.00", "1", "01", ".5", "0.5", "0.50", "5e-1", "NaN", "nan", "Infinity", "inf")
)
letters = st.one_of(
    st.text(st.sampled_from("aAbB ßéÉ"), max_size=4),
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=3),
    st.sampled_from(("", " ", "a", "a ", "a  ", "A", "e\u0301", "é", "ﬁ", "fi", "ss", "ß", "I", "i", "ı", "İ")),
)
uuids = st.uuids().map(str).flatmap(
    lambda text: st.sampled_from(
        (text, text.upper(), "{" + text + "}", text.replace("-", ""), text[:4] + "-" + text[4:])
    )
) | st.sampled_from(("00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-00000000000A"))
days = st.one_of(
    st.dates().map(str),
    st.sampled_from((
        "2024-02-29", "2023-02-29", "2024-1-2", "2024-01-02", "20240102", "Jan 2 2024", "1/2/2024", "infinity", "epoch",
        "2024-01-02 BC", "0001-01-01", "9999-12-31", "10000-01-01", "2024-01-02T00:00:00", "1582-10-10", "2024-04-31",
    )),
)  # fmt: skip
clock = st.sampled_from((
    "00:00:00", "23:59:59", "12:00:00.1", "12:00:00.100000", "12:00:00.1234567", "12:00:00.123456", "24:00:00", "12:00",
    "12:00:60", "01:02:03 AM", "00:00:00.4", "00:00:00.5", "02:30:00",
))  # fmt: skip
offsets = st.sampled_from((
    "", "Z", "z", "+00", "+00:00", "+0000", "-00:30", "+05:30", "+0530", "+13", "-13:59", "+14", "+15:59", " UTC", "+02",
    " Europe/Berlin",
))  # fmt: skip
timestamps = st.tuples(days, st.sampled_from((" ", "T", "t", "  ")), clock, offsets).map("".join) | st.tuples(
    st.sampled_from(("2024-01-02", "2024-01-01", "1000-01-01", "2999-12-31")),
    st.sampled_from((" ", "T")),
    clock,
    offsets,
).map("".join)

# Declared type → texts of it. Those of KEY_TYPES come first; of the others the client must not judge a single one.
PROVEN = {
    "smallint": numbers, "int": numbers, "bigint": numbers, "uuid": uuids, "date": days, "timestamp": timestamps,
    "timestamptz": timestamps, "text": letters, 'text COLLATE "C"': letters, "varchar": letters, "varchar(3)": letters,
}  # fmt: skip
UNPROVEN = {
    "numeric": decimals, "numeric(6,2)": decimals, "float8": decimals, "real": decimals, "char(4)": letters,
    "bool": st.sampled_from(("t", "true", "TRUE", "1", "on", "yes", "f", "0", "off")), "citext": letters,
    "timestamp(0)": timestamps, "timestamptz(3)": timestamps, "time": clock, "timetz": st.tuples(clock, offsets).map("".join),
    "interval": st.sampled_from(("1 day", "24:00:00", "1440 min", "1 mon", "30 days", "P1D", "0", "-00:00:00")),
    "bytea": st.sampled_from(("\\x41", "A", "\\x", "", "\\101", "\\x4142", "AB")),
    "inet": st.sampled_from(("10.0.0.1", "10.0.0.1/32", "10.0.0.1/24", "::1", "0:0::1", "::ffff:10.0.0.1")),
    "macaddr": st.sampled_from(("08:00:2b:01:02:03", "08-00-2B-01-02-03", "08002b010203")),
    "jsonb": st.sampled_from(("1", "1.0", '{"a":1,"b":2}', '{"b": 2, "a": 1}', "null", '"a"')),
    "int[]": st.sampled_from(("{1}", "{ 1 }", "{01}", "[1:1]={1}", "[0:0]={1}", "{}", "{NULL}", "{1,2}")),
    "int4range": st.sampled_from(("[1,2)", "[1,1]", "(0,1]", "empty", "[1,1)")),
    "bit(3)": st.sampled_from(("101", "B101", "b101", "X5", "111")),
    "money": st.sampled_from(("1", "1.00", "$1.00", "1.001", "-1")), "oid": numbers, "name": letters,
    "mood": st.sampled_from(("sad", "ok", "happy")), "positive": numbers,
    "pair": st.sampled_from(("(1,a)", '(1,"a")', "(01,a)", "(,)")),
}  # fmt: skip


WITHOUT_HASH = ("bit(3)", "money")  # so their rows cannot be divided among workers


def classes(connection: Connection, texts: Sequence[str]) -> dict[str, int]:
    """The server's verdict: texts with the same number are one key under the index; a text it refuses has none."""
    found = {}
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE judged RESTART IDENTITY")
        for text in texts:
            try:
                cursor.execute(
                    "INSERT INTO judged (k) VALUES (%s) ON CONFLICT (k) DO UPDATE SET n = 0 RETURNING id", (text,)
                )
            except (psycopg2.DataError, psycopg2.IntegrityError):
                continue
            found[text] = cursor.fetchone()[0]  # type: ignore[index]
    return found


def judge_table(connection: Connection, declared: str) -> TargetTable:
    if declared == "citext":
        require(connection, "CREATE EXTENSION IF NOT EXISTS citext")
    with connection.cursor() as cursor:
        cursor.execute(
            "DROP TABLE IF EXISTS judged; CREATE TABLE judged (id int GENERATED ALWAYS AS IDENTITY, n int, "
            f"k {declared} NOT NULL UNIQUE)"
        )
    target = read_target(connection, "judged", ["k"])
    connection.rollback()
    return target


@pytest.mark.parametrize("declared", PROVEN)
def test_what_the_client_judges_is_what_the_index_says(bench: tuple[str, Connection], declared: str) -> None:
    connection = bench[1]
    kind = key_type(judge_table(connection, declared).column("k"))
    assert kind is not None
    client = duckdb.connect()
    judged = []

    drawn = PROVEN[declared]
    if kind.grammar:
        grammar = kind.grammar
        drawn = drawn | st.integers(0, 2**64).map(lambda seed: text_of(grammar, Random(seed)))  # noqa: S311

    @examples(80)
    @given(st.lists(drawn, min_size=2, max_size=12, unique=True))
    def agree(texts: list[str]) -> None:
        rows = client.execute(
            f"SELECT t, TRY_CAST(t AS {kind.duckdb_type})::VARCHAR, dense_rank() OVER (ORDER BY TRY_CAST(t AS {kind.duckdb_type})) "
            "FROM (SELECT unnest(?::VARCHAR[]) AS t) WHERE ? IS NULL OR (regexp_full_match(t, ?) AND "
            f"(TRY_CAST(t AS {kind.duckdb_type}) IS NOT NULL OR ?))",
            [texts, kind.grammar, kind.grammar or "", not kind.is_integer],
        ).fetchall()
        proven = {text: rank for text, _, rank in rows}
        server = classes(connection, list(proven))
        for text, value, _ in rows:
            assert value is not None, f"{text!r} is judged although DuckDB cannot read it as {kind.duckdb_type}"
            if not declared.startswith("varchar("):  # one too long is refused, whoever judges it
                assert text in server, f"{text!r} is judged although the server refuses it"
        for left, right in permutations(server, 2):
            assert (proven[left] == proven[right]) == (server[left] == server[right]), (left, right)
        judged.extend(server)

    agree()
    assert len(set(judged)) > 20, "the texts drawn were hardly ever judged: the test shows nothing"
    client.close()


@pytest.mark.parametrize("declared", UNPROVEN)
def test_of_other_types_the_client_judges_nothing(bench: tuple[str, Connection], declared: str) -> None:
    target = judge_table(bench[1], declared)

    assert key_type(target.column("k")) is None
    assert target.forced("server")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", ":"])
@pytest.mark.parametrize(("before", "behind"), [(0, 0), (0, 2), (1, 1), (31, 0), (32, 1), (1500, 0)])
def test_a_key_is_read_alike_from_a_line_and_from_a_parsed_record(
    tmp_path: Path, delimiter: str, before: int, behind: int
) -> None:
    keys = [
        "7",
        "007",
        "-3",
        "+7",
        " 7",
        "7 ",
        "1e2",
        "1_000",
        "0x7",
        "",
        "9" * 18,
        "9" * 19,
        "9223372036854775807",
        "9223372036854775808",
        "٧",
        "-",
        "7.0",
        "-0",
    ]
    header = [*(f"a{n}" for n in range(before)), "id", *(f"z{n}" for n in range(behind)), "last"]
    read = []
    for number, last in enumerate(("x", f'"x{delimiter}"')):  # a quote makes DuckDB parse the file
        lines = [["1"] * before + [key] + ["2"] * behind + [last] for key in keys]
        path = tmp_path / f"{number}.csv"
        path.write_text("".join(delimiter.join(line) + "\n" for line in (header, *lines)))
        with open_workspace(ParallelConfig(), threads=1) as workspace:
            sources = resolve([path], ReadOptions(delimiter=delimiter), workspace)
            assert sources.files[0].is_plain is (number == 0)
            scan.scan(sources.files, ["id"], workspace, key_types=[KEY_TYPES["int8"]])
            read.append(workspace.query("SELECT k0, doubt FROM rows ORDER BY rowid"))
    assert read[0] == read[1]
    judged = {key: row[0] for key, row in zip(keys, read[0], strict=True) if row[1] == scan.PROVEN}
    assert judged == {"7": 7, "007": 7, "-3": -3, "9" * 18: 10**18 - 1, "9223372036854775807": 2**63 - 1, "-0": 0}
    assert [key for key, row in zip(keys, read[0], strict=True) if row[1] == scan.NULL_KEY] == [""]


def test_every_key_type_is_held_against_the_server(bench: tuple[str, Connection]) -> None:
    covered = {judge_table(bench[1], declared).column("k").base_type for declared in PROVEN}

    assert covered == set(KEY_TYPES)


# --- end to end --------------------------------------------------------------------------------------------------------


def compare(bench: tuple[str, Connection], ddl: str, contents: Sequence[Rows], oracle: Oracle, **options: Any) -> Any:
    """Load as CSV, Parquet and frames by turns; the table is the oracle's. Returns the result, None where refused."""
    dsn, connection = bench
    with connection.cursor() as cursor:
        for name in ("loaded", "expected"):
            cursor.execute(f"DROP TABLE IF EXISTS {name}; CREATE TABLE {name} {ddl.replace('@', name)}")
    forms = options.pop("forms", ("csv", "parquet", "arrow", "quoted"))
    with tempfile.TemporaryDirectory(prefix="etl_test_") as directory:
        files = [
            write(content, Path(directory), f"part{number}", forms[number % len(forms)])
            for number, content in enumerate(contents)
        ]
        result = ingest(
            files, "loaded", oracle.key_columns, dsn, config=SMALL, order_by=oracle.order_by, on_conflict=oracle.action,
            **options,
        )  # fmt: skip
    oracle.load(connection, contents)
    assert differing_rows(connection, "loaded", "expected") == []
    assert result.counts.read == sum(len(content.rows) for content in contents)
    return result


@pytest.mark.parametrize("declared", [*PROVEN, *UNPROVEN])
def test_equal_keys_meet_whatever_their_spelling(bench: tuple[str, Connection], declared: str) -> None:
    connection = bench[1]
    key = (PROVEN | UNPROVEN)[declared]
    judge_table(connection, declared)
    paths = set()

    @examples(6)
    @given(
        st.lists(st.lists(key, min_size=1, max_size=5), min_size=2, max_size=3),
        st.sampled_from(("auto", "partitioned", "deterministic", "streaming")),
        st.sampled_from(("update", "ignore")), st.sampled_from((2, 3)),
    )  # fmt: skip
    def meet(drawn: list[list[str]], strategy: str, action: Any, workers: int) -> None:
        accepted = classes(connection, [text for texts in drawn for text in texts])
        contents = [
            Rows(("k", "v"), tuple((text, f"{number}.{place}") for place, text in enumerate(texts) if text in accepted))
            for number, texts in enumerate(drawn)
        ]
        contents = [content for content in contents if content.rows]
        if not contents:
            return

        def load() -> Any:
            return compare(
                bench, f"(k {declared} PRIMARY KEY, v text)", contents, Oracle("expected", ("k",), action),
                strategy=strategy, concurrency=workers,
            )  # fmt: skip

        if declared in WITHOUT_HASH and strategy == "partitioned":
            with pytest.raises(UnsafeStrategyError, match="could not identify a hash function"):
                load()
        else:
            paths.add(load().plan.key_path)

    meet()
    if declared in UNPROVEN:
        assert paths == {"server"}


SPELLINGS = [
    ("int", "7", "007", "client", True),
    ("int", "7", "+7", "server", True),
    ("int", "7", " 7", "server", True),
    ("int", "7", "7 ", "server", True),
    ("bigint", "7", "0000000000000000000000007", "client", True),
    ("int", "2147483647", "02147483647", "client", True),
    ("numeric", "1.0", "1.00", "server", True),
    ("numeric", "1.0", "1.01", "server", False),
    ("uuid", "00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-00000000000A", "client", True),
    ("uuid", "00000000-0000-0000-0000-00000000000a", "{0000000000000000000000000000000a}", "server", True),
    ("text", "a", "A", "client", False),
    ("text", "a", "a ", "client", False),
    ("text", "é", "e\u0301", "client", False),
    ("citext", "a", "A", "server", True),
    ("char(4)", "a", "a  ", "server", True),
    ("varchar(3)", "abc", "abc  ", "server", True),
    ("varchar(3)", "ab", "ab ", "client", False),
    ("timestamptz", "2024-01-01 12:00:00+00", "2024-01-01T13:00:00+01:00", "client", True),
    ("timestamptz", "2024-01-01 12:00:00Z", "2024-01-01 12:00:00", "server", True),
    ("timestamptz", "2024-01-01 12:00:00Z", "2024-01-01 13:00:00 Europe/Berlin", "server", True),
    ("timestamp(0)", "2024-01-01 12:00:00", "2024-01-01 12:00:00.4", "server", True),
    ("timestamp", "2024-01-01 12:00:00", "2024-01-01T12:00:00.000", "client", True),
    ("date", "2024-01-02", "January 2, 2024", "server", True),
    ("float8", "0.1", "0.10000000000000001", "server", True),
    ("bool", "t", "yes", "server", True),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "left", "right", "path", "equal"), SPELLINGS)
# Each spelling out of a line and out of Arrow; files of both forms meet in the test before.
@pytest.mark.parametrize("forms", [("csv", "csv"), ("parquet", "arrow")], ids="-".join)
def test_a_spelling_the_client_cannot_judge_takes_the_server_path_and_the_plan_says_so(
    bench: tuple[str, Connection], declared: str, left: str, right: str, path: str, equal: bool, forms: tuple[str, str]
) -> None:
    judge_table(bench[1], declared)
    contents = [Rows(("k", "v"), ((left, "first"),)), Rows(("k", "v"), ((right, "second"),))]

    result = compare(
        bench, f"(k {declared} PRIMARY KEY, v text)", contents, Oracle("expected", ("k",)), forms=forms, concurrency=2
    )

    assert result.plan.key_path == path
    if path == "server":
        assert "only the server can compare" in " ".join(result.reasons)
    with bench[1].cursor() as cursor:
        cursor.execute("SELECT count(*) = 1 FROM loaded")
        assert cursor.fetchone() == (equal,)


@pytest.mark.parametrize("strategy", ["full_parallel", "hybrid"])
def test_files_whose_keys_only_the_server_can_compare_are_never_called_disjoint(
    bench: tuple[str, Connection], strategy: str
) -> None:
    contents = [Rows(("k", "v"), (("1.0", "a"),)), Rows(("k", "v"), (("1.00", "b"),))]

    with pytest.raises(UnsafeStrategyError, match="cannot be proven disjoint: only the server can compare"):
        compare(
            bench,
            "(k numeric PRIMARY KEY, v text)",
            contents,
            Oracle("expected", ("k",)),
            strategy=strategy,
            concurrency=2,
        )


tricky = st.sampled_from(("a,b", "a", "b", ",", "", "a,", ",b", '"', "a\x1fb", "\x1f", "(", ")", "NULL", "\\"))


@examples(40)
@given(
    st.lists(st.lists(st.tuples(tricky, tricky), min_size=1, max_size=6), min_size=2, max_size=3),
    st.sampled_from((2, 3)),
)
@example([[("a,b", "c")], [("a", "b,c")]], 2)
def test_parts_of_a_composite_key_do_not_run_together(
    bench: tuple[str, Connection], drawn: list[list[tuple[str, str]]], workers: int
) -> None:
    contents = [
        Rows(("a", "b", "v"), tuple((a, b, f"{number}.{place}") for place, (a, b) in enumerate(pairs)))
        for number, pairs in enumerate(drawn)
    ]

    result = compare(
        bench, "(a text, b text, v text, PRIMARY KEY (a, b))", contents, Oracle("expected", ("a", "b")),
        strategy="partitioned", concurrency=workers,
    )  # fmt: skip

    distinct = {pair for pairs in drawn for pair in pairs}
    assert result.plan.overlap.distinct_keys == len(distinct)
    assert result.plan.overlap.shared_keys == len(
        {pair for pair in distinct if sum(pair in set(pairs) for pairs in drawn) > 1}
    )


def test_a_composite_key_of_mixed_types(bench: tuple[str, Connection]) -> None:
    contents = [
        Rows(
            ("a", "b", "c", "v"),
            (("1", "x", "2024-01-01", "1"), ("1", "X", "2024-01-01", "2"), ("2", "x", "2024-01-01", "3")),
        ),
        Rows(("a", "b", "c", "v"), (("001", "x", "2024-01-01", "4"), ("1", "x", "2024-01-02", "5"))),
    ]

    result = compare(
        bench, "(v int, c date, b text, a int, PRIMARY KEY (a, b, c))", contents, Oracle("expected", ("a", "b", "c")),
        concurrency=2,
    )  # fmt: skip

    assert result.plan.key_path == "client"
    assert result.plan.overlap.shared_keys == 1


def is_at_least(connection: Connection, version: int) -> bool:
    return connection.server_version >= version * 10000


INDEXES = {
    "expression": ("(k text, v text)", "CREATE UNIQUE INDEX ON @ (lower(k))", {"key": ("(lower(k))",)}, [("a",), ("A",), ("b",)]),
    "two expressions": (
        "(k text, v text)", "CREATE UNIQUE INDEX ON @ (left(k, 1), right(k, 1))", {"key": ("left(k, 1)", "right(k, 1)")},
        [("abc",), ("axc",), ("ab",)],
    ),
    "partial": (
        "(k int, v text)", "CREATE UNIQUE INDEX ON @ (k) WHERE k > 0", {"predicate": "k > 0"}, [("1",), ("01",), ("2",)],
    ),
    "nulls not distinct": ("(k int, v text)", "ALTER TABLE @ ADD UNIQUE NULLS NOT DISTINCT (k)", {}, [("1",), (None,), ("01",)]),
    "collation of the index": (
        "(k text, v text)", 'CREATE UNIQUE INDEX ON @ (k COLLATE "C")', {}, [("a",), ("A",), ("á",)],
    ),
    "pattern operators": ("(k text, v text)", "CREATE UNIQUE INDEX ON @ (k text_pattern_ops)", {}, [("a",), ("A",), ("b",)]),
}  # fmt: skip


@pytest.mark.parametrize("strategy", ["auto", "deterministic", "streaming", "partitioned"])
@pytest.mark.parametrize("name", INDEXES)
def test_indexes_with_an_equality_of_their_own(bench: tuple[str, Connection], name: str, strategy: str) -> None:
    dsn, connection = bench
    if name == "nulls not distinct" and not is_at_least(connection, 15):
        pytest.skip("NULLS NOT DISTINCT came with PostgreSQL 15")
    ddl, index, arbiter, keys = INDEXES[name]
    oracle = Oracle("expected", ("k",), **arbiter)
    contents = [
        Rows(("k", "v"), tuple((key[0], f"{number}.{place}") for place, key in enumerate(keys[number:] + keys)))
        for number in range(2)
    ]
    with connection.cursor() as cursor:
        for table in ("loaded", "expected"):
            cursor.execute(f"DROP TABLE IF EXISTS {table}; CREATE TABLE {table} {ddl}; {index.replace('@', table)}")
    with tempfile.TemporaryDirectory(prefix="etl_test_") as directory:
        files = [write(content, Path(directory), f"f{number}", "csv") for number, content in enumerate(contents)]
        result = ingest(files, "loaded", "k", dsn, strategy=strategy, concurrency=3, config=SMALL)

    oracle.load(connection, contents)
    assert differing_rows(connection, "loaded", "expected") == []
    # `streaming` scans nothing, so it never lets the client judge.
    client_judges = name == "pattern operators" and strategy != "streaming"
    assert result.plan.key_path == ("client" if client_judges else "server")


@pytest.mark.parametrize("strategy", ["auto", "deterministic", "streaming", "partitioned"])
@pytest.mark.parametrize("where", ["column", "index"])
def test_a_nondeterministic_collation(bench: tuple[str, Connection], where: str, strategy: str) -> None:
    dsn, connection = bench
    require(
        connection,
        "CREATE COLLATION IF NOT EXISTS public.loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
    )
    on_column, on_index = (" COLLATE public.loose", "") if where == "column" else ("", " COLLATE public.loose")
    contents = [
        Rows(("k", "v"), (("Ab", "1"), ("aB", "2"), ("é", "3"))),
        Rows(("k", "v"), (("AB", "4"), ("É", "5"), ("e", "6"))),
    ]
    with connection.cursor() as cursor:
        for table in ("loaded", "expected"):
            cursor.execute(
                f"DROP TABLE IF EXISTS {table}; CREATE TABLE {table} (k text{on_column}, v text); "
                f"CREATE UNIQUE INDEX ON {table} (k{on_index})"
            )
    with tempfile.TemporaryDirectory(prefix="etl_test_") as directory:
        files = [write(content, Path(directory), f"f{number}", "csv") for number, content in enumerate(contents)]
        result = ingest(files, "loaded", "k", dsn, strategy=strategy, concurrency=3, config=SMALL)

    Oracle("expected", ("k",), key=("k COLLATE public.loose",)).load(connection, contents)
    assert differing_rows(connection, "loaded", "expected") == []
    assert result.plan.key_path == "server"


ORDERS = st.sampled_from((None, "1", "2", "3"))


@examples(30)
@given(
    st.lists(st.lists(st.tuples(st.sampled_from("aAbB"), ORDERS), min_size=1, max_size=5), min_size=1, max_size=3),
    st.sampled_from(("update", "ignore", "newer", "update by order")),
    st.sampled_from(("auto", "partitioned", "deterministic", "streaming")), st.booleans(),
)  # fmt: skip
def test_a_key_keeps_the_spelling_of_its_first_writer(
    bench: tuple[str, Connection], drawn: list[list[tuple[str, str | None]]], action: str, strategy: str, few_rows: bool
) -> None:
    require(bench[1], "CREATE EXTENSION IF NOT EXISTS citext")
    contents = [
        Rows(("k", "seen", "v"), tuple((key, seen, f"{number}.{place}") for place, (key, seen) in enumerate(rows)))
        for number, rows in enumerate(drawn)
    ]
    ordered = action in ("newer", "update by order")
    oracle = Oracle("expected", ("k",), action.split(maxsplit=1)[0], "seen" if ordered else None)  # type: ignore[arg-type]

    compare(
        bench,
        "(k citext PRIMARY KEY, seen int, v text)",
        contents,
        oracle,
        strategy=strategy,
        concurrency=1 + few_rows * 2,
    )


def test_the_overlap_is_found_between_csv_and_parquet(bench: tuple[str, Connection], tmp_path: Path) -> None:
    dsn, connection = bench
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS loaded; CREATE TABLE loaded (k int PRIMARY KEY, v text)")
    texts = Rows(("k", "v"), tuple((f"{number:05d}", "csv") for number in range(50)))
    numbers_ = Rows(("k", "v"), tuple((str(number), "parquet") for number in range(25, 75)))
    files = [
        write(texts, tmp_path, "a", "csv"),
        write(numbers_, tmp_path, "b", "parquet", integers=("k",)),
        write(numbers_, tmp_path, "c", "arrow"),
    ]

    plan = ConflictAwareProcessor(dsn).plan(files, "loaded", ["k"])

    assert plan.overlap is not None
    assert (plan.overlap.distinct_keys, plan.overlap.shared_keys) == (75, 50)
    assert dict(plan.overlap.pairs) == {(0, 1): 25, (0, 2): 25, (1, 2): 50}


# --- rows that are never sent ------------------------------------------------------------------------------------------

GRAMMAR_TYPES = (
    "text", "varchar", "varchar(3)", "varchar(1000)", "smallint", "int", "bigint", "float8", "real", "numeric",
    "numeric(6,2)", "numeric(3,0)", "numeric(4)", "bool", "uuid", "date", "timestamp", "timestamp(0)", "timestamptz",
    "timestamptz(2)", "time", "time(0)", "interval", "inet", "cidr", "macaddr", "bytea", "json", "jsonb", "char(3)", "char(1000)",
)  # fmt: skip
DATE_STYLES = ("ISO, MDY", "German, DMY", "SQL, DMY", "Postgres, YMD")
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "<-13:30>13:30")


def accepted_by_copy(connection: Connection, table: str, layout: Layout, records: Sequence[str]) -> int:
    from psycopg2.sql import Identifier

    with connection.cursor() as cursor:
        data = "".join(record + "\n" for record in records)
        cursor.copy_expert(copy_into(Identifier(table), layout), io.BytesIO(data.encode()))  # type: ignore[arg-type]
        return cursor.rowcount


@pytest.mark.parametrize("declared", GRAMMAR_TYPES)
@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_the_server_accepts_every_record_of_the_grammar(
    bench: tuple[str, Connection], declared: str, delimiter: str
) -> None:
    connection = bench[1]
    with connection.cursor() as cursor:
        cursor.execute(
            "DROP TABLE IF EXISTS graded; CREATE UNLOGGED TABLE graded (id int PRIMARY KEY, "
            f"a {declared}, b {declared} NOT NULL); ALTER TABLE graded DROP CONSTRAINT graded_pkey; "
            "CREATE UNIQUE INDEX ON graded (id)"
        )
    target = read_target(connection, "graded", ["id"])
    connection.rollback()
    with connection.cursor() as cursor:
        cursor.execute("DROP INDEX graded_id_idx")  # the records are not meant to be different keys
    layout = Layout(("id", "a", "b"), delimiter)
    counted, short = record_grammar(target, layout), record_grammar(target, layout, is_short=True, is_unquoted=True)
    assert counted is not None
    assert short is not None
    assert value_grammar(target.column("a")) is not None

    random = Random(f"{declared} {delimiter}")  # noqa: S311
    records = [text_of(counted, random) for _ in range(60)]
    short_ones = [record for _ in range(120) if len((record := text_of(short, random)).encode()) <= SHORT_RECORD_BYTES]
    for grammar, texts in ((counted, records), (short, short_ones)):
        assert len(texts) >= 30
        assert [text for text in texts if not re.fullmatch(grammar, text, re.ASCII)] == []

    try:
        for date_style, zone in product(DATE_STYLES, ZONES):
            chosen = random.sample([*records, *short_ones], 40)
            with connection.cursor() as cursor:
                cursor.execute("SET DateStyle = %s; SET TimeZone = %s", (date_style, zone))
            assert accepted_by_copy(connection, "graded", layout, chosen) == len(chosen)
    finally:
        connection.rollback()
        with connection.cursor() as cursor:
            cursor.execute("RESET DateStyle; SET TimeZone = 'UTC'")


@pytest.mark.parametrize("declared", ["float8", "numeric", "numeric(12,2)"])
def test_a_short_record_has_room_for_no_number_that_is_too_long(bench: tuple[str, Connection], declared: str) -> None:
    connection = bench[1]
    with connection.cursor() as cursor:
        cursor.execute(f"DROP TABLE IF EXISTS graded; CREATE TABLE graded (id int PRIMARY KEY, a {declared})")
    target = read_target(connection, "graded", ["id"])
    connection.rollback()
    layout = Layout(("id", "a"))
    grammar = record_grammar(target, layout, is_short=True, proven=("id",))
    room = SHORT_RECORD_BYTES - len("1,-")
    records = [f"1,-0.{'0' * (room - 3)}1", f"2,-1.{'7' * (room - 2)}"]
    records += [f"3,-{'9' * room}"] if "(" not in declared else []

    assert all(len(record) == SHORT_RECORD_BYTES and re.fullmatch(str(grammar), record) for record in records)
    assert accepted_by_copy(connection, "graded", layout, records) == len(records)


def test_control_a_long_record_has(bench: tuple[str, Connection]) -> None:
    connection = bench[1]
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS graded; CREATE TABLE graded (id int PRIMARY KEY, a float8)")
    with pytest.raises(psycopg2.errors.NumericValueOutOfRange):
        accepted_by_copy(connection, "graded", Layout(("id", "a")), [f"1,{'9' * 310}"])
    connection.rollback()


@pytest.mark.parametrize(
    "declared", ["timetz", "macaddr8", "xml", "positive", "mood", "interval year", "numeric(2,2)", "int[]"]
)
def test_other_types_have_no_grammar(bench: tuple[str, Connection], declared: str) -> None:
    with bench[1].cursor() as cursor:
        cursor.execute(f"DROP TABLE IF EXISTS graded; CREATE TABLE graded (id int PRIMARY KEY, a {declared})")
    target = read_target(bench[1], "graded", ["id"])

    assert record_grammar(target, Layout(("id", "a"))) is None


@pytest.mark.parametrize(
    "more",
    ["CHECK (id > 0)", "g int GENERATED ALWAYS AS (100 / id) STORED", "parent int REFERENCES graded_parent"],
    ids=["check", "generated column", "foreign key"],
)
def test_tables_that_may_refuse_a_well_spelled_row_have_no_grammar(bench: tuple[str, Connection], more: str) -> None:
    with bench[1].cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS graded, graded_parent; CREATE TABLE graded_parent (id int PRIMARY KEY)")
        cursor.execute(f"CREATE TABLE graded (id int PRIMARY KEY, {more})")
    target = read_target(bench[1], "graded", ["id"])

    assert record_grammar(target, Layout(("id",))) is None


def test_a_partitioned_table_has_no_grammar(bench: tuple[str, Connection]) -> None:
    with bench[1].cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS graded; CREATE TABLE graded (id int PRIMARY KEY) PARTITION BY RANGE (id)")
    target = read_target(bench[1], "graded", ["id"])

    assert record_grammar(target, Layout(("id",))) is None
