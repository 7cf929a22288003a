"""Bodies about items, hidden items and scenarios."""

from typing import Annotated, Any

from pydantic import Field

from service.routes.schemas.recommend import ItemAnswer
from service.routes.schemas.wire import Wire


class CatalogueItem(Wire):
    """An item as the live bundle has it."""

    item_id: str
    fields: dict[str, Any]


class CatalogueAnswer(Wire):
    """The answer of ``GET /items``."""

    items: list[CatalogueItem]
    bundle: str


class SimilarAnswer(Wire):
    """The answer of ``GET /items/{id}/similar``."""

    item_id: str
    items: list[ItemAnswer]
    bundle: str


class HiddenItemAnswer(Wire):
    """The answer of ``POST /admin/items/{id}/hide`` and ``/show``."""

    item_id: str
    hidden: bool
    hidden_at: Annotated[str | None, Field(description="ISO 8601, UTC; null if it is not hidden")]


class HiddenItemsAnswer(Wire):
    """The answer of ``GET /admin/items/hidden``: the last hidden first."""

    total: Annotated[int, Field(description="How many items are hidden")]
    items: list[HiddenItemAnswer]


class ScenarioSummary(Wire):
    """One scenario of the file."""

    name: str
    version: str
    description: str


class ScenariosAnswer(Wire):
    """The answer of ``GET /scenarios``."""

    scenarios: list[ScenarioSummary]
