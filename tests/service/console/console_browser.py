"""A real service on a loopback port, and a page of a real Chromium as a person uses it."""

import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pyarrow as pa
import pytest
import uvicorn

from model_store.artifacts.store import ModelStore
from service.app import create_app
from service.settings import Settings
from tests.shop import add_hatllm, add_small_bundle, add_small_model, shop_items, small_hatllm

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_START_SECONDS = 60.0
_WAIT_SECONDS = 15.0
_IS_SETTLED = """(() => {
  const columns = [...document.querySelectorAll(".column")];
  const maps = [...document.querySelectorAll("#why:not([hidden]) .map")];
  const answers = columns.map((it) => it.dataset.answer);
  const areThere = columns.every((it) => it.dataset.answer && !it.ariaBusy);
  return areThere && maps.every((it) => answers.includes(it.dataset.answer));
})()"""

# Titles and values that would run, load or close something, if any of them ever became markup.
HOSTILE_TITLES = (
    "<img src=x onerror=\"window.pwned='img'\">",
    "\"><script>window.pwned='script'</script>",
    "</title></textarea></style><svg onload=\"window.pwned='svg'\">",
    "' onfocus='window.pwned=1' autofocus='",
    "{{constructor.constructor('window.pwned=1')()}}",
    "javascript:window.pwned=1//",
)
HOSTILE_VALUE = "<b onmouseover=\"window.pwned='value'\">Bold</b>"


NewConsole = Callable[..., "Console"]


def find_chromium() -> str:
    """The browser to drive; skips where there is none, or nothing to drive it with."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[console-tests]'")
    named = os.environ.get("HATSTAND_TEST_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("no Chromium: apt-get install chromium, or name one in HATSTAND_TEST_CHROMIUM")
    return found


def hostile_items() -> pa.Table:
    """The shop, its most popular items having hostile titles and one of its values being hostile, too."""
    items = shop_items()
    titles = items.column("title").to_pylist()
    titles[: len(HOSTILE_TITLES)] = HOSTILE_TITLES
    categories = [HOSTILE_VALUE if it == "Garden" else it for it in items.column("category").to_pylist()]
    items = items.set_column(items.column_names.index("title"), "title", pa.array(titles))
    return items.set_column(items.column_names.index("category"), "category", pa.array(categories))


def make_store(root: Path) -> tuple[str, str]:
    """A store with both kinds live, and an earlier bundle of the HLLM; returns the ids of its two, older first."""
    store = ModelStore(root)
    model = add_small_model(store)
    bundles = [add_small_bundle(store, model, items=hostile_items(), seed=seed) for seed in (1, 0)]
    for bundle in (*bundles, add_hatllm(store, small_hatllm(), items=hostile_items())):
        store.publish(bundle.bundle_id)
    return bundles[0].bundle_id, bundles[1].bundle_id


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """The application over HTTP, in a thread with an event loop of its own; yields its url."""
    config = uvicorn.Config(create_app(settings), host="127.0.0.1", port=0, log_level="error", lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + _START_SECONDS
    while not server.started and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.started
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(_START_SECONDS)


class Console:
    """The page as a person uses it.

    Args:
        page: Playwright's; it must not have gone anywhere yet.
        url: Of the service.
    """

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        page.on("console", self._note_console)
        page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        page.on("requestfailed", self._note_failure)

    def open(self, view: str = "", *, live: bool = True) -> "Console":
        """Goes to the page, by default to a new user's lists, and waits for what it shows.

        Args:
            view: A part of the address, such as ``#operations``.
            live: Whether clicks are to be stored; the page itself begins with the preview.
        """
        self.page.goto(f"{self.url}/{view or f'#recommend?user=visitor-{secrets.token_hex(4)}'}")
        self.page.wait_for_selector("#view-operations .tile-value" if view == "#operations" else "li.item")
        self.settle()
        if live and view != "#operations":
            self.go_live()
        return self

    def go_live(self) -> None:
        """From now on clicks are stored."""
        self.page.check("input[name=live][value=live]", force=True)

    def to_the_top(self) -> None:
        """The next Tab goes to the first stop of the page."""
        self.page.evaluate("document.body.tabIndex = -1; document.body.focus(); window.scrollTo(0, 0)")
        self.page.evaluate("document.body.removeAttribute('tabindex')")

    def show_maps(self) -> None:
        """Shows the heat maps in the place of the lists."""
        self.page.check("input[name=shown][value=why]", force=True)
        self.page.wait_for_selector("#why .map")
        self.settle()

    def show_lists(self) -> None:
        """Shows the lists again."""
        self.page.check("input[name=shown][value=lists]", force=True)

    def settle(self) -> None:
        """Waits until every list is there, with the maps that go with it."""
        self.wait_for(_IS_SETTLED)

    def wait_for(self, expression: str) -> None:
        """Waits until an expression holds. (The page's policy forbids what Playwright has for this.)"""
        deadline = time.monotonic() + _WAIT_SECONDS
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, f"never came true: {expression}"
            self.page.wait_for_timeout(30)

    def ids(self, kind: str = "hllm") -> list[str]:
        """The items of a model's list, best first."""
        rows = self.page.locator(f".column[data-kind={kind}] li.item")
        found: list[str] = rows.evaluate_all("rows => rows.map((row) => row.dataset.id)")
        return found

    def row(self, kind: str, at: int) -> Any:
        """One item of a list."""
        return self.page.locator(f".column[data-kind={kind}] li.item").nth(at)

    def click_item(self, kind: str, at: int, *, act: str = "click") -> str:
        """Presses Click (or Buy: ``purchase``) of an item; returns its id once the lists have changed."""
        row = self.row(kind, at)
        item_id: str = row.get_attribute("data-id")
        self.change(row.locator(f"[data-act={act}]").click)
        return item_id

    def show_item(self, kind: str, at: int) -> None:
        """Opens the details of an item."""
        self.row(kind, at).locator("button.title").click()
        self.page.wait_for_selector("#item-dialog dl")

    def change(self, act: Any) -> None:
        """Does what makes the lists be asked for anew, and waits for them."""
        answers = "[...document.querySelectorAll('.column')].map((it) => it.dataset.answer)"
        before = json.dumps(self.page.evaluate(answers))
        act()
        self.wait_for(f"!{answers}.some((it) => {before}.includes(it ?? null))")
        self.settle()

    def unfold(self) -> None:
        """Opens all that is folded, but for the filters, which open one at a time."""
        self.page.evaluate("document.querySelectorAll('details:not(.drop)').forEach((it) => { it.open = true; })")

    def user_id(self) -> str:
        """Who is looked at."""
        user_id: str = self.page.input_value("#user-id")
        return user_id

    def text(self, selector: str) -> str:
        """What is to be read there."""
        text: str = self.page.inner_text(selector)
        return text

    def widths(self) -> tuple[int, int]:
        """Of the document, and of the window."""
        document, window = self.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        return document, window

    def _note_console(self, message: Any) -> None:
        address = str(message.location.get("url"))
        # The Redis of these tests is shared: a visitor may have met an item that this catalogue does not have.
        is_unknown_item = "404" in message.text and "/items/" in address
        if message.type in {"error", "warning"} and not is_unknown_item:
            self.complaints.append(f"{message.type}: {message.text} ({address})")

    def _note_failure(self, request: Any) -> None:
        # A request that a newer one took the place of is no failure.
        if "ERR_ABORTED" not in (request.failure or ""):
            self.complaints.append(f"failed: {request.url} {request.failure}")


def stored_events(url: str, user_id: str) -> list[dict[str, Any]]:
    history: list[dict[str, Any]] = httpx2.get(f"{url}/users/{user_id}").json()["history"]
    return history
