"""Where one key range ends and the next begins: from samples of the keys of all runs, compared as DuckDB compares them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from etl_toolkit.hosts.tasks import SortedRun
from etl_toolkit.workspace import Workspace, literal

LARGEST_RANGE = 5_000_000  # keys: what a host sorts at once
SAMPLES = 20_000  # of all files
SAMPLES_A_FILE = 256


def samples_a_file(files: int) -> int:
    """How many keys of each file are looked at."""
    return max(4, min(SAMPLES_A_FILE, SAMPLES // files))


def find_bounds(runs: Sequence[SortedRun], count: int, workspace: Workspace) -> tuple[str, ...]:
    """Return at most `count` conditions on the key columns k0, k1, …, of which each key meets exactly one.

    The ranges have about the same number of keys. A condition also bounds the first column by itself, by which the row
    groups of a run are chosen.
    """
    kinds = next(run.key_types for run in runs if run.samples)
    names = [f"k{number}" for number in range(len(kinds))]
    sampled = [(*key, run.distinct_keys / len(run.samples)) for run in runs for key in run.samples]
    typed = ", ".join(f"unnest(?::VARCHAR[])::{kind} AS {name}" for name, kind in zip(names, kinds, strict=True))
    workspace.query(  # as parameters: an Arrow array that is made of Python's values would import pandas
        f"CREATE OR REPLACE TABLE samples AS SELECT *, sum(weight) OVER (ORDER BY {', '.join(names)}) AS upto, "
        f"sum(weight) OVER () AS total FROM (SELECT {typed}, unnest(?::DOUBLE[]) AS weight)",
        [list(column) for column in zip(*sampled, strict=True)],
    )
    texts = ", ".join(f"{name}::VARCHAR" for name in names)
    edges: list[tuple[str, ...]] = []
    for number in range(1, count):
        found = workspace.query(
            f"SELECT {texts} FROM samples WHERE upto >= total * {number} / {count} ORDER BY {', '.join(names)} LIMIT 1"
        )
        if found and found[0] not in edges:
            edges.append(found[0])
    return tuple(_condition(names, kinds, low, high) for low, high in pairwise([None, *edges, None]))


def _condition(
    names: Sequence[str], kinds: Sequence[str], low: tuple[str, ...] | None, high: tuple[str, ...] | None
) -> str:
    parts = []
    for edge, sign, loose in ((low, ">=", ">="), (high, "<", "<=")):
        if edge is None:
            continue
        values = [f"{literal(text)}::{kind}" for text, kind in zip(edge, kinds, strict=True)]
        parts.append(f"({', '.join(names)}) {sign} ({', '.join(values)})")
        if len(names) > 1:
            parts.append(f"{names[0]} {loose} {values[0]}")
    return " AND ".join(parts) or "true"
