"""What the service says once it listens: where, and a command that works when pasted."""

import json
import logging

from service.settings import Settings

LOGGER = logging.getLogger("service")


def announce(settings: Settings, url: str, example: str | None, *, num_workers: int = 1) -> None:
    """Logs the address, and an example.

    Args:
        settings: Checked values.
        url: Where a caller on this machine finds the service.
        example: The body of a request to ``/recommend``; None where no bundle is live.
        num_workers: Processes that serve.
    """
    workers = f"; {num_workers} workers" if num_workers > 1 else ""
    LOGGER.info("serving on %s (documentation at %s/docs%s)", url, url, workers)
    if settings.has_console:
        LOGGER.info("the console: %s/", url)
    if example is None:
        LOGGER.warning(
            "no bundle is live in %s, so /recommend answers 503: publish one (offline.build, offline.demo, "
            "offline.reindex), or set HATSTAND_STORE to the store that has one",
            settings.store,
        )
    else:
        key = " -H 'authorization: Bearer <key>'" if settings.api_keys else ""
        LOGGER.info("try it:\ncurl -s %s/recommend -H 'content-type: application/json'%s -d '%s'", url, key, example)


def example_body(history: list[str]) -> str:
    """A request with a history, to be put between the quotes of a shell."""
    # JSON may write an apostrophe as an escape; the shell's quotes may not hold one.
    return json.dumps({"history": history, "k": 5}).replace("'", "\\u0027")
