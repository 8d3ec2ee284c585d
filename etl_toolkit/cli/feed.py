"""`feed`: files that describe a load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from etl_toolkit.cli.options import Dsn

feed = typer.Typer(help="Files that describe a load.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(feed, name="feed")


@feed.command("options")
def list_options() -> None:
    """List the options of reading and writing: for a feed, for --read and --write, and for Python."""
    from etl_toolkit.model import ReadOptions, WriteOptions
    from etl_toolkit.option_schema import describe_options
    from etl_toolkit.tables import Lines, to_text

    typer.echo(
        to_text(
            [
                Lines(f"[{section}]", [f"{name} ({takes}; {default}): {doc}" for name, default, takes, doc in rows])
                for section, rows in (
                    ("read", describe_options(ReadOptions)),
                    ("write", describe_options(WriteOptions)),
                )
            ]
        )
    )


@feed.command("init")
def init(
    files: Annotated[list[str], typer.Argument(metavar="FILES", help="Files or globs, in loading order.")],
    table: Annotated[str | None, typer.Option("--table", "-t", help="Target table; it need not exist.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Feed file to write; - is standard output. Default: named like the table.")
    ] = None,
    dsn: Dsn = None,
) -> None:
    """Look at files, and at the table, and write a feed with what was found and what is not sure. Overwrites nothing."""
    from contextlib import ExitStack

    from etl_toolkit.cli.history import connected
    from etl_toolkit.feed.proposal import propose_feed, write_feed

    with ExitStack() as stack:
        connection = stack.enter_context(connected(dsn)) if table else None
        place = out or Path(f"{(table or 'feed').replace('.', '_')}.toml")
        text = propose_feed(files, place, table=table, connection=connection)
    if str(place) == "-":
        return typer.echo(text, nl=False)
    write_feed(text, place)
    typer.echo(f"{place}: look at it, then: etl-toolkit plan --feed {place}")


@feed.command("schema")
def show_schema(
    derive: Annotated[
        bool, typer.Option("--derive", help="From the code, not from the published file.", hidden=True)
    ] = False,
) -> None:
    """Print the JSON Schema of a feed file, for editors."""
    from etl_toolkit.cli.options import print_json
    from etl_toolkit.feed.schema import feed_schema, schema_text

    if derive:
        return print_json(feed_schema())
    typer.echo(schema_text(), nl=False)
