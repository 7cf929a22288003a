"""The OpenAPI document: kept as a file that is current, whole, and true about keys."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service.app import create_app
from service.settings import ApiKey, Settings
from tests.shop import running_app

KEPT = Path(__file__).parents[3] / "docs/openapi.json"


def _document() -> dict[str, Any]:
    return json.loads(json.dumps(create_app(Settings()).openapi()))


def test_the_kept_document_is_current() -> None:
    assert json.loads(KEPT.read_text(encoding="utf-8")) == _document(), "run make openapi"


def test_completing_it_again_changes_nothing() -> None:
    app = create_app(Settings())
    assert json.dumps(app.openapi()) == json.dumps(app.openapi())


def test_every_reference_leads_somewhere() -> None:
    document = _document()
    for reference in _references(document):
        found: Any = document
        for part in reference.removeprefix("#/").split("/"):
            assert part in found, reference
            found = found[part]
    assert "HTTPValidationError" not in json.dumps(document)


def test_every_operation_has_a_name_a_tag_and_words_for_all_that_it_takes() -> None:
    document, names = _document(), set()
    for path, item in document["paths"].items():
        for method, operation in item.items():
            where = f"{method} {path}"
            assert re.fullmatch(r"[a-z]+(_[a-z]+)*", operation["operationId"]), where
            assert operation["operationId"] not in names, where
            names.add(operation["operationId"])
            assert len(operation["tags"]) == 1, where
            assert operation["summary"], where
            assert operation["description"], where
            for parameter in operation.get("parameters", ()):
                assert parameter.get("description"), (where, parameter["name"])
            assert _examples(document, operation) or "requestBody" not in operation, where


def _examples(document: dict[str, Any], operation: dict[str, Any]) -> list[Any]:
    content = operation.get("requestBody", {}).get("content", {})
    text = json.dumps(content)
    for name in re.findall(r"#/components/schemas/(\w+)", text):
        text += json.dumps(document["components"]["schemas"][name].get("examples", []))
    return re.findall(r"\[\{", text)


async def test_the_examples_are_taken(client: httpx2.AsyncClient) -> None:
    schemas = _document()["components"]["schemas"]
    for name, path in (
        ("EventsRequest", "/events"),
        ("RecommendRequest", "/recommend"),
        ("MergeRequest", "/users/u/merge"),
    ):
        assert schemas[name]["examples"]
        for example in schemas[name]["examples"]:
            answer = await client.post(path, json=example)
            assert answer.status_code == 200, answer.text


def test_every_operation_says_how_it_refuses() -> None:
    for path, item in _document()["paths"].items():
        for method, operation in item.items():
            assert operation["summary"]
            assert operation["description"], (method, path)
            refusals = {status for status in operation["responses"] if status.startswith(("4", "5"))}
            if "security" in operation:
                assert {"401", "403", "422", "429", "503"} <= refusals
            for status in refusals - {"503"}:
                assert "application/problem+json" in operation["responses"][status]["content"], (method, path, status)


async def test_what_it_says_of_keys_is_true(settings: Settings) -> None:
    key = ApiKey.model_validate({"name": "a", "sha256": "0" * 64, "scopes": ["admin"]})
    async with running_app(settings.model_copy(update={"api_keys": (key,)})) as (_, client):
        for path, item in _document()["paths"].items():
            for method, operation in item.items():
                answer = await client.request(method, path.replace("{", "").replace("}", ""), json={})
                assert (answer.status_code == 401) == ("security" in operation), (method, path)


@pytest.mark.parametrize("path", ["/openapi.json", "/docs"])
async def test_it_is_served(settings: Settings, path: str) -> None:
    async with running_app(settings) as (_, client):
        answer = await client.get(path)
        assert answer.status_code == 200
        if path.endswith("json"):
            assert answer.json()["components"]["schemas"]["Problem"]


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "$ref":
                yield inner
            else:
                yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)
