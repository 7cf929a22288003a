"""The history of a request: the one that it carries, else the stored one, else the last one that is known here."""

import asyncio
import time
from collections.abc import Sequence

from model_store.people.owner import Owner
from service.errors import HistoryUnavailable
from service.people.embeddings import Aged
from service.people.history_store import HistoryReader, StoredHistory
from service.people.interactions import NO_INTERACTIONS, Interactions, joined
from service.people.known_history import ReadHistory
from service.people.remembered import LastKnown
from service.recommend.ask import Ask
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
            num_forgotten: ``Forgetting.count`` before; who was forgotten since then must not be remembered again.

        Raises:
            HistoryUnavailable: The stored history cannot be read, and nothing is to be served without it.
        """
        if ask.query.history is not None:
            return Past(ask.query.history.ordered()), NOTHING
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
            is_kept = last is not None and one.is_unchanged
            history = last if is_kept and last is not None else ReadHistory.made_of(one.interactions, one.version)
            histories.append(history)
            if num_forgotten == self._last_known.forgetting.count:
                self._last_known.histories.keep(owner, history, asked_at=asked_at)
        if len(histories) > 1:
            return Past(joined([one.interactions for one in histories])), trace
        return Past(histories[0].interactions, stored[0].version, kept=histories[0]), trace

    async def _read(self, ask: Ask, owner: Owner, last: ReadHistory | None) -> StoredHistory:
        return await self._histories.read(
            owner,
            event_token=ask.query.min_event_token,
            known_version=None if last is None else last.version,
        )

    def _last_known_past(self, owners: Sequence[Owner]) -> tuple[Past, Trace]:
        last = [kept for owner in owners if (kept := self._last_known.histories.last(owner)) is not None]
        interactions = joined([kept.value for kept in last]) if last else NO_INTERACTIONS
        trace = note("history", "unavailable") + failure("history_unavailable", _warning(last, interactions))
        return Past(interactions, is_current=False), trace


def _warning(last: Sequence[Aged[Interactions]], interactions: Interactions) -> str:
    if not len(interactions):
        return "the stored history cannot be read, so seen items are not known"
    age_seconds = max(kept.age_seconds for kept in last)
    return (
        f"the stored history cannot be read; the last one known here, of {len(interactions)} interactions and "
        f"{age_seconds:.0f} s ago, says what was seen"
    )
