"""Names of theirs that are names of ours: columns, tables, schemas and constraints may have any name at all."""

from __future__ import annotations

import ast
import csv
import io
import re
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg2.extensions import connection as Connection
from psycopg2.sql import SQL, Identifier

from etl_toolkit import ParallelConfig, ingest
from etl_toolkit.errors import EtlError
from etl_toolkit.loading import judge, merge, naming, staging_tables
from etl_toolkit.sources import relation

ROOT = Path(__file__).parent.parent / "etl_toolkit"
ROOMS = ("loading", "sources", "strategies")
STATEMENT = re.compile(r"\b(SELECT|FROM|WHERE|CREATE|INSERT|UPDATE|ALTER|COPY|JOIN|ORDER BY|GROUP BY|AS|DROP)\b")
ODD = [
    "é" * 31, "x" * 63, "\N{PILE OF POO}", 'a"b', "a'b", "100%", "%s", "%(x)s", "{}", "{0}", "{columns}", "a\nb", "a\tb", ";--", "$1",
    "a.b", "a,b", "ROWID", "c0 c1", "1", "file_index", "filename", "file_row_number", "*", "\\", "NULL", "\\N", "''", '"',
]  # fmt: skip


@cache
def own_identifiers() -> list[str]:
    """Every word of every piece of SQL that a load may run, keywords included; numbered ones with 0 and 1."""
    found: set[str] = set()
    for path in [*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [part.value if isinstance(part, ast.Constant) else None for part in parts]
            if not any(isinstance(text, str) and STATEMENT.search(text) for text in texts):
                texts = [
                    text for text in texts if isinstance(text, str) and re.fullmatch(r"([a-z]{1,8}_?|etl_\w+)", text)
                ]
            for text in texts:
                words = re.findall(r"[A-Za-z_][A-Za-z_0-9]*", text) if isinstance(text, str) else []
                found |= {word for word in words if len(word) <= 30}
                if words and str(text).endswith(words[-1]):
                    found |= {f"{words[-1]}0", f"{words[-1]}1"}
    return sorted(found)


RESERVED_BY_THE_SERVER = {"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"}
ours = st.deferred(lambda: st.sampled_from(own_identifiers()))  # looked for by the one worker that runs these tests
names = st.one_of(
    ours,
    ours.map(str.upper),
    ours.map(str.title),
    st.sampled_from(ODD),
).filter(lambda name: name not in RESERVED_BY_THE_SERVER)
columns = st.lists(names, min_size=3, max_size=12, unique_by=str.casefold)
# A hostile name belongs anywhere, and the key and the order column are where a name of ours is nearest.
Form = Literal["csv", "quoted", "parquet", "frame"]
FORMS: list[Form] = ["csv", "quoted", "parquet", "frame"]
WAYS = [("update", False), ("update", True), ("newer", True), ("ignore", False)]


def test_the_names_of_ours_are_found() -> None:
    assert {
        "k0",
        "o",
        "doubt",
        "file",
        "winner",
        "etl_k0",
        "etl_file",
        "frame_0",
        "rows",
        "incoming",
        "line",
        "c0",
    } <= set(own_identifiers())


def give(form: Form, path: Path, header: list[str], rows: list[list[str]]) -> Any:
    if form in ("csv", "quoted"):
        text = io.StringIO()
        quoting = csv.QUOTE_ALL if form == "quoted" else csv.QUOTE_MINIMAL
        csv.writer(text, lineterminator="\n", quoting=quoting).writerows([header, *rows])
        path.with_suffix(".csv").write_text(text.getvalue(), encoding="utf-8", newline="")
        return path.with_suffix(".csv")
    table = pa.table([pa.array([row[at] for row in rows]) for at in range(len(header))], names=header)
    if form == "frame":
        return pd.DataFrame({name: table.column(at).to_pylist() for at, name in enumerate(header)})
    pq.write_table(table, path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def expected(files: list[list[list[str]]], action: str, *, ordered: bool) -> list[tuple[Any, ...]]:
    """The rows (key, order, …) that loading the files one by one leaves in an empty table."""
    there: dict[int, list[str]] = {}
    for row in (row for rows in files for row in rows):
        key, present = int(row[0]), there.get(int(row[0]))
        if present and action == "ignore":
            continue
        if present and ordered and int(row[1]) < int(present[1]):
            continue
        there[key] = row
    return sorted((key, int(row[1]), *row[2:]) for key, row in there.items())


def check_load(
    database: str, connection: Connection, directory: Path, header: list[str], *,
    form: Form, way: tuple[str, bool], strategy: str, key_type: str = "bigint", odd_key: bool = False,
    relation_names: tuple[str, str] = ("public", "t"), count: int = 30, **options: Any,
) -> None:  # fmt: skip
    action, ordered = way
    table = Identifier(*relation_names)
    key, order, *others = map(Identifier, header)
    with connection.cursor() as cursor:
        cursor.execute(SQL("CREATE SCHEMA IF NOT EXISTS {}").format(Identifier(relation_names[0])))
        items = [SQL("{} {} PRIMARY KEY").format(key, SQL(key_type)), SQL("{} int").format(order)]
        items += [SQL("{} text").format(name) for name in others]
        cursor.execute(SQL("DROP TABLE IF EXISTS {0}; CREATE TABLE {0} ({1})").format(table, SQL(", ").join(items)))
        files = [
            [
                [str(n % 20), str((n * 7 + file * 5) % 11), *(f"{file}/{n}/{at}" for at in range(len(others)))]
                for n in range(count)
            ]
            for file in range(3)
        ]
        if odd_key:
            files[1] += [["+7", "100", *("odd" for _ in others)], ["8", "+100", *("odd" for _ in others)]]
        given_files = [give(form, directory / f"{number}", header, rows) for number, rows in enumerate(files)]
        options |= {"order_by": header[1]} if ordered else {}
        result = ingest(
            given_files, table.as_string(cursor), header[0], database, strategy=strategy, on_conflict=action,
            config=ParallelConfig(concurrency=2), **options,
        )  # fmt: skip
        assert result
        cursor.execute(SQL("SELECT {} FROM {}").format(SQL(", ").join(map(Identifier, header)), table))
        found = sorted((int(row[0]), *row[1:]) for row in cursor.fetchall())
    assert found == expected(files, action, ordered=ordered)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=columns, form=st.sampled_from(FORMS), way=st.sampled_from(WAYS), odd_key=st.booleans(),
    strategy=st.sampled_from(["auto", "partitioned", "deterministic", "streaming"]), key_type=st.sampled_from(["bigint", "numeric"]),
)  # fmt: skip
@example(
    header=["id", "n", "o"], form="parquet", way=("update", True), odd_key=False, strategy="auto", key_type="bigint"
)
@example(
    header=["id", "o", "k0"], form="parquet", way=("update", False), odd_key=True, strategy="auto", key_type="bigint"
)
@example(
    header=["K0", "n", "k1"], form="parquet", way=("update", False), odd_key=True, strategy="auto", key_type="bigint"
)
@example(
    header=["etl_k0", "etl_row", "etl_file"],
    form="csv",
    way=("newer", True),
    odd_key=False,
    strategy="auto",
    key_type="numeric",
)
def test_any_name_of_a_column_is_only_a_name(
    shared: tuple[str, Connection], tmp_path: Path, header: list[str], form: Form, way: tuple[str, bool], odd_key: bool,
    strategy: str, key_type: str,
) -> None:  # fmt: skip
    check_load(*shared, tmp_path, header, form=form, way=way, odd_key=odd_key, strategy=strategy, key_type=key_type)


@pytest.mark.parametrize(
    ("form", "strategy", "key_type"),
    [("parquet", "partitioned", "bigint"), ("csv", "deterministic", "bigint"), ("frame", "partitioned", "numeric")],
)
def test_every_name_of_ours_may_be_that_of_a_column(
    shared: tuple[str, Connection], tmp_path: Path, form: Form, strategy: str, key_type: str
) -> None:
    usable = sorted(
        name for name in [*own_identifiers(), *ODD] if name not in {*RESERVED_BY_THE_SERVER, "key", "order"}
    )
    for first in range(3):  # all of them would make a row too large for a page
        header = ["key", "order", *usable[first::3]]
        check_load(
            *shared, tmp_path, header, form=form, way=("update", True), strategy=strategy, key_type=key_type, count=2
        )


@pytest.mark.parametrize(
    "relation_names",
    [
        ("etl_target", "etl_staging"), ("rows", "keys"), ("latest", "present"), ("ordered", "judged"), ("excluded", "excluded"),
        ('s"; --', 't"; --'), ("%s", "{}"), ("select", "table"), ("PG_CATALOG", "pg_class"), ("é" * 31, "x" * 63), ("a.b", "c.d"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("key_type", ["bigint", "numeric"])
def test_any_name_of_a_table_and_its_schema_is_only_a_name(
    shared: tuple[str, Connection], tmp_path: Path, relation_names: tuple[str, str], key_type: str
) -> None:
    header = [relation_names[1], relation_names[0] if relation_names[0] != relation_names[1] else "o", "v"]
    check_load(
        *shared, tmp_path, header, form="csv", way=("newer", True), strategy="auto", key_type=key_type,
        relation_names=relation_names,
    )  # fmt: skip


def test_a_check_is_looked_at_though_the_index_has_its_name(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE t (id int NOT NULL, v int CONSTRAINT same CHECK (v < 100)); "
            "CREATE UNIQUE INDEX same ON t (id) WHERE v > 0"
        )
        (tmp_path / "in.csv").write_text("id,v\n1,1\n2,-5\n3,500\n3,7\n")
        result = ingest(tmp_path / "in.csv", "t", "id", database, max_rejects=9)
        assert (result.counts.inserted, result.counts.rejected) == (2, 2)
        cursor.execute("SELECT * FROM t ORDER BY id")
        assert cursor.fetchall() == [(1, 1), (3, 7)]


def test_without_a_prefix_of_its_own_a_load_meets_the_names_of_the_table(
    database: str, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control."""
    for module in (naming, staging_tables, merge, judge):
        monkeypatch.setattr(module, "ours", lambda _, template: SQL(template))
    with pytest.raises(Exception, match=r"specified more than once|ambiguous"):
        check_load(
            database,
            connection,
            tmp_path,
            ["id", "n", "etl_file"],
            form="csv",
            way=("update", False),
            strategy="deterministic",
        )


def test_without_names_by_place_a_load_meets_the_names_of_the_file(
    database: str, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control."""

    def by_name(files: Any) -> str:
        aliases = ", ".join(f'"{name}" AS c{at}' for at, name in enumerate(files[0].own_columns))
        return f"(SELECT file_index, *, {aliases} FROM {relation.parquet_relation(files)})"

    monkeypatch.setattr(relation, "typed_relation", by_name)
    with pytest.raises((AssertionError, EtlError)):
        check_load(
            database,
            connection,
            tmp_path,
            ["id", "n", "k0"],
            form="parquet",
            way=("update", False),
            strategy="auto",
            odd_key=True,
        )
