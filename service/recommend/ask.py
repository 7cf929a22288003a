"""What is asked of the pipeline, and what it answers; plain values."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from model_store.encoding import Mode
from model_store.people.owner import Owner
from service.engine.served_bundle import ServedBundle
from service.people.interactions import Interactions
from service.recommend.candidates.filters import Node
from service.recommend.deadline import Deadline
from service.recommend.ranking.candidates import NO_CANDIDATES, Candidates
from service.recommend.trace import Trace

SOURCE_MODEL = "model"
SOURCE_RETRIEVE = "fallback:retrieve"
SOURCE_LAST_EMBEDDING = "fallback:last_embedding"
SOURCE_SIMILAR = "fallback:similar_items"
SOURCE_SEGMENT = "fallback:segment_popular"
SOURCE_POPULAR = "fallback:popular"
DEFAULT_FIELDS = ("title",)


@dataclass(frozen=True, slots=True)
class SegmentWish:
    """Whose popularity is meant where popular items are served.

    Attributes:
        attribute: That the segment is a value of; what the settings or the catalogue say by default.
        value: The segment; the most frequent one among the latest items of the history by default.
    """

    attribute: str | None = None
    value: str | int | bool | None = None


@dataclass(frozen=True, slots=True)
class ScenarioRef:
    """Which scenario a query was made by; the version is a hash of what it says."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Pin:
    """An item that, where it may be returned at all, has this place (from 1) in the list."""

    item_id: str
    position: int


@dataclass(frozen=True, slots=True)
class Boost:
    """Moves items up or down: ``(1 + score) * multiply + add`` takes the place of ``1 + score`` in the order.

    Attributes:
        item_ids: Which items; with none, those that pass ``filter``.
        filter: Which items.
        multiply: More than 0.
        add: To the same number, which is 0 to 2 for a cosine.
    """

    item_ids: tuple[str, ...] = ()
    filter: Node | None = None
    multiply: float = 1.0
    add: float = 0.0


@dataclass(frozen=True)
class Query:
    """One request.

    Attributes:
        user_id: Whose stored history is read, unless ``history`` is given.
        k: How many items are wanted.
        timeout_seconds: For the whole answer.
        history: Used instead of the stored one; oldest first.
        filter: What must hold of an item; None lets everything pass.
        exclude_item_ids: Never returned.
        candidate_item_ids: The only items that may be returned; None: all of the catalogue.
        exclude_seen: Whether items of the history are never returned.
        seen_types: Types of events that count as seen; all if empty.
        seen_max_age_seconds: What is older does not count as seen.
        asked_at: Seconds since 1970, which ages are measured from.
        max_per: Attribute to how many items of one of its values may be returned.
        pins: Items with a place.
        boosts: What moves items up or down.
        scenario: Where some of this comes from; it is merged in already.
        asked_by: Name of the API key.
        paginate: Whether the list goes on beyond ``k``, for later pages.
        diversity: In [0, 1].
        explain: Whether reasons are wanted.
        return_fields: Which fields of the items are wanted; the title by default.
        model: Kind of model; that of the user's arm of an experiment, or the default one, by default.
        mode: How the model is to recommend; what the settings say by default.
        min_event_token: Names a batch of events that must be counted in.
        session_id: Whose stored history is read, beside the user's if both are given.
        segment: Of popular items.
    """

    user_id: str | None
    k: int
    timeout_seconds: float
    history: Interactions | None = None
    filter: Node | None = None
    exclude_item_ids: Sequence[str] = ()
    candidate_item_ids: Sequence[str] | None = None
    exclude_seen: bool = True
    seen_types: Sequence[str] = ()
    seen_max_age_seconds: int | None = None
    asked_at: float = field(default_factory=time.time)
    max_per: Mapping[str, int] = field(default_factory=dict)
    pins: Sequence[Pin] = ()
    boosts: Sequence[Boost] = ()
    scenario: ScenarioRef | None = None
    asked_by: str | None = None
    paginate: bool = False
    diversity: float = 0.0
    explain: bool = False
    return_fields: Sequence[str] | None = None
    model: str | None = None
    mode: Mode | None = None
    min_event_token: str | None = None
    session_id: str | None = None
    segment: SegmentWish = SegmentWish()


@dataclass(frozen=True, slots=True)
class RankedItem:
    """One item of an answer.

    Attributes:
        item_id: Which one.
        score: A log-probability of a generated item, a cosine of a retrieved one, 0 where no model scored it.
        fields: What was wanted of it.
        reasons: (item_id of the history, weight), the heaviest first; weights sum to 1.
        heads: What each member of a blend adds to the score; empty where one model scored the item.
    """

    item_id: str
    score: float
    fields: Mapping[str, Any]
    reasons: Sequence[tuple[str, float]] = ()
    heads: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Assignment:
    """The arm of an experiment that a user is in; who answered is in the answer's bundle."""

    experiment: str
    arm: str


@dataclass(frozen=True)
class Ask:
    """One request, and what it is answered with.

    Attributes:
        query: What is wanted.
        owners: Whose stored histories are read: nobody's, the user's, the session's, or both. The user comes first.
        served: The bundle that answers.
        mode: How its model recommends.
        deadline: When the request's time is over.
        assignment: None where no experiment decided.
    """

    query: Query
    owners: tuple[Owner, ...]
    served: ServedBundle
    mode: Mode
    deadline: Deadline
    assignment: Assignment | None = None

    @property
    def owner(self) -> Owner | None:
        """Whose the history is; None for one in the request, or one of several owners."""
        return self.owners[0] if len(self.owners) == 1 and self.query.history is None else None


@dataclass(frozen=True)
class Recommendation:
    """One answer.

    Attributes:
        recommendation_id: Names the answer, for events that follow from it.
        served: The bundle that answered.
        mode: How its model recommends.
        items: At most k, best first.
        source: ``model`` or ``fallback:<step>``.
        history_length: Interactions that the model read.
        trace: What happened on the way.
        assignment: None where no experiment decided.
        ranked: The whole list that ``items`` is the beginning of; longer than ``items`` only with ``paginate``.
    """

    recommendation_id: str
    served: ServedBundle
    mode: Mode
    items: Sequence[RankedItem]
    source: str
    history_length: int
    trace: Trace
    assignment: Assignment | None = None
    ranked: Candidates = NO_CANDIDATES
