import asyncio
import itertools

import httpx2
import numpy as np
import pytest

from model_store.artifacts.bundle import open_bundle
from model_store.artifacts.store import ModelStore
from model_store.kinds import make_user_encoder
from model_store.people.histories import History
from service.settings import Settings
from tests.shop import NUM_ITEMS, event, item_ids

HISTORY = [{"item_id": "i3", "timestamp": 100}, {"item_id": "i7", "timestamp": 200}]


async def _rank(client: httpx2.AsyncClient, **body: object) -> httpx2.Response:
    return await client.post("/rank", json=body)


async def test_candidates_come_in_the_order_of_their_cosines_and_nothing_else_does(
    client: httpx2.AsyncClient, settings: Settings
) -> None:
    candidates = ["i9", "i50", "i3", "nowhere", "i20", "i31"]
    answer = await _rank(client, history=HISTORY, item_ids=candidates)
    assert answer.status_code == 200, answer.text

    store = ModelStore(settings.store)
    bundle_id = answer.json()["bundle"]
    bundle = open_bundle(store, bundle_id)
    user = make_user_encoder(bundle).encode([History(np.array([3, 7]), np.array([100, 200]))])[0]
    rows = np.array([9, 50, 3, 20, 31])
    scores = bundle.item_directions(rows) @ user
    order = np.argsort(-scores)
    assert item_ids(answer) == [f"i{rows[at]}" for at in order]
    assert [item["score"] for item in answer.json()["items"]] == pytest.approx(scores[order], abs=1e-6)
    assert answer.json()["unknown_item_ids"] == ["nowhere"]
    assert answer.json()["source"] == "model"


async def test_ranking_the_catalogue_is_recommending_from_it(client: httpx2.AsyncClient) -> None:
    every = [f"i{number}" for number in range(1, NUM_ITEMS + 1)]
    ranked = await _rank(client, history=HISTORY, item_ids=every, exclude_seen=True, filter={"price": {"lt": 40}})
    recommended = await client.post(
        "/recommend", json={"history": HISTORY, "k": NUM_ITEMS, "filter": {"price": {"lt": 40}}}
    )
    assert item_ids(ranked) == item_ids(recommended)
    assert ranked.json()["left_out"] == recommended.json()["left_out"]


async def test_constraints_hold_and_what_they_take_away_is_counted_among_the_candidates(
    client: httpx2.AsyncClient,
) -> None:
    candidates = ["i1", "i3", "i4", "i7", "i30", "i41", "i44"]
    answer = await _rank(
        client, history=HISTORY, item_ids=candidates, exclude_seen=True, filter={"price": {"lte": 41}}, k=3
    )
    assert set(item_ids(answer)) == {"i1", "i4", "i41"}  # i30 has no price
    assert answer.json()["left_out"]["filter"] == 2
    assert answer.json()["left_out"]["seen"] == 2
    capped = await _rank(client, history=HISTORY, item_ids=candidates, max_per={"category": 1})
    assert len(item_ids(capped)) == 3  # 1, 4 and 7 are of one category, 3 and 30 of another, 41 and 44 of the third
    best = await _rank(client, history=HISTORY, item_ids=candidates, k=2)
    whole = await _rank(client, history=HISTORY, item_ids=candidates)
    assert item_ids(best) == item_ids(whole)[:2]


async def test_a_stored_history_is_read_and_a_stranger_gets_popular_candidates(client: httpx2.AsyncClient) -> None:
    user = "ranked-user"
    await client.post("/events", json={"events": [event(user, "i3", 100), event(user, "i7", 200)]})
    candidates = ["i9", "i50", "i20"]
    stored = await _rank(client, user_id=user, item_ids=candidates)
    inline = await _rank(client, history=HISTORY, item_ids=candidates)
    assert item_ids(stored) == item_ids(inline)
    again = await _rank(client, user_id=user, item_ids=candidates[:2])
    assert set(item_ids(again)) == {"i9", "i50"}
    stranger = await _rank(client, user_id="nobody-knows", item_ids=candidates)
    assert item_ids(stranger) == ["i9", "i20", "i50"]
    assert stranger.json()["source"] == "fallback:popular"


async def test_order_and_company_of_the_candidates_change_no_score(client: httpx2.AsyncClient) -> None:
    scores = {}
    for candidates in itertools.combinations(["i9", "i50", "i20", "i31"], 2):
        answer = await _rank(client, history=HISTORY, item_ids=list(reversed(candidates)))
        for item in answer.json()["items"]:
            assert scores.setdefault(item["item_id"], item["score"]) == pytest.approx(item["score"], abs=1e-6)


async def test_only_unknown_candidates_are_an_empty_list(client: httpx2.AsyncClient) -> None:
    answer = await _rank(client, history=HISTORY, item_ids=["a", "b"])
    assert answer.status_code == 200
    assert (item_ids(answer), answer.json()["unknown_item_ids"]) == ([], ["a", "b"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"item_ids": []}, "item_ids"),
        ({"item_ids": [f"x{number}" for number in range(1001)]}, "1000"),
        ({"item_ids": ["i1", "i2", "i1"]}, "'i1' is there twice, expected each item once"),
        ({"history": None}, "expected user_id, session_id or history"),
        ({"k": 0}, "k"),
        ({"paginate": True}, "paginate"),
        ({"model": "gpt"}, "gpt"),
        ({"filter": {"colour": "red"}}, "colour"),
    ],
)
async def test_a_wrong_request_is_told_what_was_wrong(
    changes: dict[str, object], words: str, client: httpx2.AsyncClient
) -> None:
    answer = await _rank(client, **{"history": HISTORY, "item_ids": ["i1", "i2"], **changes})
    assert 400 <= answer.status_code < 500
    assert words in answer.text


async def test_the_decision_record_names_the_candidates(client: httpx2.AsyncClient) -> None:
    answer = await _rank(client, user_id="recorded", item_ids=["i9", "i50"], history=None)
    for _ in range(200):  # written beside the requests
        found = await client.get(f"/recommendations/{answer.json()['recommendation_id']}")
        if found.status_code == 200:
            break
        await asyncio.sleep(0.05)
    assert found.status_code == 200, found.text
    assert found.json()["request"]["candidate_item_ids"] == ["i9", "i50"]
