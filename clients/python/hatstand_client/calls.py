"""The requests of the HTTP API as values, and what their answers are; both clients send these."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx2
from pydantic import ValidationError

from hatstand_client import answers
from hatstand_client.answers import Answer
from hatstand_client.errors import UnexpectedAnswer, problem
from hatstand_client.inputs import Event, RankOptions, RecommendOptions

AnswerT = TypeVar("AnswerT", bound=Answer)

REQUEST_ID_HEADER = "x-request-id"
# What a request for a later page may say.
_PAGE_OPTIONS = ("user_id", "session_id", "k", "return_fields", "exclude_item_ids", "timeout_ms")


@dataclass(frozen=True)
class Call(Generic[AnswerT]):
    """One request.

    Attributes:
        answer: The type of the answer.
        answered_by: Statuses with a body of this type.
    """

    method: str
    path: str
    answer: type[AnswerT]
    body: Mapping[str, Any] | None = None
    query: Mapping[str, Any] = field(default_factory=dict)
    answered_by: frozenset[int] = frozenset({200})

    def arguments(self, request_id: str) -> dict[str, Any]:
        """The arguments of httpx2's ``request``."""
        return {
            "method": self.method,
            "url": self.path,
            "params": {name: value for name, value in self.query.items() if value is not None},
            "json": self.body,
            "headers": {REQUEST_ID_HEADER: request_id},
        }

    def read(self, response: httpx2.Response, request_id: str) -> AnswerT:
        """The answer.

        Raises:
            Problem: The service refused.
            UnexpectedAnswer: The body does not have the documented form.
        """
        if response.status_code in self.answered_by:
            try:
                return self.answer.model_validate_json(response.content)
            except ValidationError as error:
                if response.is_success:
                    detail = f"{self.method} {response.url}: the answer is no {self.answer.__name__}"
                    raise UnexpectedAnswer(f"{detail} (request {request_id})") from error
        raise problem(response.status_code, response.headers, response.content, request_id=request_id)


def new_request_id() -> str:
    """An id that nobody else has."""
    return uuid.uuid4().hex


def headers(api_key: str | None, user_agent: str | None) -> dict[str, str]:
    """The headers of every request."""
    agent = f"hatstand-client/{version('hatstand-client')}"
    key = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
    return {"user-agent": f"{user_agent} {agent}" if user_agent else agent, "accept": "application/json", **key}


def recommend(options: RecommendOptions) -> Call[answers.RecommendAnswer]:
    """``POST /recommend``."""
    body = {name: value for name, value in options.items() if value is not None}
    return Call("POST", "recommend", answers.RecommendAnswer, body)


def rank(item_ids: Sequence[str], options: RankOptions) -> Call[answers.RankAnswer]:
    """``POST /rank``."""
    body = {name: value for name, value in options.items() if value is not None}
    return Call("POST", "rank", answers.RankAnswer, {**body, "item_ids": list(item_ids)})


def next_page(options: RecommendOptions, cursor: str) -> Call[answers.RecommendAnswer]:
    """``POST /recommend`` for the page after the one that had this cursor."""
    kept = {name: options.get(name) for name in _PAGE_OPTIONS}
    body = {name: value for name, value in kept.items() if value is not None}
    return Call("POST", "recommend", answers.RecommendAnswer, {**body, "cursor": cursor})


def report_events(events: Sequence[Event]) -> Call[answers.EventsAnswer]:
    """``POST /events``."""
    return Call("POST", "events", answers.EventsAnswer, {"events": [event.body() for event in events]})


def search_items(query: str, limit: int, model: str | None) -> Call[answers.CatalogueAnswer]:
    """``GET /items``."""
    return Call("GET", "items", answers.CatalogueAnswer, query={"query": query, "limit": limit, "model": model})


def get_item(item_id: str, model: str | None) -> Call[answers.CatalogueItem]:
    """``GET /items/{id}``."""
    return Call("GET", f"items/{_segment(item_id)}", answers.CatalogueItem, query={"model": model})


def similar_items(item_id: str, k: int, model: str | None) -> Call[answers.SimilarAnswer]:
    """``GET /items/{id}/similar``."""
    path = f"items/{_segment(item_id)}/similar"
    return Call("GET", path, answers.SimilarAnswer, query={"k": k, "model": model})


def user_history(user_id: str) -> Call[answers.UserAnswer]:
    """``GET /users/{id}``."""
    return Call("GET", f"users/{_segment(user_id)}", answers.UserAnswer)


def erase_user(user_id: str) -> Call[answers.ErasureReceipt]:
    """``DELETE /users/{id}``."""
    return Call("DELETE", f"users/{_segment(user_id)}", answers.ErasureReceipt)


def merge_session(session_id: str, user_id: str) -> Call[answers.MergeAnswer]:
    """``POST /users/{id}/merge``."""
    return Call("POST", f"users/{_segment(user_id)}/merge", answers.MergeAnswer, {"session_id": session_id})


def session_history(session_id: str) -> Call[answers.SessionAnswer]:
    """``GET /sessions/{id}``."""
    return Call("GET", f"sessions/{_segment(session_id)}", answers.SessionAnswer)


def erase_session(session_id: str) -> Call[answers.ErasureReceipt]:
    """``DELETE /sessions/{id}``."""
    return Call("DELETE", f"sessions/{_segment(session_id)}", answers.ErasureReceipt)


def scenarios() -> Call[answers.ScenariosAnswer]:
    """``GET /scenarios``."""
    return Call("GET", "scenarios", answers.ScenariosAnswer)


def service_version() -> Call[answers.Version]:
    """``GET /version``."""
    return Call("GET", "version", answers.Version)


def readiness() -> Call[answers.Readiness]:
    """``GET /readyz``; 503 is an answer like any other."""
    return Call("GET", "readyz", answers.Readiness, answered_by=frozenset({200, 503}))


NewRequestId = Callable[[], str]


def _segment(text: str) -> str:
    """One segment of a path; ``.`` and ``..`` would be taken for steps to other paths."""
    return text.replace(".", "%2E") if text in {".", ".."} else quote(text, safe="")
