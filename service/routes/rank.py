"""``POST /rank``: the caller's own candidates, in the order in which the model would recommend them."""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Body, Depends, Request, Response
from pydantic_core import to_jsonable_python

from service.http.auth import require
from service.recommend.ask import Query, SegmentWish
from service.recommend.paging import Caller
from service.routes.recommend import answer_fields, count_recommendation, interactions, list_marks
from service.routes.schemas.rank import RankAnswer, RankRequest
from service.wiring import RunningService

router = APIRouter(tags=["recommend"], dependencies=[Depends(require("recommend"))])


@router.post("/rank", response_model=RankAnswer)
async def rank(request: Annotated[RankRequest, Body()], http: Request) -> Response:
    """Ranks items that the caller brings: search results, the shortlist of a mail; nothing else is in the answer."""
    service: RunningService = http.app.state.service
    caller = Caller(request.user_id, request.session_id, http.state.key_name)
    query = _query(request, service, caller)
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


def _query(request: RankRequest, service: RunningService, caller: Caller) -> Query:
    """What is asked, with what the scenario and the settings say."""
    timeout = service.request_timeout_seconds if request.timeout_ms is None else request.timeout_ms / 1_000
    query = Query(
        user_id=request.user_id,
        session_id=request.session_id,
        asked_by=caller.key_name,
        k=len(request.item_ids) if request.k is None else request.k,
        timeout_seconds=timeout,
        history=None if request.history is None else interactions(request.history),
        filter=request.filter.tree(),
        candidate_item_ids=tuple(request.item_ids),
        exclude_seen=request.exclude_seen,
        seen_types=service.seen.types,
        seen_max_age_seconds=service.seen.max_age_seconds,
        max_per=request.max_per,
        diversity=request.diversity,
        explain=request.explain,
        return_fields=request.return_fields,
        model=request.model,
        mode="retrieve",
        min_event_token=request.min_event_token,
        segment=SegmentWish(),
    )
    return query if request.scenario is None else service.scenarios.get(request.scenario).apply(query, request.sent)
