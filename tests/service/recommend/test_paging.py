"""Pages: one list, cut without repeats or gaps, whatever happens between two pages."""

import asyncio
import base64
import hashlib
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import orjson
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from model_store.artifacts.store import ModelStore
from model_store.people.owner import Owner
from service.errors import InvalidRequest
from service.recommend.paging import Cursor
from service.settings import ApiKey, Settings
from tests.processes.redis_processes import RedisProcess
from tests.shop import NUM_ITEMS, add_small_bundle, event, item_ids, running_app


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    with RedisProcess(tmp_path_factory.mktemp("pages")) as process:
        yield process


@pytest.fixture
def own_settings(both_settings: Settings, redis: RedisProcess) -> Settings:
    with redis.client() as client:
        client.flushall()
    return both_settings.model_copy(update={"redis_url": redis.url})


@pytest.fixture
async def two(own_settings: Settings) -> AsyncIterator[list[httpx2.AsyncClient]]:
    """Two replicas."""
    async with running_app(own_settings) as (_, one), running_app(own_settings) as (_, other):
        yield [one, other]


def _user() -> str:
    return f"user-{uuid4().hex}"


async def _post(client: httpx2.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await client.post("/recommend", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def _pages(clients: list[httpx2.AsyncClient], sizes: list[int], **body: Any) -> list[dict[str, Any]]:
    """Pages of these sizes, by turns from each replica, until the list ends."""
    pages = [await _post(clients[0], k=sizes[0], paginate=True, **body)]
    who = {name: body[name] for name in ("user_id", "session_id") if name in body}
    for at in range(1, 200):
        if pages[-1]["next_cursor"] is None:
            return pages
        size = sizes[at % len(sizes)]
        pages.append(await _post(clients[at % len(clients)], cursor=pages[-1]["next_cursor"], k=size, **who))
    raise AssertionError("the list does not end")


def _ids(*pages: dict[str, Any]) -> list[str]:
    return [item["item_id"] for page in pages for item in page["items"]]


@pytest.mark.parametrize(
    "body",
    [
        {"history": ["i9", "i4"]},
        {"user_id": "nobody"},
        {"history": ["i9"], "filter": {"category": {"any_of": ["Books", "Audio"]}}, "exclude_item_ids": ["i1"]},
        {"history": ["i9"], "diversity": 0.7},
        {"history": ["i9"], "diversity": 1.0, "max_per": {"category": 7}},
        {"history": ["i9"], "max_per": {"tags": 9}},
        {"history": ["i9"], "model": "hatllm"},
        {"history": ["i9"], "model": "hatllm", "mode": "generate"},
    ],
)
@pytest.mark.parametrize("sizes", [[7], [1, 3, 20], [60]])
async def test_the_pages_of_a_list_are_the_list(
    two: list[httpx2.AsyncClient], body: dict[str, Any], sizes: list[int]
) -> None:
    # of a generated list, how much is generated depends on k; and the pages are of the first one
    whole = await _post(
        two[0], **body, k=sizes[0] if body.get("mode") else 500, **({"paginate": True} if body.get("mode") else {})
    )
    pages = await _pages(two, sizes, **body)
    if body.get("mode"):
        assert _ids(pages[0]) == _ids(whole)
        assert sorted(_ids(*pages)) == sorted(_ids(await _post(two[0], **body, k=500)))
    else:
        assert _ids(*pages) == _ids(whole)
        scores = [item["score"] for page in pages for item in page["items"]]
        assert scores == pytest.approx([item["score"] for item in whole["items"]], abs=1e-6)
    assert [item["rank"] for page in pages for item in page["items"]] == list(range(1, len(_ids(*pages)) + 1))
    for page in pages:
        for name in ("recommendation_id", "source", "bundle", "model", "mode", "history_length", "scenario"):
            assert page[name] == pages[0][name]
    for page, size in zip(pages[:-1], (sizes * 60)[: len(pages) - 1], strict=True):
        assert len(page["items"]) == size


async def test_new_events_change_nothing_but_that_what_was_seen_since_is_left_out(
    two: list[httpx2.AsyncClient],
) -> None:
    user = _user()
    await two[0].post("/events", json={"events": [event(user, "i9", 1), event(user, "i4", 2)]})
    whole = _ids(await _post(two[0], user_id=user, k=500))
    first = await _post(two[0], user_id=user, k=5, paginate=True)
    # one of the first page, and one of those that are to come
    await two[1].post("/events", json={"events": [event(user, whole[2], 3), event(user, whole[7], 4)]})
    second = await _post(two[1], user_id=user, cursor=first["next_cursor"], k=5)
    assert _ids(second) == [*whole[5:7], *whole[8:11]]
    assert [item["rank"] for item in second["items"]] == [6, 7, 8, 9, 10]
    # the same cursor is the same page
    assert _ids(await _post(two[0], user_id=user, cursor=first["next_cursor"], k=5)) == _ids(second)
    third = await _post(two[0], user_id=user, cursor=second["next_cursor"], k=500, exclude_item_ids=[whole[20]])
    assert _ids(third) == [*whole[11:20], *whole[21:]]
    assert third["next_cursor"] is None


async def test_seen_items_stay_where_they_may_and_hidden_ones_go(two: list[httpx2.AsyncClient]) -> None:
    user = _user()
    await two[0].post("/events", json={"events": [event(user, "i9", 1)]})
    first = await _post(two[0], user_id=user, k=3, paginate=True, seen_types=["buy"])
    rest = _ids(await _post(two[0], user_id=user, k=500, seen_types=["buy"]))[3:]
    events = [event(user, rest[0], 2), event(user, rest[1], 3, type="buy")]
    await two[0].post("/events", json={"events": events})
    await two[1].post(f"/admin/items/{rest[3]}/hide")
    second = await _post(two[0], user_id=user, cursor=first["next_cursor"], k=500)
    assert _ids(second) == [rest[0], rest[2], *rest[4:]]


async def test_a_page_says_what_the_first_one_said(two: list[httpx2.AsyncClient]) -> None:
    first = await _post(two[0], history=["i9"], k=3, paginate=True, return_fields=["price"])
    second = await _post(two[1], cursor=first["next_cursor"], k=30)
    assert {name for item in second["items"] for name in item["fields"]} == {"price"}
    titled = await _post(two[1], cursor=first["next_cursor"], k=3, return_fields=["title"])
    assert [list(item["fields"]) for item in titled["items"]] == [["title"]] * 3
    assert second["user_id"] is None
    assert list(second["timing_ms"]) == list(first["timing_ms"])


async def test_a_list_that_is_not_paginated_is_not_kept(two: list[httpx2.AsyncClient], redis: RedisProcess) -> None:
    plain = await _post(two[0], history=["i9"], k=3)
    assert plain["next_cursor"] is None
    ended = await _post(two[0], history=["i9"], k=NUM_ITEMS, paginate=True)
    assert ended["next_cursor"] is None
    with redis.client() as client:
        assert not [key for key in client.keys("*") if b"page" in key]


async def _refusal(client: httpx2.AsyncClient, **body: Any) -> tuple[int, str]:
    answer = await client.post("/recommend", json=body)
    return answer.status_code, answer.json()["code"]


async def test_a_cursor_is_good_for_whoever_it_was_made_for(two: list[httpx2.AsyncClient]) -> None:
    user = _user()
    cursor = (await _post(two[0], user_id=user, k=3, paginate=True))["next_cursor"]
    for other in ({}, {"user_id": "somebody else"}, {"session_id": user}, {"user_id": user, "session_id": "s"}):
        assert await _refusal(two[0], cursor=cursor, **other) == (422, "cursor_mismatch")
    assert (await two[0].post("/recommend", json={"cursor": cursor, "user_id": user})).status_code == 200


async def test_a_cursor_is_good_for_one_key(own_settings: Settings) -> None:
    keys = tuple(
        ApiKey(name=name, sha256=hashlib.sha256(name.encode()).hexdigest(), scopes=frozenset(["recommend"]))
        for name in ("one", "other")
    )
    async with running_app(own_settings.model_copy(update={"api_keys": keys})) as (_, client):
        first = await client.post(
            "/recommend", json={"user_id": "u", "k": 3, "paginate": True}, headers={"x-api-key": "one"}
        )
        body = {"user_id": "u", "cursor": first.json()["next_cursor"]}
        answers = [await client.post("/recommend", json=body, headers={"x-api-key": key}) for key in ("one", "other")]
        assert [answer.status_code for answer in answers] == [200, 422]
        assert answers[1].json()["code"] == "cursor_mismatch"


def _cursor(*parts: Any) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(parts)).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "é",
        "====",
        "\x00",
        "AAAA" * 60,
        _cursor(1),
        _cursor(2, "a" * 32, "b" * 16, 1, 1),
        _cursor(1, "a" * 32, "b" * 16, -1, 1),
        _cursor(1, "a" * 32, "b" * 16, 1.5, 1),
        _cursor(1, "a" * 32, "b" * 16, True, 1),
        _cursor(1, "a" * 32, "b" * 16, 2**40, 1),
        _cursor(1, "a:b", "b" * 16, 1, 1),
        _cursor(1, "a" * 65, "b" * 16, 1, 1),
        _cursor(1, ["a"], "b" * 16, 1, 1),
        base64.urlsafe_b64encode(b"[[[[[[[[").decode(),
    ],
)
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Cursor.parse(cursor)
    assert caught.value.code == "invalid_cursor"


async def test_a_cursor_takes_no_new_wishes(two: list[httpx2.AsyncClient]) -> None:
    first = await _post(two[0], history=["i9"], k=3, paginate=True)
    for more in ({"filter": {}}, {"history": ["i9"]}, {"diversity": 0.5}, {"scenario": "x"}, {"paginate": True}):
        answer = await two[0].post("/recommend", json={"cursor": first["next_cursor"], **more})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
        assert next(iter(more)) in answer.json()["detail"]
    assert (await _refusal(two[0], cursor=first["next_cursor"], return_fields=["colour"])) == (
        422,
        "unknown_attribute",
    )


async def test_a_list_ends_with_its_time(own_settings: Settings) -> None:
    async with running_app(own_settings.model_copy(update={"pages_ttl_seconds": 1})) as (_, client):
        first = await _post(client, user_id="u", k=3, paginate=True)
        body = {"user_id": "u", "cursor": first["next_cursor"]}
        assert (await client.post("/recommend", json=body)).status_code == 200
        await asyncio.sleep(1.2)
        assert await _refusal(client, **body) == (410, "cursor_expired")


async def test_the_newest_lists_of_a_user_are_kept_and_all_are_erased(
    two: list[httpx2.AsyncClient], redis: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.redis.lists._MAX_LISTS", 3)
    user = _user()
    cursors = [(await _post(two[0], user_id=user, k=3, paginate=True))["next_cursor"] for _ in range(5)]
    outcomes = [await two[1].post("/recommend", json={"user_id": user, "cursor": cursor}) for cursor in cursors]
    assert [answer.status_code for answer in outcomes] == [410, 410, 200, 200, 200]
    receipt = (await two[1].delete(f"/users/{user}")).json()
    assert {"store": "redis:pages", "records": 3} in receipt["stores"]
    assert await _refusal(two[0], user_id=user, cursor=cursors[4]) == (410, "cursor_expired")
    with redis.client() as client:
        assert not [key for key in client.keys("*") if b"page" in key]


async def test_who_is_erased_while_their_list_is_made_leaves_none(
    own_settings: Settings, redis: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_app(own_settings) as (app, client):
        user, service = _user(), app.state.service
        keep = type(service.pages).keep

        async def erase_and_keep(*arguments: Any) -> Any:
            await service.people.erase(Owner(user))
            return await keep(*arguments)

        monkeypatch.setattr(type(service.pages), "keep", erase_and_keep)
        assert (await _post(client, user_id=user, k=3, paginate=True))["next_cursor"] is None
    with redis.client() as client:
        assert not [key for key in client.keys("*") if b"page" in key]


async def test_a_list_is_not_continued_with_another_bundle(own_settings: Settings, tmp_path: Path) -> None:
    shutil.copytree(own_settings.store, tmp_path / "store")
    changed = own_settings.model_copy(update={"store": str(tmp_path / "store")})
    async with running_app(changed) as (_, client):
        first = await _post(client, user_id="u", k=3, paginate=True)
        store = ModelStore(changed.store)
        model = next(model for model in store.models() if model.kind == "hllm")
        store.publish(add_small_bundle(store, model, seed=5).bundle_id)
        assert (await client.post("/admin/reload")).json()["changed"] == ["hllm"]
        assert await _refusal(client, user_id="u", cursor=first["next_cursor"]) == (410, "cursor_expired")


async def test_without_redis_there_is_a_list_but_no_next_page(own_settings: Settings, tmp_path: Path) -> None:
    redis = RedisProcess(tmp_path)
    redis.start()
    changed = own_settings.model_copy(update={"redis_url": redis.url, "redis_timeout_seconds": 0.5})
    async with running_app(changed) as (_, client):
        first = await _post(client, history=["i9"], k=3, paginate=True)
        redis.kill()
        again = await _post(client, history=["i9"], k=3, paginate=True)
        assert (_ids(again), again["next_cursor"]) == (_ids(first), None)
        assert again["warnings"][-1].startswith("pages_unavailable: ")
        assert await _refusal(client, cursor=first["next_cursor"]) == (503, "history_unavailable")


_BETWEEN = st.lists(
    st.tuples(st.sampled_from(["hide", "show", "event", "exclude"]), st.integers(1, NUM_ITEMS)), max_size=3
)


async def _go_through(client: httpx2.AsyncClient, sizes: list[int], between: list[Any], diversity: float) -> None:
    user, hidden, seen = _user(), set(), {"i9"}
    await client.post("/events", json={"events": [event(user, "i9", 1)]})
    whole = _ids(await _post(client, user_id=user, k=500, diversity=diversity))
    page = await _post(client, user_id=user, k=sizes[0], paginate=True, diversity=diversity)
    shown, position = _ids(page), sizes[0]
    for at in range(1, 100):
        if page["next_cursor"] is None:
            break
        excluded = set()
        for what, number in between[at % len(between)]:
            item = f"i{number}"
            if what == "event":
                await client.post("/events", json={"events": [event(user, item, 10 + at)]})
                seen.add(item)
            elif what == "exclude":
                excluded.add(item)
            else:
                await client.post(f"/admin/items/{item}/{what}")
                (hidden.add if what == "hide" else hidden.discard)(item)
        k, out = sizes[at % len(sizes)], hidden | seen | excluded
        body = {"user_id": user, "cursor": page["next_cursor"], "k": k, "exclude_item_ids": sorted(excluded)}
        page = await _post(client, **body)
        left = [item for item in whole[position:] if item not in out]
        assert _ids(page) == left[:k]
        assert (page["next_cursor"] is None) is (len(left) <= k)
        shown += left[:k]
        # the next page begins with the first item that could have been on this one
        position = whole.index(left[k]) if len(left) > k else len(whole)
    assert len(set(shown)) == len(shown)
    for item in hidden:
        await client.post(f"/admin/items/{item}/show")


def test_no_page_repeats_or_skips_an_item_or_shows_one_that_may_not_be_shown(own_settings: Settings) -> None:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        _, client = runner.run(stack.enter_async_context(running_app(own_settings)))

        @hypothesis_settings(max_examples=30, deadline=None)
        @given(
            sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
            between=st.lists(_BETWEEN, min_size=1, max_size=12),
            diversity=st.sampled_from([0.0, 0.5]),
        )
        def check(sizes: list[int], between: list[Any], diversity: float) -> None:
            runner.run(_go_through(client, sizes, between, diversity))

        check()
        runner.run(stack.aclose())


async def test_a_paginated_answer_is_that_of_the_plain_one(two: list[httpx2.AsyncClient]) -> None:
    for more in ({}, {"diversity": 0.5}, {"max_per": {"category": 2}}, {"model": "hatllm"}):
        plain = await two[0].post("/recommend", json={"history": ["i9", "i2"], "k": 5, **more})
        paged = await two[1].post("/recommend", json={"history": ["i9", "i2"], "k": 5, "paginate": True, **more})
        assert item_ids(plain) == item_ids(paged)
        assert plain.json()["warnings"] == paged.json()["warnings"]
