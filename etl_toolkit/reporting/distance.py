"""Heat maps of how far each strategy is from the best one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etl_toolkit.reporting import draw
from etl_toolkit.reporting.pictures import Figure, Panel
from etl_toolkit.reporting.run_data import STATES, Case, RunData, fate, is_clean, strategy_place
from etl_toolkit.tables import spell_count

Column = tuple[str, Sequence[Case]]


def ratio_map(data: RunData) -> Figure | None:
    """Heat maps of time over the time of the best: against overlap, table state, and the other axes."""
    maps: list[tuple[str, list[Column]]] = []
    empty = data.at(table_state="empty") or data.at()
    maps.append(
        ("overlap, empty table", [(f"{o:.0%}", _where(empty, overlap=o)) for o in data.values("overlap", empty)])
    )
    states = [state for state in STATES if data.at(table_state=state)]
    if len(states) > 1:
        shared = [o for o in data.values("overlap") if all(data.at(table_state=s, overlap=o) for s in states)]
        maps += [
            (f"table at {o:.0%} overlap", [(s, data.at(table_state=s, overlap=o)) for s in states]) for o in shared[:1]
        ]
    if (side := _side_columns(data)) and len(side) > 1:
        maps.append((f"other axes at {side[0][1][0]['overlap']:.0%} overlap", side))
    drawn = [_heat_map(title, columns, name=f"ratio-{number + 1}") for number, (title, columns) in enumerate(maps)]
    panels = [panel for panel in drawn if panel]
    if not panels:
        return None
    note = (
        "Time divided by that of the fastest correct one in the same column; lighter is better. "
        "Cells without a number were refused as unsafe, ended with wrong rows, or were not measured."
    )
    return Figure(_ratio_finding(data), panels, note)


def _where(cases: Sequence[Case], **wanted: Any) -> list[Case]:
    return [case for case in cases if all(case[name] == value for name, value in wanted.items())]


def _side_columns(data: RunData) -> list[Column]:
    """A column for the middle, and for each other value of the axes around it."""
    columns: list[Column] = []
    for name in ("rows", "workers", "format", "key", "files", "executor"):
        for value in data.values(name):
            cases = data.at(**{name: value}, table_state="empty")
            if value == data.middle[name] or not cases:
                continue
            label = str(value).replace("text_timestamp", "text, time")
            if name == "rows":
                label = f"{value / 1000:,.0f}k rows"
            elif name in ("workers", "files"):
                label = spell_count(value, name[:-1])
            columns.append((label, _where(cases, overlap=cases[0]["overlap"])))
    if columns:
        columns.insert(0, ("middle", data.at(table_state="empty", overlap=columns[0][1][0]["overlap"])))
    return columns


def _ratio_finding(data: RunData) -> str:
    lines = [
        line
        for line in data.record.report.get("strategies", [])
        if line["worst_ratio_to_best"] and line["kind"] == "ours"
    ]
    lines = [line for line in lines if not line["failures"]] or lines
    if not lines:
        return "No strategy ended with the correct result."
    best = min(lines, key=lambda line: (line["strategy"] != "auto", float(line["worst_ratio_to_best"])))
    return (
        f"{best['strategy']} took at most {best['worst_ratio_to_best']:.2f} × the time of the fastest correct way, and "
        f"{best['mean_ratio_to_best']:.2f} × on average over {spell_count(best['cases'], 'setting')}."
    )


def _heat_map(title: str, columns: Sequence[Column], *, name: str) -> Panel | None:
    varied = columns[1:] or columns  # the first column of a map is the middle, which every strategy has
    rows = dict.fromkeys(case["strategy"] for _, cases in varied for case in cases if case["kind"] != "floor")
    if not rows:
        return None
    cells = {
        strategy: [_cell(next((case for case in cases if case["strategy"] == strategy), None)) for _, cases in columns]
        for strategy in sorted(rows, key=strategy_place)
    }
    words = [
        f"{label}: {', '.join(_cell_words(case) for case in cases if case['kind'] != 'floor')}"
        for label, cases in columns
    ]
    return draw.matrix(
        name, cells, [label for label, _ in columns], title=f"Time / best time, by {title}",
        legend=("best 1.00", "worst: 4 × or more"), alt=f"Time over best time by {title}. {'; '.join(words)}.",
    )  # fmt: skip


def _cell(case: Case | None) -> draw.Cell:
    if case is None:
        return draw.Cell()
    if not is_clean(case):
        return draw.Cell({"wrong rows": "wrong", "not run": ""}.get(fate(case), fate(case)), tip=_cell_words(case))
    ratio = float(case["ratio_to_best"])
    words = f"{_cell_words(case)}, {case['wall_seconds']['median']:.2f} s"
    return draw.Cell(f"{ratio:.2f}", min(1.0, max(0.0, ratio - 1) / 3), words)


def _cell_words(case: Case) -> str:
    return f"{case['strategy']} {case['ratio_to_best']:.2f}" if is_clean(case) else f"{case['strategy']} {fate(case)}"
