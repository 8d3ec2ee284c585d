"""`sort_files`: everything that has to be known of files before anything is written, and their sorted runs."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from etl_toolkit.columns import common_layout, layout_of, match_columns
from etl_toolkit.errors import SourceError, UsageError
from etl_toolkit.hosts.here import Here, at_host
from etl_toolkit.hosts.runs import find_winners, sample_keys, write_run
from etl_toolkit.hosts.tasks import Job, SortedFile, SortedRun, SortedRuns, SortFile, SortFiles
from etl_toolkit.loading.failpoints import reach
from etl_toolkit.loading.run import Run
from etl_toolkit.model import FileKeys, Layout, Plan, ReadOptions, Reject, SourceFile, Strategy
from etl_toolkit.overlap import count_rows
from etl_toolkit.prepare import localize_instants, read_files, resolve_files
from etl_toolkit.scan import KeyScan
from etl_toolkit.sources import Fetched, check_unchanged, path_values
from etl_toolkit.stopping import Stop
from etl_toolkit.strategies.suspects import Inquiry, find_refused

SHARED_BYTES = 4 << 20  # of files whose rows share a run


def sort_files(task: SortFiles) -> SortedRuns:
    """Look at files, ask the server about doubtful rows, and leave the winner of each key of a file in the exchange directory.

    May run anywhere and more than once: every attempt writes runs of its own. Every row that the server would refuse is
    found here, those that win included, since ranges may be committed one by one. Raises SourceError, RejectLimitError,
    DatabaseError.
    """
    with at_host(task.job) as here:
        shared = _share_runs(_look(task, here), task.job)
        return SortedRuns(tuple(_sort(task, tuple(files), here) for files in shared), here.name, here.phases.as_dict())


def _share_runs(files: Sequence[SourceFile], job: Job) -> list[list[SourceFile]]:
    """Neighbouring small files whose records have the same layout share a run: a range reads whole row groups of each."""
    shared: list[list[SourceFile]] = []
    last, size = None, 0
    for file in files:
        layout = layout_of(file, job.target)
        kind, size = (layout.columns, layout.delimiter), size + file.size_bytes
        if kind == last and size <= SHARED_BYTES:
            shared[-1].append(file)
        else:
            shared.append([file])
            last, size = kind, file.size_bytes
    return shared


def _look(task: SortFiles, here: Here) -> list[SourceFile]:
    """The files as they fit the table. Columns of a path are those of its name, wherever the host finds it."""
    spec, target = task.job.spec, task.job.target
    with here.phases.phase("sources"):
        sources = [_opened_by(here, asked.source) for asked in task.files]
        found = resolve_files(sources, spec, here.config, here.workspace, here.phases).files
    files = []
    for asked, file in zip(task.files, found, strict=True):
        named = path_values(Path(asked.name))
        values = tuple(item for item in file.path_values if item in named)
        files.append(replace(file, name=asked.name, path_values=values))
    localize = partial(localize_instants, match_columns(files, target, spec), workspace=here.workspace)
    matched = here.sessions.ask("catalog", lambda connection: localize(connection=connection))
    here.sessions.close_idle()  # the search for bad rows opens its own: a task has one connection at a time
    return list(matched)


def _sort(task: SortFiles, files: tuple[SourceFile, ...], here: Here) -> SortedRun:
    started, job = time.perf_counter(), task.job
    asked = task.files[files[0].position :][: len(files)]
    layout = task.layout or common_layout(files, job.target)
    assert layout is not None
    with here.phases.phase("read"):
        files, scanned = read_files(files, job.target, job.spec, layout, workspace=here.workspace)
    assert scanned is not None
    reach("scanned")
    rejects = _find_rejects(job, here, files, layout, scanned)
    with here.phases.phase("collapse"):
        found = find_winners(scanned, here.workspace, action=job.spec.conflict_action)
        keys = count_rows(scanned, here.workspace, found)
        samples, kinds = sample_keys(scanned, here.workspace, task.samples * len(files))
    path = Path(job.exchange, f"{asked[0].position:05d}-{secrets.token_hex(4)}.parquet")  # of this attempt alone
    is_written = bool(found) and not any(each.unproven or each.null_keys for each in keys)
    with here.phases.phase("divide"):
        record_bytes = write_run(scanned, here.workspace, path, sum(found.values())) if is_written else 0
    for file in files:
        check_unchanged(file)  # its lines may have been read again
    return SortedRun(
        files=tuple(_placed(*each, rejects) for each in zip(files, keys, asked, strict=True)), layout=layout,
        samples=tuple(samples), key_types=tuple(kinds), path=str(path) if is_written else "",
        size_bytes=path.stat().st_size if is_written else 0, record_bytes=record_bytes,
        seconds=time.perf_counter() - started,
    )  # fmt: skip


def _opened_by(here: Here, source: str | Fetched) -> str | Fetched:
    """A source whose failures name the host: another one may have other credentials, or another way to the store."""
    if isinstance(source, str):
        return source

    def fetch(below: Path, stop: Stop, options: ReadOptions) -> Path:
        try:
            return source.fetch(below, stop, options)
        except (SourceError, UsageError) as error:
            raise type(error)(f"{error} (host {here.name})") from None

    return replace(source, fetch=fetch)


def _find_rejects(
    job: Job, here: Here, files: tuple[SourceFile, ...], layout: Layout, scanned: KeyScan
) -> dict[int, tuple[Reject, ...]]:
    """The rows that the server refuses, and the malformed ones, by file; the former are taken out of the scan."""
    spec, target = job.spec, job.target
    with here.phases.phase("rejects"):
        inquiry = Inquiry(scanned, target, layout, here.workspace, here.sessions)
        doubtful = inquiry.doubtful_keys(limit=spec.max_rejects)
    plan = Plan(Strategy.PARTITIONED, (), (), 1, "client")
    run = Run(
        run_id=job.run_id, spec=spec, config=here.config, target=target, files=files, plan=plan, layout=layout,
        scan=scanned, workspace=here.workspace, sessions=here.sessions, phases=here.phases,
        notify=lambda _event: None, stop=here.stop,
    )  # fmt: skip
    find_refused(run)
    return {
        at: (*file.malformed, *doubtful.get(at, ()), *run.refused.get(at, ()))
        for at, file in ((file.position, file) for file in files)
    }


def _placed(file: SourceFile, keys: FileKeys, asked: SortFile, rejects: Mapping[int, Sequence[Reject]]) -> SortedFile:
    """A file at its place in the load, without what only this host knows of it."""
    position = asked.position
    mine = tuple(replace(item, file=position) for item in rejects[file.position])
    malformed = tuple(replace(item, file=position) for item in file.malformed)
    placed = replace(file, position=position, malformed=malformed, readable=None, path=None)
    return SortedFile(placed, replace(keys, position=position, name=asked.name), mine)
