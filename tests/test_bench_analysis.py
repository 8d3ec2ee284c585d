"""What is concluded from a record: verdicts, summaries, recommendations, the fitted cost model, comparisons."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from etl_toolkit.bench import analysis, compare, fit, peer_table, recommend
from etl_toolkit.bench.statistics import Interval, interval, paired_ratio, ratio_of_medians, spread, verdict
from etl_toolkit.bench.workload import Workload
from etl_toolkit.config import ParallelConfig
from etl_toolkit.cost import CostModel, predict
from etl_toolkit.errors import UsageError
from etl_toolkit.model import Strategy
from tests import bench_records as made

FIVE = (1.0, 1.01, 0.99, 1.02, 0.98)


def times(factor: float) -> list[float]:
    return [factor * value for value in FIVE]


# --- statistics ---------------------------------------------------------------------------------------------


def test_an_interval_holds_the_median_and_is_the_same_every_time() -> None:
    found = interval([1.0, 2.0, 3.0, 4.0, 50.0])
    assert found.low <= found.median == 3.0 <= found.high
    assert found == interval([1.0, 2.0, 3.0, 4.0, 50.0])


@pytest.mark.parametrize("values", [[2.0], [1.0, 3.0]])
def test_fewer_than_three_values_have_no_interval(values: list[float]) -> None:
    assert interval(values) == Interval(2.0, 2.0, 2.0)


def test_equal_values_have_no_width() -> None:
    assert interval([2.0] * 5) == Interval(2.0, 2.0, 2.0)


def test_a_slow_round_drops_out_of_a_paired_ratio() -> None:
    assert paired_ratio({1: 1.0, 2: 10.0, 3: 1.0}, {1: 2.0, 2: 20.0, 3: 2.0}) == Interval(0.5, 0.5, 0.5)


def test_a_ratio_is_paired_over_the_rounds_that_both_have() -> None:
    assert paired_ratio({1: 1.0, 2: 4.0}, {2: 2.0, 3: 9.0}) == Interval(2.0, 2.0, 2.0)
    assert paired_ratio({1: 1.0}, {2: 2.0}) is None


@pytest.mark.parametrize(
    ("ratio", "runs", "expected"),
    [
        (Interval(0.5, 0.4, 0.6), 5, "faster"),
        (Interval(2.0, 1.8, 2.2), 5, "slower"),
        (Interval(0.9, 0.7, 1.1), 5, "no difference shown"),
        (Interval(0.98, 0.97, 0.99), 5, "no difference shown"),
        (Interval(0.5, 0.4, 0.6), 3, "faster"),
        (Interval(2.0, 1.3, 2.2), 3, "slower"),
        (Interval(0.7, 0.6, 0.9), 3, "no difference shown"),
        (Interval(1.3, 1.2, 1.4), 4, "no difference shown"),
        (Interval(0.5, 0.4, 0.6), 2, "no difference shown"),
        (None, 0, "no difference shown"),
    ],
)
def test_a_verdict_needs_an_interval_clear_of_one_a_margin_and_enough_runs(
    ratio: Interval | None, runs: int, expected: str
) -> None:
    assert verdict(ratio, runs=runs) == expected


def test_spread_is_deviation_over_mean() -> None:
    assert spread([9.0, 11.0]) == pytest.approx(2**0.5 / 10)
    assert spread([9.0]) == 0.0


def test_unpaired_medians_have_a_ratio_with_an_interval() -> None:
    found = ratio_of_medians(times(2.0), times(1.0))
    assert found.median == pytest.approx(2.0)
    assert found.low < 2.0 < found.high


# --- report -------------------------------------------------------------------------------------------------


def test_warm_ups_and_wrong_answers_are_no_speed() -> None:
    right, wrong = made.case("partitioned"), made.case("naive_parallel", kind="baseline")
    report = analysis.report(
        made.manifest([right, wrong]), made.samples({right: FIVE, wrong: times(0.1)}, wrong=[wrong])
    )
    metrics = {case["strategy"]: case for case in report["cases"]}
    assert metrics["partitioned"]["wall_seconds"]["median"] == 1.0
    assert metrics["partitioned"]["ratio_to_best"] == 1.0
    assert metrics["naive_parallel"]["wall_seconds"] is None
    assert metrics["naive_parallel"]["errors"] == ["wrong answer: 1 row is missing"]
    assert metrics["naive_parallel"]["failures"] == 6


def test_the_floor_and_the_twin_are_no_competitors() -> None:
    best, floor = made.case("partitioned"), made.case("sorted_copy", kind="floor")
    twin = made.case("partitioned", is_twin=True)
    report = analysis.report(
        made.manifest([best, floor, twin]), made.samples({best: FIVE, floor: times(0.5), twin: times(0.9)})
    )
    ratios = {case["case"]: case["ratio_to_best"] for case in report["cases"]}
    assert ratios[best.name] == 1.0
    assert ratios[floor.name] == 0.5
    assert [line["strategy"] for line in report["strategies"] if line["wins"]] == ["partitioned"]


def test_the_same_strategy_twice_is_the_noise() -> None:
    once, twin = made.case("partitioned"), made.case("partitioned", is_twin=True)
    report = analysis.report(made.manifest([once, twin]), made.samples({once: FIVE, twin: times(1.01)}))
    assert report["noise"]["case"] == once.name
    assert report["noise"]["verdict"] == "no difference shown"
    assert report["noise"]["ratio"]["median"] == pytest.approx(1.01)


def test_an_unsteady_case_is_marked() -> None:
    steady, unsteady = made.case("partitioned"), made.case("hybrid")
    report = analysis.report(made.manifest([steady, unsteady]), made.samples({steady: FIVE, unsteady: (1, 2, 1, 2, 1)}))
    assert {case["strategy"]: case["is_unstable"] for case in report["cases"]} == {"partitioned": False, "hybrid": True}


def test_a_report_of_nothing_is_a_report() -> None:
    report = analysis.report(made.manifest([]), [])
    assert report["cases"] == report["recommendations"] == []
    assert report["finding"].startswith("No run ended with the correct result")
    json.dumps(report, allow_nan=False)


# --- recommendations ----------------------------------------------------------------------------------------


def recommended(found: dict[made.Case, list[float]]) -> list[dict[str, object]]:
    report = analysis.report(made.manifest(list(found)), made.samples(found))
    return [{"when": rule["when"], "then": rule["then"]} for rule in report["recommendations"]]


def test_the_fastest_is_recommended_and_neighbours_become_one_rule() -> None:
    found = {}
    for overlap in (0.0, 0.5, 1.0):
        found |= {
            made.case("partitioned", overlap=overlap): times(1.0),
            made.case("hybrid", overlap=overlap): times(2.0),
            made.case("staged_merge", kind="baseline", overlap=overlap): times(3.0),
        }
    assert recommended(found) == [
        {
            "when": {"overlap": [0.0, 1.0], "rows": [4_000, 4_000], "table_state": "empty"},
            "then": {"strategy": "partitioned", "workers": 2, "batch_rows": None},
        }
    ]


def test_auto_is_recommended_where_nothing_is_shown_to_be_faster() -> None:
    found = {made.case("auto"): times(1.02), made.case("partitioned"): times(1.0)}
    assert [rule["then"]["strategy"] for rule in recommended(found)] == ["auto"]  # type: ignore[index]
    found = {made.case("auto"): times(1.5), made.case("partitioned"): times(1.0)}
    assert [rule["then"]["strategy"] for rule in recommended(found)] == ["partitioned"]  # type: ignore[index]


def test_no_more_workers_are_recommended_than_were_shown_to_help() -> None:
    found = {
        made.case("partitioned", workers=1): times(1.01),
        made.case("partitioned", workers=2): times(1.0),
        made.case("partitioned", workers=4): times(1.0),
    }
    assert [rule["then"]["workers"] for rule in recommended(found)] == [1]  # type: ignore[index]
    found[made.case("partitioned", workers=1)] = times(1.5)
    assert [rule["then"]["workers"] for rule in recommended(found)] == [2]  # type: ignore[index]


def test_a_batch_size_is_recommended_where_it_was_measured_and_helps(tmp_path: Path) -> None:
    found = {
        made.case("partitioned"): times(1.0),
        made.case("streaming"): times(3.0),
        made.case("streaming", batch_rows=10_000): times(2.0),
        made.case("streaming", batch_rows=25_000): times(2.01),
    }
    assert [rule["then"]["batch_rows"] for rule in recommended(found)] == [10_000]  # type: ignore[index]
    manifest = made.manifest(list(found))
    recommend.write_config(tmp_path / "r.toml", manifest, analysis.report(manifest, made.samples(found)))
    assert ParallelConfig.from_toml(tmp_path / "r.toml").chunk_size == 10_000
    found[made.case("streaming")] = times(1.0)
    assert [rule["then"]["batch_rows"] for rule in recommended(found)] == [None]  # type: ignore[index]


def test_a_strategy_that_was_ever_wrong_is_never_recommended() -> None:
    wrong, right = made.case("hybrid"), made.case("partitioned")
    measured = made.samples({wrong: times(0.1), right: FIVE}, wrong=[wrong])
    report = analysis.report(made.manifest([wrong, right]), measured)
    assert [rule["then"]["strategy"] for rule in report["recommendations"]] == ["partitioned"]


def test_the_recommended_file_is_one_that_a_load_takes(tmp_path: Path) -> None:
    found = {made.case("partitioned", workers=1): times(2.0), made.case("partitioned", workers=2): times(1.0)}
    manifest = made.manifest(list(found))
    recommend.write_config(tmp_path / "r.toml", manifest, analysis.report(manifest, made.samples(found)))
    assert ParallelConfig.from_toml(tmp_path / "r.toml").concurrency == 2
    assert ParallelConfig.from_toml(tmp_path / "r.toml").strategy == "partitioned"


def test_nothing_is_recommended_against_its_own_evidence() -> None:
    """Neither where the plain way was faster, nor where it looked so in too few runs to tell."""
    for runs in (5, 2):
        found = {made.case("auto"): times(2.0)[:runs], made.case("staged_merge", kind="baseline"): times(1.0)[:runs]}
        report = analysis.report(made.manifest(list(found)), made.samples(found))
        assert report["recommendations"] == []
        assert [rule["then"]["strategy"] for rule in report["undecided"]] == ["auto"]


# --- the headline -------------------------------------------------------------------------------------------


def test_the_headline_is_the_speed_up_over_the_best_plain_way_that_was_right() -> None:
    right, wrong = made.case("staged_merge", kind="baseline"), made.case("naive_parallel", kind="baseline")
    found = {made.case("auto"): times(1.0), right: times(2.5), wrong: times(0.5)}
    report = analysis.report(made.manifest(list(found)), made.samples(found, wrong=[wrong]))
    (shape,) = report["shapes"]
    assert (shape["plain_way"], shape["wrong"], shape["verdict"]) == ("staged_merge", ["naive_parallel"], "faster")
    assert report["finding"].startswith("`auto` is 2.5 × as fast as the best correct hand-written way: a parallel COPY")


def test_shapes_are_listed_by_their_speed_up_the_worst_first() -> None:
    found = {}
    for shape, plain in (("base", 4.0), ("jsonb", 0.25), ("gz", 1.0)):
        found |= {
            made.case("auto", shape=shape): times(1.0),
            made.case("staged_merge", kind="baseline", shape=shape): times(plain),
        }
    report = analysis.report(made.manifest(list(found)), made.samples(found))
    assert [(line["shape"], line["verdict"]) for line in report["by_shape"]] == [
        ("jsonb", "slower"), ("gz", "no difference shown"), ("base", "faster"),
    ]  # fmt: skip


def test_a_headline_that_the_runs_do_not_show_says_so() -> None:
    found = {made.case("auto"): [1.0, 2.0, 1.0], made.case("staged_merge", kind="baseline"): [1.1, 1.0, 1.1]}
    report = analysis.report(made.manifest(list(found)), made.samples(found))
    assert report["finding"].endswith("It is shown to be faster in 0 of 1 settings.")


def test_the_recommended_file_of_nothing_changes_nothing(tmp_path: Path) -> None:
    recommend.write_config(tmp_path / "r.toml", made.manifest([]), analysis.report(made.manifest([]), []))
    assert tomllib.loads((tmp_path / "r.toml").read_text()) == {"load": {}}
    assert ParallelConfig.from_toml(tmp_path / "r.toml") == ParallelConfig()


# --- cost model ---------------------------------------------------------------------------------------------


def test_fitting_brings_predictions_to_times_made_by_other_coefficients() -> None:
    truth = CostModel(
        read_microseconds=1.5, sort_microseconds=1.0, direct_copy_microseconds=4.0, merge_microseconds=9.0
    )
    workloads, found = {}, {}
    for rows in (10_000, 100_000):
        for overlap in (0.0, 0.5):
            workload = Workload(rows=rows, overlap=overlap)
            facts = {"rows": rows, "distinct_keys": workload.total_distinct, "shared_keys": workload.shared}
            facts["file_names"] = [f"part{number}.csv" for number in range(4)]
            for name in ("partitioned", "deterministic", "hybrid"):
                one = made.case(name, rows=4 * rows, overlap=overlap)
                seconds = predict(fit.known_overlap(facts), workers=2, cores=2, target_is_empty=True, model=truth)
                found[one] = [seconds[Strategy(name)]] * 3
                workloads[one.workload] = facts
    fitted = fit.refit(made.manifest(list(found), workloads=workloads), made.samples(found))
    assert fitted is not None
    assert fitted["runs"] == 36
    assert fitted["error_after"] < 0.1 < fitted["error_before"]


def test_too_few_runs_are_not_fitted() -> None:
    one = made.case("partitioned")
    assert fit.refit(made.manifest([one]), made.samples({one: FIVE})) is None


# --- two runs -----------------------------------------------------------------------------------------------


def test_a_run_compared_with_itself_shows_no_difference() -> None:
    record = made.record({made.case("partitioned"): FIVE, made.case("hybrid"): times(2.0)})
    found = compare.compare(record, record)
    assert {case.verdict for case in found.cases} == {"no difference shown"}


def test_what_got_slower_and_faster_is_listed_largest_change_first() -> None:
    a, b, c = made.case("partitioned"), made.case("hybrid"), made.case("streaming")
    found = compare.compare(
        made.record({a: times(1.0), b: times(1.0), c: times(1.0)}),
        made.record({a: times(1.3), b: times(0.5), c: times(1.0)}),
    )
    assert [(case.case, case.verdict) for case in found.cases] == [
        (b.name, "faster"),
        (a.name, "slower"),
        (c.name, "no difference shown"),
    ]
    assert found.finding == "1 of 3 cases got faster, 1 slower; no difference shown in 1."
    assert found.finding in str(found)
    assert found.cases[0].case in str(found)


def test_runs_of_two_machines_are_compared_only_when_asked() -> None:
    one = made.case("partitioned")
    here, there = made.record({one: FIVE}), made.record({one: FIVE}, machine={"fingerprint": "another"})
    with pytest.raises(UsageError, match="different machines"):
        compare.compare(here, there)
    assert compare.compare(here, there, any_machine=True).warnings[0].startswith("measured on different machines")


def test_a_comparison_says_what_else_changed() -> None:
    one = made.case("partitioned")
    found = compare.compare(
        made.record({one: FIVE}, versions={"duckdb": "1"}), made.record({one: FIVE}, versions={"duckdb": "2"})
    )
    assert found.warnings == ("versions: duckdb was 1, is 2",)


def test_runs_without_a_common_case_cannot_be_compared() -> None:
    with pytest.raises(UsageError, match="no case in common"):
        compare.compare(made.record({made.case("hybrid"): FIVE}), made.record({made.case("auto"): FIVE}))


# --- peers --------------------------------------------------------------------------------------------------


def test_wrong_baselines_keep_their_time() -> None:
    auto, naive = made.case("auto", overlap=1.0), made.case("naive_parallel", kind="baseline", overlap=1.0)
    found = peer_table.timings(made.samples({auto: FIVE, naive: times(7.0)}, wrong=[naive]))
    assert {name for name, _ in found} == {"auto", "naive_parallel"}
    assert set(found["naive_parallel", (1.0, "empty")].values()) == {*times(7.0)}
