"""How overlaps, plans and results are displayed: the same tables as text for a terminal and as HTML for Jupyter.

The content is put together once; `tables` renders it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from etl_toolkit.tables import Block, Cell, Lines, Table, spell_count, to_html, to_text

if TYPE_CHECKING:
    from etl_toolkit.explain import Explanation
    from etl_toolkit.model import Counts, KeyOverlap, LoadResult, Plan, SkippedFile

MATRIX_FILES = 12
LISTED = 20


def overlap_text(overlap: KeyOverlap, *, all_files: bool = False) -> str:
    """Show a key overlap as plain text; of many files the first and a sum of the others, unless `all_files` are wanted."""
    return to_text(overlap_blocks(overlap, all_files=all_files))


def overlap_html(overlap: KeyOverlap) -> str:
    """Show a key overlap as HTML."""
    return to_html(overlap_blocks(overlap))


def plan_text(plan: Plan, *, all_files: bool = False) -> str:
    """Show a plan as plain text."""
    return to_text(plan_blocks(plan, all_files=all_files))


def plan_html(plan: Plan) -> str:
    """Show a plan as HTML."""
    return to_html(plan_blocks(plan))


def result_text(result: LoadResult, *, all_files: bool = False) -> str:
    """Show a load's result as plain text."""
    return to_text(result_blocks(result, all_files=all_files))


def result_html(result: LoadResult) -> str:
    """Show a load's result as HTML."""
    return to_html(result_blocks(result))


def explanation_html(found: Explanation) -> str:
    """Show as HTML where a row comes from: the row as it is, every row of the files with its key, and the verdicts."""
    name = ", ".join(f"{column} = {value}" for column, value in found.key.items())
    if found.row is None:
        blocks: list[Block] = [Lines(f"There is no row with {name} in {found.table}.")]
    else:
        blocks = [Table(f"The row of {found.table} with {name}", list(found.row), [list(found.row.values())])]
    columns = list(dict.fromkeys(column for item in found.occurrences for column in item.values))
    rows: list[list[Cell]] = [
        [item.place, item.verdict, *(item.values.get(column) for column in columns)] for item in found.occurrences
    ]
    if rows:
        blocks.append(Table(f"Rows of the files with {name}, the latest first", ["place", "verdict", *columns], rows))
    return to_html([*blocks, *map(Lines, found.notes or ([] if rows else ["No file of the latest runs has it."]))])


def cut_to_screen(text: str) -> str:
    """Return the first lines of `text`, as many as a screen has, and how many more there are."""
    lines, room = text.splitlines(), max(10, shutil.get_terminal_size((80, 40)).lines - 3)
    if len(lines) <= room:
        return text
    return "\n".join([*lines[:room], f"… {len(lines) - room:,} more lines; print() shows them all"])


def overlap_blocks(overlap: KeyOverlap, *, all_files: bool = False) -> list[Block]:
    """Files, the matrix of shared keys, groups, and who wins."""
    names = short_names([file.name for file in overlap.files])
    name_of = {file.position: name for file, name in zip(overlap.files, names, strict=True)}
    key = ", ".join(overlap.key) or "key"
    blocks: list[Block] = [
        Lines(
            f"Key overlap on ({key}): {overlap.shared_keys:,} of {overlap.distinct_keys:,} distinct keys "
            f"({overlap.overlap_ratio:.0%}) appear in more than one file",
            _overlap_notes(overlap),
        ),
        _files_table(overlap, names, all_files=all_files),
    ]
    if overlap.pairs:
        blocks.append(_pairs_table(overlap, name_of))
    if overlap.shared_keys:
        blocks.append(_winners_table(overlap, name_of))
    groups = [
        (number + 1, _numbers(group), len(group), overlap.rows_of(group))
        for number, group in enumerate(overlap.groups[:LISTED])
    ]
    more = f" (the first {LISTED} of {len(overlap.groups):,})" if len(overlap.groups) > LISTED else ""
    blocks.append(
        Table(f"Groups: files of different groups share no key{more}", ("group", "files (#)", "files", "rows"), groups)
    )
    return blocks


def _overlap_notes(overlap: KeyOverlap) -> list[str]:
    notes = []
    if overlap.shared_keys:
        notes.append(
            "For a key in several files the last row of the last file wins, "
            "unless order_by or on_conflict says otherwise."
        )
    if overlap.existing_keys is not None:
        about = "about " if overlap.existing_is_estimate else ""
        notes.append(f"{about}{overlap.existing_keys:,} of these keys are already in the target table.")
    if overlap.unproven:
        notes.append(f"{overlap.unproven:,} rows have a key that only the server can compare.")
    return notes


def _files_table(overlap: KeyOverlap, names: Sequence[str], *, all_files: bool) -> Table:
    wins: dict[int, int] | None = None
    if sum(item.keys for item in overlap.intersections) == overlap.distinct_keys:  # else: more than are listed
        wins = {file.position: 0 for file in overlap.files}
        for item in overlap.intersections:
            wins[max(item.files)] += item.keys
    rows: list[list[Cell]] = []
    for file, name in zip(overlap.files, names, strict=True):
        won = wins[file.position] if wins is not None else None
        lost = file.distinct_keys - won if won is not None else None
        counted = [file.rows, file.distinct_keys, file.duplicates, file.null_keys]
        rows.append([file.position + 1, name, *counted, won, lost])
    head = ("#", "file", "rows", "distinct keys", "repeated in file", "NULL keys", "wins", "loses to later file")
    return Table("Files, in load order", head, rows if all_files else _first(rows, name_at=1))


def _first(rows: list[list[Cell]], *, name_at: int) -> list[list[Cell]]:
    """The first rows of a table of files, and what is in the others added up, where there are many."""
    if len(rows) <= LISTED + 1:
        return rows
    left_out = rows[LISTED:]
    sums: list[Cell] = []
    for column in list(zip(*left_out, strict=True))[name_at + 1 :]:
        numbers = [cell for cell in column if isinstance(cell, int)]
        sums.append(sum(numbers) if numbers else None)
    before: list[Cell] = [""] * name_at
    return [*rows[:LISTED], [*before, f"… {len(left_out):,} more files (--all-files lists them)", *sums]]


def _pairs_table(overlap: KeyOverlap, name_of: dict[int, str]) -> Table:
    """The matrix of shared keys; of many files, the pairs that share most."""
    if len(overlap.files) <= MATRIX_FILES:
        numbers = [file.position for file in overlap.files]
        rows: list[list[Cell]] = []
        for n in numbers:
            cells = [None if n == m else overlap.pairs.get((min(n, m), max(n, m)), 0) for m in numbers]
            rows.append([f"{n + 1} {name_of[n]}", *cells])
        return Table("Keys that two files share", ("file", *(str(n + 1) for n in numbers)), rows)
    largest = sorted(overlap.pairs.items(), key=lambda item: (-item[1], item[0]))[:LISTED]
    found = [(f"{a + 1} {name_of[a]}", f"{b + 1} {name_of[b]}", keys) for (a, b), keys in largest]
    caption = f"Keys that two files share (the {len(found)} largest of {len(overlap.pairs):,} pairs)"
    return Table(caption, ("file", "later file", "shared keys"), found)


def _winners_table(overlap: KeyOverlap, name_of: dict[int, str]) -> Table:
    shared = [item for item in overlap.intersections if len(item.files) > 1]
    rows = [
        (_numbers(item.files), item.keys, f"{max(item.files) + 1} {name_of[max(item.files)]}")
        for item in shared[:LISTED]
    ]
    more = f" (the {LISTED} largest of {len(shared):,})" if len(shared) > LISTED else ""
    return Table(
        f"Keys that appear in exactly these files, and which file wins{more}", ("files (#)", "keys", "winner"), rows
    )


def plan_blocks(plan: Plan, *, all_files: bool = False) -> list[Block]:
    """Strategy with reasons, who loads what, what it should take and do, and the overlap it rests on."""
    blocks: list[Block] = [
        Lines(
            f"Plan: {plan.strategy} with {spell_count(plan.workers, 'worker')}; keys are compared by the {plan.key_path}",
            [
                *plan.reasons,
                *([f"expected to take {plan.expected}"] if plan.expected else []),
                *_left_out(plan.duplicates),
                *_skipped(plan.skipped),
                *(f"warning: {item}" for item in plan.loaded_before),
            ],
        ),
        _outcome_table(plan),
    ]
    if plan.predicted_seconds:
        ranked = sorted(plan.predicted_seconds.items(), key=lambda item: item[1])
        times = [(str(name), seconds, "chosen" if name == plan.strategy else "") for name, seconds in ranked]
        blocks.append(Table("Predicted time, by the costs in [load.cost]", ("strategy", "seconds", ""), times))
    lanes = [
        (number + 1, _listed(batch.label for batch in lane), _numbers({file for batch in lane for file in batch.files}))
        for number, lane in enumerate(plan.lanes[:LISTED])
    ]
    more = f" (the first {LISTED} of {len(plan.lanes):,})" if len(plan.lanes) > LISTED else ""
    caption = f"Lanes: {plan.workers} at a time; the batches of one lane in order{more}"
    blocks.append(Table(caption, ("lane", "batches", "reads files (#)"), lanes))
    return blocks + (overlap_blocks(plan.overlap, all_files=all_files) if plan.overlap else [])


def _left_out(duplicates: Sequence[tuple[str, str]]) -> list[str]:
    return [f"left out: {name} has the same content as {kept}" for name, kept in duplicates]


def _skipped(files: Sequence[SkippedFile]) -> list[str]:
    if len(files) <= LISTED:
        return [f"skipped: {file}" for file in files]
    return [f"skipped: {len(files):,} files whose content the table has taken, the first of them {files[0]}"]


def _outcome_table(plan: Plan) -> Table:
    known = plan.predicted_unchanged is not None
    rows: list[tuple[str, Cell]] = [
        ("inserted", plan.predicted_inserts),
        ("updated" if known else "updated or unchanged", plan.predicted_updates),
    ]
    if known:
        rows.append(("unchanged (not written)", plan.predicted_unchanged))
    if plan.predicted_deletes is not None:
        rows.append(("deleted", plan.predicted_deletes))
    if plan.predicted_removals is not None:
        rows.append(("removed (key in no file)", plan.predicted_removals))
    if plan.overlap:
        nulls = sum(file.null_keys for file in plan.overlap.files)
        superseded = plan.overlap.rows - plan.overlap.distinct_keys - plan.overlap.unproven - nulls
        rows.append(("superseded (by a later row or file)", superseded))
        rows += [("without a key (rejected)", nulls)] if nulls else []
        rows += [("not known before the load", plan.overlap.unproven)] if plan.overlap.unproven else []
        rows.append(("total: rows read", plan.overlap.rows))
    by_spelling = ", by the spelling of the keys: the server may find more of them equal"
    return Table(f"Predicted outcome{by_spelling if plan.key_path == 'server' else ''}", ("rows", "number"), rows)


def result_blocks(result: LoadResult, *, all_files: bool = False) -> list[Block]:
    """What happened to every row, per file and in total, and where the time went."""
    verdict = "every row is accounted for" if result else _failure(result)
    title = (
        f"{result.table}: {spell_count(result.counts.read, 'row')} read, {result.counts.written:,} written in "
        f"{result.wall_seconds:,.2f} s ({result.rows_per_second:,.0f} rows/s); {verdict}"
    )
    notes = [f"run {result.run_id}, strategy {result.strategy}", *result.reasons, _equation(result.counts)]
    if predicted := result.plan.predicted_seconds.get(result.strategy):
        notes.append(f"predicted {predicted:,.2f} s, took {result.wall_seconds:,.2f} s")
    notes += [*_left_out(result.duplicates), *_skipped(result.skipped)]
    notes += [f"warning: {item}" for item in result.loaded_before if item.turned_back]
    notes += [f"warning: {result.missing_kept}"] if result.missing_kept else []
    if result.retries:
        notes.append(f"{spell_count(result.retries, 'batch was', 'batches were')} repeated after a transient error")
    if result.counts.rejected:
        notes.append(f"see the rejected rows with: etl-toolkit rejects {result.run_id}")
    if result.created_sql:
        notes.append("created: " + " ".join(result.created_sql.split()))
    longest = sorted(result.phases.items(), key=lambda item: -item[1])
    phases = Table("Seconds per phase, summed over all workers", ("phase", "seconds"), longest)
    return [Lines(title, notes), _counts_table(result, all_files=all_files), phases]


def result_warnings(result: LoadResult) -> list[str]:
    """What needs attention, shown even if nothing else is."""
    found = [] if result else [f"{result.table}: {_failure(result)}"]
    if result.counts.rejected:
        found.append(f"rejected rows: {result.counts.rejected:,}; see them with: etl-toolkit rejects {result.run_id}")
    if result.missing_kept:
        found.append(result.missing_kept)
    return found + [str(item) for item in result.loaded_before if item.turned_back]


def _failure(result: LoadResult) -> str:
    return "NOT COMPLETED" if not result.completed else "THE COUNTS DO NOT ADD UP"


def _equation(counts: Counts) -> str:
    parts = " + ".join(f"{getattr(counts, name):,} {_word(name)}" for name in _shown(counts) if name != "read")
    return f"{counts.read:,} read {'=' if counts.balances else '≠'} {parts or '0'}"


def _counts_table(result: LoadResult, *, all_files: bool) -> Table:
    """A column for every count that is not zero throughout."""
    names = _shown(result.counts)
    shorts = short_names(list(result.files))
    rows: list[list[Cell]] = [
        [short, *(getattr(counts, name) for name in names)]
        for short, counts in zip(shorts, result.files.values(), strict=True)
    ]
    rows = rows if all_files else _first(rows, name_at=0)
    rows.append(["sum", *(getattr(result.counts, name) for name in names)])
    return Table("What happened to the rows", ("file", *(_word(name) for name in names)), rows, sums=True)


def _shown(counts: Counts) -> list[str]:
    always = ("read", "inserted", "updated", "unchanged", "rejected")
    return [item.name for item in fields(counts) if item.name in always or getattr(counts, item.name)]


def _word(name: str) -> str:
    words = {
        "superseded_same_file": "superseded (same file)",
        "superseded_later_file": "superseded (later file)",
        "absent": "absent (key not in the table)",
        "removed": "removed (key in no file)",
    }
    return words.get(name, name)


def _numbers(positions: Iterable[int]) -> str:
    return _listed(str(position + 1) for position in sorted(positions))


def _listed(items: Iterable[str]) -> str:
    names = list(items)
    return ", ".join(names if len(names) <= LISTED else [*names[:LISTED], f"… {len(names) - LISTED:,} more"])


def short_names(names: Sequence[str]) -> list[str]:
    """Names without the directory that all of them share."""
    places = {os.path.dirname(name) for name in names}  # noqa: PTH120  (a name need not be a path)
    if len(places) == 1 and (place := places.pop()):
        return [name[len(place) :].lstrip("/\\") for name in names]
    return list(names)
