"""Bodies of the operators' endpoints."""

from typing import Annotated

from pydantic import ConfigDict, Field

from service.routes.schemas.wire import Wire


class AdminRequest(Wire):
    """The optional body of ``POST /admin/rollback``."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "hllm"}]})

    model: Annotated[
        str | None,
        Field(min_length=1, max_length=64, description="Kind of model; the default kind where it is left out"),
    ] = None


class LiveBundlesAnswer(Wire):
    """Which bundle answers for each kind of model."""

    bundles: dict[str, str]
    default: str | None
    changed: list[str]
