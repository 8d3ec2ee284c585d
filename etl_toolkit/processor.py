"""`ConflictAwareProcessor` and `ingest()`: the only place where the steps of a load are joined."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, NoReturn, TypeVar

from etl_toolkit.columns import spelled_as
from etl_toolkit.config import ParallelConfig, available_cores
from etl_toolkit.errors import (
    FollowUpError,
    StoppedError,
    TakenMeanwhileError,
    driver_errors_mapped,
    reason_of,
)
from etl_toolkit.execution import add_up_by_name, begin_run, collect_rejects, count_reverted, execute_run
from etl_toolkit.feed import Feed
from etl_toolkit.feed.after import load_and_follow_up
from etl_toolkit.feed.document import open_feed
from etl_toolkit.keys import KEY_TYPES
from etl_toolkit.loading import ledger
from etl_toolkit.loading.conventions import PRINTED, named_conventions
from etl_toolkit.loading.coordinator import open_coordinator
from etl_toolkit.loading.dsn import plain_text_host
from etl_toolkit.loading.environment import ignored_variables
from etl_toolkit.loading.failpoints import reach
from etl_toolkit.loading.run import Event, Phases, Run
from etl_toolkit.loading.session import Sessions
from etl_toolkit.loading.undo import Undone, undo
from etl_toolkit.model import (
    Batch,
    ConflictAction,
    Counts,
    ExtraColumns,
    FileFormat,
    HazardKind,
    KeyOverlap,
    LoadResult,
    LoadSpec,
    OnConflict,
    Plan,
    ReadOptions,
    Strategy,
    StrategyName,
    WriteOptions,
)
from etl_toolkit.observe import Card, Watch, card_if_wanted, fan_out, report_load
from etl_toolkit.overlap import measure
from etl_toolkit.prepare import Ready, Resumed, forecast_plan, prepare_load, resolve_files
from etl_toolkit.ranking import collapse
from etl_toolkit.request import NOTHING_ASKED, check_named, connection_string, default_spec, spec_of
from etl_toolkit.scan import scan
from etl_toolkit.stopping import STEP_SECONDS, Stop, run_stoppable
from etl_toolkit.strategies import STRATEGIES
from etl_toolkit.strategies.mirror import why_kept
from etl_toolkit.workspace import open_workspace

T = TypeVar("T")


def _ignore_event(event: Event) -> None:
    """Discard an event: nobody is listening."""


class ConflictAwareProcessor:
    """Loads many files into one table in parallel, with the result of loading them one after the other.

    `dsn` is a libpq URL or keyword string, a SQLAlchemy Engine, or None for the embedded server. `concurrency` overrides
    the configuration's. `on_event` is called, from several threads, with every `Event` of a load. `executor` is where it
    runs: a `concurrent.futures.Executor`, a Dask client or its address, or a number of processes; None: as configured, or
    in this process.
    """

    def __init__(
        self,
        dsn: Any = None,
        *,
        concurrency: int | None = None,
        config: ParallelConfig | None = None,
        on_event: Callable[[Event], None] = _ignore_event,
        executor: Any = None,
    ) -> None:
        self._dsn = dsn
        config = config or ParallelConfig()
        self.config = config if concurrency is None else replace(config, concurrency=concurrency)
        self._on_event = fan_out(on_event)
        self._executor = self.config.executor if executor is None else executor

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a ConflictAwareProcessor may hold a password and cannot be pickled; create one where it is needed"
        )

    async def process_with_strategy(
        self, files: Any = None, table: str | None = None, key: str | Sequence[str] | None = None,
        headers: Sequence[str] | None = None, *,
        feed: Feed | str | os.PathLike[str] | None = None,
        pk_columns: str | Sequence[str] | None = None, read: ReadOptions | None = None, write: WriteOptions | None = None,
        strategy: StrategyName | None = None, order_by: str | None = None, on_conflict: OnConflict | None = None,
        create_table: bool | None = None, max_rejects: int | None = None, atomic: bool | None = None,
        force: bool | None = None, undoable: bool | None = None,
        delimiter: str | None = None, quote: str | None = None, encoding: str | None = None,
        extra_columns: ExtraColumns | None = None, date_style: str | None = None, timezone: str | None = None,
        format: FileFormat | None = None, skip: int | None = None,
        progress: bool | None = None,
    ) -> LoadResult:  # fmt: skip
        """Load `files` into `table` and return the LoadResult; cancelling the task stops the load in any phase.

        The options are those of `ingest`; `pk_columns` is another name for `key`. A `feed` is run with the settings of this
        processor, and on its server if it has one. Raises EtlError.

            result = await ConflictAwareProcessor(dsn).process_with_strategy("drops/*.csv", "orders", key=["id"])
        """
        files, spec, given = self._asked(locals())
        stop = Stop()
        with card_if_wanted(stop, progress=progress) as card:
            return await self._with(card, given)._load_unless_cancelled(files, spec, stop, given)

    async def _load_unless_cancelled(self, files: Any, spec: LoadSpec, stop: Stop, feed: Feed | None) -> LoadResult:
        work = asyncio.ensure_future(asyncio.to_thread(self._load_and_follow_up, files, spec, stop, feed))
        try:
            await _in_steps(work)
        except asyncio.CancelledError as cancelled:
            stop.set("the task was cancelled")
            await _in_steps(work)  # if cancelled again, it returns at once: nothing more is committed
            cancelled.add_note(str(work.exception() or "the load was complete by then"))
            raise
        return work.result()

    def analyze(
        self, files: Any = None, key: str | Sequence[str] | None = None, headers: Sequence[str] | None = None, *,
        feed: Feed | str | os.PathLike[str] | None = None,
        pk_columns: str | Sequence[str] | None = None, read: ReadOptions | None = None,
        delimiter: str | None = None, quote: str | None = None, encoding: str | None = None,
        extra_columns: ExtraColumns | None = None, format: FileFormat | None = None, skip: int | None = None,
        max_rejects: int | None = None,
    ) -> KeyOverlap:  # fmt: skip
        """Return which of `files` share keys, keys compared as text; needs no database and writes nothing.

        The options are those of `ingest`; `pk_columns` is another name for `key`. Raises SourceError.

            overlap = ConflictAwareProcessor().analyze("drops/*.csv", key="id")
        """
        files, spec, _ = self._asked(locals(), needs_table=False)
        return self.measure(files, spec)

    def measure(self, files: Any, spec: LoadSpec) -> KeyOverlap:
        """Return which of `files` share keys, read as `spec` says; `analyze` with its options gathered."""
        stop = Stop()

        def look() -> KeyOverlap:
            with open_workspace(self.config, threads=available_cores(), stop=stop) as workspace:
                sources = resolve_files(files, spec, self.config, workspace, Phases(), only=spec.key)
                types = [KEY_TYPES["text"]] * len(spec.key)
                spelled = [spelled_as(file, spec.key) for file in sources.files]
                scanned = scan(spelled, spec.key, workspace, key_types=types)
                collapse(scanned, workspace, action=ConflictAction.UPDATE)
                return measure(scanned, workspace)

        return run_stoppable(look, stop)

    def plan(
        self, files: Any = None, table: str | None = None, key: str | Sequence[str] | None = None,
        headers: Sequence[str] | None = None, *,
        feed: Feed | str | os.PathLike[str] | None = None,
        pk_columns: str | Sequence[str] | None = None, read: ReadOptions | None = None, write: WriteOptions | None = None,
        strategy: StrategyName | None = None, order_by: str | None = None, on_conflict: OnConflict | None = None,
        create_table: bool | None = None, max_rejects: int | None = None, atomic: bool | None = None,
        force: bool | None = None, undoable: bool | None = None,
        delimiter: str | None = None, quote: str | None = None, encoding: str | None = None,
        extra_columns: ExtraColumns | None = None, date_style: str | None = None, timezone: str | None = None,
        format: FileFormat | None = None, skip: int | None = None,
    ) -> Plan:  # fmt: skip
        """Return what a load would do and why, with predicted inserts, updates and unchanged rows. Writes nothing.

        The options are those of `ingest`; `pk_columns` is another name for `key`. Raises EtlError.

            print(ConflictAwareProcessor(dsn).plan("drops/*.csv", "orders", key="id"))
        """
        files, spec, given = self._asked(locals())
        return self._with(None, given).forecast(files, spec)

    def forecast(self, files: Any, spec: LoadSpec) -> Plan:
        """Return what loading `files` as `spec` says would do; `plan` with its options gathered."""

        def make(sessions: Sessions) -> Plan:
            doing = driver_errors_mapped(doing=f"planning a load into {spec.table}")
            with doing, self._prepare(files, spec, sessions, Phases(), is_trial=True) as ready:
                return forecast_plan(ready, sessions)

        return self._stoppable(make, "plan", Stop(), conventions=named_conventions(spec.read))

    def load(self, files: Any, spec: LoadSpec, stop: Stop | None = None) -> LoadResult:
        """Load `files` as `spec` says.

        Setting `stop` from another thread ends the load within seconds: StoppedError reports what was committed before, if
        anything was, and nothing is committed afterwards. Ctrl-C does the same, and KeyboardInterrupt arrives.
        """
        run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"

        def work(sessions: Sessions) -> LoadResult:
            return report_load(self._on_event, run_id, spec, lambda: self._load(files, spec, sessions))

        return self._stoppable(
            work, run_id, stop or Stop(),
            conventions=named_conventions(spec.read), limit_seconds=self.config.time_limit_seconds,
        )  # fmt: skip

    def resume(self, run_id: str, *, force: bool = False, stop: Stop | None = None) -> LoadResult:
        """Continue an unfinished run: batches it committed are kept, and the others are loaded. Raises LedgerError if unsafe.

        Files must be unchanged and in the same place; the number of workers may differ. `stop` is as in `load`.
        """

        def work(sessions: Sessions) -> LoadResult:
            with sessions.session("catalog") as connection:
                past = ledger.find_run(connection, run_id)
            spec = LoadSpec.from_mapping(past.spec)
            lanes = tuple(
                tuple(Batch(**{**b, "files": tuple(b["files"])}) for b in lane) for lane in past.plan["lanes"]
            )
            resumed = Resumed(past, lanes, past.plan.get("bounds"), past.plan.get("conventions", PRINTED), force)
            sessions.conventions = resumed.conventions  # not those that the first session has brought
            spec = replace(spec, strategy=Strategy(past.strategy), force=True)
            files = [name for _, name, _ in past.files]
            return report_load(self._on_event, run_id, spec, lambda: self._load(files, spec, sessions, resumed))

        return self._stoppable(work, run_id, stop or Stop(), limit_seconds=self.config.time_limit_seconds)

    def _stoppable(
        self, work: Callable[[Sessions], T], run_id: str, stop: Stop, *,
        conventions: Mapping[str, str] | None = None, limit_seconds: float = 0,
    ) -> T:  # fmt: skip
        sessions = Sessions(
            self._connection_string(), self.config, run_id, conventions or {}, stop=stop,
            on_retry=partial(self._note_retry, run_id),
        )  # fmt: skip

        def work_and_close() -> T:
            try:
                return work(sessions)
            finally:
                sessions.close_idle()

        with stop.calling(sessions.cancel_all):
            return run_stoppable(work_and_close, stop, limit_seconds=limit_seconds)

    def _load(self, files: Any, spec: LoadSpec, sessions: Sessions, resumed: Resumed | None = None) -> LoadResult:
        try:
            while True:
                with suppress(TakenMeanwhileError):
                    return self._load_in_steps(files, spec, sessions, resumed)
        except Exception as error:
            # A cancelled query or statement fails in many ways: its own error is not the reason.
            if not sessions.stop.is_set() or (isinstance(error, StoppedError) and error.run_id):
                raise
            done = "; ".join(sessions.notes) or "nothing was written"
            words = f"the load into {spec.table} was stopped ({sessions.stop.reason}) before its first batch; {done}"
            raise StoppedError(words, reason=sessions.stop.reason) from None

    def _load_in_steps(
        self, files: Any, spec: LoadSpec, sessions: Sessions, resumed: Resumed | None = None
    ) -> LoadResult:
        started, run_id, stop = time.perf_counter(), sessions.run_id, sessions.stop
        phases = Phases(self._on_event, run_id)
        with (
            driver_errors_mapped(doing=f"loading into {spec.table}"),
            open_coordinator(sessions) as coordinator,
            Watch(sessions, self._on_event) as watch,
            self._prepare(files, spec, sessions, phases, resumed=resumed) as ready,
        ):
            if host := plain_text_host(coordinator.connection):
                self._on_event(
                    Event("plain_text", {"host": host, "remedy": "put sslmode=verify-full into the DSN"}, run_id)
                )
            if ignored := ignored_variables():
                self._on_event(Event("ignored", {"variables": ignored}, run_id))
            run = Run(
                run_id=run_id, spec=ready.spec, config=self.config, target=ready.target, files=ready.files, plan=ready.plan,
                layout=ready.layout, scan=ready.scan, workspace=ready.workspace, sessions=sessions, phases=phases,
                notify=self._on_event, stop=stop, failed=sessions.failed, refused=ready.refused,
                bounds=resumed.bounds if resumed else None,
            )  # fmt: skip
            triggers = any(hazard.kind is HazardKind.ROW_TRIGGER for hazard in ready.target.hazards)
            run.tell("planned", plan=ready.plan, bytes=ready.sources.size_bytes, row_triggers=triggers)
            for item in ready.plan.loaded_before:
                run.tell("loaded_before", **asdict(item), message=str(item))
            stop.check()
            coordinator.do(partial(begin_run, run, resumed))
            reach("begun")
            counts, removed = execute_run(run, coordinator, watch, ready.load or STRATEGIES[ready.plan.strategy])
            return LoadResult(
                run_id=run_id, table=ready.target.qualified_name, strategy=ready.plan.strategy, reasons=ready.plan.reasons,
                counts=sum(counts.values(), removed), files=add_up_by_name(run, counts),
                wall_seconds=time.perf_counter() - started, phases=phases.as_dict(), plan=ready.plan, completed=True,
                duplicates=ready.sources.duplicates, retries=run.retries, created_sql=ready.created_sql,
                missing_kept=why_kept(run.spec, sum(counts.values(), Counts())),
                resources=watch.resources(), loaded_before=count_reverted(run, counts), rejects=collect_rejects(run),
                skipped=ready.sources.skipped,
            )  # fmt: skip

    @contextmanager
    def _prepare(
        self, files: Any, spec: LoadSpec, sessions: Sessions, phases: Phases, *,
        resumed: Resumed | None = None, is_trial: bool = False,
    ) -> Iterator[Ready]:  # fmt: skip
        """Prepare a load in this process or on hosts; a run is resumed as it was begun."""
        is_on_hosts = bool(resumed.past.plan.get("commit")) if resumed else self._executor is not None
        if not is_on_hosts:
            lanes = resumed.lanes if resumed else None
            with prepare_load(files, spec, sessions, phases, lanes=lanes, is_trial=is_trial) as ready:
                yield ready
            return
        from etl_toolkit.hosts import lend_dsn, open_hosts, prepare_on_hosts

        with (
            lend_dsn(sessions.run_id, sessions.dsn),
            open_hosts(self._executor, sessions.dsn, self.config) as hosts,
            prepare_on_hosts(files, spec, sessions, phases, hosts, resumed=resumed, is_trial=is_trial) as ready,
        ):
            yield ready

    def undo(self, run_id: str, *, force: bool = False, dry_run: bool = False) -> Undone:
        """Undo everything a run wrote, or raise LedgerError and change nothing; `loading.undo` describes when."""
        take_back = partial(undo, run_id=run_id, force=force, dry_run=dry_run)
        return self._stoppable(take_back, run_id, Stop())

    def _note_retry(self, run_id: str, role: str, attempt: int, error: BaseException) -> None:
        if attempt & (attempt - 1) == 0:  # 1, 2, 4, 8: a server that is away is tried for a minute
            self._on_event(Event("retry", {"batch": role, "attempt": attempt, **reason_of(error)}, run_id))

    def _with(self, card: Card | None, feed: Feed | None = None) -> ConflictAwareProcessor:
        """The same, followed by a card as well, and on the server of the feed unless it has one of its own."""
        server = feed.dsn if feed and self._dsn is None else self._dsn
        if card is None and server is self._dsn:
            return self
        on_event = fan_out(self._on_event, card) if card else self._on_event
        return ConflictAwareProcessor(server, config=self.config, on_event=on_event, executor=self._executor)

    def _asked(self, arguments: Mapping[str, Any], *, needs_table: bool = True) -> tuple[Any, LoadSpec, Feed | None]:
        """The files, what to do with them, and the feed, of the arguments of a method; the strategy may be this processor's."""
        feed = open_feed(arguments["feed"])
        base = feed.spec if feed else NOTHING_ASKED
        spec = spec_of(arguments, base if feed and "strategy" in feed.settings else default_spec(self.config, base))
        files = feed.files if feed and arguments["files"] is None else arguments["files"]
        check_named(files, spec, needs_table=needs_table)
        return files, spec, feed

    def _load_and_follow_up(self, files: Any, spec: LoadSpec, stop: Stop, feed: Feed | None) -> LoadResult:
        """Load, then do what the feed asks for. Raises FollowUpError where that fails."""
        result, complaints = load_and_follow_up(feed, partial(self.load, files, spec, stop), self._dsn)
        if complaints:
            raise FollowUpError(f"run {result.run_id} is complete, but {'; '.join(complaints)}", result)
        return result

    def _connection_string(self) -> str:
        return connection_string(self._dsn)


def ingest(
    files: Any = None, table: str | None = None, key: str | Sequence[str] | None = None, dsn: Any = None, *,
    feed: Feed | str | os.PathLike[str] | None = None, read: ReadOptions | None = None, write: WriteOptions | None = None,
    strategy: StrategyName | None = None, order_by: str | None = None, on_conflict: OnConflict | None = None,
    create_table: bool | None = None, max_rejects: int | None = None, atomic: bool | None = None, force: bool | None = None,
    undoable: bool | None = None,
    headers: Sequence[str] | None = None, delimiter: str | None = None, quote: str | None = None, encoding: str | None = None,
    extra_columns: ExtraColumns | None = None, date_style: str | None = None, timezone: str | None = None,
    format: FileFormat | None = None, skip: int | None = None,
    concurrency: int | None = None, config: ParallelConfig | None = None, on_event: Callable[[Event], None] = _ignore_event,
    progress: bool | None = None, stop: Stop | None = None, executor: Any = None,
) -> LoadResult:  # fmt: skip
    """Load files or frames into a table and wait for it; works inside a running event loop as well.

    Args:
        files: A path, a glob, a pandas, polars or Arrow frame, or a list of them, in loading order.
        table: `name` or `schema.name`.
        key: The column or columns of the unique index that decides which rows are the same.
        dsn: A libpq URL or keyword string, SQLAlchemy Engine; None is the feed's, else the embedded server.
        feed: A feed file, or a `Feed`: all of this in one file. What is given here overrides it.
        read: How the files are read, with all options of reading; those below that are also parameters override it.
        write: What the rows do to the table beyond key and conflict action.
        strategy: How the files reach the table, which ends up the same with each; None: from `config`, or chosen for these files.
        order_by: The row with the greatest value of this column wins, instead of the last one.
        on_conflict: What happens to a row whose key is already in the table; None: "update"; "newer" needs `order_by`.
        create_table: Create the table if it does not exist, with types that fit the values of the files.
        max_rejects: Rows that may be rejected before the load fails; None: 0.
        atomic: Let readers see all rows or none.
        force: Use the named strategy even if it is not safe here.
        undoable: Keep overwritten rows, for `undo`.
        headers: Column names of headerless CSV files.
        delimiter: Delimiter of CSV files; None: detected.
        quote: Quote character of CSV files; None: `"`.
        encoding: Encoding of CSV files; None: UTF-8, or according to a byte order mark.
        extra_columns: What happens to a file column that the table lacks; None: "error".
        date_style: The DateStyle under which values are read; None: the server's.
        timezone: The TimeZone under which values are read; None: the server's.
        format: The format of the files, whatever their names; "pgtext" is COPY's text format.
        skip: Number of lines before the header of CSV files, or before the data if `headers` is given.
        concurrency: Number of workers, each with a connection; None: from `config`, or one per core, at most 8,
            and one for a tiny load.
        config: Further settings of the load.
        on_event: Called, from several threads, with every Event of the load (see `etl_toolkit.observe`).
        progress: Show a live card in a notebook; None: in a notebook, False: never.
        stop: A token that ends the load when it is set, from any thread.
        executor: Where the load runs: a `concurrent.futures.Executor`, a Dask client or its address (`dask://HOST:PORT`), or a
            number of processes; None: as configured, or in this process.

    Returns:
        A LoadResult, true when every row is accounted for.

    Raises:
        EtlError: What is wrong, where, and what to do; StoppedError where the load was stopped.

    Example:
        ingest("drops/*.csv", "sales.orders", key="order_id", dsn="postgresql://etl@db/shop")
        ingest(feed="feeds/orders.toml")
    """
    options = locals()
    if given := open_feed(feed):
        dsn, config = given.dsn if dsn is None else dsn, config or given.config
        files = given.files if files is None else files
    processor = ConflictAwareProcessor(
        dsn, concurrency=concurrency, config=config, on_event=on_event, executor=executor
    )
    spec = spec_of(options, default_spec(processor.config, given.spec if given else NOTHING_ASKED))
    check_named(files, spec)
    stop = stop or Stop()
    with card_if_wanted(stop, progress=progress) as card:
        return processor._with(card)._load_and_follow_up(files, spec, stop, given)


async def _in_steps(work: asyncio.Future[LoadResult]) -> None:
    """Wait in short steps: a kernel that is interrupted cancels the task, but does not wake its loop to tell it so."""
    while not (await asyncio.wait([work], timeout=STEP_SECONDS))[0]:
        pass
