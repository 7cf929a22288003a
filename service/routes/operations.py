"""What operators and probes ask: health, metrics, version, and which bundle is live."""

from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends
from fastapi.responses import JSONResponse, Response

from service.auth import require
from service.dependencies import ServiceDep
from service.metrics import CONTENT_TYPE
from service.running import RunningService
from service.schemas import AdminRequest, LiveBundlesAnswer

router = APIRouter(tags=["operations"])
admin = APIRouter(tags=["operations"], prefix="/admin", dependencies=[Depends(require("admin"))])


@router.get("/livez")
async def is_alive() -> dict[str, str]:
    """The event loop answers; depends on nothing else."""
    return {"status": "ok"}


@router.get("/readyz")
async def is_ready(service: ServiceDep) -> JSONResponse:
    """200 when recommendations can be answered, if only by fallbacks (``degraded``); else 503."""
    history_problem = await service.history_store_problem()
    has_bundle = bool(service.bundles.live.bundles)
    checks = {
        "bundle": "ok" if has_bundle else (service.bundles.problem or "no bundle is live"),
        "model_worker": "ok" if service.batcher.is_running else "not running",
        "history_store": history_problem or "ok",
    }
    is_able = has_bundle and service.batcher.is_running
    status = "not_ready" if not is_able else "degraded" if history_problem else "ready"
    return JSONResponse({"status": status, "checks": checks}, 200 if is_able else 503)


@router.get("/metrics")
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
        "experiment": None if experiment is None else experiment.model_dump(),
    }


@admin.post("/reload")
async def reload(service: ServiceDep) -> LiveBundlesAnswer:
    """Loads what the store's live pointer names; if that cannot be served, the old bundle goes on."""
    return _live(service, await service.reload())


@admin.post("/rollback")
async def rollback(service: ServiceDep, request: Annotated[AdminRequest | None, Body()] = None) -> LiveBundlesAnswer:
    """Makes the previous bundle live again, in the store and here."""
    kind = request.model if request else None
    return _live(service, await service.reload(lambda: service.bundles.rollback(kind)))


def _live(service: RunningService, changed: list[str]) -> LiveBundlesAnswer:
    live = service.bundles.live
    return LiveBundlesAnswer(
        bundles={kind: served.bundle_id for kind, served in live.bundles.items()},
        default=live.default,
        changed=changed,
    )
