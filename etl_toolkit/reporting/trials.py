"""Each strategy on the stage of a race: does it load the files right, refuse them, or go wrong?"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2

from etl_toolkit.config import ParallelConfig
from etl_toolkit.errors import EtlError, UnsafeStrategyError
from etl_toolkit.model import LoadResult, Strategy
from etl_toolkit.processor import ingest
from etl_toolkit.reporting.wiretap import IS_WORKER, Heard, WireTap, make_readable

STRATEGIES = (
    Strategy.AUTO,
    Strategy.PARTITIONED,
    Strategy.HYBRID,
    Strategy.FULL_PARALLEL,
    Strategy.DETERMINISTIC,
    Strategy.STREAMING,
)
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
    return ingest(list(files), table="race", key="id", dsn=dsn, strategy=strategy.value, config=CONFIG)


def try_all(
    dsn: str, files: Sequence[str], expected: Expectation, *, loading: Load = load, before: Sequence[str] = ()
) -> list[Trial]:
    """Load `files` with every strategy, each into a new table, and look at the answer."""
    return [try_one(strategy, dsn, files, expected, loading=loading, before=before) for strategy in STRATEGIES]


def try_one(
    strategy: Strategy, dsn: str, files: Sequence[str], expected: Expectation, *, loading: Load, before: Sequence[str]
) -> Trial:
    """Load `files` with one strategy into a new table; `before` is said to the server first."""
    with closing(psycopg2.connect(dsn)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in ("DROP TABLE IF EXISTS race", CREATE, *before):
                cursor.execute(statement)
            try:
                with WireTap(dsn) as tap:
                    listens = strategy is Strategy.AUTO and tap.refusal() is None
                    tap.heard.clear()
                    result = loading(strategy, files, tap.tapped_dsn if listens else dsn)
            except UnsafeStrategyError as error:
                return Trial(strategy.value, "refused", without_paths(str(error), files))
            except NotShownError as error:
                return Trial(strategy.value, "not shown", str(error))
            except (EtlError, psycopg2.Error) as error:
                return Trial(strategy.value, "wrong", without_paths(f"{type(error).__name__}: {error}", files))
            cursor.execute(expected.query)
            row = cursor.fetchone()
            found = row[0] if row else None
    detail = f"{expected.words}: {found}"
    if result.retries:
        detail += f", after {result.retries} {'retry' if result.retries == 1 else 'retries'}"
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
    results: list[LoadResult] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(load(strategy, files, dsn))
        except EtlError as error:
            errors.append(error)

    with closing(psycopg2.connect(dsn)) as other, closing(psycopg2.connect(dsn)) as observer:
        observer.autocommit = True
        with other.cursor() as cursor, observer.cursor() as look:
            cursor.execute("INSERT INTO race VALUES (500, 'other writer')")
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            deadline = time.monotonic() + 15
            while thread.is_alive() and time.monotonic() < deadline:
                look.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))",
                    (other.info.backend_pid,),
                )
                if look.fetchone() != (0,):
                    break
                time.sleep(0.01)
            other.commit()
            thread.join(30)
    if errors:
        raise errors[0]
    return results[0]


def two_first_loads(strategy: Strategy, files: Sequence[str], dsn: str) -> LoadResult:
    """Load each of two files into a table that neither finds, from two threads at once."""
    with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("DROP TABLE race; DROP SCHEMA IF EXISTS etl_toolkit CASCADE")
    outcomes: list[LoadResult | BaseException] = []

    def work(file: str) -> None:
        try:
            outcomes.append(ingest(file, "race", "id", dsn, strategy=strategy.value, config=CONFIG, create_table=True))
        except EtlError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=work, args=(file,), daemon=True) for file in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return next(outcome for outcome in outcomes if isinstance(outcome, LoadResult))


def without_paths(text: str, files: Sequence[str]) -> str:
    """Leave the directories of files out of a message."""
    for name in files:
        text = text.replace(name, Path(name).name)
    return text
