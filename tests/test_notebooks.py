"""The notebooks as files, and every one of them run by our driver with its smallest parameters on a real server."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit.errors import UsageError
from etl_toolkit.model import FileKeys, KeyOverlap
from etl_toolkit.reporting import notebooks, overlap_map
from etl_toolkit.reporting.explore import Explorer
from tests.report_records import write_run
from tests.test_stopping import SLOW_LOOK, SLOW_QUERY, SOON_SECONDS

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
NAMES = [
    "01_key_overlap", "02_ingest_walkthrough", "03_benchmark_sweep", "04_parallel_upsert_analysis", "05_compare_runs",
    "explore",
]  # fmt: skip
SQL = re.compile(r"\b(SELECT|INSERT INTO|UPDATE \w+ SET|CREATE (TABLE|SCHEMA)|DROP|ALTER|TRUNCATE|COPY)\b")
every_notebook = pytest.mark.parametrize("name", NAMES)

# jupyter_client, nbclient and their friends: not ours to mend.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def read(name: str) -> Any:
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def code(notebook: Any) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


# --- as files ---------------------------------------------------------------------------------------------------------


def test_these_are_all_notebooks() -> None:
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == NAMES


def test_notebooks_hold_no_outputs_and_nbstripout_agrees() -> None:
    paths = [NOTEBOOKS / f"{name}.ipynb" for name in NAMES]
    done = subprocess.run([sys.executable, "-m", "nbstripout", "--verify", *paths], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert all(not cell.get("outputs") for name in NAMES for cell in read(name).cells)


@every_notebook
def test_a_notebook_is_short_and_its_logic_lives_in_the_package(name: str) -> None:
    notebook = read(name)
    assert len(notebook.cells) <= 15
    for source in code(notebook):
        assert not SQL.search(source)
        assert not re.search(r"^\s*(async )?def |\blambda\b|^\s*class ", source, re.MULTILINE)


@every_notebook
def test_a_notebook_says_what_it_asks_takes_and_gives_and_ends_with_the_answer(name: str) -> None:
    notebook = read(name)
    first = notebook.cells[0].source
    assert notebook.cells[0].cell_type == "markdown"
    assert [word for word in ("**Question.**", "**Input.**", "**Output.**") if word not in first] == []
    assert notebook.cells[-1].cell_type == "code"


@every_notebook
def test_parameters_are_in_one_tagged_cell_with_plain_types_and_a_comment_each(name: str) -> None:
    tagged = [cell for cell in read(name).cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    for line in tagged[0].source.splitlines():
        assert re.match(r"\w+: (str|int|float|bool|list\[(str|int|float)\]) = .*", line), line
        assert "  # " in line or len(line) > 80, line
    declared = notebooks.declared(NOTEBOOKS / f"{name}.ipynb")
    assert len(declared) == len(ast.parse(tagged[0].source).body)
    assert not any("dsn" in parameter for parameter in declared)


def test_notebook_04_opens_no_database() -> None:
    assert "dsn" not in "".join(code(read("04_parallel_upsert_analysis")))


# --- run --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory to run in, with the server in the environment, as a user has it."""
    monkeypatch.setenv("ETL_DSN", database)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(name: str, place: Path, **parameters: Any) -> Any:
    done = notebooks.run(name, parameters, place / "out" / f"{name}.ipynb", cwd=place)
    assert done, done.error
    return done.notebook


def shown(notebook: Any, kind: str = "text/html") -> str:
    """Everything the cells of a notebook showed, of one kind."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join(output.get("data", {}).get(kind, output.get("text", "")) for output in outputs)


def test_01_shows_shared_keys_winners_and_the_plan(place: Path) -> None:
    notebook = run("01_key_overlap", place, rows_per_file=100)
    html = shown(notebook)
    assert "Keys that appear in exactly these files, and which file wins" in html
    assert html.count("<svg") == 1
    assert "Plan: partitioned" in html
    assert "250 of 350 distinct keys appear in more than one of 6 files" in html


def test_01_takes_the_users_own_files_and_needs_no_table(place: Path) -> None:
    (place / "a.csv").write_text("code,n\nx,1\ny,2\n")
    (place / "b.csv").write_text("code,n\ny,3\n")
    notebook = run("01_key_overlap", place, files=["a.csv", "b.csv"], key=["code"])
    assert "1 of 2 distinct keys appear in more than one of 2 files" in shown(notebook)


def test_02_loads_alike_with_every_strategy_and_auto_writes_nothing_again(place: Path) -> None:
    notebook = run("02_ingest_walkthrough", place, rows_per_file=60)
    html = shown(notebook)
    assert "5 strategies loaded 360 rows and left the same rows in every table." in html
    assert "Rows written by the same load again: auto 0, partitioned 0, hybrid 3" in html
    assert "the tables are the same." in html
    assert "full_parallel declined: full_parallel is not safe here" in html
    assert "won: the last row of the last file wins" in html
    assert "tqdm" not in html
    assert ": 360 rows read" in html  # what the card of the first load has become


def test_03_sweeps_and_04_and_explore_read_what_it_left(place: Path) -> None:
    parameters: dict[str, Any] = {
        "run_directory": "runs/tiny", "strategies": ["partitioned", "staged_merge"], "overlaps": [0.5],
        "table_states": ["empty"], "workers": [1], "rows_per_file": 50, "files": 2, "rounds": 1, "demonstrations": False,
    }  # fmt: skip
    swept = shown(run("03_benchmark_sweep", place, **parameters))
    # One timed run and one for the curves, each with its answer checked.
    assert "all 2 loads by <code>partitioned</code> left exactly the rows of a sequential load" in swept
    assert "<code>partitioned</code> is " in swept  # … as fast as; a wrong run is compared with nothing
    assert "[4/4, 0 s left]" in swept
    analysed = shown(run("04_parallel_upsert_analysis", place))
    assert 'id="finding"' in analysed
    assert "8 of 8" not in analysed
    explored = run("explore", place)
    assert "2 cases of run" in shown(explored)
    assert "widget-view+json" in str(explored.cells[2].outputs)


def test_loads_behind_a_chart_or_a_race_show_no_card() -> None:
    """Else notebook 03 shows forty of them, the refused ones in red."""
    loads = [
        node
        for room in ("bench", "reporting")
        for path in (Path(notebooks.__file__).parents[1] / room).glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "ingest"
    ]
    assert loads
    assert [ast.unparse(load) for load in loads if "progress=False" not in ast.unparse(load)] == []


def test_01_shows_the_matrix_of_shared_keys_once(place: Path) -> None:
    html = shown(run("01_key_overlap", place, rows_per_file=100))
    assert (html.count("Keys shared by two files:"), html.count("Keys that two files share")) == (1, 1)


def test_05_as_it_is_compares_the_two_latest_runs_or_the_only_one_with_itself(place: Path) -> None:
    write_run(place / "runs" / "first")
    assert "0 slower; no difference shown in" in shown(run("05_compare_runs", place))


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_running_notebooks_leaves_the_repository_clean(tmp_path: Path) -> None:
    """`make lab` sets up the filter that `.gitattributes` names; the control is the same repository without it."""
    shutil.copytree(NOTEBOOKS, tmp_path / "notebooks", ignore=shutil.ignore_patterns("runs", "build", ".*"))
    shutil.copy(NOTEBOOKS.parent / ".gitattributes", tmp_path)

    def git(*words: str) -> str:
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    git("init")
    git("add", ".")
    git("commit", "-m", "as shipped")
    for path in (tmp_path / "notebooks").glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.execution_count = 1
                cell.outputs = [nbformat.v4.new_output("stream", text="out")]
        notebook.metadata.language_info = {"name": "python", "version": "3.99", "mimetype": "text/x-python"}
        nbformat.write(notebook, path)
    without = git("status", "--porcelain")
    setting = re.search(r"git config (filter\S+) '\$\(BIN\)/python (.*)'", (NOTEBOOKS.parent / "Makefile").read_text())
    assert setting is not None
    git("config", setting[1], f"'{sys.executable}' {setting[2]}")
    git("add", "--renormalize", ".")
    assert (len(without.splitlines()), git("status", "--porcelain")) == (len(NAMES), "")


def test_05_says_which_cases_changed(place: Path) -> None:
    write_run(place / "before")
    write_run(place / "after")
    html = shown(run("05_compare_runs", place, before="before", after="after"))
    assert "0 slower; no difference shown in" in html
    assert html.count('<figure class="bars">') == 1


# --- the driver -------------------------------------------------------------------------------------------------------


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Notebooks that misbehave."""
    sources = {
        "90_raises": "print('before'); raise RuntimeError('no luck')",
        "91_is_killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "92_exits": "import sys; sys.exit(3)",
    }
    for name, source in sources.items():
        cells = [nbformat.v4.new_code_cell("print('first')"), nbformat.v4.new_code_cell(source)]
        cells.append(nbformat.v4.new_code_cell("print('last')"))
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / f"{name}.ipynb")
    monkeypatch.setattr(notebooks, "PLACES", (tmp_path,))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "words"),
    [("90", "RuntimeError: no luck"), ("91", "DeadKernelError: Kernel died"), ("92", "SystemExit: 3")],
)
def test_however_a_notebook_ends_that_is_an_outcome_which_the_notebook_holds(odd: Path, name: str, words: str) -> None:
    done = notebooks.run(name, {}, odd / "out.ipynb")
    assert done.status == "failed"
    assert words in done.error
    assert nbformat.read(odd / "out.ipynb", as_version=4).metadata["etl_toolkit"]["status"] == "failed"
    assert "first" in shown(done.notebook)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"rows_per_fil": 5}, "has no parameter 'rows_per_fil'; did you mean rows_per_file"),
        ({"dsn": "postgresql://u:secret@h/d"}, "has no parameter 'dsn'; it has"),
        ({"rows_per_file": "5"}, "rows_per_file is int, not '5'"),
        ({"rows_per_file": True}, "rows_per_file is int, not True"),
    ],
)
def test_a_wrong_parameter_is_refused_before_anything_runs(
    tmp_path: Path, parameters: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError) as refused:
        notebooks.run("01", parameters, tmp_path / "out.ipynb")
    assert words in str(refused.value)
    assert not (tmp_path / "out.ipynb").exists()


def test_the_executed_notebook_does_not_say_where_it_lay(place: Path) -> None:
    write_run(place / "run")
    notebook = run("explore", place, run_directory="run")
    assert str(place) not in nbformat.writes(notebook)


def test_an_unknown_notebook_is_refused_with_the_list() -> None:
    with pytest.raises(UsageError, match="choose 01_key_overlap, 02_ingest_walkthrough"):
        notebooks.find("99")


# --- in a kernel ------------------------------------------------------------------------------------------------------


@pytest.fixture
def kernel(place: Path) -> Iterator[Any]:
    from jupyter_client.manager import KernelManager

    manager = KernelManager(kernel_name="python3", transport="ipc")
    manager.start_kernel(cwd=str(place))
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


LOAD = """
import os
from pathlib import Path
from etl_toolkit import ConflictAwareProcessor, ingest
rows = "".join(f"{n},{n}\\n" for n in range(400_000))
Path("big.csv").write_text("id,value\\n" + rows)
dsn = os.environ["ETL_DSN"]
"""


def wait_for_reply(client: Any, message: str) -> dict[str, Any]:
    while True:
        reply: dict[str, Any] = client.get_shell_msg(timeout=120)
        if reply["parent_header"].get("msg_id") == message:
            return reply["content"]  # type: ignore[no-any-return]


def test_interrupting_a_cell_rolls_the_load_back(kernel: Any, connection: Connection) -> None:
    manager, client = kernel
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id bigint PRIMARY KEY, value text)")
        cursor.execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.001); RETURN NEW; END'"
        )
        cursor.execute("CREATE TRIGGER slow BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION slow()")
        wait_for_reply(client, client.execute(LOAD))
        message = client.execute("ingest('big.csv', 't', 'id', dsn, strategy='deterministic')")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
            if cursor.fetchone() != (0,):
                break
            time.sleep(0.05)
        manager.interrupt_kernel()
        reply = wait_for_reply(client, message)
        assert (reply["status"], reply.get("ename")) == ("error", "KeyboardInterrupt")
        cursor.execute("SELECT (SELECT count(*) FROM t), (SELECT status FROM etl_toolkit.runs)")
        assert cursor.fetchone() == (0, "interrupted")
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'etl_toolkit%' AND state <> 'idle'"
        )
        assert cursor.fetchone() == (0,)


AWAITED = "await ConflictAwareProcessor(dsn).process_with_strategy('big.csv', 't', ['id'])"
BLOCKING = "ingest('big.csv', 't', 'id', dsn)"


@pytest.mark.parametrize(
    ("call", "error"), [(AWAITED, "CancelledError"), (BLOCKING, "KeyboardInterrupt")], ids=["awaited", "blocking"]
)
@pytest.mark.parametrize("patch", [SLOW_LOOK, SLOW_QUERY], ids=["look", "read"])
def test_the_stop_button_ends_a_load_before_anything_is_written(
    kernel: Any, connection: Connection, call: str, error: str, patch: str
) -> None:
    manager, client = kernel
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id bigint PRIMARY KEY, value text)")
        wait_for_reply(client, client.execute(LOAD + patch))
        message = client.execute(call)
        time.sleep(2)
        began = time.monotonic()
        manager.interrupt_kernel()
        reply = wait_for_reply(client, message)
        assert time.monotonic() - began < SOON_SECONDS
        assert (reply["status"], reply.get("ename")) == ("error", error)
        cursor.execute("SELECT count(*) FROM t")
        assert cursor.fetchone() == (0,)


def test_awaited_and_blocking_loads_both_work_in_a_cell(kernel: Any, connection: Connection) -> None:
    _, client = kernel
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id bigint PRIMARY KEY, value text)")
        Path("a.csv").write_text("id,value\n1,a\n")
        cell = (
            "import os\nfrom etl_toolkit import ConflictAwareProcessor, ingest\nimport pandas as pd\n"
            "dsn = os.environ['ETL_DSN']\n"
            "assert await ConflictAwareProcessor(dsn).process_with_strategy(['a.csv'], 't', ['id'])\n"
            "assert ingest(pd.DataFrame({'id': [2], 'value': ['b']}), table='t', key=['id'], dsn=dsn)\n"
        )
        reply = wait_for_reply(client, client.execute(cell))
        assert reply["status"] == "ok", reply.get("evalue")
        cursor.execute("SELECT id, value FROM t ORDER BY id")
        assert cursor.fetchall() == [(1, "a"), (2, "b")]


def test_a_cell_is_watched_where_it_may_ask_for_input(kernel: Any) -> None:
    _, client = kernel
    for answers in (True, False):
        code = f"from etl_toolkit.observe.card import is_watched; assert is_watched() is {answers}"
        reply = wait_for_reply(client, client.execute(code, allow_stdin=answers))
        assert reply["status"] == "ok", reply.get("evalue")


def test_the_button_of_explore_measures_the_chosen_point(tmp_path: Path, database: str) -> None:
    explorer = Explorer(str(write_run(tmp_path / "run")), dsn=database)
    explorer.overlap.value, explorer.strategy.value = 0.5, "full_parallel"
    assert "refused" in explorer.words.value
    explorer.strategy.value = "deterministic"
    stored = explorer.words.value
    explorer.again.click()
    assert explorer.again.disabled, "the kernel is free while it measures"
    explorer.measuring.join(120)
    assert explorer.words.value != stored
    assert ">right<" in explorer.words.value
    assert not explorer.again.disabled


@pytest.mark.parametrize(("count", "has_digits"), [(12, True), (13, False), (320, False)])
def test_the_map_of_shared_keys_has_all_files_and_digits_where_they_can_be_read(
    count: int, *, has_digits: bool
) -> None:
    files = tuple(FileKeys(n, f"d/{n}.csv", 77_777, 77_777) for n in range(count))
    pairs = {(n, n + 1): 44_444 for n in range(0, count - 1, 2)}
    groups = tuple((n, n + 1) if n + 1 < count else (n,) for n in range(0, count, 2))
    figure = overlap_map.overlap_figure(KeyOverlap(files, count * 60_000, 1, (), pairs, groups, key=("id",)))
    assert figure is not None
    (panel,) = figure.panels
    assert (">44,444<" in panel.svg) is has_digits
    assert ("All 320 files are drawn" in figure.note) is (count == 320)
