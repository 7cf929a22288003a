"""What the service answers, under the names of its OpenAPI document; a test compares the two.

Fields that a newer service adds are ignored, so that an older client goes on working.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Mode = Literal["retrieve", "generate"]


class Answer(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class ReasonAnswer(Answer):
    """An item of the history and its weight for the recommended item; the weights of one item sum to 1."""

    item_id: str
    weight: float


class ItemAnswer(Answer):
    """One recommended item; ``rank`` counts from 1, ``reasons`` are there with ``explain=True``.

    ``pinned`` and ``boosted`` say what a scenario did.
    """

    rank: int
    item_id: str
    score: float
    fields: dict[str, Any]
    reasons: list[ReasonAnswer]
    pinned: bool = False
    boosted: bool = False
    heads: dict[str, float] | None = None


class ModelAnswer(Answer):
    """The model that answered."""

    kind: str
    version: str


class ScenarioAnswer(Answer):
    """The scenario that the list was made by."""

    name: str
    version: str


class ExperimentAnswer(Answer):
    """The experiment that chose the kind of model."""

    name: str
    arm: str


class TimingAnswer(Answer):
    """Milliseconds per step."""

    history: float
    queue: float
    encode: float
    search: float
    rank: float
    total: float


class RecommendAnswer(Answer):
    """A list of recommended items, the best first.

    ``source`` is ``"model"``, or ``"fallback:<step>"`` where the model could not answer; ``warnings`` say why.
    Send ``recommendation_id`` with the events that the list leads to.
    """

    recommendation_id: str
    user_id: str | None
    items: list[ItemAnswer]
    source: str
    warnings: list[str]
    model: ModelAnswer
    bundle: str
    mode: Mode
    experiment: ExperimentAnswer | None
    scenario: ScenarioAnswer | None
    history_length: int
    left_out: dict[str, int] = {}
    next_cursor: str | None
    timing_ms: TimingAnswer


class RankAnswer(RecommendAnswer):
    """The caller's items that may be shown, the best first; ``unknown_item_ids`` are in no catalogue."""

    unknown_item_ids: list[str]


class RejectedEvent(Answer):
    """An event that the service did not take; ``index`` is its place in the request, from 0."""

    index: int
    event_id: str | None
    code: str
    detail: str


class EventsAnswer(Answer):
    """How many events are stored now, how many were stored before, and which ones were refused."""

    accepted: int
    duplicates: int
    unknown_items: int = 0
    rejected: list[RejectedEvent]
    event_token: str | None


class CatalogueItem(Answer):
    """An item of the catalogue."""

    item_id: str
    fields: dict[str, Any]


class CatalogueAnswer(Answer):
    """Items that a search has found, the most popular first."""

    items: list[CatalogueItem]
    bundle: str


class SimilarAnswer(Answer):
    """The items that are most similar to an item; scores are cosines."""

    item_id: str
    items: list[ItemAnswer]
    bundle: str


class UserEvent(Answer):
    """One event of a history; ``timestamp`` is in seconds since 1970."""

    event_id: str
    item_id: str
    type: str
    timestamp: int
    recommendation_id: str | None
    properties: dict[str, Any]


class UserAnswer(Answer):
    """A user's history, oldest first; that of an unknown user is empty."""

    user_id: str
    history: list[UserEvent]


class SessionAnswer(Answer):
    """A session's history, oldest first."""

    session_id: str
    history: list[UserEvent]


class MergeAnswer(Answer):
    """How many events of a session went to a user, and how many the user had before."""

    user_id: str
    session_id: str
    moved: int
    duplicates: int


class ErasedStoreAnswer(Answer):
    """A store, and how many records were deleted from it."""

    store: str
    records: int


class ErasureReceipt(Answer):
    """What was deleted of a user or a session."""

    receipt_id: str
    user_id: str | None
    session_id: str | None = None
    erased_at: str
    stores: list[ErasedStoreAnswer]


class ScenarioSummary(Answer):
    """A scenario that a request may name."""

    name: str
    version: str
    description: str


class ScenariosAnswer(Answer):
    """All scenarios that a request may name."""

    scenarios: list[ScenarioSummary]


class Readiness(Answer):
    """Whether the service can answer: ``ready``, ``degraded`` (by fallbacks alone) or ``not_ready``."""

    status: str
    checks: dict[str, Any] = Field(default_factory=dict)

    @property
    def is_ready(self) -> bool:
        """Whether recommendations are answered."""
        return self.status != "not_ready"


class Version(Answer):
    """The release of the service, and what it serves, by kind of model."""

    name: str
    version: str
    models: dict[str, dict[str, Any]]
    default: str | None
