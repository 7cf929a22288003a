"""``POST /recommend``: a list, or the next page of one."""

from collections.abc import Sequence
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Body, Depends, Request, Response
from pydantic_core import to_jsonable_python

from service.errors import HistoryUnavailable
from service.http.auth import require
from service.http.dependencies import ServiceDep
from service.people.interactions import Interactions
from service.recommend.ask import Query, RankedItem, Recommendation, ScenarioRef, SegmentWish
from service.recommend.paging import Caller, PageRequest
from service.routes.schemas.items import ScenariosAnswer, ScenarioSummary
from service.routes.schemas.recommend import (
    HistoryItem,
    ItemAnswer,
    ListRequest,
    ReasonAnswer,
    RecommendAnswer,
    RecommendRequest,
)
from service.wiring import RunningService

# Why an item is not on a list, as the answer says it; what the last check finds is a mistake of ours.
_REASONS = frozenset({"filter", "hidden", "excluded", "seen", "cap"})

router = APIRouter(tags=["recommend"], dependencies=[Depends(require("recommend"))])


@router.post("/recommend", response_model=RecommendAnswer)
async def recommend(request: Annotated[RecommendRequest, Body()], http: Request) -> Response:
    """Recommends items to a user, to a session, or to a history; with a cursor, goes on with the list before."""
    # Not a dependency: FastAPI takes longer to look one up than all that this route does before the list is made.
    service: RunningService = http.app.state.service
    return Response(await _recommend(request, service, http), media_type="application/json")


async def _recommend(request: RecommendRequest, service: RunningService, http: Request) -> bytes:
    caller = Caller(request.user_id, request.session_id, http.state.key_name)
    if request.cursor is not None:
        return await _next_page(request, request.cursor, service, caller)
    query = list_query(
        request,
        service,
        caller,
        k=request.k,
        exclude_seen=request.exclude_seen,
        exclude_item_ids=request.exclude_item_ids,
        paginate=request.paginate,
        mode=request.mode,
    )
    recommendation = await service.recommender.recommend(query)
    next_cursor, warnings = None, list(recommendation.trace.warnings)
    if query.paginate:
        try:
            next_cursor = await service.pages.keep(query, recommendation, caller)
        except HistoryUnavailable:
            warnings.append("pages_unavailable: the list cannot be kept, so there is no next page")
    count_recommendation(service, query, recommendation, warnings)
    marks = list_marks(service, query.scenario, recommendation)
    return _answer(request, recommendation, warnings, scenario=query.scenario, next_cursor=next_cursor, marks=marks)


@router.get("/scenarios")
async def list_scenarios(service: ServiceDep) -> ScenariosAnswer:
    """Lists the scenarios that a request may name."""
    return ScenariosAnswer(
        scenarios=[
            ScenarioSummary(name=one.ref.name, version=one.ref.version, description=one.rules.description)
            for one in service.scenarios
        ]
    )


async def _next_page(request: RecommendRequest, cursor: str, service: RunningService, caller: Caller) -> bytes:
    page = await service.pages.next(
        PageRequest(
            cursor=cursor,
            caller=caller,
            k=request.k,
            return_fields=request.return_fields,
            exclude_item_ids=request.exclude_item_ids,
            timeout_seconds=_timeout_seconds(request, service),
        )
    )
    service.metrics.recommend.page_answered()
    return _answer(
        request,
        page.recommendation,
        page.recommendation.trace.warnings,
        scenario=page.scenario,
        next_cursor=page.next_cursor,
        marks=list_marks(service, page.scenario, page.recommendation),
        first_rank=page.first_rank,
    )


def list_marks(
    service: RunningService, scenario: ScenarioRef | None, recommendation: Recommendation
) -> list[tuple[bool, bool]]:
    """Per item of a list whether it is pinned, and whether it is boosted."""
    if scenario is None:
        return [(False, False)] * len(recommendation.items)
    return service.scenarios.marks(scenario, recommendation.served, [item.item_id for item in recommendation.items])


def count_recommendation(
    service: RunningService, query: Query, recommendation: Recommendation, warnings: list[str]
) -> None:
    """Counts a list in the metrics."""
    stages = recommendation.trace.timing.seconds()
    stages.pop("total")
    assignment = recommendation.assignment
    service.metrics.recommend.recommended(
        source=recommendation.source,
        kind=recommendation.served.kind,
        mode=recommendation.mode,
        arm=None if assignment is None else assignment.arm,
        fallback_reason=recommendation.trace.fallback_reason,
        warnings=warnings,
        stages=stages,
        is_short=len(recommendation.items) < query.k,
        scenario=None if query.scenario is None else query.scenario.name,
        seconds=recommendation.trace.timing.total,
        steps=[(note.step, note.reason) for note in recommendation.trace.steps],
    )
    for plan in recommendation.trace.plans:
        service.metrics.recommend.retrieval_planned(plan.name)
    service.metrics.recommend.candidates_filtered(recommendation.trace.filtered)


def list_query(request: ListRequest, service: RunningService, caller: Caller, **own: Any) -> Query:
    """What a request for a list asks, with what the scenario and the settings say.

    Args:
        request: Its own fields are in ``own``.
        service: Has the settings and the scenarios.
        caller: Who asks.
        own: Further fields of the query; a scenario changes them as it does the others.
    """
    segment = request.segment
    query = Query(
        user_id=request.user_id,
        session_id=request.session_id,
        asked_by=caller.key_name,
        timeout_seconds=_timeout_seconds(request, service),
        history=None if request.history is None else _interactions(request.history),
        filter=request.filter.tree(),
        seen_types=service.seen.types if request.seen_types is None else request.seen_types,
        seen_max_age_seconds=(
            service.seen.max_age_seconds if request.seen_max_age_seconds is None else request.seen_max_age_seconds
        ),
        max_per=request.max_per,
        diversity=request.diversity,
        explain=request.explain,
        return_fields=request.return_fields,
        model=request.model,
        min_event_token=request.min_event_token,
        segment=SegmentWish() if segment is None else SegmentWish(segment.attribute, segment.value),
        **own,
    )
    return query if request.scenario is None else service.scenarios.get(request.scenario).apply(query, request.sent)


def _timeout_seconds(request: ListRequest, service: RunningService) -> float:
    return service.request_timeout_seconds if request.timeout_ms is None else request.timeout_ms / 1_000


def _interactions(history: Sequence[str | HistoryItem]) -> Interactions:
    return Interactions.from_rows(
        (entry, None, None) if isinstance(entry, str) else (entry.item_id, entry.timestamp, entry.type)
        for entry in history
    )


def _answer(
    request: RecommendRequest,
    recommendation: Recommendation,
    warnings: Sequence[str],
    *,
    scenario: ScenarioRef | None,
    next_cursor: str | None,
    marks: Sequence[tuple[bool, bool]],
    first_rank: int = 1,
) -> bytes:
    """The JSON of a ``RecommendAnswer``."""
    answer = answer_fields(
        request.user_id,
        recommendation,
        warnings,
        scenario=scenario,
        next_cursor=next_cursor,
        marks=marks,
        first_rank=first_rank,
    )
    return orjson.dumps(answer, default=to_jsonable_python)


def answer_fields(
    user_id: str | None,
    recommendation: Recommendation,
    warnings: Sequence[str],
    *,
    scenario: ScenarioRef | None,
    marks: Sequence[tuple[bool, bool]],
    next_cursor: str | None = None,
    first_rank: int = 1,
) -> dict[str, Any]:
    """What an answer says, as plain values: a model for each item would only be checked again.

    Args:
        user_id: Of the request.
        recommendation: The list.
        warnings: About it.
        scenario: That it was made by.
        marks: Per item whether it is pinned, and whether it is boosted.
        next_cursor: Of the next page.
        first_rank: Of the first item.
    """
    served, assignment = recommendation.served, recommendation.assignment
    return {
        "recommendation_id": recommendation.recommendation_id,
        "user_id": user_id,
        "items": [
            {
                "rank": rank,
                "item_id": item.item_id,
                "score": item.score,
                "fields": item.fields,
                "reasons": [{"item_id": item_id, "weight": weight} for item_id, weight in item.reasons],
                "pinned": is_pinned,
                "boosted": is_boosted,
                "heads": item.heads or None,
            }
            for rank, (item, (is_pinned, is_boosted)) in enumerate(
                zip(recommendation.items, marks, strict=True), start=first_rank
            )
        ],
        "source": recommendation.source,
        "warnings": warnings,
        "model": {"kind": served.kind, "version": served.model_id},
        "bundle": served.bundle_id,
        "mode": recommendation.mode,
        "experiment": None if assignment is None else {"name": assignment.experiment, "arm": assignment.arm},
        "scenario": None if scenario is None else {"name": scenario.name, "version": scenario.version},
        "history_length": recommendation.history_length,
        "left_out": {name: amount for name, amount in recommendation.trace.filtered.items() if name in _REASONS},
        "next_cursor": next_cursor,
        "timing_ms": recommendation.trace.timing.milliseconds(),
    }


def item_answers(items: Sequence[RankedItem], *, first_rank: int = 1) -> list[ItemAnswer]:
    """Ranks in the order given."""
    return [
        ItemAnswer(
            rank=at,
            item_id=item.item_id,
            score=item.score,
            fields=dict(item.fields),
            reasons=[ReasonAnswer(item_id=item_id, weight=weight) for item_id, weight in item.reasons],
        )
        for at, item in enumerate(items, start=first_rank)
    ]
