"""The options that several commands share, and what they resolve to."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from etl_toolkit.errors import UsageError

if TYPE_CHECKING:
    from etl_toolkit.feed import Feed
    from etl_toolkit.model import LoadSpec

Files = Annotated[
    list[str] | None,
    typer.Argument(metavar="FILES", help="CSV, TSV or Parquet files (.gz, .zst), or globs, in loading order."),
]
Table = Annotated[str, typer.Option("--table", "-t", help="Target table, `name` or `schema.name`.")]
# With a feed, both are optional.
TargetTable = Annotated[str | None, typer.Option("--table", "-t", help="Target table, `name` or `schema.name`.")]
LoadKey = Annotated[str | None, typer.Option("--key", "-k", help="Key column, or several separated by commas.")]
FeedFile = Annotated[
    Path | None, typer.Option("--feed", "-f", help="Feed file with files, table, key and options; flags override it.")
]
Dsn = Annotated[
    str | None, typer.Option("--dsn", help="Server (URL or keywords). Default: ETL_DSN, PG*, else embedded.")
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs", "-j", min=1, help="Number of workers. Default: one per core, at most 8; one for little data."
    ),
]
Executor = Annotated[
    str | None,
    typer.Option(
        "--executor", help="Where to load: processes:N, or a Dask scheduler, dask://HOST:PORT. Default: here."
    ),
]
Exchange = Annotated[
    str | None,
    typer.Option("--exchange", metavar="DIR", help="A directory that all hosts of --executor read and write."),
]
Commit = Annotated[
    str | None,
    typer.Option(
        "--commit", help="When hosts commit: together, per_range or auto (together, if all can be connected)."
    ),
]
Strategy = Annotated[
    str | None,
    typer.Option("--strategy", "-s", help="auto, full_parallel, hybrid, deterministic, streaming or partitioned."),
]
OrderBy = Annotated[str | None, typer.Option("--order-by", help="The row with the greatest value of this column wins.")]
OnConflict = Annotated[
    str | None, typer.Option("--on-conflict", help="update (default), ignore, or newer (with --order-by).")
]
Config = Annotated[Path | None, typer.Option("--config", "-c", help="TOML file with a [load] table.")]
Headers = Annotated[
    str | None, typer.Option("--headers", help="Column names of headerless CSV files, comma-separated.")
]
Delimiter = Annotated[str | None, typer.Option("--delimiter", help="Default: detected.")]
Quote = Annotated[str | None, typer.Option("--quote", help='Quote character. Default: ".')]
Encoding = Annotated[str | None, typer.Option("--encoding", help="Default: UTF-8, or according to a byte order mark.")]
ExtraColumns = Annotated[
    str | None,
    typer.Option("--extra-columns", help="What to do with columns that the table lacks: error (default) or ignore."),
]
Read = Annotated[
    list[str] | None,
    typer.Option("--read", metavar="NAME=VALUE", help="Any option that `feed options` lists for reading; repeatable."),
]
Write = Annotated[
    list[str] | None,
    typer.Option("--write", metavar="NAME=VALUE", help="Any option that `feed options` lists for writing; repeatable."),
]
DateStyle = Annotated[
    str | None,
    typer.Option("--date-style", help="Order of the parts of dates: MDY, DMY or YMD. Default: the server's DateStyle."),
]
TimeZone = Annotated[
    str | None, typer.Option("--timezone", help="Time zone of timestamps without one. Default: the server's TimeZone.")
]
Format = Annotated[
    str | None,
    typer.Option("--format", help="csv, pgtext (COPY's text format) or parquet. Default: by the file name."),
]
Skip = Annotated[
    int | None,
    typer.Option("--skip", min=0, help="Lines to skip before the header, or with --headers before the data."),
]
Wait = Annotated[
    float | None, typer.Option("--wait", help="Seconds to wait for another run on the table. Default: 10.")
]
AllFiles = Annotated[bool, typer.Option("--all-files", help="List all files, however many there are.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings only: no progress, no report.")]


def require(command: str, *modules: str) -> None:
    """Raise UsageError at once if a command lacks packages that it will need in the end."""
    if missing := [name for name in modules if find_spec(name) is None]:
        raise UsageError(f"{command} needs {', '.join(missing)}; install with: pip install 'etl-toolkit[notebooks]'")


def split(names: str) -> list[str]:
    """Column names separated by commas."""
    return [name.strip() for name in names.split(",") if name.strip()]


def resolve_dsn(given: str | None, feed: Feed | None = None) -> str | None:
    """The server that is meant; None is the embedded one."""
    from etl_toolkit import server

    return server.resolve_dsn(feed.dsn if given is None and feed else given, os.environ)


def spec_of_flags(arguments: Mapping[str, Any], base: LoadSpec) -> LoadSpec:
    """What the arguments of a command ask for; what is not given is as in `base`."""
    from etl_toolkit.request import spec_of
    from etl_toolkit.typed_options import make_options, parse_assignments

    given = {name.removeprefix("file_"): value for name, value in arguments.items() if value is not None}
    for name, before in (("read", base.read), ("write", base.write)):
        if name in given:
            origin, kind = f"--{name}", type(before)
            values = parse_assignments(kind, given[name], origin=origin)
            given[name] = make_options(kind, values, before, origin=origin)
    return spec_of(given | {name: split(given[name]) for name in ("key", "headers") if name in given}, base)


def open_feed(path: Path | None) -> Feed | None:
    """The feed that is named."""
    if path is None:
        return None
    from etl_toolkit.feed import Feed

    return Feed.from_toml(path)


def print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2, default=str, ensure_ascii=False)
    sys.stdout.write("\n")
