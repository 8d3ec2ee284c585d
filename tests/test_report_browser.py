"""The analysis page in a real browser: it asks nobody, complains of nothing, and is fit to read by everybody."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import chromium, needs_chromium, watched
from tests.report_records import rendered

pytestmark = [pytest.mark.browser, needs_chromium, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

LOOKS = [(scheme, width) for scheme in ("light", "dark") for width in (1280, 390)]
every_look = pytest.mark.parametrize(("scheme", "width"), LOOKS)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a made-up run; ETL_PAGE names another one to look at."""
    named = os.environ.get("ETL_PAGE")
    if named:
        return Path(named).resolve()
    return rendered(tmp_path_factory.getbasetemp())[1]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@every_look
def test_the_page_makes_no_request_and_no_complaint(browser: Any, page_file: Path, scheme: str, width: int) -> None:
    with watched(browser, color_scheme=scheme, viewport={"width": width, "height": 900}) as seen:
        seen.page.goto(page_file.as_uri())
        seen.page.wait_for_load_state("networkidle")
        assert [url for url in seen.requests if not url.startswith("data:")] == [page_file.as_uri()]
        assert seen.complaints == []


@every_look
def test_axe_finds_no_violation(browser: Any, page_file: Path, scheme: str, width: int) -> None:
    from axe_playwright_python.sync_playwright import Axe

    # The page's own policy forbids scripts, axe included.
    with watched(browser, color_scheme=scheme, viewport={"width": width, "height": 900}, bypass_csp=True) as seen:
        seen.page.goto(page_file.as_uri())
        seen.page.evaluate("document.querySelectorAll('details').forEach(item => item.open = true)")
        found = Axe().run(seen.page).response["violations"]
        assert [(item["id"], [node["html"][:200] for node in item["nodes"]]) for item in found] == []


@every_look
def test_nothing_is_wider_than_the_window_and_no_text_is_tiny(
    browser: Any, page_file: Path, scheme: str, width: int, tmp_path: Path
) -> None:
    with watched(browser, color_scheme=scheme, viewport={"width": width, "height": 900}) as seen:
        seen.page.goto(page_file.as_uri())
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
        smallest = seen.page.evaluate(
            "Math.min(...[...document.querySelectorAll('.panel text')].map("
            "text => parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a))"
        )
        assert smallest >= 6.5, f"{smallest:.1f} px"
        seen.page.screenshot(path=tmp_path / f"{scheme}-{width}.png", full_page=True)
        if keep := os.environ.get("ETL_SCREENSHOTS"):
            Path(keep).mkdir(parents=True, exist_ok=True)
            seen.page.screenshot(path=Path(keep) / f"page-{scheme}-{width}.png", full_page=True)


def test_dark_follows_the_reader_and_print_does_not(browser: Any, page_file: Path) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    with watched(browser, color_scheme="dark") as seen:
        seen.page.goto(page_file.as_uri())
        assert seen.page.evaluate(background) == "rgb(22, 25, 29)"
        seen.page.emulate_media(media="print", color_scheme="dark")
        assert seen.page.evaluate(background) == "rgb(255, 255, 255)"
        assert len(seen.page.pdf()) > 50_000


def test_the_contents_list_leads_to_every_section_by_keyboard(browser: Any, page_file: Path) -> None:
    with watched(browser) as seen:
        seen.page.goto(page_file.as_uri())
        seen.page.keyboard.press("Tab")
        assert seen.page.evaluate("document.activeElement.textContent") == "Skip to the finding"
        for link in seen.page.locator("nav a").all():
            link.click()
            assert seen.page.evaluate("document.querySelector(':target').getBoundingClientRect().top < innerHeight")


def test_a_download_holds_the_data(browser: Any, page_file: Path) -> None:
    with watched(browser) as seen:
        seen.page.goto(page_file.as_uri())
        with seen.page.expect_download() as download:
            seen.page.get_by_role("link", name="samples.csv").click()
        assert download.value.path().read_text().startswith("run_index,case,setting,strategy")


def test_cases_are_chosen_sorted_and_drawn_and_the_address_keeps_it(browser: Any, page_file: Path) -> None:
    with watched(browser, viewport={"width": 1280, "height": 900}) as seen:
        seen.page.goto(page_file.as_uri())
        box = seen.page.locator('.choices[data-kind="cases"]')
        rows = box.locator("tbody tr:visible")
        box.get_by_role("button", name="Show all").click()
        every = rows.count()
        assert every == box.locator("tbody tr").count() == int(box.get_by_role("status").inner_text().split()[0])
        overflow = "table => table.parentElement.scrollWidth - table.parentElement.clientWidth"
        assert box.locator("table").evaluate(overflow) <= 0, "no column is cut at this width"
        box.get_by_role("group", name="strategy").get_by_role("checkbox", name="partitioned").check()
        box.get_by_role("group", name="overlap").get_by_role("checkbox", name="50%").check()
        box.get_by_label("Draw").select_option("seconds (95% interval)")
        box.locator("thead").get_by_role("button", name="rows/s").click()
        assert 0 < rows.count() < every
        speeds = [
            int(text.replace(",", ""))
            for text in box.locator("tbody tr:visible td:nth-last-child(6)").all_inner_texts()
        ]
        assert box.locator("th[aria-sort=ascending]").inner_text().startswith("rows/s")
        bars = box.locator(".bars li")
        assert bars.count() == rows.count()
        assert "95% interval" in (bars.first.get_attribute("title") or "")
        before = rows.all_inner_texts()
        assert len(speeds) == len(before)
        seen.page.reload()
        assert rows.all_inner_texts() == before
        assert "less is better" in box.locator(".bars .caption").inner_text()
        assert seen.complaints == []


def test_what_if_answers_as_its_table_says_and_races_are_stepped_through(browser: Any, page_file: Path) -> None:
    with watched(browser) as seen:
        seen.page.goto(page_file.as_uri())
        box = seen.page.locator('.choices[data-kind="model"]')
        box.get_by_role("spinbutton", name="Rows").fill("100")
        assert "this is a guess" in box.locator(".lead").inner_text()
        box.get_by_role("spinbutton", name="Rows").fill("4000")
        text = box.locator(".lead").inner_text()
        assert "guess" not in text
        assert text.split(":")[0] == box.locator("li.ours .name").inner_text()
        box.get_by_role("combobox", name="Table").select_option("has rows")
        assert "if-table=has+rows" in seen.page.url
        race = seen.page.locator(".lanes").first
        controls = race.locator("xpath=preceding-sibling::p[1]")
        controls.get_by_role("button", name="Step through").click()
        assert race.locator("li:visible").count() == race.locator(".lane").count(), "the first step of each lane"
        controls.get_by_role("button", name="Next").click()
        shown = race.locator("xpath=following-sibling::pre[1]").inner_text()
        assert race.locator("li.now code").first.inner_text() in shown
        controls.get_by_role("button", name="Show all").click()
        assert race.locator("li:visible").count() == race.locator("li").count()


def test_without_a_script_everything_is_there_and_nothing_to_press(browser: Any, page_file: Path) -> None:
    with watched(browser, java_script_enabled=False, viewport={"width": 1280, "height": 900}) as seen:
        seen.page.goto(page_file.as_uri())
        box = seen.page.locator('.choices[data-kind="cases"]')
        assert box.locator("tbody tr:visible").count() == box.locator("tbody tr").count() > 30
        assert seen.page.get_by_role("button").count() == seen.page.locator("input, select").count() == 0
        assert seen.page.locator(".lane li").count() == seen.page.locator(".lane li:visible").count() > 0
        assert seen.page.locator("figure.bars").first.is_visible()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_first_screen_holds_badge_sentence_and_the_picture_with_its_speed_up(
    browser: Any, page_file: Path, width: int
) -> None:
    with watched(browser, viewport={"width": width, "height": 844}) as seen:
        seen.page.goto(page_file.as_uri())
        for part in (".badge", ".lead", "figure.bars li.ours", "figure.bars .times"):
            box = seen.page.locator(part).first.bounding_box()
            assert box["y"] + box["height"] <= 844, part
