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
from collections.abc import Callable

import numpy as np

from service.errors import DeadlineExceeded, ModelUnavailable, ServiceError
from service.people.remembered import LastKnown, owners_of
from service.recommend.ask import SOURCE_POPULAR, SOURCE_SEGMENT
from service.recommend.candidates.segments import SegmentItems, Segments
from service.recommend.deadline import POPULAR, SEARCH, StepTimes
from service.recommend.protocols import BlockingRunner
from service.recommend.ranking.answering import Answered, ModelView, answer
from service.recommend.ranking.fallback import latest_vector
from service.recommend.trace import Progress

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

    async def answer(self, progress: Progress, view: ModelView) -> tuple[Answered, Progress]:
        """The answer, and the progress that it was made with.

        Args:
            progress: Its history has been read.
            view: What the model made of it.

        Raises:
            InvalidRequest: The filter is to blame.
            ModelUnavailable, DeadlineExceeded: A step failed, and nothing is to be served instead.
        """
        if view.generated is None and view.user is None:
            step, make_view = self._without_model(progress)
        else:
            step, make_view = "model", lambda: view
        if make_view is not None:
            searched = await self._search(progress, step, make_view)
            if searched is not None:
                return searched
        await self._build_segments(progress)
        return await self._popular(progress, ModelView(view.generated))

    def _without_model(self, progress: Progress) -> tuple[str, Callable[[], ModelView] | None]:
        """The first step after the model that has something to search with, and what; None where none has."""
        items = progress.history.item_indices
        if len(items) or not progress.is_current:
            last = self._last_embedding(progress)
            if last is not None:
                return "last_embedding", lambda: ModelView(user=last, step="last_embedding")
            progress.note("last_embedding", "none_kept")
        if len(items):
            return "similar_items", lambda: ModelView(
                user=latest_vector(progress.served.bundle, items), step="similar_items"
            )
        progress.note("similar_items", "no_known_history")
        return "", None

    def _last_embedding(self, progress: Progress) -> np.ndarray | None:
        if progress.query.history is not None:
            return None
        for owner in owners_of(progress.query):
            kept = self._last_known.embeddings.last(owner, progress.served.bundle_id)
            if kept is not None:
                progress.warnings.append(f"last_embedding: made {kept.age_seconds:.0f} s ago")
                progress.earlier_embedding = kept.value
                return kept.value
        return None

    async def _search(
        self, progress: Progress, step: str, make_view: Callable[[], ModelView]
    ) -> tuple[Answered, Progress] | None:
        """An answer by searching, or None where there is no time for it."""
        kind = progress.served.kind
        key, popular = (SEARCH, kind), (POPULAR, kind)
        left = progress.deadline.left
        budget = left - self._times.reserve(progress.deadline, popular)
        if self._falls_back and budget <= self._times.expected(key):
            progress.note(step, "no_time")
            progress.fall_back("search_no_time", f"a search takes longer than the {max(budget, 0) * 1_000:.0f} ms left")
            return None
        attempt = progress.attempt()
        started = time.perf_counter()
        try:
            async with asyncio.timeout(budget if self._falls_back else left):
                answered = await self._run(self._run_blocking, progress, lambda: answer(attempt, make_view()))
        except TimeoutError as error:
            self._times.gave_up(key, time.perf_counter() - started)
            if not self._falls_back:
                raise DeadlineExceeded(f"no answer within {progress.deadline.seconds * 1_000:.0f} ms") from error
            progress.note(step, "search_timed_out")
            progress.fall_back("search_timed_out", f"the items could not be searched within {budget * 1_000:.0f} ms")
            return None
        except ServiceError:
            raise
        except Exception as error:
            # A boundary: whatever is wrong with a step, the next one answers.
            LOGGER.exception("a step failed (%s)", step)
            if not self._falls_back:
                raise ModelUnavailable("the items could not be searched", code="search_failed") from error
            progress.note(step, "search_failed")
            progress.fall_back("search_failed", "the items could not be searched")
            return None
        self._times.took(key, time.perf_counter() - started)
        if answered.source in _POPULAR_SOURCES and self._falls_back:
            # Popular items, but made without knowing the segment, maybe: that is for the next steps.
            broken = [warning for warning in attempt.warnings if warning.startswith(_INDEX_FAILED)]
            progress.note(step, _INDEX_FAILED if broken else "found_nothing")
            progress.fall_back(_INDEX_FAILED if broken else "found_nothing")
            progress.warnings.extend(broken)
            return None
        return self._checked(answered, attempt), attempt

    async def _run(self, runner: BlockingRunner, progress: Progress, work: Callable[[], Answered]) -> Answered:
        return work() if progress.served.num_values <= self._inline_values else await runner(work)

    def _checked(self, answered: Answered, attempt: Progress) -> Answered:
        """Notes who answered.

        Raises:
            ModelUnavailable: Something failed, and nothing is to be served instead.
        """
        reason = attempt.fallback_reason
        if not self._falls_back and reason is not None and reason not in _NOT_FAILURES:
            raise ModelUnavailable(f"the request could not be answered: {reason}", code=reason)
        attempt.note(answered.source.removeprefix(_FALLBACK), "answered")
        return answered

    async def _build_segments(self, progress: Progress) -> None:
        """Works out the segments of the bundle, if that was not done before and does not take too long."""
        catalogue, wish = progress.served.catalogue, progress.query.segment
        if self._segments.is_built(catalogue, wish):
            return
        key = (progress.served.bundle_id, wish.attribute)
        building = self._building.get(key)
        if building is None:
            # It goes on when this request's time is over, for the next one.
            building = asyncio.ensure_future(self._run_blocking(lambda: self._segments.build(catalogue, wish)))
            self._building[key] = building
            building.add_done_callback(lambda done: self._built(key, done))
        budget = progress.deadline.left - self._times.reserve(progress.deadline, (POPULAR, progress.served.kind))
        await asyncio.wait({building}, timeout=max(budget, 0.0))
        if not building.done():
            progress.note("segment_popular", "not_built")

    def _built(self, key: tuple[str, str | None], building: "asyncio.Future[SegmentItems | None]") -> None:
        self._building.pop(key, None)
        if not building.cancelled() and building.exception() is not None:
            LOGGER.error("the segments of a bundle could not be worked out", exc_info=building.exception())

    async def _popular(self, progress: Progress, view: ModelView) -> tuple[Answered, Progress]:
        """What is popular, after what the model has written, if it did."""
        attempt = progress.attempt()
        attempt.earlier_embedding = None
        started = time.perf_counter()
        answered = await self._run(self._run_popular, progress, lambda: answer(attempt, view))
        self._times.took((POPULAR, progress.served.kind), time.perf_counter() - started)
        if answered.source == SOURCE_POPULAR and not any(note.step == "segment_popular" for note in attempt.steps):
            attempt.note("segment_popular", "no_segment")
        return self._checked(answered, attempt), attempt
