"""What every format yields, and the checks that every row passes, whatever its format.

A bad row is skipped, counted, and sampled with its file and line; more than ``max_bad`` of a file's rows end
the job.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from model_store.errors import InvalidInput

MAX_ID_CHARACTERS = 256
MAX_TITLE_CHARACTERS = 10_000
MAX_ATTRIBUTE_CHARACTERS = 10_000
MAX_LIST_ENTRIES = 1_000
END_OF_TIME = 4_102_444_800  # 2100-01-01 in seconds
_MAX_SAMPLES = 20
_MAX_SHOWN = 60
_HOPELESS_ROWS = 1_000


class BadRow(Exception):
    """Why a row cannot be used."""


class RawInteraction(NamedTuple):
    """An interaction as its file has it. ``timestamp`` and ``rating`` are numbers or texts of numbers."""

    line: int
    user_id: Any
    item_id: Any
    timestamp: Any
    type: Any = None
    rating: Any = None


class RawItem(NamedTuple):
    """An item as its file has it."""

    line: int
    item_id: Any
    title: Any
    attributes: dict[str, Any]


class Interaction(NamedTuple):
    """A checked interaction; ``timestamp`` in seconds since 1970 or a rank."""

    user_id: str
    item_id: str
    timestamp: int
    type: str | None = None
    rating: float | None = None


class Item(NamedTuple):
    """A checked item. Attributes are bool, int, float, str or list[str]; absent ones are left out.

    ``origin`` names file and line for messages.
    """

    item_id: str
    title: str
    attributes: dict[str, Any]
    origin: str = ""


@dataclass
class RowLog:
    """Counts the rows of one file.

    Attributes:
        path: The file.
        max_bad: Which fraction of its rows may be bad, in 0..1.
        rows: Rows seen, bad ones included.
        bad_rows: Bad ones.
        samples: The first bad ones: line and reason.
    """

    path: Path
    max_bad: float
    rows: int = 0
    bad_rows: int = 0
    samples: list[dict[str, Any]] = field(default_factory=list)

    def add_bad(self, line: int, reason: str) -> None:
        """Counts a row as seen and bad.

        Raises:
            InvalidInput: No bad row is allowed, or most rows of the file so far are bad.
        """
        self.rows += 1
        self.bad_rows += 1
        if len(self.samples) < _MAX_SAMPLES:
            self.samples.append({"line": line, "reason": reason})
        if self.max_bad == 0 or (self.bad_rows > _HOPELESS_ROWS and self._is_past_limit(max(self.max_bad, 0.5))):
            self._fail()

    def finish(self) -> None:
        """Judges the file as a whole.

        Raises:
            InvalidInput: More than ``max_bad`` of its rows are bad.
        """
        if self._is_past_limit(self.max_bad):
            self._fail()

    def report(self) -> dict[str, Any]:
        """For ``dataset.json``."""
        return {"file": str(self.path), "rows": self.rows, "bad_rows": self.bad_rows, "samples": self.samples}

    def _is_past_limit(self, limit: float) -> bool:
        return self.bad_rows > limit * self.rows

    def _fail(self) -> None:
        first = self.samples[0]
        raise InvalidInput(
            f"{self.path}, line {first['line']}: {first['reason']}; {self.bad_rows} of {self.rows} rows are "
            f"bad, more than --max-bad {self.max_bad:g} allows"
        )


ItemReader = Callable[[Path, RowLog], Iterator[RawItem]]
InteractionReader = Callable[[Path, RowLog], Iterator[RawInteraction]]


@dataclass(frozen=True)
class Source:
    """Where a dataset comes from.

    Attributes:
        format: Name of the format.
        item_files: With the reader of each.
        interaction_files: With the reader of each; their order is the input order.
        ticks_per_second: Of the timestamps: 1 for seconds (and ranks), 1000 for milliseconds.
        repeated_items: Whether an item id that occurs twice is an error, or its first row counts.
    """

    format: str
    item_files: tuple[tuple[Path, ItemReader], ...]
    interaction_files: tuple[tuple[Path, InteractionReader], ...]
    ticks_per_second: int = 1
    repeated_items: Literal["error", "first"] = "error"


def check_item(row: RawItem, path: Path) -> Item:
    """Checks and types an item of a file.

    Raises:
        BadRow: No id, or a text that is far too long.
    """
    title = "" if row.title is None else str(row.title).strip()
    if len(title) > MAX_TITLE_CHARACTERS:
        raise BadRow(f"a title of {len(title)} characters, expected at most {MAX_TITLE_CHARACTERS}")
    attributes = {}
    for name, value in row.attributes.items():
        typed = _attribute_value(value)
        if typed is not None:
            attributes[name] = typed
    return Item(_identifier(row.item_id, "item_id"), title, attributes, f"{path}, line {row.line}")


def check_interaction(row: RawInteraction, ticks_per_second: int) -> Interaction:
    """Checks and types an interaction.

    Raises:
        BadRow: An id is missing, or a number is none or out of range.
    """
    return Interaction(
        _identifier(row.user_id, "user_id"),
        _identifier(row.item_id, "item_id"),
        _seconds(row.timestamp, ticks_per_second),
        _identifier(row.type, "type") if row.type else None,
        None if row.rating is None or row.rating == "" else _rating(row.rating),
    )


def _identifier(value: Any, name: str) -> str:
    if type(value) is not str:
        if type(value) is not int:
            raise BadRow(f"{name} is {_shown(value)}, expected a text or a whole number")
        value = str(value)
    if not value or value.isspace():
        raise BadRow(f"{name} is empty")
    if len(value) > MAX_ID_CHARACTERS:
        raise BadRow(f"{name} has {len(value)} characters, expected at most {MAX_ID_CHARACTERS}")
    return value


def _seconds(value: Any, ticks_per_second: int) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        # int() of a float or text first: exact, and by far the most frequent case
        ticks = int(value) if not isinstance(value, float) else math.floor(value)
    except (TypeError, ValueError, OverflowError):
        ticks = _floor_of_text(value)
    seconds = ticks // ticks_per_second
    if not 0 <= seconds < END_OF_TIME:
        hint = ""
        if ticks_per_second == 1 and 0 <= seconds // 1000 < END_OF_TIME:
            hint = " (milliseconds? use --time-unit milliseconds)"
        raise BadRow(f"timestamp {_shown(value)} is not between the years 1970 and 2100{hint}")
    return seconds


def _floor_of_text(value: Any) -> int:
    try:
        return math.floor(float(value)) if isinstance(value, str) else _not_a_timestamp(value)
    except (ValueError, OverflowError):
        return _not_a_timestamp(value)


def _not_a_timestamp(value: Any) -> int:
    raise BadRow(f"timestamp {_shown(value)} is not a number")


def _rating(value: Any) -> float:
    try:
        rating = float(value)
    except (TypeError, ValueError) as error:
        raise BadRow(f"rating {_shown(value)} is not a number") from error
    if not math.isfinite(rating):
        raise BadRow(f"rating {_shown(value)} is not a finite number")
    return rating


def _attribute_value(value: Any) -> Any:
    """As bool, int, float, str or list[str]; None if there is nothing in it."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.strip()[:MAX_ATTRIBUTE_CHARACTERS] or None
    if isinstance(value, list | tuple):
        entries = [entry if isinstance(entry, str) else _as_text(entry) for entry in value[:MAX_LIST_ENTRIES]]
        return [entry.strip()[:MAX_ATTRIBUTE_CHARACTERS] for entry in entries if entry.strip()] or None
    return _as_text(value)[:MAX_ATTRIBUTE_CHARACTERS] or None if value else None


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict | list) else str(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
