"""`runs`, `resume`, `files`, `forget`, `rejects`, `explain`: after the load."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from etl_toolkit.cli import options
from etl_toolkit.cli.load import load_config, report
from etl_toolkit.cli.options import Config, Dsn, Exchange, Executor, Jobs, Json, Quiet, Table
from etl_toolkit.cli.signals import stopped_by_signals

RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run id, as listed by `runs`.")]


def register(app: typer.Typer) -> None:
    app.command()(runs)
    app.command()(resume)
    app.command()(files)
    app.command()(forget)
    app.command()(rejects)
    app.command()(explain)


def runs(
    table: Annotated[str | None, typer.Option("--table", "-t", help="Only runs on this table (schema.name).")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of runs.")] = 20,
    dsn: Dsn = None,
    as_json: Json = False,
) -> None:
    """List past runs, the latest first."""
    from etl_toolkit.loading import ledger
    from etl_toolkit.tables import Table as Shown
    from etl_toolkit.tables import to_text

    with connected(dsn) as connection:
        found = ledger.past_runs(connection, target=table, limit=limit)
    if as_json:
        return options.print_json([asdict(run) for run in found])
    if not found:
        return typer.echo("no runs yet")
    lines = [
        (
            run.run_id, run.status, run.target, run.strategy, len(run.files),
            (run.counts or {}).get("read"), _written(run), f"{run.started_at:%Y-%m-%d %H:%M:%S}",
        )
        for run in found
    ]  # fmt: skip
    head = ("run", "status", "table", "strategy", "files", "read", "written", "started (UTC)")
    typer.echo(to_text([Shown("Past runs, the latest first", head, lines)]))
    for run in found:
        if run.error:
            typer.echo(f"{run.run_id}: {run.error}")


def files(table: Table, dsn: Dsn = None, as_json: Json = False) -> None:
    """List the files that a table has been loaded from. The latest come first; `loaded = "skip"` leaves these out."""
    from etl_toolkit import history
    from etl_toolkit.tables import Table as Shown
    from etl_toolkit.tables import to_text

    found = history.files(table, options.resolve_dsn(dsn))
    if as_json:
        return options.print_json([asdict(file) for file in found])
    if not found:
        return typer.echo(f"{table} has taken no files yet")
    lines = [
        (
            file.name,
            file.content_hash[:12],
            file.size_bytes,
            file.rows,
            file.run_id,
            f"{file.taken_at:%Y-%m-%d %H:%M:%S}",
        )
        for file in found
    ]
    head = ("file", "content hash", "bytes", "rows", "run", "taken (UTC)")
    typer.echo(to_text([Shown(f"Files that {table} has taken, the latest first", head, lines)]))


def forget(
    table: Table,
    names: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Names or content hashes, as `files` lists them.")
    ],
    dsn: Dsn = None,
    as_json: Json = False,
) -> None:
    """Forget that files were loaded. They are loaded again then; the rows of the table stay as they are."""
    from etl_toolkit import history
    from etl_toolkit.tables import spell_count

    found = history.forget(table, names, options.resolve_dsn(dsn))
    if as_json:
        return options.print_json([asdict(file) for file in found])
    for file in found:
        typer.echo(f"forgotten: {file.name} ({spell_count(file.rows, 'row')}, run {file.run_id})")


def _written(run: Any) -> int | None:
    return run.counts["inserted"] + run.counts["updated"] if run.counts else None


def resume(
    run: RunId,
    jobs: Jobs = None,
    force: Annotated[
        bool, typer.Option("--force", help="Resume even if a newer run has written to the table.")
    ] = False,
    executor: Executor = None,
    exchange: Exchange = None,
    config: Config = None,
    dsn: Dsn = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Continue an interrupted or failed run. What it committed is kept, and the rest is loaded."""
    from etl_toolkit.cli.progress import Progress

    with Progress(quiet=quiet) as progress, stopped_by_signals() as stop:
        from etl_toolkit.processor import ConflictAwareProcessor

        settings = load_config(config, jobs=jobs, executor=executor, exchange=exchange)
        processor = ConflictAwareProcessor(options.resolve_dsn(dsn), config=settings, on_event=progress)
        result = processor.resume(run, force=force, stop=stop)
    report(result, as_json=as_json, quiet=quiet)


def rejects(
    run: RunId,
    export: Annotated[
        Path | None, typer.Option(help="Write the rows to this CSV file, to be fixed and loaded again.")
    ] = None,
    dsn: Dsn = None,
    as_json: Json = False,
) -> None:
    """Show or export the rejected rows of a run. Each comes with file, line, reason and raw text."""
    from etl_toolkit.loading import ledger
    from etl_toolkit.rejected import export_rejects, list_rejects, rejects_text

    with connected(dsn) as connection:
        ledger.find_run(connection, run)
        if export is not None:
            count = export_rejects(connection, run, export)
            where = (
                export
                if export.exists() or not count
                else f"{export.name} in partition directories below {export.parent}"
            )
            return typer.echo(f"{count} rejected rows written to {where}")
        found = list_rejects(connection, run)
    if as_json:
        return options.print_json([asdict(item) for item in found])
    typer.echo(rejects_text(found) if found else "no rejected rows")


def explain(
    table: Table,
    key: Annotated[list[str], typer.Option("--key", "-k", help="COLUMN=VALUE, for each column of the key.")],
    dsn: Dsn = None,
    as_json: Json = False,
) -> None:
    """Explain where a row came from. It names the file and row that won, the rule, and what they won against."""
    from etl_toolkit.explain import explain as explain_row
    from etl_toolkit.explain import parse_key
    from etl_toolkit.request import connection_string
    from etl_toolkit.tables import Lines, to_text

    found = explain_row(connection_string(options.resolve_dsn(dsn)), table, parse_key(key))
    if as_json:
        return options.print_json(asdict(found))
    name = ", ".join(f"{column} = {value}" for column, value in found.key.items())
    blocks = [Lines(f"{found.table} has no row with {name}")]
    if found.row is not None:
        values = [f"{column} = {'NULL' if value is None else value}" for column, value in found.row.items()]
        blocks = [Lines(f"{found.table}, row with {name}:", values)]
    if found.occurrences:
        rows = [
            f"{item.file}, record {item.record + 1}, run {item.run_id}: {item.verdict}" for item in found.occurrences
        ]
        blocks.append(Lines("Rows with this key in the files of past runs, the latest first:", rows))
    if found.notes:
        blocks.append(Lines("Notes:", found.notes))
    typer.echo(to_text(blocks))


@contextmanager
def connected(dsn: str | None) -> Iterator[Any]:
    from etl_toolkit.config import ParallelConfig
    from etl_toolkit.loading.session import Sessions
    from etl_toolkit.request import connection_string

    sessions = Sessions(connection_string(options.resolve_dsn(dsn)), ParallelConfig(), "cli")
    with sessions.session("cli", is_printing=True) as connection:
        yield connection
