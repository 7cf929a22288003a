"""The blocking half of a recommendation: search, rank, fill, describe.

Every list is made here, whichever step of the ladder it is for, and checked last against what may be returned.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model_store.index.vectors import normalize
from service.recommend.ask import SOURCE_MODEL, SOURCE_POPULAR, SOURCE_RETRIEVE, SOURCE_SEGMENT, Ask, RankedItem
from service.recommend.candidates.admissible import Admissible, admissible_items
from service.recommend.candidates.caps import Caps
from service.recommend.candidates.segments import Segments
from service.recommend.known import Known
from service.recommend.ranking.boosts import boost_source
from service.recommend.ranking.candidates import (
    GENERATED,
    ORIGINS,
    POPULAR,
    RETRIEVED,
    Candidates,
)
from service.recommend.ranking.describe import describe
from service.recommend.ranking.lister import Lister
from service.recommend.ranking.retrieve import retrieve
from service.recommend.ranking.sources import Source, first_kept, fixed, in_order, popular
from service.recommend.trace import NOTHING, Timing, Trace, failure

LOGGER = logging.getLogger(__name__)

# With diversity, so many times k titles are written.
DIVERSITY_POOL = 5
# How far the list goes that pages are cut from.
MAX_RANKED = 500

MODEL_STEP = "model"


@dataclass(frozen=True)
class ModelView:
    """What the model made of a history; None where it was not asked or failed.

    Attributes:
        generated: Items whose titles it wrote, all admissible.
        user: (D,) float32, what items are to be near to.
        attention: (L,) float32, weight of each item that it read.
        step: Who made ``user``: ``model``, ``last_embedding`` or ``similar_items``.
        admissible: What may be returned, where that is known by now.
    """

    generated: Candidates | None = None
    user: np.ndarray | None = None
    attention: np.ndarray | None = None
    step: str = MODEL_STEP
    admissible: Admissible | None = None


@dataclass(frozen=True)
class Answer:
    """An answer.

    Attributes:
        items: The first k of the list.
        source: Which step they come from.
        ranked: The list; longer than k only where pages are wanted.
        earlier_embedding: (D,) float32 of an earlier request, where that is what was searched with.
        segment_attribute: Whose values the segments are, where the user's segment was looked for and known.
    """

    items: Sequence[RankedItem]
    source: str
    ranked: Candidates
    earlier_embedding: np.ndarray | None = None
    segment_attribute: str | None = None


class _IndexFailed(Exception):
    """The index could not be searched."""


def make_answer(ask: Ask, known: Known, view: ModelView, segments: Segments | None = None) -> tuple[Answer, Trace]:
    """Finds k admissible items, or all there are: generated ones first, then retrieved ones, then popular ones.

    The caps of ``max_per`` hold on every step; where they leave fewer than k items, a warning says so.

    Args:
        ask: What is wanted.
        known: The history, and what is hidden.
        view: What there is to search with.
        segments: Of the catalogue, by now; None: only popularity overall is served.

    Raises:
        InvalidRequest: A filter or a cap that does not fit the attribute's type.
    """
    return _Maker(ask, known, view, segments).make()


class _Maker:
    """The making of one answer."""

    def __init__(self, ask: Ask, known: Known, view: ModelView, segments: Segments | None) -> None:
        self._started = time.perf_counter()
        self._ask, self._known, self._view = ask, known, view
        self._segments = segments
        self._segment: np.ndarray | None = None
        self._trace = NOTHING
        self._has_failed = False
        self._search_seconds = 0.0
        query = ask.query
        self._admissible = view.admissible or admissible_items(ask.served, query, known)
        self._num_admissible = self._admissible.count()
        self._k = min(query.k, self._num_admissible)
        self._lister = Lister(
            self._admissible,
            want=min(MAX_RANKED if query.paginate else query.k, self._num_admissible),
            diversity=query.diversity,
            directions=ask.served.bundle.item_directions,
            caps=Caps(ask.served, query.max_per),
            pins=self._pins() if query.pins else {},
        )

    def make(self) -> tuple[Answer, Trace]:
        """The answer; asks one source after the other until there is enough."""
        self._fill_list()
        whole = self._lister.finish()
        ranked = self._checked(whole)
        shown = ranked if len(ranked) <= self._k else ranked.take(slice(self._k))
        numbers = np.bincount(ranked.origins, minlength=len(ORIGINS)).tolist()
        source = self._source(numbers)
        items, explained = describe(self._ask, self._known, shown, attention=self._view.attention, user=self._view.user)
        counted = Trace(
            warnings=self._warnings(shown, source),
            timing=Timing(search=self._search_seconds, rank=time.perf_counter() - self._started - self._search_seconds),
            counts={
                "admissible": self._num_admissible,
                "fetched": sum(plan.num_fetched for plan in self._trace.plans),
                "capped": self._lister.num_capped,
                **dict(zip(ORIGINS, numbers, strict=True)),
            },
            filtered={
                **self._admissible.removed,
                "cap": self._lister.num_capped,
                "last_check": len(whole) - len(ranked),
            },
        )
        answer = Answer(
            items,
            source,
            ranked,
            earlier_embedding=self._view.user if self._view.step == "last_embedding" else None,
            segment_attribute=self._segment_attribute(),
        )
        return answer, self._trace + explained + counted

    def _fill_list(self) -> None:
        lister, view, served = self._lister, self._view, self._ask.served
        if view.generated is not None:
            self._fill(fixed(view.generated), GENERATED)
        if view.user is not None and lister.num_unpinned_missing > 0:
            self._retrieve(view.user)
        if lister.num_unpinned_missing > 0 or (view.user is None and view.generated is None):
            self._segment = self._segment_items()
        if lister.num_unpinned_missing > 0:
            if self._segment is not None:
                self._fill(in_order(served, self._segment), POPULAR)
            self._fill(popular(served), POPULAR)

    def _pins(self) -> dict[int, tuple[int, float]]:
        """Pinned items by their place, with their cosine where there is something to compare them with."""
        served, user, pins = self._ask.served, self._view.user, self._ask.query.pins
        items = np.array([served.catalogue.index_of(pin.item_id) for pin in pins], dtype=np.int64)
        scores = np.zeros(len(pins))
        if user is not None:
            scores = served.bundle.item_directions(items) @ normalize(user)
        pinned = zip(items.tolist(), scores.tolist(), strict=True)
        return dict(zip((pin.position for pin in pins), pinned, strict=True))

    def _segment_items(self) -> np.ndarray | None:
        """(M,) int64 item indices of the user's segment, the most popular first; None where that is not known (yet)."""
        catalogue, wish, segments = self._ask.served.catalogue, self._ask.query.segment, self._segments
        if segments is None or not segments.is_built(catalogue, wish):
            return None
        return segments.order(catalogue, wish, self._known.history.item_indices)

    def _segment_attribute(self) -> str | None:
        if self._segments is None or self._segment is None:
            return None
        built = self._segments.build(self._ask.served.catalogue, self._ask.query.segment)
        return None if built is None else built.attribute

    def _fill(self, source: Source, origin: int) -> None:
        self._lister.fill(boost_source(source, self._ask.served, self._ask.query.boosts), origin)

    def _retrieve(self, user: np.ndarray) -> None:
        """Goes on with the items nearest to the user."""
        try:
            self._fill(lambda want, rest: self._search(user, want, rest), RETRIEVED)
        except _IndexFailed:
            self._has_failed = True
            self._trace += failure("index_failed", "the items could not be searched")

    def _search(self, user: np.ndarray, want: int, admissible: Admissible) -> Candidates:
        started = time.perf_counter()
        try:
            candidates, trace = retrieve(self._ask.served.bundle, user, want, admissible)
        except Exception as error:
            LOGGER.exception("the index failed; falling back")
            raise _IndexFailed from error
        finally:
            self._search_seconds += time.perf_counter() - started
        is_news = not set(trace.warnings) <= set(self._trace.warnings)
        self._trace += trace if is_news else Trace(plans=trace.plans)
        return candidates

    def _checked(self, ranked: Candidates) -> Candidates:
        """The list once more against what may be returned: whatever made it, this is the last word."""
        is_kept = self._admissible.keep(ranked.item_indices)
        if is_kept.all():
            return ranked
        LOGGER.error("%d items that may not be returned were taken out at last", np.count_nonzero(~is_kept))
        return ranked.take(is_kept)

    def _source(self, numbers: Sequence[int]) -> str:
        """Which step the list comes from; ``numbers`` of its items are of each origin."""
        view = self._view
        is_searched = view.user is not None and (numbers[RETRIEVED] > 0 or not self._has_failed)
        if is_searched and view.step != MODEL_STEP:
            return f"fallback:{view.step}"
        if numbers[GENERATED] or (view.generated is not None and not numbers[POPULAR]):
            return SOURCE_MODEL
        if is_searched:
            return SOURCE_RETRIEVE if self._ask.mode == "generate" and view.generated is None else SOURCE_MODEL
        segment = self._segment
        is_of_segment = segment is not None and len(first_kept(segment, 1, self._admissible)) > 0
        return SOURCE_SEGMENT if is_of_segment else SOURCE_POPULAR

    def _warnings(self, shown: Candidates, source: str) -> tuple[str, ...]:
        """What the caller could not tell from the list."""
        numbers = np.bincount(shown.origins, minlength=len(ORIGINS)).tolist()
        warnings = []
        if numbers[RETRIEVED] and self._view.generated is not None:
            warnings.append(
                f"retrieval_fill: {numbers[RETRIEVED]} items are retrieved, not generated; they come last, scored by "
                "cosine"
            )
        if numbers[POPULAR] and source not in (SOURCE_SEGMENT, SOURCE_POPULAR):
            warnings.append(f"popular_fill: {numbers[POPULAR]} items are popular ones, not the model's")
        if len(shown) < self._k:
            warnings.append(f"max_per_short: {len(shown)} items instead of {self._k}, as max_per admits no more")
        if not self._known.hidden.is_known:
            warnings.append("hidden_items_unknown: what is hidden could not be read since this process started")
        return tuple(warnings)
