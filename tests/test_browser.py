"""The page in Chromium: nothing cut off on a phone, a screen and paper, accessible, sortable, and without network."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reports.render.page import to_html
from tests.filled import WORSE, cells_of_2c, hostile, of_methods, records_of, table_2c
from tests.test_page import CLAIMS, Claim

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium; the package is called chromium"),
]
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
WIDTHS = {"phone": 390, "screen": 1280}
PAPER = 703
"""CSS pixels of A4 without the margins of 12 mm."""
CUT_OFF = """() => [...document.querySelectorAll('body *')].filter(each => {
  if (each.closest('svg, .skip, script, style, wbr') || !each.getClientRects().length) return false;
  const box = each.getBoundingClientRect(), wide = each.closest('.wide');
  const scrolls = wide && getComputedStyle(wide).overflowX === 'auto';
  return !scrolls && (box.right > document.documentElement.clientWidth + 1 || each.scrollWidth > each.clientWidth + 1
    && getComputedStyle(each).display !== 'inline' && getComputedStyle(each).overflowX !== 'auto');
}).map(each => each.outerHTML.slice(0, 150))"""
"""Elements that stick out of the page or of their own box; a table may scroll in its frame on screens."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        profile = tmp_path_factory.mktemp("profile")
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, headless=True, args=ARGUMENTS
        )
        yield context
        context.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page as reports have it, and one of which every text is hostile."""
    place, records = tmp_path_factory.mktemp("pages"), records_of(cells_of_2c())
    table, runs = table_2c(), dict.fromkeys(records.trainings, "a" * 32)
    several = [table, table.replace(name="3", title="The same again")]
    texts = {
        "report": to_html(several, "sweep", "What it asks.", CLAIMS, records.curves, runs),
        "methods": to_html([of_methods("resnet12", "conv64f", "conv4_relu")], "methods"),
        "hostile": to_html([hostile()] * 1, WORSE, WORSE, [Claim(*[WORSE] * 6)], records.curves, runs),
    }
    for name, text in texts.items():
        (place / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: place / f"{name}.html" for name in texts}


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    opened = browser.new_page()
    opened.faults = []
    opened.on("pageerror", lambda error: opened.faults.append(str(error)))
    opened.on("request", lambda request: opened.faults.append(request.url) if request.url[:5] != "file:" else None)
    yield opened
    assert opened.faults == [], "an error of the script, or a request"
    opened.close()


def open_all(page: Any, path: Path, width: int, scheme: str = "light", media: str = "screen") -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(media=media, color_scheme=scheme)
    page.goto(path.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")


@pytest.mark.parametrize("name", ["report", "methods", "hostile"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_nothing_is_cut_off_on_a_screen(page: Any, pages: dict[str, Path], name: str, width: int) -> None:
    open_all(page, pages[name], width)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(CUT_OFF) == []


def test_a_table_with_every_column_fits_a_screen(page: Any, pages: dict[str, Path]) -> None:
    open_all(page, pages["report"], WIDTHS["screen"])
    assert page.evaluate("[...document.querySelectorAll('.wide')].every(each => each.scrollWidth <= each.clientWidth)")


@pytest.mark.parametrize("name", ["report", "methods", "hostile"])
def test_nothing_is_cut_off_on_paper(page: Any, pages: dict[str, Path], name: str, tmp_path: Path) -> None:
    open_all(page, pages[name], PAPER, media="print")
    assert page.evaluate(CUT_OFF) == []
    page.pdf(path=tmp_path / "page.pdf", prefer_css_page_size=True)
    if shutil.which("pdfinfo"):
        facts = subprocess.run(["pdfinfo", tmp_path / "page.pdf"], capture_output=True, text=True, check=True).stdout
        assert re.search(r"Page size: .*\(A4\)", facts)


@pytest.mark.parametrize("name", ["report", "methods", "hostile"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_axe_finds_no_violation(page: Any, pages: dict[str, Path], name: str, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    open_all(page, pages[name], width, scheme)
    found = axe.Axe().run(page).response["violations"]
    assert [(each["id"], [node["html"] for node in each["nodes"]][:3]) for each in found] == []


def test_dark_and_light_differ_and_paper_is_light(page: Any, pages: dict[str, Path]) -> None:
    grounds = []
    for scheme, media in (("light", "screen"), ("dark", "screen"), ("dark", "print")):
        open_all(page, pages["report"], 1280, scheme, media)
        grounds.append(page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--ground')"))
    assert grounds[0] != grounds[1] and grounds[2] == grounds[0]


def first_column(page: Any) -> list[str]:
    return page.evaluate(
        "[...document.querySelector('table.sortable').tBodies].map("
        "body => [...body.rows].map(row => row.cells[0].textContent.trim()))"
    )


def test_columns_sort_within_sections_by_keyboard(page: Any, pages: dict[str, Path]) -> None:
    open_all(page, pages["report"], 1280)
    own = first_column(page)
    assert own[0][0] == "5-way 1-shot" and own[0][1:] == ["1", "64", "160", "320", "640"]
    button = page.locator("table.sortable >> nth=0").locator("thead button", has_text="ours").first
    button.focus()
    page.keyboard.press("Enter")
    assert page.locator("th[aria-sort=descending]").count() == 1
    accuracies = {cell.label: cell.accuracy for cell in table_2c().sections[0].cells}
    down = first_column(page)[0]
    assert down[0] == "5-way 1-shot", "the section's heading stays"
    known = [accuracies[label] for label in down[1:] if accuracies[label] is not None]
    assert known == sorted(known, reverse=True) and [accuracies[label] for label in down[3:]] == [None] * 3
    page.keyboard.press("Enter")
    up = first_column(page)[0]
    assert up[1:3] == down[2:0:-1] and [accuracies[label] for label in up[3:]] == [None] * 3, "rows without come last"
    page.keyboard.press("Enter")
    assert first_column(page) == own and page.locator("th[aria-sort]").count() == 0


def test_the_names_of_rows_stay_when_a_table_is_scrolled(page: Any, pages: dict[str, Path]) -> None:
    open_all(page, pages["report"], WIDTHS["phone"])
    place = "document.querySelector('.wide:has(.sortable) tbody tr:nth-child(2) th').getBoundingClientRect().left"
    before = page.evaluate(place)
    page.evaluate("document.querySelector('.wide:has(.sortable)').scrollLeft = 300")
    assert page.evaluate("document.querySelector('.wide:has(.sortable)').scrollLeft") == 300
    assert abs(page.evaluate(place) - before) < 2


def test_a_number_opens_what_made_it(page: Any, pages: dict[str, Path]) -> None:
    page.goto(pages["report"].as_uri())
    target = page.locator(".behind >> nth=0")
    assert not target.is_visible()
    page.locator("td.ours a >> nth=0").click()
    assert target.is_visible()


def test_without_a_script_everything_is_there(browser: Any, pages: dict[str, Path]) -> None:
    page = browser.new_page()
    page.route("**/*", lambda route: route.continue_())
    text = re.sub(r"<script>.*?</script>", "", pages["report"].read_text(encoding="utf-8"), flags=re.DOTALL)
    page.set_content(text)
    assert page.locator("thead th", has_text="ours").first.is_visible() and page.locator("thead button").count() == 0
    page.close()
