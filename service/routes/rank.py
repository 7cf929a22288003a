"""``POST /rank``: the caller's own candidates, in the order in which the model would recommend them."""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Body, Depends, Request, Response
from pydantic_core import to_jsonable_python

from service.http.auth import require
from service.recommend.paging import Caller
from service.routes.recommend import answer_fields, count_recommendation, list_marks, list_query
from service.routes.schemas.rank import RankAnswer, RankRequest
from service.wiring import RunningService

router = APIRouter(tags=["recommend"], dependencies=[Depends(require("recommend"))])


@router.post("/rank", response_model=RankAnswer)
async def rank(request: Annotated[RankRequest, Body()], http: Request) -> Response:
    """Ranks items that the caller brings: search results, the shortlist of a mail; nothing else is in the answer."""
    service: RunningService = http.app.state.service
    caller = Caller(request.user_id, request.session_id, http.state.key_name)
    query = list_query(
        request,
        service,
        caller,
        k=len(request.item_ids) if request.k is None else request.k,
        candidate_item_ids=tuple(request.item_ids),
        exclude_seen=request.exclude_seen,
        mode="retrieve",
    )
    recommendation = await service.recommender.recommend(query)
    warnings = list(recommendation.trace.warnings)
    count_recommendation(service, query, recommendation, warnings)
    known = recommendation.served.catalogue.index_of
    answer: dict[str, Any] = answer_fields(
        request.user_id,
        recommendation,
        warnings,
        scenario=query.scenario,
        marks=list_marks(service, query.scenario, recommendation),
    )
    answer["unknown_item_ids"] = [item_id for item_id in request.item_ids if not known(item_id)]
    return Response(orjson.dumps(answer, default=to_jsonable_python), media_type="application/json")
