"""Makes the list of a decision record again: the step that answered, with the same inputs, from the same bundle.

What failed at the time is not made to fail again: whether a model was late depends on nothing that can be kept. The
record says which step answered instead, and that one is run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from model_store.encoding import UserEncoder
from model_store.errors import InvalidInput
from model_store.people.histories import History
from service.decisions.codec import SCHEMA_VERSION, embedding_of, hash_of, interactions_of, query_of
from service.engine.batcher import EncodeResult, WorkResult
from service.engine.served_bundle import ServedBundle
from service.errors import ModelUnavailable
from service.people.hidden_set import HiddenItems
from service.people.interactions import Interactions
from service.people.remembered import LastKnown
from service.recommend.ask import (
    SOURCE_LAST_EMBEDDING,
    SOURCE_MODEL,
    SOURCE_RETRIEVE,
    SOURCE_SIMILAR,
    Ask,
    RankedItem,
)
from service.recommend.candidates.admissible import check_query
from service.recommend.candidates.segments import Segments
from service.recommend.deadline import Deadline, StepTimes
from service.recommend.known import Known, Past
from service.recommend.model_call import ModelAsker
from service.recommend.protocols import EncodedUser, RanWork
from service.recommend.ranking.answering import ModelView, make_answer
from service.recommend.ranking.sources import latest_vector

T = TypeVar("T")

_ENOUGH_SECONDS = 3_600.0
# What a batch of another size may change in a score: items this near to each other may change places.
SCORE_TOLERANCE = 1e-4
_FAILED = frozenset({"no_time", "timed_out", "overloaded", "unavailable", "failed"})


@dataclass(frozen=True)
class Replay:
    """The list of a record, and the one made again.

    Attributes:
        recorded: (item_id, score), as answered.
        replayed: The same, as made again.
    """

    recorded: Sequence[tuple[str, float]]
    replayed: Sequence[tuple[str, float]]

    @property
    def first_difference(self) -> int | None:
        """The first rank, from 1, at which the lists differ; None if they are equal.

        Items whose scores are nearer to each other than ``SCORE_TOLERANCE`` may have changed places.
        """
        replayed = dict(self.replayed)
        for place in range(max(len(self.recorded), len(self.replayed))):
            if place >= min(len(self.recorded), len(self.replayed)):
                return place + 1
            item_id, score = self.recorded[place]
            other_id, other_score = self.replayed[place]
            has_moved = abs(replayed.get(item_id, np.inf) - other_score) <= SCORE_TOLERANCE
            if item_id != other_id and not (has_moved and abs(score - other_score) <= SCORE_TOLERANCE):
                return place + 1
        return None

    @property
    def largest_score_difference(self) -> float:
        """Between the scores that an item has in both lists."""
        replayed = dict(self.replayed)
        differences = [abs(score - replayed[item_id]) for item_id, score in self.recorded if item_id in replayed]
        return max(differences, default=0.0)


async def replay_record(
    document: dict[str, Any],
    open_bundle: Callable[[str], ServedBundle],
    *,
    interactions: Interactions | None = None,
) -> Replay:
    """Makes the list of a decision record again.

    Args:
        document: The record.
        open_bundle: Opens a bundle of the store by its id.
        interactions: The history, where the record has only its hash.

    Raises:
        InvalidInput: The record does not say enough to make the list again, or the history is another one.
        HatstandError: The bundle is not in the store any more.
    """
    if document.get("schema_version") != SCHEMA_VERSION:
        raise InvalidInput(f"a record of schema_version {document.get('schema_version')}, expected {SCHEMA_VERSION}")
    try:
        query = replace(query_of(document), explain=False)
        history = _checked_history(document, interactions)
        hidden = _hidden(document)
        source, bundle_id, mode = document["source"], document["versions"]["bundle"], document["versions"]["mode"]
        failed = {note["step"] for note in document["steps"] if note["reason"] in _FAILED}
        recorded = [(item["item_id"], float(item["score"])) for item in document["items"]]
        attribute = document["segment_attribute"]
        earlier = embedding_of(document)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"the record cannot be replayed: {' '.join(str(error).split())}") from error
    served = open_bundle(bundle_id)
    segments = Segments(attribute)
    if attribute is not None:
        segments.build(served.catalogue, query.segment)
    ask = Ask(query, (), served, mode, Deadline.after(_ENOUGH_SECONDS))
    past = Past(history, is_current=document["history"]["is_current"])
    known = Known(past, history.known_to(served.catalogue), hidden=hidden)
    check_query(served, query)
    view = await _view(ask, known, source, earlier, failed)
    answer, _ = make_answer(ask, known, view, segments if attribute is not None else None)
    return Replay(recorded, [_pair(item) for item in answer.items])


def _pair(item: RankedItem) -> tuple[str, float]:
    return item.item_id, item.score


def _checked_history(document: dict[str, Any], interactions: Interactions | None) -> Interactions:
    kept, length = interactions_of(document), document["history"]["length"]
    if kept is not None:
        return kept
    if interactions is None:
        raise ValueError(f"its history of {length} interactions was not kept, only its hash")
    # What was reported since then comes after it.
    first = interactions.oldest(length)
    if hash_of(first) != document["history"]["sha256"]:
        raise ValueError(f"its history of {length} interactions was not kept, and the stored one is another by now")
    return first


def _hidden(document: dict[str, Any]) -> HiddenItems:
    hidden = document["hidden"]
    if hidden["item_ids"] is None:
        raise ValueError(f"{hidden['count']} items were hidden, too many to be kept in the record")
    return HiddenItems(frozenset(hidden["item_ids"]))


async def _view(ask: Ask, known: Known, source: str, earlier: np.ndarray | None, failed: set[str]) -> ModelView:
    """What the step that answered worked with."""
    if source in {SOURCE_MODEL, SOURCE_RETRIEVE}:
        asker = ModelAsker(
            models=_InPlace(failed),
            run_blocking=_run,
            last_known=LastKnown(max_bytes=0, max_age_seconds=1.0),
            times=StepTimes(),
            falls_back=True,
        )
        view, trace = await asker.ask(ask, known)
        broken = {note.step for note in trace.steps if note.reason in _FAILED} - failed
        if broken:
            raise InvalidInput(f"the model fails here, and did not at the time: {', '.join(trace.warnings)}")
        return view
    if source == SOURCE_LAST_EMBEDDING:
        if earlier is None:
            raise InvalidInput("the record cannot be replayed: it has no earlier embedding")
        return ModelView(user=earlier, step="last_embedding")
    if source == SOURCE_SIMILAR:
        vector = latest_vector(ask.served.bundle, known.history.item_indices)
        return ModelView(user=vector, step="similar_items")
    return ModelView()


async def _run(work: Callable[[], T]) -> T:
    return work()


@dataclass(frozen=True)
class _InPlace:
    """A model queue without a queue; the steps that failed at the time do so again."""

    failed: set[str]

    async def encode(self, encoder: UserEncoder, history: History, *, deadline: float | None = None) -> EncodedUser:
        """Encodes one history."""
        del deadline
        if "model" in self.failed:
            raise ModelUnavailable("the model did not answer at the time")
        return EncodeResult(encoder.encode([history])[0], 0.0, 0.0)

    async def run(self, work: Callable[[], T], *, deadline: float | None = None) -> RanWork[T]:
        """Runs ``work``."""
        del deadline
        if "generate" in self.failed:
            raise ModelUnavailable("the model did not write titles at the time")
        return WorkResult(work(), 0.0, 0.0)
