"""The first half of a load on hosts: files sorted, ranges chosen, plan made, nothing written. Its result is a `Ready`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, chain, filterfalse, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

from etl_toolkit.columns import common_layout, may_read_once
from etl_toolkit.config import ParallelConfig
from etl_toolkit.errors import LedgerError, SourceError, UnknownColumnError, UnknownTableError, UsageError
from etl_toolkit.hosts.coordinating import Sorted, load_on_hosts
from etl_toolkit.hosts.exchange import Exchange, open_exchange
from etl_toolkit.hosts.executors import Hosts
from etl_toolkit.hosts.ranges import LARGEST_RANGE, find_bounds, samples_a_file
from etl_toolkit.hosts.rounds import Round
from etl_toolkit.hosts.sorting import sort_files
from etl_toolkit.hosts.tasks import Job, SortedFile, SortedRun, SortedRuns, SortFile, SortFiles
from etl_toolkit.loading.conventions import refuse_lost_nulls
from etl_toolkit.loading.ledger import loaded_before
from etl_toolkit.loading.run import Phases, Run
from etl_toolkit.loading.session import Sessions
from etl_toolkit.loading.writable import is_standby
from etl_toolkit.model import (
    Batch,
    ConflictAction,
    KeyOverlap,
    Layout,
    LoadedBefore,
    LoadSpec,
    Plan,
    SourceFile,
    Sources,
    Strategy,
    TargetTable,
    WriteOptions,
)
from etl_toolkit.plan import RANGES_PER_WORKER, SMALLEST_RANGE, Question, find_range_obstacle
from etl_toolkit.prepare import Ready, Resumed, as_list, prepare_load, with_words_on_values
from etl_toolkit.sources import Fetched, escape_name, expand, read_once
from etl_toolkit.tables import spell_count
from etl_toolkit.target import read_target
from etl_toolkit.workspace import Workspace, open_workspace

OWN_SESSIONS = 5  # of the coordinator, and to spare
TASKS_A_WORKER, TASK_BYTES = 4, 32 << 20  # that many, where they are larger than this
Commit = Literal["together", "per_range"]


class OneProcessError(Exception):
    """Hosts cannot do this load exactly: the reason, in words."""


@contextmanager
def prepare_on_hosts(
    files: Any, spec: LoadSpec, sessions: Sessions, phases: Phases, hosts: Hosts, *,
    resumed: Resumed | None = None, is_trial: bool = False,
) -> Iterator[Ready]:  # fmt: skip
    """Let hosts sort the files, and choose the key ranges and when they commit.

    A load that cannot be divided that way is prepared for this process alone, and the plan says why.
    """
    config = sessions.config
    parent = exchange_parent(hosts, config)
    with (
        open_workspace(config, threads=1, stop=sessions.stop) as workspace,
        open_exchange(parent, sessions.run_id) as exchange,
    ):
        workspace.lock_down([])
        first = _FirstHalf(spec, sessions, phases, hosts, exchange, workspace, resumed)
        try:
            ready = first.prepare(files)
        except OneProcessError as reason:
            if resumed:
                raise LedgerError(
                    f"run {resumed.past.run_id} was loaded by hosts and cannot be resumed so: {reason}; start a new run"
                ) from None
            words = f"loaded by one process instead of {hosts.words}: {reason}"
            with prepare_load(files, spec, sessions, phases, is_trial=is_trial) as alone:
                yield replace(alone, plan=replace(alone.plan, reasons=(*alone.plan.reasons, words)))
            return
        yield ready


def exchange_parent(hosts: Hosts, config: ParallelConfig) -> Path:
    """The directory that hosts and coordinator share. Raises UsageError where none is named that other machines could see."""
    if config.exchange:
        return Path(config.exchange).absolute()
    if not hosts.is_local:
        raise UsageError(
            "hosts need a directory that all of them can read and write: name it with --exchange DIR, or `exchange` in the "
            "configuration"
        )
    return Path(config.temp_directory or tempfile.gettempdir())


@dataclass(frozen=True)
class _Table:
    target: TargetTable
    is_standby: bool
    free_sessions: int


@dataclass(frozen=True)
class _FirstHalf:
    spec: LoadSpec
    sessions: Sessions
    phases: Phases
    hosts: Hosts
    exchange: Exchange
    workspace: Workspace
    resumed: Resumed | None

    def prepare(self, files: Any) -> Ready:
        """Raises OneProcessError where hosts cannot do it."""
        if reason := _unfit(self.spec, self.sessions.config):
            raise OneProcessError(reason)
        inputs = expand(as_list(files), self.spec.read.format)
        if not all(isinstance(item, Path) or (isinstance(item, Fetched) and item.is_anywhere) for item in inputs):
            raise OneProcessError(
                "hosts open files, and objects of stores, by their names: frames, pipes and files in archives have none, and the "
                "query of a URL, a signature perhaps, is not sent to them"
            )
        with self.phases.phase("target"):
            table = self._look_at_table()
        target, spec = table.target, replace(self.spec, key=table.target.key)
        at_once = max(1, min(self.hosts.slots, table.free_sessions - OWN_SESSIONS))
        job, files = self._job(spec, target), _to_sort(inputs)
        with self.phases.phase("read"):
            runs = self._sort(job, files, list(map(_size, inputs)), at_once)
        found = [each for run in runs for each in run.files]
        refuse_lost_nulls([each.file for each in found], self.sessions.conventions)
        self._check(spec, target, found)
        layout = common_layout([each.file for each in found], target)
        assert layout is not None
        with self.phases.phase("read"):
            runs = self._with_layout(job, runs, layout, files, at_once)
        found = sorted((each for run in runs for each in run.files), key=lambda each: each.keys.position)
        sources, places = self._read_once(found, spec, target)
        found = [
            _moved(each, sources.files[at]) for each in found if (at := places.get(each.keys.position)) is not None
        ]
        with self.phases.phase("divide"):
            bounds = tuple(self.resumed.bounds or ()) if self.resumed else self._bounds(runs, spec, target)
        plan = self._plan(sources, runs, bounds, table, at_once=at_once)
        ready = Sorted(
            job, self.hosts, self.exchange, layout, tuple(found), _place(runs, places),
            sum(run.record_bytes for run in runs), bounds, at_once, is_resumed=bool(self.resumed),
        )  # fmt: skip
        refused = {each.keys.position: each.rejects for each in found if each.rejects}

        def load(run: Run) -> dict[int, Any]:
            return load_on_hosts(run, ready)

        return Ready(sources, sources.files, target, layout, None, spec, plan, self.workspace, refused, load=load)

    def _look_at_table(self) -> _Table:
        def look(connection: Any) -> _Table:
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_catalog.current_setting('max_connections')::int "
                    "- pg_catalog.current_setting('superuser_reserved_connections')::int "
                    "- coalesce(pg_catalog.current_setting('reserved_connections', true)::int, 0) "
                    "- (SELECT count(*)::int FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend')"
                )
                free = cursor.fetchone()[0]
            return _Table(read_target(connection, self.spec.table, self.spec.key), is_standby(connection), free)

        try:
            table = self.sessions.ask("catalog", look)
        except UnknownTableError:
            if self.spec.create_table:
                raise OneProcessError("--create-table has to see all values before it chooses types") from None
            raise
        hazards = [hazard for hazard in table.target.hazards if hazard.forces != "staged" and not hazard.columns]
        if hazards:
            raise OneProcessError(f"{hazards[0].kind}: {hazards[0].detail}")
        if table.is_standby:
            raise OneProcessError("the server is a standby")
        return table

    def _job(self, spec: LoadSpec, target: TargetTable) -> Job:
        return Job(
            run_id=self.sessions.run_id, spec=spec, config=replace(self.sessions.config, executor=None), target=target,
            conventions=dict(self.sessions.conventions), exchange=str(self.exchange.directory), sign=self.exchange.sign,
            threads=self.hosts.threads, memory_bytes=self.hosts.memory_bytes,
        )  # fmt: skip

    def _sort(
        self, job: Job, files: list[SortFile], sizes: list[int], at_once: int, layout: Layout | None = None
    ) -> list[SortedRun]:
        total, samples = sum(sizes), samples_a_file(len(files))

        def note(_task: SortFiles, done: SortedRuns) -> None:
            self.phases.add({name: seconds for name, seconds in done.phases.items() if name != "read"})
            for run in done.runs:
                for each in run.files:
                    self.phases.tell("looked", bytes=each.file.size_bytes, total_bytes=total)
                self.phases.tell(
                    "sorted", files=[each.file.name for each in run.files], rows=sum(each.keys.rows for each in run.files),
                    bytes=run.size_bytes, seconds=run.seconds, worker=done.host,
                )  # fmt: skip

        round_ = Round(
            self.hosts, self.sessions.config, self.sessions.stop.check, self.exchange.renew,
            partial(self.sessions.note_retry, "sorting"), at_once=at_once,
        )  # fmt: skip
        self.phases.tell("looked", bytes=0, total_bytes=total)
        tasks = [SortFiles(job, group, samples, layout) for group in _group(files, sizes, at_once)]
        try:
            done = round_.carry_out(sort_files, tasks, on_done=note)
        except UnknownColumnError as error:  # whether it is in another file, only who has all of them can say
            raise OneProcessError(str(error)) from None
        return list(chain.from_iterable(each.runs for each in done))

    def _check(self, spec: LoadSpec, target: TargetTable, found: Sequence[SortedFile]) -> None:
        """Raise OneProcessError where the files show that hosts cannot do it."""
        keys = tuple(each.keys for each in found)
        overlap = KeyOverlap(keys, sum(each.distinct_keys for each in keys), 0, (), {}, (), key=spec.key)
        question = Question(spec, target, tuple(each.file for each in found), overlap, 1, 1)
        if reason := find_range_obstacle(question):
            raise OneProcessError(reason)
        if empty := sum(each.null_keys for each in keys):
            raise OneProcessError(f"{empty:,} rows have no key, and the table takes them")
        if not overlap.distinct_keys:
            raise OneProcessError("there are no rows to divide")

    def _with_layout(
        self, job: Job, runs: list[SortedRun], layout: Layout, files: list[SortFile], at_once: int
    ) -> list[SortedRun]:
        """Sort files again whose records are laid out in another way than those of most."""

        def is_odd(run: SortedRun) -> bool:
            return (run.layout.columns, run.layout.delimiter) != (layout.columns, layout.delimiter)

        odd = [each.file for run in filter(is_odd, runs) for each in run.files]
        if not odd:
            return runs
        more = [files[file.position] for file in odd]
        again = self._sort(job, more, [file.size_bytes for file in odd], at_once, layout)
        for old, new in zip(odd, (each.file for run in again for each in run.files), strict=True):
            if new.content_hash != old.content_hash:
                raise _changed(new)
        return [*filterfalse(is_odd, runs), *again]

    def _read_once(
        self, found: Sequence[SortedFile], spec: LoadSpec, target: TargetTable
    ) -> tuple[Sources, dict[int, int]]:
        """Leave out files whose content is given at another place, as a load in one process does; return where the others go."""
        sources = Sources(tuple(each.file for each in found))
        if self.resumed or not may_read_once(sources.files, target, spec):
            return sources, {file.position: file.position for file in sources.files}
        is_first_kept = spec.conflict_action is ConflictAction.IGNORE
        once = read_once(sources, self.workspace, is_first_kept=is_first_kept)
        position_of = {(file.name, file.content_hash): file.position for file in sources.files}
        return once, {position_of[file.name, file.content_hash]: file.position for file in once.files}

    def _bounds(self, runs: Sequence[SortedRun], spec: LoadSpec, target: TargetTable) -> tuple[str, ...]:
        keys, count = sum(run.distinct_keys for run in runs), self.hosts.slots
        if target.is_empty and spec.conflict_action is ConflictAction.UPDATE:  # see `plan`
            count *= min(RANGES_PER_WORKER, max(1, keys // (count * SMALLEST_RANGE)))
        return find_bounds(runs, max(count, -(-keys // LARGEST_RANGE)), self.workspace)

    def _plan(
        self, sources: Sources, runs: Sequence[SortedRun], bounds: tuple[str, ...], table: _Table, *, at_once: int
    ) -> Plan:
        positions = tuple(file.position for file in sources.files)
        lanes = tuple((Batch(number, positions, partition=number),) for number in range(len(bounds)))
        commit, why = self._commit(at_once)
        size = sum(run.size_bytes for run in runs)
        reasons = (
            f"{self.hosts.words} sort the files, and load {spell_count(len(bounds), 'key range')}; "
            f"until then, {size / 1e6:,.1f} MB of sorted rows are in {self.exchange.directory.parent}",
            why,
        )
        plan = Plan(
            Strategy.PARTITIONED, reasons, self.resumed.lanes if self.resumed else lanes, at_once, "client",
            target_is_empty=table.target.is_empty, duplicates=sources.duplicates,
            loaded_before=self._before(sources, table.target), commit=commit,
        )  # fmt: skip
        return with_words_on_values(plan, sources.files, table.target, self.sessions.conventions)

    def _before(self, sources: Sources, target: TargetTable) -> tuple[LoadedBefore, ...]:
        if self.spec.force or self.spec.conflict_action is not ConflictAction.UPDATE:
            return ()
        return self.sessions.ask("catalog", lambda connection: loaded_before(connection, target.oid, sources.files))

    def _commit(self, at_once: int) -> tuple[Commit, str]:
        wanted = self.resumed.past.plan["commit"] if self.resumed else self.sessions.config.commit
        if wanted == "per_range":
            return "per_range", _PER_RANGE
        if wanted == "auto" and at_once < self.hosts.slots:
            return "per_range", f"the server has connections for {at_once} of {self.hosts.slots} workers; {_PER_RANGE}"
        return "together", "all ranges commit together: until then readers see none of the rows"


_PER_RANGE = (
    "every range commits by itself: until the last one, readers see the rows of some key ranges and not of others"
)


def _unfit(spec: LoadSpec, config: ParallelConfig) -> str:
    """Why hosts cannot do what is asked for, whatever the files and the table are."""
    if spec.strategy not in (Strategy.AUTO, Strategy.PARTITIONED):
        return f"strategy {spec.strategy} was requested"
    if spec.order_by:
        return "--order-by compares rows by more than their key"
    if spec.atomic:
        return "--atomic is one transaction, and so one session"
    if spec.undoable:
        return "--undoable keeps the rows that one transaction overwrites"
    if spec.write != WriteOptions():
        return "options of writing were given (--write)"
    if not config.conflict_detection:
        return "conflict detection is off"
    return ""


def _to_sort(inputs: list[Path | Fetched]) -> list[SortFile]:
    return [
        SortFile(position, item, item.name) if isinstance(item, Fetched)
        else SortFile(position, os.path.abspath(item), escape_name(item))  # noqa: PTH100 - links stay links
        for position, item in enumerate(inputs)
    ]  # fmt: skip


def _group(files: list[SortFile], sizes: list[int], at_once: int) -> list[tuple[SortFile, ...]]:
    """Neighbouring files in tasks: few, for each task costs 40 ms, but enough to keep all workers busy until the end."""
    known = [size or TASK_BYTES for size in sizes]  # of a file on a web server it is not known
    total = sum(known)
    share = total / max(1, round(total / max(total / TASKS_A_WORKER / at_once, min(total / at_once, TASK_BYTES))))
    middles = [(end - size / 2) // share for size, end in zip(known, accumulate(known), strict=True)]
    groups = groupby(zip(middles, files, strict=True), key=itemgetter(0))
    return [tuple(file for _, file in group) for _, group in groups]


def _size(item: Path | Fetched) -> int:
    if isinstance(item, Fetched):
        return item.size
    return item.stat().st_size if item.is_file() else 0


def _place(runs: Sequence[SortedRun], places: Mapping[int, int]) -> tuple[tuple[tuple[int, ...], str], ...]:
    """The runs with the places of their files, in the order of these, as a `LoadRange` has them."""
    placed = ((tuple(places.get(each.keys.position, -1) for each in run.files), run.path) for run in runs if run.path)
    return tuple(sorted(item for item in placed if max(item[0]) >= 0))


def _moved(found: SortedFile, file: SourceFile) -> SortedFile:
    rejects = tuple(replace(item, file=file.position) for item in found.rejects)
    return replace(found, file=file, rejects=rejects, keys=replace(found.keys, position=file.position, name=file.name))


def _changed(file: SourceFile) -> SourceError:
    return SourceError(
        f"{escape_name(file.name)}: was changed while it was being loaded, so nothing of it is written; load it again once "
        "it is complete"
    )
