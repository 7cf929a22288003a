"""The console by keyboard, on a phone, in the dark, and by the rules of accessibility."""

import re

import pytest

from tests.service.console.console_browser import (
    Console,
    NewConsole,
    stored_events,
)

pytest_plugins = ("tests.service.console.console_fixtures",)


def test_nothing_but_the_keyboard_is_needed(console: Console, url: str) -> None:
    page = console.page

    def press(*keys: str) -> None:
        for key in keys:
            page.keyboard.press(key)

    def focused(what: str = "textContent") -> str:
        return str(page.evaluate(f"document.activeElement.{what}"))

    console.to_the_top()
    press("Tab")
    assert focused() == "Skip to the content"
    press("Enter")
    assert focused("id") == "main"
    press("/")
    assert focused("id") == "search"
    page.keyboard.type("books 2")
    page.wait_for_selector("#search-results li")
    press("ArrowDown", "ArrowDown", "ArrowUp")
    found = focused()
    press("Tab")
    assert focused() == "Click"
    console.change(lambda: press("Enter"))
    assert found in page.locator("#history-list .title").all_inner_texts()
    # to the lists, and along one
    page.focus(".column[data-kind=hllm] button.title")
    press("ArrowDown", "ArrowDown")
    third = console.ids("hllm")[2]
    console.change(lambda: press("c"))
    assert third in [event["item_id"] for event in stored_events(url, console.user_id())]
    # what was clicked is gone from the list, and the focus is on what took its place
    assert focused("closest('li').dataset.id") == console.ids("hllm")[2]
    # a filter: open, choose, close, and be where one was
    page.focus("details[data-attribute=category] summary")
    press("Enter")
    page.wait_for_selector(".drop[open] input")
    press("Tab")
    assert focused("type") == "checkbox"
    console.change(lambda: press("Space"))
    press("Escape")
    assert focused("tagName") == "SUMMARY"
    # the model, by arrow keys
    page.focus("#models input:checked")
    console.change(lambda: press("ArrowRight"))
    assert page.locator(".column").count() == 1
    # a dialog takes the focus and gives it back
    page.locator("li.item button.title").first.focus()
    press("Enter")
    page.wait_for_selector("#item-dialog dl")
    assert page.evaluate("document.querySelector('#item-dialog').contains(document.activeElement)")
    press("Escape")
    assert focused("className") == "title"
    press("?")
    page.wait_for_selector("#help-dialog[open]")
    assert "search the catalogue" in console.text("#help-dialog")
    press("Escape")
    page.focus("#to-operations")
    press("Enter")
    page.wait_for_selector("#bundles li")


def test_every_stop_of_the_tab_key_can_be_seen_and_has_a_name(new_console: NewConsole) -> None:
    console = new_console().open()
    page = console.page
    console.click_item("hllm", 0)
    console.to_the_top()
    stops = 0
    first_item = None
    for _ in range(120):
        page.keyboard.press("Tab")
        stop = page.evaluate(
            """() => {
              const it = document.activeElement;
              if (it === document.body) return null;
              const lit = [it, it.nextElementSibling].filter(Boolean);
              const style = lit.some((el) => getComputedStyle(el).outlineStyle !== "none");
              const name = it.getAttribute("aria-label") || it.labels?.[0]?.textContent || it.textContent || it.title;
              // a ring of 2 px at a distance of 2 px is not cut off by what scrolls
              const box = it.getBoundingClientRect();
              let around = it.parentElement;
              while (around && getComputedStyle(around).overflowX === "visible") around = around.parentElement;
              const clip = around?.getBoundingClientRect();
              const isOut = (at) => at.left - 4 < clip.left - 0.5 || at.right + 4 > clip.right + 0.5;
              const isCut = Boolean(clip) && it.matches("button") && isOut(box);
              const isItem = Boolean(it.closest("li.item"));
              return { what: it.outerHTML.slice(0, 80), style, name: Boolean(name?.trim()), isCut, isItem };
            }"""
        )
        if stop is None:
            break
        stops += 1
        assert stop["style"], f"the focus does not show on {stop['what']}"
        assert stop["name"], f"no name: {stop['what']}"
        assert not stop["isCut"], f"the focus ring is cut off: {stop['what']}"
        if stop["isItem"] and first_item is None:
            first_item = stops
    assert stops > 25
    # lists, filters and visitors are one stop each
    assert first_item is not None
    assert first_item <= 24
    console.to_the_top()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("Boolean(document.activeElement.closest('li.item'))")


@pytest.mark.parametrize("width", [360, 760, 1024])
def test_no_width_needs_sideways_scrolling(new_console: NewConsole, width: int) -> None:
    console = new_console(viewport={"width": width, "height": 780}, has_touch=True).open()
    page = console.page
    for at in (0, 1):
        console.click_item("hllm", at)
    page.fill("#search", "pwned")
    page.wait_for_selector("#search-results li")
    console.unfold()
    assert console.widths() == (width, width)
    console.show_maps()
    assert console.widths() == (width, width)
    console.show_lists()
    page.click("details[data-attribute=category] > summary")
    assert console.widths() == (width, width)
    box = page.locator("details[data-attribute=category] .drop-body").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    page.keyboard.press("Escape")
    console.show_item("hllm", 0)
    assert console.widths() == (width, width)
    page.keyboard.press("Escape")
    page.click("#to-operations")
    page.wait_for_selector("#bundles li")
    console.settle()
    assert console.widths() == (width, width)


def test_fingers_find_their_targets_on_a_phone(new_console: NewConsole) -> None:
    console = new_console(viewport={"width": 360, "height": 780}, has_touch=True).open()
    small = console.page.evaluate(
        """[...document.querySelectorAll("button, select, input, summary, .bar a")]
          .filter((it) => it.checkVisibility({ checkVisibilityCSS: true }) && !it.matches(".skip"))
          .map((it) => [it.outerHTML.slice(0, 60), it.getBoundingClientRect()])
          .filter(([, box]) => box.width && (box.height < 24 || box.width < 24))
          .map(([what, box]) => `${what} ${box.width}x${box.height}`)"""
    )
    assert small == []


def _lightness(console: Console) -> int:
    colour = console.page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", colour)[:3])) // 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_follows_the_system_until_one_is_chosen(new_console: NewConsole, scheme: str) -> None:
    console = new_console(color_scheme=scheme).open()
    follows = {"light": _lightness(console) > 200, "dark": _lightness(console) < 60}
    assert follows[scheme]
    button = console.page.locator("#theme-button")
    seen = []
    for _ in range(3):
        button.click()
        seen.append((button.get_attribute("aria-label"), _lightness(console) > 128))
    assert seen == [
        ("Theme: light", True),
        ("Theme: dark", False),
        ("Theme: as the system has it", scheme == "light"),
    ]
    button.click()
    button.click()
    console.page.reload()
    console.page.wait_for_selector("li.item")
    assert _lightness(console) < 60
    assert button.get_attribute("aria-label") == "Theme: dark"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_no_rule_of_accessibility_is_broken(new_console: NewConsole, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    console = new_console(viewport={"width": width, "height": 900}, color_scheme=scheme).open()
    page = console.page

    def broken() -> list[str]:
        page.wait_for_timeout(300)  # what moves has no colours to measure
        rules = axe.run(page).response["violations"]
        return [f"{rule['id']}: {node['target']} {node['failureSummary']}" for rule in rules for node in rule["nodes"]]

    assert broken() == []
    console.unfold()
    console.change(lambda: page.fill("#k", "4"))
    for at in (0, 1, 2):
        console.click_item("hllm", at)
    console.show_maps()
    console.unfold()
    assert broken() == []
    console.show_lists()
    page.fill("#search", "pwned")
    page.wait_for_selector("#search-results li")
    page.click("details[data-attribute=category] > summary")
    console.change(lambda: page.get_by_role("checkbox", name=re.compile("^Audio")).check())
    assert broken() == []
    page.click("details[data-attribute=price] > summary")
    assert broken() == []
    page.keyboard.press("Escape")
    console.show_item("hllm", 0)
    assert broken() == []
    page.keyboard.press("Escape")
    page.click("#to-operations")
    page.wait_for_selector("#bundles li")
    page.wait_for_selector(".tile-chart svg")
    page.click("#reload")
    assert broken() == []
    page.click("#confirm-dialog button[value=no]")
    assert broken() == []
