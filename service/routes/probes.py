"""What operators and probes ask: health, metrics, version, and which bundle is live."""

from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends
from fastapi.responses import JSONResponse, PlainTextResponse, Response

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
    await service.health.look_at_histories()
    report = service.health.report()
    return JSONResponse(
        {"status": report.status, "checks": report.checks, "refused": report.refused},
        503 if report.status == "not_ready" else 200,
    )


@router.get("/metrics", response_class=PlainTextResponse)
async def show_metrics(service: ServiceDep) -> Response:
    """For Prometheus."""
    return Response(service.metrics.render(), headers={"content-type": CONTENT_TYPE})


@router.get("/version")
async def show_version(service: ServiceDep) -> dict[str, Any]:
    """Which release this is, which bundles it serves, in which modes, and which experiment splits its users."""
    live = service.bundles.live
    models = {
        kind: {
            "model": served.model_id,
            "bundle": served.bundle_id,
            "items": len(served.catalogue),
            "modes": served.modes,
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
    return _live(service, await service.bundles.reload())


@admin.post("/rollback")
async def rollback(service: ServiceDep, request: Annotated[AdminRequest | None, Body()] = None) -> LiveBundlesAnswer:
    """Makes the previous bundle live again, in the store and here."""
    kind = request.model if request else None
    return _live(service, await service.bundles.rollback(kind))


def _live(service: RunningService, changed: list[str]) -> LiveBundlesAnswer:
    live = service.bundles.live
    return LiveBundlesAnswer(
        bundles={kind: served.bundle_id for kind, served in live.bundles.items()},
        default=live.default,
        changed=changed,
    )
