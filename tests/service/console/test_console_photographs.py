"""Every state of the console at four widths, light and dark: nothing sticks out, nothing is cut, all can be read.

``HATSTAND_TEST_PHOTOGRAPHS`` names a folder for the pictures, to be looked at.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.settings import Settings
from tests.service.console.console_browser import Console, NewConsole, serving

pytest_plugins = ("tests.service.console.console_fixtures",)

# Elements that reach beyond the window, unless something around them scrolls or cuts; and elements that cut their own
# content without saying so by dots; and words of buttons and headings that go on in the next line.
_MISFITS = """(() => {
  const scrolls = (it) => ["auto", "scroll", "hidden", "clip"].includes(getComputedStyle(it).overflowX);
  const isInside = (it) => Boolean(it.parentElement) && (scrolls(it.parentElement) || isInside(it.parentElement));
  const found = [];
  for (const it of document.body.querySelectorAll("*")) {
    if (!it.checkVisibility({ checkVisibilityCSS: true })) continue;
    const box = it.getBoundingClientRect(), style = getComputedStyle(it);
    if (!box.width || !box.height) continue;
    const isOut = !isInside(it) && (box.right > innerWidth + 1 || box.left < -1);
    const isCut = ["hidden", "clip"].includes(style.overflowX) && style.textOverflow !== "ellipsis"
      && it.clientWidth > 1 && it.scrollWidth > it.clientWidth + 1;
    if (isOut || isCut) found.push(`${isOut ? "out" : "cut"}: ${it.outerHTML.slice(0, 100)}`);
  }
  for (const it of document.body.querySelectorAll("button:not(.title, .chip), a.button, nav a, h2, h3, thead th")) {
    if (!it.checkVisibility({ checkVisibilityCSS: true })) continue;
    const texts = document.createTreeWalker(it, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      for (const word of texts.currentNode.data.matchAll(/[\\w]+/g)) {
        const range = document.createRange();
        range.setStart(texts.currentNode, word.index);
        range.setEnd(texts.currentNode, word.index + word[0].length);
        if (new Set([...range.getClientRects()].map(({ top }) => top)).size > 1) found.push(`broken: ${word[0]}`);
      }
    }
  }
  return found;
})()"""


_SCENARIOS = """
scenarios:
  start-page:
    description: Books first, and no category more than twice
    max_per: {category: 2}
    boosts: [{filter: {category: {any_of: [Books]}}, multiply: 1.5}]
    pins: [{item_id: i7, position: 2}]
  small-gifts-for-those-who-have-everything-and-want-nothing:
    filter: {price: {lte: 30}, not: {category: {any_of: [Garden]}}}
    exclude_item_ids: [i1, i2]
"""
_GRAVE = {"serious", "critical"}
_AXE = (1440, "light")


@pytest.fixture(scope="module")
def url(browser: Any, console_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("scenarios") / "scenarios.yaml"
    path.write_text(_SCENARIOS)
    with serving(console_settings.model_copy(update={"scenarios": path})) as url:
        yield url


class _Photographer:
    """Looks at one state after the other, in both schemes.

    Args:
        console: The page.
        width: Of the window.
    """

    def __init__(self, console: Console, width: int) -> None:
        self.page = console.page
        self.width = width
        self.misfits: dict[str, list[str]] = {}

    def look(self, state: str) -> None:
        for scheme in ("light", "dark"):
            self.page.emulate_media(color_scheme=scheme)
            self.page.wait_for_timeout(50)  # what moves has no place yet
            if folder := os.environ.get("HATSTAND_TEST_PHOTOGRAPHS"):
                path = Path(folder) / f"{state}-{self.width}-{scheme}.png"
                self.page.screenshot(path=str(path), full_page=True)
            if found := self.page.evaluate(_MISFITS) + self._broken_rules(scheme):
                self.misfits[f"{state}, {scheme}"] = found

    def _broken_rules(self, scheme: str) -> list[str]:
        if (self.width, scheme) != _AXE:  # test_console_access.py looks at most states in both schemes
            return []
        axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
        rules = [rule for rule in axe.run(self.page).response["violations"] if rule["impact"] in _GRAVE]
        return [f"{rule['id']}: {node['target']}" for rule in rules for node in rule["nodes"]]


@pytest.mark.parametrize("width", [390, 1024, 1440, 1920])
def test_no_state_has_anything_that_sticks_out_or_is_cut(new_console: NewConsole, width: int) -> None:
    looks = {"viewport": {"width": width, "height": 900}, "reduced_motion": "reduce"}
    console = new_console(may_complain=True, **looks).open()
    page, photographer = console.page, _Photographer(console, width)
    look = photographer.look
    look("new-visitor")
    for at in (0, 1):
        console.click_item("hllm", at)
    console.unfold()
    console.change(lambda: page.select_option("#scenario", "start-page"))
    console.unfold()
    look("lists")
    console.show_maps()
    look("heat-maps")
    console.show_lists()
    page.click("details[data-attribute=price] > summary")
    look("filter")
    page.keyboard.press("Escape")
    console.show_item("hllm", 0)
    look("item")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Decision record").first.click()
    page.wait_for_selector("#item-dialog .recorded")
    look("decision-record")
    page.keyboard.press("Escape")
    page.click("#to-scenarios")
    look("scenarios")
    page.click("#to-operations")
    page.wait_for_selector("#bundles li")
    page.wait_for_selector("#outcomes tbody tr")
    look("operations")
    page.click("#reload")
    look("question")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    look("keys")
    page.keyboard.press("Escape")
    page.context.set_offline(True)
    page.click("#to-recommend")
    page.fill("#k", "4")
    page.wait_for_selector(".column[data-kind=hllm] [role=alert]")
    assert console.text("#shared") == ""
    assert not page.locator(".how").first.is_visible()
    look("lists-without-service")
    page.click("#to-operations")
    page.locator("#window-note", has_text="The service does not answer").wait_for()
    page.wait_for_selector("#health[data-status=unreachable]")
    look("operations-without-service")
    assert photographer.misfits == {}
