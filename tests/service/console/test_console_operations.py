"""The console's operations view, keys, and what it does when the service is not well."""

import json
import re
from pathlib import Path

import httpx2
import pytest

from service.settings import ApiKey, Settings
from tests.service.console.console_browser import (
    Console,
    NewConsole,
    make_store,
    serving,
)

pytest_plugins = ("tests.service.console.console_fixtures",)

SECRET_SHA256 = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"


def test_a_hidden_item_is_gone_for_everybody_until_it_is_shown_again(console: Console) -> None:
    page = console.page
    hidden = console.ids("hllm")[0]
    console.show_item("hllm", 0)
    page.get_by_role("button", name="Hide from everybody").click()
    console.change(lambda: page.locator("#confirm-yes").click())
    assert hidden not in console.ids("hllm") + console.ids("hatllm")
    page.click("#to-operations")
    again = page.get_by_role("button", name=re.compile("^Show .* again"))
    again.click()
    again.wait_for(state="detached")
    page.click("#to-recommend")
    console.change(lambda: page.click("#new-user"))
    assert hidden in console.ids("hllm")


def test_a_service_that_is_away_is_said_to_be_and_comes_back(new_console: NewConsole) -> None:
    console = new_console(may_complain=True).open()
    page = console.page
    page.context.set_offline(True)
    page.fill("#k", "4")
    page.wait_for_selector(".column[data-kind=hllm] [role=alert]")
    assert "does not answer" in console.text(".column[data-kind=hllm] [role=alert]")
    page.click("#to-operations")
    page.wait_for_selector("#health[data-status=unreachable]")
    page.context.set_offline(False)
    page.wait_for_selector("#health[data-status=ready]")
    page.click("#to-recommend")
    console.change(lambda: page.locator(".column [role=alert] button").first.click())
    assert len(console.ids("hllm")) == 4


def test_operations_show_what_the_service_says_of_itself(new_console: NewConsole, url: str) -> None:
    console = new_console().open("#operations")
    page = console.page
    page.wait_for_selector("#health[data-status=ready]")
    version = httpx2.get(f"{url}/version").json()
    bundles = console.text("#bundles")
    for kind, name in (("hllm", "HLLM"), ("hatllm", "HatLLM")):
        assert name in bundles
        assert version["models"][kind]["bundle"] in bundles
    assert {"ok"} == set(page.locator(".check .meta").all_inner_texts())
    for _ in range(30):
        assert httpx2.post(f"{url}/recommend", json={"history": ["i1"], "k": 5}).status_code == 200
    console.wait_for("document.querySelector('#window-note').textContent.includes('lines of every')")
    console.wait_for("document.querySelector('[aria-label=\"Recommendations\"] .tile-value').textContent !== '0'")
    assert re.fullmatch(r"[\d.]+ (ms|s)", console.text("[aria-label=p50] .tile-value"))
    assert "HLLM, retrieve" in console.text("#stages")
    # those that were just sent, and those of the page itself
    requests = "[...document.querySelectorAll('#routes tr')].find((it) => it.textContent.startsWith('/recommend'))"
    console.wait_for(f"Number({requests}?.cells[1].textContent) >= 30")
    assert page.evaluate(f"Number({requests}.cells[1].textContent)") < 40


def test_a_bundle_is_rolled_back_when_one_says_so_twice(
    new_console: NewConsole, url: str, store: tuple[Path, tuple[str, str]]
) -> None:
    older, newer = store[1]
    console = new_console().open("#operations")
    page = console.page

    def live() -> str:
        return str(httpx2.get(f"{url}/version").json()["models"]["hllm"]["bundle"])

    page.wait_for_selector("#bundles li")
    page.get_by_role("button", name="Roll back HLLM").click()
    page.get_by_role("button", name="Cancel").click()
    assert live() == newer
    page.get_by_role("button", name="Roll back HLLM").click()
    page.get_by_role("button", name="Roll back", exact=True).click()
    console.wait_for(f"document.querySelector('#bundles').textContent.includes('{older}')")
    assert live() == older
    page.get_by_role("button", name="Reload").click()
    page.locator("#confirm-yes").click()
    page.get_by_text("Nothing changed").wait_for()
    page.click("#to-recommend")
    console.settle()
    assert older in console.text(".column[data-kind=hllm]")


def test_a_service_without_a_bundle_says_so_until_one_is_live(
    new_console: NewConsole, console_settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "store").mkdir()
    # it finds what is published by itself, only not within this test
    settings = console_settings.model_copy(update={"store": str(tmp_path / "store"), "store_poll_seconds": 600.0})
    with serving(settings) as at:
        console = new_console(at=at, may_complain=True)
        page = console.page
        page.goto(f"{at}/")
        page.get_by_text("No bundle is live in the store").wait_for()
        page.click("#to-operations")
        page.wait_for_selector(".big-status[data-status=not_ready]")
        make_store(tmp_path / "store")
        page.click("#reload")
        page.click("#confirm-yes")
        page.wait_for_selector("#bundles li")
        page.click("#to-recommend")
        console.settle()
        assert len(console.ids("hllm")) == 8 == len(console.ids("hatllm"))


def test_a_key_is_asked_for_kept_in_the_tab_and_forgotten(new_console: NewConsole, console_settings: Settings) -> None:
    keys = (ApiKey(name="shop", sha256=SECRET_SHA256, scopes=frozenset({"recommend", "events"})),)
    with serving(console_settings.model_copy(update={"api_keys": keys})) as keyed_url:
        console = new_console(at=keyed_url, may_complain=True)
        page = console.page
        page.goto(f"{keyed_url}/#recommend?user=keyed")
        page.wait_for_selector("#key-dialog[open]")
        page.fill("#key", "wrong")
        page.get_by_role("button", name="Use this key").click()
        page.wait_for_selector("#key-problem:not([hidden])")
        page.fill("#key", "secret")
        page.get_by_role("button", name="Use this key").click()
        page.wait_for_selector("li.item")
        console.settle()
        console.go_live()
        console.click_item("hllm", 0)
        # the key may not read histories, so the page shows what it reported itself
        assert "scope admin" in console.text("#history-note")
        assert page.locator("#history-list li").count() == 1
        assert page.evaluate("JSON.stringify(localStorage)").count("secret") == 0
        assert "secret" not in page.content()
        page.reload()
        page.wait_for_selector("li.item")
        page.click("#key-button")
        page.get_by_role("button", name="Forget it").click()
        console.wait_for("!JSON.stringify(sessionStorage).includes('secret')")
        # forbidden is said, not hidden
        page.click("#key-button")
        page.fill("#key", "secret")
        page.get_by_role("button", name="Use this key").click()
        page.click("#to-operations")
        page.wait_for_selector("#bundles li")
        page.click("#reload")
        page.click("#confirm-yes")
        page.locator("#toasts").get_by_text("does not have the scope 'admin'").wait_for()


def test_metrics_are_read_as_prometheus_writes_them(console: Console, url: str) -> None:
    text = "\n".join(
        [
            "# HELP a_seconds text with a_seconds_count 9",
            'a_seconds_bucket{le="0.1",r="x"} 10.0',
            'a_seconds_bucket{le="1.0",r="x"} 30.0',
            'a_seconds_bucket{le="+Inf",r="x"} 40.0',
            'a_seconds_bucket{le="0.1",r="y"} 0.0',
            'a_seconds_count{r="x"} 40.0',
            'a_seconds_sum{r="x"} 12.5e0',
            'b_total{route="/a\\"b\\\\c\\n{x}"} 1e3',
            "c NaN",
        ]
    )
    metrics = re.search(r'"(console/static/[^"]+/metrics\.js)"', httpx2.get(url).text)
    assert metrics is not None
    result = console.page.evaluate(
        """async ([module, text]) => {
          const { parse, observed, quantile, growth, total, valuesOf } = await import(module);
          const after = parse(text);
          const before = parse(text.replaceAll(/ (10|30|40)\\.0/g, " 5.0"));
          const all = observed(null, after, "a_seconds", { r: "x" });
          return JSON.stringify({
            all,
            since: observed(before, after, "a_seconds", { r: "x" }).counts,
            p50: quantile(all, 0.5),
            p90: quantile(all, 0.9),
            none: quantile(observed(after, after, "a_seconds"), 0.5),
            restarted: growth(after, before, "a_seconds_count"),
            missing: total(after, "d"),
            route: valuesOf(after, "b_total", "route"),
            b: total(after, "b_total"),
          });
        }""",
        [f"{url}/{metrics[1]}", text],
    )
    read = json.loads(result)
    assert read["all"]["counts"] == [10, 20, 10]
    assert (read["all"]["count"], read["all"]["sum"]) == (40, 12.5)
    assert read["since"] == [5, 20, 10]
    assert read["p50"] == pytest.approx(0.1 + 0.9 * 10 / 20)
    assert read["p90"] == 1.0  # beyond the last bound, the last bound is all that is known
    assert read["none"] is None
    assert read["restarted"] == 5
    assert read["missing"] is None
    assert (read["route"], read["b"]) == (['/a"b\\c\n{x}'], 1000)
