"""Choices over stored results: overlap, workers, strategy. Nothing is measured but on the button."""

from __future__ import annotations

import tempfile
import threading
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from etl_toolkit.bench import sweep
from etl_toolkit.bench.statistics import interval_words
from etl_toolkit.bench.sweep_config import SweepConfig
from etl_toolkit.errors import EtlError
from etl_toolkit.reporting.run_data import Case, RunData, fate, is_clean, read, setting_words
from etl_toolkit.reporting.speed import speed_bars
from etl_toolkit.tables import Cell, Table, table_html


class Explorer(widgets.VBox):  # type: ignore[misc,unused-ignore]
    """Buttons over the results of a run directory, one per value; `dsn` is where "measure" measures."""

    def __init__(self, directory: str = "", *, dsn: str | None = None) -> None:
        self.data, self.dsn = read(directory), dsn
        self.measuring: threading.Thread | None = None
        overlaps, names = self.data.values("overlap"), self.data.strategies
        self.overlap = _choice("overlap", {f"{value:.0%}": value for value in overlaps}, overlaps[0])
        workers = {str(count): count for count in self.data.values("workers")}
        self.workers = _choice("workers", workers, self.data.middle["workers"])
        self.strategy = _choice("strategy", dict(zip(names, names, strict=True)), names[0])
        self.again = widgets.Button(description="Measure this point again", layout=widgets.Layout(width="15rem"))
        self.words, self.chart = widgets.HTML(), widgets.HTML()
        self.words.add_class("jp-RenderedHTMLCommon")  # JupyterLab's own look of tables
        super().__init__([self.overlap, self.workers, self.strategy, self.again, self.words, self.chart])
        for control in (self.overlap, self.workers, self.strategy):
            control.observe(self.show, "value")
        self.again.on_click(self.measure)
        self.show()

    def show(self, *_: Any) -> None:
        """Draw what is stored for the chosen overlap and workers, in an empty table."""
        found = self.data.at(overlap=self.overlap.value, workers=self.workers.value)
        cases = [case for case in found if case["table_state"] == "empty"] or found
        chosen, clean = self.strategy.value, [case for case in cases if is_clean(case)]
        self.words.value = _words(next((case for case in cases if case["strategy"] == chosen), None), chosen)
        self.chart.value = "<p>This point has not been measured. Use the button to measure it.</p>"
        if clean:
            bars = speed_bars(clean, "Speed at this point", setting_words(clean[0]), chosen=chosen)
            self.chart.value = bars._repr_html_()

    def measure(self, *_: Any) -> None:
        """Begin to measure the chosen point once more; the kernel stays free, and the words follow when it is done."""
        self.again.disabled = True
        self.words.value = "<p>Measuring: three runs, each in a separate process …</p>"
        point = (self.strategy.value, self.overlap.value, self.workers.value)
        self.measuring = threading.Thread(target=self._measure, args=point, daemon=True)
        self.measuring.start()

    def _measure(self, strategy: str, overlap: float, workers: int) -> None:
        middle = self.data.middle
        config = replace(
            SweepConfig.quick(), name="explore", strategies=(strategy,), side_strategies=(), state_strategies=(),
            overlaps=(overlap,), table_states=("empty",), workers=(workers,), formats=(middle["format"],),
            files=(middle["files"],), rows=(middle["rows"] // middle["files"],), keys=(middle["key"],),
        )  # fmt: skip
        try:
            with tempfile.TemporaryDirectory() as place:
                record = sweep.run(config, directory=Path(place) / "run", dsn=self.dsn, command="explore notebook")
            self.words.value = _words(RunData(record).cases[0], strategy)
        except EtlError as error:
            self.words.value = f"<p>{type(error).__name__}: {escape(str(error))}</p>"
        finally:
            self.again.disabled = False


def _choice(name: str, options: dict[str, Any], value: Any) -> Any:
    style = {"description_width": "6rem", "button_width": "auto"}
    return widgets.ToggleButtons(options=list(options.items()), value=value, description=name, style=style)


def _words(case: Case | None, strategy: str) -> str:
    if case is None:
        return table_html(Table(f"{strategy} was not measured here", ("setting",), []))
    row: list[Cell] = [setting_words(case), fate(case), case["runs"], interval_words(case["wall_seconds"])]
    row.append(f"{case['rows_per_second']['median']:,.0f}" if case["rows_per_second"] else None)
    return table_html(Table(strategy, ("setting", "outcome", "runs", "seconds (95% interval)", "rows/s"), [row]))
