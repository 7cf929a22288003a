"""What the service asks of a store of histories; plain values, no Redis."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from model_store.people.owner import Owner
from service.people.interactions import NO_INTERACTIONS, Interactions


@dataclass(frozen=True, slots=True)
class Event:
    """One interaction that a caller reported.

    Attributes:
        event_id: The caller's name of the event; the same one again, of the same owner, is a duplicate.
        owner: The user or session whose history it belongs to.
        item_id: What they interacted with; need not be in the catalogue.
        timestamp: When, in seconds since 1970.
        type: What happened, such as ``click``.
        recommendation_id: The answer that led to it, if any.
        properties: Anything else, kept as it came.
    """

    event_id: str
    owner: Owner
    item_id: str
    timestamp: int
    type: str = "click"
    recommendation_id: str | None = None
    properties: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class StoredHistory:
    """What is kept of one owner, as a request reads it.

    Attributes:
        interactions: Oldest first: by timestamp, then by arrival.
        includes_token: Whether the batch that an event token names is counted in; None when none was asked
            for.
        version: Equal for equal events in the same order, and for no others that will ever be met.
        is_unchanged: The history still has the version that the caller knows, so ``interactions`` is left empty.
    """

    interactions: Interactions = NO_INTERACTIONS
    includes_token: bool | None = None
    version: bytes | None = None
    is_unchanged: bool = False


@dataclass(frozen=True, slots=True)
class AppendOutcome:
    """What became of a batch of events.

    Attributes:
        new: Those that were not known before, grouped by whose they are.
        duplicates: How many had been reported before.
        event_token: Names the batch, for a later read that must count it in.
    """

    new: Sequence[Event]
    duplicates: int
    event_token: str

    @property
    def accepted(self) -> int:
        """How many were new."""
        return len(self.new)


@dataclass(frozen=True, slots=True)
class MergeOutcome:
    """What became of a session's events.

    Attributes:
        moved: How many are in the user's history now that were not before.
        duplicates: How many the user had already, under the same event id.
    """

    moved: int
    duplicates: int


@dataclass(frozen=True, slots=True)
class ErasedStore:
    """One line of an erasure receipt.

    Attributes:
        store: Which store was touched.
        records: How many records it held of the user.
    """

    store: str
    records: int


class HistoryReader(Protocol):
    """Where stored histories are read."""

    async def read(
        self, owner: Owner, *, event_token: str | None = None, known_version: bytes | None = None
    ) -> StoredHistory:
        """Reads one history, oldest first; one of ``known_version`` is not given again.

        Raises:
            HistoryUnavailable: The store did not answer.
        """
        ...


class HistoryStore(HistoryReader, Protocol):
    """Keeps the newest interactions of users and sessions; each method raises HistoryUnavailable when it cannot."""

    async def events(self, owner: Owner) -> Sequence[Event]:
        """All that is kept of the events of one owner, oldest first."""
        ...

    async def append(self, events: Sequence[Event]) -> AppendOutcome:
        """Adds events durably; when it returns, the next ``read`` counts them in."""
        ...

    async def merge(self, session: Owner, user: Owner) -> MergeOutcome:
        """Moves a session's events into a user's history; asking again is safe."""
        ...

    async def merged_sessions(self, user: Owner) -> Sequence[Owner]:
        """The newest sessions that were merged into a user; what is kept of them is erased with the user."""
        ...

    async def erase(self, owner: Owner) -> Sequence[ErasedStore]:
        """Deletes everything kept of one owner, and says what that was; asking again is safe."""
        ...

    async def ping(self) -> None:
        """Returns when the store answers."""
        ...
