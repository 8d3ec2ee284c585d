"""What a plan says a load should take comes from the loads before it, with the error that these show, or is not said."""

from __future__ import annotations

from pathlib import Path

import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit import ConflictAwareProcessor, ingest
from etl_toolkit.cost import expect_seconds
from etl_toolkit.loading import failpoints, ledger
from etl_toolkit.model import PastDuration

SIZES = (1_000, 2_000, 1_500, 3_000, 2_500, 1_200)


@pytest.mark.parametrize(
    ("past", "seconds", "error"),
    [
        ([PastDuration(size, size, size / 1_000) for size in SIZES], 2.0, 0.0),  # a share of the rows
        ([PastDuration(size, 0, 1 + size / 1_000) for size in SIZES], 3.0, 0.0),  # and something each load costs
        ([PastDuration(2_000, written, 1 + written / 500) for written in (0, 500, 10, 900, 40)], 2.0, 0.0),
        ([PastDuration(2_000, 0, seconds) for seconds in (2.0, 2.1, 1.9, 2.0, 2.05)], 2.0, 0.05),
    ],
)
def test_a_load_is_expected_to_take_what_the_form_that_predicts_the_past_best_says(
    past: list[PastDuration], seconds: float, error: float
) -> None:
    found = expect_seconds(past, rows=2_000, written=500)
    assert found
    assert found.seconds == pytest.approx(seconds, rel=0.02)
    assert found.error == pytest.approx(error, abs=0.01)
    assert found.loads == len(past)


@pytest.mark.parametrize(
    ("past", "rows"),
    [
        ([PastDuration(1_000, 0, 1.0)] * 4, 1_000),  # too few
        ([PastDuration(1_000, 0, 1.0)] * 9, 3_100),  # none was so large
        ([PastDuration(1_000, 0, 1.0)] * 9, 300),  # none was so small
        ([PastDuration(1_000, 0, seconds) for seconds in (0.1, 5, 0.3, 30, 1)], 1_000),  # off by two times
        ([], 1_000),
    ],
)
def test_nothing_is_expected_where_the_past_says_too_little(past: list[PastDuration], rows: int) -> None:
    assert expect_seconds(past, rows=rows, written=None) is None


def test_a_plan_says_what_the_last_loads_of_the_table_let_it_expect(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE loaded (id bigint PRIMARY KEY, v text)")
    files = [tmp_path / f"{number}.csv" for number in range(2)]
    processor = ConflictAwareProcessor(database)
    for night in range(5):
        for file in files:
            file.write_text("id,v\n" + "".join(f"{n},{night}\n" for n in range(500)))
        assert "expected to take" not in str(processor.plan(files, "loaded", "id"))
        assert ingest(files, "loaded", "id", database)
    with connection.cursor() as cursor:
        cursor.execute("SELECT min((plan->>'seconds')::float), max((plan->>'seconds')::float) FROM etl_toolkit.runs")
        ((least, most),) = cursor.fetchall()
        assert 0 < least <= most < 60
        cursor.execute("UPDATE etl_toolkit.runs SET plan = plan || '{\"seconds\": 2.5}'")

    plan = processor.plan(files, "loaded", "id")
    assert "expected to take about 2.5 s, ± 0% by the last 5 loads of this table" in str(plan)
    assert repr(plan).startswith("Plan: ")
    assert repr(plan.overlap).startswith(str(plan.overlap)[:60])


def test_a_load_that_was_resumed_lets_nothing_be_expected(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    """It took longer than its last attempt."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE loaded (id bigint PRIMARY KEY)")
    file, processor = tmp_path / "a.csv", ConflictAwareProcessor(database)
    file.write_text("id\n1\n")
    with failpoints.installed({"finishing": fail}), pytest.raises(ZeroDivisionError):
        ingest(file, "loaded", "id", database)
    with connection.cursor() as cursor:
        cursor.execute("SELECT run_id FROM etl_toolkit.runs")
        assert processor.resume(cursor.fetchone()[0])
    file.write_text("id\n2\n")
    assert ingest(file, "loaded", "id", database)

    with connection.cursor() as cursor:
        cursor.execute("SELECT 'loaded'::regclass::oid::bigint, min(strategy), count(*) FROM etl_toolkit.runs")
        oid, strategy, runs = cursor.fetchone()
    assert (runs, len(ledger.past_durations(connection, oid, strategy=strategy))) == (2, 1)


def fail() -> None:
    raise ZeroDivisionError
