"""`db`: the embedded server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from etl_toolkit.errors import ServerError


def register(app: typer.Typer) -> None:
    app.add_typer(database, name="db")


database = typer.Typer(help="The embedded PostgreSQL server.", no_args_is_help=True, rich_markup_mode=None)


@database.command()
def start() -> None:
    """Start the embedded server unless it is already running."""
    from etl_toolkit import server

    running = server.start()
    typer.echo(
        f"running on {running.host}:{running.port}, data in {running.data_dir}; `etl-toolkit db url` prints its URL"
    )


@database.command()
def stop() -> None:
    """Stop the embedded server."""
    from etl_toolkit import server

    typer.echo("stopped" if server.stop() else "was not running")


@database.command()
def url() -> None:
    """Print the URL of the running embedded server, password included: for `ETL_DSN=$(etl-toolkit db url)`."""
    from etl_toolkit import server

    running = server.status()
    if running is None:
        raise ServerError("the embedded server is not running; start it with `etl-toolkit db start`")
    typer.echo(running.dsn)


@database.command()
def grants(
    role: Annotated[str, typer.Argument(help="The role that loads.")],
    table: Annotated[
        str | None, typer.Option("--table", "-t", help="A table it loads into, `name` or `schema.name`.")
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Also let it `undo` its runs.")] = False,
    deletes: Annotated[
        bool, typer.Option("--deletes", help="Also let it delete rows, for the options `delete` and `missing`.")
    ] = False,
    feed: Annotated[
        Path | None, typer.Option("--feed", help="A feed that it loads: its table, and whether it deletes rows.")
    ] = None,
) -> None:
    """Print the SQL by which an administrator creates the ledger and lets a role load. Does not connect."""
    from etl_toolkit.feed.document import open_feed
    from etl_toolkit.loading.grants import ledger_sql, table_sql

    if given := open_feed(feed):
        table, deletes = table or given.spec.table or None, deletes or given.spec.write.deletes
    typer.echo(ledger_sql(role), nl=False)
    if table is not None:
        schema, _, name = table.rpartition(".")
        typer.echo(table_sql(role, name, schema=schema or "public", undo=undo, deletes=deletes), nl=False)


@database.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def psql(
    context: typer.Context,
    dsn: Annotated[str | None, typer.Option(help="Server. Default: ETL_DSN, PG*, else embedded.")] = None,
) -> None:
    """Open psql on the server; further arguments go to psql."""
    from etl_toolkit import server
    from etl_toolkit.cli.options import resolve_dsn

    target = resolve_dsn(dsn)
    if target is None:
        target = server.start().dsn
    program = shutil.which("psql", path=str(server.find_binaries()))
    if program is None:
        raise ServerError(f"there is no psql in {server.find_binaries()}; install the PostgreSQL client")
    # By way of the environment: a password on the command line shows in the process list.
    from psycopg2.extensions import parse_dsn

    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    environment = {names[name]: value for name, value in parse_dsn(target).items() if name in names}
    environment = {**os.environ, **environment}
    if sys.platform == "win32":  # there, `exec` returns to the shell at once
        raise typer.Exit(subprocess.run([program, *context.args], env=environment, check=False).returncode)
    os.execve(program, ["psql", *context.args], environment)
