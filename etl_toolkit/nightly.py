"""Several feeds within one budget of connections: parents before children, tables side by side, one outcome."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from etl_toolkit.config import ParallelConfig
from etl_toolkit.errors import ConfigError, EtlError, StoppedError
from etl_toolkit.feed import Feed
from etl_toolkit.feed.after import load_and_follow_up
from etl_toolkit.hints import did_you_mean
from etl_toolkit.loading.run import Event
from etl_toolkit.loading.session import Sessions
from etl_toolkit.memory import memory_limit_bytes
from etl_toolkit.model import LoadResult
from etl_toolkit.processor import ConflictAwareProcessor
from etl_toolkit.request import check_named, connection_string, default_spec
from etl_toolkit.stopping import STEP_SECONDS, Stop
from etl_toolkit.target import find_table

BESIDE_WORKERS = 3  # connections of a load that no worker has: the coordinator's, the catalog's, and one that watches
CONNECTIONS = 16

_REFERENCES = """
SELECT conrelid::bigint, confrelid::bigint FROM pg_catalog.pg_constraint
WHERE contype = 'f' AND conrelid <> confrelid AND conrelid = ANY (%(oids)s::oid[]) AND confrelid = ANY (%(oids)s::oid[])
"""


@dataclass(frozen=True)
class FeedOutcome:
    """What became of one feed: `reason` says why it failed, was skipped, or what went wrong after its load."""

    feed: Feed
    status: Literal["loaded", "failed", "skipped", "stopped"]
    reason: str = ""
    result: LoadResult | None = None
    error: EtlError | None = None
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return {
            "feed": str(self.feed.path), "table": self.feed.spec.table, "status": self.status, "reason": self.reason or None,
            "seconds": self.seconds, "result": self.result.as_dict() if self.result else None,
        }  # fmt: skip


def read_feeds(
    place: str | os.PathLike[str], names: Sequence[str] = (), *, environ: Mapping[str, str] | None = None
) -> list[Feed]:
    """Return the feeds of a directory by name, or those that are named, or the one of a file.

    Raises ConfigError that lists what is wrong in all of them.
    """
    place = Path(place)
    paths = sorted(place.glob("*.toml")) if place.is_dir() else [place]
    if not paths:
        raise ConfigError(f"{place}: has no feeds (*.toml)")
    known = {path.stem: path for path in paths}
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(
            f"{place}: has no feed {unknown[0]}{did_you_mean(unknown[0], known)}; it has {', '.join(known)}"
        )
    return _open_all([known[name] for name in known if name in names or not names], environ=environ)


def _open_all(
    given: Sequence[Feed | str | os.PathLike[str]], *, environ: Mapping[str, str] | None = None
) -> list[Feed]:
    """The feeds, those that are files read. Raises ConfigError that lists what is wrong in all of them."""
    feeds, mistakes = [], []
    for each in given:
        path = each.path if isinstance(each, Feed) else Path(each)
        try:
            feed = each if isinstance(each, Feed) else Feed.from_toml(path, environ=environ)
            check_named(feed.files, feed.spec)
            if not feed.spec.key:
                mistakes.append(f"{path}: names no key")
            feeds.append(feed)
        except EtlError as error:
            mistakes.append(str(error) if str(error).startswith(str(path)) else f"{path}: {error}")
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return feeds


def run_feeds(
    feeds: str | os.PathLike[str] | Sequence[Feed | str | os.PathLike[str]], dsn: Any = None, *,
    connections: int = CONNECTIONS, stop: Stop | None = None,
    on_event: Callable[[Event], None] = lambda _event: None, on_outcome: Callable[[FeedOutcome], None] = lambda _outcome: None,
) -> list[FeedOutcome]:  # fmt: skip
    """Load feeds side by side and return what became of each, in their order; `feeds` may be their directory.

    A feed waits for those before it that load the same table, and for those whose tables its own refers to by a foreign key;
    if one of them fails, it is skipped. `dsn` is the server of feeds that name none. No more than `connections` are open at a
    time. `on_outcome` is called with each outcome as soon as it is known. Raises ConfigError, before the first load begins,
    that lists what is wrong in all of them.

        failed = [outcome for outcome in run_feeds("feeds/", dsn) if outcome.status != "loaded"]
    """
    feeds = read_feeds(feeds) if isinstance(feeds, str | os.PathLike) else _open_all(feeds)
    stop = stop or Stop()
    before = find_order(feeds, dsn)
    at_once = max(1, min(len(feeds), connections // (BESIDE_WORKERS + 1)))
    workers = max(1, connections // at_once - BESIDE_WORKERS)
    waiting, outcomes = list(range(len(feeds))), dict[int, FeedOutcome]()
    running: dict[Future[FeedOutcome], tuple[int, Stop]] = {}
    with ThreadPoolExecutor(max_workers=at_once, thread_name_prefix="etl-feed") as pool:
        while waiting or running:
            for number in [number for number in waiting if before[number] <= outcomes.keys()]:
                waiting.remove(number)
                bad = [outcomes[other] for other in sorted(before[number]) if outcomes[other].status != "loaded"]
                if bad or stop.is_set():
                    outcomes[number] = _leave_out(feeds[number], bad, stop)
                    on_outcome(outcomes[number])
                else:
                    own = Stop()  # its time limit is its own
                    task = pool.submit(_load, feeds[number], dsn, own, on_event, workers=workers, at_once=at_once)
                    running[task] = (number, own)
            done, _ = wait(running, timeout=STEP_SECONDS, return_when=FIRST_COMPLETED)
            for future in done:
                outcomes[running.pop(future)[0]] = future.result()
                on_outcome(future.result())
            if stop.is_set():
                for _, own in running.values():
                    own.set(stop.reason)
    return [outcomes[number] for number in range(len(feeds))]


def find_order(feeds: Sequence[Feed], dsn: Any = None) -> list[set[int]]:
    """Return for each feed the positions of those that must be loaded before it. A circle of foreign keys goes by position."""
    before: list[set[int]] = [set() for _ in feeds]
    servers: dict[Any, list[int]] = {}
    for number, feed in enumerate(feeds):
        servers.setdefault(feed.dsn or dsn, []).append(number)
    for server, numbers in servers.items():
        oids, references = _look_up(server, [feeds[number].spec.table for number in numbers])
        of_table: dict[Any, list[int]] = {}
        for number, oid in zip(numbers, oids, strict=True):
            table = oid or feeds[number].spec.table
            before[number] |= set(of_table.get(table, ()))
            of_table.setdefault(table, []).append(number)
        edges = {
            (number, other) for child, parent in references for number in of_table[child] for other in of_table[parent]
        }
        for number, other in sorted(
            edges, key=lambda edge: (edge[0] < edge[1], edge)
        ):  # those that agree with the positions first
            if not _comes_after(before, other, number):
                before[number].add(other)
    return before


def _comes_after(before: Sequence[set[int]], number: int, other: int) -> bool:
    """Whether a feed has to wait for another one, directly or not."""
    seen, ahead = set[int](), [number]
    while ahead:
        for each in before[ahead.pop()] - seen:
            seen.add(each)
            ahead.append(each)
    return other in seen


def _look_up(server: Any, tables: Sequence[str]) -> tuple[list[int | None], list[tuple[int, int]]]:
    """The tables by their numbers, None where one does not exist, and which of them refers to which."""
    sessions = Sessions(connection_string(server), ParallelConfig(), "feeds")
    with sessions.session("feeds") as connection, connection.cursor() as cursor:
        oids = [find_table(cursor, table) for table in tables]
        cursor.execute(_REFERENCES, {"oids": [oid for oid in oids if oid]})
        return oids, sorted(cursor.fetchall())


def _load(
    feed: Feed, dsn: Any, stop: Stop, on_event: Callable[[Event], None], *, workers: int, at_once: int
) -> FeedOutcome:
    config, server = feed.config, feed.dsn or dsn
    memory = config.memory_limit_bytes or memory_limit_bytes() // 4 // at_once
    concurrency = config.concurrency if config.workers <= workers else workers
    config = replace(config, concurrency=concurrency, memory_limit_bytes=memory)
    processor = ConflictAwareProcessor(server, config=config, on_event=on_event)
    spec, started = default_spec(config, feed.spec), time.perf_counter()
    try:
        result, complaints = load_and_follow_up(feed, lambda: processor.load(feed.files, spec, stop), server)
    except EtlError as error:
        words = "; ".join([str(error), *error.notes])
        status: Literal["failed", "stopped"] = "stopped" if isinstance(error, StoppedError) else "failed"
        return FeedOutcome(feed, status, words, error=error, seconds=time.perf_counter() - started)
    reason = "; ".join(complaints) if result else "the counts do not add up"
    return FeedOutcome(feed, "loaded" if result else "failed", reason, result, seconds=time.perf_counter() - started)


def _leave_out(feed: Feed, bad: Sequence[FeedOutcome], stop: Stop) -> FeedOutcome:
    if not bad:
        return FeedOutcome(feed, "stopped", f"not begun: stopped ({stop.reason})")
    first = bad[0]
    is_same = first.feed.spec.table == feed.spec.table
    why = "loads the same table before it" if is_same else f"loads {first.feed.spec.table}, to which its table refers"
    what = "failed" if first.status == "failed" else f"was {first.status}"
    return FeedOutcome(feed, "skipped", f"feed {first.feed.name}, which {why}, {what}")
