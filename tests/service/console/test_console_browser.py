"""The console in headless Chromium, over HTTP, with real models and a real Redis: what visitors do."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from service.settings import Settings
from tests.service.console.console_browser import (
    HOSTILE_TITLES,
    HOSTILE_VALUE,
    Console,
    NewConsole,
    serving,
    stored_events,
)

pytest_plugins = ("tests.service.console.console_fixtures",)


def test_a_new_visitor_clicks_and_the_lists_change(console: Console, url: str) -> None:
    badge = console.page.locator(".column[data-kind=hllm] .column-head .badge")
    # what is ordinary is not called a failure, and does not look like one
    assert (badge.inner_text(), badge.get_attribute("class").strip()) == ("popular items", "badge")
    assert console.ids("hllm") == console.ids("hatllm")
    assert "nothing is known of this visitor" in console.text("#shared")
    console.change(lambda: console.page.click("#new-user"))
    before = console.ids("hllm")
    clicked = [console.click_item("hllm", 0), console.click_item("hllm", 2), console.click_item("hatllm", 1)]
    events = stored_events(url, console.user_id())
    assert [event["item_id"] for event in events] == clicked
    assert all(event["recommendation_id"] for event in events)
    assert len({event["recommendation_id"] for event in events}) == 3
    for kind in ("hllm", "hatllm"):
        assert console.text(f".column[data-kind={kind}] .badge") == "model"
        assert not set(clicked) & set(console.ids(kind))
        assert len(console.ids(kind)) == 8
    assert console.ids("hllm") != before
    assert console.page.locator("#history-list li").count() == 3
    assert console.page.locator(".moved.new").count() > 0
    assert "HLLM: 8 items" in console.text("#announce")


def test_what_a_click_belongs_to_is_the_list_that_was_shown(console: Console, url: str) -> None:
    requests: list[Any] = []
    answers: dict[str, str] = {}

    def note(response: Any) -> None:
        if response.url.endswith("/recommend"):
            answers[response.request.post_data_json["model"]] = response.json()["recommendation_id"]

    console.page.on("response", note)
    console.page.on("request", lambda it: requests.append(it) if it.url.endswith("/events") else None)
    console.click_item("hllm", 0)
    shown = dict(answers)
    console.click_item("hatllm", 0)
    (reported,) = requests[-1].post_data_json["events"]
    assert reported["recommendation_id"] == shown["hatllm"]


def test_a_quick_start_gives_a_history(console: Console, url: str) -> None:
    console.change(lambda: console.page.get_by_role("button", name="Books", exact=True).click())
    titles = console.page.locator("#history-list .title").all_inner_texts()
    assert len(titles) == 3
    assert len(stored_events(url, console.user_id())) == 3
    assert not console.page.locator("#quick-starts").is_visible()


def test_a_search_finds_items_and_reports_them(console: Console, url: str) -> None:
    with console.page.expect_response("**/items?query=*"):
        console.page.fill("#search", "audio 33")
    console.page.wait_for_selector("#search-results li")
    assert console.page.locator("#search-results li").count() == 1
    console.change(lambda: console.page.click("#search-results [data-act=click]"))
    (event,) = stored_events(url, console.user_id())
    assert (event["item_id"], event["recommendation_id"]) == ("i33", None)
    console.page.fill("#search", "nothing has this")
    console.wait_for("document.querySelector('#search-note').textContent.includes('No title')")


def test_filters_hold_in_both_lists_and_survive_a_reload(console: Console) -> None:
    page = console.page
    console.click_item("hllm", 0)
    page.click("details[data-attribute=category] summary")
    console.change(lambda: page.get_by_role("checkbox", name=re.compile("^Audio")).check())
    for kind in ("hllm", "hatllm"):
        facts = page.locator(f".column[data-kind={kind}] li.item .item-marks > .meta").all_inner_texts()
        assert len(facts) == 8
        assert all(fact.startswith("Audio") for fact in facts), facts
    page.click("details[data-attribute=price] summary")
    assert page.locator(".drop[open]").count() == 1
    console.change(lambda: page.get_by_label("Price, at most").fill("20"))
    cheap_audio = {f"i{number}" for number in range(3, 20, 3)}
    assert set(console.ids("hllm")) == cheap_audio == set(console.ids("hatllm"))
    page.keyboard.press("Escape")
    assert page.locator(".drop[open]").count() == 0
    assert "≤ 20" in console.text("details[data-attribute=price] summary")
    page.reload()
    page.wait_for_selector("li.item")
    console.settle()
    assert set(console.ids("hllm")) == cheap_audio
    console.change(lambda: page.get_by_role("button", name="Clear all").click())
    assert len(console.ids("hllm")) == 8


def test_a_flag_and_words_of_lists_can_be_filtered_by(console: Console) -> None:
    page = console.page
    page.click("details[data-attribute=is_new] summary")
    console.change(lambda: page.get_by_role("radio", name=re.compile("^yes")).check())
    assert set(console.ids("hllm")) <= {f"i{number}" for number in range(51, 61)}
    page.click("details[data-attribute=tags] summary")
    console.change(lambda: page.get_by_role("checkbox", name=re.compile("^solo")).check())
    assert set(console.ids("hllm")) == {"i51", "i53", "i55", "i57", "i59"}


def test_models_side_by_side_alone_and_generating(console: Console) -> None:
    page = console.page
    console.click_item("hllm", 0)
    console.change(lambda: page.get_by_role("radio", name="HatLLM").check(force=True))
    assert page.locator(".column").count() == 1
    retrieved = console.ids("hatllm")
    console.change(lambda: page.select_option(".column[data-kind=hatllm] select", "generate"))
    assert console.text(".column[data-kind=hatllm] .badge") == "model"
    assert "%" in console.row("hatllm", 0).locator(".score").inner_text()
    assert console.ids("hatllm") != retrieved
    console.change(lambda: page.get_by_role("radio", name="Side by side").check(force=True))
    assert page.locator(".column").count() == 2


def test_number_diversity_and_seen_items_are_asked_for(console: Console) -> None:
    page = console.page
    clicked = console.click_item("hllm", 0)
    console.change(lambda: page.fill("#k", "12"))
    near = console.ids("hllm")
    assert len(near) == 12
    page.focus("#diversity")
    console.change(lambda: page.keyboard.press("End"))
    assert console.text("#diversity-value") == "1.00"
    assert console.ids("hllm") != near
    console.change(lambda: page.keyboard.press("Home"))
    console.change(lambda: page.fill("#k", "50"))
    assert clicked not in console.ids("hllm")
    console.change(lambda: page.locator("#exclude-seen").uncheck())
    assert clicked in console.ids("hllm")


def test_reasons_are_bars_and_heat_maps(console: Console) -> None:
    page = console.page
    for at in (0, 1, 2):
        console.click_item("hllm", at)
    for kind in ("hllm", "hatllm"):  # folded on both sides, a line for each item
        row = console.row(kind, 0)
        assert re.fullmatch(r"<?\d+ % because of .+", row.locator(".because summary").inner_text())
        assert not row.locator(".reasons").is_visible()
        row.locator(".because summary").click()
        shares = row.locator(".reason-share").all_inner_texts()
        assert 98 <= sum(int(share.removesuffix(" %").replace("<", "")) for share in shares) <= 102
    console.show_maps()
    assert not page.locator("#lists").is_visible()
    assert "in percent" in console.text("[data-map=hllm] figcaption")
    assert "100 %" in console.text("[data-map=hllm] .legend")
    likeness = page.locator("[data-map=hllm] table")
    assert likeness.locator("tbody tr").count() == 3
    assert likeness.locator("tbody tr").first.locator("td").count() == 8
    console.wait_for("document.querySelectorAll('[data-map=hatllm] thead th').length === 4")
    attention = page.locator("[data-map=hatllm] table")
    assert attention.locator("thead th").all_inner_texts() == ["History", "−2", "−1", "now"]
    # the item that came last was not there in the two steps before
    assert attention.locator("tbody tr").first.locator("td.none").count() == 2
    colours = likeness.locator("td").evaluate_all("cells => cells.map((it) => getComputedStyle(it).backgroundColor)")
    assert len(set(colours)) > 3
    console.change(lambda: page.locator("#explain").uncheck())
    assert page.locator(".reason").count() == 0
    assert not page.locator("#why").is_visible()


def test_a_heat_map_shows_the_api_s_own_weights(console: Console) -> None:
    for at in (0, 1):
        console.click_item("hllm", at)
    console.show_maps()
    with console.page.expect_response(
        lambda it: it.url.endswith("/recommend") and it.request.post_data_json["model"] == "hllm"
    ) as answered:
        console.change(lambda: console.page.fill("#k", "5"))
    items = answered.value.json()["items"]
    cells = console.page.locator("[data-map=hllm] tbody td").all_inner_texts()
    latest_first = [event["item_id"] for event in reversed(stored_events(console.url, console.user_id()))]
    expected = [
        next(reason["weight"] for reason in item["reasons"] if reason["item_id"] == item_id)
        for item_id in latest_first
        for item in items
    ]
    assert [0.5 if cell == "<1" else int(cell) for cell in cells] == pytest.approx(
        [weight * 100 for weight in expected], abs=0.51
    )


def test_a_history_can_travel_with_the_request(console: Console, url: str) -> None:
    page = console.page
    reported: list[str] = []
    page.on("request", lambda it: reported.append(it.url) if it.url.endswith("/events") else None)
    console.change(lambda: page.get_by_role("radio", name="History").check(force=True))
    clicked = [console.click_item("hllm", 0), console.click_item("hllm", 0)]
    assert console.text(".column[data-kind=hllm] .badge") == "model"
    assert reported == []
    with page.expect_request("**/recommend") as asked:
        console.change(page.locator("#history-list li").first.get_by_role("button", name=re.compile("^Take")).click)
    body = asked.value.post_data_json
    assert [entry["item_id"] for entry in body["history"]] == clicked[:1]
    assert "user_id" not in body
    console.change(lambda: page.get_by_role("button", name="Keep as a user").click())
    assert [event["item_id"] for event in stored_events(url, console.user_id())] == clicked[:1]


def test_a_session_is_kept_and_merged_into_a_user(console: Console, url: str) -> None:
    page = console.page
    console.click_item("hllm", 0)
    user_id = console.user_id()
    console.change(lambda: page.get_by_role("radio", name="Session").check(force=True))
    assert page.locator("#history-list li").count() == 0
    with page.expect_request("**/events") as asked:
        clicked = console.click_item("hllm", 3)
    (event,) = asked.value.post_data_json["events"]
    assert event["session_id"].startswith("session-")
    assert "user_id" not in event
    assert console.text(".column[data-kind=hllm] .badge") == "model"
    assert clicked not in console.ids("hllm")
    console.change(lambda: page.get_by_role("button", name=f"Merge into {user_id}").click())
    assert clicked in [event["item_id"] for event in stored_events(url, user_id)]
    assert page.locator("#history-list li").count() == 2
    assert httpx2.get(f"{url}/sessions/{event['session_id']}").json()["history"] == []


def test_more_of_a_list_can_be_had_page_by_page(console: Console) -> None:
    page = console.page
    clicked = console.click_item("hllm", 0)
    first = console.ids("hllm")
    more = page.locator(".column[data-kind=hllm] .more")
    for length in (16, 24):
        more.click()
        page.wait_for_selector(f".column[data-kind=hllm] li.item >> nth={length - 1}")
        console.settle()
        assert len(console.ids("hllm")) == length
    shown = console.ids("hllm")
    assert shown[:8] == first
    assert len(set(shown)) == 24
    assert clicked not in shown
    ranks = page.locator(".column[data-kind=hllm] .rank").all_inner_texts()
    assert ranks == [str(rank) for rank in range(1, 25)]
    for _ in range(5):
        if more.is_visible():
            more.click()
            page.wait_for_timeout(100)
            console.settle()
    assert len(set(console.ids("hllm"))) == len(console.ids("hllm")) == 59
    assert not more.is_visible()


def test_an_answer_says_how_it_came_about(console: Console) -> None:
    page = console.page
    console.click_item("hllm", 0)
    page.locator(".column[data-kind=hllm] .how summary").click()
    sent = json.loads(console.text(".column[data-kind=hllm] .how pre"))
    assert (sent["model"], sent["user_id"]) == ("hllm", console.user_id())
    # the request as it is shown gives the list as it is shown
    answer = httpx2.post(f"{console.url}/recommend", json=sent).json()
    assert [item["item_id"] for item in answer["items"]] == console.ids("hllm")
    page.locator(".column[data-kind=hllm] .how").get_by_role("button", name="Decision record").click()
    page.wait_for_selector("#item-dialog .recorded")
    assert page.locator("#item-dialog .recorded li").count() == 8
    assert "answered" in console.text("#item-dialog .ladder")
    page.click("#item-dialog .how summary")
    record = json.loads(console.text("#item-dialog pre"))
    assert [item["item_id"] for item in record["items"]] == console.ids("hllm")


def test_a_scenario_can_be_chosen(new_console: NewConsole, console_settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "scenarios.yaml"
    path.write_text("scenarios:\n  books:\n    description: Books first\n    filter: {category: {any_of: [Books]}}\n")
    with serving(console_settings.model_copy(update={"scenarios": path})) as at:
        console = new_console(at=at).open()
        page = console.page
        console.change(lambda: page.select_option("#scenario", "books"))
        facts = page.locator(".column[data-kind=hllm] .item-marks > .meta").all_inner_texts()
        assert len(facts) == 8
        assert all(fact.startswith("Books") for fact in facts)
        page.locator(".column[data-kind=hllm] .how summary").click()
        assert "books, version" in console.text(".column[data-kind=hllm] .how dl")
        console.change(lambda: page.select_option("#scenario", ""))
        assert not page.locator(".column[data-kind=hllm] .how dl", has_text="scenario").count()


def test_an_item_s_dialog_shows_it_and_leaves_it_out(console: Console) -> None:
    page = console.page
    console.click_item("hllm", 7)
    left_out = console.ids("hllm")[0]
    console.show_item("hllm", 0)
    assert left_out in console.text("#item-dialog dl")
    assert page.locator("#item-dialog .rows li").count() == 6
    console.change(lambda: page.get_by_role("button", name="Leave out of the lists").click())
    assert left_out not in console.ids("hllm") + console.ids("hatllm")
    console.change(lambda: page.locator(".chip.on").click())
    assert left_out in console.ids("hllm")


def test_a_user_can_be_opened_again_and_erased(console: Console, url: str) -> None:
    page = console.page
    console.click_item("hllm", 0)
    user_id = console.user_id()
    console.change(lambda: page.click("#new-user"))
    assert console.page.locator("#history-list li").count() == 0
    page.fill("#user-id", user_id)
    console.change(lambda: page.keyboard.press("Enter"))
    assert console.page.locator("#history-list li").count() == 1
    page.get_by_role("button", name="Erase this user").click()
    page.get_by_role("button", name="Cancel").click()
    assert len(stored_events(url, user_id)) == 1
    page.get_by_role("button", name="Erase this user").click()
    console.change(lambda: page.get_by_role("button", name="Erase", exact=True).click())
    assert stored_events(url, user_id) == []
    assert f"Erased {user_id}" in console.text("#toasts")


def test_titles_and_values_never_become_markup(new_console: NewConsole) -> None:
    console = new_console().open()
    page = console.page
    shown = page.locator(".column[data-kind=hllm] button.title").all_inner_texts()
    assert set(HOSTILE_TITLES) <= set(shown)
    for at in (0, 0, 0, 0):
        console.click_item("hllm", at)
    page.hover("#history-list li >> nth=0")
    page.fill("#search", "pwned")
    page.wait_for_selector("#search-results li")
    page.click("details[data-attribute=category] summary")
    console.change(lambda: page.get_by_role("checkbox", name=re.compile("^<b onmouseover")).check())
    assert HOSTILE_VALUE in console.text("details[data-attribute=category] summary")
    page.hover("details[data-attribute=category] .choice >> nth=0")
    page.keyboard.press("Escape")
    page.locator("#search-results button.title").first.click()
    page.wait_for_selector("#item-dialog dl")
    assert page.inner_text("#item-title") in HOSTILE_TITLES
    page.keyboard.press("Escape")
    user_id = "<img src=x onerror=window.pwned=1>/../\"'& ü"
    page.fill("#user-id", user_id)
    console.change(lambda: page.keyboard.press("Enter"))
    clicked = console.click_item("hllm", 0)
    assert console.user_id() == user_id
    assert [event["item_id"] for event in stored_events(console.url, quote(user_id, safe=""))] == [clicked]
    assert page.locator("#history-list li").count() == 1
    page.click("details[data-attribute=category] summary")
    assert page.evaluate("window.pwned") is None
    assert page.locator("main img, main script, main b, main iframe").count() == 0
    ours = "[...document.querySelectorAll('main svg')].every((it) => it.matches('.sparkline, .links'))"
    assert page.evaluate(ours)


def test_an_answer_that_comes_late_does_not_replace_a_newer_one(console: Console) -> None:
    page = console.page
    console.click_item("hllm", 0)
    held: list[Any] = []

    def hold(route: Any) -> None:
        if len(held) < 2:
            held.append(route)
        else:
            route.continue_()

    page.route("**/recommend", hold)
    page.fill("#k", "3")
    page.wait_for_timeout(400)
    assert len(held) == 2
    console.change(lambda: page.fill("#k", "5"))
    for route in held:
        try:
            route.continue_()
        except Exception as error:  # the page gave the request up, as it should
            assert "route" in str(error).lower() or "aborted" in str(error).lower()  # noqa: PT017
    page.wait_for_timeout(300)
    assert len(console.ids("hllm")) == 5 == len(console.ids("hatllm"))
