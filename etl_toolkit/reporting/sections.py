"""The sections that come from the measurements: recommendation, charts, all results."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from etl_toolkit.reporting import overlap_map, ratio_map, resources, scaling, throughput
from etl_toolkit.reporting.content import Code, Details, Figure, Part, Section, Text
from etl_toolkit.reporting.run_data import STATES, Case, RunData, fate, interval_words, setting_words
from etl_toolkit.tables import Table

DRAWN_RUNS = 3


def recommendation(data: RunData) -> Section:
    """The rule with its evidence, and the file of settings that follows from it."""
    rows = [
        [
            _describe_load(rule["when"]),
            rule["then"]["strategy"]
            + (f", batches of {rule['then']['batch_rows']:,} rows" if rule["then"]["batch_rows"] else ""),
            rule["then"]["workers"],
            _evidence(rule["evidence"]) or "no other correct way was measured",
        ]
        for rule in data.record.report.get("recommendations", [])
    ]
    head = ("load", "strategy", "workers", "evidence: time / time of the next best")
    parts: list[Part] = [
        Table("Which strategy for which load", head, rows)
        if rows
        else Text("The runs do not support a recommendation.", "alert")
    ]
    undecided = [
        [_describe_load(rule["when"]), _evidence(rule["evidence"])] for rule in data.record.report.get("undecided", [])
    ]
    if undecided:
        columns = ("load", f"our best, {data.record.report['undecided'][0]['then']['strategy']}: time / time of others")
        parts.append(
            Table(
                "Loads for which nothing is recommended: another correct way was, or seemed, faster", columns, undecided
            )
        )
    settings = data.record.directory / "recommended.toml"
    if settings.exists():
        text = settings.read_text(encoding="utf-8").strip()
        parts.append(
            Code(text, "toml", "The same as a configuration file: `etl-toolkit ingest --config recommended.toml …`")
        )
    return Section("Recommendation", parts)


def _describe_load(when: Case) -> str:
    low, high = when["overlap"]
    overlap = f"{low:.0%}" if low == high else f"{low:.0%} to {high:.0%}"
    return f"{overlap} overlap, {when['rows'][0]:,} rows, {STATES.get(when['table_state'], when['table_state'])}"


def _evidence(evidence: Sequence[Case]) -> str:
    words = []
    for item in evidence[:3]:
        name = item["against"].rsplit("/", 1)[1]
        ratio = item["ratio"]
        words.append(
            f"{name} {interval_words(ratio)}, {item['verdict']}, {item['runs']} run{'s' if item['runs'] != 1 else ''}"
        )
    return "; ".join(words)


# --- charts -----------------------------------------------------------------------------------------------------------

Draw = Callable[[RunData], Figure | None]

NOT_MEASURED = "Not measured in this run; it requires {}."


def speed(data: RunData) -> Section:
    """Throughput against overlap."""
    return _charts(data, "Throughput", [(throughput.throughput, "a case with the correct result in every run")])


def distance(data: RunData) -> Section:
    """How far each strategy is from the best one."""
    return _charts(
        data, "Distance from the best", [(ratio_map.ratio_map, "a case with the correct result in every run")]
    )


def resource_use(data: RunData) -> Section:
    """Memory and CPU over time."""
    needs = "the monitor, which reads /proc of server and client (Linux, server on this machine)"
    return _charts(data, "Memory and CPU over time", [(resources.memory, needs), (resources.cpu, needs)])


def workers(data: RunData) -> Section:
    """Speed-up and efficiency."""
    return _charts(data, "Workers", [(scaling.scaling, "a strategy with two worker counts")])


def phases(data: RunData) -> Section:
    """Time per phase."""
    return _charts(data, "Where the time goes", [(scaling.phases, "one of our loads with the correct result")])


def shared_keys(data: RunData) -> Section:
    """The file × file matrix."""
    return _charts(data, "Which files share keys", [(overlap_map.overlap_map, "files that share keys, at most 24")])


def _charts(data: RunData, title: str, charts: Sequence[tuple[Draw, str]]) -> Section:
    return Section(title, [draw(data) or Text(NOT_MEASURED.format(needs)) for draw, needs in charts])


# --- all results ------------------------------------------------------------------------------------------------------


def results(data: RunData) -> Section:
    """Every strategy, every case, every failure."""
    failures = [case for case in data.cases if case["failures"]]
    parts: list[Part] = [_strategies(data)]
    if failures:
        rows = [
            [
                case["strategy"],
                setting_words(case),
                fate(case),
                case["failures"],
                "; ".join(map(_without_scratch, case["errors"])),
            ]
            for case in failures
        ]
        parts.append(
            Table("Runs that were refused or failed", ("strategy", "setting", "outcome", "runs", "reason"), rows)
        )
    parts.append(Details(f"All {len(data.cases)} cases", [_all_cases(data), _what_they_took(data)]))
    return Section("All results", parts)


def _strategies(data: RunData) -> Table:
    lines = data.record.report.get("strategies", [])
    rows = [
        [
            line["strategy"], line["kind"], line["cases"], line["wins"], line["failures"],
            _number(line["mean_ratio_to_best"]), _number(line["worst_ratio_to_best"]),
            _whole(line["best_rows_per_second"]), _megabytes(line["peak_client_pss_bytes"]),
            _megabytes(line["peak_server_pss_bytes"]),
        ]
        for line in lines
    ]  # fmt: skip
    numbers = ("mean time / best", "worst", "best rows/s", "peak client MB", "peak server MB")
    head = ("strategy", "kind", "cases", "among fastest", "failed runs", *numbers)
    return Table("Strategies over all their cases; floors only insert and are not compared", head, rows, right=numbers)


def _all_cases(data: RunData) -> Table:
    rows = [
        [
            setting_words(case), case["strategy"] + (" ~" if case["is_unstable"] else ""), case["runs"], case["failures"],
            interval_words(case["wall_seconds"]), _whole(case["rows_per_second"] and case["rows_per_second"]["median"]),
            _number(case["ratio_to_best"]),
        ]
        for case in _in_order(data)
    ]  # fmt: skip
    numbers = ("seconds (95 % interval)", "rows/s", "time / best")
    head = ("setting", "strategy (~ unstable)", "runs", "failed", *numbers)
    return Table("Medians over the measured runs with the correct result", head, rows, right=numbers)


def _what_they_took(data: RunData) -> Table:
    """CPU, memory and what the server counted; columns that are 0 or not available throughout are left out."""
    columns: dict[str, tuple[str, Callable[[float | None], str | None]]] = {
        "client CPU s": ("client_cpu_seconds", _number), "server CPU s": ("server_cpu_seconds", _number),
        "client MB": ("peak_client_pss_bytes", _megabytes), "server MB": ("peak_server_pss_bytes", _megabytes),
        "WAL MB": ("wal_bytes", _megabytes), "dead rows": ("dead_tuples", _whole), "lock waits": ("lock_waits", _whole),
        "deadlocks": ("deadlocks", _whole), "retries": ("retries", _whole),
    }  # fmt: skip
    kept = {title: column for title, column in columns.items() if any(case[column[0]] for case in data.cases)}
    rows = [
        [setting_words(case), case["strategy"], *(words(case[name]) for name, words in kept.values())]
        for case in _in_order(data)
    ]
    return Table("Resources used: medians, peak memory", ("setting", "strategy", *kept), rows, right=tuple(kept))


def _in_order(data: RunData) -> list[Case]:
    return sorted(data.cases, key=lambda case: (case["setting"], case["ratio_to_best"] or 99))


def _without_scratch(text: str) -> str:
    """Leave the scratch directory of the sweep out of a message."""
    return re.sub(r"\S*/etl_toolkit-bench-\w+/(\S+/)?", "", text)


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:,.2f}"


def _whole(value: float | None) -> str | None:
    return None if value is None else f"{value:,.0f}"


def _megabytes(value: float | None) -> str | None:
    return None if value is None else f"{value / 1e6:,.0f}"
