"""Bodies of decision records: something that was kept, maybe by an older version, or a newer one."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from service.routes.schemas.recommend import ExperimentAnswer, ReasonAnswer, TimingAnswer


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class DecisionVersions(_Record):
    """What answered."""

    service: str
    kind: str
    model: str
    bundle: str
    mode: str
    scenario: Annotated[dict[str, str] | None, Field(description="Name and version")]


class DecisionHistory(_Record):
    """The history that an answer was made of."""

    is_own: Annotated[bool, Field(description="It came with the request")]
    is_current: Annotated[bool, Field(description="False: the last known one, as the stored one could not be read")]
    length: int
    known: Annotated[int, Field(description="Of items in the catalogue")]
    read: Annotated[int, Field(description="Of these, how many the model reads: the latest")]
    sha256: str
    item_ids: Annotated[list[str] | None, Field(description="Oldest first; null where only the hash was kept")]
    timestamps: list[int | None] | None
    types: Annotated[list[str | None] | None, Field(description="null where nobody said any")]


class DecisionItemIds(_Record):
    """Items that might not be returned; null where they were too many to be kept."""

    count: int
    item_ids: list[str] | None


class DecisionItem(_Record):
    """One item of the answer."""

    item_id: str
    score: float
    reasons: list[ReasonAnswer]


class DecisionAnswer(_Record):
    """The answer of ``GET /recommendations/{id}``; ``offline.replay`` makes the list again from it."""

    schema_version: int
    recommendation_id: str
    created_at: str
    asked_by: Annotated[str | None, Field(description="Name of the API key")]
    user_id: str | None
    session_id: str | None
    versions: DecisionVersions
    experiment: ExperimentAnswer | None
    request: Annotated[
        dict[str, Any],
        Field(
            description="What was asked, with what the scenario and the settings say; without fields that are defaults"
        ),
    ]
    excluded: DecisionItemIds
    history: DecisionHistory
    hidden: DecisionItemIds
    segment_attribute: Annotated[str | None, Field(description="Null where no segment was known")]
    earlier_embedding: Annotated[
        str | None, Field(description="Base64 of float32, where the search was with one of an earlier request")
    ]
    counts: Annotated[dict[str, int], Field(description="Candidates per stage")]
    plans: Annotated[list[dict[str, Any]], Field(description="How they were looked for")]
    steps: Annotated[list[dict[str, str]], Field(description="What became of each step that was due, and why")]
    source: str
    fallback_reason: str | None
    warnings: list[str]
    timing_ms: TimingAnswer
    items: list[DecisionItem]
