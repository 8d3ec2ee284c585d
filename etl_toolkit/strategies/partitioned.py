"""`partitioned`: rows collapsed across files, then disjoint key ranges side by side, each loaded in key order.

Where DuckDB can compare the keys it collapses and sorts, and each key is sent once. Where only the server can, see
`hashed`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import psycopg2
from psycopg2.sql import Composable

from etl_toolkit.errors import EtlError
from etl_toolkit.loading import ledger
from etl_toolkit.loading.copy import copy_records, is_row_error
from etl_toolkit.loading.failpoints import reach
from etl_toolkit.loading.merge import Merged
from etl_toolkit.loading.naming import ours, own_name
from etl_toolkit.loading.run import Run
from etl_toolkit.loading.staging_tables import copy_into, create_staging, drop_staging, staging_table
from etl_toolkit.loading.tombstones import (
    TOMBSTONES,
    Buried,
    bury,
    narrow,
    numbered_dead_rows,
    tombstone_layout,
    tombstone_table,
)
from etl_toolkit.loading.tripwire import Rivals, own_rivals
from etl_toolkit.loading.upsert import merge
from etl_toolkit.model import Batch, ConflictAction, Counts, KeyOverlap, Layout
from etl_toolkit.overlap import measure
from etl_toolkit.ranking import collapse, put_in_order
from etl_toolkit.sources import quoted_where_needed
from etl_toolkit.strategies.compare import set_unchanged_apart
from etl_toolkit.strategies.composed import compose_rows, forget_composed
from etl_toolkit.strategies.direct import are_absent, copy_absent
from etl_toolkit.strategies.hashed import load_hashed
from etl_toolkit.strategies.lanes import add_up
from etl_toolkit.strategies.presence import set_absent_apart
from etl_toolkit.strategies.refused_writes import find_refused_writes
from etl_toolkit.strategies.suspects import RefusedLosersError, check_all, check_losers
from etl_toolkit.strategies.together import load_together
from etl_toolkit.strategies.written import upsert_of
from etl_toolkit.workspace import literal
from etl_toolkit.write_rules import may_compose, may_copy

BY_HASH: list[str] = []  # bounds of a run whose keys the server divides, although the client may compare them


@dataclass(frozen=True)
class Part:
    """Some of the winners of a range: a stretch of the table `ordered`, as FROM and WHERE, and their number per file."""

    stretch: str
    rows: Mapping[int, int]


@dataclass(frozen=True)
class Range:
    """A range of keys: all its winners; those to be sent whose keys the table is known to lack; the others to be sent.

    What is neither is in the table unchanged. `dead` are the keys to delete: those of tombstones that won, per file `buried`,
    and those that a tombstone lost.
    """

    won: Part
    absent: Part | None
    rest: Part
    dead: str = ""  # a FROM and WHERE, of `keys`
    buried: Mapping[int, int] = field(default_factory=dict)


def load_partitioned(run: Run) -> dict[int, Counts]:
    """Load all partitions and commit them together; return the counts per file.

    Where triggers fire once for each key, the rows that only writing shows to be bad are found by writing all winners again.
    """
    pinned = run.bounds  # of a run that is resumed
    try:
        return load_hashed(run) if run.plan.key_path == "server" else _load_by_key(run, pinned)
    except psycopg2.Error as error:
        if not (is_row_error(error) and run.target.forced("judged")):
            raise
        run.failed.clear()
        if not find_refused_writes(run, Batch(0, tuple(file.position for file in run.files), collapsed=True)):
            raise
    run.take_all_back()
    return _load_by_hash(run, pinned)


def _load_by_key(run: Run, pinned: list[str] | None) -> dict[int, Counts]:
    assert run.plan.overlap is not None
    if pinned == BY_HASH or not compose_rows(run, run.plan.overlap):
        return _load_by_hash(run, pinned)
    rejected = run.reject_count()
    try:
        # Checked while the others load: few loads have a bad row among the losers, and the other loads lose no time.
        meanwhile = partial(check_losers, run) if run.plan.overlap.has_losers else None
        return _load_ranges(run, run.plan.overlap, meanwhile=meanwhile)
    except (RefusedLosersError, psycopg2.Error) as error:
        run.failed.clear()  # all workers have ended, and a connection that is lost from here on is replaced
        if isinstance(error, RefusedLosersError) or is_row_error(error):
            check_all(run)
        # The bad value of a record put together may be that of a loser, which is found by now.
        if isinstance(error, psycopg2.Error) and run.reject_count() == rejected:
            raise
    run.take_all_back()
    run.is_compared = False
    with run.phases.phase("collapse"):
        forget_composed(run)
        collapse(run.scanned, run.workspace, action=run.spec.conflict_action, is_composed=may_compose(run.spec))
        overlap = measure(run.scanned, run.workspace)
    if not compose_rows(run, overlap):  # other rows are put together now
        return _load_by_hash(run, pinned)
    return _load_ranges(run, overlap)


def _load_by_hash(run: Run, pinned: list[str] | None) -> dict[int, Counts]:
    """Let the server rank rows and put them together, by hash partition. Not where ranges of keys may be committed."""
    if pinned:
        raise EtlError(
            f"run {run.run_id} cannot be resumed: its rows have to be divided in another way; load the files again"
        )
    _pin(run, BY_HASH)
    return load_hashed(run)


def _load_ranges(run: Run, overlap: KeyOverlap, *, meanwhile: Callable[[], None] | None = None) -> dict[int, Counts]:
    compared = run.is_compared or set_unchanged_apart(run, overlap) is not None
    is_mixed = not compared and set_absent_apart(run, overlap)
    with run.phases.phase("divide"):
        ranges = _divide(run, compared=compared, is_mixed=is_mixed)
        lost = lost_rows(run, overlap, ranges)

    def write(cursor: Any, batch: Batch) -> dict[int, Counts]:
        assert batch.partition is not None
        return write_range(run, cursor, batch, ranges[batch.partition])

    return load_together(run, write, lost=lost, meanwhile=meanwhile)


def _divide(run: Run, *, compared: bool, is_mixed: bool) -> list[Range]:
    """Divide the winners, in key order, into ranges."""
    ranges = []
    for first, end in pairwise(_edges(run, put_in_order(run.scanned, run.workspace))):
        rest = won = _part(run, f"ordered WHERE rowid >= {first} AND rowid < {end}")
        absent = _part(run, f"{won.stretch} AND row IN (SELECT row FROM absent)") if is_mixed else None
        if compared:
            rest = _part(run, f"{won.stretch} AND row IN (SELECT row FROM unequal)")
        elif is_mixed:
            rest = _part(run, f"{won.stretch} AND row NOT IN (SELECT row FROM absent)")
        ranges.append(Range(won, absent, rest))
    if not run.spec.write.delete:
        return ranges
    assert run.bounds is not None
    return [_with_dead(run, own, bound) for own, bound in zip(ranges, run.bounds, strict=True)]


def _with_dead(run: Run, own: Range, bound: str) -> Range:
    buried = run.scanned.count_by_file(run.workspace, f"SELECT winner FROM keys WHERE gone AND {bound}")
    return replace(own, dead=f"keys WHERE (gone OR reset) AND {bound}", buried=buried)


def whole_range(run: Run) -> Range:
    """All of `ordered` as one range."""
    everything = _part(run, "ordered WHERE true")
    return Range(everything, None, everything)


def _part(run: Run, stretch: str) -> Part:
    return Part(stretch, run.scanned.count_by_file(run.workspace, f"SELECT row FROM {stretch}"))


def _edges(run: Run, total: int) -> list[int]:
    """Where in `ordered`, of a `total` of keys, a range begins, and the end of the last: ranges of the same number of keys.

    The keys there are kept in the ledger. A run that is resumed, or that has lost rows meanwhile, divides by them.
    """
    count = len(run.plan.batches)
    if count == 1:  # nothing to keep
        run.bounds = ["true"]
        return [0, total]
    if run.bounds is None:
        edges = [total * number // count for number in range(count + 1)]
        _pin(run, _bounds(run, edges))
        return edges
    counts = ", ".join(f"count(*) FILTER (WHERE {bound})" for bound in run.bounds)
    sent = "WHERE NOT gone" if run.spec.write.delete else ""
    return list(accumulate(run.workspace.query(f"SELECT {counts} FROM keys {sent}")[0], initial=0))


def _pin(run: Run, bounds: list[str]) -> None:
    """Keep what divides the keys in the ledger: a run that is resumed divides them alike."""
    run.bounds = bounds
    run.sessions.ask("ledger", lambda connection: ledger.pin_bounds(connection, run.run_id, bounds))


def _bounds(run: Run, edges: Sequence[int]) -> list[str]:
    """Conditions on the key columns that hold in each of the ranges."""
    names, keys = run.scanned.key_columns, run.scanned.key_sql
    typed = ", ".join(f"{name}::VARCHAR, typeof({name})" for name in names)
    found = run.workspace.query(
        f"SELECT edge, {typed} FROM keys JOIN (SELECT rowid AS edge, row FROM ordered "
        f"WHERE rowid IN ({', '.join(map(str, edges))})) ON winner = row"
    )
    key_at = {
        at: ", ".join(f"{literal(text)}::{kind}" for text, kind in zip(key[::2], key[1::2], strict=True))
        for at, *key in found
    }
    bounds = []
    for number, (first, end) in enumerate(pairwise(edges)):
        lower = f"({keys}) >= ({key_at[first]})" if number and first in key_at else ""
        upper = f"({keys}) < ({key_at[end]})" if end in key_at else ""
        # If there is no winner, all tombstones are of the first range.
        everything = "true" if key_at or not number else "false"
        bounds.append(" AND ".join(filter(None, (lower, upper))) or everything)
    return bounds


def write_range(run: Run, cursor: Any, batch: Batch, own: Range) -> dict[int, Counts]:
    """Load one key range: by COPY into the table itself where its keys are absent, else by way of the staging table."""
    buried = _bury(run, cursor, own) if own.dead else {}
    return add_up([
        *_write_winners(run, cursor, batch, own),
        {file: _counts(item.added_to(Merged())) for file, item in buried.items()},
    ])  # fmt: skip


def _write_winners(run: Run, cursor: Any, batch: Batch, own: Range) -> list[dict[int, Counts]]:
    if own.absent is None:
        same = {file: rows - own.rest.rows.get(file, 0) for file, rows in own.won.rows.items()}
        unchanged = {file: Counts(read=rows, unchanged=rows) for file, rows in same.items()}
        return [unchanged, _copy(run, cursor, batch, own.rest) or _copy_staged(run, cursor, batch, own.rest)]
    copied = copy_absent(run, cursor, batch, _places(own.absent), own.absent.rows)
    if copied is None:  # another session has written one of the keys meanwhile
        return [_copy_staged(run, cursor, batch, own.won)]
    return [copied, _copy_staged(run, cursor, batch, own.rest)]


def _bury(run: Run, cursor: Any, own: Range) -> dict[int, Buried]:
    """Delete the keys of tombstones, or mark their rows."""
    scan, target = run.scanned, run.target
    if not run.workspace.query(f"SELECT count(*) FROM (SELECT 1 FROM {own.dead} LIMIT 1)")[0][0]:
        return {}
    marked = tombstone_layout(target, run.record_layout, run.spec.order_by)
    cursor.execute(create_staging(narrow(target), marked, name=TOMBSTONES, is_numbered=True))
    layout = Layout((own_name(target, "etl_file"), own_name(target, "etl_n"), *marked.columns))
    of_key = dict(zip(scan.key, scan.key_columns, strict=True))
    texts = [quoted_where_needed(f"{of_key.get(name, 'o')}::VARCHAR", layout.delimiter) for name in marked.columns]
    records = f"concat_ws({literal(layout.delimiter)}, file, decides::INTEGER, {', '.join(texts)}) AS record"
    query = (
        f"SELECT {records} FROM rows JOIN (SELECT winner, gone AS decides FROM {own.dead}) ON place = winner "
        f"ORDER BY {scan.key_sql}"
    )
    with run.phases.phase("copy"), run.workspace.cursor() as source:
        copy_records(cursor, source, query, copy_into(tombstone_table(), layout), on_bytes=run.on_bytes)
    upsert = upsert_of(run, run.record_layout)
    with run.phases.phase("merge"):
        buried = bury(cursor, upsert, numbered_dead_rows(upsert))
        cursor.execute(drop_staging(TOMBSTONES))
    return buried


def _rivals(run: Run, cursor: Any, batch: Batch) -> Rivals | None:
    if run.spec.conflict_action is ConflictAction.IGNORE or run.target.distribution:
        return None
    return own_rivals(cursor, run.run_id, batch)


def _places(part: Part) -> str:
    return f"SELECT row AS place FROM {part.stretch}"


def _copy(run: Run, cursor: Any, batch: Batch, part: Part) -> dict[int, Counts] | None:
    """COPY rows into the table itself, if a sample of their keys is not there."""
    keys = f"rows WHERE place IN (SELECT row FROM {part.stretch})"
    if not part.rows or not may_copy(run.spec) or not are_absent(run, cursor, keys):
        return None
    return copy_absent(run, cursor, batch, _places(part), part.rows)


def _copy_staged(run: Run, cursor: Any, batch: Batch, part: Part) -> dict[int, Counts]:
    if not part.rows:
        return {}
    layout = run.record_layout.with_file(own_name(run.target, "etl_file"))
    cursor.execute(create_staging(run.target, run.record_layout))
    query = f"SELECT file || {literal(layout.delimiter)} || record AS record FROM found"
    with (
        run.phases.phase("copy"),
        run.scanned.with_records(run.workspace, _places(part), with_file=True) as source,
    ):
        copy_records(cursor, source, query, copy_into(staging_table(), layout), on_bytes=run.on_bytes)
    reach("copied")
    upsert = upsert_of(run, run.record_layout, unique=True, in_key_order=True, rivals=_rivals(run, cursor, batch))
    with run.phases.phase("merge"):
        merged = merge(cursor, upsert, _staged_winners(run), staged=part.rows)
        cursor.execute(drop_staging())  # the next range of this worker makes its own
    reach("merged")
    return {file: _counts(item) for file, item in merged.items()}


def _staged_winners(run: Run) -> Composable:
    """The relation of the staged rows; where some might be tombstones, it says that none is."""
    if not run.spec.write.delete:
        return staging_table()
    return ours(run.target, "(SELECT *, ctid, false AS etl_gone FROM {}) AS staged").format(staging_table())


def _counts(item: Merged) -> Counts:
    return Counts(
        item.rows,
        item.inserted,
        item.updated,
        item.unchanged,
        stale=item.stale,
        deleted=item.deleted,
        absent=item.absent,
    )


def lost_rows(run: Run, overlap: KeyOverlap, ranges: Sequence[Range]) -> dict[int, Counts]:
    """Counts of the rows that are not sent, per file: superseded and rejected."""
    lost = {}
    for file in overlap.files:
        rejected = len(run.refused.get(file.position, ()))
        won = sum(own.won.rows.get(file.position, 0) + own.buried.get(file.position, 0) for own in ranges)
        lost[file.position] = Counts(
            read=file.duplicates + file.distinct_keys - won + rejected,
            superseded_same_file=file.duplicates,
            superseded_later_file=file.distinct_keys - won,
            rejected=rejected,
        )
    return lost
