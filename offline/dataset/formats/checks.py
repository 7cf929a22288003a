"""The checks that every row passes, whatever its format; they give a row its types."""

import json
import math
from typing import Any

from offline.dataset.formats.clock import Clock
from offline.dataset.formats.markup import plain_text
from offline.dataset.formats.rows import BadRow, Interaction, Item, RawInteraction, RawItem, RowLog, shown

MAX_ID_CHARACTERS = 256
MAX_TITLE_CHARACTERS = 10_000
MAX_ATTRIBUTE_CHARACTERS = 10_000
MAX_LIST_ENTRIES = 1_000
_DESCRIPTION = "description"


def check_item(row: RawItem, log: RowLog, *, cut_title: bool = False) -> Item:
    """Checks and types an item of a file.

    Args:
        row: As the file has it.
        log: Of the file; is told of titles that are empty or cleaned.
        cut_title: Cut a title that is far too long instead of refusing the row.

    Raises:
        BadRow: No id, a title that is no text, or one that is far too long.
    """
    item_id = _identifier(row.item_id, "item_id")
    title = _title(row.title)
    if len(title) > MAX_TITLE_CHARACTERS:
        if not cut_title:
            raise BadRow(f"a title of {len(title)} characters, expected at most {MAX_TITLE_CHARACTERS}")
        title = title[:MAX_TITLE_CHARACTERS]
    cleaned = plain_text(title)
    if cleaned != title:
        log.add_finding("cleaned_titles", row.line, shown(title))
    if not cleaned:
        log.add_finding("untitled_items", row.line, f"item_id {item_id}")
    return Item(item_id, cleaned, _attributes(row, log), f"{log.path}, line {row.line}")


def check_interaction(row: RawInteraction, clock: Clock) -> Interaction:
    """Checks and types an interaction.

    Args:
        row: As the file has it.
        clock: Reads its timestamp.

    Raises:
        BadRow: An id is missing, or a number is none or out of range.
    """
    return Interaction(
        _identifier(row.user_id, "user_id"),
        _identifier(row.item_id, "item_id"),
        clock.read(row.timestamp),
        _identifier(row.type, "type") if row.type else None,
        None if row.rating is None or row.rating == "" else _rating(row.rating),
    )


def _identifier(value: Any, name: str) -> str:
    if type(value) is not str:
        if type(value) is not int:
            hint = "; write it in quotes" if isinstance(value, float) else ""
            raise BadRow(f"{name} is {shown(value)}, expected a text or a whole number of at most 64 bits{hint}")
        value = str(value)
    if not value or value.isspace():
        raise BadRow(f"{name} is empty")
    if len(value) > MAX_ID_CHARACTERS:
        raise BadRow(f"{name} has {len(value)} characters, expected at most {MAX_ID_CHARACTERS}")
    return value


def _title(value: Any) -> str:
    if isinstance(value, list | dict):
        raise BadRow(f"title is {shown(value)}, expected a text")
    return "" if value is None else str(value).strip()


def _attributes(row: RawItem, log: RowLog) -> dict[str, Any]:
    attributes = {}
    for name, value in row.attributes.items():
        typed = _attribute_value(value)
        if name == _DESCRIPTION and isinstance(typed, str):
            cleaned = plain_text(typed)
            if cleaned != typed:
                log.add_finding("cleaned_descriptions", row.line)
                typed = cleaned or None
        if typed is not None:
            attributes[name] = typed
    return attributes


def _rating(value: Any) -> float:
    try:
        rating = float(value)
    except (TypeError, ValueError) as error:
        raise BadRow(f"rating {shown(value)} is not a number") from error
    if not math.isfinite(rating):
        raise BadRow(f"rating {shown(value)} is not a finite number")
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
