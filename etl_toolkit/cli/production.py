"""`doctor`, `undo`, `config`: before and after a load in production."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Annotated

import typer

from etl_toolkit.cli import options
from etl_toolkit.cli.load import load_config
from etl_toolkit.cli.options import Config, Dsn, Exchange, Executor, Jobs, Json, Wait

FAILED_CHECK_EXIT_CODE = 4


def register(app: typer.Typer) -> None:
    app.command()(doctor)
    app.command()(undo)
    app.add_typer(settings, name="config")


def doctor(
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILES", help="Also try to read these: paths, globs, URLs; on each host, too."),
    ] = None,
    table: Annotated[str | None, typer.Option("--table", "-t", help="Check this table as well.")] = None,
    key: Annotated[str, typer.Option("--key", "-k", help="Its key columns, separated by commas.")] = "",
    max_rejects: Annotated[int, typer.Option(min=0, help="The --max-rejects of your loads.")] = 0,
    skip_backup: Annotated[
        bool, typer.Option("--skip-backup", help="Skip the rehearsal of backup and rollback.")
    ] = False,
    executor: Executor = None,
    exchange: Exchange = None,
    config: Config = None,
    jobs: Jobs = None,
    dsn: Dsn = None,
    as_json: Json = False,
) -> None:
    """Run the production checklist. Each check shows its evidence; the server and the table are left unchanged."""
    from etl_toolkit.doctor import run_checks
    from etl_toolkit.errors import UsageError
    from etl_toolkit.request import connection_string

    if table and not key:
        raise UsageError("--table needs --key: the columns of its unique index")
    found = run_checks(
        connection_string(options.resolve_dsn(dsn)),
        table,
        options.split(key),
        load_config(config, jobs=jobs, executor=executor, exchange=exchange),
        max_rejects=max_rejects,
        proves_backup=not skip_backup,
        sources=sources or (),
    )
    if as_json:
        options.print_json(found.as_dict())
    else:
        typer.echo(found.as_text())
    if not found.ok:
        raise typer.Exit(FAILED_CHECK_EXIT_CODE)


def undo(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run loaded with --undoable, as listed by `runs`.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be undone; change nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Undo even if a later run has written to the table.")] = False,
    dsn: Dsn = None,
    as_json: Json = False,
) -> None:
    """Undo everything that a run wrote. One transaction: if that is not possible, nothing is changed."""
    from etl_toolkit.processor import ConflictAwareProcessor

    done = ConflictAwareProcessor(options.resolve_dsn(dsn)).undo(run, force=force, dry_run=dry_run)
    if as_json:
        return options.print_json(asdict(done))
    would = "would be " if done.dry_run else ""
    columns = [
        f", column {', '.join(names)} {what}"
        for names, what in (
            (done.dropped, f"{would}dropped"),
            (done.narrowed, f"{would}narrowed to the type before"),
            (done.still_wide, "stays wide, since values or something else need it"),
        )
        if names
    ]
    typer.echo(
        f"{done.table}: {done.deleted:,} rows {would}deleted, {done.restored:,} rows {would}restored{''.join(columns)} (run {run})"
    )
    if done.not_restored:
        typer.echo(
            f"warning: rows of {', '.join(done.not_restored)} that the server deleted or cleared with the rows that the run had "
            "deleted (ON DELETE) are not restored; restore them from a backup",
            err=True,
        )


settings = typer.Typer(help="Settings, and where each comes from.", no_args_is_help=True, rich_markup_mode=None)


@settings.command()
def show(
    config: Config = None,
    preset: Annotated[str | None, typer.Option(help="production or development.")] = None,
    jobs: Jobs = None,
    wait: Wait = None,
    as_json: Json = False,
) -> None:
    """Show each setting, its value, and whether a flag, the environment, a file, a preset or the default gave it."""
    from etl_toolkit.config import describe, resolve_config
    from etl_toolkit.tables import Table, to_text

    rows = describe(
        *resolve_config(config, os.environ, {"preset": preset, "concurrency": jobs, "lock_wait_seconds": wait})
    )
    if as_json:
        return options.print_json({name: {"value": value, "from": origin} for name, value, origin in rows})
    typer.echo(to_text([Table("Settings of a load", ("setting", "value", "from"), rows)]))


@settings.command()
def template(name: Annotated[str, typer.Argument(help="production or development.")]) -> None:
    """Print a configuration file to start from."""
    from etl_toolkit.config import template as text_of

    typer.echo(text_of(name), nl=False)
