"""What the people of the request path machine do: report events, sign in, and ask to be forgotten."""

import time
from collections import defaultdict
from collections.abc import Sequence
from random import Random
from typing import Any

import httpx2
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from model_store.people.event_log import LoggedEvent, read_entry
from model_store.people.owner import Owner
from service.redis.keys import log_key
from tests.machine.asking import RANDOMS, SEEDS, Asking
from tests.machine.model import Person, Reported
from tests.machine.requests import TYPES, random_item
from tests.machine.shop import MAX_EVENTS

LONG_AGO = 1_700_000_000


class People(Asking):
    """Every acknowledged event is kept, once, until its owner is erased."""

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
        gone = [(kept, name), *((self.model.sessions, one) for one in sorted(kept[name].merged))]
        before = [people[one] for people, one in gone]
        for (people, one), person in zip(gone, before, strict=True):
            supposed = Person(maybe=person.maybe_kept(), ever=person.ever, is_vague=person.is_vague)
            people[one] = supposed if is_asked else person
        asked = [("POST", "/recommend", one) for one in requests]
        answer, *answers = self.shop.ask(("DELETE", f"/{path}/{name}", None), *asked)
        for request, got in zip(requests, answers, strict=True):
            self.checker.check(request, got, is_whole=False)
        is_acknowledged = self._is_acknowledged(answer)
        for (people, one), person in zip(gone, before, strict=True):
            people[one] = person
            person.erase(is_acknowledged=is_acknowledged)

    @rule(random=RANDOMS)
    @precondition(lambda self: self.shop.redis_state == "up")
    def merge(self, random: Random) -> None:
        """A visitor signs in."""
        session, name = random.choice(self.sessions), random.choice(self.users)
        visitor, user = self.model.sessions[session], self.model.users[name]
        if not visitor.events:
            self._send([(session, self._event(random, is_late=False)) for _ in range(3)])
        if not (visitor.is_certain and user.is_certain):
            return
        (answer,) = self.shop.ask(("POST", f"/users/{name}/merge", {"session_id": session}))
        if not self._is_acknowledged(answer):
            # in either, or in both
            user.suppose(visitor.events)
            visitor.maybe, visitor.events = visitor.events, []
            user.merged.add(session)
            return
        said, num_new = answer.json(), len({one.event_id for one in visitor.events} - user.ids)
        assert (said["moved"], said["duplicates"]) == (num_new, len(visitor.events) - num_new), answer.text
        self.tally.num_merges += bool(num_new)
        if visitor.events:
            user.merged.add(session)
        user.take_over(visitor, first_arrival=self.clock + 1)
        self.clock += MAX_EVENTS * 2

    @rule(random=RANDOMS)
    def evict(self, random: Random) -> None:
        """The process forgets what it keeps of some, as it does where memory is short."""
        for name in random.sample(self.users, 2):
            self.shop.service.last_known.forgetting.forget(Owner(name).hash)
            self.model.users[name].told = []

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
