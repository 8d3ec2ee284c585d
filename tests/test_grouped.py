"""Many small files, several to a transaction: everything is as with a transaction for each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit import ingest
from etl_toolkit.errors import EtlError
from etl_toolkit.loading import failpoints
from etl_toolkit.processor import ConflictAwareProcessor
from etl_toolkit.strategies import ahead

FILES = {
    "apart": [f"id,v\n{n},a\n{n + 50},b\n" for n in range(8)],
    "shared": [f"id,v\n{n % 3},a{n}\n{n % 5 + 1},b{n}\n{n % 3},c{n}\n" for n in range(8)],
    "columns": [f"id,v,w\n{n % 3},a{n},1\n" if n % 3 else f"id,w\n{n % 3},{n}\n" for n in range(8)],
    "refused": [
        f"id,v\n{n % 3},a{n}\n{'x' if n in (2, 5) else n},b\n{n},{'nay' if n == 4 else 'd'}\n" for n in range(8)
    ],
    "quoted": [f'id,v\n{n % 3},"a, {n}"\n' for n in range(8)],
}


@pytest.fixture
def load(database: str, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Load files with and without groups; return what both left: rows, ledger, rejects, error, transactions."""

    def run(contents: list[str], *, group: bool, **options: Any) -> tuple[Any, int]:
        monkeypatch.setattr(ahead, "MANY_FILES", 2 if group else 1_000)
        monkeypatch.setattr(ahead, "FILES_TOGETHER", 3)
        table = "grouped" if group else "alone"
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, v text CHECK (v <> 'nay'), w int DEFAULT 7)")
            cursor.execute(f"INSERT INTO {table} VALUES (1, 'before')")
        paths = [tmp_path / f"{number}.csv" for number in range(len(contents))]
        for path, text in zip(paths, contents, strict=True):
            path.write_text(text)
        failure = ""
        try:
            result = ingest(paths, table, "id", database, **options)
            assert result.counts.read
        except EtlError as error:
            failure = str(error).replace(table, "t")
        left: list[Any] = [failure]
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT run_id FROM etl_toolkit.runs WHERE target = 'public.{table}'")
            (run_id,) = cursor.fetchone()
            for query in (
                f"SELECT * FROM {table} ORDER BY id",
                "SELECT position, counts FROM etl_toolkit.files WHERE run_id = %(run)s ORDER BY position",
                "SELECT number, label, counts FROM etl_toolkit.batches WHERE run_id = %(run)s ORDER BY number",
                "SELECT file, record, reason, raw FROM etl_toolkit.rejects WHERE run_id = %(run)s ORDER BY file, record",
            ):
                cursor.execute(query, {"run": run_id})
                left.append([tuple(str(value).replace(table, "t") for value in row) for row in cursor.fetchall()])
            cursor.execute(
                "SELECT count(DISTINCT transaction_id) FROM etl_toolkit.batches WHERE run_id = %s", (run_id,)
            )
            (transactions,) = cursor.fetchone()
        return left, transactions

    return run


@pytest.mark.parametrize("options", [{"strategy": "deterministic"}, {"strategy": "streaming", "on_conflict": "ignore"}])
@pytest.mark.parametrize(("kind", "max_rejects"), [*((kind, 0) for kind in FILES), ("refused", 9)])
def test_rows_counts_ledger_and_rejects_are_those_of_file_by_file(
    load: Any, kind: str, max_rejects: int, options: dict[str, Any]
) -> None:
    together, transactions = load(FILES[kind], group=True, max_rejects=max_rejects, **options)
    alone, as_many_as_files = load(FILES[kind], group=False, max_rejects=max_rejects, **options)
    assert together == alone
    assert bool(together[0]) == (kind == "refused" and not max_rejects), together[0]
    assert transactions < as_many_as_files or kind == "refused"


def test_a_run_that_stopped_within_a_group_is_resumed(
    load: Any, database: str, connection: Connection, tmp_path: Path
) -> None:
    calls = iter(range(100))

    def fail() -> None:
        if next(calls) >= 4:
            raise RuntimeError("stopped here")

    expected, _ = load(FILES["shared"], group=False, strategy="deterministic")
    with failpoints.installed({"merged": fail}), pytest.raises(RuntimeError):
        load(FILES["shared"], group=True, strategy="deterministic")
    with connection.cursor() as cursor:
        cursor.execute("SELECT run_id FROM etl_toolkit.runs WHERE target = 'public.grouped'")
        (run_id,) = cursor.fetchone()
        cursor.execute("SELECT count(*) FROM etl_toolkit.batches WHERE run_id = %s", (run_id,))
        assert cursor.fetchone() == (3,)
    assert ConflictAwareProcessor(database).resume(run_id)
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM grouped ORDER BY id")
        assert [tuple(map(str, row)) for row in cursor.fetchall()] == expected[1]
