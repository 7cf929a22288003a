"""A browser, a service and pages, for every module that names this one in its ``pytest_plugins``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.redis.embedded import EmbeddedRedis
from service.settings import Settings
from tests.service.console.console_browser import Console, NewConsole, find_chromium, make_store, serving


# One browser for the module, ended with it: Playwright's loop must not meet those of the asynchronous tests.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    executable = find_chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, str]]:
    root = tmp_path_factory.mktemp("console") / "store"
    return root, make_store(root)


@pytest.fixture(scope="module")
def console_settings(store: tuple[Path, tuple[str, str]], redis_server: EmbeddedRedis) -> Settings:
    return Settings(store=str(store[0]), redis_url=redis_server.url, torch_threads=1)


@pytest.fixture(scope="module")
def url(browser: Any, console_settings: Settings) -> Iterator[str]:
    with serving(console_settings) as url:
        yield url


@pytest.fixture
def new_console(browser: Any, url: str) -> Iterator[NewConsole]:
    """Makes consoles; none of them may have had anything to complain of at the end."""
    opened: list[tuple[Any, Console, bool]] = []

    def make(*, at: str = url, may_complain: bool = False, **context: Any) -> Console:
        made = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
        made.set_default_timeout(10_000)
        console = Console(made.new_page(), at)
        opened.append((made, console, may_complain))
        return console

    yield make
    complaints = [
        complaint for _, console, may_complain in opened if not may_complain for complaint in console.complaints
    ]
    for made, _, _ in opened:
        made.close()
    assert complaints == []


@pytest.fixture
def console(new_console: NewConsole) -> Console:
    return new_console().open()
