"""Overlaps, plans and results as people see them: readable, adding up, escaped."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from etl_toolkit.display import overlap_html, overlap_text, plan_html, plan_text, result_html, result_text
from etl_toolkit.model import (
    Batch,
    Counts,
    FileKeys,
    Intersection,
    KeyOverlap,
    LoadResult,
    Plan,
    Strategy,
)
from etl_toolkit.tables import Table, to_html, to_text

NASTY = "<img src=x onerror=alert(1)>"


@pytest.fixture
def overlap() -> KeyOverlap:
    files = (
        FileKeys(0, "/data/a.csv", rows=1_500_000, distinct_keys=1_499_990, null_keys=4),
        FileKeys(1, f"/data/{NASTY}.csv", rows=1_000, distinct_keys=1_000),
        FileKeys(2, "/data/c.csv", rows=10, distinct_keys=10),
    )
    parts = (Intersection((0,), 1_499_190), Intersection((0, 1), 800), Intersection((1,), 200), Intersection((2,), 10))
    return KeyOverlap(
        files, 1_500_200, 800, parts, {(0, 1): 800}, ((0, 1), (2,)), existing_keys=1_234, key=("id", "region")
    )


@pytest.fixture
def plan(overlap: KeyOverlap) -> Plan:
    lanes = ((Batch(0, (0,)), Batch(1, (1,))), (Batch(2, (2,)),))
    predicted = {Strategy.PARTITIONED: 1.5, Strategy.HYBRID: 2.25}
    return Plan(
        Strategy.HYBRID, (f"because {NASTY}", "a second reason"), lanes, 2, "client", overlap, predicted,
        predicted_inserts=1_498_966, predicted_updates=1_000, predicted_unchanged=234,
    )  # fmt: skip


@pytest.fixture
def result(plan: Plan) -> LoadResult:
    files = {
        "/data/a.csv": Counts(read=1_200, inserted=900, updated=200, superseded_later_file=96, rejected=4),
        "/data/c.csv": Counts(read=10, unchanged=10),
    }
    return LoadResult(
        "run-1", "public.t", Strategy.HYBRID, plan.reasons, sum(files.values(), Counts()), files, 2.0,
        {"merge": 1.25, "copy": 0.5}, plan, completed=True, duplicates=(("b.csv", "a.csv"),), retries=2,
    )  # fmt: skip


def rows_of(text: str, caption: str) -> list[list[str]]:
    """The cells of a text table, by two blanks."""
    lines = text.split(caption, 1)[1].split("\n\n", 1)[0].splitlines()[1:]
    return [re.split(r"\s{2,}", line.strip()) for line in lines if not set(line.strip()) <= {"-", " "}]


def test_overlap_text_has_files_matrix_groups_and_winners(overlap: KeyOverlap) -> None:
    text = overlap_text(overlap)
    assert "800 of 1,500,200 distinct keys (0%) appear in more than one file" in text
    files = rows_of(text, "Files, in load order")
    assert files[1] == ["1", "a.csv", "1,500,000", "1,499,990", "6", "4", "1,499,190", "800"]
    assert [row[1:] for row in rows_of(text, "Keys that two files share")][1:] == [
        ["–", "800", "0"],
        ["800", "–", "0"],
        ["0", "0", "–"],
    ]
    assert rows_of(text, "and which file wins")[1] == ["1, 2", "800", f"2 {NASTY}.csv"]
    assert [row[1] for row in rows_of(text, "Groups")] == ["files (#)", "1, 2", "3"]


def test_wins_and_losses_of_each_file_add_up_to_its_distinct_keys(overlap: KeyOverlap) -> None:
    for row in rows_of(overlap_text(overlap), "Files, in load order")[1:]:
        number = [int(cell.replace(",", "")) for cell in row[2:]]
        assert number[1] == number[4] + number[5]


def test_wins_are_not_shown_when_intersections_are_not_all_listed(overlap: KeyOverlap) -> None:
    partial = replace(overlap, intersections=overlap.intersections[:2])
    assert [row[-2:] for row in rows_of(overlap_text(partial), "Files, in load order")[1:]] == [["–", "–"]] * 3


def test_many_files_are_shown_as_their_largest_pairs(overlap: KeyOverlap) -> None:
    files = tuple(FileKeys(number, f"f{number}", 10, 10) for number in range(40))
    pairs = {(number, number + 1): number + 1 for number in range(39)}
    text = overlap_text(replace(overlap, files=files, pairs=pairs))
    assert "the 20 largest of 39 pairs" in text
    assert rows_of(text, "Keys that two files share")[1] == ["39 f38", "40 f39", "39"]


def test_plan_text_has_reasons_lanes_times_and_outcome(plan: Plan) -> None:
    text = plan_text(plan)
    assert "Plan: hybrid with 2 workers; keys are compared by the client" in text
    assert "  - a second reason" in text
    assert rows_of(text, "Predicted time")[1:] == [["partitioned", "1.500"], ["hybrid", "2.250", "chosen"]]
    assert rows_of(text, "Lanes")[1:] == [["1", "file 1, file 2", "1, 2"], ["2", "file 3", "3"]]


def test_predicted_outcome_adds_up_to_the_rows_read(plan: Plan) -> None:
    *parts, total = [int(row[-1].replace(",", "")) for row in rows_of(plan_text(plan), "Predicted outcome")[1:]]
    assert sum(parts) == total == 1_501_010


def test_result_text_adds_up_per_file_and_in_sum(result: LoadResult) -> None:
    text = result_text(result)
    assert "1,210 rows read, 1,100 written in 2.00 s (605 rows/s); every row is accounted for" in text
    table = rows_of(text, "What happened to the rows")
    lines = [[int(cell.replace(",", "")) for cell in row[-6:]] for row in table[1:]]
    for read, *fates in lines:
        assert read == sum(fates)
    assert [sum(column) for column in zip(*lines[:-1], strict=True)] == lines[-1]


def test_result_text_says_where_the_time_went_longest_first(result: LoadResult) -> None:
    assert rows_of(result_text(result), "Seconds per phase")[1:] == [["merge", "1.250"], ["copy", "0.500"]]


def test_result_text_names_what_was_left_out_and_how_to_see_rejects(result: LoadResult) -> None:
    text = result_text(result)
    assert "left out: b.csv has the same content as a.csv" in text
    assert "etl-toolkit rejects run-1" in text
    assert "2 batches were repeated" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"completed": False}, "NOT COMPLETED"), ({"counts": Counts(read=5)}, "THE COUNTS DO NOT ADD UP")],
)
def test_a_result_that_is_not_true_says_so(result: LoadResult, changes: dict[str, object], words: str) -> None:
    failed = replace(result, **changes)  # type: ignore[arg-type]
    assert not failed
    assert words in result_text(failed)
    assert words in result_html(failed)


def test_html_escapes_everything_from_outside(overlap: KeyOverlap, plan: Plan, result: LoadResult) -> None:
    nasty = replace(result, files={NASTY: result.counts}, table=NASTY, run_id=NASTY)
    for html in (overlap_html(overlap), plan_html(plan), result_html(nasty)):
        assert NASTY not in html
        assert "&lt;img src=x" in html


def test_objects_show_themselves_in_jupyter_and_in_print(overlap: KeyOverlap, plan: Plan, result: LoadResult) -> None:
    assert overlap._repr_html_() == overlap_html(overlap)
    assert plan._repr_html_() == plan_html(plan)
    assert (str(result), result._repr_html_()) == (result_text(result), result_html(result))


def test_text_obeys_no_control_characters_and_keeps_columns_straight() -> None:
    table = Table("\x1b[31mred\x1b[0m", ("name", "n"), [("a\nb", 1), ("日本", 22), ("x" * 99, 333)])
    lines = to_text([table]).splitlines()
    assert "\x1b" not in lines[0]
    assert lines[3].startswith("  a\\x0ab ")
    assert lines[5].lstrip().startswith("…x")
    assert all(line.endswith(("1", "22", "333", "-", "n")) for line in lines[1:])


def test_html_tables_have_captions_header_cells_and_numbers_to_the_right() -> None:
    html = to_html([Table("cap", ("name", "n"), [("a", 1234), ("sum", 1234)], sums=True)])
    assert "<caption" in html
    assert '<th scope="col" style="text-align:right">n</th>' in html
    assert '<td style="text-align:right">1,234</td>' in html
    assert '<th style="text-align:right">1,234</th>' in html
