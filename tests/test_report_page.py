"""The analysis page, its Markdown twin and its charts: what stands on it, and what must not."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import pytest

from etl_toolkit.bench import analysis, fit
from etl_toolkit.bench.workload import Workload
from etl_toolkit.bench.writing import write_json, write_manifest
from etl_toolkit.config import CostModel
from etl_toolkit.cost import predict
from etl_toolkit.errors import UsageError
from etl_toolkit.model import Strategy
from etl_toolkit.reporting import cases, distance, findings, notebooks, report, run_data, sections, speed, what_if
from etl_toolkit.reporting.content import Choices
from etl_toolkit.reporting.draw import spread
from etl_toolkit.reporting.palette import THEME, theme_css
from etl_toolkit.reporting.pictures import Bars, Figure
from etl_toolkit.reporting.run_data import RunData
from tests import bench_records as made
from tests.report_records import rendered, write_run

SECTIONS = [
    "Finding", "Limits", "Recommendation", "Throughput", "Shapes", "Distance from the best", "Memory and CPU over time", "Workers",
    "Where the time goes", "Which files share keys", "All results", "What if", "Race conditions", "Safety mechanisms",
    "Performance strategies", "Production settings", "Production checklist", "Environment", "How to reproduce", "Data",
]  # fmt: skip


class Tags(HTMLParser):
    """Every tag of a page with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rendered(tmp_path_factory.getbasetemp())[0]


@pytest.fixture(scope="module")
def data(run_directory: Path) -> RunData:
    return run_data.read(run_directory)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rendered(tmp_path_factory.getbasetemp())[1]


@pytest.fixture(scope="module")
def html(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def test_the_kernel_leaves_no_socket_in_the_current_directory(page: Path) -> None:
    assert page.exists()
    assert list(Path.cwd().glob("kernel-*")) == []  # named alike in every process, two at once would meet there


def test_the_sections_come_in_order_and_the_contents_list_leads_to_each(html: str) -> None:
    headings = re.findall(r'<h2 id="([^"]+)">(.*?)</h2>', html)
    assert [title for _, title in headings] == SECTIONS
    assert re.findall(r'<li><a href="#([^"]+)">(.*?)</a>', html) == headings


def test_the_page_asks_nobody_for_anything(html: str) -> None:
    scripts = [attributes for tag, attributes in Tags(html).found if tag == "script"]
    assert scripts.count({}) == 1, "the page's own script; the others are data"
    assert all(attributes in ({}, {"type": "application/json"}) for attributes in scripts)
    for tag, attributes in Tags(html).found:
        assert tag not in ("iframe", "object", "embed", "base")
        for name in ("src", "href", "xlink:href", "data", "srcset", "action"):
            assert re.match(r"#|data:", attributes.get(name) or "#"), (tag, attributes)
    styles = "".join(re.findall(r"<style.*?</style>", html, re.DOTALL))
    assert "@import" not in styles
    assert re.findall(r"url\((?!#)", html) == []


def test_the_page_is_small_enough(page: Path) -> None:
    assert page.stat().st_size < 3_000_000


def test_no_code_cell_is_on_the_page_and_no_style_for_jupyter(html: str) -> None:
    assert "run_data.read(" not in html
    assert "data-for" not in html


def test_every_drawing_has_a_text_that_states_numbers(html: str) -> None:
    tags = Tags(html).found
    drawings = sum(tag == "svg" for tag, _ in tags)
    told = [attributes["aria-label"] or "" for tag, attributes in tags if attributes.get("role") == "img"]
    assert drawings == len(told) > 20
    assert all(re.search(r"\d", text) and text.endswith(".") for text in told)


def test_ids_are_unique(html: str) -> None:
    ids = [attributes["id"] for _, attributes in Tags(html).found if attributes.get("id")]
    assert len(ids) == len(set(ids))


def test_text_from_outside_is_escaped(html: str) -> None:
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html
    assert "<b>cannot</b>" not in html


def test_scratch_directories_are_left_out_of_messages(data: RunData) -> None:
    shown = sections.results(data)._repr_html_()
    assert "/tmp/etl_toolkit-bench" not in shown
    assert "part1.csv" in shown


def test_colours_are_legible_in_light_and_dark() -> None:
    """WCAG contrast with the page: 4.5 for text, 3 for lines."""
    for name, pair in THEME.items():
        for color, paper in zip(pair, THEME["paper"], strict=True):
            if name not in ("paper", "grid"):
                assert contrast(color, paper) >= 4.5, (name, color)


def contrast(one: str, other: str) -> float:
    def luminance(color: str) -> float:
        parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_charts_follow_the_reader_and_hold_no_colour_of_their_own_for_text(data: RunData) -> None:
    figure = speed.throughput(data)
    assert isinstance(figure, Figure)
    svg = figure.panels[0].svg
    assert "#fe00" not in svg
    assert "var(--chart-ink)" in svg
    assert "prefers-color-scheme: dark" in theme_css()


def test_a_wrong_answer_is_never_drawn_as_speed(data: RunData) -> None:
    figure = speed.throughput(data)
    assert isinstance(figure, Figure)
    case = next(case for case in data.at(overlap=0.5) if case["strategy"] == "naive_parallel")
    assert case["runs"], "the control: one run of the case was right and has a time"
    assert "naive_parallel 3 at 0% only" in figure.panels[1].alt
    assert re.search(r"Not drawn:.*naive_parallel at 50%, 100% \(wrong rows\)", figure.note)
    assert re.search(r"full_parallel at 50%, 100% \(refused\)", figure.note)


def test_the_heat_map_says_refused_and_wrong_instead_of_a_number(data: RunData) -> None:
    figure = distance.ratio_map(data)
    assert figure is not None
    told = figure.panels[0].alt
    assert "100%: auto 1.00, partitioned 1.02" in told
    assert "full_parallel refused" in told
    assert "naive_parallel wrong rows" in told


def test_speed_up_is_time_with_the_fewest_workers_over_time_with_more(data: RunData) -> None:
    found, _ = speed.speed_ups(data)
    assert set(found) == {"partitioned", "hybrid", "staged_merge"}
    assert {workers: round(ratio.median, 3) for workers, ratio in found["hybrid"].items()} == {
        1: 1.0, 2: round(2**0.3, 3), 4: round(4**0.3, 3),
    }  # fmt: skip


def test_the_first_screen_is_a_badge_a_sentence_and_a_picture(data: RunData) -> None:
    badge, sentence, picture = findings.finding(data).parts[:3]
    assert (badge.kind, sentence.kind) == ("badge", "lead")  # type: ignore[union-attr]
    assert badge.text.startswith("✓ Results checked: all 12 loads by `auto`")  # type: ignore[union-attr]
    assert isinstance(picture, Bars)
    group = next(group for group in picture.groups if group.title == "50% of the keys shared, empty table")
    assert [bar.label for bar in group.bars] == ["auto", "staged_merge"]
    assert (group.words, group.is_shown) == ("1.4 ×", True)
    assert "naive_parallel" in picture.note, "the way that left wrong rows is named"


def test_a_line_breaks_off_where_a_setting_was_wrong(data: RunData) -> None:
    own = {case["overlap"]: case for case in data.at(table_state="empty") if case["strategy"] == "auto"}
    del own[0.5]
    points = speed.points_with_gaps(own, [0.0, 0.5, 1.0])
    assert [math.isnan(median) for _, median, _, _ in points] == [False, True, False]


def test_no_column_of_the_cases_is_empty_throughout(data: RunData) -> None:
    table = cases.all_cases(data).table
    assert "deadlocks" not in table.head
    assert "WAL MB" in table.head


def test_the_table_of_cases_has_them_all_and_the_numbers_behind_it(data: RunData) -> None:
    found = cases.all_cases(data)
    assert isinstance(found, Choices)
    assert len(found.table.rows) == len(found.values) == len(data.cases)
    place = found.table.head.index("rows/s")
    auto = next(at for at, row in enumerate(found.table.rows) if row[:2] == ["auto", "0%"])
    median, low, high = found.values[auto][place]  # type: ignore[misc]
    assert (found.table.rows[auto][place], low <= median <= high) == (f"{median:,.0f}", True)
    wrong = [row for row in found.table.rows if row[0] == "naive_parallel" and row[1] != "0%"]
    assert {row[found.table.head.index("outcome")] for row in wrong} == {"wrong rows"}


def test_the_policy_allows_the_pages_own_script_and_no_other(html: str) -> None:
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert script is not None
    assert policy is not None
    allowed = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"default-src 'none'; script-src 'sha256-{allowed}';" in policy[1]
    assert len(script[1]) < 16_000


def test_what_if_states_its_error_or_says_nothing(data: RunData) -> None:
    text = what_if.what_if(data)._repr_html_()
    cost = data.record.report["cost"]
    assert f"off by {cost['left_out']['error']:.0%} (median)" in text
    report = {**data.record.report, "cost": {**cost, "left_out": None}}
    silent = what_if.what_if(RunData(replace(data.record, report=report)))
    assert "No prediction" in silent._repr_html_()
    assert "<table" not in silent._repr_html_()


def test_what_if_adds_up_to_what_the_planner_predicts(data: RunData) -> None:
    """The page multiplies what the table says; the planner is asked the same."""
    (table,) = [part for part in what_if.what_if(data).parts if isinstance(part, Choices)]
    workload = Workload(files=4, rows=300_000, overlap=0.25)
    facts = {"rows": workload.rows, "distinct_keys": workload.total_distinct, "shared_keys": workload.shared}
    overlap = fit.known_overlap({**facts, "file_names": ["1", "2", "3", "4"]})
    model = CostModel(**data.record.report["cost"]["coefficients"])
    expected = predict(overlap, workers=2, cores=2, target_is_empty=False, model=model)
    for row, numbers in zip(table.table.rows, table.values, strict=True):
        if row[1:3] == ["shared", "has rows"]:
            fixed, by_row, by_key = numbers[3:]
            found = fixed + by_row * 1.2 + by_key * workload.total_distinct / 1e6  # type: ignore[operator]
            assert found == pytest.approx(expected[Strategy(str(row[0]))], rel=1e-3)


def test_shapes_come_worst_first(data: RunData) -> None:
    def line(shape: str, speed_up: float, verdict: str) -> dict[str, Any]:
        interval = {"median": speed_up, "low": speed_up - 0.1, "high": speed_up + 0.1}
        return {"shape": shape, "overlap": 0.5, "table_state": "empty", "plain_way": "staged_merge", "speed_up": interval, "cpu_speed_up": speed_up,
                "verdict": verdict, "runs": 5, "wrong": []}  # fmt: skip

    lines = [line("base", 2.0, "faster"), line("trigger", 0.8, "slower"), line("gz", 1.5, "faster")]
    shown = sections.shapes(RunData(replace(data.record, report={**data.record.report, "by_shape": lines})))
    (bars, _) = shown.parts
    assert isinstance(bars, Bars)
    assert [group.title.split(":")[0] for group in bars.groups] == ["trigger", "gz", "base"]
    assert bars.finding.startswith("The worst of 3 shapes is trigger, at 0.80 × the speed")
    assert "slower in 1 of 3 settings" in bars.finding


def test_a_sweep_of_shapes_in_the_run_directory_is_shown(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run")
    case, plain = made.case("auto"), made.case("staged_merge", kind="baseline")
    times = {
        case: [1.0] * 3,
        plain: [2.0] * 3,
        replace(case, shape="gz"): [1.0] * 3,
        replace(plain, shape="gz"): [0.5] * 3,
    }
    manifest = made.manifest(list(times))
    write_manifest(directory / "shapes", manifest)
    write_json(directory / "shapes" / "report.json", analysis.report(manifest, made.samples(times)))
    expected = "The worst of 2 shapes is gz, at 0.50 × the speed"
    assert any(text.startswith(expected) for text in findings.answer(run_data.read(directory)))


def test_the_finding_recommends_only_what_was_right_in_every_run(data: RunData) -> None:
    sentences = findings.answer(data)
    assert sentences[0].startswith("`auto` is 1.4 × as fast as the best correct hand-written way: a parallel COPY")
    assert any(text.startswith("`naive_parallel` left wrong rows") for text in sentences)


def test_an_unfinished_sweep_says_so_first(tmp_path: Path) -> None:
    data = run_data.read(write_run(tmp_path / "run", status="interrupted"))
    assert "This sweep is **interrupted**" in findings.finding(data).parts[0].text  # type: ignore[union-attr]


def test_a_run_with_one_overlap_is_drawn_as_bars(data: RunData, tmp_path: Path) -> None:
    directory = shutil.copytree(data.record.directory, tmp_path / "run")
    content = json.loads((directory / "report.json").read_text())
    content["cases"] = [case for case in content["cases"] if case["overlap"] == 0]
    (directory / "report.json").write_text(json.dumps(content))
    bars = speed.throughput(run_data.read(directory))
    assert isinstance(bars, Bars)
    (group,) = bars.groups
    assert (group.title, group.bars[0].label) == ("Thousand rows per second, the fastest first", "sorted_copy")
    assert next(bar.label for bar in group.bars if bar.kind == "ours") == "auto"


def test_a_run_without_results_is_a_page_that_says_what_is_missing(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run")
    content = json.loads((directory / "report.json").read_text())
    nothing = analysis.report(run_data.read(directory).record.manifest, [])
    (directory / "report.json").write_text(json.dumps(content | nothing))
    html = report.render(directory, tmp_path / "page.html").read_text()
    assert "No run ended with the correct result" in html
    assert html.count("Not measured in this run") == 8
    assert "did not finish" not in html


def test_the_notebook_stays_in_the_run_directory_and_the_manifest_says_how_it_went(
    run_directory: Path, page: Path
) -> None:
    notebook = nbformat.read(run_directory / "executed" / "04_parallel_upsert_analysis.ipynb", as_version=4)
    assert notebook.metadata["etl_toolkit"] == {"status": "finished", "error": ""}
    manifest = json.loads((run_directory / "manifest.json").read_text())
    entry = manifest["notebooks"]["04_parallel_upsert_analysis"]
    assert (entry["status"], entry["error"]) == ("finished", "")
    assert report.failure(run_directory) == ""


def test_a_notebook_that_fails_still_gives_a_page_which_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = write_run(tmp_path / "run")
    notebook = nbformat.read(notebooks.find("04"), as_version=4)
    notebook.cells[5].source = "raise RuntimeError('<i>no</i> recommendation')"
    nbformat.write(notebook, tmp_path / "04_parallel_upsert_analysis.ipynb")
    monkeypatch.setattr(notebooks, "PLACES", (tmp_path,))
    html = report.render(directory, tmp_path / "page.html").read_text()
    assert "did not finish" in html
    assert "RuntimeError: &lt;i&gt;no&lt;/i&gt; recommendation" in html
    assert re.findall(r'<h2 id="([^"]+)">', html) == ["finding", "limits", "recommendation"]
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["notebooks"]["04_parallel_upsert_analysis"]["status"] == "failed"
    assert "RuntimeError: <i>no</i> recommendation" in report.failure(directory)
    assert "RuntimeError" not in findings.finding(run_data.read(directory))._repr_html_(), (
        "the next page must not repeat it"
    )


def test_markdown_has_the_same_sections_and_its_drawings_beside_it(page: Path) -> None:
    text = page.with_suffix(".md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS
    links = re.findall(r"!\[([^\]]+)\]\((page_files/[^)]+\.svg)\)", text)
    assert len(links) > 20
    for told, name in links:
        svg = (page.parent / name).read_text(encoding="utf-8")
        assert re.search(r"\d", told)
        assert svg.startswith("<svg ")
        assert "prefers-color-scheme" in svg


def test_what_is_to_be_downloaded_is_inside_the_page(html: str) -> None:
    names = re.findall(r'<a download="([^"]+)" href="data:[^;]+;base64,[A-Za-z0-9+/=]+"', html)
    assert names == ["samples.csv", "report.json", "manifest.json", "timeline.parquet", "demonstrations.json"]


def test_no_run_directory_is_refused_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="is not a run directory"):
        report.render(tmp_path, tmp_path / "page.html")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="etl-toolkit bench --quick"):
        run_data.read()


def test_labels_are_moved_apart_and_keep_their_order() -> None:
    moved = spread([5.0, 5.1, 1.0, 5.05], 1.0, 0.0, 10.0)
    assert sorted(range(4), key=lambda index: moved[index]) == [2, 0, 3, 1]
    ordered = sorted(moved)
    assert all(after - before > 0.99 for before, after in pairwise(ordered))
