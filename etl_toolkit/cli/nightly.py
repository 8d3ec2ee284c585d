"""`run`: several feeds, one summary, one exit code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from etl_toolkit.cli import options
from etl_toolkit.cli.failures import FAILED, INTERRUPTED, MISTAKEN, TERMINATED, exit_code
from etl_toolkit.cli.load import FOLLOW_UP_EXIT_CODE, REJECTED_EXIT_CODE
from etl_toolkit.cli.options import Dsn, Json
from etl_toolkit.cli.signals import stopped_by_signals

if TYPE_CHECKING:
    from etl_toolkit.nightly import FeedOutcome


def register(app: typer.Typer) -> None:
    app.command("run")(run)


def run(
    place: Annotated[Path, typer.Argument(metavar="FEEDS", help="A directory of feeds (*.toml), or one feed.")],
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME...]", help="Only these feeds of it.")] = None,
    connections: Annotated[int, typer.Option(min=4, help="Connections that all loads may have together.")] = 16,
    dsn: Dsn = None,
    as_json: Json = False,
) -> None:
    """Run several feeds side by side. Tables that others refer to are loaded first; if that fails, the others are skipped."""
    from etl_toolkit.nightly import read_feeds, run_feeds
    from etl_toolkit.tables import Lines, Table, to_text

    feeds = read_feeds(place, names or [])
    with stopped_by_signals() as stop:
        outcomes = run_feeds(feeds, options.resolve_dsn(dsn), connections=connections, stop=stop, on_outcome=_tell)
    code = _code_of(outcomes)
    if as_json:
        options.print_json({"feeds": [outcome.as_dict() for outcome in outcomes], "code": code})
    else:
        rows = []
        for outcome in outcomes:
            counts = outcome.result.counts if outcome.result else None
            numbers = (counts.read, counts.written, counts.rejected) if counts else (None, None, None)
            skipped = len(outcome.result.skipped) if outcome.result else None
            rows.append(
                (outcome.feed.name, outcome.feed.spec.table, outcome.status, *numbers, skipped, outcome.seconds)
            )
        head = ("feed", "table", "status", "read", "written", "rejected", "files skipped", "seconds")
        reasons = [f"{outcome.feed.name}: {outcome.reason}" for outcome in outcomes if outcome.reason]
        typer.echo(
            to_text([Table("Feeds", head, rows), *([Lines("Not as it should be:", reasons)] if reasons else [])])
        )
    if code:
        raise typer.Exit(code)


def _tell(outcome: FeedOutcome) -> None:
    typer.echo(f"{outcome.feed.name}: {outcome.status} in {outcome.seconds:.1f} s", err=True)


def _code_of(outcomes: Sequence[FeedOutcome]) -> int:
    """130 or 143 if stopped; 1 if one failed, 2 if all that failed need a user; 5 or 3 if all are loaded, but not smoothly."""
    if any(outcome.status == "stopped" for outcome in outcomes):
        codes = [exit_code(outcome.error) for outcome in outcomes if outcome.status == "stopped" and outcome.error]
        return INTERRUPTED if INTERRUPTED in codes else TERMINATED
    if any(outcome.status == "failed" for outcome in outcomes):
        codes = [
            exit_code(outcome.error) if outcome.error else FAILED for outcome in outcomes if outcome.status == "failed"
        ]
        return MISTAKEN if set(codes) == {MISTAKEN} else FAILED
    if any(outcome.reason for outcome in outcomes):
        return FOLLOW_UP_EXIT_CODE
    return REJECTED_EXIT_CODE if any(outcome.result and outcome.result.counts.rejected for outcome in outcomes) else 0
