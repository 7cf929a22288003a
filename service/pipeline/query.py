"""What is asked of the pipeline, and what it answers; plain values."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from model_store.hatllm_config import Mode
from service.engine.served_bundle import ServedBundle
from service.pipeline.constraints import Filter

SOURCE_MODEL = "model"
SOURCE_RETRIEVE = "fallback:retrieve"
SOURCE_POPULAR = "fallback:popular"
DEFAULT_FIELDS = ("title",)


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
        model: Kind of model; that of the user's arm of an experiment, or the default one, by default.
        mode: How the model is to recommend; what the settings say by default.
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
    mode: Mode | None = None
    min_event_token: str | None = None


@dataclass(frozen=True, slots=True)
class RankedItem:
    """One item of an answer.

    Attributes:
        item_id: Which one.
        score: A log-probability of a generated item, a cosine of a retrieved one, 0 where no model scored it.
        fields: What was wanted of it.
        reasons: (item_id of the history, weight), the heaviest first; weights sum to 1.
    """

    item_id: str
    score: float
    fields: Mapping[str, Any]
    reasons: Sequence[tuple[str, float]] = ()


@dataclass
class Timing:
    """Seconds per step; ``encode`` is all that the model did, and ``queue`` all waiting for it."""

    history: float = 0.0
    queue: float = 0.0
    encode: float = 0.0
    search: float = 0.0
    rank: float = 0.0
    total: float = 0.0


@dataclass(frozen=True, slots=True)
class Assignment:
    """The arm of an experiment that a user is in; who answered is in the answer's bundle."""

    experiment: str
    arm: str


@dataclass(frozen=True)
class Recommendation:
    """One answer.

    Attributes:
        served: The bundle that answered.
        mode: How its model recommends.
        items: At most k, best first.
        source: ``model`` or ``fallback:<step>``.
        warnings: What the caller should know.
        history_length: Interactions that the model read.
        timing: Seconds per step.
        assignment: None where no experiment decided.
        fallback_reason: Why it is a fallback, for the metrics.
        recommendation_id: Names the answer, for events that follow from it.
    """

    served: ServedBundle
    mode: Mode
    items: Sequence[RankedItem]
    source: str
    warnings: Sequence[str]
    history_length: int
    timing: Timing
    assignment: Assignment | None = None
    fallback_reason: str | None = None
    recommendation_id: str = field(default_factory=lambda: uuid.uuid4().hex)
