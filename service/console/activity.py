"""What visitors did lately, in numbers for those who run the shop."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from model_store.people.event_log import CONSOLE_ORIGIN, LoggedEvent

NUM_BINS = 30
NUM_TOP = 10


def summarize(events: Sequence[tuple[float, LoggedEvent]], *, since: float, until: float) -> dict[str, Any]:
    """Counts events; those of the console are only counted by themselves.

    Args:
        events: (when it came, seconds since 1970; what it says).
        since: Beginning of the time that they are of.
        until: Its end.

    Returns:
        ``events`` of all visitors, ``console`` of the console, ``visitors``, ``sessions``, ``by_type``, ``by_origin``,
        (``NUM_BINS``,) ``bins`` of equal parts of the time, ``top_items`` and ``top_users`` with numbers of events.
    """
    real = [(came_at, event) for came_at, event in events if event.properties.get("origin") != CONSOLE_ORIGIN]
    width = max(until - since, 1e-3) / NUM_BINS
    bins = [0] * NUM_BINS
    for came_at, _ in real:
        bins[min(max(int((came_at - since) / width), 0), NUM_BINS - 1)] += 1
    items = Counter(event.item_id for _, event in real)
    bought = Counter(event.item_id for _, event in real if event.type == "purchase")
    users = Counter(event.owner.id for _, event in real if not event.owner.is_session)
    return {
        "events": len(real),
        "console": len(events) - len(real),
        "visitors": len({event.owner for _, event in real}),
        "sessions": len({event.owner for _, event in real if event.owner.is_session}),
        "by_type": dict(Counter(event.type for _, event in real).most_common(NUM_TOP)),
        "by_origin": dict(Counter(_origin(event) for _, event in real).most_common(NUM_TOP)),
        "bins": bins,
        "top_items": [
            {"item_id": item_id, "events": count, "purchases": bought[item_id]}
            for item_id, count in items.most_common(NUM_TOP)
        ],
        "top_users": [{"user_id": user_id, "events": count} for user_id, count in users.most_common(NUM_TOP)],
    }


def _origin(event: LoggedEvent) -> str:
    origin = event.properties.get("origin")
    return origin if isinstance(origin, str) and origin else "shop"
