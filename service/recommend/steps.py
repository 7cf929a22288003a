"""The steps after the model: from what it made of the history down to what is popular, whatever can be had in time.

::

    model            the user embedding (or the titles) that it has just made
    last_embedding   the last good embedding of this user and bundle, of an older history
    similar_items    what the latest items have in common
    segment_popular  what is popular in the user's segment, then overall
    popular          what is popular overall

The first three search the index, and if that fails or takes too long, so would the others: the popular items are next.
These need nothing but memory, and a thread of their own, and are served even where the deadline has passed.
"""

import asyncio
import logging
import time

import numpy as np

from service.errors import ModelUnavailable, ServiceError
from service.people.embeddings import Aged
from service.people.remembered import LastKnown
from service.recommend.ask import SOURCE_POPULAR, SOURCE_SEGMENT, Ask
from service.recommend.candidates.segments import SegmentItems, Segments
from service.recommend.deadline import POPULAR, SEARCH, StepTimes
from service.recommend.known import Known
from service.recommend.protocols import BlockingRunner
from service.recommend.ranking.answering import Answer, ModelView, make_answer
from service.recommend.ranking.sources import latest_vector
from service.recommend.trace import NOTHING, Trace, failure, note, warning_of

LOGGER = logging.getLogger(__name__)

_FALLBACK = "fallback:"
_INDEX_FAILED = "index_failed"
_POPULAR_SOURCES = frozenset({SOURCE_SEGMENT, SOURCE_POPULAR})
# What keeps a request from the model without being a failure of anything.
_NOT_FAILURES = frozenset({"no_known_history"})


class Ladder:
    """Makes the answer with the first step that can.

    Args:
        run_blocking: Runs searches.
        run_popular: Runs what needs no search, in a thread that no search ever keeps busy.
        last_known: Has last good embeddings.
        segments: Of the catalogues.
        times: What steps take.
        falls_back: Whether a step that fails has a next one; else the request fails.
        inline_values: Bundles of at most so many values are searched in the event loop. A search takes less than a
            millisecond there, and a thread longer than that: it has to wait until the loop lets go of the interpreter,
            and the loop then for it.
    """

    def __init__(
        self,
        *,
        run_blocking: BlockingRunner,
        run_popular: BlockingRunner,
        last_known: LastKnown,
        segments: Segments,
        times: StepTimes,
        falls_back: bool,
        inline_values: int = 0,
    ) -> None:
        self._inline_values = inline_values
        self._run_blocking = run_blocking
        self._run_popular = run_popular
        self._last_known = last_known
        self._segments = segments
        self._times = times
        self._falls_back = falls_back
        self._building: dict[tuple[str, str | None], asyncio.Future[SegmentItems | None]] = {}

    async def answer(self, ask: Ask, known: Known, view: ModelView, before: Trace) -> tuple[Answer, Trace]:
        """The answer, and what happened on the ladder.

        Args:
            ask: What is wanted.
            known: The history, and what is hidden.
            view: What the model made of the history.
            before: What happened until now.

        Raises:
            InvalidRequest: The filter is to blame.
            ModelUnavailable, DeadlineExceeded: A step failed, and nothing is to be served instead.
        """
        answer, trace = None, NOTHING
        if view.generated is None and view.user is None:
            view, trace = self._without_model(ask, known)
        if view.generated is not None or view.user is not None:
            answer, searched = await self._search(ask, known, view)
            trace += searched
        if answer is None:
            trace += await self._build_segments(ask)
            answer, filled = await self._popular(ask, known, ModelView(view.generated, admissible=view.admissible))
            if answer.source == SOURCE_POPULAR and not any(one.step == "segment_popular" for one in trace.steps):
                filled += note("segment_popular", "no_segment")
            trace += filled
        reason = before.fallback_reason or trace.fallback_reason
        if not self._falls_back and reason is not None and reason not in _NOT_FAILURES:
            raise ModelUnavailable(f"the request could not be answered: {reason}", code=reason)
        return answer, trace + note(answer.source.removeprefix(_FALLBACK), "answered")

    def _without_model(self, ask: Ask, known: Known) -> tuple[ModelView, Trace]:
        """What the first step after the model that has something to search with searches with, if one has."""
        trace, items = NOTHING, known.history.item_indices
        if len(items) or not known.past.is_current:
            last = self._last_embedding(ask)
            if last is not None:
                view = ModelView(user=last.value, step="last_embedding")
                return view, warning_of(f"last_embedding: made {last.age_seconds:.0f} s ago")
            trace = note("last_embedding", "none_kept")
        if len(items):
            return ModelView(user=latest_vector(ask.served.bundle, items), step="similar_items"), trace
        return ModelView(), trace + note("similar_items", "no_known_history")

    def _last_embedding(self, ask: Ask) -> Aged[np.ndarray] | None:
        if ask.query.history is not None:
            return None
        kept = (self._last_known.embeddings.last(owner, ask.served.bundle_id) for owner in ask.owners)
        return next((one for one in kept if one is not None), None)

    async def _search(self, ask: Ask, known: Known, view: ModelView) -> tuple[Answer | None, Trace]:
        """An answer by searching, or None where there is no time for it."""
        key, popular = (SEARCH, ask.served.kind), (POPULAR, ask.served.kind)
        left = ask.deadline.left
        budget = left - self._times.reserve(ask.deadline, popular) if self._falls_back else left
        if self._falls_back and budget <= self._times.expected(key):
            warning = f"a search takes longer than the {max(budget, 0) * 1_000:.0f} ms left"
            return None, note(view.step, "no_time") + failure("search_no_time", warning)
        started = time.perf_counter()
        try:
            if self._is_inline(ask):
                answer, trace = make_answer(ask, known, view, self._segments)
            else:
                async with asyncio.timeout(budget):
                    answer, trace = await self._run_blocking(lambda: make_answer(ask, known, view, self._segments))
        except TimeoutError as error:
            self._times.gave_up(key, time.perf_counter() - started)
            if not self._falls_back:
                raise ask.deadline.exceeded() from error
            warning = f"the items could not be searched within {budget * 1_000:.0f} ms"
            return None, note(view.step, "search_timed_out") + failure("search_timed_out", warning)
        except ServiceError:
            raise
        except Exception as error:
            # A boundary: whatever is wrong with a step, the next one answers.
            LOGGER.exception("a step failed (%s)", view.step)
            if not self._falls_back:
                raise ModelUnavailable("the items could not be searched", code="search_failed") from error
            failed = failure("search_failed", "the items could not be searched")
            return None, note(view.step, "search_failed") + failed
        self._times.took(key, time.perf_counter() - started)
        if answer.source in _POPULAR_SOURCES and self._falls_back:
            # Popular items, but made without knowing the segment, maybe: that is for the next steps.
            reason = trace.fallback_reason or "found_nothing"
            broken = tuple(warning for warning in trace.warnings if warning.startswith(_INDEX_FAILED))
            return None, note(view.step, reason) + Trace(fallback_reason=reason, warnings=broken)
        return answer, trace

    def _is_inline(self, ask: Ask) -> bool:
        return ask.served.num_values <= self._inline_values

    async def _build_segments(self, ask: Ask) -> Trace:
        """Works out the segments of the bundle, if that was not done before and does not take too long."""
        catalogue, wish = ask.served.catalogue, ask.query.segment
        if self._segments.is_built(catalogue, wish):
            return NOTHING
        key = (ask.served.bundle_id, wish.attribute)
        building = self._building.get(key)
        if building is None:
            # It goes on when this request's time is over, for the next one.
            building = asyncio.ensure_future(self._run_blocking(lambda: self._segments.build(catalogue, wish)))
            self._building[key] = building
            building.add_done_callback(lambda done: self._built(key, done))
        budget = ask.deadline.left - self._times.reserve(ask.deadline, (POPULAR, ask.served.kind))
        await asyncio.wait({building}, timeout=max(budget, 0.0))
        return NOTHING if building.done() else note("segment_popular", "not_built")

    def _built(self, key: tuple[str, str | None], building: "asyncio.Future[SegmentItems | None]") -> None:
        self._building.pop(key, None)
        if not building.cancelled() and building.exception() is not None:
            LOGGER.error("the segments of a bundle could not be worked out", exc_info=building.exception())

    async def _popular(self, ask: Ask, known: Known, view: ModelView) -> tuple[Answer, Trace]:
        """What is popular, after what the model has written, if it did."""
        started = time.perf_counter()
        if self._is_inline(ask):
            answer, trace = make_answer(ask, known, view, self._segments)
        else:
            answer, trace = await self._run_popular(lambda: make_answer(ask, known, view, self._segments))
        self._times.took((POPULAR, ask.served.kind), time.perf_counter() - started)
        return answer, trace
