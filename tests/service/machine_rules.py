"""What may happen in the request path machine, one step each; every answer is checked, whatever it was for."""

import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from random import Random
from typing import Any, ClassVar

import httpx2
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from model_store.event_log import LoggedEvent, Owner, read_entry
from service.sessions.keys import log_key
from tests.service.machine_checks import Checker, Tally
from tests.service.machine_model import Model, Person, Reported
from tests.service.machine_requests import TYPES, random_item, random_request
from tests.service.machine_shop import LAST_NUMBER, Shop, World

LONG_AGO = 1_700_000_000
# Requests that a hung Redis holds up wait no longer.
HUNG_MS = 200
NUM_AT_ONCE = 20
NUM_AFTER_EACH = 3

KINDS = st.sampled_from(["hllm", "hatllm"])
SEEDS = st.integers(0, 2**32 - 1)
ITEMS = st.integers(1, LAST_NUMBER).map(lambda number: f"i{number}")


class Dice(Random):
    """Says how it was seeded. What is drawn from it may hang on the answers, as what Hypothesis draws must not."""

    def __init__(self, source: int) -> None:
        super().__init__(source)
        self.source = source

    def __repr__(self) -> str:
        return f"Dice({self.source})"


RANDOMS = SEEDS.map(Dice)


class RequestPath(RuleBasedStateMachine):
    """Each example has a service of its own; Redis and the model store are shared, and emptied."""

    world: ClassVar[World]
    tally: ClassVar[Tally]
    num_after_each: ClassVar[int] = NUM_AFTER_EACH

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
        self.clock = 0
        self.soon = int(time.time()) - 20_000

    def teardown(self) -> None:
        failure = sys.exc_info()[1]  # what the example ended with, if it failed
        try:
            self.shop.mend()
            self.set_redis("up")
            if failure is None:
                self.look_at_everybody()
                self._recommend(Random(0), 10)
        except Exception as error:
            failure = error
            raise
        finally:
            if isinstance(failure, Exception) and not isinstance(failure, HypothesisException):
                self.tally.failures.append(f"{type(failure).__name__}: {failure}")
            self.shop.set_redis("up")
            self.shop.close()

    # events

    @initialize(source=SEEDS)
    def begin(self, source: int) -> None:
        self.random = random = Random(source)
        for name in [*self.users[1:], *self.sessions[1:]]:
            self._send([(name, self._event(random, is_late=False)) for _ in range(random.randint(1, 20))])

    @rule(number=st.integers(1, 6), random=RANDOMS)
    def report(self, number: int, random: Random) -> None:
        self._report(random, number, is_late=False)

    @rule(number=st.integers(1, 6), random=RANDOMS)
    def report_late(self, number: int, random: Random) -> None:
        self._report(random, number, is_late=True)

    @rule(source=SEEDS)
    def report_many(self, source: int) -> None:
        self._report(Random(source), 60, is_late=source % 2 == 0)

    @rule(random=RANDOMS)
    def report_again(self, random: Random) -> None:
        """One by one, so that it is known which were there."""
        for name, person in [*self.model.users.items(), *self.model.sessions.items()]:
            known = [*person.events[:2], *person.maybe[:4]]
            for one in random.sample(known, len(known)):
                self._send([(name, one)])

    def _report(self, random: Random, number: int, *, is_late: bool) -> None:
        everybody = [*self.users, *self.sessions]
        chosen = random.sample(everybody, random.randint(1, 3))
        self._send([(random.choice(chosen), self._event(random, is_late=is_late)) for _ in range(number)])

    def _event(self, random: Random, *, is_late: bool) -> Reported:
        self.clock += 1
        at = random.choice([LONG_AGO, self.soon]) + (random.randint(0, self.clock) if is_late else self.clock)
        if not is_late:
            at = self.soon + self.clock
        return Reported(f"e{self.clock}", random_item(random), random.choice(TYPES), at, self.clock)

    def _wire(self, name: str, one: Reported) -> dict[str, Any]:
        owner = "user_id" if name in self.model.users else "session_id"
        return {owner: name, **{key: getattr(one, key) for key in ("event_id", "item_id", "type", "timestamp")}}

    def _person(self, name: str) -> Person:
        return self.model.users.get(name) or self.model.sessions[name]

    def _send(self, sent: Sequence[tuple[str, Reported]], *requests: dict[str, Any]) -> None:
        """Reports events, and asks for recommendations at the same time."""
        by_name: dict[str, list[Reported]] = defaultdict(list)
        for name, one in sent:
            by_name[name].append(one)
        fresh = {
            name: [one for one in events if one.event_id not in self._person(name).ids]
            for name, events in by_name.items()
        }
        is_certain = all(self._person(name).is_certain for name in by_name)
        for name, events in fresh.items():
            waiting = {one.event_id for one in self._person(name).maybe}
            self._person(name).suppose([one for one in events if one.event_id not in waiting])
        body = {"events": [*(self._wire(name, one) for name, one in sent), {"user_id": "somebody"}]}
        answer, *answers = self.shop.ask(("POST", "/events", body), *(("POST", "/recommend", one) for one in requests))
        for request, got in zip(requests, answers, strict=True):
            self.checker.check(request, got, is_whole=False)
        if not self._is_acknowledged(answer):
            return
        said = answer.json()
        num_fresh = sum(map(len, fresh.values()))
        assert said["accepted"] + said["duplicates"] == len(sent), answer.text
        assert [one["index"] for one in said["rejected"]] == [len(sent)]
        assert not is_certain or said["accepted"] == num_fresh, answer.text
        self.tally.num_events += num_fresh
        for name, events in by_name.items():
            self._person(name).acknowledge(events, token=said["event_token"])

    def _is_acknowledged(self, answer: httpx2.Response) -> bool:
        """Whether something was done; without Redis it is refused, and on a busy machine sometimes with it."""
        assert answer.status_code in {200, 503}, answer.text
        self.tally.num_refused += answer.status_code == 503 and self.shop.redis_state == "up"
        self.tally.num_acknowledged += answer.status_code == 200
        return answer.status_code == 200

    @rule(random=RANDOMS)
    def report_while_asking(self, random: Random) -> None:
        name = random.choice([*self.users, *self.sessions])
        sent = [(name, self._event(random, is_late=False)) for _ in range(3)]
        self._send(sent, *self._requests(random, 4))

    @rule(random=RANDOMS, is_asked=st.booleans())
    def erase(self, random: Random, is_asked: bool) -> None:
        kept, path = random.choice([(self.model.users, "users"), (self.model.sessions, "sessions")])
        name = random.choice(sorted(kept))
        requests = self._requests(random, 4) if is_asked else []
        before = kept[name]
        supposed = Person(maybe=before.maybe_kept(), ever=before.ever, is_vague=before.is_vague)
        supposed.suppose([])
        kept[name] = supposed if is_asked else before
        asked = [("POST", "/recommend", one) for one in requests]
        answer, *answers = self.shop.ask(("DELETE", f"/{path}/{name}", None), *asked)
        for request, got in zip(requests, answers, strict=True):
            self.checker.check(request, got, is_whole=False)
        kept[name] = before
        before.erase(is_acknowledged=self._is_acknowledged(answer))

    @rule(random=RANDOMS)
    def evict(self, random: Random) -> None:
        """The process forgets what it keeps of some, as it does where memory is short."""
        for name in random.sample(self.users, 2):
            self.shop.service.last_known.forget(Owner(name).hash)
            self.model.users[name].told = []

    # hidden items

    @rule(item_id=ITEMS, random=RANDOMS, verb=st.sampled_from(["hide", "hide", "show"]), is_asked=st.booleans())
    def hide_or_show(self, item_id: str, random: Random, verb: str, is_asked: bool) -> None:
        if verb == "show" and self.model.hidden:
            item_id = random.choice(sorted(self.model.hidden))
        requests = self._requests(random, 4) if is_asked else []
        self._learn_what_is_shown()
        was_hidden = item_id in self.model.hidden
        self.model.hidden.discard(item_id)
        self.model.maybe_hidden.add(item_id)
        asked = [("POST", "/recommend", one) for one in requests]
        answer, *answers = self.shop.ask(("POST", f"/admin/items/{item_id}/{verb}", None), *asked)
        for request, got in zip(requests, answers, strict=True):
            self.checker.check(request, got, is_whole=False)
        if not self._is_acknowledged(answer):
            return
        if verb == "hide":
            self.model.maybe_hidden.discard(item_id)
            self.model.hidden.add(item_id)
        elif not was_hidden:
            self._learn_what_is_shown()

    def _learn_what_is_shown(self) -> None:
        """What was shown again is shown from when the process has heard of it; which is at the next request."""
        if self.shop.redis_state == "up":
            hidden = self.shop.service.hidden.last_known.item_ids
            self.model.maybe_hidden &= hidden

    # recommendations

    def _requests(self, random: Random, number: int) -> list[dict[str, Any]]:
        longest = HUNG_MS if self.shop.redis_state == "hung" else None
        requests = [random_request(random, self.users, self.sessions, longest_ms=longest) for _ in range(number)]
        for body in requests:
            people = self.model.people(body)
            if len(people) == 1 and people[0].tokens and random.random() < 0.3:
                body["min_event_token"] = people[0].tokens[-1]
        return requests

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

    # bundles

    @rule(kind=KINDS, random=RANDOMS, is_asked=st.booleans())
    def swap(self, kind: str, random: Random, is_asked: bool) -> None:
        bundle_id = random.choice(self.world.of_kind(kind))
        self.world.store.publish(bundle_id)
        self._change_bundles("/admin/reload", None, kind, random, is_asked=is_asked)
        assert self.model.live[kind] == {bundle_id}

    @rule(kind=KINDS, random=RANDOMS, is_asked=st.booleans())
    def roll_back(self, kind: str, random: Random, is_asked: bool) -> None:
        self._change_bundles("/admin/rollback", {"model": kind}, kind, random, is_asked=is_asked)
        assert self.model.live[kind] == {self.world.store.live().bundles[kind]}

    def _change_bundles(self, path: str, body: Any, kind: str, random: Random, *, is_asked: bool) -> None:
        requests = self._requests(random, 8) if is_asked else []
        self.model.live[kind] = set(self.world.of_kind(kind))
        asked = [("POST", "/recommend", one) for one in requests]
        answer, *answers = self.shop.ask(("POST", path, body), *asked)
        for request, got in zip(requests, answers, strict=True):
            self.checker.check(request, got, is_whole=False)
        assert answer.status_code in {200, 404}, answer.text
        live = self.shop.ask(("GET", "/version", None))[0].json()["models"]
        self.model.live = {name: {one["bundle"]} for name, one in live.items()}
        self.tally.num_swaps += 1

    # failures

    @rule(kind=KINDS, how=st.sampled_from(["spoil", "cripple", "slow_down", "break_index"]))
    def break_something(self, kind: str, how: str) -> None:
        getattr(self.shop, how)(kind)

    @rule()
    def mend(self) -> None:
        self.shop.mend()

    @rule(state=st.sampled_from(["down", "hung"]))
    @precondition(lambda self: self.shop.redis_state == "up")
    def break_redis(self, state: str) -> None:
        self.shop.set_redis(state)

    @rule()
    @precondition(lambda self: self.shop.redis_state != "up")
    def mend_redis(self) -> None:
        self.set_redis("up")

    def set_redis(self, state: str) -> None:
        self.shop.set_redis(state)

    # every acknowledged event

    @rule()
    @precondition(lambda self: self.shop.redis_state == "up")
    def look_at_everybody(self) -> None:
        for path, people in (("users", self.model.users), ("sessions", self.model.sessions)):
            for name, person in people.items():
                answer = self._ask_until_redis_answers(("GET", f"/{path}/{name}", None))
                found = [(one["event_id"], one["item_id"], one["timestamp"]) for one in answer.json()["history"]]
                kept, possible = (
                    [(one.event_id, one.item_id, one.timestamp) for one in events]
                    for events in (person.certainly_kept(), person.maybe_kept())
                )
                if person.is_certain:
                    assert found == kept, name
                assert set(kept) <= set(found) <= set(possible), name
                self._look_at_log(Owner(name, is_session=path == "sessions"), person)

    def _ask_until_redis_answers(self, request: tuple[str, str, Any]) -> httpx2.Response:
        for _ in range(50):
            (answer,) = self.shop.ask(request)
            if answer.status_code == 200:
                return answer
            time.sleep(0.1)
        raise TimeoutError(answer.text)

    def _look_at_log(self, owner: Owner, person: Person) -> None:
        with self.world.redis.client() as client:
            entries = [read_entry(fields) for _, fields in client.xrange(log_key(owner))]
        logged = [one.event_id for one in entries if isinstance(one, LoggedEvent) and one.owner == owner]
        assert len(set(logged)) == len(logged), owner
        assert person.logged <= set(logged) <= person.logged | {one.event_id for one in person.ever}, owner
