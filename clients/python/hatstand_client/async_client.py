"""The client for asyncio: the methods of ``Client``, as coroutines."""

from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Self, Unpack

import httpx2
from tenacity import AsyncRetrying

from hatstand_client import answers, calls
from hatstand_client.calls import AnswerT, Call, NewRequestId
from hatstand_client.errors import ConnectionFailed
from hatstand_client.inputs import Event, RankOptions, RecommendOptions
from hatstand_client.retries import Retries


class AsyncClient:
    """Asks a Hatstand service; tasks of one event loop may share one. Close it, or use it with ``async with``.

    Every method raises a ``HatstandError``: ``Problem`` where the service refuses, ``ConnectionFailed`` where nobody
    answers, ``UnexpectedAnswer`` where somebody else does.

    Args:
        base_url: Such as ``http://127.0.0.1:8000``; a path in it is kept.
        api_key: If the service wants one.
        timeout_seconds: For each step of one attempt: to connect, to send, to be answered.
        retries: How often a request is sent when the service cannot answer now.
        user_agent: A name for the service's operator to see, before that of the client.
        new_request_id: Names a request; by default a random id. All attempts at a request have the same.
        transport: Replaces the network, as in tests.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout_seconds: float = 10.0,
        retries: Retries | None = None,
        user_agent: str | None = None,
        new_request_id: NewRequestId = calls.new_request_id,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._retries = retries or Retries()
        self._new_request_id = new_request_id
        self._http = httpx2.AsyncClient(
            base_url=base_url,
            headers=calls.headers(api_key, user_agent),
            timeout=timeout_seconds,
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def recommend(self, **options: Unpack[RecommendOptions]) -> answers.RecommendAnswer:
        """Recommends items to a user, a session, or a history."""
        return await self._send(calls.recommend(options))

    async def rank(self, item_ids: Sequence[str], **options: Unpack[RankOptions]) -> answers.RankAnswer:
        """Ranks up to 1,000 items of the caller's: search results, the shortlist of a mail."""
        return await self._send(calls.rank(item_ids, options))

    async def recommend_pages(self, **options: Unpack[RecommendOptions]) -> AsyncIterator[answers.RecommendAnswer]:
        """Yields a list page by page, ``k`` items each, until nothing is left.

        Raises:
            Gone: The list is no longer kept.
        """
        page = await self._send(calls.recommend({**options, "paginate": True}))
        yield page
        while page.next_cursor is not None:
            page = await self._send(calls.next_page(options, page.next_cursor))
            yield page

    async def report_events(self, events: Sequence[Event], *, retries: Retries | None = None) -> answers.EventsAnswer:
        """Reports 1 to 1,000 events; those that are accepted are stored when this returns.

        Args:
            events: What happened. Bad ones are named in the answer, and the others are stored.
            retries: Instead of the client's own.
        """
        return await self._send(calls.report_events(events), retries)

    async def search_items(
        self, query: str = "", *, limit: int = 20, model: str | None = None
    ) -> answers.CatalogueAnswer:
        """Finds items by words of their titles, the most popular first."""
        return await self._send(calls.search_items(query, limit, model))

    async def get_item(self, item_id: str, *, model: str | None = None) -> answers.CatalogueItem:
        """Returns an item with all its fields.

        Raises:
            NotFound: The catalogue does not have it.
        """
        return await self._send(calls.get_item(item_id, model))

    async def similar_items(self, item_id: str, *, k: int = 10, model: str | None = None) -> answers.SimilarAnswer:
        """Finds the items that are most similar to an item.

        Raises:
            NotFound: The catalogue does not have the item.
        """
        return await self._send(calls.similar_items(item_id, k, model))

    async def user_history(self, user_id: str) -> answers.UserAnswer:
        """Returns a user's history, oldest first; the key needs the scope ``admin``."""
        return await self._send(calls.user_history(user_id))

    async def erase_user(self, user_id: str) -> answers.ErasureReceipt:
        """Deletes all that is kept of a user; the key needs the scope ``admin``."""
        return await self._send(calls.erase_user(user_id))

    async def merge_session(self, session_id: str, *, user_id: str) -> answers.MergeAnswer:
        """Moves a session's events to a user, as when a visitor signs in."""
        return await self._send(calls.merge_session(session_id, user_id))

    async def session_history(self, session_id: str) -> answers.SessionAnswer:
        """Returns a session's history, oldest first; the key needs the scope ``admin``."""
        return await self._send(calls.session_history(session_id))

    async def erase_session(self, session_id: str) -> answers.ErasureReceipt:
        """Deletes all that is kept of a session; the key needs the scope ``admin``."""
        return await self._send(calls.erase_session(session_id))

    async def scenarios(self) -> answers.ScenariosAnswer:
        """Lists the scenarios that ``recommend`` may name."""
        return await self._send(calls.scenarios())

    async def version(self) -> answers.Version:
        """Says which release answers, and with which models."""
        return await self._send(calls.service_version())

    async def readiness(self) -> answers.Readiness:
        """Says whether the service can answer."""
        return await self._send(calls.readiness())

    async def _send(self, call: Call[AnswerT], retries: Retries | None = None) -> AnswerT:
        request_id = self._new_request_id()
        return await AsyncRetrying(**(retries or self._retries).policy())(self._attempt, call, request_id)

    async def _attempt(self, call: Call[AnswerT], request_id: str) -> AnswerT:
        try:
            response = await self._http.request(**call.arguments(request_id))
        except httpx2.RequestError as error:
            raise ConnectionFailed(f"{call.method} {call.path}: {error!r}", request_id=request_id) from error
        return call.read(response, request_id)
