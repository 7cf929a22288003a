"""Log lines: one JSON object each, with the request's id; and not the same line a thousand times a second."""

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest

from service.logs import REQUEST_ID, Throttle, configure


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_json_line_has_the_request_its_fields_and_its_traceback(stream: io.StringIO) -> None:
    configure("INFO", "json", stream)
    token = REQUEST_ID.set("abc-1")
    try:
        raise ValueError("broken\nin two lines")
    except ValueError:
        logging.getLogger("shop").error("could not %s", "serve", exc_info=sys.exc_info(), extra={"bundle": "b1"})
    finally:
        REQUEST_ID.reset(token)
    logging.getLogger("shop").debug("not written")
    (line,) = stream.getvalue().splitlines()
    entry = json.loads(line)
    assert {name: entry[name] for name in ("level", "logger", "message", "request_id", "bundle")} == {
        "level": "ERROR",
        "logger": "shop",
        "message": "could not serve",
        "request_id": "abc-1",
        "bundle": "b1",
    }
    assert "ValueError: broken" in entry["exception"]


def test_a_text_line_ends_with_the_same(stream: io.StringIO) -> None:
    configure("INFO", "text", stream)
    token = REQUEST_ID.set("abc-2")
    logging.getLogger("shop").warning("slow", extra={"milliseconds": 7})
    REQUEST_ID.reset(token)
    logging.getLogger("shop").info("fine")
    first, second = stream.getvalue().splitlines()
    assert first.endswith("WARNING shop: slow milliseconds=7 request_id=abc-2")
    assert second.endswith("INFO shop: fine")


def test_configuring_again_replaces_only_its_own_handler(stream: io.StringIO) -> None:
    other = logging.NullHandler()
    logging.getLogger().addHandler(other)
    configure("INFO", "text", io.StringIO())
    configure("WARNING", "json", stream)
    assert other in logging.getLogger().handlers
    logging.getLogger("shop").info("not written")
    logging.getLogger("shop").warning("once")
    assert len(stream.getvalue().splitlines()) == 1


def test_a_warning_that_comes_all_the_time_is_written_some_times_and_then_counted() -> None:
    now = [0.0]
    throttle = Throttle(max_lines=3, period_seconds=10, clock=lambda: now[0])

    def record(level: int = logging.WARNING, message: str = "Redis failed to %s") -> logging.LogRecord:
        return logging.makeLogRecord({"name": "shop", "levelno": level, "msg": message})

    assert sum(throttle.filter(record()) for _ in range(100)) == 3
    assert throttle.filter(record(message="another"))
    assert all(throttle.filter(record(logging.INFO)) for _ in range(100))
    now[0] = 11
    later = record()
    assert throttle.filter(later)
    assert later.left_out == 97  # type: ignore[attr-defined]
