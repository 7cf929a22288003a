"""What agents may ask and do; the descriptions are for them to read."""

from typing import Annotated, Any
from urllib.parse import quote

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from service.mcp.own_routes import OwnRoutes
from service.routes.schemas.recommend import MAX_K

# The event's property that says where it comes from.
ORIGIN = "mcp"
_NUM_EXPLAINED = 100
_NUM_REASONS = 10

UserId = Annotated[str | None, Field(description="A known user; the stored history is read")]
SessionId = Annotated[str | None, Field(description="A visitor who is not known yet, instead of user_id")]
History = Annotated[
    list[str] | None, Field(description="Item ids, oldest first: what somebody has liked so far; no user is needed")
]
Filter = Annotated[
    dict[str, Any] | None,
    Field(description='Conditions on attributes, such as {"price": {"lte": 50}, "category": {"any_of": ["Audio"]}}'),
]
K = Annotated[int, Field(ge=1, le=MAX_K, description="How many items")]
ItemId = Annotated[str, Field(description="The id of an item of the catalogue")]


class Tools:
    """The tools.

    Args:
        routes: Who answers.
    """

    def __init__(self, routes: OwnRoutes) -> None:
        self._routes = routes

    async def recommend(
        self,
        context: Context,
        user_id: UserId = None,
        session_id: SessionId = None,
        history: History = None,
        k: K = 10,
        filter: Filter = None,
        exclude_item_ids: Annotated[list[str] | None, Field(description="Never returned")] = None,
        diversity: Annotated[float, Field(ge=0, le=1, description="0: by score alone; 1: by difference alone")] = 0.0,
        scenario: Annotated[str | None, Field(description="Rules of the shop, by name")] = None,
        return_fields: Annotated[list[str] | None, Field(description="Fields of the items; default: title")] = None,
    ) -> dict[str, Any]:
        """Recommends items to a user, a session or a history. Give exactly one of the three, unless both ids are known.

        Items come best first. `source` is "model", or "fallback:..." where little is known. Keep `recommendation_id`
        for record_event.
        """
        body = {
            "user_id": user_id,
            "session_id": session_id,
            "history": history,
            "k": k,
            "filter": filter,
            "exclude_item_ids": exclude_item_ids,
            "diversity": diversity,
            "scenario": scenario,
            "return_fields": return_fields,
        }
        return await self._routes.ask(context, "POST", "/recommend", body=body)

    async def similar_items(self, context: Context, item_id: ItemId, k: K = 10) -> dict[str, Any]:
        """Finds the items most similar to an item; scores are cosines, 1 at most."""
        return await self._routes.ask(context, "GET", f"/items/{quote(item_id, safe='')}/similar", query={"k": k})

    async def search_items(
        self, context: Context, query: Annotated[str, Field(description="Words of the title")], limit: K = 10
    ) -> dict[str, Any]:
        """Finds items of the catalogue by words of their titles, the most popular first, with all their fields."""
        return await self._routes.ask(context, "GET", "/items", query={"query": query, "limit": limit})

    async def explain(
        self,
        context: Context,
        item_id: ItemId,
        user_id: UserId = None,
        session_id: SessionId = None,
        history: History = None,
    ) -> dict[str, Any]:
        """Says why an item is recommended: its rank, its score, and which items of the history weigh most for it.

        The weights of all reasons sum to 1. Fails if the item is not among the first 100 recommendations, or is in
        the history itself.
        """
        body = {"user_id": user_id, "session_id": session_id, "history": history, "k": _NUM_EXPLAINED, "explain": True}
        answer = await self._routes.ask(context, "POST", "/recommend", body=body)
        item = next((one for one in answer["items"] if one["item_id"] == item_id), None)
        if item is None:
            raise ToolError(f"{item_id!r} is not among the first {len(answer['items'])} recommendations")
        reasons = {"reasons": item["reasons"][:_NUM_REASONS], "num_reasons": len(item["reasons"])}
        return {**item, **reasons, **{name: answer[name] for name in ("source", "warnings", "model")}}

    async def record_event(
        self,
        context: Context,
        item_id: ItemId,
        user_id: UserId = None,
        session_id: SessionId = None,
        type: Annotated[str, Field(description="Such as click, cart or purchase")] = "click",
        recommendation_id: Annotated[str | None, Field(description="Of the list that led to it")] = None,
        event_id: Annotated[str | None, Field(description="The same id again counts once")] = None,
        timestamp: Annotated[
            int | str | None, Field(description="Seconds since 1970, or ISO 8601; default: now")
        ] = None,
    ) -> dict[str, Any]:
        """Records what a user or a session did with an item; their next recommendation counts it in.

        Only record what a person really did. The event is marked with the origin "mcp".
        """
        event = {
            "item_id": item_id,
            "user_id": user_id,
            "session_id": session_id,
            "type": type,
            "timestamp": timestamp,
            "recommendation_id": recommendation_id,
            "event_id": event_id,
            "properties": {"origin": ORIGIN},
        }
        sent = {name: value for name, value in event.items() if value is not None}
        return await self._routes.ask(context, "POST", "/events", body={"events": [sent]})
