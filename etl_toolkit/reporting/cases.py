"""The table of all cases: what was measured and how it ended; the page sorts, filters and draws it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etl_toolkit.bench.statistics import interval_words
from etl_toolkit.reporting.content import Choices
from etl_toolkit.reporting.run_data import Case, RunData, fate
from etl_toolkit.tables import Cell, Table

STATE_WORDS = {"half": "half there", "tenth": "a tenth changes", "rewritten": "all change"}

Number = float | Sequence[float] | None


def _describe_files(case: Case) -> str:
    words = [f"{case['files']} {case['format']}"]
    words += [f"key {case['key'].replace('_', ' + ')}"] if case["key"] not in ("bigint", "own") else []
    words += [f"batches of {case['batch_rows']:,}"] if case["batch_rows"] else []
    return ", ".join(words)


# What tells one case from another, and the number behind the words; what is the same in all cases is in the caption.
AXES: Mapping[str, tuple[Callable[[Case], str], Callable[[Case], Number]]] = {
    "shape": (lambda case: str(case.get("shape", "base")).replace("_", " "), lambda _: None),
    "overlap": (lambda case: f"{case['overlap']:.0%}", lambda case: float(case["overlap"])),
    "table": (lambda case: STATE_WORDS.get(case["table_state"], str(case["table_state"])), lambda _: None),
    "rows": (lambda case: f"{case['rows']:,}", lambda case: int(case["rows"])),
    "workers": (lambda case: str(case["workers"]), lambda case: int(case["workers"])),
    "executor": (lambda case: str(case["executor"] or "one process"), lambda _: None),
    "files": (_describe_files, lambda _: None),
}

# Column: what is added up, in which unit, with how many digits, and whether less or more of it is better.
METRICS: Mapping[str, tuple[Sequence[str], float, int, str]] = {
    "rows/s": (("rows_per_second",), 1, 0, "more"),
    "seconds (95% interval)": (("wall_seconds",), 1, 2, "less"),
    "× best": (("ratio_to_best",), 1, 2, "less"),
    "CPU s": (("client_cpu_seconds", "server_cpu_seconds"), 1, 2, "less"),
    "MB": (("peak_client_pss_bytes", "peak_server_pss_bytes"), 1e6, 0, "less"),
    "WAL MB": (("wal_bytes",), 1e6, 0, "less"),
    "dead rows": (("dead_tuples",), 1, 0, "less"),
    "lock waits": (("lock_waits",), 1, 0, "less"),
    "deadlocks": (("deadlocks",), 1, 0, "less"),
    "retries": (("retries",), 1, 0, "less"),
}


def all_cases(data: RunData) -> Choices:
    """Return every case with its medians; columns that are 0 or not available throughout are left out."""
    cases = sorted(data.cases, key=lambda case: (case["setting"], case["ratio_to_best"] or 99))
    axes = {name: axis for name, axis in AXES.items() if len({axis[0](case) for case in cases}) > 1}
    metrics = {
        title: column for title, column in METRICS.items() if any(case[name] for case in cases for name in column[0])
    }
    rows: list[list[Cell]] = []
    values: list[list[Number]] = []
    for case in cases:
        found = [_metric(case, *column[:3]) for column in metrics.values()]
        name = case["strategy"] + (" ~" if case["is_unstable"] else "")
        rows.append(
            [name, *(say(case) for say, _ in axes.values()), fate(case), case["runs"], *(words for words, _ in found)]
        )
        values.append(
            [None, *(value(case) for _, value in axes.values()), None, case["runs"], *(number for _, number in found)]
        )
    same = ", ".join(
        say(cases[0]) if name == "files" else f"{name} {say(cases[0])}"
        for name, (say, _) in AXES.items()
        if name not in axes
    )
    caption = f"All {len(cases)} cases{f'; in all of them {same}' if same else ''}"
    head = ["strategy", *axes, "outcome", "runs", *metrics]
    kinds = ["of", *("of" for _ in axes), "", "", *(better for *_, better in metrics.values())]
    main = data.main_setting[0] if data.main_setting else cases[0]
    facts = {name: say(main) for name, (say, _) in axes.items()}
    facts["ours"] = ",".join(dict.fromkeys(case["strategy"] for case in cases if case["kind"] == "ours"))
    return Choices(Table(caption, head, rows, right=(*metrics, "runs")), kinds, values, "cases", facts)


def _metric(case: Case, names: Sequence[str], unit: float, digits: int) -> tuple[str | None, Number]:
    """Return what a cell says, and the numbers behind it: the sum of its parts, or median, low and high."""
    parts: list[Any] = [case[name] for name in names if case[name] is not None]
    if not parts:
        return None, None
    if isinstance(parts[0], Mapping):
        words = f"{parts[0]['median']:,.0f}" if digits == 0 else interval_words(parts[0])
        return words, [_rounded(parts[0][end]) for end in ("median", "low", "high")]
    return " + ".join(f"{part / unit:,.{digits}f}" for part in parts), _rounded(sum(parts) / unit)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
