"""Random bodies of ``POST /recommend`` for the shop of the request path machine; all of them are valid."""

from collections.abc import Sequence
from random import Random
from typing import Any

from tests.machine.shop import CATEGORIES, LAST_NUMBER, RULES

TYPES = ("click", "purchase", "view")


def random_item(random: Random) -> str:
    """Of one catalogue or both, or of none."""
    return f"i{random.randint(1, LAST_NUMBER)}"


def random_request(
    random: Random, users: Sequence[str], sessions: Sequence[str], *, longest_ms: int | None = None
) -> dict[str, Any]:
    """Somebody's request.

    Args:
        longest_ms: No request waits for longer.
    """
    body: dict[str, Any] = {**_who(random, users, sessions), "return_fields": ["title", "price"]}
    body["k"] = random.choice([1, 3, 5, 10, 10, 10, 30, 500])
    timeout = random.choice([None, None, None, 5_000, 1_000, 100, 20, 5, 1])
    if longest_ms is not None:
        timeout = min(longest_ms, timeout or longest_ms)
    if timeout is not None:
        body["timeout_ms"] = timeout
    if random.random() < 0.5:
        body["model"] = random.choice(["hllm", "hatllm"])
    if random.random() < 0.4:
        body["filter"] = random_filter(random)
    if random.random() < 0.3:
        body["exclude_item_ids"] = [random_item(random) for _ in range(random.choice([1, 5, 60]))]
    body |= _seen(random)
    for name, chance, choices in (
        ("diversity", 0.15, [0.3, 1.0]),
        ("explain", 0.1, [True]),
        ("scenario", 0.15, sorted(RULES)),
        ("segment", 0.2, [{}, {"value": "Books"}, {"attribute": "tags", "value": "even"}]),
        ("max_per", 0.15, [{"category": 2}, {"tags": 1, "category": 10}, {"price": 1}, {"is_new": 3}]),
    ):
        if random.random() < chance:
            body[name] = random.choice(choices)
    if random.random() < 0.02 and body["k"] <= 10:
        body |= {"model": "hatllm", "mode": "generate"}
    return body


def _who(random: Random, users: Sequence[str], sessions: Sequence[str]) -> dict[str, Any]:
    dice = random.random()
    who: dict[str, Any] = {}
    if dice < 0.7:
        who["user_id"] = random.choice(users)
    if 0.6 < dice < 0.8:
        who["session_id"] = random.choice(sessions)
    if not who or random.random() < 0.1:
        history: list[Any] = [random_item(random) for _ in range(random.choice([0, 1, 3, 12]))]
        if random.random() < 0.3:
            history = [{"item_id": item_id, "type": random.choice(TYPES)} for item_id in history]
        who["history"] = history
    return who


def _seen(random: Random) -> dict[str, Any]:
    dice = random.random()
    if dice < 0.1:
        return {"exclude_seen": False}
    if dice < 0.2:
        return {"seen_types": random.sample(TYPES, random.randint(1, 2))}
    # far from the age of any event: those of long ago, and those of the last hours
    return {"seen_max_age_seconds": random.choice([1, 50_000, 2_000_000_000])} if dice < 0.3 else {}


def random_filter(random: Random, depth: int = 0) -> dict[str, Any]:
    """A tree of conditions on the attributes of the shop."""
    sent = dict(_condition(random) for _ in range(random.choice([1, 1, 1, 2]) if depth else random.choice([1, 1, 2])))
    if depth < 2 and random.random() < 0.3:
        inner = [random_filter(random, depth + 1) for _ in range(random.randint(1, 2))]
        more: list[dict[str, Any]] = [{"and": inner}, {"or": inner}, {"or": inner}, {"not": inner[0]}]
        sent |= random.choice(more)
    return sent


def _condition(random: Random) -> tuple[str, dict[str, Any]]:
    low = random.randint(0, 45)
    conditions: list[tuple[str, dict[str, Any]]] = [
        ("category", {random.choice(["any_of", "none_of"]): random.sample(CATEGORIES, random.randint(1, 2))}),
        ("category", {"gte": "B"}),
        ("price", {"gte": low, "lte": low + random.choice([0, 5, 40])}),
        ("price", {"exists": random.choice([True, False])}),
        ("stock", {random.choice(["gte", "lte"]): low}),
        ("stock", {"any_of": [low, low + 1, 3]}),
        ("is_new", {random.choice(["any_of", "none_of"]): [random.choice([True, False])]}),
        ("tags", {random.choice(["any_of", "none_of"]): [random.choice(["even", "odd", "solo", "none"])]}),
        ("tags", {"exists": random.choice([True, False])}),
    ]
    return random.choice(conditions)
