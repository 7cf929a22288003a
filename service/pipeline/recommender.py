"""One recommendation from beginning to end: history, encode, retrieve, constrain, rank, fill.

What can fail has a next step: without Redis, without a known item, or with a failing model or index the
answer is the popular items, says so in ``source`` and ``warnings``, and honours the same exclusions and
filters.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from model_store.user_encoder import History
from service.engine.served_bundle import ServedBundle
from service.errors import DeadlineExceeded, HistoryUnavailable, ServiceError
from service.pipeline.constraints import (
    Admissible,
    Filter,
    check_attributes,
    exclusions,
    filter_mask,
)
from service.pipeline.fallback import popular_items
from service.pipeline.protocols import BlockingRunner, BundleSource, EncoderQueue, HistoryReader
from service.pipeline.ranking import rank, reasons
from service.pipeline.retrieval import Candidates, retrieve

LOGGER = logging.getLogger(__name__)

SOURCE_MODEL = "model"
SOURCE_POPULAR = "fallback:popular"
DEFAULT_FIELDS = ("title",)
# With diversity, this many times k candidates are looked at.
_DIVERSITY_POOL = 5
# The history store may use this share of a request's time, so that some is left for a fallback.
_HISTORY_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Interaction:
    """One entry of a history: the item, and when (None where the caller did not say)."""

    item_id: str
    timestamp: int | None = None


@dataclass(frozen=True)
class Query:
    """One request.

    Attributes:
        user_id: Whose stored history is read, unless ``history`` is given.
        k: How many items are wanted.
        timeout_seconds: For the whole answer.
        history: Used instead of the stored one; oldest first.
        filter: Conditions per attribute.
        exclude_item_ids: Never returned.
        exclude_seen: Whether items of the history are never returned.
        diversity: In [0, 1].
        explain: Whether reasons are wanted.
        return_fields: Which fields of the items are wanted; the title by default.
        model: Kind of model; the default one by default.
        min_event_token: Names a batch of events that must be counted in.
    """

    user_id: str | None
    k: int
    timeout_seconds: float
    history: Sequence[Interaction] | None = None
    filter: Filter = field(default_factory=dict)
    exclude_item_ids: Sequence[str] = ()
    exclude_seen: bool = True
    diversity: float = 0.0
    explain: bool = False
    return_fields: Sequence[str] | None = None
    model: str | None = None
    min_event_token: str | None = None


@dataclass(frozen=True, slots=True)
class RankedItem:
    """One item of an answer: score is a cosine, 0 where no model scored it; reasons are (item_id, weight)."""

    item_id: str
    score: float
    fields: Mapping[str, Any]
    reasons: Sequence[tuple[str, float]] = ()


@dataclass
class Timing:
    """Seconds per step."""

    history: float = 0.0
    queue: float = 0.0
    encode: float = 0.0
    search: float = 0.0
    rank: float = 0.0
    total: float = 0.0


@dataclass(frozen=True)
class Recommendation:
    """One answer.

    Attributes:
        served: The bundle that answered.
        items: Best first.
        source: ``model`` or ``fallback:<step>``.
        warnings: What the caller should know.
        history_length: Interactions that the model read.
        timing: Seconds per step.
        fallback_reason: Why it is a fallback, for the metrics.
    """

    served: ServedBundle
    items: Sequence[RankedItem]
    source: str
    warnings: Sequence[str]
    history_length: int
    timing: Timing
    fallback_reason: str | None = None
    recommendation_id: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass
class _Progress:
    """What is known of a request so far."""

    query: Query
    served: ServedBundle
    timing: Timing = field(default_factory=Timing)
    warnings: list[str] = field(default_factory=list)
    fallback_reason: str | None = None

    def fall_back(self, reason: str, warning: str) -> None:
        self.fallback_reason = self.fallback_reason or reason
        self.warnings.append(f"{reason}: {warning}")


class Recommender:
    """Answers queries.

    Args:
        bundles: Which bundle answers.
        histories: Stored histories.
        encoders: Forward passes.
        run_blocking: Runs index searches beside the event loop.
    """

    def __init__(
        self,
        *,
        bundles: BundleSource,
        histories: HistoryReader,
        encoders: EncoderQueue,
        run_blocking: BlockingRunner,
    ) -> None:
        self._bundles = bundles
        self._histories = histories
        self._encoders = encoders
        self._run_blocking = run_blocking

    async def recommend(self, query: Query) -> Recommendation:
        """Answers one query.

        Raises:
            InvalidRequest: An unknown model kind, attribute or field, or a filter of the wrong type.
            NotReady: No bundle is loaded.
            Overloaded: Too many requests wait for the model.
            DeadlineExceeded: It took longer than ``query.timeout_seconds``.
        """
        try:
            async with asyncio.timeout(query.timeout_seconds):
                return await self._recommend(query)
        except TimeoutError as error:
            raise DeadlineExceeded(f"no answer within {query.timeout_seconds * 1000:.0f} ms") from error

    async def _recommend(self, query: Query) -> Recommendation:
        started = time.perf_counter()
        served = self._bundles.get(query.model)
        check_attributes(served.catalogue, query.return_fields or (), allowed=DEFAULT_FIELDS)
        check_attributes(served.catalogue, query.filter)
        progress = _Progress(query, served)
        interactions = await self._read_history(progress)
        history = _known_history(served, interactions, progress)
        user = await self._encode(history, progress)
        recommendation = await self._run_blocking(lambda: _answer(progress, interactions, history, user))
        recommendation.timing.total = time.perf_counter() - started
        return recommendation

    async def _read_history(self, progress: _Progress) -> Sequence[Interaction]:
        query = progress.query
        if query.history is not None:
            return _in_order(query.history)
        if query.user_id is None:
            return ()
        started = time.perf_counter()
        try:
            async with asyncio.timeout(query.timeout_seconds * _HISTORY_SHARE):
                stored = await self._histories.read(query.user_id, event_token=query.min_event_token)
        except (HistoryUnavailable, TimeoutError):
            progress.fall_back("history_unavailable", "the stored history cannot be read, so seen items are not known")
            return ()
        finally:
            progress.timing.history = time.perf_counter() - started
        if stored.includes_token is False:
            progress.warnings.append("event_token_unknown: the batch of min_event_token is not in this user's history")
        return [Interaction(event.item_id, event.timestamp) for event in stored.events]

    async def _encode(self, history: History, progress: _Progress) -> np.ndarray | None:
        """(D,) float32, or None when there is nothing to encode or the model failed."""
        if len(history.item_indices) == 0:
            progress.fallback_reason = progress.fallback_reason or "no_known_history"
            return None
        try:
            encoded = await self._encoders.encode(progress.served.encoder, history)
        except ServiceError:
            raise
        except Exception:
            LOGGER.exception("the model failed; falling back")
            progress.fall_back("model_failed", "the model could not read this history")
            return None
        progress.timing.queue, progress.timing.encode = encoded.queue_seconds, encoded.encode_seconds
        if not np.isfinite(encoded.embedding).all():
            progress.fall_back("model_failed", "the model's answer is not a number")
            return None
        return encoded.embedding


def _in_order(history: Sequence[Interaction]) -> Sequence[Interaction]:
    """By timestamp where every entry has one (equal ones keep their order), else as it came."""
    if any(interaction.timestamp is None for interaction in history):
        return history
    return sorted(history, key=lambda interaction: interaction.timestamp or 0)


def _known_history(served: ServedBundle, interactions: Sequence[Interaction], progress: _Progress) -> History:
    """What the model can read of a history: items of the catalogue, the latest ``max_history_length``."""
    indices = served.catalogue.indices_of(interaction.item_id for interaction in interactions)
    is_known = indices > 0
    num_unknown = int(np.count_nonzero(~is_known))
    if num_unknown:
        progress.warnings.append(f"unknown_history_items: {num_unknown} of {len(indices)} are not in the catalogue")
    timestamps = _filled([interaction.timestamp for interaction in interactions])
    latest = slice(-served.encoder.max_history_length, None)
    return History(indices[is_known][latest], timestamps[is_known][latest])


def _filled(timestamps: Sequence[int | None]) -> np.ndarray:
    """(L,) int64; a missing one is that of the entry before it, or the first one there is, or 0."""
    previous = next((timestamp for timestamp in timestamps if timestamp is not None), 0)
    filled = np.empty(len(timestamps), dtype=np.int64)
    for at, timestamp in enumerate(timestamps):
        previous = previous if timestamp is None else timestamp
        filled[at] = previous
    return filled


def _answer(
    progress: _Progress, interactions: Sequence[Interaction], history: History, user: np.ndarray | None
) -> Recommendation:
    """The blocking half: search, rank, fill."""
    query, served = progress.query, progress.served
    admissible = _admissible(served, query, interactions)
    candidates = _search(progress, user, admissible)
    started = time.perf_counter()
    chosen = _ranked(served, candidates, query)
    source = SOURCE_MODEL if user is not None and progress.fallback_reason is None else SOURCE_POPULAR
    chosen = _fill(progress, chosen, admissible, is_fallback=source == SOURCE_POPULAR)
    items = _described(served, chosen, history, query)
    progress.timing.rank = time.perf_counter() - started
    return Recommendation(
        served=served,
        items=items,
        source=source,
        warnings=progress.warnings,
        history_length=len(history.item_indices) if source == SOURCE_MODEL else 0,
        timing=progress.timing,
        fallback_reason=progress.fallback_reason,
    )


def _admissible(served: ServedBundle, query: Query, interactions: Sequence[Interaction]) -> Admissible:
    seen = [interaction.item_id for interaction in interactions] if query.exclude_seen else []
    mask = None
    if query.filter:
        key = tuple(sorted(query.filter.items(), key=lambda named: named[0]))
        mask = served.masks.get(_typed_key(key), lambda: _mask(served, query.filter))
    excluded = exclusions(served.catalogue, [*query.exclude_item_ids, *seen])
    return Admissible(len(served.catalogue), mask, excluded)


def _typed_key(key: tuple[Any, ...]) -> str:
    # By text: as tuple elements 1, 1.0 and True are equal, but as conditions they are not.
    return repr(key)


def _mask(served: ServedBundle, conditions: Filter) -> np.ndarray:
    mask = filter_mask(served.catalogue, conditions)
    return np.ones(len(served.catalogue), dtype=bool) if mask is None else mask


def _search(progress: _Progress, user: np.ndarray | None, admissible: Admissible) -> Candidates:
    nothing = Candidates(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))
    if user is None:
        return nothing
    query = progress.query
    want = query.k * _DIVERSITY_POOL if query.diversity > 0 else query.k
    started = time.perf_counter()
    try:
        candidates = retrieve(progress.served.bundle, user, want, admissible)
    except Exception:
        LOGGER.exception("the index failed; falling back")
        progress.fall_back("index_failed", "the items could not be searched")
        return nothing
    finally:
        progress.timing.search = time.perf_counter() - started
    if candidates.warning:
        progress.warnings.append(candidates.warning)
    return candidates


def _ranked(served: ServedBundle, candidates: Candidates, query: Query) -> list[tuple[int, float]]:
    vectors = served.bundle.item_embeddings(candidates.item_indices) if query.diversity > 0 else np.empty((0, 0))
    order = rank(vectors, candidates.scores, query.k, diversity=query.diversity)
    return [(int(candidates.item_indices[at]), float(candidates.scores[at])) for at in order]


def _fill(
    progress: _Progress, chosen: list[tuple[int, float]], admissible: Admissible, *, is_fallback: bool
) -> list[tuple[int, float]]:
    """Adds popular items until there are k, or no admissible ones left."""
    missing = min(progress.query.k, admissible.count()) - len(chosen)
    if missing <= 0:
        return chosen
    taken = np.union1d(admissible.excluded, np.array([item_index for item_index, _ in chosen], dtype=np.int64))
    rest = Admissible(admissible.num_items, admissible.mask, taken.astype(np.int64))
    if not is_fallback:
        progress.warnings.append(f"popular_fill: {missing} items are popular ones, not the model's")
    return chosen + [(int(index), 0.0) for index in popular_items(progress.served.catalogue, missing, rest)]


def _described(
    served: ServedBundle, chosen: Sequence[tuple[int, float]], history: History, query: Query
) -> list[RankedItem]:
    why: list[list[tuple[int, float]]] = [[] for _ in chosen]
    if query.explain and len(history.item_indices) and chosen:
        item_vectors = served.bundle.item_embeddings(np.array([item_index for item_index, _ in chosen]))
        why = reasons(item_vectors, served.bundle.item_embeddings(history.item_indices))
    names = DEFAULT_FIELDS if query.return_fields is None else query.return_fields
    catalogue = served.catalogue
    return [
        RankedItem(
            item_id=catalogue.id_of(item_index),
            score=score,
            fields=catalogue.fields(item_index, names) if names else {},
            reasons=[(catalogue.id_of(int(history.item_indices[at])), weight) for at, weight in because],
        )
        for (item_index, score), because in zip(chosen, why, strict=True)
    ]
