"""Takes the pictures of the console that the documentation shows, of a running service with the demo shop.

python docs/images/take_screenshots.py --url http://127.0.0.1:8000
"""

import io
import json
import random
import shutil
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_WATCHED_SECONDS = 63


def main(
    url: Annotated[str, typer.Option(help="Of the service.")] = "http://127.0.0.1:8000",
    out: Annotated[Path, typer.Option(help="Where the pictures go.")] = HERE,
    chromium: Annotated[str, typer.Option(help="The browser.")] = "",
) -> None:
    """Takes all of them."""
    executable = chromium or next(filter(None, map(shutil.which, _NAMES)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = _open(browser, url, "light", 1440, 1000)
        _visit(page)
        _save(page, out / "console-light.png")
        page = _open(browser, url, "dark", 1440, 1290)
        _visit(page)
        page.fill("#k", "3")
        page.locator("#k").blur()
        page.wait_for_timeout(1_500)
        _save(page, out / "console-dark.png")
        page = _open(browser, url, "light", 360, 780)
        _visit(page)
        page.evaluate("window.scrollBy(0, document.querySelector('.column').getBoundingClientRect().top - 66)")
        _save(page, out / "console-phone.png")
        with _traffic(url):
            page = _open(browser, f"{url}/#operations", "light", 1440, 860)
            page.wait_for_timeout(_WATCHED_SECONDS * 1_000)
            _save(page, out / "console-operations.png")
        browser.close()


def _save(page: Any, path: Path) -> None:
    """In 256 colours, which is all that a flat design has, and a third of the bytes."""
    page.mouse.move(2, 300)
    page.wait_for_timeout(600)
    picture = Image.open(io.BytesIO(page.screenshot()))
    picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def _open(browser: Any, url: str, scheme: str, width: int, height: int) -> Any:
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.goto(url)
    page.wait_for_selector("li.item", state="attached")
    page.wait_for_timeout(500)
    return page


def _visit(page: Any) -> None:
    """Somebody who likes coffee, and looks for headphones."""
    page.get_by_role("button", name="Coffee", exact=True).click()
    page.wait_for_timeout(1_000)
    for words in ("wireless headphones", "headphone cable"):
        page.fill("#search", words)
        page.wait_for_timeout(500)
        page.locator("#search-results button.title").first.click()
        page.wait_for_timeout(1_000)
    page.locator(".column[data-kind=hllm] li.item button.title").nth(2).click()
    page.wait_for_timeout(1_500)


@contextmanager
def _traffic(url: str) -> Iterator[None]:
    """Visitors, while somebody looks at the numbers."""
    is_over = threading.Event()
    threads = [threading.Thread(target=_shop, args=(url, random.Random(seed), is_over)) for seed in range(2)]
    for thread in threads:
        thread.start()
    yield
    is_over.set()
    for thread in threads:
        thread.join()


def _shop(url: str, rng: random.Random, is_over: threading.Event) -> None:
    while not is_over.is_set():
        history = [f"item-{rng.randint(1, 2_000):05}" for _ in range(rng.choice((0, 2, 5, 9, 14, 20)))]
        _post(f"{url}/recommend", {"history": history, "k": 10, "model": rng.choice(("hllm", "hatllm"))})
        if rng.random() < 0.3:
            event = {"user_id": f"u{rng.randint(1, 50)}", "item_id": "item-00001", "timestamp": int(time.time())}
            _post(f"{url}/events", {"events": [event]})
        time.sleep(rng.expovariate(12))


def _post(url: str, body: dict[str, Any]) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    urllib.request.urlopen(request).read()


if __name__ == "__main__":
    typer.run(main)
