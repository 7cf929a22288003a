"""The floor of a cached request: empty FastAPI routes, on the server that the service runs on."""

import os
from pathlib import Path
from typing import Any

import typer
import uvicorn
from fastapi import FastAPI, Response

from service.routes.schemas.recommend import RecommendAnswer, RecommendRequest


def main(answer: Path) -> None:
    """Serves ``/empty``, the bytes of an answer, and ``/typed``, its object through the service's own schemas."""
    content = answer.read_bytes()
    ready = RecommendAnswer.model_validate_json(content)
    empty = FastAPI()

    @empty.get("/readyz")
    async def is_ready() -> dict[str, Any]:
        return {}

    @empty.post("/empty")
    async def answer_bytes() -> Response:
        return Response(content, media_type="application/json")

    @empty.post("/typed")
    async def answer_object(request: RecommendRequest) -> RecommendAnswer:  # noqa: ARG001
        return ready

    port = int(os.environ["PORT"])
    uvicorn.run(empty, host="127.0.0.1", port=port, log_config=None, access_log=False, loop="uvloop", http="httptools")


if __name__ == "__main__":
    typer.run(main)
