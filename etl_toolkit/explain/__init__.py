"""Where a row comes from: the files of past runs that contained its key, which of their rows won, and by which rule."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from etl_toolkit.config import ParallelConfig
from etl_toolkit.errors import UsageError, driver_errors_mapped
from etl_toolkit.explain.explanation import Explanation, Occurrence
from etl_toolkit.explain.files import find_candidates, read_rows
from etl_toolkit.explain.judging import judge_rows
from etl_toolkit.explain.present import read_as, read_present_row, spell_as_stored
from etl_toolkit.keys import key_type
from etl_toolkit.loading import ledger
from etl_toolkit.loading.session import Sessions
from etl_toolkit.stopping import Stop, run_stoppable
from etl_toolkit.target import read_target

__all__ = ["Explanation", "Occurrence", "explain", "parse_key"]


def explain(
    dsn: str, table: str, key: Mapping[str, str], *, config: ParallelConfig | None = None, runs: int = 10
) -> Explanation:
    """Explain the row of `table` whose key columns have these texts, from the last `runs` complete runs.

    Raises TargetError for an unknown table or key, UsageError where a key column is missing.
    """
    config, stop = config or ParallelConfig(), Stop()
    sessions = Sessions(dsn, config, "explain", stop=stop)
    with stop.calling(sessions.cancel_all):
        return run_stoppable(lambda: _explain(sessions, table, key, config=config, runs=runs), stop)


def _explain(
    sessions: Sessions, table: str, key: Mapping[str, str], *, config: ParallelConfig, runs: int
) -> Explanation:
    doing = f"explaining a row of {table}"
    with driver_errors_mapped(doing=doing), sessions.session("explain") as connection:
        target = read_target(connection, table, tuple(key))
        key = dict(zip(target.key, key.values(), strict=True))
        row = read_present_row(connection, target, key)
        as_read = row
        past = ledger.past_runs(connection, target=target.qualified_name, limit=runs)
        past = [run for run in past if run.target_oid == target.oid]  # not of an earlier table of this name
        notes: list[str] = [
            f"keys in files are compared by their spelling, because only the server can compare values of {name}"
            for name in key
            if key_type(target.column(name)) is None
        ]
        found = []
        for run in past:
            read_as(connection, run)
            rows = read_rows(connection, run, target, key, config=config, notes=notes, stop=sessions.stop)
            found.append((run, find_candidates(connection, run, rows, notes)))
        occurrences, holder = judge_rows(connection, target, found)
        if holder is not None:
            read_as(connection, next(run for run in past if run.run_id == holder.run_id))
            as_read = read_present_row(connection, target, key)
        if (
            holder is not None
            and not holder.is_partial
            and as_read != spell_as_stored(connection, target, as_read, holder)
        ):
            notes.append(
                "the row differs from the files: it existed before, or something else has written or deleted it since"
            )
    if row is not None and not occurrences:
        notes.append(
            "no file of the runs examined contains this key: the row was written by something else, or earlier"
        )
    return Explanation(target.qualified_name, dict(key), row, tuple(occurrences), tuple(notes))


def parse_key(texts: Sequence[str]) -> dict[str, str]:
    """Turn `id=42` or `a=1,b=2` into a mapping. Raises UsageError where there is no `=`."""
    pairs = [part for text in texts for part in re.split(r",(?=[^,=]+=)", text)]  # a value may hold a comma
    if any("=" not in pair for pair in pairs):
        raise UsageError("a key is given as COLUMN=VALUE, for example --key id=42 (or --key a=1 --key b=2)")
    return {name.strip(): value for name, _, value in (pair.partition("=") for pair in pairs)}
