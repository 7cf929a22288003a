"""The Python client against docs/openapi.json: no endpoint, field, option or value is missing or has another name."""

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from pydantic import BaseModel, TypeAdapter

from hatstand_client import (
    AsyncClient,
    Client,
    Event,
    HistoryItem,
    RankOptions,
    RecommendOptions,
    SegmentChoice,
    answers,
    calls,
)
from hatstand_client.errors import _BY_STATUS

DOCUMENT: dict[str, Any] = json.loads((Path(__file__).parents[3] / "docs/openapi.json").read_text(encoding="utf-8"))
SCHEMAS: dict[str, dict[str, Any]] = DOCUMENT["components"]["schemas"]
# What only operators and probes ask.
LEFT_OUT = re.compile(r"/admin/|/livez|/metrics|/recommendations/")
CALLS = {
    "/recommend": calls.recommend({}),
    "/rank": calls.rank(["i"], {"user_id": "u"}),
    "/scenarios": calls.scenarios(),
    "/events": calls.report_events([]),
    "/items": calls.search_items("{query}", 1, "{model}"),
    "/items/{item_id}/similar": calls.similar_items("{item_id}", 1, "{model}"),
    "/items/{item_id}": calls.get_item("{item_id}", "{model}"),
    "/users/{user_id}/merge": calls.merge_session("{session_id}", "{user_id}"),
    "GET /users/{user_id}": calls.user_history("{user_id}"),
    "DELETE /users/{user_id}": calls.erase_user("{user_id}"),
    "GET /sessions/{session_id}": calls.session_history("{session_id}"),
    "DELETE /sessions/{session_id}": calls.erase_session("{session_id}"),
    "/readyz": calls.readiness(),
    "/version": calls.service_version(),
}
ANSWERS = [
    kind
    for kind in vars(answers).values()
    if inspect.isclass(kind) and issubclass(kind, answers.Answer) and kind.__name__ in SCHEMAS
]
_WORDS_ONLY = ("$defs", "title", "description", "examples", "default", "minimum", "maximum", "propertyNames", "format")


def _operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method.upper(), operation)
        for path, item in DOCUMENT["paths"].items()
        for method, operation in item.items()
        if not LEFT_OUT.match(path)
    ]


def _form(schema: Any) -> Any:
    """A schema without words and bounds, references by name."""
    if isinstance(schema, list):
        return sorted((_form(one) for one in schema), key=lambda one: json.dumps(one, sort_keys=True))
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return schema["$ref"].rsplit("/", 1)[1]
    if any("anyOf" in one for one in schema.get("anyOf", ())):
        # one of several, one of which is one of several
        return _form({**schema, "anyOf": [part for one in schema["anyOf"] for part in one.get("anyOf", [one])]})
    return {
        name: _form(value)
        for name, value in schema.items()
        if name not in _WORDS_ONLY
        and not name.startswith(("min", "max"))
        and (name, value) != ("additionalProperties", True)
    }


@pytest.mark.parametrize(
    ("path", "method", "operation"), _operations(), ids=lambda one: one if isinstance(one, str) else ""
)
def test_every_endpoint_has_a_call_with_its_parameters_and_its_answer(
    path: str, method: str, operation: dict[str, Any]
) -> None:
    call = CALLS.get(f"{method} {path}") or CALLS[path]
    assert (call.method, f"/{call.path}".replace("%7B", "{").replace("%7D", "}")) == (method, path)
    assert set(call.query) == {one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"}
    reference = operation["responses"]["200"]["content"]["application/json"]["schema"].get("$ref", "")
    if reference:
        assert call.answer.__name__ == reference.rsplit("/", 1)[1]
    if "requestBody" in operation and path not in {"/recommend", "/rank"}:
        body = SCHEMAS[_form(operation["requestBody"]["content"]["application/json"]["schema"])]
        assert set(call.body or ()) == set(body["properties"])


def test_no_call_is_to_an_endpoint_that_there_is_not() -> None:
    there_are = {path for path, *_ in _operations()}
    assert {name.split()[-1] for name in CALLS} == there_are


@pytest.mark.parametrize("kind", ANSWERS, ids=lambda kind: kind.__name__)
def test_every_answer_has_the_documented_fields_and_types(kind: type[BaseModel]) -> None:
    documented, ours = SCHEMAS[kind.__name__], kind.model_json_schema(mode="serialization")
    assert {name: _form(one) for name, one in ours["properties"].items()} == {
        name: _form(one) for name, one in documented["properties"].items()
    }


def test_every_answer_of_the_document_is_ours() -> None:
    named = {kind.__name__ for kind in ANSWERS}
    assert len(named) > 15
    for name in named:
        for reference in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(SCHEMAS[name])):
            assert reference in named, f"{name} holds {reference}"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (RecommendOptions, "RecommendRequest"),
        (RankOptions, "RankRequest"),
        (HistoryItem, "HistoryItem"),
        (SegmentChoice, "SegmentChoice"),
    ],
)
def test_every_option_of_a_request_has_the_documented_name_and_type(kind: type, name: str) -> None:
    hints = get_type_hints(kind)
    documented = {one: schema for one, schema in SCHEMAS[name]["properties"].items() if one != "item_ids"}  # no option
    assert set(hints) == set(documented)
    for option, hint in hints.items():
        if option == "filter":  # a tree; whoever writes it reads docs/lists.md
            continue
        ours = TypeAdapter(hint).json_schema()
        assert _form(ours) == _form(documented[option]), option


def test_an_event_has_the_documented_fields() -> None:
    documented = SCHEMAS["EventsRequest"]["properties"]["events"]["items"]
    assert set(Event.model_fields) == set(documented["properties"])
    assert documented["properties"]["type"]["default"] == Event(item_id="i").type
    assert set(documented["required"]) <= set(Event(item_id="i").body())


def test_every_refusal_of_the_document_is_an_error_of_its_own_kind() -> None:
    statuses = {int(status) for *_, operation in _operations() for status in operation["responses"]}
    assert {status for status in statuses if status >= 400} - {408} <= set(_BY_STATUS)


def test_the_ways_to_recommend_are_the_documented_ones() -> None:
    documented = SCHEMAS["RecommendAnswer"]["properties"]["mode"]["enum"]
    assert list(get_args(answers.Mode)) == documented


def test_the_package_needs_neither_the_service_nor_torch() -> None:
    script = "import hatstand_client, sys; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert not {"service", "model_store", "offline", "torch", "fastapi", "redis"} & set(done.stdout.split())


def test_every_method_of_the_clients_sends_one_of_the_calls() -> None:
    for kind in (Client, AsyncClient):
        source = inspect.getsource(kind)
        for name, function in vars(calls).items():
            if (
                inspect.isfunction(function)
                and function.__annotations__.get("return")
                and "Call" in str(function.__annotations__["return"])
            ):
                assert f"calls.{name}(" in source, name
