"""`\\copy` is the oracle for values: what it reads of a spelling, a load reads alike; what it refuses, a load rejects."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection
from psycopg2.sql import SQL, Identifier, Literal

from etl_toolkit import ParallelConfig, ingest
from tests.conftest import new_database
from tests.oracle import PINNED, Format, Rows, csv_text, write
from tests.spellings import CREATED, EVERYWHERE, SPELLINGS, array_spellings

pytestmark = pytest.mark.skipif(shutil.which("psql") is None, reason="psql is not here, which would say what is right")


SETTINGS: Mapping[str, Mapping[str, str]] = {
    "as the server reads": {},
    "as the database reads": {
        "DateStyle": "SQL, DMY",
        "TimeZone": "Asia/Tokyo",
        "IntervalStyle": "sql_standard",
        "extra_float_digits": "-3",
        "bytea_output": "escape",
    },
}


@dataclass(frozen=True)
class Bench:
    """A database in which `\\copy` has put what it reads of every spelling into `copied`, and `loaded` has the same columns."""

    dsn: str
    connection: Connection
    spellings: tuple[tuple[str, str, str], ...]  # column, declared type, text; the place is the key


@pytest.fixture(scope="module")
def bench(
    request: pytest.FixtureRequest, dsn: str, _admin: Connection, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    with new_database(dsn, _admin) as created:
        opened = psycopg2.connect(created)
        opened.autocommit = True
        with opened.cursor() as cursor:
            cursor.execute(CREATED)
            for name, value in SETTINGS[request.param].items():
                alter = SQL("ALTER DATABASE {} SET {} = {}")
                cursor.execute(alter.format(Identifier(opened.info.dbname), Identifier(name), Literal(value)))
            catalogue = {
                **{name: tuple(dict.fromkeys((*texts, *EVERYWHERE))) for name, texts in SPELLINGS.items()},
                **{f"{name}[]": array_spellings(name) for name in SPELLINGS if has_array(opened, name)},
            }
            columns = {name: f"c{number}" for number, name in enumerate(catalogue)}
            for table in ("copied", "loaded"):
                declared = ", ".join(f"{column} {name}" for name, column in columns.items())
                cursor.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, {declared})")
        spelled = tuple((columns[name], name, text) for name, texts in catalogue.items() for text in texts)
        copy_each(created, spelled, tmp_path_factory.mktemp("spellings"))
        yield Bench(created, opened, spelled)
        opened.close()


def has_array(connection: Connection, name: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT coalesce((SELECT typarray FROM pg_type WHERE oid = to_regtype(%s)), 0) <> 0", (name,))
        return bool(cursor.fetchone()[0])  # type: ignore[index]


def copy_each(dsn: str, spelled: tuple[tuple[str, str, str], ...], directory: Path) -> None:
    """Give each spelling to `\\copy`, in a file and a transaction of its own."""
    script = []
    for place, (column, _, text) in enumerate(spelled):
        path = directory / f"{place}.csv"
        path.write_bytes(csv_text(Rows(("id", column), ((str(place), text),))).encode())
        script.append(f"\\copy copied (id, {column}) from '{path}' with (format csv, header)\n")
    (directory / "script.sql").write_text("".join(script))
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    command = ["psql", "-X", "-q", "-d", dsn, "-f", str(directory / "script.sql")]
    subprocess.run(command, env=plain, capture_output=True, check=True)


def texts_of(connection: Connection, table: str, spelled: tuple[tuple[str, str, str], ...]) -> dict[int, str | None]:
    """What the table holds of each spelling, by its place."""
    columns = dict.fromkeys(column for column, _, _ in spelled)
    with connection.cursor() as cursor:
        for name, value in PINNED.items():
            cursor.execute("SELECT set_config(%s, %s, false)", (name, value))
        cursor.execute(SQL("SELECT id, {} FROM {}").format(
            SQL(", ").join(SQL("{}::text").format(Identifier(column)) for column in columns), Identifier(table)
        ))  # fmt: skip
        found = {row[0]: dict(zip(columns, row[1:], strict=True)) for row in cursor.fetchall()}
    return {place: cells[spelled[place][0]] for place, cells in found.items()}


def test_every_type_of_the_server_is_in_the_catalogue(connection: Connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute(CREATED)
        cursor.execute(
            "SELECT typname FROM pg_type WHERE typtype IN ('b', 'r', 'm') AND typcategory <> 'A' "
            "AND typnamespace = 'pg_catalog'::regnamespace AND NOT oid = ANY (%s::regtype[])",
            (list(SPELLINGS),),
        )
        assert cursor.fetchall() == []


@pytest.mark.parametrize(
    ("bench", "form", "strategy", "is_wide"),
    [
        ("as the server reads", "csv", "deterministic", False),
        ("as the server reads", "parquet", "partitioned", True),
        ("as the database reads", "quoted", "streaming", True),
    ],
    indirect=["bench"],
)
def test_a_spelling_is_read_as_copy_reads_it(
    bench: Bench, tmp_path: Path, form: Format, strategy: str, is_wide: bool
) -> None:
    places = list(enumerate(bench.spellings))
    columns = list(dict.fromkeys(column for column, _, _ in bench.spellings))
    if is_wide:  # one file of all columns, of which a row has one
        rows = tuple(
            (str(place), *(text if column == other else None for other in columns))
            for place, (column, _, text) in places
        )
        contents = [Rows(("id", *columns), rows)]
    else:  # a file for each type
        contents = [
            Rows(("id", own), tuple((str(place), text) for place, (column, _, text) in places if column == own))
            for own in columns
        ]
    with bench.connection.cursor() as cursor:
        cursor.execute("TRUNCATE loaded")

    files = [write(content, tmp_path, f"{number}", form) for number, content in enumerate(contents)]
    ingest(
        files,
        "loaded",
        "id",
        bench.dsn,
        strategy=strategy,
        max_rejects=len(places),
        config=ParallelConfig(concurrency=2),
    )

    copied, loaded = (texts_of(bench.connection, table, bench.spellings) for table in ("copied", "loaded"))
    wrong = [
        (declared, text, copied.get(place, "refused"), loaded.get(place, "refused"))
        for place, (_, declared, text) in places
        if copied.get(place, "refused") != loaded.get(place, "refused")
    ]
    assert wrong == [], f"{len(wrong)} of {len(places)}: (type, spelling, \\copy, load)"
    assert len(copied) > len(places) // 3
    assert len(copied) < len(places)
