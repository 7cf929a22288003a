"""One recommendation from beginning to end: choose, read the history, ask the model, search, constrain, rank, fill.

What can fail has a next step: a model that cannot generate retrieves, and without Redis, without a known item, or
with a failing model or index the answer is the popular items. It says so in ``source`` and ``warnings``, and
honours the same exclusions and filters.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from model_store.user_encoder import History
from service.errors import DeadlineExceeded, HistoryUnavailable, ServiceError
from service.pipeline.answering import DIVERSITY_POOL, ModelView, answer
from service.pipeline.choosing import Chooser
from service.pipeline.constraints import check_attributes
from service.pipeline.explaining import EXPLAINED_BY_ATTENTION
from service.pipeline.known_history import in_order, known_history
from service.pipeline.progress import Progress
from service.pipeline.protocols import BlockingRunner, HistoryReader, ModelQueue
from service.pipeline.query import (
    DEFAULT_FIELDS,
    SOURCE_MODEL,
    SOURCE_POPULAR,
    Interaction,
    Query,
    Recommendation,
)
from service.pipeline.retrieval import Candidates

LOGGER = logging.getLogger(__name__)

# The history store may use this share of a request's time, so that some is left for a fallback.
_HISTORY_SHARE = 0.5
# The most titles that one request may have written, whatever its k and diversity; further items are retrieved. As
# many beams run at once, and everybody else waits for them.
_MAX_GENERATED = 100


class Recommender:
    """Answers queries.

    Args:
        chooser: Which bundle answers, and how.
        histories: Stored histories.
        models: Runs all that needs a model.
        run_blocking: Runs index searches beside the event loop.
        num_erasures: How many users have been erased so far.
    """

    def __init__(
        self,
        *,
        chooser: Chooser,
        histories: HistoryReader,
        models: ModelQueue,
        run_blocking: BlockingRunner,
        num_erasures: Callable[[], int],
    ) -> None:
        self._chooser = chooser
        self._histories = histories
        self._models = models
        self._run_blocking = run_blocking
        self._num_erasures = num_erasures

    async def recommend(self, query: Query) -> Recommendation:
        """Answers one query.

        Raises:
            InvalidRequest: An unknown model kind, attribute or field, a mode that the model does not have, or a
                filter of the wrong type.
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
        choice = self._chooser.choose(query)
        catalogue = choice.served.catalogue
        check_attributes(catalogue, query.return_fields or (), allowed=DEFAULT_FIELDS)
        check_attributes(catalogue, query.filter)
        progress = Progress(query, choice.served, choice.mode, num_erasures=self._num_erasures())
        progress.warnings.extend([choice.warning] if choice.warning else [])
        progress.interactions = await self._read_history(progress)
        progress.history = known_history(catalogue, progress.interactions)
        _warn_of_unknown(progress)
        view = await self._ask_model(progress)
        answered = await self._run_blocking(lambda: answer(progress, view))
        progress.timing.total = time.perf_counter() - started
        return Recommendation(
            served=choice.served,
            mode=choice.mode,
            items=answered.items,
            source=answered.source,
            warnings=progress.warnings,
            history_length=0 if answered.source == SOURCE_POPULAR else len(progress.read_items),
            timing=progress.timing,
            assignment=choice.assignment,
            fallback_reason=None if answered.source == SOURCE_MODEL else progress.fallback_reason,
        )

    async def _read_history(self, progress: Progress) -> Sequence[Interaction]:
        query = progress.query
        if query.history is not None:
            return in_order(query.history)
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

    async def _ask_model(self, progress: Progress) -> ModelView:
        if not len(progress.history.item_indices):
            progress.fall_back("no_known_history")
            return ModelView()
        served = progress.served
        generated = await self._generate(progress) if progress.mode == "generate" else None
        user = await self._encode(progress) if _wants_user(progress, generated) else None
        is_explained = progress.query.explain and served.kind in EXPLAINED_BY_ATTENTION
        has_answer = generated is not None or user is not None
        attention = await self._explain(progress) if is_explained and has_answer else None
        return ModelView(generated, user, attention)

    async def _generate(self, progress: Progress) -> Candidates | None:
        """Items whose titles the model writes, or None when it failed."""
        generator = progress.served.generator
        assert generator is not None  # or the mode would not have been chosen
        allowed = await self._run_blocking(lambda: progress.admissible.allowed())
        query = progress.query
        want = min(query.k * DIVERSITY_POOL if query.diversity > 0 else query.k, _MAX_GENERATED, int(allowed.sum()))
        if want == 0:
            return Candidates(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))
        history = self._owned_history(progress)
        try:
            ran = await self._models.run(lambda: generator.recommend(history, want, None if allowed.all() else allowed))
        except ServiceError:
            raise
        except Exception:
            LOGGER.exception("the model failed to generate; falling back")
            progress.fall_back("generate_failed", "the model could not write titles")
            return None
        progress.timing.queue += ran.queue_seconds
        progress.timing.encode += ran.run_seconds
        item_indices, scores = ran.value
        return Candidates(item_indices, scores)

    async def _encode(self, progress: Progress) -> np.ndarray | None:
        """(D,) float32, or None when the model failed."""
        try:
            encoded = await self._models.encode(progress.served.encoder, self._owned_history(progress))
        except ServiceError:
            raise
        except Exception:
            LOGGER.exception("the model failed; falling back")
            progress.fall_back("model_failed", "the model could not read this history")
            return None
        progress.timing.queue += encoded.queue_seconds
        progress.timing.encode += encoded.encode_seconds
        if not np.isfinite(encoded.embedding).all():
            progress.fall_back("model_failed", "the model's answer is not a number")
            return None
        return encoded.embedding

    async def _explain(self, progress: Progress) -> np.ndarray | None:
        """(W,) float32, how much each item that was read weighs, or None when the model failed."""
        encoder, history = progress.served.encoder, self._owned_history(progress)
        try:
            ran = await self._models.run(lambda: encoder.explain(history))
        except ServiceError:
            raise
        except Exception:
            LOGGER.exception("the model failed to explain; going on without reasons")
            progress.warnings.append("explain_failed: the model could not say why")
            return None
        progress.timing.queue += ran.queue_seconds
        progress.timing.encode += ran.run_seconds
        return ran.value

    def _owned_history(self, progress: Progress) -> History:
        """The history as the model is given it: with its owner, if what it makes of it may be kept.

        Call it right before the model is asked: whoever was erased since the history was read must not come back.
        """
        is_stored = progress.query.history is None
        may_keep = is_stored and self._num_erasures() == progress.num_erasures
        return replace(progress.history, owner=progress.query.user_id) if may_keep else progress.history


def _wants_user(progress: Progress, generated: Candidates | None) -> bool:
    """Whether items have to be retrieved, and can be."""
    if "retrieve" not in progress.served.modes:
        return False
    return generated is None or len(generated.scores) < min(progress.query.k, progress.admissible.count())


def _warn_of_unknown(progress: Progress) -> None:
    num_items = len(progress.interactions)
    num_unknown = num_items - len(progress.history.item_indices)
    if num_unknown:
        progress.warnings.append(f"unknown_history_items: {num_unknown} of {num_items} are not in the catalogue")
