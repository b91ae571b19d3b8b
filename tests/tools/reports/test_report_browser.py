"""The report in a real browser; skipped where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import CocoFolder
from run_folders import detection, detection_run

from tools import report

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(executable_path=BROWSER, args=QUIET)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two runs, whose classes have AP 1, 0 and one between."""
    tmp_path = tmp_path_factory.mktemp("comparison")
    coco = CocoFolder(tmp_path / "coco")
    coco.data["categories"][0]["name"] = "<script>alert(1)</script>"
    root = coco.write()
    first = [detection(5, 18, [10, 5, 20, 30], 0.9), detection(9, 3, [33, 12, 25, 20], 0.6)]
    folders = [detection_run(tmp_path / name, root, found) for name, found in (("a", first), ("b", first[:1]))]
    report.main([*map(str, folders), "--bootstrap", "10"])
    return tmp_path / "report.html"


class Seen:
    """A page with what it said and asked for."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def column(self, place: int) -> list[str]:
        rows = self.page.locator("#classes tbody tr")
        return [rows.nth(row).locator("th, td").nth(place).inner_text() for row in range(rows.count())]

    def head(self, place: int) -> Any:
        return self.page.locator("#classes thead button").nth(place)


def test_it_shows_and_sorts_in_silence(browser: Any, comparison: Path):
    seen = Seen(browser, comparison, viewport={"width": 1200, "height": 900})
    assert seen.page.title() == "2 detection runs"
    names, figures = seen.column(0), seen.column(3)
    assert sorted(figures) == ["0.0", "100.0", "60.0"] or len(set(figures)) == 3
    assert "<script>alert(1)</script>" in names
    seen.head(3).click()  # numbers fall first
    assert seen.column(3) == sorted(figures, key=float, reverse=True)
    assert seen.page.locator("#classes th[aria-sort]").get_attribute("aria-sort") == "descending"
    seen.head(3).focus()
    seen.page.keyboard.press("Enter")
    assert seen.column(3) == sorted(figures, key=float)
    seen.page.keyboard.press("Space")
    assert seen.column(0) == names and seen.page.locator("#classes th[aria-sort]").count() == 0
    seen.head(0).click()  # words rise first
    assert seen.column(0) == sorted(names)
    assert seen.said == []
    assert all(url.startswith(("file:", "data:")) for url in seen.asked)
    images = seen.page.locator("img")
    assert images.count() and all(
        images.nth(i).evaluate("each => each.decode().then(() => each.naturalWidth)") for i in range(images.count())
    )


def test_the_keyboard_reaches_everything(browser: Any, comparison: Path):
    seen = Seen(browser, comparison, viewport={"width": 1200, "height": 900})
    seen.page.keyboard.press("Tab")
    assert seen.page.evaluate("document.activeElement.textContent") == "Skip to the report"
    reached = set()
    for _ in range(200):
        seen.page.keyboard.press("Tab")
        reached.add(seen.page.evaluate("document.activeElement.tagName"))
        if seen.page.evaluate("document.activeElement === document.body"):
            break
    assert {"A", "BUTTON", "SUMMARY", "DIV"} <= reached  # links, headings, folded parts, tables that scroll


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_by_day_and_night(browser: Any, comparison: Path, scheme: str):
    seen = Seen(browser, comparison, viewport={"width": 390, "height": 800}, color_scheme=scheme)
    for folded in seen.page.locator("details").all():
        folded.evaluate("each => each.open = true")
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 390
    paper, ink = (
        seen.page.evaluate(f"getComputedStyle(document.body).{name}.match(/\\d+/g).slice(0, 3).map(Number)")
        for name in ("backgroundColor", "color")
    )
    assert (min(paper) > 200 and max(ink) < 60) if scheme == "light" else (max(paper) < 60 and min(ink) > 200)
    label = seen.page.locator(".chart svg text").first
    assert label.evaluate("each => getComputedStyle(each).fill") == seen.page.evaluate(
        "getComputedStyle(document.body).color"
    )
    assert label.evaluate("each => each.getBoundingClientRect().height") >= 9  # pixels
    assert seen.said == []
