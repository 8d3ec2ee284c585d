"""JupyterLab itself, in a real browser: open a notebook, run all its cells, see the charts, move a slider."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import chromium, needs_chromium, watched
from tests.report_records import write_run

pytestmark = [pytest.mark.browser, needs_chromium, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

# Galata is JupyterLab's own test harness; its configuration lets `window.jupyterapp` drive the application.
CONFIGURATION = """
from jupyterlab.galata import configure_jupyter_server

configure_jupyter_server(c)
c.ServerApp.port = {port}
c.ServerApp.root_dir = {root!r}
c.ServerApp.allow_root = True
c.ServerApp.disable_check_xsrf = False
c.IdentityProvider.token = {token!r}
c.LabApp.news_url = None
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
c.KernelManager.transport = "ipc"
"""
OPEN = "path => window.jupyterapp.commands.execute('docmanager:open', { path })"
RUN_ALL = "() => window.jupyterapp.commands.execute('notebook:run-all-cells')"
IS_READY = """() => {
  const panel = window.jupyterapp.shell.currentWidget;
  const kernel = panel?.sessionContext?.session?.kernel;
  return panel?.isVisible && kernel?.connectionStatus === 'connected' && kernel?.status === 'idle';
}"""
PENDING = """() => {
  const cells = window.jupyterapp.shell.currentWidget.content.widgets.filter(cell => cell.model.type === 'code');
  return cells.filter(cell => cell.model.sharedModel.source && !cell.model.executionCount).length;
}"""
ERRORS = """() => window.jupyterapp.shell.currentWidget.content.widgets
  .filter(cell => cell.model.type === 'code')
  .flatMap(cell => cell.model.outputs.toJSON()).filter(output => output.output_type === 'error')
  .map(output => output.ename + ': ' + output.evalue)"""
SCROLL = "index => window.jupyterapp.shell.currentWidget.content.scrollToItem(index)"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, dsn: str) -> Iterator[str]:
    """The address of a JupyterLab over a copy of our notebooks, with the test server in its environment."""
    root = tmp_path_factory.mktemp("lab")
    shutil.copytree(Path(__file__).parents[1] / "notebooks", root / "notebooks")
    write_run(root / "runs" / "made-up")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    configuration = tmp_path_factory.mktemp("config") / "jupyter_server_config.py"
    configuration.write_text(CONFIGURATION.format(port=port, root=str(root), token=token))
    environment = {**os.environ, "ETL_DSN": dsn, "JUPYTER_CONFIG_DIR": str(configuration.parent)}
    log = (root / "lab.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "jupyter", "lab", "--no-browser", f"--config={configuration}"],
        env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=root,
    )  # fmt: skip
    try:
        _wait_until_up(f"http://127.0.0.1:{port}/api?token={token}", root / "lab.log")
        yield f"http://127.0.0.1:{port}/lab?token={token}&reset"
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def _wait_until_up(address: str, log: Path) -> None:
    for _ in range(480):
        try:
            urllib.request.urlopen(address, timeout=2).close()  # noqa: S310
        except (urllib.error.URLError, OSError):
            time.sleep(0.25)
        else:
            return
    pytest.fail(f"JupyterLab did not start: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def page(browser: Any, lab: str) -> Iterator[Any]:
    with watched(browser, viewport={"width": 1280, "height": 900}) as seen:
        seen.page.set_default_timeout(90_000)
        seen.page.goto(lab)
        seen.page.wait_for_function("() => window.jupyterapp && window.jupyterapp.restored")
        seen.page.evaluate("() => window.jupyterapp.restored")
        yield seen.page
        outside = [
            url
            for url in seen.requests
            if not url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:"))
        ]
        assert outside == []


def run_all(page: Any, name: str) -> None:
    """Open a notebook and run it to its end, as a reader does."""
    page.evaluate(OPEN, f"notebooks/{name}.ipynb")
    page.wait_for_function(IS_READY)
    page.evaluate(RUN_ALL)
    page.wait_for_function(f"() => ({PENDING})() === 0 && ({IS_READY})()")
    assert page.evaluate(ERRORS) == []


def keep(page: Any, name: str) -> None:
    if place := os.environ.get("ETL_SCREENSHOTS"):
        Path(place).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(place) / f"lab-{name}.png")


def test_notebook_01_runs_as_it_is_and_shows_the_matrix_and_the_plan(page: Any) -> None:
    run_all(page, "01_key_overlap")
    page.evaluate(SCROLL, 5)
    page.get_by_role("img", name="Keys shared by two files").wait_for()
    keep(page, "01-matrix")
    page.evaluate(SCROLL, 8)
    page.get_by_text("Plan: partitioned").first.wait_for()
    keep(page, "01-plan")


def test_notebook_04_runs_as_it_is_and_shows_the_charts(page: Any) -> None:
    run_all(page, "04_parallel_upsert_analysis")
    page.evaluate(SCROLL, 5)
    chart = page.get_by_role("img", name="Thousand rows per second").first
    chart.wait_for()
    box = chart.bounding_box()
    assert box["width"] > 300
    assert box["height"] > 150
    keep(page, "04-throughput")
    page.evaluate(SCROLL, 14)
    page.get_by_text("all 12 loads by auto left exactly the rows of a sequential load").last.wait_for()


def test_a_button_of_explore_shows_another_stored_result(page: Any) -> None:
    run_all(page, "explore")
    page.evaluate(SCROLL, 2)
    page.get_by_text("auto", exact=True).first.wait_for()
    page.get_by_text("4 × 1,000 rows CSV, 0% overlap, empty table, 2 workers").first.wait_for()
    keep(page, "explore-before")
    page.get_by_role("button", name="50%").first.click()
    page.get_by_text("4 × 1,000 rows CSV, 50% overlap, empty table, 2 workers").first.wait_for()
    keep(page, "explore-after")


# --- the card of a load ------------------------------------------------------------------------------------------------

SAVE = """([path, source]) => window.jupyterapp.serviceManager.contents.save(path, {
  type: 'notebook', format: 'json', content: {
    nbformat: 4, nbformat_minor: 5, metadata: { kernelspec: { name: 'python3', display_name: 'Python 3', language: 'python' } },
    cells: [{ id: 'load', cell_type: 'code', metadata: {}, outputs: [], execution_count: null, source }],
  },
})"""
SOON_MILLISECONDS = 15_000  # the load would take a quarter of an hour
INTERRUPT = "() => window.jupyterapp.commands.execute('notebook:interrupt-kernel')"
START = "() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }"  # and do not wait for its end
SLOW_LOAD = """
import os
from pathlib import Path
import psycopg2
from etl_toolkit import ConflictAwareProcessor, ingest
dsn = os.environ["ETL_DSN"]
with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
    cursor.execute("DROP TABLE IF EXISTS carded; CREATE TABLE carded (id bigint PRIMARY KEY, value text)")
    cursor.execute("CREATE OR REPLACE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
                   "'BEGIN PERFORM pg_sleep(0.01); RETURN NEW; END'")
    cursor.execute("CREATE TRIGGER slow BEFORE INSERT ON carded FOR EACH ROW EXECUTE FUNCTION slow()")
connection.close()
Path("carded.csv").write_text("id,value\\n" + "".join(f"{n},{n}\\n" for n in range(ROWS)))
result = CALL
"""
BLOCKING = "ingest('carded.csv', 'carded', 'id', dsn)"
AWAITED = "await ConflictAwareProcessor(dsn).process_with_strategy('carded.csv', 'carded', 'id')"


def run_cell(page: Any, rows: int, call: str) -> None:
    page.evaluate(SAVE, ["card.ipynb", SLOW_LOAD.replace("ROWS", str(rows)).replace("CALL", call)])
    page.evaluate(OPEN, "card.ipynb")
    page.wait_for_function(IS_READY, timeout=180_000)
    page.evaluate(START)


@pytest.mark.parametrize("call", [BLOCKING, AWAITED], ids=["blocking", "awaited"])
def test_the_button_of_a_card_and_an_interrupt_stop_the_load_at_once(page: Any, call: str) -> None:
    for way in ("button", "interrupt"):
        run_cell(page, 100_000, call)
        page.get_by_text("worker 1: file 1").last.wait_for()
        keep(page, f"card-{way}")
        if way == "button":
            page.locator("button", has_text="Stop").last.click()
        else:
            page.evaluate(INTERRUPT)
        page.get_by_text("The load into carded was stopped").last.wait_for(timeout=SOON_MILLISECONDS)
        page.wait_for_function(IS_READY)
        assert len(page.evaluate(ERRORS)) == 1
        keep(page, f"card-{way}-stopped")


def test_the_card_becomes_the_outcome(page: Any) -> None:
    run_cell(page, 100, BLOCKING)
    page.get_by_text("Loaded into public.carded: 100 rows read, 100 written").last.wait_for()
    page.wait_for_timeout(500)
    keep(page, "card-outcome")


# --- the workbench -----------------------------------------------------------------------------------------------------

WORKBENCH = """
import os
from pathlib import Path
import etl_toolkit
import psycopg2
dsn = os.environ["ETL_DSN"]
with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
    cursor.execute("DROP TABLE IF EXISTS orders; CREATE TABLE orders (order_id bigint PRIMARY KEY, n integer, note text)")
connection.close()
Path("drops").mkdir()
Path("drops/a.csv").write_text("order_id,n,note\\n1,1,a\\n2,two,x\\n3,3,\\n")
Path("drops/b.csv").write_text("order_id,n,note\\n1,10,b\\n5,5,c\\n")
etl_toolkit.workbench("drops", dsn)
"""


def test_the_workbench_leads_from_files_to_rows_that_are_explained(page: Any) -> None:
    page.evaluate(SAVE, ["workbench.ipynb", WORKBENCH])
    page.evaluate(OPEN, "workbench.ipynb")
    page.wait_for_function(IS_READY)
    page.evaluate(START)
    table = page.get_by_placeholder("name or schema.name")
    table.fill("orders")
    table.press("Enter")
    page.get_by_text("candidates for the key").wait_for()
    page.locator("button", has_text="Plan").click()
    drawn = page.get_by_role("img", name="1 of 4 distinct keys appear in more than one of 2 files")
    drawn.press("ArrowRight")
    drawn.press("ArrowRight")
    page.get_by_text("a.csv and b.csv: 1 shared key").wait_for()
    drawn.press("Enter")
    page.get_by_text("Some keys that the two files share").wait_for()
    keep(page, "workbench-map")
    page.locator("button", has_text="Load").first.click()
    page.get_by_text("Loaded into public.orders: 5 rows read, 3 written").wait_for()
    page.get_by_role("textbox", name="n, a.csv, line 3").fill("2")
    keep(page, "workbench-rejects")
    page.locator("button", has_text="Load fixed rows").click()
    page.get_by_text("1 of 1 fixed rows written").wait_for()
    page.locator("select", has_text="2, 2, x").select_option(label="1, 10, b")
    page.get_by_text("lost to drops/b.csv, record 1").wait_for()
    keep(page, "workbench-explained")
