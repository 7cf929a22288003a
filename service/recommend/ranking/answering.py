"""The blocking half of a recommendation: search, rank, fill, describe.

Every list is made here, whichever step of the ladder it is for, and checked last against what may be returned.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from service.recommend.ask import (
    SOURCE_MODEL,
    SOURCE_POPULAR,
    SOURCE_RETRIEVE,
    SOURCE_SEGMENT,
    Plan,
    Ranked,
    RankedItem,
)
from service.recommend.candidates.admissible import Admissible
from service.recommend.candidates.caps import Caps
from service.recommend.ranking.boosts import boosted
from service.recommend.ranking.describe import described
from service.recommend.ranking.fallback import has_admissible
from service.recommend.ranking.lister import Draw, Drawn, Entry, Lister
from service.recommend.ranking.retrieve import Candidates, retrieve
from service.recommend.ranking.sources import fixed, in_order, popular
from service.recommend.trace import Progress

LOGGER = logging.getLogger(__name__)

# With diversity, so many times k titles are written.
DIVERSITY_POOL = 5
# How far the list goes that pages are cut from.
MAX_RANKED = 500

MODEL_STEP = "model"
_GENERATED, _RETRIEVED, _POPULAR, _PINNED = "generated", "retrieved", "popular", "pinned"


@dataclass(frozen=True)
class ModelView:
    """What the model made of a history; None where it was not asked or failed.

    Attributes:
        generated: Items whose titles it wrote, all admissible.
        user: (D,) float32, what items are to be near to.
        attention: (L,) float32, weight of each item that it read.
        step: Who made ``user``: ``model``, ``last_embedding`` or ``similar_items``.
    """

    generated: Candidates | None = None
    user: np.ndarray | None = None
    attention: np.ndarray | None = None
    step: str = MODEL_STEP


@dataclass(frozen=True)
class Answered:
    """An answer.

    Attributes:
        items: The first k of the list.
        source: Which step they come from.
        ranked: The list; longer than k only where pages are wanted.
        plans: How candidates were looked for.
        filtered: How many items each reason kept from the list; an item that has several reasons counts for each.
    """

    items: Sequence[RankedItem]
    source: str
    ranked: Sequence[Ranked] = ()
    plans: Sequence[Plan] = ()
    filtered: Mapping[str, int] = field(default_factory=dict)


class _IndexFailed(Exception):
    """The index could not be searched."""


def answer(progress: Progress, view: ModelView) -> Answered:
    """Finds k admissible items, or all there are: generated ones first, then retrieved ones, then popular ones.

    The caps of ``max_per`` hold on every step; where they leave fewer than k items, a warning says so.

    Args:
        progress: Of the request. Warnings, timing and counts are written to it, and to nothing else.
        view: What there is to search with.

    Raises:
        InvalidRequest: A filter or a cap that does not fit the attribute's type.
    """
    return _Answer(progress, view).made()


class _Answer:
    """The making of one answer."""

    def __init__(self, progress: Progress, view: ModelView) -> None:
        query = progress.query
        self._progress = progress
        self._view = view
        self._plans: list[Plan] = []
        self._has_failed = False
        self._search_seconds = 0.0
        self._num_removed_last = 0
        self._num_admissible = progress.admissible.count()
        self._k = min(query.k, self._num_admissible)
        self._lister = Lister(
            progress.admissible,
            want=min(MAX_RANKED if query.paginate else query.k, self._num_admissible),
            diversity=query.diversity,
            vectors=progress.served.bundle.item_embeddings,
            caps=Caps(progress.served, query.max_per),
            pins=self._pins(),
        )

    def made(self) -> Answered:
        """The answer; asks one source after the other until there is enough."""
        started = time.perf_counter()
        progress, lister, view = self._progress, self._lister, self._view
        if view.generated is not None:
            self._fill(fixed(view.generated), _GENERATED)
        if view.user is not None and lister.num_unpinned_missing > 0:
            self._retrieve(view.user)
        if lister.num_unpinned_missing > 0:
            if progress.segment is not None:
                self._fill(in_order(progress.served, progress.segment), _POPULAR)
            self._fill(popular(progress.served), _POPULAR)
        entries = self._checked(lister.finish())
        ranked = [
            Ranked(one.item_index, one.score, one.origin in (_GENERATED, _RETRIEVED), one.origin == _PINNED)
            for one in entries
        ]
        source = self._source(entries)
        items = described(progress, ranked[: self._k], view.attention)
        self._warn(entries[: self._k], source)
        self._count(entries)
        progress.timing.search += self._search_seconds
        progress.timing.rank += time.perf_counter() - started - self._search_seconds
        filtered = {**progress.admissible.removed, "cap": lister.num_capped, "last_check": self._num_removed_last}
        return Answered(items, source, ranked, tuple(self._plans), filtered)

    def _pins(self) -> list[tuple[int, Entry]]:
        """Pinned items, with their cosine where there is something to compare them with."""
        progress, user = self._progress, self._view.user
        pins = [(pin.position, progress.served.catalogue.index_of(pin.item_id)) for pin in progress.query.pins]
        scores = np.zeros(len(pins))
        if user is not None and pins:
            vectors = progress.served.bundle.item_embeddings(np.array([item_index for _, item_index in pins]))
            norms = np.maximum(np.linalg.norm(vectors, axis=1), np.finfo(np.float32).tiny)
            scores = vectors @ (user / np.linalg.norm(user)) / norms
        return [
            (position, Entry(item_index, float(score), _PINNED))
            for (position, item_index), score in zip(pins, scores, strict=True)
        ]

    def _fill(self, draw: Draw, origin: str) -> None:
        self._lister.fill(boosted(draw, self._progress.served, self._progress.query.boosts), origin)

    def _retrieve(self, user: np.ndarray) -> None:
        """Goes on with the items nearest to the user."""
        try:
            self._fill(lambda want, rest: self._search(user, want, rest), _RETRIEVED)
        except _IndexFailed:
            self._has_failed = True
            self._progress.fall_back("index_failed", "the items could not be searched")

    def _search(self, user: np.ndarray, want: int, admissible: Admissible) -> Drawn:
        started = time.perf_counter()
        try:
            candidates = retrieve(self._progress.served.bundle, user, want, admissible)
        except Exception as error:
            LOGGER.exception("the index failed; falling back")
            raise _IndexFailed from error
        finally:
            self._search_seconds += time.perf_counter() - started
        if candidates.warning and candidates.warning not in self._progress.warnings:
            self._progress.warnings.append(candidates.warning)
        self._plans += candidates.plans
        return Drawn(candidates.item_indices, candidates.scores, candidates.scores)

    def _checked(self, entries: Sequence[Entry]) -> list[Entry]:
        """The list once more against what may be returned: whatever made it, this is the last word."""
        item_indices = np.array([one.item_index for one in entries], dtype=np.int64)
        is_kept = self._progress.admissible.keep(item_indices)
        self._num_removed_last = int((~is_kept).sum())
        if self._num_removed_last:
            LOGGER.error("%d items that may not be returned were taken out at last", self._num_removed_last)
        return [one for one, kept in zip(entries, is_kept.tolist(), strict=True) if kept]

    def _source(self, entries: Sequence[Entry]) -> str:
        progress, view = self._progress, self._view
        origins = {one.origin for one in entries}
        is_searched = view.user is not None and (_RETRIEVED in origins or not self._has_failed)
        if is_searched and view.step != MODEL_STEP:
            return f"fallback:{view.step}"
        if _GENERATED in origins or (view.generated is not None and _POPULAR not in origins):
            return SOURCE_MODEL
        if is_searched:
            return SOURCE_RETRIEVE if progress.mode == "generate" and view.generated is None else SOURCE_MODEL
        return SOURCE_SEGMENT if has_admissible(progress.segment, progress.admissible) else SOURCE_POPULAR

    def _warn(self, shown: Sequence[Entry], source: str) -> None:
        """Says what the caller could not tell from the list."""
        warnings = self._progress.warnings
        retrieved, popular_ones = (sum(one.origin == origin for one in shown) for origin in (_RETRIEVED, _POPULAR))
        if retrieved and self._view.generated is not None:
            warnings.append(
                f"retrieval_fill: {retrieved} items are retrieved, not generated; they come last, scored by cosine"
            )
        if popular_ones and source not in (SOURCE_SEGMENT, SOURCE_POPULAR):
            warnings.append(f"popular_fill: {popular_ones} items are popular ones, not the model's")
        if len(shown) < self._k:
            warnings.append(f"max_per_short: {len(shown)} items instead of {self._k}, as max_per admits no more")
        if not self._progress.hidden.is_known:
            warnings.append("hidden_items_unknown: what is hidden could not be read since this process started")

    def _count(self, entries: Sequence[Entry]) -> None:
        counts = self._progress.counts
        counts["admissible"] = self._num_admissible
        counts["fetched"] = sum(plan.num_fetched for plan in self._plans)
        counts["capped"] = self._lister.num_capped
        for origin in (_GENERATED, _RETRIEVED, _POPULAR, _PINNED):
            counts[origin] = sum(one.origin == origin for one in entries)
