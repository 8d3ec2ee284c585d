"""`make bench-peers`, `python -m etl_toolkit.bench.peers`: our strategies against everybody else, interleaved.

Four files of 500,000 rows, disjoint, half and wholly overlapping, into an empty table; and the disjoint ones into a
table that holds every key already, once all to be rewritten and once all unchanged. Every answer is checked. It is a
sweep, so it leaves a run directory and an interrupted one continues; on top come `peers.md` and `peers.json`.
"""

from __future__ import annotations

import argparse
import sys

from etl_toolkit.bench import peer_table
from etl_toolkit.bench.command import add_common, run_command
from etl_toolkit.bench.contenders import CONTENDERS
from etl_toolkit.bench.records import TableState
from etl_toolkit.bench.sweep_config import SweepConfig

OVERLAPS = (0.0, 0.5, 1.0)
STATES: tuple[TableState, ...] = ("empty", "rewritten", "unchanged")
# Of the ones that take ten times as long as the others, one has to be asked for.
USUAL = tuple(name for name, contender in CONTENDERS.items() if not contender.is_slow)


def peers_config(
    *,
    files: int = 4,
    rows: int = 500_000,
    rounds: int = 5,
    key: str = "bigint",
    overlaps: tuple[float, ...] = OVERLAPS,
    states: tuple[TableState, ...] = STATES,
    contenders: tuple[str, ...] = USUAL,
) -> SweepConfig:
    """Return the sweep over the five cases; `rows` counts the rows of one file."""
    return SweepConfig(
        name="peers",
        strategies=contenders,
        side_strategies=(),
        formats=("csv",),
        files=(files,),
        rows=(rows,),
        overlaps=overlaps,
        table_states=states,
        workers=(2,),
        keys=(key,),
        twin="auto" if "auto" in contenders else None,
        grid="corners",
        rounds=rounds,
        time_limit_seconds=24 * 3600.0,
    )


def main(words: list[str] | None = None) -> int:
    """Run the comparison and print its table; returns the exit code."""
    given = _parser().parse_args(words)
    config = peers_config(
        files=given.files, rows=given.rows, rounds=given.rounds, key=given.key,
        overlaps=tuple(given.overlaps), states=tuple(given.states), contenders=tuple(given.contenders),
    )  # fmt: skip
    command = ["python -m etl_toolkit.bench.peers", *(sys.argv[1:] if words is None else words)]
    record = run_command(config, given.directory, given.dsn, command)
    if isinstance(record, int):
        return record
    sys.stdout.write(peer_table.write(record))
    # Only ours have to be right: that the naive way is not belongs to the result.
    ours = [case for case in record.report["cases"] if case["kind"] == "ours"]
    return 1 if any(case["failures"] and not peer_table.declined(case) for case in ours) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m etl_toolkit.bench.peers", description=(__doc__ or "").split("\n")[0]
    )
    add_common(parser, directory="build/peers", rows=500_000, rounds=5)
    parser.add_argument("--key", choices=("bigint", "text_timestamp"), default="bigint")
    parser.add_argument("--overlaps", nargs="+", type=float, choices=OVERLAPS, default=OVERLAPS, metavar="SHARE",
                        help="of 0, 0.5, 1; default: all")  # fmt: skip
    parser.add_argument("--states", nargs="+", choices=STATES, default=STATES, help="what the table holds before")
    parser.add_argument("--contenders", nargs="+", choices=tuple(CONTENDERS), default=USUAL, metavar="NAME",
                        help=f"of {', '.join(CONTENDERS)}; default: all but the slow")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
