"""A wrong field or value is answered in our words: the field, its neighbour, the value, and what was expected."""

import httpx2
import pytest

from tests.words import RAW_WORDS

_POSTS = {
    "/recommend": {"history": ["i1"], "k": 2},
    "/events": {"events": [{"user_id": "u", "item_id": "i1", "timestamp": 1}]},
    "/users/u/merge": {"session_id": "s"},
}
_VALUES = [None, True, -1, 1.5, 10**30, "", "x" * 10_000, "\x00", [], [[]], {}, {"a": {"b": 1}}, [None], ["a", 1]]


@pytest.mark.parametrize("path", _POSTS)
async def test_no_words_of_a_library_come_back(client: httpx2.AsyncClient, path: str) -> None:
    schema = (await client.get("/openapi.json")).json()
    operation = schema["paths"].get(path) or schema["paths"]["/users/{user_id}/merge"]
    body = operation["post"]["requestBody"]["content"]["application/json"]["schema"]
    fields = schema["components"]["schemas"][body["$ref"].rpartition("/")[2]]["properties"]
    for field in [*fields, "surprise"]:
        for value in _VALUES:
            answer = await client.post(path, json={**_POSTS[path], field: value})
            assert answer.status_code < 500, (field, value, answer.text)
            assert not RAW_WORDS.search(answer.text), (field, value, answer.text)


@pytest.mark.parametrize(
    ("path", "body", "pointer", "detail"),
    [
        ("/recommend", {"histroy": ["i1"]}, "/histroy", "unknown field 'histroy'; did you mean 'history'?"),
        (
            "/rank",
            {"history": ["i1"], "item_ids": ["i1"], "item_id": "i1"},
            "/item_id",
            "unknown field 'item_id'; did you mean 'item_ids'?",
        ),
        ("/recommend", {"history": ["i1"], "K": 3}, "/K", "unknown field 'K'; did you mean 'k'?"),
        ("/recommend", {"history": ["i1"], "k": 501}, "/k", "expected at most 500, got 501"),
        ("/recommend", {"history": ["i1"], "k": "3"}, "/k", "expected a whole number, got '3'"),
        (
            "/recommend",
            {"history": [{"item_id": "i1", "typ": "click"}]},
            "/history/0/typ",
            "unknown field 'typ'; did you mean 'type'?",
        ),
        ("/users/u/merge", {}, "/session_id", "this field is required"),
        ("/users/u/merge", [], "", "expected an object"),
    ],
)
async def test_a_wrong_field_is_named_with_what_was_meant(
    client: httpx2.AsyncClient, path: str, body: object, pointer: str, detail: str
) -> None:
    answer = await client.post(path, json=body)
    assert answer.status_code == 422
    first = answer.json()["errors"][0]
    assert first["pointer"] == pointer, answer.text
    assert first["detail"].startswith(detail), answer.text


async def test_a_misspelt_field_of_an_event_is_named(client: httpx2.AsyncClient) -> None:
    events = [
        {"user_id": "u", "item_id": "i1", "timestamp": 1},
        {"user_id": "u", "itemid": "i1", "item_id": "i1", "timestamp": 1},
    ]
    answer = await client.post("/events", json={"events": events})
    assert answer.json()["rejected"][0]["detail"] == "itemid: unknown field 'itemid'; did you mean 'item_id'?"
