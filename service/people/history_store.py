"""What the service asks of a store of histories; plain values, no Redis."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from model_store.people.owner import Owner
from service.recommend.ask import Interaction


@dataclass(frozen=True, slots=True)
class Event:
    """One interaction that a caller reported. It belongs to a user or to a session: exactly one of both is named.

    Attributes:
        event_id: The caller's name of the event; the same one again, of the same user or session, is a duplicate.
        user_id: The user whose history it belongs to, if any.
        item_id: What they interacted with; need not be in the catalogue.
        timestamp: When, in seconds since 1970.
        type: What happened, such as ``click``.
        recommendation_id: The answer that led to it, if any.
        properties: Anything else, kept as it came.
        session_id: The session whose history it belongs to, if it is not a user's.
    """

    event_id: str
    user_id: str | None
    item_id: str
    timestamp: int
    type: str = "click"
    recommendation_id: str | None = None
    properties: Mapping[str, Any] = field(default_factory=dict)
    session_id: str | None = None

    @property
    def owner(self) -> Owner:
        """Whose event it is.

        Raises:
            ValueError: Nobody's, or of two.
        """
        if (self.user_id is None) == (self.session_id is None):
            raise ValueError("an event belongs to a user or to a session, and not to both")
        return Owner(self.user_id) if self.user_id is not None else Owner(self.session_id or "", is_session=True)


@dataclass(frozen=True, slots=True)
class Events:
    """What of a history an answer depends on, by column; entry by entry they are ``Interaction``s.

    Attributes:
        item_ids: (L,) oldest first; they need not be in the catalogue.
        timestamps: (L,) seconds since 1970; None where nobody said.
        types: (L,) what happened; None where nobody said.
    """

    item_ids: Sequence[str] = ()
    timestamps: Sequence[int | None] = ()
    types: Sequence[str | None] = ()

    def __len__(self) -> int:
        return len(self.item_ids)

    def __iter__(self) -> Iterator[Interaction]:
        return map(Interaction, self.item_ids, self.timestamps, self.types)

    @classmethod
    def from_rows(cls, rows: Iterable[Interaction | Event]) -> "Events":
        """Of entries, oldest first."""
        columns = [(row.item_id, row.timestamp, row.type) for row in rows]
        return cls(*zip(*columns, strict=True)) if columns else NO_EVENTS


NO_EVENTS = Events()


@dataclass(frozen=True, slots=True)
class StoredHistory:
    """One user's, or one session's, kept interactions.

    Attributes:
        events: Oldest first: by timestamp, then by arrival.
        includes_token: Whether the batch that an event token names is counted in; None when none was asked
            for.
        version: Equal for equal events in the same order, and for no others that will ever be met.
        is_unchanged: The history still has the version that the caller knows, so ``events`` is left empty.
    """

    events: Sequence[Event] = ()
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
    """Where stored histories are read, oldest first; a history of ``known_version`` is not given again."""

    async def read(
        self, user_id: str, *, event_token: str | None = None, known_version: bytes | None = None
    ) -> StoredHistory:
        """Reads one user's history; an unknown user has an empty one."""
        ...

    async def read_session(
        self, session_id: str, *, event_token: str | None = None, known_version: bytes | None = None
    ) -> StoredHistory:
        """Reads one session's history; an unknown session has an empty one."""
        ...


class HistoryStore(HistoryReader, Protocol):
    """Keeps the newest interactions of users and sessions; each method raises HistoryUnavailable when it cannot."""

    async def append(self, events: Sequence[Event]) -> AppendOutcome:
        """Adds events durably; when it returns, the next ``read`` counts them in."""
        ...

    async def merge(self, session_id: str, user_id: str) -> MergeOutcome:
        """Moves a session's events into a user's history; asking again is safe."""
        ...

    async def merged_sessions(self, user_id: str) -> Sequence[str]:
        """The newest sessions that were merged into a user; what is kept of them is erased with the user."""
        ...

    async def erase(self, user_id: str) -> Sequence[ErasedStore]:
        """Deletes everything kept of one user, and says what that was; asking again is safe."""
        ...

    async def erase_session(self, session_id: str) -> Sequence[ErasedStore]:
        """Deletes everything kept of one session, and says what that was; asking again is safe."""
        ...

    async def ping(self) -> None:
        """Returns when the store answers."""
        ...

    async def aclose(self) -> None:
        """Gives back connections."""
        ...
