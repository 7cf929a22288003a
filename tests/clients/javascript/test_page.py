"""The JavaScript client in a page of a real browser, whose site is not the service's own."""

import functools
import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from hatstand_client import Client
from tests.processes.redis_processes import RedisProcess
from tests.processes.service_process import service_process

ROOT = Path(__file__).parents[3]
KEY = "page-key-0123456789"
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# The click waits for others to go with it when the visitor leaves.
PAGE = """<!doctype html><title>a shop</title><script type="module">
import { Hatstand } from "./hatstand.js";
const shop = new Hatstand("SERVICE", { apiKey: "KEY", flushMs: 600_000 });
const answer = await shop.recommend({ history: ["i1"], k: 3 });
shop.track({ user_id: "page-visitor", item_id: answer.items[0].item_id, recommendation_id: answer.recommendation_id });
location.href = "next.html";
</script>"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        return


@contextmanager
def site(folder: Path) -> Iterator[str]:
    """A folder as a web site."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_click_is_reported_although_the_visitor_leaves_at_once(shop_root: Path, tmp_path: Path) -> None:
    chromium = next(filter(None, map(shutil.which, _NAMES)), None)
    if chromium is None:
        pytest.skip("no Chromium: apt-get install chromium")
    folder = tmp_path / "site"
    folder.mkdir()
    shutil.copy(ROOT / "clients/javascript/hatstand.js", folder)
    (folder / "next.html").write_text("<!doctype html><title>the next page</title>")
    key = {
        "name": "page",
        "sha256": hashlib.sha256(KEY.encode()).hexdigest(),
        "scopes": ["recommend", "events", "admin"],
    }
    with (
        site(folder) as origin,
        RedisProcess(tmp_path / "redis") as redis,
        service_process(
            tmp_path / "service.log",
            store=str(shop_root),
            redis_url=redis.url,
            api_keys=json.dumps([key]),
            cors_origins=json.dumps([origin]),
        ) as service,
        Client(service.url, api_key=KEY) as client,
    ):
        (folder / "index.html").write_text(PAGE.replace("SERVICE", service.url).replace("KEY", KEY))
        browser = subprocess.Popen(
            [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
            + ["--remote-debugging-port=0", origin],
            stderr=subprocess.DEVNULL,
        )
        try:
            ends_at = time.monotonic() + 60
            while not (history := client.user_history("page-visitor").history):
                assert time.monotonic() < ends_at, service.log()
                time.sleep(0.2)
        finally:
            browser.terminate()
            browser.wait(30)
    assert len(history) == 1
    assert history[0].recommendation_id
