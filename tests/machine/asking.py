"""The request path machine's requests: alone, many at once, and page after page; every answer is checked."""

import time
from collections import deque
from random import Random
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.machine.checks import Checker, Tally
from tests.machine.model import Model, Person
from tests.machine.requests import random_request
from tests.machine.shop import Shop, World

# Requests that a hung Redis holds up wait no longer.
HUNG_MS = 200
NUM_AT_ONCE = 20
NUM_AFTER_EACH = 3
# This share of the requests are earlier ones once more, of so many.
_AGAIN = 0.3
_NUM_ASKED = 12

SEEDS = st.integers(0, 2**32 - 1)


class Dice(Random):
    """Says how it was seeded. What is drawn from it may hang on the answers, as what Hypothesis draws must not."""

    def __init__(self, source: int) -> None:
        super().__init__(source)
        self.source = source

    def __repr__(self) -> str:
        return f"Dice({self.source})"


RANDOMS = SEEDS.map(Dice)


class Asking(RuleBasedStateMachine):
    """Each example has a service of its own; Redis and the model store are shared, and emptied."""

    world: ClassVar[World]
    tally: ClassVar[Tally]
    num_after_each: ClassVar[int] = NUM_AFTER_EACH
    random: Random

    def __init__(self) -> None:
        super().__init__()
        self.shop = Shop(self.world)
        self.users = [f"user-{number}" for number in range(4)]
        self.sessions = [f"session-{number}" for number in range(2)]
        self.model = Model(
            {name: Person() for name in self.users},
            {name: Person() for name in self.sessions},
            {kind: {bundle_id} for kind, bundle_id in self.world.first.items()},
        )
        self.checker = Checker(self.world, self.model, self.tally)
        self.asked: deque[dict[str, Any]] = deque(maxlen=_NUM_ASKED)
        self.clock = 0
        self.soon = int(time.time()) - 20_000

    def _requests(self, random: Random, number: int) -> list[dict[str, Any]]:
        return [self._request(random) for _ in range(number)]

    def _request(self, random: Random) -> dict[str, Any]:
        longest = HUNG_MS if self.shop.redis_state == "hung" else None
        body = random_request(random, self.users, self.sessions, longest_ms=longest)
        if self.asked and random.random() < _AGAIN:
            # what was asked before is asked again, whatever has happened since
            patience = {name: body[name] for name in ("timeout_ms",) if name in body}
            body = random.choice(self.asked) | patience
        self.asked.append(body)
        people = self.model.people(body)
        if len(people) == 1 and people[0].tokens and random.random() < 0.3:
            return {**body, "min_event_token": people[0].tokens[-1]}
        return body

    def _recommend(self, random: Random, number: int) -> None:
        requests = self._requests(random, number)
        self._learn_what_is_shown()
        answers = self.shop.ask(*(("POST", "/recommend", one) for one in requests))
        for request, answer in zip(requests, answers, strict=True):
            self.checker.check(request, answer, is_whole=self.shop.is_whole)

    @invariant()
    def after_each_step(self) -> None:
        self._recommend(self.random, self.num_after_each)

    @rule(number=st.integers(1, 3), random=RANDOMS)
    def recommend(self, number: int, random: Random) -> None:
        self._recommend(random, number)

    @rule(source=SEEDS)
    def recommend_many(self, source: int) -> None:
        self._recommend(Random(source), NUM_AT_ONCE)

    @rule(source=SEEDS)
    def recommend_many_more(self, source: int) -> None:
        self._recommend(Random(source), 2 * NUM_AT_ONCE)

    @rule(random=RANDOMS)
    def read_all_pages(self, random: Random) -> None:
        """Page after page, until the list ends or Redis cannot be asked for more of it."""
        self._learn_what_is_shown()
        body = {**self._requests(random, 1)[0], "k": random.choice([5, 10, 30]), "paginate": True}
        for name in ("max_per", "scenario", "mode"):
            body.pop(name, None)
        (answer,) = self.shop.ask(("POST", "/recommend", body))
        self.checker.check(body, answer, is_whole=False)
        first = page = answer.json()
        found = [item["item_id"] for item in first["items"]]
        more = {name: body[name] for name in ("user_id", "session_id", "k", "timeout_ms") if name in body}
        while page["next_cursor"]:
            (answer,) = self.shop.ask(("POST", "/recommend", {**more, "cursor": page["next_cursor"]}))
            if answer.status_code == 503:
                break
            assert answer.status_code == 200, answer.text
            page = answer.json()
            assert page["bundle"] == first["bundle"], answer.text
            assert page["items"][0]["rank"] == len(found) + 1, answer.text
            found += [item["item_id"] for item in page["items"]]
        has_ended = page["next_cursor"] is None and not any("pages_unavailable" in one for one in page["warnings"])
        self.checker.check_pages(body, found, first, all_read=has_ended)

    def _learn_what_is_shown(self) -> None:
        """What was shown again is shown from when the process has heard of it; which is at the next request."""
        if self.shop.redis_state == "up":
            hidden = self.shop.service.hidden.last_known.item_ids
            self.model.maybe_hidden &= hidden
