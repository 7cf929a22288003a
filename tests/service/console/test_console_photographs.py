"""Every state of the console at four widths, light and dark: nothing sticks out, and nothing is cut in mid-letter.

``HATSTAND_TEST_PHOTOGRAPHS`` names a folder for the pictures, to be looked at.
"""

import os
from pathlib import Path

import pytest

from tests.service.console.console_browser import NewConsole

pytest_plugins = ("tests.service.console.console_fixtures",)

# Elements that reach beyond the window, unless something around them scrolls or cuts; and elements that cut their own
# content without saying so by dots.
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
  return found;
})()"""


@pytest.mark.parametrize(
    ("width", "scheme"),
    [(390, "light"), (390, "dark"), (1024, "light"), (1440, "light"), (1440, "dark"), (1920, "light")],
)
def test_no_state_has_anything_that_sticks_out_or_is_cut(new_console: NewConsole, width: int, scheme: str) -> None:
    console = new_console(viewport={"width": width, "height": 900}, color_scheme=scheme).open()
    page = console.page
    misfits: dict[str, list[str]] = {}

    def look(state: str) -> None:
        page.wait_for_timeout(200)  # what moves has no place yet
        if folder := os.environ.get("HATSTAND_TEST_PHOTOGRAPHS"):
            page.screenshot(path=str(Path(folder) / f"{state}-{width}-{scheme}.png"), full_page=True)
        if found := page.evaluate(_MISFITS):
            misfits[state] = found

    look("new-visitor")
    for at in (0, 1):
        console.click_item("hllm", at)
    console.unfold()
    look("lists")
    console.show_maps()
    look("heat-maps")
    console.show_lists()
    page.click("details[data-attribute=category] > summary")
    look("filter")
    page.keyboard.press("Escape")
    console.show_item("hllm", 0)
    look("item")
    page.keyboard.press("Escape")
    page.click("#to-operations")
    page.wait_for_selector("#bundles li")
    console.settle()
    look("operations")
    page.keyboard.press("?")
    look("keys")
    assert misfits == {}
