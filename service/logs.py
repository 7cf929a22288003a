"""How log lines look: text to read, or one JSON object per line; each with the id of the request that it belongs to.

Nothing here or elsewhere logs a key, a body, or who a user is: paths hold user ids, so routes are logged by template.
"""

import logging
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import orjson

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)

_MAX_KINDS = 1_000
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# What every record has; the rest was given as ``extra`` and becomes a field.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "request_id",
    "color_message",
    "taskName",
}


def configure(level: str, log_format: Literal["text", "json"], stream: TextIO | None = None) -> None:
    """Sets how and from which level on lines are written; may be called again.

    Args:
        level: From here on lines are written.
        log_format: How.
        stream: Where to; standard error by default.
    """
    handler = _OwnHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter(_TEXT))
    handler.addFilter(_add_request_id)
    handler.addFilter(Throttle())
    root = logging.getLogger()
    for earlier in [one for one in root.handlers if isinstance(one, _OwnHandler)]:
        root.removeHandler(earlier)
    root.addHandler(handler)
    root.setLevel(level)


class _OwnHandler(logging.StreamHandler[TextIO]):
    """Known again, so that handlers of others are left alone."""


class Throttle(logging.Filter):
    """Lets a warning or error through some times in a while, and then says how many more there were.

    When Redis is away every request has something to say about it; a full disk of that would be the next fault.

    Args:
        max_lines: Of one kind in one period; a kind is a logger and its text before values are filled in.
        period_seconds: How long a while is.
        clock: Seconds.
    """

    def __init__(
        self,
        *,
        max_lines: int = 20,
        period_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._max_lines = max_lines
        self._period_seconds = period_seconds
        self._clock = clock
        self._periods: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        if record.levelno < logging.WARNING:
            return True
        kind, now = (record.name, str(record.msg)), self._clock()
        began, count = self._periods.get(kind, (now, 0))
        if now - began >= self._period_seconds:
            if count > self._max_lines:
                record.left_out = count - self._max_lines
            began, count = now, 0
        if len(self._periods) >= _MAX_KINDS and kind not in self._periods:
            self._periods.clear()
        self._periods[kind] = (began, count + 1)
        return count < self._max_lines


class TextFormatter(logging.Formatter):
    """The usual line, then fields, then the request id where there is one."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """One line without its traceback."""
        fields = [f"{name}={value}" for name, value in _fields(record).items()]
        request_id = getattr(record, "request_id", None)
        fields += [f"request_id={request_id}"] if request_id else []
        return " ".join([super().formatMessage(record), *fields])


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """The whole record, traceback included."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        request_id = getattr(record, "request_id", None)
        if request_id:
            line["request_id"] = request_id
        line |= _fields(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _add_request_id(record: logging.LogRecord) -> bool:
    if not hasattr(record, "request_id"):
        record.request_id = REQUEST_ID.get()
    return True
