"""Shape by shape, ours against the best plain way that was right: the tables of a sweep of shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from etl_toolkit.bench.records import RunRecord
from etl_toolkit.bench.statistics import interval_words
from etl_toolkit.tables import Lines, Table, tabulate, to_text


def shape_table(caption: str, lines: Iterable[Mapping[str, Any]]) -> Table:
    """Return a row for each shape, overlap and table state; `speed-up` is the time of the plain way over ours."""
    return tabulate(
        caption,
        lines,
        {
            "shape": lambda line: line["shape"],
            "overlap": lambda line: f"{line['overlap']:.0%}",
            "table": lambda line: line["table_state"],
            "best plain way": lambda line: line["plain_way"],
            "speed-up (95% interval)": lambda line: interval_words(line["speed_up"]),
            "of CPU": lambda line: None if line["cpu_speed_up"] is None else f"{line['cpu_speed_up']:.2f}",
            "verdict": lambda line: line["verdict"],
            "runs": lambda line: line["runs"],
            "left wrong rows": lambda line: ", ".join(line["wrong"]) or None,
        },
        right=("speed-up (95% interval)", "of CPU"),
    )


def shape_text(record: RunRecord) -> str:
    """Return the table for people, and what went wrong."""
    title = f"Ours against the best plain way that was right, {record.manifest.rounds} rounds"
    failed = [f"{case['case']}: {case['errors'][0]}" for case in record.report["cases"] if case["failures"]]
    return to_text([
        shape_table(title, record.report["by_shape"]),
        *([Lines("Wrong or failed in a run:", failed)] if failed else []),
    ])  # fmt: skip
