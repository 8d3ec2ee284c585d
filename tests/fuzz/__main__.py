"""`make fuzz`: cases from fresh seeds, each held against the oracle; a find is one line that replays it."""

from __future__ import annotations

import argparse
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from pprint import pprint

import psycopg2

from etl_toolkit import server
from tests.conftest import _memory
from tests.fuzz.case import Case
from tests.fuzz.draw import CLIENT_RUN, draw
from tests.fuzz.judge import judge
from tests.fuzz.shrink import shrink
from tests.fuzz.worker import Client

SEEDS = Path(__file__).with_name("seeds.txt")


def seeds_on_file() -> list[int]:
    """The seeds of past finds; `#` begins a comment."""
    lines = [line.partition("#")[0].strip() for line in SEEDS.read_text().splitlines()]
    return [int(line) for line in lines if line]


def fresh_seeds(minutes: float) -> Iterator[int]:
    ends = time.monotonic() + minutes * 60
    while time.monotonic() < ends:
        first = secrets.randbelow(1 << 30) * CLIENT_RUN
        for seed in range(first, first + CLIENT_RUN):
            if time.monotonic() < ends:
                yield seed


def run(seeds: Iterator[int], *, is_shrunk: bool = False) -> tuple[int, int]:
    """Judge the cases of the seeds; print finds as they come. Return how many cases and how many with finds."""
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]
    cases = finds = 0
    with (
        suppress(KeyboardInterrupt),
        server.temporary(profile="fast", root=_memory()) as running,
        judging(running.dsn) as found_in,
    ):
        for seed in seeds:
            case = draw(seed)
            cases += 1
            if found := found_in(case):
                finds += 1
                print(f"make fuzz SEED={seed}  # {brief(found[0])}", flush=True)
                for line in found[1:]:
                    print(f"    {brief(line)}", flush=True)
                if is_shrunk:
                    pprint(shrink(case, lambda smaller: kind_of(found_in(smaller)) == kind_of(found)), width=150)
    return cases, finds


@contextmanager
def judging(dsn: str) -> Iterator[Callable[[Case], list[str]]]:
    """Something that judges cases on one server, with one client process for as long as cases share an environment."""
    admin = psycopg2.connect(dsn)
    admin.autocommit = True
    client: Client | None = None

    def found_in(case: Case) -> list[str]:
        nonlocal client
        if client is None or client.environment != case.environment:
            if client is not None:
                client.close()
            client = Client(case.environment)
        return judge(case, dsn, admin, client)

    try:
        yield found_in
    finally:
        if client is not None:
            client.close()
        admin.close()


def kind_of(found: list[str]) -> str:
    """What went wrong first, without the values: finds of one kind have one cause, as far as can be told."""
    return re.sub(r"\W.*", "", found[0].partition(": ")[2]) + found[0].partition(":")[0] if found else ""


def brief(text: str) -> str:
    """One line of at most 400 characters."""
    return re.sub(r"\s+", " ", text)[:400]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, action="append", help="replay this case")
    parser.add_argument("--shrink", action="store_true", help="look for a smaller case that fails alike, and print it")
    parser.add_argument("--known", action="store_true", help="replay the seeds of past finds")
    chosen = parser.parse_args()
    started = time.monotonic()
    seeds = (
        iter(chosen.seed or [])
        if chosen.seed
        else iter(seeds_on_file())
        if chosen.known
        else fresh_seeds(chosen.minutes)
    )
    cases, finds = run(seeds, is_shrunk=chosen.shrink)
    print(f"{cases} cases, {finds} finds, {time.monotonic() - started:.0f} seconds")
    return 1 if finds else 0


if __name__ == "__main__":
    sys.exit(main())
