"""What an answer was made of: enough to see why it is as it is, and to make it again.

A ``Decision`` is collected while the request is answered, so it only holds on to plain values that are there anyway,
and to nothing of the bundle. It is written down later, by whoever takes it (``DecisionSink``).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from model_store.people.owner import Owner
from service.decisions.store import new_recommendation_id
from service.recommend.ask import (
    Assignment,
    Interaction,
    Plan,
    Query,
    RankedItem,
    Recommendation,
    StepNote,
    Timing,
)
from service.recommend.trace import Progress


@dataclass(frozen=True)
class Decision:
    """One answer, and what it was made of.

    Attributes:
        recommendation_id: Names the answer.
        created_at: When it was made, in seconds since 1970.
        owners: Whose stored history it was made of: nobody's, a user's, a session's, or both.
        query: What was asked, with what the scenario and the settings say; without the history, which is below.
        has_own_history: Whether the history came with the request.
        interactions: The history, oldest first.
        is_current: False where that is the last known one, as the stored one could not be read.
        num_known: How many of them are of items in the catalogue.
        num_read: How many of these, the latest ones, the model reads.
        kind: Of the model that answered.
        model_id: Which model.
        bundle_id: Which bundle.
        mode: How the model recommends.
        assignment: To an arm of an experiment, if one decided.
        hidden: What operators had hidden.
        earlier_embedding: (D,) float32, where the search was with one of an earlier request.
        segment_attribute: Whose values the segments are, where the user's segment was known; None: it was not.
        counts: Candidates per stage.
        plans: How they were looked for.
        steps: What became of each step that was due.
        source: Which step answered.
        fallback_reason: The first thing that failed, if any.
        warnings: As answered.
        timing: Seconds per step.
        items: As answered.
    """

    recommendation_id: str
    created_at: float
    owners: Sequence[Owner]
    query: Query
    has_own_history: bool
    interactions: Sequence[Interaction]
    is_current: bool
    num_known: int
    num_read: int
    kind: str
    model_id: str
    bundle_id: str
    mode: str
    assignment: Assignment | None
    hidden: frozenset[str]
    earlier_embedding: np.ndarray | None
    segment_attribute: str | None
    counts: Mapping[str, int]
    plans: Sequence[Plan]
    steps: Sequence[StepNote]
    source: str
    fallback_reason: str | None
    warnings: Sequence[str]
    timing: Timing
    items: Sequence[RankedItem] = field(repr=False)


class NoDecisions:
    """A DecisionSink that keeps nothing."""

    def record(self, decision: Decision) -> None:
        """Forgets it."""


def decision_of(progress: Progress, recommendation: Recommendation) -> Decision:
    """Collects what an answer was made of; takes microseconds."""
    query, served = progress.query, recommendation.served
    return Decision(
        recommendation_id=recommendation.recommendation_id,
        created_at=time.time(),
        owners=owners_of_history(query),
        query=query if query.history is None else replace(query, history=None),
        has_own_history=query.history is not None,
        interactions=progress.interactions,
        is_current=progress.is_current,
        num_known=len(progress.history.item_indices),
        num_read=len(progress.read_items),
        kind=served.kind,
        model_id=served.model_id,
        bundle_id=served.bundle_id,
        mode=recommendation.mode,
        assignment=recommendation.assignment,
        hidden=progress.hidden.item_ids,
        earlier_embedding=progress.earlier_embedding,
        segment_attribute=_segment_attribute(progress),
        counts=dict(progress.counts),
        plans=recommendation.plans,
        steps=tuple(recommendation.steps),
        source=recommendation.source,
        fallback_reason=recommendation.fallback_reason,
        warnings=tuple(recommendation.warnings),
        timing=recommendation.timing,
        items=recommendation.items,
    )


def owners_of_history(query: Query) -> tuple[Owner, ...]:
    """Whom a record of this query is about: who is erased with it. The user comes first."""
    owners = [] if query.user_id is None else [Owner(query.user_id)]
    if query.session_id is not None:
        owners.append(Owner(query.session_id, is_session=True))
    return tuple(owners)


def recommendation_id_for(query: Query) -> str:
    """A new name for the answer to a query."""
    owners = owners_of_history(query)
    return new_recommendation_id(owners[0] if owners else None)


def _segment_attribute(progress: Progress) -> str | None:
    # The property itself may take long; what it has found is in the instance by now, if it was asked for.
    if progress.segments is None or vars(progress).get("segment") is None:
        return None
    built = progress.segments.build(progress.served.catalogue, progress.query.segment)
    return None if built is None else built.attribute
