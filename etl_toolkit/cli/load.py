"""`ingest`, `plan`, `overlap`: the load and what comes before it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from etl_toolkit.cli import options
from etl_toolkit.cli.options import (
    AllFiles,
    Commit,
    Config,
    DateStyle,
    Delimiter,
    Dsn,
    Encoding,
    Exchange,
    Executor,
    ExtraColumns,
    FeedFile,
    Files,
    Format,
    Headers,
    Jobs,
    Json,
    LoadKey,
    OnConflict,
    OrderBy,
    Quiet,
    Quote,
    Read,
    Skip,
    Strategy,
    TargetTable,
    TimeZone,
    Wait,
    Write,
)
from etl_toolkit.cli.signals import stopped_by_signals
from etl_toolkit.errors import RejectLimitError, SourceError, UsageError

if TYPE_CHECKING:
    from etl_toolkit.config import ParallelConfig
    from etl_toolkit.feed import Feed
    from etl_toolkit.model import LoadSpec

REJECTED_EXIT_CODE = 3
FOLLOW_UP_EXIT_CODE = 5


def register(app: typer.Typer) -> None:
    app.command()(ingest)
    app.command()(plan)
    app.command()(overlap)


def ingest(
    files: Files = None,
    table: TargetTable = None,
    key: LoadKey = None,
    feed: FeedFile = None,
    strategy: Strategy = None,
    jobs: Jobs = None,
    order_by: OrderBy = None,
    on_conflict: OnConflict = None,
    create_table: Annotated[
        bool | None, typer.Option("--create-table/--no-create-table", help="Create the table if it does not exist.")
    ] = None,
    max_rejects: Annotated[
        int | None, typer.Option(min=0, help="Number of rows that may be rejected before the load fails. Default: 0.")
    ] = None,
    atomic: Annotated[
        bool | None, typer.Option("--atomic/--no-atomic", help="Let readers see all rows or none.")
    ] = None,
    force: Annotated[
        bool | None, typer.Option("--force/--no-force", help="Use the named strategy even if it is not safe here.")
    ] = None,
    undoable: Annotated[
        bool | None, typer.Option("--undoable/--no-undoable", help="Keep overwritten rows, for `undo RUN`.")
    ] = None,
    wait: Wait = None,
    executor: Executor = None,
    exchange: Exchange = None,
    commit: Commit = None,
    preset: Annotated[str | None, typer.Option(help="Settings to start from: production or development.")] = None,
    log_json: Annotated[Path | None, typer.Option(help="Append structured log lines to this file.")] = None,
    metrics: Annotated[Path | None, typer.Option(help="Write a Prometheus textfile when the load ends.")] = None,
    spans: Annotated[bool, typer.Option("--spans", help="Send OpenTelemetry spans.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, write nothing.")] = False,
    config: Config = None,
    dsn: Dsn = None,
    headers: Headers = None,
    delimiter: Delimiter = None,
    quote: Quote = None,
    encoding: Encoding = None,
    file_format: Format = None,
    skip: Skip = None,
    extra_columns: ExtraColumns = None,
    date_style: DateStyle = None,
    timezone: TimeZone = None,
    read: Read = None,
    write: Write = None,
    all_files: AllFiles = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Load files into a table in parallel. The table ends up as if they had been upserted one after the other."""
    arguments = locals()
    from etl_toolkit.cli.progress import Progress

    with Progress(quiet=quiet or dry_run) as progress:  # before the imports of a load
        from etl_toolkit.feed.after import load_and_follow_up
        from etl_toolkit.processor import ConflictAwareProcessor

        given = options.open_feed(feed)
        settings = load_config(
            config,
            given,
            preset=preset,
            jobs=jobs,
            wait=wait,
            strategy=strategy,
            executor=executor,
            exchange=exchange,
            commit=commit,
        )
        files, spec = _asked(arguments, given, settings)
        server = options.resolve_dsn(dsn, given)
        if dry_run:
            processor = ConflictAwareProcessor(server, config=settings)
            return show_plan(processor, files, spec, all_files=all_files, as_json=as_json)
        with (
            _sinks(progress, log_json, metrics, spans=spans) as on_event,
            stopped_by_signals() as stop,
            _seeming_noted(files, spec),
        ):
            processor = ConflictAwareProcessor(server, config=settings, on_event=on_event)
            result, complaints = load_and_follow_up(given, lambda: processor.load(files, spec, stop), server)
    report(result, all_files=all_files, as_json=as_json, quiet=quiet, complaints=complaints)


def report(
    result: Any, *, as_json: bool, all_files: bool = False, quiet: bool = False, complaints: Sequence[str] = ()
) -> None:
    """Print a LoadResult (only its warnings if `quiet`) and what failed after the load, and exit with its code."""
    from etl_toolkit.display import result_text, result_warnings

    if as_json:
        options.print_json(result.as_dict())
    elif not quiet:
        typer.echo(result_text(result, all_files=all_files))
    if quiet:
        for warning in result_warnings(result):
            typer.echo(f"warning: {warning}", err=True)
    for complaint in complaints:
        typer.echo(f"etl-toolkit: {complaint}", err=True)
    if not result:
        raise typer.Exit(1)
    if complaints:
        raise typer.Exit(FOLLOW_UP_EXIT_CODE)
    if result.counts.rejected:
        raise typer.Exit(REJECTED_EXIT_CODE)


def plan(
    files: Files = None,
    table: TargetTable = None,
    key: LoadKey = None,
    feed: FeedFile = None,
    strategy: Strategy = None,
    jobs: Jobs = None,
    order_by: OrderBy = None,
    on_conflict: OnConflict = None,
    create_table: Annotated[
        bool | None, typer.Option("--create-table/--no-create-table", help="Plan for a table that would be created.")
    ] = None,
    config: Config = None,
    dsn: Dsn = None,
    headers: Headers = None,
    delimiter: Delimiter = None,
    quote: Quote = None,
    encoding: Encoding = None,
    file_format: Format = None,
    skip: Skip = None,
    extra_columns: ExtraColumns = None,
    date_style: DateStyle = None,
    timezone: TimeZone = None,
    read: Read = None,
    write: Write = None,
    all_files: AllFiles = False,
    as_json: Json = False,
) -> None:
    """Show what a load would do and why. It prints the shared keys, the strategy and what would be written."""
    arguments = locals()
    from etl_toolkit.processor import ConflictAwareProcessor

    given = options.open_feed(feed)
    settings = load_config(config, given, jobs=jobs, strategy=strategy)
    files, spec = _asked(arguments, given, settings)
    processor = ConflictAwareProcessor(options.resolve_dsn(dsn, given), config=settings)
    show_plan(processor, files, spec, all_files=all_files, as_json=as_json)


def overlap(
    files: Files = None,
    key: LoadKey = None,
    feed: FeedFile = None,
    headers: Headers = None,
    delimiter: Delimiter = None,
    quote: Quote = None,
    encoding: Encoding = None,
    file_format: Format = None,
    skip: Skip = None,
    read: Read = None,
    all_files: AllFiles = False,
    as_json: Json = False,
) -> None:
    """Show which files share keys. Needs no database."""
    arguments = locals()
    from etl_toolkit.config import ParallelConfig
    from etl_toolkit.display import overlap_text
    from etl_toolkit.processor import ConflictAwareProcessor

    given = options.open_feed(feed)
    settings = given.config if given else ParallelConfig()
    files, spec = _asked(arguments | {"table": "any"}, given, settings)
    found = ConflictAwareProcessor(config=settings).measure(files, spec)
    if as_json:
        options.print_json(as_json_value(asdict(found)))
    else:
        typer.echo(overlap_text(found, all_files=all_files))


def _asked(arguments: dict[str, Any], feed: Feed | None, settings: ParallelConfig) -> tuple[list[str], LoadSpec]:
    """The files that a command is to load, and how: as its flags say, else as the feed does."""
    from etl_toolkit.request import NOTHING_ASKED, check_named, default_spec

    files = arguments["files"] or (list(feed.files) if feed else [])
    spec = options.spec_of_flags(arguments, default_spec(settings, feed.spec if feed else NOTHING_ASKED))
    check_named(files, spec)
    return files, spec


def show_plan(processor: Any, files: list[str], spec: Any, *, all_files: bool, as_json: bool) -> None:
    """Print what a load would do."""
    from etl_toolkit.display import plan_text
    from etl_toolkit.feed.seeming import describe_seeming

    with _seeming_noted(files, spec):
        found = processor.forecast(files, spec)
    if as_json:
        options.print_json(as_json_value(asdict(found)))
    else:
        typer.echo(plan_text(found, all_files=all_files))
    for note in describe_seeming(files, spec.read):
        typer.echo(note, err=True)


@contextmanager
def _seeming_noted(files: list[str], spec: Any) -> Iterator[None]:
    """Add to an error about files what these seem to be."""
    from etl_toolkit.feed.seeming import describe_seeming

    try:
        yield
    except (SourceError, RejectLimitError) as error:
        for note in describe_seeming(files, spec.read):
            error.add_note(note)
        raise


@contextmanager
def _sinks(progress: Any, log_json: Path | None, metrics: Path | None, *, spans: bool) -> Iterator[Any]:
    """All listeners to the events of a load, as one callback."""
    from etl_toolkit.observe import JsonLog, PrometheusFile, Spans, fan_out

    with ExitStack() as stack:
        sinks: list[Any] = [progress]
        if log_json is not None:
            try:
                sinks.append(JsonLog(stack.enter_context(log_json.open("a", encoding="utf-8"))))
            except OSError as error:
                raise UsageError(f"--log-json {log_json}: {error.strerror}") from None
        if metrics is not None:
            sinks.append(PrometheusFile(metrics))
        if spans:
            sinks.append(Spans())
        yield fan_out(*sinks)


def load_config(
    path: Any, feed: Feed | None = None, *, preset: str | None = None, jobs: int | None = None, wait: float | None = None,
    strategy: str | None = None, executor: str | None = None, exchange: str | None = None, commit: str | None = None,
) -> Any:  # fmt: skip
    """The configuration: flags before the environment, the file, the feed, the preset and the defaults."""
    from etl_toolkit.config import resolve_config

    flags = {
        "preset": preset, "concurrency": jobs, "lock_wait_seconds": wait, "strategy": strategy, "executor": executor,
        "exchange": exchange, "commit": commit,
    }  # fmt: skip
    return resolve_config(path, os.environ, flags, (str(feed.path), dict(feed.settings)) if feed else None)[0]


def as_json_value(value: Any) -> Any:
    """A nested value with keys that JSON knows: a pair of positions becomes `1-2`."""
    if isinstance(value, dict):
        return {
            "-".join(map(str, name)) if isinstance(name, tuple) else str(name): as_json_value(item)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [as_json_value(item) for item in value]
    return value
