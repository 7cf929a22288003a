"""What routes are given: the running service's parts, by type."""

from typing import Annotated

from fastapi import Depends, Request

from service.wiring import RunningService


async def running_service(request: Request) -> RunningService:
    """The parts of the application that answers; a coroutine, as FastAPI calls a plain function in a thread."""
    service: RunningService = request.app.state.service
    return service


ServiceDep = Annotated[RunningService, Depends(running_service)]
