"""What routes are given: the running service's parts, by type."""

from typing import Annotated

from fastapi import Depends, Request

from service.errors import UnsupportedMediaType
from service.wiring import RunningService


async def running_service(request: Request) -> RunningService:
    """The parts of the application that answers; a coroutine, as FastAPI calls a plain function in a thread."""
    service: RunningService = request.app.state.service
    return service


async def require_json(request: Request) -> None:
    """Refuses a body that does not say it is JSON.

    Raises:
        UnsupportedMediaType: The content type is another one, or missing.
    """
    sent = request.headers.get("content-type", "")
    media_type = sent.partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaType(f"content type {sent!r}, expected application/json")


ServiceDep = Annotated[RunningService, Depends(running_service)]
