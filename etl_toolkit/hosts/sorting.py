"""`sort_files`: everything that has to be known of files before anything is written, and their sorted runs."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from etl_toolkit.columns import layout_of, match_columns
from etl_toolkit.errors import SourceError, UsageError
from etl_toolkit.hosts.here import Here, at_host
from etl_toolkit.hosts.runs import sample_keys, write_run
from etl_toolkit.hosts.tasks import Job, SortedFile, SortedFiles, SortFile, SortFiles
from etl_toolkit.loading.failpoints import reach
from etl_toolkit.loading.run import Run
from etl_toolkit.model import Layout, Plan, ReadOptions, Reject, SourceFile, Strategy
from etl_toolkit.overlap import measure
from etl_toolkit.prepare import localize_instants, read_files, resolve_files
from etl_toolkit.ranking import collapse
from etl_toolkit.scan import KeyScan
from etl_toolkit.sources import Fetched, check_unchanged, path_values
from etl_toolkit.stopping import Stop
from etl_toolkit.strategies.suspects import Inquiry, find_refused


def sort_files(task: SortFiles) -> SortedFiles:
    """Look at files, ask the server about doubtful rows, and leave the winner of each key of a file in the exchange directory.

    May run anywhere and more than once: every attempt writes runs of its own. Every row that the server would refuse is
    found here, those that win included, since ranges may be committed one by one. Raises SourceError, RejectLimitError,
    DatabaseError.
    """
    with at_host(task.job) as here:
        looked = zip(task.files, _look(task, here), strict=True)
        found = tuple(_sort(task.job, asked, file, here) for asked, file in looked)
        return SortedFiles(found, here.name, here.phases.as_dict())


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


def _sort(job: Job, asked: SortFile, file: SourceFile, here: Here) -> SortedFile:
    started = time.perf_counter()
    layout = asked.layout or layout_of(file, job.target)
    with here.phases.phase("read"):
        (file,), scanned = read_files((file,), job.target, job.spec, layout, workspace=here.workspace)
    assert scanned is not None
    reach("scanned")
    rejects = _find_rejects(job, here, file, layout, scanned)
    with here.phases.phase("collapse"):
        collapse(scanned, here.workspace, action=job.spec.conflict_action)
        keys = measure(scanned, here.workspace).files[0]
        samples, kinds = sample_keys(scanned, here.workspace, asked.samples)
    run, record_bytes = None, 0
    keys = replace(keys, position=asked.position, name=asked.name)
    if keys.distinct_keys and not keys.unproven and not keys.null_keys:
        with here.phases.phase("divide"):
            run, record_bytes = write_run(scanned, here.workspace, Path(job.exchange), keys)
    check_unchanged(file)  # its lines may have been read again
    return SortedFile(
        file=_placed(file, asked.position), layout=layout, keys=keys,
        rejects=tuple(replace(item, file=asked.position) for item in rejects), samples=tuple(samples),
        key_types=tuple(kinds), run=str(run or ""), run_bytes=run.stat().st_size if run else 0,
        record_bytes=record_bytes, seconds=time.perf_counter() - started,
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


def _find_rejects(job: Job, here: Here, file: SourceFile, layout: Layout, scanned: KeyScan) -> tuple[Reject, ...]:
    """The rows that the server refuses, and the malformed ones; the former are taken out of the scan."""
    spec, target = job.spec, job.target
    with here.phases.phase("rejects"):
        inquiry = Inquiry(scanned, target, layout, here.workspace, here.sessions)
        doubtful = inquiry.doubtful_keys(limit=spec.max_rejects).get(file.position, ())
    plan = Plan(Strategy.PARTITIONED, (), (), 1, "client")
    run = Run(
        run_id=job.run_id, spec=spec, config=here.config, target=target, files=(file,), plan=plan, layout=layout,
        scan=scanned, workspace=here.workspace, sessions=here.sessions, phases=here.phases,
        notify=lambda _event: None, stop=here.stop,
    )  # fmt: skip
    find_refused(run)
    return (*file.malformed, *doubtful, *run.refused.get(file.position, ()))


def _placed(file: SourceFile, position: int) -> SourceFile:
    """The file at its place in the load, without what only this host knows of it."""
    malformed = tuple(replace(item, file=position) for item in file.malformed)
    return replace(file, position=position, malformed=malformed, readable=None, path=None)
