"""What the service asks of a store of histories; plain values, no Redis."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Event:
    """One interaction that a caller reported.

    Attributes:
        event_id: The caller's name of the event; the same one again, of the same user, is a duplicate.
        user_id: Whose history it belongs to.
        item_id: What the user interacted with; need not be in the catalogue.
        timestamp: When, in seconds since 1970.
        type: What happened, such as ``click``.
        recommendation_id: The answer that led to it, if any.
        properties: Anything else, kept as it came.
    """

    event_id: str
    user_id: str
    item_id: str
    timestamp: int
    type: str = "click"
    recommendation_id: str | None = None
    properties: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredHistory:
    """One user's kept interactions.

    Attributes:
        events: Oldest first: by timestamp, then by arrival.
        includes_token: Whether the batch that an event token names is counted in; None when none was asked
            for.
    """

    events: Sequence[Event] = ()
    includes_token: bool | None = None


@dataclass(frozen=True, slots=True)
class AppendOutcome:
    """What became of a batch of events.

    Attributes:
        accepted: How many were new.
        duplicates: How many had been reported before.
        event_token: Names the batch, for a later read that must count it in.
    """

    accepted: int
    duplicates: int
    event_token: str


@dataclass(frozen=True, slots=True)
class ErasedStore:
    """One line of an erasure receipt.

    Attributes:
        store: Which store was touched.
        records: How many records it held of the user.
    """

    store: str
    records: int


class HistoryStore(Protocol):
    """Keeps every user's newest interactions; each method raises HistoryUnavailable when it cannot."""

    async def append(self, events: Sequence[Event]) -> AppendOutcome:
        """Adds events durably; when it returns, the next ``read`` counts them in."""
        ...

    async def read(self, user_id: str, *, event_token: str | None = None) -> StoredHistory:
        """Reads one user's history; an unknown user has an empty one."""
        ...

    async def erase(self, user_id: str) -> Sequence[ErasedStore]:
        """Deletes everything kept of one user, and says what that was."""
        ...

    async def ping(self) -> None:
        """Returns when the store answers."""
        ...

    async def aclose(self) -> None:
        """Gives back connections."""
        ...
