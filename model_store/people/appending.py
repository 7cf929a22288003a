"""How events get into a history in Redis: by one script, from the service and from the job that loads histories."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from model_store.people.owner import NUM_SHARDS, Owner
from model_store.people.owner_keys import log_key, owner_key

# a member of a history is the arrival number of the event, in so many digits, and its payload
ARRIVAL_DIGITS = 16
DEFAULT_EVENT_TYPE = "click"

# event id, seconds since 1970, payload
StoredEvent = tuple[str, int, bytes]


@dataclass(frozen=True, slots=True)
class RetentionLimits:
    """What is kept of one user or session, and how much may wait for export.

    Attributes:
        max_events: Newest interactions that stay, and less than a tenth more: the oldest ones are dropped together.
        max_remembered: Newest event ids (and batch tokens) that are still recognised as duplicates.
        ttl_seconds: Both are forgotten this long after the last event of a user.
        session_ttl_seconds: The same for a session.
        max_logged: Events that may wait in the log, shared evenly by its shards; 0 = nothing is logged.
    """

    max_events: int = 500
    max_remembered: int = 2_000
    ttl_seconds: int = 90 * 86_400
    session_ttl_seconds: int = 86_400
    max_logged: int = 1_000_000

    @property
    def max_logged_per_shard(self) -> int:
        """Beyond it, new events of the shard's users are refused."""
        return -(-self.max_logged // NUM_SHARDS)

    @property
    def events_dropped_at_once(self) -> int:
        """So many of the oldest events of a full history are dropped together."""
        return max(1, self.max_events // 10)

    def ttl_of(self, owner: Owner) -> int:
        """Seconds for which an owner is remembered after their last event."""
        return self.session_ttl_seconds if owner.is_session else self.ttl_seconds


def append_script() -> str:
    """The Lua source of the script that adds events; its head says what it takes and returns."""
    return files("model_store.people").joinpath("append_events.lua").read_text(encoding="utf-8")


def append_call(
    owner: Owner, events: Iterable[StoredEvent], limits: RetentionLimits, *, token: str, max_logged: int
) -> tuple[tuple[str, ...], list[Any]]:
    """The keys and the arguments of one call of the script.

    Args:
        owner: Whose events they are.
        events: In the order in which they arrive.
        limits: What is kept.
        token: Names the batch.
        max_logged: Entries of the shard's part of the log at which events are refused; 0 = nothing is logged.
    """
    keys = (owner_key(owner, "history"), owner_key(owner, "event_ids"), log_key(owner))
    arguments: list[Any] = [limits.max_events, limits.max_remembered, limits.ttl_of(owner), token, max_logged]
    arguments += (owner.field, owner.id)
    for event in events:
        arguments += event
    return keys, arguments


def derived_event_id(owner: Owner, item_id: str, kind: str, timestamp: int) -> str:
    """The id of an event that came without one: the same interaction sent twice is the same event."""
    whose = ("", owner.id) if owner.is_session else (owner.id,)
    text = "\x00".join((*whose, item_id, kind, str(timestamp)))
    return f"derived-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
