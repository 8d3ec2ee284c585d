"""Objects of a store and files on web servers load as local files do; what changes is refused, and no secret is shown."""

from __future__ import annotations

import gzip
import json
import pickle
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit import ConflictAwareProcessor, ReadOptions, explain_row, ingest
from etl_toolkit.errors import SourceError, UnknownFileError, UsageError
from etl_toolkit.hosts import SortFile, SortFiles
from etl_toolkit.sources import object_copies
from etl_toolkit.sources.object_copies import copy_object
from etl_toolkit.sources.objects import objects_of
from etl_toolkit.sources.stores import without_secrets
from etl_toolkit.stopping import Stop
from tests.object_store import KEY, SECRET, s3_server, web_server
from tests.parquet_footer import make_set

obstore = pytest.importorskip("obstore")

FILES = {
    "day/part2.csv": b"id,v\n1,two\n2,two\n",
    "day/part10.csv": b"id,v\n2,ten\n3,ten\n",
    "day/sub/part1.csv.gz": gzip.compress(b"id,v\n3,sub\n4,sub\n"),
    "day/_temporary/part1.csv": b"id,v\n9,no\n",
    "hive/dt=2024-01-01/a b%41.csv": b"id,v\n1,h\n",
    "hive/dt=2024-01-02/x.csv": b"id,v\n2,h\n",
    "odd/a*b.csv": b"id,v\n1,star\n",
    "odd/aXb.csv": b"id,v\n1,other\n",
}


@pytest.fixture(scope="module")
def store() -> Iterator[Any]:
    with s3_server() as settings, pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        bucket = obstore.store.S3Store("drops")
        for name, content in FILES.items():
            obstore.put(bucket, name, content)
        yield bucket


def rows_of(connection: Connection, table: str = "loaded") -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {table} ORDER BY 1")
        return cursor.fetchall()


@pytest.mark.parametrize(
    ("url", "names"),
    [
        ("s3://drops/day", ["day/part2.csv", "day/part10.csv", "day/sub/part1.csv.gz"]),
        ("s3://drops/day/", ["day/part2.csv", "day/part10.csv", "day/sub/part1.csv.gz"]),
        ("s3://drops/day/*.csv", ["day/part2.csv", "day/part10.csv"]),
        ("s3://drops/day/**/part1*", ["day/part10.csv", "day/sub/part1.csv.gz"]),
        ("s3://drops/day/part?.csv", ["day/part2.csv"]),
        ("s3://drops/day/part[0-9].csv", ["day/part2.csv"]),
        ("s3://drops/odd/a*b.csv", ["odd/a*b.csv"]),
        ("S3://drops/hive/dt=2024-01-01/a b%41.csv", ["hive/dt=2024-01-01/a b%41.csv"]),
    ],
)
def test_a_url_names_an_object_a_pattern_or_a_prefix(store: Any, url: str, names: list[str]) -> None:
    assert [item.name for item in objects_of(url, None)] == [f"s3://drops/{name}" for name in names]


@pytest.mark.parametrize("url", ["s3://drops/none.csv", "s3://drops/none/", "s3://drops/day/*.parquet"])
def test_a_url_that_names_nothing_is_refused(store: Any, url: str) -> None:
    with pytest.raises(UnknownFileError, match="the store has no such object"):
        objects_of(url, None)


@pytest.mark.parametrize("strategy", ["auto", "deterministic", "streaming"])
def test_a_prefix_loads_as_its_files_would(
    store: Any, database: str, connection: Connection, tmp_path: Path, strategy: Any
) -> None:
    for name in ("day/part2.csv", "day/part10.csv", "day/sub/part1.csv.gz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(FILES[name])

    result = ingest("s3://drops/day", "loaded", "id", database, create_table=True, strategy=strategy)
    ingest(str(tmp_path / "day"), "beside", "id", database, create_table=True, strategy=strategy)

    assert rows_of(connection) == rows_of(connection, "beside") == [(1, "two"), (2, "ten"), (3, "sub"), (4, "sub")]
    assert list(result.files) == [f"s3://drops/day/{x}" for x in ("part2.csv", "part10.csv", "sub/part1.csv.gz")]


def test_directories_of_a_store_carry_columns(store: Any, database: str, connection: Connection) -> None:
    ingest("s3://drops/hive", "loaded", "id", database, create_table=True)

    assert [(row[0], str(row[2])) for row in rows_of(connection)] == [(1, "2024-01-01"), (2, "2024-01-02")]


def test_parquet_loads_from_a_store(store: Any, database: str, connection: Connection) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"id": [1, 2], "v": [1.5, None]}), sink)
    obstore.put(store, "pq/a.parquet", sink.getvalue().to_pybytes())

    ingest("s3://drops/pq/*.parquet", "loaded", "id", database, create_table=True)

    assert rows_of(connection) == [(1, 1.5), (2, None)]


def test_an_object_that_changes_after_it_was_listed_is_refused(store: Any, tmp_path: Path) -> None:
    obstore.put(store, "changing/a.csv", b"id,v\n1,a\n")
    (listed,) = objects_of("s3://drops/changing/", None)
    obstore.put(store, "changing/a.csv", b"id,v\n1,b\n")

    with pytest.raises(
        SourceError, match=r"s3://drops/changing/a.csv: changed after it was listed, so nothing is written"
    ):
        listed.fetch(tmp_path / "in", Stop(), ReadOptions())

    (listed,) = objects_of("s3://drops/changing/", None)
    assert listed.fetch(tmp_path / "in", Stop(), ReadOptions()).read_bytes() == b"id,v\n1,b\n"


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes that each request asks for."""
    sizes: list[int] = []
    get = obstore.get

    def count(*args: Any, **options: Any) -> Any:
        found = get(*args, **options)
        sizes.append(found.range[1] - found.range[0])
        return found

    monkeypatch.setattr(obstore, "get", count)
    return sizes


def wide_table(rows: int = 100_000) -> pa.Table:
    """Columns that no compression makes smaller: 8 MB; two of its types have to be rewritten, and one cannot be read."""
    numbers = pa.array(range(rows), pa.int64())
    noise = random.Random(1)  # noqa: S311 - the same each time
    return pa.table(
        {
            "id": numbers, "a.b": pa.array([noise.randbytes(32).hex() for _ in range(rows)]),
            "big": pa.array([Decimal(10**40 + number) for number in range(rows)], pa.decimal256(60, 2)),
            "s": pa.array([{"x": noise.randrange(2**60)} for _ in range(rows)]), "v": numbers.cast(pa.string()),
            "inside": pa.array([[timedelta(days=1)]] * rows, pa.list_(pa.duration("us"))),
        }
    )  # fmt: skip


@pytest.fixture
def wide(store: Any, tmp_path: Path) -> Path:
    """That table as a file, and as an object of the same name."""
    path = tmp_path / "wide.parquet"
    pq.write_table(wide_table(), path, row_group_size=40_000, use_dictionary=False, write_page_checksum=True)
    obstore.put(store, path.name, path.read_bytes())
    return path


@pytest.mark.parametrize("columns", [("id", "v"), ("big", "s", "id")], ids=["as they are", "rewritten"])
def test_of_parquet_only_columns_that_are_loaded_are_fetched(
    wide: Path, database: str, connection: Connection, fetched: list[int], columns: tuple[str, ...]
) -> None:
    load = partial(ingest, key="id", dsn=database, create_table=True, read=ReadOptions(columns=columns))

    beside, loaded = load(wide, "beside"), load(f"s3://drops/{wide.name}", "loaded")

    assert rows_of(connection) == rows_of(connection, "beside")
    assert loaded.counts == beside.counts
    assert 0 < sum(fetched) < 0.4 * wide.stat().st_size
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(DISTINCT content_hash) FROM etl_toolkit.files")
        assert cursor.fetchone() == (1,), "a file and an object are the same content"


@pytest.mark.parametrize("executor", [None, "processes:2"])
def test_rows_of_which_some_columns_were_fetched_are_rejected_and_explained(
    wide: Path, database: str, connection: Connection, executor: Any
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE loaded (id bigint PRIMARY KEY, v text CHECK (v <> '77777'), s json)")
    read = ReadOptions(columns=("id", "v", "s"))

    result = ingest(f"s3://drops/{wide.name}", "loaded", "id", database, read=read, max_rejects=1, executor=executor)

    assert (result.counts.inserted, result.counts.rejected) == (99_999, 1)
    (reject,) = result.rejects
    assert reject.raw.startswith("77777,,,")
    (found,) = explain_row("loaded", {"id": 5}, database).occurrences
    assert found.values["v"] == "5"


def test_an_overlap_fetches_the_keys_alone(wide: Path, fetched: list[int]) -> None:
    names = [str(wide), f"s3://drops/{wide.name}"]

    assert ConflictAwareProcessor().analyze(names, key="id").shared_keys == 100_000
    assert 0 < sum(fetched) < 0.3 * wide.stat().st_size


def test_an_overlap_of_objects_that_only_arrow_can_read_fetches_the_keys_alone(
    store: Any, tmp_path: Path, fetched: list[int]
) -> None:
    path, rows = tmp_path / "sets.parquet", 60_000
    words = pa.array([["a"]] * rows, pa.list_(pa.field("element", pa.string(), nullable=False)))
    table = wide_table(rows).select(["id", "a.b"]).add_column(1, pa.field("v", words.type, nullable=False), words)
    pq.write_table(table, path, use_dictionary=False, store_schema=False)
    make_set(path, 2)
    obstore.put(store, path.name, path.read_bytes())

    found = ConflictAwareProcessor().analyze([str(path), f"s3://drops/{path.name}"], key="id")

    assert found.shared_keys == rows
    assert 0 < sum(fetched) < 0.5 * path.stat().st_size


@pytest.mark.parametrize("is_asked_for", [True, False], ids=["the store compares", "the store ignores If-Match"])
def test_parts_of_several_versions_are_not_put_together(
    store: Any, wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_asked_for: bool
) -> None:
    """Both versions have the same footer, and other values."""
    new, get = bytearray(wide.read_bytes()), obstore.get
    new[4] ^= 1

    def replace_then(store_: Any, name: str, *, options: Any) -> Any:
        found = get(store_, name, options=options if is_asked_for else {"range": options["range"]})
        obstore.put(store, name, bytes(new))
        return found

    monkeypatch.setattr(obstore, "get", replace_then)

    with pytest.raises(SourceError, match=r"wide\.parquet: changed after it was listed, so nothing is written"):
        copy_object(f"s3://drops/{wide.name}", tmp_path / "in", Stop(), ReadOptions(columns=("id",)))


class Watching(ThreadPoolExecutor):
    """Two threads as hosts, which keep what is sent to them; `change` may give them another file."""

    def __init__(self, change: Callable[[SortFile], SortFile] = lambda file: file) -> None:
        super().__init__(2)
        self.seen, self.change = b"", change

    def submit(self, work: Any, task: Any) -> Future[Any]:  # type: ignore[override]
        self.seen += pickle.dumps(task)
        if isinstance(task, SortFiles):
            task = replace(task, files=tuple(map(self.change, task.files)))
        return super().submit(work, task)


def test_hosts_open_objects_themselves_and_no_task_has_a_secret(
    store: Any, database: str, connection: Connection
) -> None:
    obstore.put(store, "hive/dt=2024-01-02/y.csv", b"v;id\ny;1\n")  # of another layout: it is sorted again
    with web_server(lambda path, times: (200, b"id,v\n9,web\n")) as url, Watching() as threads:
        for table in ("alone", "loaded", "watched"):
            with connection.cursor() as cursor:
                cursor.execute(f"CREATE TABLE {table} (id bigint PRIMARY KEY, v text, dt date)")
        load = partial(ingest, ["s3://drops/hive/", f"{url}/dt=2024-01-03/w.csv"], key="id", dsn=database)
        alone, *others = load("alone"), load("loaded", executor="processes:2"), load("watched", executor=threads)

        assert [(row[:2], str(row[2])) for row in rows_of(connection, "alone")] == [
            ((1, "y"), "2024-01-02"), ((2, "h"), "2024-01-02"), ((9, "web"), "2024-01-03")
        ]  # fmt: skip
        for table, result in zip(("loaded", "watched"), others, strict=True):
            assert result.plan.commit == "together", result.reasons
            assert rows_of(connection, table) == rows_of(connection, "alone")
            assert dict(result.files) == dict(alone.files)
        assert b"s3://drops/hive/dt=2024-01-02/x.csv" in threads.seen
        assert not [secret for secret in (KEY, SECRET) if secret.encode() in threads.seen]

        signed = ingest(f"{url}/dt=2024-01-03/w.csv?sig=canary-signature", "loaded", "id", database, executor=threads)
        assert "the query of a URL, a signature perhaps, is not sent" in signed.reasons[-1]
        assert b"canary" not in threads.seen


@pytest.mark.parametrize("is_pinned", [True, False], ids=["pinned", "control"])
def test_an_object_that_changes_before_a_host_opens_it_is_refused(
    store: Any, database: str, connection: Connection, is_pinned: bool
) -> None:
    def change(file: SortFile) -> SortFile:
        obstore.put(store, "changing/b.csv", b"id,v\n1,new\n")
        if is_pinned:
            return file
        assert not isinstance(file.source, str)
        return replace(file, source=replace(file.source, fetch=partial(copy_object, file.name)))

    obstore.put(store, "changing/b.csv", b"id,v\n1,old\n")
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE loaded (id bigint PRIMARY KEY, v text)")
    with Watching(change) as threads:
        if is_pinned:
            with pytest.raises(
                SourceError, match=r"b.csv: changed after it was listed, so nothing is written.* \(host "
            ):
                ingest("s3://drops/changing/b.csv", "loaded", "id", database, executor=threads)
        else:
            ingest("s3://drops/changing/b.csv", "loaded", "id", database, executor=threads)
    assert rows_of(connection) == ([] if is_pinned else [(1, "new")])


@pytest.mark.parametrize("is_patient", [True, False], ids=["patient", "control"])
def test_files_of_a_web_server_load_and_failures_that_pass_are_waited_for(
    database: str, connection: Connection, monkeypatch: pytest.MonkeyPatch, is_patient: bool
) -> None:
    def answer(path: str, times: int) -> tuple[int, bytes]:
        return (503, b"") if times < 3 else (200, gzip.compress(b"id,v\n1,web\n"))

    if not is_patient:
        monkeypatch.setattr(object_copies, "RETRY_SECONDS", 0.0)
    with web_server(answer) as url:
        name = f"{url}/out/a.csv.gz?X-Signature=canary-signature"
        if is_patient:
            result = ingest(name, "loaded", "id", database, create_table=True)
            assert rows_of(connection) == [(1, "web")]
            assert list(result.files) == [f"{url}/out/a.csv.gz"]
        else:
            with pytest.raises(SourceError, match=r"/out/a.csv.gz: cannot be read.*503"):
                ingest(name, "loaded", "id", database, create_table=True)


def test_parquet_of_a_web_server_that_sends_whole_files_only_loads(
    wide: Path, database: str, connection: Connection
) -> None:
    with web_server(lambda path, times: (200, wide.read_bytes())) as url:
        read = ReadOptions(columns=("id", "v"))
        ingest(f"{url}/{wide.name}", "loaded", "id", database, create_table=True, read=read)

    assert rows_of(connection) == [(number, str(number)) for number in range(100_000)]


@pytest.mark.parametrize(
    ("status", "words"), [(403, "the store refuses access"), (404, "no such object"), (400, "cannot be read")]
)
def test_a_web_server_that_refuses_is_reported_without_the_signature(database: str, status: int, words: str) -> None:
    with web_server(lambda path, times: (status, b"")) as url:
        command = [sys.executable, "-m", "etl_toolkit", "ingest", f"{url}/a.csv?sig=canary-signature", "--json"]
        command += ["--table", "loaded", "--key", "id", "--dsn", database, "--create-table"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert words in json.loads(done.stdout)["error"]
    assert f"{url}/a.csv" in done.stdout
    assert "canary" not in done.stdout + done.stderr


def test_no_secret_reaches_the_ledger_or_the_output(store: Any, database: str, connection: Connection) -> None:
    command = [sys.executable, "-m", "etl_toolkit", "ingest", "s3://drops/day", "--json"]
    command += ["--table", "loaded", "--key", "id", "--dsn", database, "--create-table"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT (SELECT string_agg(r::text, ' ') FROM etl_toolkit.runs AS r), "
            "(SELECT string_agg(f::text, ' ') FROM etl_toolkit.files AS f)"
        )
        ledger = " ".join(cursor.fetchone() or ())

    assert "s3://drops/day/part2.csv" in done.stdout
    assert "s3://drops/day/part2.csv" in ledger
    assert not [secret for secret in (KEY, SECRET) if secret in done.stdout + done.stderr + ledger]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:pw@host/a.csv?sig=x#y", "https://host/a.csv"),
        ("s3://key:secret@bucket/a.csv", "s3://bucket/a.csv"),
        ("s3://bucket/a?b.csv", "s3://bucket/a?b.csv"),
        ("abfss://container@account/a.csv", "abfss://container@account/a.csv"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


@pytest.mark.parametrize("url", ["https://me:pw@host/a.csv", "s3://key:pw@bucket/a.csv"])
def test_a_password_in_a_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(UsageError, match="give credentials in the environment") as refused:
        objects_of(url, None)

    assert "pw" not in str(refused.value)
