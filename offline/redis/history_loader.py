"""Puts interactions of before the service into its histories, as if they had been reported then.

The service's own script appends them, so limits, order and duplicates are the service's. Interactions that a history
has already are not sent, whatever their event ids; a person's live events stay, in their place in time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from model_store.errors import InvalidInput
from model_store.people.appending import (
    ARRIVAL_DIGITS,
    DEFAULT_EVENT_TYPE,
    RetentionLimits,
    StoredEvent,
    append_call,
    append_script,
    derived_event_id,
)
from model_store.people.event_log import pack_event, unpack_events
from model_store.people.owner import Owner
from model_store.people.owner_keys import erased_key, owner_key
from offline.redis.connection import REDIS_FAILURES, one_line

_POSITION_SECONDS = 7 * 86_400


class PastEvent(NamedTuple):
    """An interaction of a dataset; ``timestamp`` in seconds since 1970, or a rank."""

    item_id: str
    timestamp: int
    type: str | None
    rating: float | None


@dataclass(frozen=True)
class LoadCounts:
    """What became of some events.

    Attributes:
        added: Events that are in the histories now, as far as the limits keep them.
        known: Events that were there before.
        not_kept: Events older than all of a history that is full, or of before their owner was erased.
    """

    added: int = 0
    known: int = 0
    not_kept: int = 0

    def __add__(self, other: "LoadCounts") -> "LoadCounts":
        return LoadCounts(self.added + other.added, self.known + other.known, self.not_kept + other.not_kept)


class HistoryLoader:
    """Loads histories, and remembers in Redis how far a load has come.

    Args:
        client: Of a server, or of a cluster.
        limits: Of the service.
        load_id: Names what is loaded: the same one goes on where it was.
        has_moments: Whether timestamps are seconds rather than ranks.
    """

    def __init__(self, client: Any, limits: RetentionLimits, *, load_id: str, has_moments: bool) -> None:
        self._client = client
        self._limits = limits
        self._load_id = load_id
        self._has_moments = has_moments
        self._script = append_script()

    @property
    def max_sent(self) -> int:
        """Older events of one user leave no trace, neither in the history nor in the memory of event ids."""
        return max(self._limits.max_remembered, self._limits.max_events + self._limits.events_dropped_at_once)

    def position(self) -> int:
        """How many users a load that did not end has done."""
        return int(self._call(self._client.get, self._position_key()) or 0)

    def set_position(self, num_users: int) -> None:
        """Notes how many users are done."""
        self._call(self._client.set, self._position_key(), num_users, ex=_POSITION_SECONDS)

    def clear_position(self) -> None:
        """Forgets the load: it has ended."""
        self._call(self._client.delete, self._position_key())

    def load(self, histories: Sequence[tuple[str, Sequence[PastEvent]]]) -> LoadCounts:
        """Adds the events of some users, oldest first, in two round trips.

        Raises:
            InvalidInput: Redis did not take all of them. Loading them again is safe.
        """
        owners = [Owner(user_id) for user_id, _ in histories]
        counts = LoadCounts()
        appends = self._client.pipeline(transaction=False)
        for owner, (_, events), kept in zip(owners, histories, self._read(owners), strict=True):
            missing, found = self._missing(events, *kept)
            counts += found
            if missing:
                stored = [_stored(owner, event) for event in missing]
                keys, arguments = append_call(owner, stored, self._limits, token=self._load_id, max_logged=0)
                # not by its hash, nor by eval(): a cluster's pipeline has neither
                appends.execute_command("EVAL", self._script, len(keys), *keys, *arguments)
        for answer in self._call(appends.execute):
            added = sum(answer[1:])
            counts += LoadCounts(added=added, known=len(answer) - 1 - added)
        return counts

    def _read(self, owners: Sequence[Owner]) -> list[tuple[int | None, list[tuple[bytes, float]]]]:
        """Of each owner when they were erased (milliseconds), and the members of their history with their times."""
        reads = self._client.pipeline(transaction=False)
        for owner in owners:
            reads.get(erased_key(owner))
            reads.zrange(owner_key(owner, "history"), 0, -1, withscores=True)
        answers = self._call(reads.execute)
        erased = (None if moment is None else int(moment) for moment in answers[::2])
        return list(zip(erased, answers[1::2], strict=True))

    def _missing(
        self, events: Sequence[PastEvent], erased_at: int | None, rows: list[tuple[bytes, float]]
    ) -> tuple[list[PastEvent], LoadCounts]:
        """The events to send, and what is to be said of the others."""
        if erased_at is None and not rows:
            return list(events), LoadCounts()
        payloads = unpack_events(member[ARRIVAL_DIGITS:] for member, _ in rows)
        kept = {(payload[0], payload[1], int(time)) for payload, (_, time) in zip(payloads, rows, strict=True)}
        # of a full history, what came before its beginning was dropped
        earliest = int(rows[0][1]) if len(rows) >= self._limits.max_events else -1
        if erased_at is not None:
            earliest = max(earliest, erased_at // 1_000 + 1) if self._has_moments else 2**63
        in_time = [event for event in events if event.timestamp >= earliest]
        missing = [event for event in in_time if (event.item_id, _type(event), event.timestamp) not in kept]
        counts = LoadCounts(known=len(in_time) - len(missing), not_kept=len(events) - len(in_time))
        return missing, counts

    def _position_key(self) -> str:
        return f"hatstand:load:{self._load_id}"

    def _call(self, command: Any, *arguments: Any, **named: Any) -> Any:
        try:
            return command(*arguments, **named)
        except REDIS_FAILURES as error:
            raise InvalidInput(
                f"Redis did not take the histories: {one_line(error)}; run the same command again to go on"
            ) from error


def newest(events: Sequence[PastEvent], num_events: int, limit: int, step: int) -> Sequence[PastEvent]:
    """The events to send of a user who has more than leave a trace.

    Args:
        events: The newest ones, at least ``limit`` if there are so many.
        num_events: Of the user.
        limit: Most events to send.
        step: So many events are dropped from a full history together; the number sent differs from ``num_events`` by a
            multiple of it, so that as many are left as if all had been sent.
    """
    if num_events <= limit:
        return events
    return list(events)[-(limit - (limit - num_events) % step) :]


def _stored(owner: Owner, event: PastEvent) -> StoredEvent:
    kind = _type(event)
    event_id = derived_event_id(owner, event.item_id, kind, event.timestamp)
    properties = {} if event.rating is None else {"rating": event.rating}
    return event_id, event.timestamp, pack_event(event.item_id, kind, event_id, None, properties)


def _type(event: PastEvent) -> str:
    return event.type or DEFAULT_EVENT_TYPE
