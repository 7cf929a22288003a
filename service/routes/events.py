"""``POST /events``."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends
from pydantic import ValidationError

from model_store.field_problems import describe_problem
from model_store.people.appending import derived_event_id
from model_store.people.owner import Owner, owners_of
from service.errors import InvalidRequest
from service.http.auth import require
from service.http.dependencies import ServiceDep
from service.people.history_store import Event
from service.routes.schemas.events import EventIn, EventsAnswer, EventsRequest, RejectedEvent

router = APIRouter(tags=["events"], dependencies=[Depends(require("events"))])

# Events that are checked before others have their turn: about a millisecond.
_AT_ONCE = 16
_CODES = {
    "missing": "missing_field",
    "no_owner": "missing_field",
    "extra_forbidden": "unknown_field",
    "string_too_long": "too_long",
    "string_too_short": "empty",
    "greater_than_equal": "out_of_range",
    "less_than_equal": "out_of_range",
    "value_error": "out_of_range",
    "moment_range": "out_of_range",
    "not_both": "ambiguous_owner",
}


@router.post("/events")
async def report_events(request: Annotated[EventsRequest, Body()], service: ServiceDep) -> EventsAnswer:
    """Takes interactions. What is accepted is durable, and the user's next recommendation counts it in.

    A bad event rejects itself alone; where none is good, the answer is 422 and says what is wrong with each.
    """
    events, rejected = await _sort_out(request.events)
    if not events:
        service.metrics.people.events_handled(accepted=0, duplicates=0, rejected=len(rejected))
        raise _none_taken(rejected)
    outcome = await service.histories.append(events)
    service.people.note(outcome.new)
    service.recording.attribution.note(outcome.new)
    service.metrics.people.events_handled(
        accepted=outcome.accepted, duplicates=outcome.duplicates, rejected=len(rejected)
    )
    return EventsAnswer(
        accepted=outcome.accepted,
        duplicates=outcome.duplicates,
        unknown_items=service.bundles.live.num_unknown([event.item_id for event in outcome.new]),
        rejected=rejected,
        event_token=outcome.event_token,
    )


def _none_taken(rejected: Sequence[RejectedEvent]) -> InvalidRequest:
    first = rejected[0]
    return InvalidRequest(
        f"none of {len(rejected)} events was accepted; the first ({first.code}): {first.detail}",
        code="no_event_accepted",
        errors=[{"pointer": f"/events/{one.index}", "code": one.code, "detail": one.detail} for one in rejected],
    )


async def _sort_out(raw_events: Sequence[Any]) -> tuple[list[Event], list[RejectedEvent]]:
    """The events, and why the others are none; of a long list the event loop has turns in between."""
    events: list[Event] = []
    rejected: list[RejectedEvent] = []
    owners: dict[tuple[str, str], Owner] = {}
    for index, raw in enumerate(raw_events):
        if index % _AT_ONCE == _AT_ONCE - 1:
            await asyncio.sleep(0)
        try:
            event = EventIn.model_validate(raw)
        except ValidationError as error:
            rejected.append(_rejection(index, raw, error))
            continue
        named = event.user_id, event.session_id
        if named not in owners:
            (owners[named],) = owners_of(event.user_id or None, event.session_id or None)
        events.append(_event(event, owners[named]))
    return events, rejected


def _event(event: EventIn, owner: Owner) -> Event:
    return Event(
        event_id=event.event_id or derived_event_id(owner, event.item_id, event.type, event.timestamp),
        owner=owner,
        item_id=event.item_id,
        timestamp=event.timestamp,
        type=event.type,
        recommendation_id=event.recommendation_id,
        properties=event.properties,
    )


def _rejection(index: int, raw: Any, error: ValidationError) -> RejectedEvent:
    first = error.errors(include_url=False)[0]
    where = "/".join(str(part) for part in first["loc"]) or "event"
    event_id = raw.get("event_id") if isinstance(raw, dict) else None
    is_echoed = isinstance(event_id, str) and len(event_id) <= 256 and event_id.isprintable()
    return RejectedEvent(
        index=index,
        event_id=event_id if is_echoed else None,
        code=_CODES.get(first["type"], "invalid_type"),
        detail=f"{where}: {describe_problem(first, EventIn)}",
    )
