"""What is asked of the service, and of LitServe: requests, and the histories that must be there before."""

import json
import random
import time
from collections.abc import Sequence
from itertools import count
from typing import Any, Protocol

from benchmarks.serving.load import Operation, Post
from benchmarks.serving.processes import Server
from benchmarks.serving.store import Served

# Users who come back: few enough that what is kept of them fits the caches.
POOL_USERS = 64
# Items that every request asks for.
K = 10
_EVENTS_PER_POST = 1_000
# Histories end before any event that is reported later.
_AGE_SECONDS = 1_000_000
_names = count()


class Traffic(Protocol):
    """Makes operations that are good for one use."""

    @property
    def marker(self) -> str:
        """What a good answer contains."""
        ...

    def prepare(self, number: int) -> list[Operation]:
        """So many operations; fewer if they may be repeated."""
        ...


class _ServiceTraffic:
    """Of one kind of model, to the service.

    Args:
        server: The service.
        served: What it serves.
    """

    marker = '"source":"model"'

    def __init__(self, server: Server, served: Served) -> None:
        self.server = server
        self.served = served
        self._chance = random.Random(next(_names))
        self._latest = int(time.time()) - _AGE_SECONDS

    def recommend(self, user_id: str) -> Post:
        """Asks for ten items with their titles."""
        body = {"user_id": user_id, "k": K, "model": self.served.kind, "return_fields": ["title"]}
        return "/recommend", json.dumps(body)

    def event(self, user_id: str) -> dict[str, Any]:
        """The user's next one, with a random item."""
        self._latest += 1
        item_id = self._chance.choice(self.served.item_ids)
        return {"user_id": user_id, "item_id": item_id, "type": "click", "timestamp": self._latest}

    def new_users(self, number: int) -> list[str]:
        """Users with a full history in Redis, whom the model has never seen."""
        user_ids = [f"user-{next(_names)}" for _ in range(number)]
        events = [self.event(user_id) for user_id in user_ids for _ in range(self.served.history_length)]
        for start in range(0, len(events), _EVENTS_PER_POST):
            self.server.post("/events", {"events": events[start : start + _EVENTS_PER_POST]})
        return user_ids


class SameQuestion(_ServiceTraffic):
    """Users who ask what they have asked before: neither a model nor a search runs."""

    def __init__(self, server: Server, served: Served) -> None:
        super().__init__(server, served)
        self._user_ids = self.new_users(POOL_USERS)
        self._posts = [self.recommend(user_id) for user_id in self._user_ids]
        for path, body in self._posts:
            server.post(path, json.loads(body))

    def question(self) -> tuple[str, dict[str, Any]]:
        """Path and body of one of them."""
        path, body = self._posts[0]
        return path, json.loads(body)

    def prepare(self, number: int) -> list[Operation]:  # noqa: ARG002
        """One for each user."""
        return [[post] for post in self._posts]


class Cached(SameQuestion):
    """Users whose embedding has not changed, but their question has: no model runs, and all the rest does."""

    def prepare(self, number: int) -> list[Operation]:
        """As many as that, users taking turns."""
        return [[self._without_one(self._user_ids[turn % POOL_USERS])] for turn in range(number)]

    def _without_one(self, user_id: str) -> Post:
        """Asks for any items but one, a different one each time."""
        path, body = self.recommend(user_id)
        return path, json.dumps({**json.loads(body), "exclude_item_ids": [self._chance.choice(self.served.item_ids)]})


class Uncached(_ServiceTraffic):
    """Users who were never asked for before, each once: the model reads their whole history."""

    def prepare(self, number: int) -> list[Operation]:
        """As many as that."""
        return [[self.recommend(user_id)] for user_id in self.new_users(number)]


class OneNewEvent(_ServiceTraffic):
    """Users who report an event and then ask: two requests, one after the other."""

    def __init__(self, server: Server, served: Served) -> None:
        super().__init__(server, served)
        self._user_ids = self.new_users(POOL_USERS)
        for user_id in self._user_ids:
            path, body = self.recommend(user_id)
            server.post(path, json.loads(body))
        self._turn = 0

    def prepare(self, number: int) -> list[Operation]:
        """As many as that, users taking turns."""
        return [self._operation() for _ in range(number)]

    def _operation(self) -> Sequence[Post]:
        user_id = self._user_ids[self._turn % POOL_USERS]
        self._turn += 1
        return [("/events", json.dumps({"events": [self.event(user_id)]})), self.recommend(user_id)]


class Reports(_ServiceTraffic):
    """Users who report events, and ask nothing.

    Args:
        server: The service.
        served: What it serves.
        num_events: Of one post.
    """

    marker = '"accepted":'

    def __init__(self, server: Server, served: Served, num_events: int) -> None:
        super().__init__(server, served)
        self._num_events = num_events
        self._turn = 0

    def prepare(self, number: int) -> list[Operation]:
        """As many posts as that, of new events."""
        return [[self._post()] for _ in range(number)]

    def _post(self) -> Post:
        users = (f"reporter-{(self._turn + at) % POOL_USERS}" for at in range(self._num_events))
        self._turn += self._num_events
        return "/events", json.dumps({"events": [self.event(user_id) for user_id in users]})


class PlainHistories:
    """Histories in the requests themselves, for a server that keeps none.

    Args:
        served: What it serves.
    """

    marker = '"items"'

    def __init__(self, served: Served) -> None:
        self._served = served
        self._chance = random.Random(0)

    def prepare(self, number: int) -> list[Operation]:
        """As many as that."""
        item_ids, length = self._served.item_ids, self._served.history_length
        return [
            [("/predict", json.dumps({"history": self._chance.choices(item_ids, k=length), "k": K}))]
            for _ in range(number)
        ]


class Repeated:
    """One request again and again, for the HTTP floors.

    Args:
        path: Of the route.
    """

    marker = ""

    def __init__(self, path: str) -> None:
        self._path = path

    def prepare(self, number: int) -> list[Operation]:  # noqa: ARG002
        """The same that the service is asked."""
        body = {"user_id": "user-0", "k": K, "model": "hllm", "return_fields": ["title"]}
        return [[(self._path, json.dumps(body))]]
