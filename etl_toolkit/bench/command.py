"""What the programs of the benchmark have in common: their first options, progress, and how they end."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from etl_toolkit.bench import sweep
from etl_toolkit.bench.records import RunRecord
from etl_toolkit.bench.sweep_config import SweepConfig
from etl_toolkit.errors import EtlError
from etl_toolkit.server import resolve_dsn


def add_common(parser: argparse.ArgumentParser, *, directory: str, rows: int, rounds: int) -> None:
    """Add the options that say where to measure, how much and how often; the values are the defaults."""
    parser.add_argument("directory", nargs="?", default=directory, help="run directory (default: %(default)s)")
    parser.add_argument("--dsn", help="server to measure on; default: ETL_DSN, PG*, else a temporary one")
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--rows", type=int, default=rows, help="rows per file (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=rounds, help="default: %(default)s")


def run_command(config: SweepConfig, directory: str, dsn: str | None, command: Sequence[str]) -> RunRecord | int:
    """Run a sweep with its progress on stderr; return its record, or the exit code where it failed or was interrupted."""
    try:
        return sweep.run(
            config, directory=Path(directory), dsn=resolve_dsn(dsn, os.environ), command=command, on_progress=_show
        )
    except EtlError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted; run the same command to continue in {directory}\n")
        return 130


def _show(progress: sweep.Progress) -> None:
    sample = progress.sample
    outcome = f"{sample.wall_seconds:.2f} s" if sample.wall_seconds is not None else "failed"
    note = f" {sample.error}" if sample.error else ""
    sys.stderr.write(f"[{progress.done}/{progress.total}] round {sample.round} {sample.case}: {outcome}{note}\n")
