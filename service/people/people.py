"""What is done with all that is kept of somebody: events are noted, sessions merged, owners erased."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol

from model_store.people.owner import Owner
from service.people.forgetting import Forgetting
from service.people.history_store import ErasedStore, Event, HistoryStore, MergeOutcome
from service.people.interactions import Row
from service.people.remembered import LastKnown


class ErasureNews(Protocol):
    """What the other replicas follow."""

    async def tell(self, owner: Owner) -> None:
        """Has every replica forget somebody."""
        ...


class People:
    """Everybody of whom something is kept.

    Args:
        histories: Stored histories.
        last_known: What this process remembers.
        forgetting: Tells all who remember something.
        news: Tells the other replicas.
    """

    def __init__(
        self,
        *,
        histories: HistoryStore,
        last_known: LastKnown,
        forgetting: Forgetting,
        news: ErasureNews,
    ) -> None:
        self._histories = histories
        self._last_known = last_known
        self._forgetting = forgetting
        self._news = news

    async def erase(self, owner: Owner) -> Sequence[ErasedStore]:
        """Deletes everything kept of an owner, and of the sessions that were merged into a user.

        Returns:
            A line for each store, with how many records it held.

        Raises:
            HistoryUnavailable: The history store did not answer. Asking again is safe.
        """
        if owner.is_session:
            return await self._erase(owner)
        # The sessions first: once the user is erased, nobody knows which were theirs. The history store erases again
        # those that were merged meanwhile.
        sessions = await self._histories.merged_sessions(owner)
        lines = [line for session in sessions for line in await self._erase(session)]
        return _summed([*await self._erase(owner), *lines])

    async def merge(self, session: Owner, user: Owner) -> MergeOutcome:
        """Moves a session's events into a user's history.

        Raises:
            HistoryUnavailable: The history store did not answer. Asking again is safe.
        """
        outcome = await self._histories.merge(session, user)
        known = self._last_known.histories.last(session)
        self._forgetting.forget(session.hash)
        if known is not None:
            self._last_known.add(user, list(known.value.rows()))
        await self._news.tell(session)
        return outcome

    def note(self, events: Sequence[Event]) -> None:
        """Remembers events that the history store has acknowledged, for when it cannot be read."""
        by_owner: dict[Owner, list[Row]] = {}
        for event in events:
            by_owner.setdefault(event.owner, []).append((event.item_id, event.timestamp, event.type))
        for owner, rows in by_owner.items():
            self._last_known.add(owner, rows)

    async def _erase(self, owner: Owner) -> list[ErasedStore]:
        erased = await self._histories.erase(owner)
        # right after, before anything else runs: requests that have read the history must not keep it any more
        forgotten = self._forgetting.forget(owner.hash)
        lines = [ErasedStore(store, records) for store, records in forgotten.items()]
        if not owner.is_session:  # of sessions encoders keep nothing
            lines.append(ErasedStore("model_state", await self._forgetting.forget_states([owner.hash])))
        await self._news.tell(owner)
        return [*erased, *lines]


def _summed(erased: Iterable[ErasedStore]) -> list[ErasedStore]:
    """One line a store."""
    records: Counter[str] = Counter()
    for one in erased:
        records[one.store] += one.records
    return [ErasedStore(store, number) for store, number in records.items()]
