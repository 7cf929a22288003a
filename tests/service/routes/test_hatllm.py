"""Both kinds of models behind one service: modes, reasons, kept states, swaps; real models, index and Redis."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import numpy as np
import pytest

from model_store.artifacts.bundle import Bundle, open_bundle
from model_store.artifacts.store import ModelStore
from model_store.encoding import UserEncoder
from model_store.kinds import make_generator, make_user_encoder
from model_store.people.histories import History
from service.settings import Settings
from tests.shop import (
    HAT_WINDOW,
    NUM_ITEMS,
    add_hatllm,
    add_small_bundle,
    event,
    item_ids,
    running_app,
    shop_items,
    small_hatllm,
)

ALL_ITEMS = [f"i{number}" for number in range(1, NUM_ITEMS + 1)]
HAT = {"model": "hatllm"}


def _user() -> str:
    return f"user-{uuid4().hex}"


def _history(*items: int) -> History:
    return History(np.array(items, dtype=np.int64), np.zeros(len(items), dtype=np.int64))


async def _recommend(client: httpx2.AsyncClient, **body: object) -> httpx2.Response:
    return await client.post("/recommend", json=body)


async def _kept_bytes(client: httpx2.AsyncClient) -> float:
    (line,) = [
        line
        for line in (await client.get("/metrics")).text.splitlines()
        if line.startswith('hatstand_model_state_bytes{kind="hatllm"}')
    ]
    return float(line.split()[1])


def _scores(answer: httpx2.Response) -> dict[str, float]:
    assert answer.status_code == 200, answer.text
    return {item["item_id"]: item["score"] for item in answer.json()["items"]}


@pytest.fixture(scope="module")
def hat_bundle(both_root: Path) -> Bundle:
    store = ModelStore(both_root)
    return open_bundle(store, store.live().bundles["hatllm"])


@pytest.fixture
def fresh(hat_bundle: Bundle) -> UserEncoder:
    """An encoder that has kept nothing."""
    return make_user_encoder(hat_bundle)


def _expected(bundle: Bundle, encoder: UserEncoder, items: list[int]) -> dict[str, float]:
    """Score of every unseen item, by an exact search with what an encoder without memory says."""
    user = encoder.encode([_history(*items)])[0]
    unit = bundle.embeddings / np.linalg.norm(bundle.embeddings, axis=1, keepdims=True)
    return {f"i{at}": float(score) for at, score in enumerate(unit @ user, start=1) if at not in items}


def _assert_same(answer: httpx2.Response, expected: dict[str, float]) -> None:
    got = _scores(answer)
    assert got.keys() == expected.keys()
    np.testing.assert_allclose([got[item] for item in expected], list(expected.values()), atol=1e-4)
    assert list(got.values()) == sorted(got.values(), reverse=True)


async def test_the_model_of_a_request_picks_the_kind(both_client: httpx2.AsyncClient) -> None:
    answers = [await _recommend(both_client, history=["i1", "i2"], **more) for more in ({}, {"model": "hllm"}, HAT)]
    kinds = [(answer.json()["model"]["kind"], answer.json()["mode"]) for answer in answers]
    assert kinds == [("hllm", "retrieve"), ("hllm", "retrieve"), ("hatllm", "retrieve")]
    assert item_ids(answers[0]) == item_ids(answers[1]) != item_ids(answers[2])
    similar = await both_client.get("/items/i7/similar", params=HAT)
    assert similar.json()["bundle"] == answers[2].json()["bundle"]


async def test_after_every_event_the_answer_is_that_of_an_encoder_without_memory(
    both_client: httpx2.AsyncClient, hat_bundle: Bundle, fresh: UserEncoder
) -> None:
    user = _user()
    items = [1 + 7 * number % NUM_ITEMS for number in range(2 * HAT_WINDOW + 3)]
    for at, item in enumerate(items):
        await both_client.post("/events", json={"events": [event(user, f"i{item}", at)]})
        answer = await _recommend(both_client, user_id=user, k=NUM_ITEMS, **HAT)
        assert answer.json()["history_length"] == fresh.window(at + 1) <= HAT_WINDOW
        _assert_same(answer, _expected(hat_bundle, fresh, items[: at + 1]))
    assert await _kept_bytes(both_client) > 0
    # a late event, and one whose item nobody knows
    await both_client.post("/events", json={"events": [event(user, "i60", len(items) - 3), event(user, "i0", 9)]})
    late = [*items[:-2], 60, *items[-2:]]
    answer = await _recommend(both_client, user_id=user, k=NUM_ITEMS, **HAT)
    _assert_same(answer, _expected(hat_bundle, fresh, late))


async def test_an_erased_user_leaves_no_state(both_client: httpx2.AsyncClient) -> None:
    user, neighbour = _user(), _user()
    before = await _kept_bytes(both_client)
    for one in (user, neighbour):
        await both_client.post("/events", json={"events": [event(one, "i1", 1), event(one, "i2", 2)]})
        await _recommend(both_client, user_id=one, **HAT)
    both = await _kept_bytes(both_client)
    receipt = (await both_client.delete(f"/users/{user}")).json()
    assert {store["store"]: store["records"] for store in receipt["stores"]}["model_state"] == 1
    assert before < await _kept_bytes(both_client) < both
    again = (await both_client.delete(f"/users/{user}")).json()
    assert {store["records"] for store in again["stores"]} == {0}
    assert (await _recommend(both_client, user_id=user, **HAT)).json()["source"] == "fallback:popular"


async def test_of_a_history_in_the_request_nothing_is_kept(both_client: httpx2.AsyncClient) -> None:
    user = _user()
    await both_client.post("/events", json={"events": [event(user, "i1", 1)]})
    before = await _kept_bytes(both_client)
    await _recommend(both_client, user_id=user, history=["i1", "i2", "i3"], explain=True, **HAT)
    await _recommend(both_client, user_id=user, history=["i1", "i2", "i3"], mode="generate", **HAT)
    assert await _kept_bytes(both_client) == before


async def test_a_cache_of_no_size_keeps_nothing_and_changes_no_answer(both_settings: Settings) -> None:
    user = _user()
    answers = []
    for size in (256, 0):
        async with running_app(both_settings.model_copy(update={"state_cache_mb": size})) as (_, client):
            await client.post("/events", json={"events": [event(user, "i1", 1), event(user, "i2", 2)]})
            await _recommend(client, user_id=user, **HAT)
            answers.append(_scores(await _recommend(client, user_id=user, **HAT)))
            assert (await _kept_bytes(client) > 0) == (size > 0)
    assert answers[0] == pytest.approx(answers[1], abs=1e-4)


# ---- reasons ----


async def test_a_hatllm_explains_by_its_attention(both_client: httpx2.AsyncClient, fresh: UserEncoder) -> None:
    items = [5, 9, 5, 30, 9, 9, 2, 41, 7, 12, 5]
    answer = await _recommend(both_client, history=[f"i{item}" for item in items], k=3, explain=True, **HAT)
    window = fresh.window(len(items))
    assert answer.json()["history_length"] == window < len(items)
    expected: dict[str, float] = {}
    for item, weight in zip(items[-window:], fresh.explain(_history(*items)), strict=True):
        expected[f"i{item}"] = expected.get(f"i{item}", 0.0) + float(weight)
    for recommended in answer.json()["items"]:
        weights = {reason["item_id"]: reason["weight"] for reason in recommended["reasons"]}
        assert weights == pytest.approx(expected, abs=1e-4)
        assert sum(weights.values()) == pytest.approx(1.0, abs=1e-9)
        assert list(weights.values()) == sorted(weights.values(), reverse=True)


async def test_an_hllm_explains_each_item_by_its_likeness(both_client: httpx2.AsyncClient) -> None:
    answer = await _recommend(both_client, history=["i5", "i9", "i5", "i30"], k=5, explain=True)
    all_weights = [
        {reason["item_id"]: reason["weight"] for reason in item["reasons"]} for item in answer.json()["items"]
    ]
    for weights in all_weights:
        assert weights.keys() == {"i5", "i9", "i30"}
        assert sum(weights.values()) == pytest.approx(1.0, abs=1e-9)
    assert len({round(weights["i9"], 6) for weights in all_weights}) > 1


@pytest.mark.parametrize("more", [{}, HAT, {**HAT, "mode": "generate"}])
async def test_histories_of_no_item_one_item_and_very_many(
    both_client: httpx2.AsyncClient, more: dict[str, object]
) -> None:
    nothing = (await _recommend(both_client, history=[], k=2, explain=True, **more)).json()
    assert (nothing["source"], nothing["history_length"]) == ("fallback:popular", 0)
    assert [item["reasons"] for item in nothing["items"]] == [[], []]
    one = (await _recommend(both_client, history=["i7"], k=2, explain=True, **more)).json()
    assert (one["source"], one["history_length"]) == ("model", 1)
    assert [item["reasons"] for item in one["items"]] == [[{"item_id": "i7", "weight": 1.0}]] * 2
    many = await _recommend(both_client, history=["i1", "i2"] * 5_000, k=NUM_ITEMS, explain=True, **more)
    assert set(item_ids(many)) == set(ALL_ITEMS) - {"i1", "i2"}
    assert 1 < many.json()["history_length"] <= HAT_WINDOW
    refused = await _recommend(both_client, history=["i1"] * 10_001, **more)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    assert "10000" in refused.json()["detail"]


# ---- generating ----


async def test_generated_items_are_those_of_the_generator_with_their_log_probabilities(
    both_client: httpx2.AsyncClient, hat_bundle: Bundle, fresh: UserEncoder
) -> None:
    generator = make_generator(hat_bundle, fresh)
    assert generator is not None
    allowed = np.ones(NUM_ITEMS, dtype=bool)
    allowed[[2, 8, 4, 16]] = False
    items, scores = generator.recommend(_history(3, 9), 10, allowed)
    answer = await _recommend(
        both_client, history=["i3", "i9"], exclude_item_ids=["i5", "i17"], k=10, mode="generate", **HAT
    )
    body = answer.json()
    assert (body["mode"], body["source"], body["history_length"], body["warnings"]) == ("generate", "model", 2, [])
    assert item_ids(answer) == [f"i{item}" for item in items]
    np.testing.assert_allclose(list(_scores(answer).values()), scores, atol=1e-4)
    assert all(score < 0 for score in _scores(answer).values())
    assert body["timing_ms"]["encode"] > 0


@pytest.mark.parametrize("is_stored", [False, True])
async def test_generated_items_obey_every_constraint_and_are_as_many_as_there_are(
    both_client: httpx2.AsyncClient, is_stored: bool
) -> None:
    user = _user()
    await both_client.post("/events", json={"events": [event(user, "i3", 1), event(user, "i8", 2)]})
    who: dict[str, object] = {"user_id": user} if is_stored else {"history": ["i3", "i8"]}
    for condition, admissible in (
        ({}, {*ALL_ITEMS}),
        ({"category": {"any_of": ["Audio"]}}, {f"i{number}" for number in range(3, NUM_ITEMS + 1, 3)}),
        ({"stock": {"lte": 9}}, {f"i{number}" for number in range(1, 10)}),
        ({"stock": {"gte": 100}}, set()),
    ):
        answer = await _recommend(
            both_client, filter=condition, exclude_item_ids=["i6"], k=500, mode="generate", **who, **HAT
        )
        assert set(item_ids(answer)) == admissible - {"i3", "i8", "i6"}
        assert len(item_ids(answer)) == len(set(item_ids(answer)))
        few = await _recommend(both_client, filter=condition, k=4, exclude_seen=False, mode="generate", **who, **HAT)
        assert len(item_ids(few)) == min(4, len(admissible))
        assert set(item_ids(few)) <= admissible


async def test_what_is_not_generated_is_retrieved_and_said_to_be(
    both_client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = await _recommend(both_client, history=["i3"], k=NUM_ITEMS, mode="generate", **HAT)
    retrieved = _scores(await _recommend(both_client, history=["i3"], k=NUM_ITEMS, **HAT))
    monkeypatch.setattr("service.recommend.model_call._MAX_GENERATED", 5)
    answer = await _recommend(both_client, history=["i3"], k=12, mode="generate", explain=True, **HAT)
    got = _scores(answer)
    assert item_ids(answer)[:5] == item_ids(everything)[:5]
    rest = [item for item in retrieved if item not in item_ids(everything)[:5]]
    assert item_ids(answer)[5:] == rest[:7]
    assert [got[item] for item in rest[:7]] == pytest.approx([retrieved[item] for item in rest[:7]], abs=1e-4)
    assert answer.json()["source"] == "model"
    (warning,) = answer.json()["warnings"]
    assert warning.startswith("retrieval_fill: 7 items")
    assert all(item["reasons"] for item in answer.json()["items"])


async def test_diversity_spreads_generated_items_too(both_client: httpx2.AsyncClient) -> None:
    body = {"history": ["i1", "i2"], "k": 10, "mode": "generate", **HAT}
    plain, spread = (
        item_ids(await _recommend(both_client, **body)),
        await _recommend(both_client, diversity=0.9, **body),
    )
    assert item_ids(spread) != plain
    assert item_ids(spread)[0] == plain[0]
    assert len(set(item_ids(spread))) == 10
    assert all(score < 0 for score in _scores(spread).values())


async def test_a_mode_that_the_model_does_not_have_is_a_mistake(
    both_client: httpx2.AsyncClient, both_settings: Settings, tmp_path: Path
) -> None:
    refused = await _recommend(both_client, history=["i1"], mode="generate")
    assert (refused.status_code, refused.json()["code"]) == (422, "mode_not_available")
    assert "hllm" in refused.json()["detail"]
    store = ModelStore(tmp_path / "store")
    for name, modes in (("retrieve", ("retrieve",)), ("generate", ("generate",))):
        other = {"retrieve": "generate", "generate": "retrieve"}[name]
        store.publish(add_hatllm(store, small_hatllm(modes=modes)).bundle_id)
        changed = both_settings.model_copy(update={"store": str(tmp_path / "store"), "hatllm_mode": other})
        async with running_app(changed) as (_, client):
            refused = await _recommend(client, history=["i1"], mode=other)
            assert (refused.status_code, refused.json()["code"]) == (422, "mode_not_available")
            assert name in refused.json()["detail"]
            # the setting is for models that can
            answer = await _recommend(client, history=["i1"])
            assert (answer.json()["mode"], answer.json()["source"]) == (name, "model")
            assert (await client.get("/version")).json()["models"]["hatllm"]["modes"] == [name]


async def test_the_setting_decides_the_mode_of_those_who_name_none(both_settings: Settings) -> None:
    async with running_app(both_settings.model_copy(update={"hatllm_mode": "generate"})) as (_, client):
        for more, mode in (
            (HAT, "generate"),
            ({**HAT, "mode": "retrieve"}, "retrieve"),
            ({"model": "hllm"}, "retrieve"),
            ({}, "retrieve"),
        ):
            assert (await _recommend(client, history=["i1"], **more)).json()["mode"] == mode
        text = (await client.get("/metrics")).text
    assert 'hatstand_recommendations_total{arm="none",kind="hatllm",mode="generate",source="model"} 1.0' in text
    assert 'hatstand_stage_duration_seconds_count{kind="hatllm",mode="generate",stage="encode"} 1.0' in text


async def test_a_model_that_only_generates_fills_up_with_popular_items(
    both_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.recommend.model_call._MAX_GENERATED", 3)
    store = ModelStore(tmp_path / "store")
    store.publish(add_hatllm(store, small_hatllm(modes=("generate",))).bundle_id)
    async with running_app(both_settings.model_copy(update={"store": str(store.root)})) as (_, client):
        answer = await _recommend(client, history=["i9"], k=6, explain=True)
    body = answer.json()
    assert (body["source"], len(set(item_ids(answer)))) == ("model", 6)
    assert body["warnings"] == ["popular_fill: 3 items are popular ones, not the model's"]
    assert [item["score"] == 0 for item in body["items"]] == [False] * 3 + [True] * 3
    assert [bool(item["reasons"]) for item in body["items"]] == [True] * 3 + [False] * 3


async def test_concurrent_requests_of_all_sorts_get_their_own_answers(both_client: httpx2.AsyncClient) -> None:
    kinds: list[dict[str, Any]] = [{}, HAT, {**HAT, "mode": "generate"}, {**HAT, "explain": True}]
    bodies = [
        {"history": [f"i{1 + number * step % NUM_ITEMS}" for step in range(1, 2 + number % 9)], **kinds[number % 4]}
        for number in range(40)
    ]
    alone = [await _recommend(both_client, **body) for body in bodies]
    together = await asyncio.gather(*(_recommend(both_client, **body) for body in bodies))
    for one, other in zip(alone, together, strict=True):
        assert item_ids(other) == item_ids(one)
        assert _scores(other) == pytest.approx(_scores(one), abs=1e-4)
        for a, b in zip(one.json()["items"], other.json()["items"], strict=True):
            weights = ({reason["item_id"]: reason["weight"] for reason in item["reasons"]} for item in (a, b))
            assert next(weights) == pytest.approx(next(weights), abs=1e-4)


# ---- swaps ----


@pytest.fixture
async def own_client(both_settings: Settings, both_root: Path, tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """Over a copy of the store at ``tmp_path / "store"`` that a test may change."""
    shutil.copytree(both_root, tmp_path / "store")
    async with running_app(both_settings.model_copy(update={"store": str(tmp_path / "store")})) as (_, client):
        yield client


async def test_each_kind_is_swapped_and_rolled_back_by_itself(own_client: httpx2.AsyncClient, tmp_path: Path) -> None:
    user = _user()
    await own_client.post("/events", json={"events": [event(user, "i1", 1), event(user, "i2", 2)]})
    before = (await own_client.get("/version")).json()["models"]
    first = _scores(await _recommend(own_client, user_id=user, **HAT))
    assert await _kept_bytes(own_client) > 0
    store = ModelStore(tmp_path / "store")
    smaller = add_hatllm(store, small_hatllm(seed=1), items=shop_items().slice(0, 30))
    store.publish(smaller.bundle_id)
    assert (await own_client.post("/admin/reload")).json()["changed"] == ["hatllm"]
    # what was kept belonged to the other model
    assert await _kept_bytes(own_client) == 0
    second = await _recommend(own_client, user_id=user, k=500, **HAT)
    assert (second.json()["bundle"], len(item_ids(second))) == (smaller.bundle_id, 28)
    _assert_same(second, _expected(*_fresh(store, smaller.bundle_id), [1, 2]))
    generated = await _recommend(own_client, user_id=user, k=500, mode="generate", **HAT)
    assert (generated.json()["bundle"], len(item_ids(generated))) == (smaller.bundle_id, 28)
    assert (await _recommend(own_client, user_id=user)).json()["bundle"] == before["hllm"]["bundle"]
    answer = await own_client.post("/admin/rollback", json={"model": "hatllm"})
    assert answer.json()["bundles"] == {kind: model["bundle"] for kind, model in before.items()}
    assert _scores(await _recommend(own_client, user_id=user, **HAT)) == pytest.approx(first, abs=1e-4)


def _fresh(store: ModelStore, bundle_id: str) -> tuple[Bundle, UserEncoder]:
    bundle = open_bundle(store, bundle_id)
    return bundle, make_user_encoder(bundle)


async def test_a_swap_under_load_mixes_no_versions_of_either_kind(
    own_client: httpx2.AsyncClient, tmp_path: Path
) -> None:
    store = ModelStore(tmp_path / "store")
    items = shop_items().slice(0, 30)
    hllm = next(model for model in store.models() if model.kind == "hllm")
    small = {
        "hllm": add_small_bundle(store, hllm, items=items, seed=1).bundle_id,
        "hatllm": add_hatllm(store, small_hatllm(seed=1), items=items).bundle_id,
    }
    user = _user()
    await own_client.post("/events", json={"events": [event(user, "i1", 1), event(user, "i2", 2)]})
    is_done = False

    async def ask(**more: object) -> set[tuple[str, str, int, str]]:
        seen = set()
        while not is_done:
            body = (await _recommend(own_client, user_id=user, k=500, **more)).json()
            seen.add((body["model"]["kind"], body["bundle"], len(body["items"]), body["source"]))
        return seen

    askers = [asyncio.create_task(ask(**more)) for more in ({}, HAT, {**HAT, "mode": "generate"})]
    for _ in range(2):
        for bundle_id in small.values():
            store.publish(bundle_id)
        assert (await own_client.post("/admin/reload")).status_code == 200
        for kind in small:
            assert (await own_client.post("/admin/rollback", json={"model": kind})).status_code == 200
    is_done = True
    seen = set.union(*await asyncio.gather(*askers))
    assert {(bundle == small[kind], length) for kind, bundle, length, _ in seen} == {(True, 28), (False, 58)}
    assert {source for *_, source in seen} == {"model"}
