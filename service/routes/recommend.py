"""``POST /recommend``."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Body, Depends

from service.auth import require
from service.dependencies import ServiceDep, require_json
from service.pipeline.constraints import Condition
from service.pipeline.query import Interaction, Query, RankedItem, Recommendation
from service.schemas import (
    ExperimentAnswer,
    FilterCondition,
    HistoryItem,
    ItemAnswer,
    ModelAnswer,
    ReasonAnswer,
    RecommendAnswer,
    RecommendRequest,
    TimingAnswer,
)

router = APIRouter(tags=["recommend"], dependencies=[Depends(require("recommend")), Depends(require_json)])


@router.post("/recommend")
async def recommend(request: Annotated[RecommendRequest, Body()], service: ServiceDep) -> RecommendAnswer:
    """Recommends items to a user, or to a history."""
    recommendation = await service.recommender.recommend(_query(request, service.request_timeout_seconds))
    stages = asdict(recommendation.timing)
    stages.pop("total")
    assignment = recommendation.assignment
    service.metrics.recommended(
        source=recommendation.source,
        kind=recommendation.served.kind,
        mode=recommendation.mode,
        arm=None if assignment is None else assignment.arm,
        fallback_reason=recommendation.fallback_reason,
        warnings=list(recommendation.warnings),
        stages=stages,
        is_short=len(recommendation.items) < request.k,
    )
    return _answer(request, recommendation)


def _query(request: RecommendRequest, default_timeout_seconds: float) -> Query:
    return Query(
        user_id=request.user_id,
        k=request.k,
        timeout_seconds=default_timeout_seconds if request.timeout_ms is None else request.timeout_ms / 1_000,
        history=None if request.history is None else [_interaction(entry) for entry in request.history],
        filter={name: _condition(condition) for name, condition in request.filter.items()},
        exclude_item_ids=request.exclude_item_ids,
        exclude_seen=request.exclude_seen,
        diversity=request.diversity,
        explain=request.explain,
        return_fields=request.return_fields,
        model=request.model,
        mode=request.mode,
        min_event_token=request.min_event_token,
    )


def _interaction(entry: str | HistoryItem) -> Interaction:
    if isinstance(entry, str):
        return Interaction(entry)
    return Interaction(entry.item_id, entry.timestamp)


def _condition(condition: FilterCondition) -> Condition:
    return Condition(
        any_of=None if condition.any_of is None else tuple(condition.any_of),
        none_of=None if condition.none_of is None else tuple(condition.none_of),
        gte=condition.gte,
        lte=condition.lte,
        exists=condition.exists,
    )


def _answer(request: RecommendRequest, recommendation: Recommendation) -> RecommendAnswer:
    served, assignment = recommendation.served, recommendation.assignment
    return RecommendAnswer(
        recommendation_id=recommendation.recommendation_id,
        user_id=request.user_id,
        items=item_answers(recommendation.items),
        source=recommendation.source,
        warnings=list(recommendation.warnings),
        model=ModelAnswer(kind=served.kind, version=served.model_id),
        bundle=served.bundle_id,
        mode=recommendation.mode,
        experiment=None if assignment is None else ExperimentAnswer(name=assignment.experiment, arm=assignment.arm),
        history_length=recommendation.history_length,
        timing_ms=TimingAnswer(
            **{step: round(seconds * 1_000, 3) for step, seconds in asdict(recommendation.timing).items()}
        ),
    )


def item_answers(items: Sequence[RankedItem]) -> list[ItemAnswer]:
    """Ranks from 1, in the order given."""
    return [
        ItemAnswer(
            rank=at,
            item_id=item.item_id,
            score=item.score,
            fields=dict(item.fields),
            reasons=[ReasonAnswer(item_id=item_id, weight=weight) for item_id, weight in item.reasons],
        )
        for at, item in enumerate(items, start=1)
    ]
