"""`feed`: files that describe a load."""

from __future__ import annotations

import typer

feed = typer.Typer(help="Files that describe a load.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(feed, name="feed")


@feed.command("options")
def list_options() -> None:
    """List the options of reading and writing: for a feed, for --read and --write, and for Python."""
    from etl_toolkit.model import ReadOptions, WriteOptions
    from etl_toolkit.tables import Lines, to_text
    from etl_toolkit.typed_options import describe_options

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
