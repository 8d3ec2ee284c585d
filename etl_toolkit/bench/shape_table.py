"""Shape by shape, ours against the best plain way that was right: the table that is printed."""

from __future__ import annotations

from etl_toolkit.bench.records import RunRecord
from etl_toolkit.bench.statistics import Interval
from etl_toolkit.tables import Cell, Lines, Table, to_text


def shape_text(record: RunRecord) -> str:
    """Return the table for people: each shape, the worst first, then the means."""
    rows: list[list[Cell]] = [
        [
            line["shape"], f"{line['overlap']:.0%}", line["table_state"], line["plain_way"],
            Interval(**line["speed_up"]).words if line["speed_up"] else None,
            None if line["cpu_speed_up"] is None else f"{line['cpu_speed_up']:.2f}", line["verdict"],
        ]
        for line in record.report["by_shape"]
    ]  # fmt: skip
    means: list[list[Cell]] = [
        [f"{mean['overlap']:.0%}", mean["table_state"], f"{mean['speed_up']:.2f}", mean["shapes"], mean["worst"]]
        for mean in record.report["shape_means"]
    ]
    failed = [f"{case['case']}: {case['errors'][0]}" for case in record.report["cases"] if case["failures"]]
    return to_text([
        Table(f"Ours against the best plain way that was right, {record.manifest.rounds} rounds", HEADERS, rows,
              right=HEADERS[4:6]),
        Table("Geometric means over the shapes", MEANS, means, right=MEANS[2:4]),
        *([Lines("Wrong or failed in a run:", failed)] if failed else []),
    ])  # fmt: skip


HEADERS = ("shape", "keys shared", "table before", "plain way", "plain / ours (95 %)", "CPU", "ours is")
MEANS = ("keys shared", "table before", "plain / ours", "shapes", "worst")
