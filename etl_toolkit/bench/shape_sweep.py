"""`make bench-shapes`: tables and files as people have them, ours against the plain ways.

It is a sweep, so every answer is checked, it leaves a run directory, and an interrupted one continues. By default it is
small: half of the keys shared, into an empty table and into one that has half of the keys.
"""

from __future__ import annotations

import argparse
import sys

from etl_toolkit.bench.command import add_common, run_command
from etl_toolkit.bench.records import TableState
from etl_toolkit.bench.shape_table import shape_text
from etl_toolkit.bench.shapes import SHAPES
from etl_toolkit.bench.sweep_config import STATES, SweepConfig

PLAIN_WAYS = ("staged_merge", "sequential")


def shapes_config(
    *,
    files: int = 4,
    rows: int = 25_000,
    rounds: int = 3,
    shapes: tuple[str, ...] = tuple(SHAPES),
    overlaps: tuple[float, ...] = (0.5,),
    states: tuple[TableState, ...] = ("empty", "half"),
    contenders: tuple[str, ...] = ("auto", *PLAIN_WAYS),
) -> SweepConfig:
    """Return the sweep over shapes; `rows` counts the rows of one file, `states` other than empty are at the first overlap."""
    return SweepConfig(
        name="shapes",
        strategies=contenders,
        side_strategies=(),
        formats=("csv",),
        files=(files,),
        rows=(rows,),
        overlaps=overlaps,
        table_states=("empty", *(state for state in states if state != "empty")),
        workers=(2,),
        keys=("bigint",),
        shapes=shapes,
        twin=None,
        grid="corners",
        rounds=rounds,
        warm_up=False,
        order="settings",
        time_limit_seconds=24 * 3600.0,
    )


def main(words: list[str] | None = None) -> int:
    """Run the sweep and print its table; returns the exit code."""
    given = _parser().parse_args(words)
    config = shapes_config(
        files=given.files, rows=given.rows, rounds=given.rounds, shapes=tuple(given.shapes),
        overlaps=tuple(given.overlaps), states=tuple(given.states), contenders=tuple(given.contenders),
    )  # fmt: skip
    command = ["python -m etl_toolkit.bench.shape_sweep", *(sys.argv[1:] if words is None else words)]
    outcome = run_command(config, given.directory, given.dsn, command)
    if isinstance(outcome, int):
        return outcome
    sys.stdout.write(shape_text(outcome))
    return int(any(case["failures"] for case in outcome.report["cases"] if case["kind"] == "ours"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m etl_toolkit.bench.shape_sweep", description=(__doc__ or "").split("\n")[0]
    )
    add_common(parser, directory="build/shapes", rows=25_000, rounds=3)
    parser.add_argument("--shapes", nargs="+", choices=tuple(SHAPES), default=tuple(SHAPES), metavar="SHAPE",
                        help=f"of {', '.join(SHAPES)}; default: all")  # fmt: skip
    parser.add_argument("--overlaps", nargs="+", type=float, default=(0.5,), metavar="SHARE",
                        help="shares of keys that a file has in common with the one before; default: 0.5")  # fmt: skip
    parser.add_argument("--states", nargs="+", choices=STATES, default=("empty", "half"),
                        help="what the table holds before; default: empty half")  # fmt: skip
    parser.add_argument("--contenders", nargs="+", default=("auto", *PLAIN_WAYS), metavar="NAME",
                        help="default: auto and the plain ways %(default)s")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
