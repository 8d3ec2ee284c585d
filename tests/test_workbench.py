"""The workbench: what it offers, what it shows, and that a fixed row ends as if its file had been right from the start."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import connection as Connection

import etl_toolkit
from etl_toolkit import ConflictAwareProcessor, ParallelConfig, ingest
from etl_toolkit.clusters import order_files
from etl_toolkit.errors import UsageError
from etl_toolkit.lab import candidates
from etl_toolkit.lab.fixing import split_row, write_rows
from etl_toolkit.lab.samples import sample_shared_keys
from etl_toolkit.model import FileKeys, KeyOverlap, ReadOptions, RejectedRow

# ipywidgets asks traitlets for what it calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SALES = 'order_id,n,note\n1,1,a\n2,two,"x, y"\n3,3,\n4,four,old\n'
LATER = "order_id,n,note\n1,10,b\n4,40,b\n5,5,c\n"


@pytest.fixture
def drops(tmp_path: Path) -> Path:
    place = tmp_path / "drops"
    place.mkdir()
    (place / "a.csv").write_text(SALES)
    (place / "b.csv").write_text(LATER)
    (place / "notes.md").write_text("not to be loaded")
    return place


@pytest.fixture
def bench(drops: Path, database: str, connection: Connection) -> Any:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE orders (order_id bigint PRIMARY KEY, n integer, note text)")
    made = etl_toolkit.workbench(drops, database)
    made.table.value = "orders"
    made.work.join()
    return made


def rows_of(connection: Connection) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT order_id, n, note FROM orders ORDER BY 1")
        return cursor.fetchall()


def test_files_tables_and_keys_are_offered(bench: Any) -> None:
    assert [Path(name).name for name in bench.files.value] == ["a.csv", "b.csv"]
    assert bench.table.options == ("orders",)
    assert (bench.key.options, bench.key.value) == (("order_id",), "order_id")
    assert "primary key of orders" in bench.candidates.value


def test_a_file_suggests_columns_without_repetition_those_named_like_a_key_first(drops: Path) -> None:
    (drops / "c.csv").write_text("name,kind,order_id\nx,1,1\ny,1,2\n")
    found = candidates.keys_of_file(str(drops / "c.csv"), ReadOptions(), ParallelConfig())
    assert [item.columns for item in found] == [("order_id",), ("name",)]


def test_a_plan_shows_its_reasons_and_a_click_on_the_map_the_keys_and_their_winner(bench: Any) -> None:
    bench.plan()
    bench.work.join()
    drawn, keys = bench.overlap.children
    assert (drawn.order, drawn.pairs) == ([0, 1], [[0, 1, 2]])
    assert "2 of 5 keys (40%) appear in more than one file" in bench.planned.children[0].value
    drawn.chosen = [0, 1]
    bench.work.join()
    assert keys.value.count(">b.csv<") == 2


def test_buttons_never_wait_for_the_work(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def forecast(*_: Any) -> Any:
        go_on.wait(30)
        raise UsageError("nothing to plan")

    monkeypatch.setattr(ConflictAwareProcessor, "forecast", forecast)
    bench.plan()  # returns while the plan is under way
    assert bench.load_button.disabled
    go_on.set()
    bench.work.join()
    assert not bench.load_button.disabled
    assert "nothing to plan" in bench.message.value


def test_a_fixed_row_is_loaded_and_one_that_a_later_row_beats_is_not(bench: Any, connection: Connection) -> None:
    """The control is the load of files that were right from the start."""
    bench.load()
    bench.work.join()
    assert "Loaded into public.orders: 7 rows read, 4 written" in bench.loading.children[0].children[0].value
    (grid,) = [item for item in bench.rejects.children if hasattr(item, "changes")]
    assert [row["place"] for row in grid.rows] == ["a.csv, line 3", "a.csv, line 5"]
    assert grid.rows[0]["cells"] == ["2", "two", '"x, y"']
    grid.changes = {"0-1": "2", "1-1": "4"}
    bench.rejects.children[-1].click()
    bench.work.join()
    said = bench.rejects.children[0].value
    assert "a.csv, line 5: not loaded, because b.csv, line 3 has the same key and is later: it wins" in said
    assert "1 of 1 fixed rows written" in said
    fixed = rows_of(connection)
    (Path(bench.files.value[0])).write_text(SALES.replace("two", "2").replace("four", "4"))
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE orders")
    ingest(list(bench.files.value), "orders", "order_id", bench._dsn)
    assert fixed == rows_of(connection)


def test_fixed_rows_are_refused_after_another_run(bench: Any, connection: Connection) -> None:
    bench.load()
    bench.work.join()
    ingest([bench.files.value[1]], "orders", "order_id", bench._dsn)
    (grid,) = [item for item in bench.rejects.children if hasattr(item, "changes")]
    grid.changes = {"0-1": "2"}
    bench.rejects.children[-1].click()
    bench.work.join()
    assert "another run has loaded into public.orders since" in bench.message.value
    assert 2 not in [row[0] for row in rows_of(connection)]


def test_a_row_of_the_table_is_explained_with_file_and_line_and_what_it_beat(bench: Any) -> None:
    bench.load()
    bench.work.join()
    _, choice, _, told = bench.rows.children
    choice.value = 0
    bench.work.join()
    assert "b.csv, line 2" in told.value
    assert "won: the last row of the last file wins" in told.value
    assert "a.csv, line 2" in told.value


def test_a_mistake_is_shown_and_changes_nothing(bench: Any, connection: Connection) -> None:
    bench.max_rejects.value = 0
    bench.load()
    bench.work.join()
    assert "max_rejects" in bench.message.value
    assert rows_of(connection) == []
    bench.table.value = ""
    bench.plan()
    assert "choose at least one file, a table and a key" in bench.message.value


def test_an_empty_place_and_a_missing_package_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no CSV or Parquet files there"):
        etl_toolkit.workbench(tmp_path)
    monkeypatch.setitem(sys.modules, "etl_toolkit.lab.view", None)
    with pytest.raises(UsageError, match=r"pip install 'etl-toolkit\[notebooks\]'"):
        etl_toolkit.workbench(tmp_path)


@pytest.mark.parametrize(
    ("header", "raw", "cells", "changed", "line"),
    [
        ("a,b", '1,"x, ""y"""', ["1", '"x, ""y"""'], {0: "2"}, '2,"x, ""y"""'),
        ("a,b", '1,""', ["1", '""'], {0: "2"}, '2,""'),
        ("a;b", "1;2,5", ["1", "2,5"], {1: "2;5"}, '1;"2;5"'),
        ("a,b", "1", ["1", ""], {1: "x"}, "1,x"),
        ("a,b", "1,2,3", ["1", "2", "3"], {2: ""}, "1,2"),
        ("a", "x", ["x"], {0: 'say "y"'}, '"say ""y"""'),
    ],
)
def test_cells_keep_what_was_not_changed_as_the_file_has_it(
    tmp_path: Path, header: str, raw: str, cells: list[str], changed: dict[int, str], line: str
) -> None:
    row = split_row(RejectedRow("dt=2024-01-01/f.csv", 0, 2, "", "", raw), header, 0)
    assert list(row.cells) == cells
    fixed = row.with_cells([changed.get(n, cell) for n, cell in enumerate(cells)])
    (path,) = write_rows([fixed], tmp_path)
    assert path.parent == tmp_path / "dt=2024-01-01"
    assert path.read_text() == f"{header}\n{line}\n"


def test_files_that_share_keys_lie_side_by_side_on_the_map() -> None:
    """320 files: every eighth one belongs together, and neighbours among them share most."""
    count, kinds = 320, 8
    files = tuple(FileKeys(n, f"{n}.csv", 100, 100) for n in range(count))
    pairs = {(a, b): 100 // ((b - a) // kinds) for a in range(count) for b in range(a + kinds, count, kinds)}
    groups = tuple(tuple(range(kind, count, kinds)) for kind in range(kinds))
    ordered = order_files(KeyOverlap(files, 1, 1, (), pairs, groups))
    assert sorted(ordered) == list(range(count))
    assert ordered == [n for group in groups for n in group]


def test_sample_keys_name_every_later_file_that_has_them(drops: Path) -> None:
    (drops / "c.csv").write_text("order_id,n,note\n4,41,c\n9,9,\n")
    files = [str(drops / name) for name in ("a.csv", "b.csv", "c.csv")]
    overlap = ConflictAwareProcessor().analyze(files, key="order_id")
    for known in (overlap, replace(overlap, pairs={})):  # as where there are too many pairs to be listed
        found = sample_shared_keys(known, 0, 1, ReadOptions(), ParallelConfig())
        assert [(item.key, [Path(name).name for name in item.files]) for item in found] == [
            (("1",), ["a.csv", "b.csv"]),
            (("4",), ["a.csv", "b.csv", "c.csv"]),
        ]
