"""``GET /recommendations/{id}``: what an answer was made of."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request

from service.decisions.codec import decode
from service.errors import NotFound
from service.http.auth import require
from service.http.dependencies import ServiceDep
from service.routes.schemas.decisions import DecisionAnswer

router = APIRouter(tags=["recommend"], dependencies=[Depends(require("recommend"))])

RecommendationId = Annotated[str, Path(min_length=1, max_length=64, description="Of an answer of /recommend")]


@router.get("/recommendations/{recommendation_id}")
async def show_decision(service: ServiceDep, http: Request, recommendation_id: RecommendationId) -> DecisionAnswer:
    """Shows what an answer was made of: inputs, versions, candidates, steps, and the list itself.

    For the API key that asked for it, and for the scope ``admin``.
    """
    decisions = service.recording.decisions
    packed = None if decisions is None else await decisions.get(recommendation_id)
    document = None if packed is None else decode(packed)
    may_see = document is not None and (http.state.is_admin or document["asked_by"] == http.state.key_name)
    if document is None or not may_see:
        # The same for a record of somebody else: an id must not tell whether it exists.
        raise NotFound("there is no decision record of this id: it was never kept, is too old, or is not yours")
    return DecisionAnswer.model_validate(document)
