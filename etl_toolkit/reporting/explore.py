"""Choices over stored results: overlap, workers, strategy. Nothing is measured but on the button."""

from __future__ import annotations

import tempfile
import threading
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from etl_toolkit.bench import sweep
from etl_toolkit.bench.sweep_config import SweepConfig
from etl_toolkit.errors import EtlError
from etl_toolkit.reporting.rendering import part_html
from etl_toolkit.reporting.run_data import Case, RunData, fate, interval_words, is_clean, read, setting_words
from etl_toolkit.reporting.speed import speed_bars
from etl_toolkit.tables import Cell, Table, table_html


@dataclass
class Explorer:
    """The widgets, and the results they look at. `box` shows itself in Jupyter."""

    data: RunData
    dsn: str | None
    overlap: Any
    workers: Any
    strategy: Any
    again: Any
    chart: Any
    words: Any
    box: Any
    measuring: threading.Thread | None = None

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.box)  # type: ignore[no-untyped-call]

    def cases(self) -> list[Case]:
        """The stored cases at the chosen overlap and workers, in an empty table."""
        found = self.data.at(overlap=self.overlap.value, workers=self.workers.value)
        return [case for case in found if case["table_state"] == "empty"] or found

    def show(self, *_: Any) -> None:
        """Draw what is stored for the chosen point."""
        cases = self.cases()
        chosen = next((case for case in cases if case["strategy"] == self.strategy.value), None)
        self.words.value = _words(chosen, self.strategy.value)
        clean = [case for case in cases if is_clean(case)]
        if not clean:
            self.chart.value = "<p>This point has not been measured. Use the button to measure it.</p>"
            return
        self.chart.value = speed_bars(
            clean, "Speed at this point", setting_words(clean[0]), chosen=self.strategy.value
        )._repr_html_()

    def measure(self, *_: Any) -> None:
        """Begin to measure the chosen point once more; the kernel stays free, and the words follow when it is done."""
        self.again.disabled = True
        self.words.value = "<p>Measuring: three runs, each in a separate process …</p>"
        point = (self.strategy.value, self.overlap.value, self.workers.value)
        self.measuring = threading.Thread(target=self._measure, args=point, daemon=True)
        self.measuring.start()

    def _measure(self, strategy: str, overlap: float, workers: int) -> None:
        try:
            self.words.value = measured(self.data, strategy, overlap, workers, self.dsn)
        except EtlError as error:
            self.words.value = f"<p>{type(error).__name__}: {escape(str(error))}</p>"
        finally:
            self.again.disabled = False


def explore(directory: str = "", *, dsn: str | None = None) -> Explorer:
    """Return buttons over the results of a run directory, one per value; `dsn` is where "measure" measures."""
    import ipywidgets as widgets

    data = read(directory)

    def choice(name: str, values: list[Any], value: Any, words: list[str]) -> Any:
        options = list(zip(words, values, strict=True))
        style = {"description_width": "6rem", "button_width": "auto"}
        return widgets.ToggleButtons(options=options, value=value, description=name, style=style)

    overlaps, counts, names = data.values("overlap"), data.values("workers"), data.strategies
    explorer = Explorer(
        data,
        dsn,
        choice("overlap", overlaps, overlaps[0], [f"{value:.0%}" for value in overlaps]),
        choice("workers", counts, data.middle["workers"], [str(value) for value in counts]),
        choice("strategy", names, names[0], names),
        widgets.Button(description="Measure this point again", layout=widgets.Layout(width="15rem")),
        widgets.HTML(),
        widgets.HTML(),
        widgets.VBox(),
    )
    for control in (explorer.overlap, explorer.workers, explorer.strategy):
        control.observe(explorer.show, "value")
    explorer.again.on_click(explorer.measure)
    explorer.box.children = (
        explorer.overlap, explorer.workers, explorer.strategy, explorer.again, explorer.words, explorer.chart,
    )  # fmt: skip
    explorer.show()
    return explorer


def measured(data: RunData, strategy: str, overlap: float, workers: int, dsn: str | None) -> str:
    """Measure one point in a sweep of its own; return what was found as HTML."""
    middle = data.middle
    config = replace(
        SweepConfig.quick(),
        name="explore",
        strategies=(strategy,),
        side_strategies=(),
        state_strategies=(),
        overlaps=(overlap,),
        table_states=("empty",),
        workers=(workers,),
        formats=(middle["format"],),
        files=(middle["files"],),
        rows=(middle["rows"] // middle["files"],),
        keys=(middle["key"],),
    )
    with tempfile.TemporaryDirectory() as place:
        record = sweep.run(config, directory=Path(place) / "run", dsn=dsn, command="explore notebook")
        return _words(RunData(record).cases[0], strategy)


def _words(case: Case | None, strategy: str) -> str:
    if case is None:
        return part_html(Table(f"{strategy} was not measured here", ("setting",), []))
    row: list[Cell] = [setting_words(case), fate(case), case["runs"], interval_words(case["wall_seconds"])]
    row.append(f"{case['rows_per_second']['median']:,.0f}" if case["rows_per_second"] else None)
    return table_html(Table(strategy, ("setting", "outcome", "runs", "seconds (95 % interval)", "rows/s"), [row]))
