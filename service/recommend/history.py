"""The history of a request: the one that it carries, else the stored one, else the last one that is known here."""

import asyncio
import time
from collections.abc import Sequence

from model_store.people.owner import Owner
from service.errors import HistoryUnavailable
from service.people.embeddings import Aged
from service.people.history_store import Events, HistoryReader, StoredHistory
from service.people.known_history import ReadHistory, in_order
from service.people.remembered import LastKnown
from service.recommend.ask import Ask, Interaction
from service.recommend.known import NO_PAST, Past
from service.recommend.trace import NOTHING, Timing, Trace, failure, note, warning_of

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

    async def read(self, ask: Ask, *, num_forgotten: int) -> tuple[Past, Trace]:
        """The history of a request.

        Args:
            ask: The request.
            num_forgotten: Of ``last_known``, before; what was forgotten since then must not be remembered again.

        Raises:
            HistoryUnavailable: The stored history cannot be read, and nothing is to be served without it.
        """
        if ask.query.history is not None:
            return Past(Events.from_rows(in_order(ask.query.history))), NOTHING
        if not ask.owners:
            return NO_PAST, NOTHING
        started = time.perf_counter()
        past, trace = await self._read_stored(ask, num_forgotten)
        return past, trace + Trace(timing=Timing(history=time.perf_counter() - started))

    async def _read_stored(self, ask: Ask, num_forgotten: int) -> tuple[Past, Trace]:
        share = _SHARE if self._answered_last or ask.query.min_event_token else _SHARE_AFTER_FAILURE
        budget = max(share * ask.deadline.left, 0.0) if self._falls_back else None
        asked_at = self._last_known.histories.now()
        known = [self._last_known.histories.last_read(owner) for owner in ask.owners]
        try:
            async with asyncio.timeout(budget):
                stored = [await self._read(ask, *one) for one in zip(ask.owners, known, strict=True)]
        except (HistoryUnavailable, TimeoutError) as error:
            self._answered_last = False
            if not self._falls_back:
                raise HistoryUnavailable("the stored history cannot be read") from error
            return self._last_known_past(ask.owners)
        self._answered_last = True
        trace = NOTHING
        if all(one.includes_token is False for one in stored):
            trace = warning_of("event_token_unknown: the batch of min_event_token is not in this user's history")
        histories = []
        for owner, last, one in zip(ask.owners, known, stored, strict=True):
            if last is not None and one.is_unchanged:
                events, history = last.events(), last
            else:
                events = Events.from_rows(one.events)
                history = ReadHistory.pack(events, one.version)
            histories.append(events)
            if num_forgotten == self._last_known.num_forgotten:
                self._last_known.histories.keep(owner, history, asked_at=asked_at)
        return Past(_together(histories), stored[0].version if len(stored) == 1 else None), trace

    async def _read(self, ask: Ask, owner: Owner, last: ReadHistory | None) -> StoredHistory:
        read = self._histories.read_session if owner.is_session else self._histories.read
        return await read(
            owner.id,
            event_token=ask.query.min_event_token,
            known_version=None if last is None else last.version,
        )

    def _last_known_past(self, owners: Sequence[Owner]) -> tuple[Past, Trace]:
        last = [kept for owner in owners if (kept := self._last_known.histories.last(owner)) is not None]
        events = _together([Events.from_rows(kept.value) for kept in last])
        trace = note("history", "unavailable") + failure("history_unavailable", _warning(last, len(events)))
        return Past(events, is_current=False), trace


def _together(histories: Sequence[Events]) -> Events:
    """One history of several, each oldest first."""
    if len(histories) == 1:
        return histories[0]
    return Events.from_rows(in_order([interaction for history in histories for interaction in history]))


def _warning(last: Sequence[Aged[Sequence[Interaction]]], num_events: int) -> str:
    if not num_events:
        return "the stored history cannot be read, so seen items are not known"
    age_seconds = max(kept.age_seconds for kept in last)
    return (
        f"the stored history cannot be read; the last one known here, of {num_events} interactions and "
        f"{age_seconds:.0f} s ago, says what was seen"
    )
