"""`generate`, `bench`, `report`, `demo`: data, measurements, pages."""

from __future__ import annotations

import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from etl_toolkit.cli import options
from etl_toolkit.cli.options import Config, Dsn
from etl_toolkit.errors import UsageError

RUNS = Path("runs")
FOR_THE_PAGE = ("scipy", "matplotlib", "papermill", "nbconvert")
PAGE = "parallel_upsert_analysis.html"


def register(app: typer.Typer) -> None:
    app.command()(generate)
    app.command()(bench)
    app.command()(report)
    app.command()(demo)


def generate(
    out: Annotated[Path, typer.Argument(help="Directory to write the files to.")],
    files: Annotated[int, typer.Option(min=1, help="Number of files.")] = 4,
    rows: Annotated[int, typer.Option(min=1, help="Rows per file.")] = 100_000,
    overlap: Annotated[
        float, typer.Option(help="Keys shared with the previous file: a fraction (0.5) or a percentage (50).")
    ] = 0.5,
    format: Annotated[str, typer.Option(help="csv, parquet or mixed.")] = "csv",
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
) -> None:
    """Generate seeded files with overlapping keys."""
    from etl_toolkit.bench.workload import Workload, table_sql
    from etl_toolkit.bench.workload import generate as write

    share = overlap / 100 if overlap > 1 else overlap
    made = write(out, Workload(files=files, rows=rows, overlap=share, format=format, seed=seed))  # type: ignore[arg-type]
    typer.echo(
        f"{len(made.files)} files, {made.rows:,} rows, {made.distinct_keys:,} distinct keys, {made.shared_keys:,} of them in "
        f"more than one file, {made.size_bytes:,} bytes in {out}"
    )
    key = ",".join(made.workload.primary_key)
    typer.echo(f"table:  {table_sql(made.workload, 'target_table')};")
    names = " ".join(f"'{out}/*.{suffix}'" for suffix in sorted({path.suffix[1:] for path in made.files}))
    typer.echo(f"load:   etl-toolkit ingest {names} --table target_table --key {key} --create-table")


def bench(
    out: Annotated[Path | None, typer.Argument(help="Run directory; an interrupted sweep there is continued.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Compare `auto` with hand-written loads: 2 minutes on 2 cores.")
    ] = False,
    preset: Annotated[
        str | None,
        typer.Option(
            help="What to start from: full (the default), quick, peers (other people's loaders), or shapes (tables and files as "
            "people have them)."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A setting of the sweep, as in TOML: --set rounds=5, --set rows=[1000]."
        ),
    ] = None,
    files: Annotated[list[str] | None, typer.Option("--file", help="Your own files instead of generated ones.")] = None,
    key: Annotated[str | None, typer.Option("--key", "-k", help="Key of your own files.")] = None,
    table: Annotated[
        str | None, typer.Option("--table", "-t", help="Table whose definition they use; it is not written.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="TOML file with a [bench] table.")] = None,
    compare: Annotated[tuple[Path, Path] | None, typer.Option(help="Compare two run directories instead.")] = None,
    any_machine: Annotated[
        bool, typer.Option("--any-machine", help="Compare runs even if they are from different machines.")
    ] = False,
    dsn: Dsn = None,
) -> None:
    """Measure the strategies and plain ways to load. Overlap, size, table state and workers vary; every result is checked."""
    options.require("bench", "scipy")
    if compare is not None:
        return _compare(*compare, any_machine=any_machine)
    from dataclasses import replace

    from etl_toolkit.bench import sweep
    from etl_toolkit.bench.sweep_config import SweepConfig

    chosen = SweepConfig.from_toml(config) if config else SweepConfig.preset(preset or ("quick" if quick else "full"))
    chosen = SweepConfig.from_mapping(_parse_settings(settings or []), start=chosen, origin="--set")
    if files:
        if not key:
            raise UsageError("--file needs --key: the key columns of your files")
        chosen = replace(chosen, own_files=tuple(files), own_key=tuple(options.split(key)), own_table=table)
    directory = out or RUNS / f"{datetime.now(UTC):%Y%m%dT%H%M%S}"
    print("preparing files and databases …", file=sys.stderr)
    try:
        record = sweep.run(
            chosen, directory=directory, dsn=options.resolve_dsn(dsn), command=["etl-toolkit", *sys.argv[1:]],
            on_progress=lambda progress: print(progress, file=sys.stderr),
        )  # fmt: skip
    except KeyboardInterrupt:
        print(f"interrupted; the same command with {directory} continues the sweep", file=sys.stderr)
        raise
    if chosen.name in ("peers", "shapes"):
        from etl_toolkit.bench import peer_table, shape_table

        typer.echo(peer_table.peer_text(record) if chosen.name == "peers" else shape_table.shape_text(record))
        # Only ours have to be right: that the naive way is not belongs to the result.
        ours = [case for case in record.report["cases"] if case["kind"] == "ours"]
        if any(case["failures"] and not peer_table.declined(case) for case in ours):
            raise typer.Exit(1)
        return None
    _demonstrate(directory, options.resolve_dsn(dsn))
    typer.echo(f"run directory: {directory}")
    typer.echo(f"page:          etl-toolkit report {directory}")
    typer.echo(f"configuration: etl-toolkit ingest --config {directory / 'recommended.toml'} …")


def _parse_settings(words: list[str]) -> dict[str, Any]:
    """Read NAME=VALUE as lines of TOML; a bare word is a text."""
    found: dict[str, Any] = {}
    for word in words:
        name, separator, value = word.partition("=")
        if not separator:
            raise UsageError(f"--set {word}: give it as NAME=VALUE")
        try:
            found |= tomllib.loads(f"{name} = {value}")
        except tomllib.TOMLDecodeError:
            found[name.strip()] = value
    return found


def _demonstrate(directory: Path, dsn: str | None) -> None:
    """Show the races happening, and record what was said on the wire, for the page."""
    from etl_toolkit.errors import EtlError
    from etl_toolkit.reporting import demonstrations

    print("reproducing the races …", file=sys.stderr)
    try:
        demonstrations.record(directory, dsn)
    except EtlError as error:
        print(f"the races could not be reproduced: {error}", file=sys.stderr)


def _compare(left: Path, right: Path, *, any_machine: bool) -> None:
    from etl_toolkit.bench import compare

    typer.echo(str(compare.compare(left, right, any_machine=any_machine)))


def report(
    run_directory: Annotated[Path | None, typer.Argument(help="Default: the latest in runs/ and demo/.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Page to write. Default: in the run directory; after `demo`, in its directory."),
    ] = None,
) -> None:
    """Render the analysis page of a run directory. Opens no database."""
    options.require("report", *FOR_THE_PAGE)
    from etl_toolkit.reporting.report import failure, render
    from etl_toolkit.reporting.run_data import find_runs

    directory = run_directory or find_runs(("runs", "demo"))[0]
    page = out or (directory.parent if (directory.parent / PAGE).exists() else directory) / PAGE
    typer.echo(f"report: {render(directory, page)}")
    if reason := failure(directory):
        print(f"the page is incomplete: {reason}", file=sys.stderr)
        raise typer.Exit(1)


def demo(
    directory: Annotated[Path, typer.Option(help="Directory for the files and the page.")] = Path("demo"),
    rows: Annotated[int, typer.Option(min=1, help="Rows per file.")] = 50_000,
    skip_bench: Annotated[bool, typer.Option("--skip-bench", help="Only load: no benchmark, no page.")] = False,
    config: Config = None,
    dsn: Dsn = None,
) -> None:
    """Run the demonstration. Six files that share keys are loaded twice, strategies are measured, the page is rendered."""
    options.require("demo", *(() if skip_bench else FOR_THE_PAGE))
    from etl_toolkit.bench.workload import Workload
    from etl_toolkit.bench.workload import generate as write
    from etl_toolkit.cli.load import load_config
    from etl_toolkit.cli.progress import Progress
    from etl_toolkit.display import plan_text
    from etl_toolkit.processor import ConflictAwareProcessor
    from etl_toolkit.request import connection_string, load_spec

    server = connection_string(options.resolve_dsn(dsn))
    _title("1. Six files, three CSV and three Parquet; each shares half its keys with the one before")
    made = write(directory / "files", Workload(files=6, rows=rows, overlap=0.5, format="mixed", seed=1))
    files = [str(path) for path in made.files]
    typer.echo(f"{len(files)} files, {made.rows:,} rows, {made.size_bytes:,} bytes in {directory / 'files'}")
    _fresh_table(server)
    _title("2. Which files share keys, and how to load them: etl-toolkit plan …")
    settings = load_config(config)
    chosen: dict[str, Any] = {"create_table": True}
    typer.echo(plan_text(ConflictAwareProcessor(server, config=settings).plan(files, DEMO_TABLE, ["id"], **chosen)))
    for title in ("3. Load them: etl-toolkit ingest …", "4. Load them again: nothing changes, so nothing is written"):
        _title(title)
        with Progress() as progress:
            processor = ConflictAwareProcessor(server, config=settings, on_event=progress)
            result = processor.load(files, load_spec(DEMO_TABLE, ["id"], **chosen))
        typer.echo(str(result))
        if not result:
            raise typer.Exit(1)
    if skip_bench:
        return
    _title("5. How fast it is, compared with hand-written loads; every result is checked: etl-toolkit bench --quick")
    run_directory = directory / f"run-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    bench(run_directory, quick=True, dsn=dsn)
    _title("6. The page: etl-toolkit report …")
    report(run_directory, out=directory / PAGE)


DEMO_TABLE = "etl_demo"


def _fresh_table(dsn: str) -> None:
    import psycopg2

    with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute("SET client_min_messages = warning; DROP TABLE IF EXISTS etl_demo")
    connection.close()


def _title(text: str) -> None:
    typer.echo(f"\n{text}\n{'-' * len(text)}")
