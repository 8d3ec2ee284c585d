"""The command line: parse, one call, print, exit code. Results go to stdout, progress and complaints to stderr.

Exit codes: 0 done, 1 failed, 2 usage, 3 done but some rows rejected, 4 a doctor check failed, 5 done but a command after the
load failed, 130 / 143 interrupted.
"""

from __future__ import annotations

import signal
import sys
from typing import NoReturn

import typer

from etl_toolkit import __version__
from etl_toolkit.cli import analysis, feed, history, load, nightly, production, servers
from etl_toolkit.cli.failures import INTERRUPTED, complain, exit_code, is_json_wanted
from etl_toolkit.cli.signals import Interrupt, Terminated, terminate
from etl_toolkit.errors import EtlError

app = typer.Typer(
    name="etl-toolkit",
    help="Load many CSV and Parquet files into one PostgreSQL table in parallel, upserting, as if loaded in order.",
    no_args_is_help=True,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
load.register(app)
nightly.register(app)
feed.register(app)
history.register(app)
production.register(app)
analysis.register(app)
servers.register(app)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"etl-toolkit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Print the version."),
) -> None:
    """Load many CSV and Parquet files into one PostgreSQL table in parallel, upserting, as if loaded in order."""


def main() -> NoReturn:
    """Run the command line and exit as documented; a user's mistake never shows a traceback."""
    signal.signal(signal.SIGTERM, terminate)
    interrupt = Interrupt()
    try:
        outcome = app(standalone_mode=False)  # what `typer.Exit` carries, else what the command returned
        code = outcome if isinstance(outcome, int) else 0
        if code == 130:  # typer's own answer to Ctrl-C
            raise KeyboardInterrupt
    except (KeyboardInterrupt, typer.Abort):
        code = complain("interrupted; what was not committed is rolled back; see `etl-toolkit runs`", 130)
    except Terminated:
        code = complain("terminated; what was not committed is rolled back; see `etl-toolkit runs`", 143)
    except EtlError as error:
        code = complain(str(error), INTERRUPTED if interrupt.is_pressed else exit_code(error), error)
    except BrokenPipeError:
        code = 0
    except Exception as error:
        code = complain("interrupted", INTERRUPTED) if interrupt.is_pressed else _click_failure(error)
    sys.exit(code)


def _click_failure(error: Exception) -> int:
    """Show what the argument parser found wrong; anything else is a defect of ours and keeps its traceback."""
    show, code = getattr(error, "show", None), getattr(error, "exit_code", None)
    if show is None or code is None:
        raise error
    if is_json_wanted():
        return complain(error.format_message(), int(code))  # type: ignore[attr-defined]  # click's
    show()
    return int(code)
