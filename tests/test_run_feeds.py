"""`run feeds/`: parents before children, one budget of connections, one summary, one exit code."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection

import etl_toolkit
from etl_toolkit import ConflictAwareProcessor, Feed
from etl_toolkit.errors import ConfigError, UsageError
from etl_toolkit.nightly import find_order, read_feeds, run_feeds
from etl_toolkit.stopping import Stop
from tests.forked import run_command

TABLES = """
CREATE TABLE customer (id int PRIMARY KEY, v text);
CREATE TABLE item (id int PRIMARY KEY, customer int REFERENCES customer (id));
CREATE TABLE line (id int PRIMARY KEY, item int REFERENCES item (id));
CREATE TABLE other (id int PRIMARY KEY, v text);
"""
ROWS = {"customer": "id,v\n1,a\n", "item": "id,customer\n1,1\n", "line": "id,item\n1,1\n", "other": "id,v\n1,x\n"}


@pytest.fixture
def feeds(connection: Connection, tmp_path: Path) -> Path:
    with connection.cursor() as cursor:
        cursor.execute(TABLES)
    # Their names are in the opposite order of what the foreign keys demand.
    for name, table in (("d_customer", "customer"), ("c_item", "item"), ("b_line", "line"), ("a_other", "other")):
        (tmp_path / f"{table}.csv").write_text(ROWS[table])
        text = f'table = "{table}"\nkey = "id"\n[files]\npaths = "{table}.csv"\n[load]\nmax_rejects = 1\n'
        (tmp_path / f"{name}.toml").write_text(text)
    return tmp_path


def call(*words: Any) -> subprocess.CompletedProcess[str]:
    return run_command("run", *words)


def test_parents_come_first(database: str, connection: Connection, feeds: Path) -> None:
    done = call(feeds, "--dsn", database, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [(item["table"], item["status"], item["result"]["counts"]["inserted"]) for item in told["feeds"]] == [
        ("other", "loaded", 1), ("line", "loaded", 1), ("item", "loaded", 1), ("customer", "loaded", 1),
    ]  # fmt: skip
    (feeds / "other.csv").write_text("id,v\n2,y\n3\n")
    some = call(feeds, "a_other", "--dsn", database)
    assert some.returncode == 3, some.stderr
    assert "a_other  other  loaded  2" in " ".join(some.stdout.split()).replace(" ", "  ")


def test_a_failed_parent_skips_its_children_and_nothing_else(
    database: str, connection: Connection, feeds: Path
) -> None:
    (feeds / "customer.csv").write_text("id,v\nx,a\ny,b\n")
    outcomes = {each.feed.spec.table: each for each in run_feeds(read_feeds(feeds), database)}
    assert {table: each.status for table, each in outcomes.items()} == {
        "customer": "failed", "item": "skipped", "line": "skipped", "other": "loaded",
    }  # fmt: skip
    assert outcomes["item"].reason == "feed d_customer, which loads customer, to which its table refers, failed"
    assert call(feeds, "--dsn", database).returncode == 1
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM item")
        assert cursor.fetchone() == (0,)


def test_feeds_are_given_as_a_directory_as_files_or_as_such(database: str, feeds: Path) -> None:
    assert [each.status for each in etl_toolkit.run_feeds(feeds, database)] == ["loaded"] * 4
    given = [feeds / "d_customer.toml", Feed.from_toml(feeds / "c_item.toml")]
    assert [each.feed.name for each in etl_toolkit.run_feeds(given, database)] == ["d_customer", "c_item"]
    with pytest.raises(ConfigError, match=r"nope\.toml: cannot be read"):
        etl_toolkit.run_feeds([*given, "nope.toml"], database)


def test_the_methods_of_a_processor_take_a_feed(database: str, connection: Connection, feeds: Path) -> None:
    path = feeds / "a_other.toml"
    done = feeds / "done.json"
    path.write_text(f"{path.read_text()}[after]\non_success = ['tee', '{done}']\n")
    processor = ConflictAwareProcessor(database)
    assert processor.analyze(feed=path).key == ("id",)
    assert processor.plan(feed=path).predicted_inserts == 1
    assert asyncio.run(processor.process_with_strategy(feed=path)).counts.inserted == 1
    assert json.loads(done.read_text())["counts"]["inserted"] == 1
    (feeds / "more.csv").write_text("id,v\n2,y\n")
    feed = replace(Feed.from_toml(path), dsn=database)
    assert (
        ConflictAwareProcessor().plan(feeds / "more.csv", feed=feed).predicted_inserts == 1
    )  # its table, on its server
    with pytest.raises(UsageError, match="no files given"):
        processor.plan(table="other", key="id")


def test_feeds_of_one_table_are_loaded_in_order(database: str, connection: Connection, feeds: Path) -> None:
    for number in range(3):
        (feeds / f"v{number}.csv").write_text(f"id,v\n7,{number}\n")
        text = f'table = "public.other"\nkey = "id"\n[files]\npaths = "v{number}.csv"\n'
        (feeds / f"v{number}.toml").write_text(text)
    assert find_order(read_feeds(feeds, ["v0", "v1", "v2"]), database) == [set(), {0}, {0, 1}]
    run_feeds(read_feeds(feeds, ["v0", "v1", "v2"]), database)
    with connection.cursor() as cursor:
        cursor.execute("SELECT v FROM other WHERE id = 7")
        assert cursor.fetchone() == ("2",)


def test_a_circle_of_foreign_keys_goes_by_name(database: str, connection: Connection, feeds: Path) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE customer ADD item int REFERENCES item (id)")
    assert find_order(read_feeds(feeds, ["c_item", "d_customer"]), database) == [set(), {0}]
    assert find_order(read_feeds(feeds, ["b_line", "c_item", "d_customer"]), database) == [{1}, set(), {1}]


def test_all_loads_together_stay_within_the_budget(database: str, connection: Connection, tmp_path: Path) -> None:
    for number in range(4):
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE TABLE t{number} (id int PRIMARY KEY, v text)")
        (tmp_path / f"{number}.csv").write_text("id,v\n" + "".join(f"{key},v\n" for key in range(20_000)))
        text = f'table = "t{number}"\nkey = "id"\n[files]\npaths = "{number}.csv"\n[load]\nconcurrency = 8\n'
        (tmp_path / f"{number}.toml").write_text(text + 'strategy = "partitioned"\n')
    seen, over = [0], threading.Event()

    def watch() -> None:
        own = psycopg2.connect(database)
        own.autocommit = True
        with own.cursor() as cursor:
            while not over.is_set():
                cursor.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND pid NOT IN (pg_backend_pid(), %s) AND backend_type = 'client backend'",
                    (connection.info.backend_pid,),
                )
                seen.append(cursor.fetchone()[0])  # type: ignore[index]
                time.sleep(0.005)
        own.close()

    thread = threading.Thread(target=watch)
    thread.start()
    outcomes = run_feeds(read_feeds(tmp_path), database, connections=10)
    over.set()
    thread.join()
    assert [each.status for each in outcomes] == ["loaded"] * 4
    assert 2 < max(seen) <= 10


def test_a_stop_ends_all_of_them(database: str, feeds: Path) -> None:
    stop = Stop()
    stop.set("enough")
    outcomes = run_feeds(read_feeds(feeds), database, stop=stop)
    assert {each.status for each in outcomes} == {"stopped", "skipped"}


def test_every_mistake_of_every_feed_is_reported(feeds: Path) -> None:
    (feeds / "e.toml").write_text("[files]\npath = 1\n")
    (feeds / "f.toml").write_text('[files]\npaths = "a"\n')
    with pytest.raises(ConfigError) as caught:
        read_feeds(feeds)
    first, second = str(caught.value).splitlines()
    assert first.endswith("e.toml, line 2: files.path is not known (did you mean paths?)")
    assert "f.toml: no table given" in second
    with pytest.raises(ConfigError, match=r"has no feed a_othr \(did you mean a_other\?\)"):
        read_feeds(feeds, ["a_othr"])
