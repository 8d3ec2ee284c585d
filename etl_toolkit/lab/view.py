"""`workbench("drops/")`: choose files, table and key; see the overlap and the plan; load; fix what was rejected; explain rows.

The widgets only show and ask. Everything that takes time runs beside the kernel's main thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from etl_toolkit.config import ParallelConfig
from etl_toolkit.display import plan_blocks, result_html, short_names
from etl_toolkit.errors import EtlError, UsageError, in_python_words
from etl_toolkit.explain import explain
from etl_toolkit.lab import candidates
from etl_toolkit.lab.background import Background
from etl_toolkit.lab.fixes import Fixes, show_rejects
from etl_toolkit.lab.fixing import FixableRow, split_row
from etl_toolkit.lab.frontend import OverlapMap, RejectsGrid
from etl_toolkit.lab.samples import SharedKey, sample_shared_keys
from etl_toolkit.lab.table_rows import list_rows
from etl_toolkit.loading.session import Sessions
from etl_toolkit.model import KeyOverlap, LoadResult, LoadSpec, Plan, ReadOptions
from etl_toolkit.observe import Card
from etl_toolkit.processor import ConflictAwareProcessor
from etl_toolkit.rejected import read_rejects
from etl_toolkit.request import connection_string, load_spec
from etl_toolkit.stopping import Stop
from etl_toolkit.tables import Cell, Table, table_html, to_html

_WIDE = {"description_width": "8rem"}


class Workbench:
    """The widgets; it shows itself in Jupyter. `result` is that of the last load, None before."""

    def __init__(self, place: str | Path, dsn: Any, read: ReadOptions, config: ParallelConfig) -> None:
        self._place, self._dsn, self._read, self._config = Path(place), dsn, read, config
        found = candidates.find_files(place)
        if not found:
            raise UsageError(f"{place}: no CSV or Parquet files there")
        wide = widgets.Layout(width="46rem")
        names = list(zip(short_names(found), found, strict=True))
        self.files = widgets.SelectMultiple(
            options=names, value=found, rows=min(12, max(3, len(found))), description="files", style=_WIDE, layout=wide
        )
        self.table = widgets.Combobox(
            placeholder="name or schema.name", description="table", style=_WIDE, layout=wide, continuous_update=False
        )
        self.create = widgets.Checkbox(description="create the table if it does not exist", style=_WIDE, layout=wide)
        self.key = widgets.Combobox(
            placeholder="column, or several separated by commas", description="key", style=_WIDE, layout=wide,
            continuous_update=False,
        )  # fmt: skip
        self.candidates = widgets.HTML()
        self.max_rejects = widgets.BoundedIntText(100, min=0, max=1_000_000, description="rejects allowed", style=_WIDE)
        self.plan_button = widgets.Button(description="Plan", icon="search")
        self.load_button = widgets.Button(description="Load", icon="upload", button_style="primary")
        self.message = widgets.HTML()
        self.overlap, self.planned, self.loading, self.rejects, self.rows = (widgets.VBox() for _ in range(5))
        self.box = widgets.VBox([
            self.files, self.table, self.create, self.key, self.candidates, self.max_rejects,
            widgets.HBox([self.plan_button, self.load_button]), self.message,
            self.overlap, self.planned, self.loading, self.rejects, self.rows,
        ])  # fmt: skip
        self.result: LoadResult | None = None
        self.work = Background(self._show_error)
        self._fixes: Fixes | None = None  # of the rows that `result` rejected
        self.plan_button.on_click(self.plan)
        self.load_button.on_click(self.load)
        for chosen in (self.table, self.files):
            chosen.observe(self._suggest_keys, "value")
        self.work.begin("tables", lambda: self._ask(candidates.list_tables), self._offer_tables)
        self._suggest_keys()

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.box)  # type: ignore[no-untyped-call]

    # --- choosing -----------------------------------------------------------------------------------------------------

    def _offer_tables(self, names: list[str]) -> None:
        self.table.options = names

    def _suggest_keys(self, *_: Any) -> None:
        table, files = self.table.value.strip(), self.files.value

        def find() -> list[candidates.KeyCandidate]:
            of_table = self._ask(lambda connection: candidates.keys_of_table(connection, table)) if table else []
            return of_table or (candidates.keys_of_file(files[0], self._read, self._config) if files else [])

        self.work.begin("keys", find, self._offer_keys)

    def _offer_keys(self, found: list[candidates.KeyCandidate]) -> None:
        names = [", ".join(item.columns) for item in found]
        is_ours = self.key.value in ("", *self.key.options)
        self.key.options = names
        if names and is_ours:
            self.key.value = names[0]
        items = "".join(
            f"<li><code>{escape(name)}</code>: {escape(item.reason)}</li>"
            for name, item in zip(names[:5], found, strict=False)
        )
        self.candidates.value = f"<details><summary>candidates for the key</summary><ul>{items}</ul></details>"

    def _spec(self) -> LoadSpec:
        key = [name.strip() for name in self.key.value.split(",") if name.strip()]
        if not self.files.value or not self.table.value.strip() or not key:
            raise UsageError("choose at least one file, a table and a key")
        return load_spec(
            self.table.value.strip(), key, read=self._read, create_table=self.create.value,
            max_rejects=self.max_rejects.value,
        )  # fmt: skip

    # --- overlap and plan ---------------------------------------------------------------------------------------------

    def plan(self, *_: Any) -> None:
        """Find the overlap and the plan of a load."""

        def find(spec: LoadSpec, files: list[str]) -> tuple[Plan, KeyOverlap]:
            processor = ConflictAwareProcessor(self._dsn, config=self._config)
            plan = processor.forecast(files, spec)
            return plan, plan.overlap or processor.measure(files, spec)

        self._begin("plan", "Reading the keys of all files …", find, lambda found: self._show_plan(*found))

    def _show_plan(self, plan: Plan, overlap: KeyOverlap) -> None:
        drawn, keys = OverlapMap.of(overlap), widgets.HTML()

        def look(change: Any) -> None:
            left, right = change["new"]
            keys.value = "<p>Looking …</p>"
            sample = lambda: sample_shared_keys(overlap, left, right, self._read, self._config)  # noqa: E731
            self.work.begin("sample", sample, lambda found: setattr(keys, "value", _samples_html(found, overlap.key)))

        drawn.observe(look, "chosen")
        self.overlap.children = (drawn, keys)
        reasons, *tables = plan_blocks(plan)
        self.planned.children = (
            widgets.HTML(to_html([reasons])),
            _folded("predicted outcome, lanes, and the overlap in numbers", to_html(tables)),
        )

    # --- load ---------------------------------------------------------------------------------------------------------

    def load(self, *_: Any) -> None:
        """Load the chosen files."""

        def run(spec: LoadSpec, files: list[str]) -> LoadResult:
            return self._load(files, spec)

        self._begin("load", "", run, self._show_result)

    def _load(self, files: Sequence[str], spec: LoadSpec) -> LoadResult:
        stop = Stop()
        with Card(stop, in_box=True) as card:
            self.loading.children = (card.box,)
            return ConflictAwareProcessor(self._dsn, config=self._config, on_event=card).load(list(files), spec, stop)

    def _show_result(self, result: LoadResult) -> None:
        self.result = result
        self._fixes = Fixes(result, [result.run_id], self._place, connection_string(self._dsn), self._ask, self._load)
        self.loading.children = (*self.loading.children, _folded("what happened to the rows", result_html(result)))
        places = {name: position for position, name in enumerate(result.files)}
        found = self._ask(lambda connection: read_rejects(connection, result.run_id))
        self._show_rejects([split_row(row, header, places.get(row.file, 0)) for row, header in found])
        self._show_rows(result.table)

    # --- rejected rows ------------------------------------------------------------------------------------------------

    def _show_rejects(self, rows: Sequence[FixableRow], notes: Sequence[str] = ()) -> None:
        self.rejects.children = show_rejects(rows, notes, lambda grids: self.load_fixed(grids, rows))

    def load_fixed(self, grids: Sequence[RejectsGrid], rows: Sequence[FixableRow]) -> None:
        """Load the rows that were changed, as far as no later row of the run has their key."""

        def run(spec: LoadSpec, _: list[str]) -> tuple[list[FixableRow], list[str]]:
            changed = [row for grid in grids for row in grid.fixed()]
            if not changed:
                raise UsageError("no cell has been changed")
            assert self._fixes is not None
            return self._fixes.load(changed, rows, spec)

        self._begin("load", "", run, lambda done: self._show_fixed(*done))

    def _show_fixed(self, left: Sequence[FixableRow], notes: Sequence[str]) -> None:
        self._show_rejects(left, notes)
        assert self.result is not None
        self._show_rows(self.result.table)

    # --- explain ------------------------------------------------------------------------------------------------------

    def _show_rows(self, table: str) -> None:
        """Offer rows of the table; the one that is chosen is explained."""
        key = self._spec().key
        shown = self._ask(lambda connection: list_rows(connection, table, key), is_printing=True)
        options = [(", ".join(value or "NULL" for value in values.values()), n) for n, values in enumerate(shown)]
        choice = widgets.Select(
            options=options, value=None, rows=min(10, max(2, len(options))), description="row", style=_WIDE,
            layout=widgets.Layout(width="46rem"),
        )  # fmt: skip
        other = widgets.Text(placeholder=", ".join(key), description="or its key", style=_WIDE, continuous_update=False)
        explained = widgets.HTML()

        def begin(texts: dict[str, str]) -> None:
            explained.value = "<p>Reading the files of the latest runs …</p>"
            find = lambda: explain(connection_string(self._dsn), table, texts)  # noqa: E731
            self.work.begin("explain", find, lambda found: setattr(explained, "value", found._repr_html_()))

        choice.observe(lambda change: begin({name: str(shown[change["new"]][name]) for name in key}), "value")
        other.observe(lambda change: begin(_texts_of_key(key, change["new"])), "value")
        title = widgets.HTML(f"<p><b>Why is a row of {escape(table)} as it is?</b> Choose one, or type its key.</p>")
        self.rows.children = (title, choice, other, explained)

    # --- all of it ----------------------------------------------------------------------------------------------------

    def _begin(
        self, subject: str, words: str, work: Callable[[LoadSpec, list[str]], Any], then: Callable[[Any], None]
    ) -> None:
        """Do what a button asks for; the buttons wait for it, the kernel does not."""
        try:
            spec = self._spec()
        except UsageError as error:
            self._show_error(error)
            return
        files = list(self.files.value)
        buttons = (self.plan_button, self.load_button)
        self._say(escape(words))

        def free() -> None:
            for button in buttons:
                button.disabled = False

        def show(found: Any) -> None:
            self._say("")
            then(found)

        for button in buttons:
            button.disabled = True
        self.work.begin(subject, lambda: work(spec, files), show, free)

    def _ask(self, question: Callable[[Any], Any], *, is_printing: bool = False) -> Any:
        sessions = Sessions(connection_string(self._dsn), self._config, "workbench")
        try:
            return sessions.ask("workbench", question, is_printing=is_printing)
        finally:
            sessions.close_idle()

    def _say(self, html: str) -> None:
        self.message.value = html

    def _show_error(self, error: Exception) -> None:
        words = str(error) if isinstance(error, EtlError) else f"{type(error).__name__}: {error}"
        self._say(f'<p role="alert" style="color:#c62828">{escape(in_python_words(words))}</p>')


def _folded(title: str, html: str) -> Any:
    return widgets.HTML(f"<details><summary>{escape(title)}</summary>{html}</details>")


def _texts_of_key(key: Sequence[str], text: str) -> dict[str, str]:
    values = [value.strip() for value in text.split(",")] if len(key) > 1 else [text.strip()]
    return dict(zip(key, [*values, *[""] * len(key)], strict=False))


def _samples_html(found: Sequence[SharedKey], key: Sequence[str]) -> str:
    rows: list[list[Cell]] = [
        [", ".join(item.key), ", ".join(Path(name).name for name in item.files), Path(item.files[-1]).name]
        for item in found
    ]
    return (
        table_html(Table("Some keys that the two files share", [", ".join(key), "in", "winner"], rows)) if rows else ""
    )
