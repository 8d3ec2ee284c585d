"""Which server is meant: URLs as other tools spell them."""

from __future__ import annotations

from pathlib import Path

import pytest
from psycopg2.extensions import parse_dsn

from etl_toolkit import ingest
from etl_toolkit.errors import UsageError
from etl_toolkit.request import connection_string
from tests.oracle import Rows, write


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("postgresql+psycopg2://u:p@h:5433/db", "postgresql://u:p@h:5433/db"),
        ("postgresql+psycopg://u:p@h/db", "postgresql://u:p@h/db"),
        ("postgresql+asyncpg://u:p@h/db?ssl=verify-full", "postgresql://u:p@h/db?sslmode=verify-full"),
        ("jdbc:postgresql://h:5433/db?user=u&ssl=true", "postgresql://h:5433/db?user=u&sslmode=require"),
        ("postgres://u@h/db", "postgres://u@h/db"),
        ("host=h dbname=db", "host=h dbname=db"),
        ("", ""),
    ],
)
def test_a_url_of_another_tool_names_the_same_server(given: str, meant: str) -> None:
    assert connection_string(given).replace("postgresql://", "postgres://") == meant.replace(
        "postgresql://", "postgres://"
    )


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql+psycopg2://u:secret@h:5433/db?prepare_threshold=3", "write postgresql://USER:PASSWORD@h:5433/db"),
        (
            "jdbc:postgresql://h/db?currentSchema=x&password=se@cret",
            "write postgresql://USER:PASSWORD@HOST:PORT/DATABASE",
        ),
        ("jdbc:postgresql:db?password=secret", "write postgresql://USER:PASSWORD@HOST:PORT/DATABASE"),
    ],
)
def test_a_url_that_libpq_does_not_read_is_refused_with_the_right_one_and_no_password(given: str, shown: str) -> None:
    with pytest.raises(UsageError) as refused:
        connection_string(given)

    assert str(refused.value).endswith(shown)


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg", "asyncpg"])
def test_a_load_through_the_url_of_a_driver(database: str, tmp_path: Path, driver: str) -> None:
    parts = parse_dsn(database)
    url = f"postgresql+{driver}://{parts['user']}:{parts['password']}@{parts['host']}:{parts['port']}/{parts['dbname']}"
    file = write(Rows(("id",), (("1",),)), tmp_path, "one", "csv")

    assert ingest(file, "t", "id", url, create_table=True).counts.inserted == 1
