"""The sections that come from the measurements: recommendation, charts, shapes, all results."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etl_toolkit.bench.shape_table import shape_table
from etl_toolkit.bench.statistics import interval_words
from etl_toolkit.reporting import distance, overlap_map, resources, speed
from etl_toolkit.reporting.cases import all_cases
from etl_toolkit.reporting.content import Code, Details, Part, Section, Text
from etl_toolkit.reporting.headline import shapes_words
from etl_toolkit.reporting.pictures import Bar, BarGroup, Bars, Figure
from etl_toolkit.reporting.run_data import STATES, Case, RunData, fate, setting_words
from etl_toolkit.tables import Table, spell_count, tabulate

DRAWN_SHAPES = 12


def recommendation(data: RunData) -> Section:
    """The rule with its evidence, and the file of settings that follows from it."""
    rules, undecided = (data.record.report.get(name, []) for name in ("recommendations", "undecided"))
    columns = {
        "load": lambda rule: _describe_load(rule["when"]),
        "strategy": lambda rule: _describe_choice(rule["then"]),
        "workers": lambda rule: rule["then"]["workers"],
        "evidence: time / time of the next best": lambda rule: (
            _evidence(rule["evidence"]) or "no other correct way was measured"
        ),
    }
    parts: list[Part] = [
        tabulate("Which strategy for which load", rules, columns)
        if rules
        else Text("The runs do not support a recommendation.", "alert")
    ]
    if undecided:
        title = "Loads for which nothing is recommended: another correct way was, or seemed, faster"
        best = undecided[0]["then"]["strategy"]
        columns = {
            "load": columns["load"],
            f"our best, {best}: time / time of others": lambda rule: _evidence(rule["evidence"]),
        }
        parts.append(tabulate(title, undecided, columns))
    settings = data.record.directory / "recommended.toml"
    if settings.exists():
        text = settings.read_text(encoding="utf-8").strip()
        parts.append(
            Code(text, "toml", "The same as a configuration file: `etl-toolkit ingest --config recommended.toml …`")
        )
    return Section("Recommendation", parts)


def _describe_choice(then: Case) -> str:
    batches = f", batches of {then['batch_rows']:,} rows" if then["batch_rows"] else ""
    return f"{then['strategy']}{batches}"


def _describe_load(when: Case) -> str:
    low, high = when["overlap"]
    overlap = f"{low:.0%}" if low == high else f"{low:.0%} to {high:.0%}"
    return f"{overlap} overlap, {when['rows'][0]:,} rows, {STATES.get(when['table_state'], when['table_state'])}"


def _evidence(evidence: Sequence[Case]) -> str:
    words = []
    for item in evidence[:3]:
        name = item["against"].rsplit("/", 1)[1]
        ratio = item["ratio"]
        words.append(f"{name} {interval_words(ratio)}, {item['verdict']}, {spell_count(item['runs'], 'run')}")
    return "; ".join(words)


# --- charts -----------------------------------------------------------------------------------------------------------

Draw = Callable[[RunData], Figure | Bars | None]

NOT_MEASURED = "Not measured in this run; it requires {}."
A_RIGHT_CASE = "a case with the correct result in every run"
MONITOR = "the monitor, which reads /proc of server and client (Linux, server on this machine)"

# Each section with its charts, and what a run needs for them.
CHARTS: Mapping[str, Sequence[tuple[Draw, str]]] = {
    "Throughput": [(speed.throughput, A_RIGHT_CASE)],
    "Distance from the best": [(distance.ratio_map, A_RIGHT_CASE)],
    "Memory and CPU over time": [(resources.memory, MONITOR), (resources.cpu, MONITOR)],
    "Workers": [(speed.scaling, "a strategy with two worker counts")],
    "Where the time goes": [(resources.phases, "one of our loads with the correct result")],
    "Which files share keys": [(overlap_map.overlap_map, "files that share keys, at most 24")],
}


def charts(data: RunData, title: str) -> Section:
    """The charts of one section; where the run has nothing to draw, what it would take."""
    return Section(title, [draw(data) or Text(NOT_MEASURED.format(needs)) for draw, needs in CHARTS[title]])


def shapes(data: RunData) -> Section:
    """Tables and files as people have them: ours against the best plain way, the worst first."""
    lines = data.by_shape
    if not lines:
        return Section("Shapes", [Text(NOT_MEASURED.format("several shapes of tables and files: `make bench-shapes`"))])
    groups = [BarGroup(_shape_words(line), [_speed_up_bar(line)]) for line in lines[:DRAWN_SHAPES]]
    more = f" The {DRAWN_SHAPES} worst of {len(lines)}; all are in the table." if len(lines) > DRAWN_SHAPES else ""
    note = f"Time of the plain way over ours, with its 95% interval: above 1 we are faster.{more}"
    table = shape_table("Every shape, the worst first", lines)
    return Section("Shapes", [Bars(shapes_words(lines), groups, note), Details(f"All {len(lines)} settings", [table])])


def _shape_words(line: Mapping[str, Any]) -> str:
    state = STATES.get(line["table_state"], line["table_state"])
    return f"{line['shape'].replace('_', ' ')}: {line['overlap']:.0%} overlap, {state}"


def _speed_up_bar(line: Mapping[str, Any]) -> Bar:
    found = line["speed_up"]
    kind = "ours" if line["verdict"] != "slower" else "bad"
    return Bar(
        f"against {line['plain_way']}", found["median"], f"{found['median']:.2f} ×", found["low"], found["high"], kind
    )


# --- all results ------------------------------------------------------------------------------------------------------


def results(data: RunData) -> Section:
    """Every strategy, every case, every failure."""
    failures = [case for case in data.cases if case["failures"]]
    parts: list[Part] = [_strategies(data)]
    if data.cases:
        parts += [
            Text(
                "Below, medians over the measured runs with the correct result; ~ marks unstable cases. CPU and peak memory are "
                "those of client + server."
            ),
            all_cases(data),
        ]
    if failures:
        columns = {
            "strategy": lambda case: case["strategy"],
            "setting": setting_words,
            "outcome": fate,
            "runs": lambda case: case["failures"],
            "reason": lambda case: "; ".join(map(_without_scratch, case["errors"])),
        }
        parts.append(tabulate("Runs that were refused or failed", failures, columns))
    return Section("All results", parts)


def _strategies(data: RunData) -> Table:
    columns = {
        "strategy": lambda line: line["strategy"],
        "kind": lambda line: line["kind"],
        "cases": lambda line: line["cases"],
        "among fastest": lambda line: line["wins"],
        "failed runs": lambda line: line["failures"],
    }
    numbers = {
        "mean time / best": lambda line: _number(line["mean_ratio_to_best"], 2),
        "worst": lambda line: _number(line["worst_ratio_to_best"], 2),
        "best rows/s": lambda line: _number(line["best_rows_per_second"]),
        "peak client MB": lambda line: _number(line["peak_client_pss_bytes"], unit=1e6),
        "peak server MB": lambda line: _number(line["peak_server_pss_bytes"], unit=1e6),
    }
    title = "Strategies over all their cases; floors only insert and are not compared"
    return tabulate(title, data.record.report.get("strategies", []), columns | numbers, right=list(numbers))


def _without_scratch(text: str) -> str:
    """Leave the scratch directory of the sweep out of a message."""
    return re.sub(r"\S*/etl_toolkit-bench-\w+/(\S+/)?", "", text)


def _number(value: float | None, digits: int = 0, unit: float = 1) -> str | None:
    return None if value is None else f"{value / unit:,.{digits}f}"
