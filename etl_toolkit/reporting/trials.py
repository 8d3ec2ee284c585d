"""Each strategy on the stage of a race: does it load the files right, refuse them, or go wrong?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2

from etl_toolkit.bench.records import STRATEGIES
from etl_toolkit.config import ParallelConfig
from etl_toolkit.errors import EtlError, UnsafeStrategyError
from etl_toolkit.model import LoadResult, Strategy
from etl_toolkit.processor import ingest
from etl_toolkit.reporting.stage import stage
from etl_toolkit.reporting.wiretap import IS_WORKER, Heard, WireTap, make_readable
from etl_toolkit.tables import spell_count

CREATE = "CREATE TABLE race (id bigint PRIMARY KEY, value text)"
CONFIG = ParallelConfig(concurrency=2, lock_wait_seconds=20.0)


class NotShownError(EtlError):
    """A trial that could not be made here, which says nothing about the strategy."""


@dataclass(frozen=True)
class Trial:
    """What one strategy did: `right`, `refused`, `wrong` or `not shown`, in which words that shows, and what it sent."""

    strategy: str
    outcome: str
    detail: str
    statements: Sequence[Heard] = ()


@dataclass(frozen=True)
class Expectation:
    """A query of one value, and the value that the sequential load leaves."""

    query: str
    value: Any
    words: str


Load = Callable[[Strategy, Sequence[str], str], LoadResult]


def write_csv(path: Path, rows: Sequence[tuple[int, str]]) -> str:
    """Write a file with the columns of `race`, and return its name."""
    path.write_text("id,value\n" + "".join(f"{key},{value}\n" for key, value in rows), encoding="utf-8")
    return str(path)


def load(strategy: Strategy, files: Sequence[str], dsn: str) -> LoadResult:
    """Load with two workers."""
    return ingest(list(files), "race", "id", dsn, strategy=strategy.value, config=CONFIG, progress=False)


def try_all(dsn: str, files: Sequence[str], expected: Expectation, *, loading: Load = load) -> list[Trial]:
    """Load `files` with every strategy, each into a new table, and look at the answer."""
    return [try_one(strategy, dsn, files, expected, loading=loading) for strategy in STRATEGIES]


def try_one(
    strategy: Strategy, dsn: str, files: Sequence[str], expected: Expectation, *, loading: Load = load
) -> Trial:
    """Load `files` with one strategy into a new table."""
    with stage(dsn) as own, WireTap(dsn) as tap:
        own.ask(f"DROP TABLE IF EXISTS race; {CREATE}")
        listens = strategy is Strategy.AUTO and tap.refusal() is None
        tap.heard.clear()
        try:
            result = loading(strategy, files, tap.tapped_dsn if listens else dsn)
        except UnsafeStrategyError as error:
            return Trial(strategy.value, "refused", without_paths(str(error), files))
        except NotShownError as error:
            return Trial(strategy.value, "not shown", str(error))
        except (EtlError, psycopg2.Error) as error:
            return Trial(strategy.value, "wrong", without_paths(f"{type(error).__name__}: {error}", files))
        found = own.ask(expected.query)
    detail = f"{expected.words}: {found}"
    if result.retries:
        detail += f", after {spell_count(result.retries, 'retry', 'retries')}"
    outcome = "right" if result and found == expected.value else "wrong"
    heard = make_readable(tap.heard, result.run_id, Path(files[0]).parent)
    return Trial(strategy.value, outcome, detail, [said for said in heard if IS_WORKER.match(said.session)])


def load_with_lost_reply(strategy: Strategy, files: Sequence[str], dsn: str) -> LoadResult:
    """Load through a tap that loses the reply to the first COMMIT of a batch."""
    done: set[str] = set()
    lost: list[str] = []

    def is_lost(session: str, statement: str) -> bool:
        if statement.lstrip().startswith("UPDATE etl_toolkit.batches SET counts"):
            done.add(session)
        if statement.strip() == "COMMIT" and session in done and not lost:
            lost.append(session)
            return True
        return False

    with WireTap(dsn, is_lost) as tap:
        if refusal := tap.refusal():
            raise NotShownError(refusal)
        result = load(strategy, files, tap.tapped_dsn)
    if not lost:
        raise NotShownError("no reply was lost, so nothing was tested")
    return result


def load_beside_another_writer(strategy: Strategy, files: Sequence[str], dsn: str) -> LoadResult:
    """Load while another session holds a key of the files uncommitted, and commits once the load waits for it."""
    with stage(dsn) as own, own.actor("other writer") as other, ThreadPoolExecutor(1) as pool:
        other.say("BEGIN")
        other.say("INSERT INTO race VALUES (500, 'other writer')")
        loading = pool.submit(load, strategy, files, dsn)
        own.wait_for(
            f"SELECT count(*) FROM pg_stat_activity WHERE {other.process} = ANY (pg_blocking_pids(pid))", loading
        )
        other.say("COMMIT")
        return loading.result()


def two_first_loads(strategy: Strategy, files: Sequence[str], dsn: str) -> LoadResult:
    """Load each of two files into a table that neither finds, from two threads at once."""

    def load_one(file: str) -> LoadResult:
        return ingest(
            file, "race", "id", dsn, strategy=strategy.value, config=CONFIG, create_table=True, progress=False
        )

    with stage(dsn) as own, ThreadPoolExecutor(len(files)) as pool:
        own.ask("DROP TABLE race; DROP SCHEMA IF EXISTS etl_toolkit CASCADE")
        first, *_ = pool.map(load_one, files)
    return first


def without_paths(text: str, files: Sequence[str]) -> str:
    """Leave the directories of files out of a message."""
    for name in files:
        text = text.replace(name, Path(name).name)
    return text
