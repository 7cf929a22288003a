"""Histories for tests, written as rows."""

from collections.abc import Iterable

from service.people.interactions import Interactions

Row = tuple[str, int | None, str | None]


def done(item_id: str, timestamp: int | None = None, kind: str | None = None) -> Row:
    """One interaction; what is left out nobody has said."""
    return item_id, timestamp, kind


def past(rows: Iterable[Row]) -> Interactions:
    """A history, oldest first."""
    return Interactions.from_rows(rows)
