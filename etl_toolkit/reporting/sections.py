"""The sections that come from the measurements: finding, limits, recommendation, charts, all results."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from etl_toolkit.bench.statistics import LARGEST_STEADY_SPREAD
from etl_toolkit.reporting import overlap_map, resources, scaling, throughput
from etl_toolkit.reporting.content import Bullets, Code, Details, Figure, Part, Section, Text
from etl_toolkit.reporting.run_data import STATES, Case, RunData, fate, seconds_words, setting_words
from etl_toolkit.tables import Table

DRAWN_RUNS = 3


def finding(data: RunData) -> Section:
    """What to do and how sure that is; how the run went, where it did not go to its end."""
    return Section("Finding", [*_status(data), *(Text(text, "lead") for text in answer(data)[:1]), *_rest(data)])


def answer(data: RunData) -> list[str]:
    """Say in a few sentences what the sweep found, the most important first."""
    ours = [line for line in data.record.report.get("strategies", []) if line["kind"] == "ours"]
    right = [line for line in ours if not line["failures"] and line["mean_ratio_to_best"]]
    if not right:
        return ["No strategy of ours loaded right in every run, so nothing is recommended."]
    best = min(right, key=lambda line: (line["mean_ratio_to_best"], line["strategy"] != "auto"))
    settings = f"{best['cases']} setting{'s' if best['cases'] != 1 else ''}"
    sentences = [
        f"`{best['strategy']}` loaded right in every run. Over {settings} it took {best['mean_ratio_to_best']:.2f} × "
        "the time "
        f"of the fastest right way on the mean, {best['worst_ratio_to_best']:.2f} × at worst."
    ]
    against = [case["against_baseline"] for case in data.cases if case["strategy"] == best["strategy"]]
    against = [item for item in against if item and item["ratio"]]
    if against:
        verdicts = [item["verdict"] for item in against]
        ratios = sorted(item["ratio"]["median"] for item in against)
        sentences.append(
            f"Against `{against[0]['baseline']}`, the parallel staging with one merge that a careful person writes by "
            "hand, it "
            f"was faster in {verdicts.count('faster')}, slower in {verdicts.count('slower')} of {len(against)} "
            "settings, with no "
            f"difference shown in {verdicts.count('no difference shown')}: {1 / ratios[-1]:.2f} to {1 / ratios[0]:.2f} "
            "× as fast."
        )
    wrong = [case for case in data.cases if fate(case) in ("wrong rows", "failed")]
    for strategy in dict.fromkeys(case["strategy"] for case in wrong):
        own = [case for case in data.cases if case["strategy"] == strategy]
        runs = sum(case["failures"] for case in own if fate(case) in ("wrong rows", "failed"))
        sentences.append(f"`{strategy}` left wrong rows, or failed, in {runs} run{'s' if runs != 1 else ''}.")
    noise = data.record.report.get("noise")
    if noise and noise["ratio"]:
        low, high = noise["ratio"]["low"], noise["ratio"]["high"]
        sentences.append(
            f"The same strategy measured twice (A/A): ratio {noise['ratio']['median']:.2f} ({low:.2f}–{high:.2f}), "
            f"{noise['verdict']}. Smaller differences than that mean nothing."
        )
    return sentences


def _rest(data: RunData) -> list[Part]:
    return [Bullets(sentences)] if (sentences := answer(data)[1:]) else []


def _status(data: RunData) -> list[Part]:
    manifest = data.record.manifest
    parts: list[Part] = []
    if manifest.status != "finished":
        reason = f": {manifest.reason}" if manifest.reason else ""
        parts.append(
            Text(f"This sweep is **{manifest.status}**{reason}. What follows is what had been measured.", "alert")
        )
    elif manifest.reason:
        parts.append(Text(f"The sweep ended early: {manifest.reason}.", "alert"))
    for name, run in manifest.notebooks.items():
        if run.get("status") == "failed":
            parts.append(Text(f"The notebook `{name}` failed: {run.get('error')}.", "alert"))
    return parts


def limits(data: RunData) -> Section:
    """What the numbers do not say."""
    manifest = data.record.manifest
    machine = manifest.machine
    runs = [count for count in data.values("runs") if count]
    unstable = [case for case in data.cases if case["is_unstable"]]
    rows = data.values("rows")
    generated = not manifest.config.get("own_files")
    computer = f"{machine.get('processor', 'unknown')}, {machine.get('cores', '?')} cores"
    items = [
        f"One machine: {computer}, which loader and server share"
        if manifest.server.get("is_on_this_machine")
        else f"The server is another machine; the client: {computer}",
        f"{'Generated' if generated else 'Your own'} files, {_range(rows)} rows in all; nothing is said beyond",
        f"{_range(runs)} measured runs per case; an interval from few runs is hardly narrower than their range",
        f"{len(unstable)} of {len(data.cases)} cases are unstable (standard deviation above "
        f"{LARGEST_STEADY_SPREAD:.0%} of the mean), marked with ~ in the table of all results",
        "Ratios within this run can be compared; seconds of another machine cannot",
    ]
    share = manifest.monitor.get("cpu_share_of_one_core")
    if share is not None:
        items.append(
            f"The monitor takes {share:.1%} of one core, a reading every {manifest.monitor['interval_seconds']:.2f} s: "
            "peaks "
            "shorter than that may be missed"
        )
    if manifest.skipped:
        items.append(
            f"{len(manifest.skipped)} cases were left out: {'; '.join(sorted(set(manifest.skipped.values())))}"
        )
    return Section("Limits", [Bullets(items)])


def _range(values: Sequence[int]) -> str:
    if not values:
        return "no"
    return f"{values[0]:,}" if values[0] == values[-1] else f"{values[0]:,} to {values[-1]:,}"


def recommendation(data: RunData) -> Section:
    """The rule with its evidence, and the file of settings that follows from it."""
    rules = data.record.report.get("recommendations", [])
    rows = []
    for rule in rules:
        low, high = rule["when"]["overlap"]
        strongest = rule["evidence"][0] if rule["evidence"] else None
        rows.append(
            [
                f"{low:.0%}" if low == high else f"{low:.0%} to {high:.0%}",
                f"{rule['when']['rows'][0]:,}",
                STATES.get(rule["when"]["table_state"], rule["when"]["table_state"]),
                rule["then"]["strategy"],
                rule["then"]["workers"],
                rule["then"]["batch_rows"],
                _evidence(rule["evidence"]) if strongest else "no other right way was measured",
            ]
        )
    head = (
        "overlap",
        "rows",
        "table",
        "strategy",
        "workers",
        "rows per batch",
        "evidence: time / time of the next best",
    )
    parts: list[Part] = [
        Table("Which strategy for which load", head, rows)
        if rows
        else Text("No strategy was right in every run, so there is nothing to recommend.", "alert")
    ]
    settings = data.record.directory / "recommended.toml"
    if settings.exists():
        text = settings.read_text(encoding="utf-8").strip()
        parts.append(Code(text, "toml", "The same as a file: `etl-toolkit ingest --config recommended.toml …`"))
    return Section("Recommendation", parts)


def _evidence(evidence: Sequence[Case]) -> str:
    words = []
    for item in evidence[:3]:
        name = item["against"].rsplit("/", 1)[1]
        ratio = item["ratio"]
        told = f"{ratio['median']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})" if ratio else "–"
        words.append(f"{name} {told}, {item['verdict']}, {item['runs']} pair{'s' if item['runs'] != 1 else ''}")
    return "; ".join(words)


# --- charts -----------------------------------------------------------------------------------------------------------

Draw = Callable[[RunData], Figure | None]

NOT_MEASURED = "Not measured in this run: it needs {}."


def speed(data: RunData) -> Section:
    """Throughput against overlap."""
    return _charts(data, "Throughput", [(throughput.throughput, "a case with the right answer in every run")])


def distance(data: RunData) -> Section:
    """How far each strategy is from the best one."""
    return _charts(
        data, "Distance from the best", [(throughput.ratio_map, "a case with the right answer in every run")]
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
    return _charts(data, "Where the time goes", [(scaling.phases, "a load of ours with the right answer")])


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
    parts.append(Details(f"All {len(data.cases)} cases", [_all_cases(data)]))
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
    return Table(
        "Strategies over all their cases; floors insert only and are no competitors", head, rows, right=numbers
    )


def _all_cases(data: RunData) -> Table:
    rows = [
        [
            setting_words(case), case["strategy"] + (" ~" if case["is_unstable"] else ""),
            case["runs"], case["failures"],
            seconds_words(case["wall_seconds"]), _whole(case["rows_per_second"] and case["rows_per_second"]["median"]),
            _number(case["mb_per_second"] and case["mb_per_second"]["median"]),
            _number(case["ratio_to_best"]), _number(case["client_cpu_seconds"]), _number(case["server_cpu_seconds"]),
            _megabytes(case["peak_client_pss_bytes"]), _megabytes(case["peak_server_pss_bytes"]),
            _megabytes(case["wal_bytes"]), _whole(case["dead_tuples"]), _whole(case["lock_waits"]),
            _whole(case["deadlocks"]), _whole(case["retries"]),
        ]
        for case in sorted(data.cases, key=lambda case: (case["setting"], case["ratio_to_best"] or 99))
    ]  # fmt: skip
    numbers = (
        "seconds (95 % interval)", "rows/s", "MB/s", "time / best", "client CPU s", "server CPU s", "client MB",
        "server MB", "WAL MB", "dead rows", "lock waits", "deadlocks", "retries",
    )  # fmt: skip
    head = ("setting", "strategy (~ unstable)", "runs", "failed", *numbers)
    return Table("Medians over the measured runs with the right answer", head, rows, right=numbers)


def _without_scratch(text: str) -> str:
    """Leave the scratch directory of the sweep out of a message."""
    return re.sub(r"\S*/etl_toolkit-bench-\w+/(\S+/)?", "", text)


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:,.2f}"


def _whole(value: float | None) -> str | None:
    return None if value is None else f"{value:,.0f}"


def _megabytes(value: float | None) -> str | None:
    return None if value is None else f"{value / 1e6:,.0f}"


# --- in the notebook only ---------------------------------------------------------------------------------------------


def in_words(data: RunData) -> Section:
    """The answer again, as the last cell of the notebook."""
    return Section("The answer", [Bullets(answer(data))])
