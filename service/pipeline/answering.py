"""The blocking half of a recommendation: search, rank, fill, describe."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.pipeline.constraints import Admissible
from service.pipeline.explaining import EXPLAINED_BY_ATTENTION, likeness_weights, reasons
from service.pipeline.fallback import popular_items
from service.pipeline.progress import Progress
from service.pipeline.query import (
    DEFAULT_FIELDS,
    SOURCE_MODEL,
    SOURCE_POPULAR,
    SOURCE_RETRIEVE,
    RankedItem,
)
from service.pipeline.ranking import rank
from service.pipeline.retrieval import Candidates, retrieve

LOGGER = logging.getLogger(__name__)

# With diversity, this many times k candidates are looked at.
DIVERSITY_POOL = 5


@dataclass(frozen=True)
class ModelView:
    """What the model made of a history; None where it was not asked or failed.

    Attributes:
        generated: Items whose titles it wrote, all admissible.
        user: (D,) float32, the user embedding.
        attention: (L,) float32, weight of each item that it read.
    """

    generated: Candidates | None = None
    user: np.ndarray | None = None
    attention: np.ndarray | None = None


@dataclass(frozen=True)
class Answered:
    """The items of an answer, and which step they come from."""

    items: Sequence[RankedItem]
    source: str


@dataclass(frozen=True, slots=True)
class _Chosen:
    item_index: int
    score: float
    is_from_model: bool = True


def answer(progress: Progress, view: ModelView) -> Answered:
    """Finds k admissible items, or all there are: generated ones first, then retrieved ones, then popular ones."""
    generated = _generated(progress, view.generated)
    retrieved = _retrieved(progress, view, generated)
    source = _source(progress, view, generated, retrieved)
    started = time.perf_counter()
    chosen = [*generated, *(retrieved or [])]
    chosen += _popular(progress, chosen, is_fallback=source == SOURCE_POPULAR)
    items = _described(progress, chosen, view.attention)
    progress.timing.rank += time.perf_counter() - started
    return Answered(items, source)


def _source(
    progress: Progress, view: ModelView, generated: Sequence[_Chosen], retrieved: Sequence[_Chosen] | None
) -> str:
    if generated:
        return SOURCE_MODEL
    if retrieved is None:
        return SOURCE_POPULAR
    return SOURCE_RETRIEVE if progress.mode == "generate" and view.generated is None else SOURCE_MODEL


def _missing(progress: Progress, chosen: Sequence[_Chosen]) -> int:
    return min(progress.query.k, progress.admissible.count()) - len(chosen)


def _rest(progress: Progress, chosen: Sequence[_Chosen]) -> Admissible:
    """What may still be returned."""
    if not chosen:
        return progress.admissible
    return progress.admissible.without(np.array([one.item_index for one in chosen], dtype=np.int64))


def _generated(progress: Progress, found: Candidates | None) -> list[_Chosen]:
    if found is None:
        return []
    is_kept = progress.admissible.keep(found.item_indices)
    candidates = Candidates(found.item_indices[is_kept], found.scores[is_kept])
    # for weighing against likeness: how probable next to the best, in (0, 1] as cosines are
    return _ranked(progress, candidates, np.exp(candidates.scores - candidates.scores[:1]))


def _retrieved(progress: Progress, view: ModelView, generated: Sequence[_Chosen]) -> list[_Chosen] | None:
    """Retrieved items after the generated ones; None if they cannot be had."""
    missing = _missing(progress, generated)
    if view.user is None:
        return [] if view.generated is not None and missing == 0 else None
    candidates = _search(progress, view.user, missing, _rest(progress, generated))
    if candidates is None:
        return None
    if view.generated is not None and len(candidates.scores):
        progress.warnings.append(
            f"retrieval_fill: {missing} items are retrieved, not generated; they come last, scored by cosine"
        )
    return _ranked(progress, candidates, candidates.scores, k=missing)


def _search(progress: Progress, user: np.ndarray, missing: int, admissible: Admissible) -> Candidates | None:
    want = missing * DIVERSITY_POOL if progress.query.diversity > 0 else missing
    started = time.perf_counter()
    try:
        candidates = retrieve(progress.served.bundle, user, want, admissible)
    except Exception:
        LOGGER.exception("the index failed; falling back")
        progress.fall_back("index_failed", "the items could not be searched")
        return None
    finally:
        progress.timing.search += time.perf_counter() - started
    if candidates.warning:
        progress.warnings.append(candidates.warning)
    return candidates


def _ranked(
    progress: Progress, candidates: Candidates, relevance: np.ndarray, *, k: int | None = None
) -> list[_Chosen]:
    diversity = progress.query.diversity
    bundle = progress.served.bundle
    vectors = bundle.item_embeddings(candidates.item_indices) if diversity > 0 else np.empty((0, 0))
    order = rank(vectors, relevance, progress.query.k if k is None else k, diversity=diversity)
    return [_Chosen(int(candidates.item_indices[at]), float(candidates.scores[at])) for at in order]


def _popular(progress: Progress, chosen: Sequence[_Chosen], *, is_fallback: bool) -> list[_Chosen]:
    """Popular items until there are k, or no admissible ones left."""
    missing = _missing(progress, chosen)
    if missing <= 0:
        return []
    if not is_fallback:
        progress.warnings.append(f"popular_fill: {missing} items are popular ones, not the model's")
    found = popular_items(progress.served.catalogue, missing, _rest(progress, chosen))
    return [_Chosen(int(index), 0.0, is_from_model=False) for index in found]


def _described(progress: Progress, chosen: Sequence[_Chosen], attention: np.ndarray | None) -> list[RankedItem]:
    wanted = progress.query.return_fields
    names = DEFAULT_FIELDS if wanted is None else wanted
    catalogue = progress.served.catalogue
    why = _reasons(progress, chosen, attention) if progress.query.explain else [[] for _ in chosen]
    return [
        RankedItem(
            item_id=catalogue.id_of(one.item_index),
            score=one.score,
            fields=catalogue.fields(one.item_index, names) if names else {},
            reasons=[(catalogue.id_of(item_index), weight) for item_index, weight in because],
        )
        for one, because in zip(chosen, why, strict=True)
    ]


def _reasons(
    progress: Progress, chosen: Sequence[_Chosen], attention: np.ndarray | None
) -> list[list[tuple[int, float]]]:
    """Per item (item_index of the history, weight); none for items that the model did not choose."""
    history = progress.read_items
    from_model = [one.item_index for one in chosen if one.is_from_model]
    nothing: list[list[tuple[int, float]]] = [[] for _ in chosen]
    if not from_model or not len(history):
        return nothing
    if attention is not None:
        weights = np.broadcast_to(attention, (len(from_model), len(attention)))
    elif progress.served.kind in EXPLAINED_BY_ATTENTION:
        return nothing
    else:
        item_embeddings = progress.served.bundle.item_embeddings
        weights = likeness_weights(item_embeddings(np.array(from_model)), item_embeddings(history))
    because = reasons(weights, history)
    num_bare = sum(not one for one in because)
    if num_bare:
        progress.warnings.append(f"explain_limit: the last {num_bare} of {len(because)} items have no reasons")
    return because + nothing[len(because) :]
