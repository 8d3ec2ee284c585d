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
