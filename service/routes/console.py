"""The console: its page, its files, and what only it asks: filters, scenarios, visitors, and what they did lately."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

from cachetools import LRUCache
from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.responses import JSONResponse, Response

from model_store.people.event_log import LoggedEvent
from service.console.activity import summarize
from service.console.attributes import describe_attributes
from service.console.outcomes import count_outcomes
from service.console.page import STATIC_PATH, ConsoleFiles
from service.decisions.codec import decode
from service.engine.served_bundle import ServedBundle
from service.errors import NotFound
from service.http.auth import require
from service.http.dependencies import ServiceDep
from service.settings import Settings
from service.wiring import RunningService

# The page loads nothing from elsewhere but the pictures that the catalogue names, and no script or style is in it.
_PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' https:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_FOREVER = "public, max-age=31536000, immutable"
_ETAG_DIGITS = 32
_MAX_KEPT = 4
_NUM_VISITORS = 8
_MAX_MINUTES = 7 * 24 * 60
# What the page offers only where the service has it: a word, and the path that it stands for.
_FEATURES = {
    "hide": "/admin/items/{item_id}/hide",
    "decisions": "/recommendations/{recommendation_id}",
    "scenarios": "/scenarios",
    "sessions": "/sessions/{session_id}",
}


class _Descriptions:
    """What was found out about the newest few bundles; a bundle never changes, so it is found out once."""

    def __init__(self) -> None:
        self._by_bundle: LRUCache[str, dict[str, Any]] = LRUCache(_MAX_KEPT)

    def get(self, served: ServedBundle) -> dict[str, Any]:
        """The description of a bundle; runs in a search thread."""
        known = self._by_bundle.get(served.bundle_id)
        if known is None:
            known = {
                "bundle": served.bundle_id,
                "kind": served.kind,
                "num_items": len(served.catalogue),
                "num_attributes": len(served.catalogue.attribute_names),
                "attributes": [asdict(attribute) for attribute in describe_attributes(served.catalogue)],
            }
            self._by_bundle[served.bundle_id] = known
        return known


class _Page:
    """The page, made at the first request for it, when all routes are known."""

    def __init__(self, files: ConsoleFiles, *, wants_key: bool) -> None:
        self._files = files
        self._wants_key = wants_key
        self._made: tuple[bytes, str] | None = None

    def made_for(self, app: FastAPI) -> tuple[bytes, str]:
        """The page and its ETag."""
        if self._made is None:
            paths = app.openapi()["paths"]
            features = [feature for feature, path in _FEATURES.items() if path in paths]
            body = self._files.page(wants_key=self._wants_key, features=features)
            self._made = body, f'"{hashlib.sha256(body).hexdigest()[:_ETAG_DIGITS]}"'
        return self._made


def install(app: FastAPI, settings: Settings) -> None:
    """Adds the console to an application, if its settings want one."""
    if settings.has_console:
        app.include_router(_router(wants_key=bool(settings.api_keys)), include_in_schema=False)


def _router(*, wants_key: bool) -> APIRouter:
    router = APIRouter()
    files = ConsoleFiles()
    descriptions = _Descriptions()
    page = _Page(files, wants_key=wants_key)

    @router.get("/")
    async def show_page(request: Request) -> Response:
        """The page; a browser asks again every time and is mostly told that it is the same."""
        body, etag = page.made_for(request.app)
        headers = {**_PAGE_HEADERS, "ETag": etag}
        if etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type="text/html; charset=utf-8")

    @router.get(f"/{STATIC_PATH}/{{version}}/{{name}}")
    async def show_file(request: Request, version: str, name: str) -> Response:
        """A file of the page; under an old address there is nothing, so that versions never mix."""
        file = files.get(name) if version == files.version else None
        if file is None:
            raise NotFound("no such file of the console; load the page again")
        headers = {"Cache-Control": _FOREVER, "Vary": "Accept-Encoding", "X-Content-Type-Options": "nosniff"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(
                file.compressed, headers={**headers, "Content-Encoding": "gzip"}, media_type=file.media_type
            )
        return Response(file.body, headers=headers, media_type=file.media_type)

    @router.get("/console/catalogue", dependencies=[Depends(require("recommend"))])
    async def describe_catalogue(
        service: ServiceDep, model: Annotated[str | None, Query(max_length=64)] = None
    ) -> JSONResponse:
        """The attributes of the live catalogue, for the page to make filters of."""
        served = service.bundles.get(model)
        return JSONResponse(await service.run_blocking(lambda: descriptions.get(served)))

    router.add_api_route("/console/scenarios", _show_scenarios, dependencies=[Depends(require("recommend"))])
    router.add_api_route("/console/visitors", _find_visitors, dependencies=[Depends(require("admin"))])
    router.add_api_route("/console/activity", _show_activity, dependencies=[Depends(require("admin"))])
    return router


async def _show_scenarios(service: ServiceDep) -> JSONResponse:
    """All that the scenarios say, as the file has it."""
    shown = [
        {**asdict(one.ref), "rules": one.rules.model_dump(mode="json", by_alias=True)} for one in service.scenarios
    ]
    return JSONResponse({"scenarios": shown})


async def _find_visitors(service: ServiceDep) -> JSONResponse:
    """Some users who have a history, to look at."""
    users = await service.recent.users(_NUM_VISITORS)
    return JSONResponse({"visitors": [{"user_id": name, "events": count} for name, count in users]})


async def _show_activity(
    service: ServiceDep, minutes: Annotated[int, Query(ge=1, le=_MAX_MINUTES)] = 60
) -> JSONResponse:
    """What visitors did in the last minutes, as far as the event log still has it."""
    now = time.time()
    log = await service.recent.since(now - 60 * minutes)
    numbers = summarize(log.events, since=log.since, until=now)
    outcomes = await _count_outcomes(service, log.since, [event for _, event in log.events])
    return JSONResponse({"since": log.since, "until": now, "is_cut": log.is_cut, "outcomes": outcomes, **numbers})


async def _count_outcomes(
    service: RunningService, since: float, events: Sequence[LoggedEvent]
) -> dict[str, Any] | None:
    """What the lists since a moment led to; None where no decision records are kept."""
    decisions = service.recording.decisions
    if decisions is None:
        return None
    newest = await decisions.newest(since)

    def count() -> list[dict[str, Any]]:
        documents = [decode(packed) for packed in newest.documents]
        return count_outcomes(documents, events)

    return {"is_cut": newest.is_cut, "rows": await service.run_blocking(count)}
