"""What must be known of users and items, in plain sets and lists; it shares no code with the service."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tests.machine.shop import MAX_EVENTS

_STEP = MAX_EVENTS // 10


@dataclass(frozen=True)
class Reported:
    """One event."""

    event_id: str
    item_id: str
    type: str
    timestamp: int
    arrival: int


@dataclass
class Person:
    """A user or a session.

    Attributes:
        events: Acknowledged and kept, by time.
        maybe: Sent, but not acknowledged: they may be there, or still come.
        ever: All that may ever come back, since the last erasure that was acknowledged.
        told: What was acknowledged since the process last forgot them: it knows that without Redis. What it has read
            it knows, too, but for reads during which somebody else was erased.
        ids: Of acknowledged events.
        logged: Those that must be in the log.
        is_vague: What was cut off depends on events that nobody acknowledged.
        merged: Sessions that are erased with this user.
    """

    events: list[Reported] = field(default_factory=list)
    maybe: list[Reported] = field(default_factory=list)
    ever: list[Reported] = field(default_factory=list)
    told: list[Reported] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    logged: set[str] = field(default_factory=set)
    tokens: list[str] = field(default_factory=list)
    is_vague: bool = False
    merged: set[str] = field(default_factory=set)

    @property
    def is_certain(self) -> bool:
        """Whether the kept history is known exactly."""
        return not self.maybe and not self.is_vague

    def suppose(self, events: Sequence[Reported]) -> None:
        """These were sent."""
        self.maybe += events
        self.ever += events

    def acknowledge(self, events: Sequence[Reported], *, token: str | None = None) -> None:
        """These, of one batch, were answered with 200."""
        new = {event.event_id: event for event in reversed(events) if event.event_id not in self.ids}
        self.maybe = [event for event in self.maybe if event.event_id not in {one.event_id for one in events}]
        self.ids |= set(new)
        self.logged |= set(new)
        self.told += new.values()
        self.events = sorted([*self.events, *new.values()], key=lambda event: (event.timestamp, event.arrival))
        self.tokens += [token] if token else []
        if self._may_be_cut():
            self.is_vague = True
        surplus = len(self.events) - MAX_EVENTS
        if surplus >= _STEP:
            self.events = self.events[surplus - surplus % _STEP :]

    def take_over(self, session: "Person", *, first_arrival: int) -> None:
        """What a session did is this user's now, in the order of its history; in the log it stays the session's."""
        logged, told = set(self.logged), [*self.told, *session.certainly_told()]
        moved = [replace(event, arrival=first_arrival + at) for at, event in enumerate(session.events)]
        self.ever += moved
        self.acknowledge(moved)
        self.logged, self.told = logged, told
        session.events, session.told = [], []

    def erase(self, *, is_acknowledged: bool) -> None:
        """What was sent and not acknowledged may come after all."""
        if is_acknowledged:
            self.ever = list(self.maybe)
        else:
            self.maybe += self.events
        self.events, self.told, self.tokens = [], [], []
        self.ids, self.logged, self.merged = set(), set(), set()
        self.is_vague = bool(self.maybe) and self.is_vague

    def certainly_kept(self) -> list[Reported]:
        """The events that are in the history whatever became, or becomes, of the others."""
        if self.is_vague or self._may_be_cut():
            return self.events[-(MAX_EVENTS - len(self.maybe)) :] if len(self.maybe) < MAX_EVENTS else []
        return self.events

    def _may_be_cut(self) -> bool:
        """Whether the events that nobody acknowledged, or not yet, make some of the oldest ones go."""
        return bool(self.maybe) and len(self.events) + len(self.maybe) >= MAX_EVENTS + _STEP

    def certainly_told(self) -> list[Reported]:
        """What the process knows without Redis; what was cut off there may be lost here with the next read."""
        kept = {event.event_id for event in self.certainly_kept()}
        return [event for event in self.told if event.event_id in kept]

    def maybe_kept(self) -> list[Reported]:
        """All that can be in the history."""
        return self.ever if self.is_vague else [*self.events, *self.maybe]


@dataclass
class Model:
    """Everything together.

    Attributes:
        hidden: Certainly.
        maybe_hidden: Hiding or showing them was not acknowledged, or is not known to the process yet.
        live: Bundle ids by kind; more than one while one replaces the other.
    """

    users: dict[str, Person]
    sessions: dict[str, Person]
    live: dict[str, set[str]]
    hidden: set[str] = field(default_factory=set)
    maybe_hidden: set[str] = field(default_factory=set)

    def people(self, body: Mapping[str, Any]) -> list[Person]:
        """Whose stored histories a request is about."""
        if "history" in body:
            return []
        users = [self.users[body["user_id"]]] if "user_id" in body else []
        return users + ([self.sessions[body["session_id"]]] if "session_id" in body else [])

    def seen(self, body: Mapping[str, Any], *, is_away: bool) -> tuple[set[str], set[str]]:
        """What must not, and what need not come back, as it is in the history; ``is_away``: which was not read."""
        if not body.get("exclude_seen", True):
            return set(), set()
        if "history" in body:
            own = [entry if isinstance(entry, dict) else {"item_id": entry} for entry in body["history"]]
            types = body.get("seen_types")
            inline = {one["item_id"] for one in own if not types or one.get("type", types[0]) in types}
            return inline, inline
        certain: set[str] = set()
        possible: set[str] = set()
        for person in self.people(body):
            certain |= _counting(person.certainly_told() if is_away else person.certainly_kept(), body)
            possible |= _counting(person.ever if is_away else person.maybe_kept(), body)
        return certain, possible | certain


def _counting(events: Iterable[Reported], body: Mapping[str, Any]) -> set[str]:
    types, age = body.get("seen_types"), body.get("seen_max_age_seconds")
    oldest = 0 if age is None else time.time() - age
    return {event.item_id for event in events if (not types or event.type in types) and event.timestamp >= oldest}


def counted(values: object) -> list[object]:
    """What an item counts for under a cap: each of its values once."""
    if values is None:
        return []
    return sorted(set(values)) if isinstance(values, list) else [values]
