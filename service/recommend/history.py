"""The history of a request: the one that it carries, else the stored one, else the last one that is known here."""

import asyncio
import time
from collections.abc import Sequence

from model_store.people.owner import Owner
from service.errors import HistoryUnavailable
from service.people.embeddings import Aged
from service.people.history_store import HistoryReader, StoredHistory
from service.people.known_history import ReadHistory, in_order
from service.people.remembered import LastKnown, owners_of
from service.recommend.ask import Interaction
from service.recommend.trace import Progress

# The history store may use this share of a request's time, so that some is left for the other steps,
_SHARE = 0.5
# and this one while it does not answer: enough for a store that is well again, and no long wait for one that is not.
_SHARE_AFTER_FAILURE = 0.1


class HistorySource:
    """Reads histories, and remembers them for when they cannot be read.

    Args:
        histories: Stored ones.
        last_known: Remembers.
        falls_back: Whether an answer is made without the stored history where it cannot be read.
    """

    def __init__(self, histories: HistoryReader, last_known: LastKnown, *, falls_back: bool) -> None:
        self._histories = histories
        self._last_known = last_known
        self._falls_back = falls_back
        self._answered_last = True

    async def read(self, progress: Progress) -> None:
        """Sets ``interactions``, ``history_version`` and ``is_current``.

        Raises:
            HistoryUnavailable: The stored history cannot be read, and nothing is to be served without it.
        """
        query = progress.query
        owners = owners_of(query)
        if query.history is not None:
            progress.interactions = in_order(query.history)
        elif owners:
            started = time.perf_counter()
            await self._read_stored(progress, owners)
            progress.timing.history = time.perf_counter() - started

    async def _read_stored(self, progress: Progress, owners: Sequence[Owner]) -> None:
        share = _SHARE if self._answered_last or progress.query.min_event_token else _SHARE_AFTER_FAILURE
        budget = max(share * progress.deadline.left, 0.0) if self._falls_back else None
        asked_at = self._last_known.histories.now()
        known = [self._last_known.histories.last_read(owner) for owner in owners]
        try:
            async with asyncio.timeout(budget):
                stored = [await self._read(progress, *one) for one in zip(owners, known, strict=True)]
        except (HistoryUnavailable, TimeoutError) as error:
            self._answered_last = False
            if not self._falls_back:
                raise HistoryUnavailable("the stored history cannot be read") from error
            self._use_last_known(progress, owners)
            return
        self._answered_last = True
        if all(one.includes_token is False for one in stored):
            progress.warnings.append("event_token_unknown: the batch of min_event_token is not in this user's history")
        histories = []
        for owner, last, one in zip(owners, known, stored, strict=True):
            if last is not None and one.is_unchanged:
                interactions, history = last.interactions(), last
            else:
                interactions = [Interaction(event.item_id, event.timestamp, event.type) for event in one.events]
                history = ReadHistory.of(interactions, one.version)
            histories.append(interactions)
            if progress.num_forgotten == self._last_known.num_forgotten:
                self._last_known.histories.keep(owner, history, asked_at=asked_at)
        progress.interactions = _together(histories)
        progress.history_version = stored[0].version if len(stored) == 1 else None

    async def _read(self, progress: Progress, owner: Owner, last: ReadHistory | None) -> StoredHistory:
        read = self._histories.read_session if owner.is_session else self._histories.read
        return await read(
            owner.id,
            event_token=progress.query.min_event_token,
            known_version=None if last is None else last.version,
        )

    def _use_last_known(self, progress: Progress, owners: Sequence[Owner]) -> None:
        last = [kept for owner in owners if (kept := self._last_known.histories.last(owner)) is not None]
        progress.is_current = False
        progress.interactions = _together([kept.value for kept in last])
        progress.note("history", "unavailable")
        progress.fall_back("history_unavailable", _said(last, progress.interactions))


def _together(histories: Sequence[Sequence[Interaction]]) -> Sequence[Interaction]:
    """One history of several, each oldest first."""
    if len(histories) == 1:
        return histories[0]
    return in_order([interaction for history in histories for interaction in history])


def _said(last: Sequence[Aged[Sequence[Interaction]]], interactions: Sequence[Interaction]) -> str:
    if not interactions:
        return "the stored history cannot be read, so seen items are not known"
    age_seconds = max(kept.age_seconds for kept in last)
    return (
        f"the stored history cannot be read; the last one known here, of {len(interactions)} interactions and "
        f"{age_seconds:.0f} s ago, says what was seen"
    )


def warn_of_unknown(progress: Progress) -> None:
    """Says how much of the history no model can read."""
    num_items = len(progress.interactions)
    num_unknown = num_items - len(progress.history.item_indices)
    if num_unknown:
        progress.warnings.append(f"unknown_history_items: {num_unknown} of {num_items} are not in the catalogue")
