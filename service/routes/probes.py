"""What operators and probes ask: health, metrics, version, and which bundle is live."""

from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from service.errors import BundleRefused
from service.http.auth import require
from service.http.dependencies import ServiceDep
from service.metrics.metrics import CONTENT_TYPE
from service.routes.schemas.probes import AdminRequest, LiveBundlesAnswer
from service.wiring import RunningService

router = APIRouter(tags=["operations"])
admin = APIRouter(tags=["operations"], prefix="/admin", dependencies=[Depends(require("admin"))])


@router.get("/livez")
async def is_alive(service: ServiceDep) -> JSONResponse:
    """200 while the event loop answers and the model is not beyond help; depends on nothing else."""
    reason = service.health.hung()
    return JSONResponse({"status": "hung", "reason": reason} if reason else {"status": "ok"}, 503 if reason else 200)


@router.get("/readyz")
async def is_ready(service: ServiceDep) -> JSONResponse:
    """200 when recommendations can be answered, if only by fallbacks (``degraded``); else 503."""
    if service.siblings is None:
        await service.health.look_at_histories()
        report = service.health.report()
        document = {"status": report.status, "checks": report.checks, "refused": report.refused}
    else:
        document = await service.siblings.readiness()
    return JSONResponse(document, 503 if document["status"] == "not_ready" else 200)


@router.get("/metrics", response_class=PlainTextResponse)
async def show_metrics(service: ServiceDep) -> Response:
    """For Prometheus."""
    page = service.metrics.render() if service.siblings is None else await service.siblings.metrics()
    return Response(page, headers={"content-type": CONTENT_TYPE})


@router.get("/version")
async def show_version(service: ServiceDep) -> dict[str, Any]:
    """Which release this is, and what it serves: bundles, modes, what models read of an item; and the experiment."""
    live = service.bundles.live
    models = {
        kind: {
            "model": served.model_id,
            "bundle": served.bundle_id,
            "items": len(served.catalogue),
            "modes": served.modes,
            "text_fields": served.text_fields,
        }
        for kind, served in live.bundles.items()
    }
    experiment = service.experiment
    return {
        "name": "hatstand",
        "version": version("hatstand"),
        "models": models,
        "default": live.default,
        "refused": service.health.report().refused,
        "draining": [draining.bundle_id for draining in service.bundles.draining],
        "experiment": None if experiment is None else experiment.model_dump(),
    }


@admin.post("/reload")
async def reload(service: ServiceDep) -> LiveBundlesAnswer:
    """Loads what the store's live pointer names; if that cannot be served, the old bundle goes on."""
    return await _everywhere(service, service.bundles.reload)


@admin.post("/rollback")
async def rollback(service: ServiceDep, request: Annotated[AdminRequest | None, Body()] = None) -> LiveBundlesAnswer:
    """Makes the previous bundle live again, in the store and here."""
    kind = request.model if request else None
    return await _everywhere(service, lambda: service.bundles.rollback(kind))


async def _everywhere(service: RunningService, change: Callable[[], Awaitable[list[str]]]) -> LiveBundlesAnswer:
    """Changes what is live here and then in every other worker; a bundle that is refused here may be served there."""
    try:
        changed = await change()
    except BundleRefused:
        if service.siblings is not None:
            await service.siblings.reload()
        raise
    if service.siblings is not None:
        await service.siblings.reload()
    live = service.bundles.live
    return LiveBundlesAnswer(
        bundles={kind: served.bundle_id for kind, served in live.bundles.items()},
        default=live.default,
        changed=changed,
    )
