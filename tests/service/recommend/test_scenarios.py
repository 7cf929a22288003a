"""Scenarios: what a file may say, what it does to a request, and when it is refused."""

import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from model_store.artifacts.store import ModelStore
from model_store.catalogue.catalogue import Catalogue
from model_store.errors import InvalidInput
from offline.shop.demo_shop import generate_shop
from service.engine.served_bundle import MaskCache
from service.errors import InvalidRequest
from service.recommend.ask import Query
from service.recommend.scenarios import Scenarios
from service.settings import Settings
from tests.shop import (
    NUM_ITEMS,
    add_small_bundle,
    add_small_model,
    event,
    item_ids,
    running_app,
    shop_items,
)

ROOT = Path(__file__).parents[3]

HOME = """
scenarios:
  home:
    description: The first page
    filter:
      stock: {lte: 50}
      not: {category: {any_of: [Garden]}}
    exclude_item_ids: [i1]
    max_per: {category: 4, tags: 7}
    pins:
      - {item_id: i40, position: 2}
      - {item_id: i5, position: 1}    # Garden: the filter is stronger
      - {item_id: nothing, position: 3}
    boosts:
      - {item_ids: [i3, i4], add: 5.0}
      - {filter: {stock: {gte: 40}}, multiply: 0.1}
    seen_types: [buy]
    diversity: 0.2
  hat:
    model: hatllm
    mode: generate
    exclude_seen: false
"""


def _write(folder: Path, text: str) -> Path:
    path = folder / "scenarios.yaml"
    path.write_text(text)
    return path


def _with(settings: Settings, folder: Path, text: str = HOME) -> Settings:
    return settings.model_copy(update={"scenarios": _write(folder, text)})


async def _post(client: httpx2.AsyncClient, **body: Any) -> httpx2.Response:
    return await client.post("/recommend", json=body)


async def test_a_scenario_rules_the_list_and_is_named_with_its_version(settings: Settings, tmp_path: Path) -> None:
    async with running_app(_with(settings, tmp_path)) as (_, client):
        answer = await _post(client, history=["i9"], k=8, scenario="home")
        found = item_ids(answer)
        numbers = [int(item[1:]) for item in found]
        assert all(number <= 50 and number % 3 != 2 and number != 1 for number in numbers)
        assert found[1] == "i40"
        assert {found[0], found[2]} == {"i3", "i4"}
        scenario = answer.json()["scenario"]
        assert scenario["name"] == "home"
        listed = (await client.get("/scenarios")).json()["scenarios"]
        assert listed[0] == {**scenario, "description": "The first page"}
        assert [one["name"] for one in listed] == ["home", "hat"]
        # at most 4 of a category are admissible under the caps, and there are 2 categories
        longest = await _post(client, history=["i9"], k=60, scenario="home")
        assert len(item_ids(longest)) == 8
        assert [one.partition(":")[0] for one in longest.json()["warnings"]] == ["max_per_short"]
        assert "hatstand_recommend_duration_seconds_count" in (await client.get("/metrics")).text


@pytest.mark.parametrize("who", [{"history": ["i9"]}, {"user_id": "nobody"}])
async def test_pages_of_a_scenario_follow_its_rules(settings: Settings, tmp_path: Path, who: dict[str, Any]) -> None:
    async with running_app(_with(settings, tmp_path)) as (_, client):
        first = (await _post(client, k=3, scenario="home", paginate=True, **who)).json()
        cursor = {"cursor": first["next_cursor"], "k": 30, **{k: v for k, v in who.items() if k == "user_id"}}
        second = (await _post(client, **cursor)).json()
        whole = item_ids(await _post(client, k=60, scenario="home", **who))
        assert [item["item_id"] for page in (first, second) for item in page["items"]] == whole
        assert second["scenario"] == first["scenario"]
        assert whole[1] == "i40"


async def test_a_request_may_narrow_a_scenario_and_change_its_preferences(settings: Settings, tmp_path: Path) -> None:
    async with running_app(_with(settings, tmp_path)) as (_, client):
        body = {"history": ["i9"], "k": 60, "scenario": "home"}
        narrowed = await _post(client, **body, filter={"stock": {"gte": 30}}, max_per={"category": 9, "is_new": 3})
        found = item_ids(narrowed)
        assert len(found) == 3
        assert all(30 <= int(item[1:]) <= 50 for item in found)
        plain, spread = [item_ids(await _post(client, **body, diversity=diversity)) for diversity in (0.0, 0.9)]
        assert item_ids(await _post(client, **body)) == item_ids(await _post(client, **body, diversity=0.2))
        assert plain != spread
        user = "user-of-scenarios"
        events = [event(user, "i3", 1), event(user, "i4", 2, type="buy")]
        await client.post("/events", json={"events": events})
        body = {"user_id": user, "k": 60, "scenario": "home"}
        assert {"i3", "i4"} & set(item_ids(await _post(client, **body))) == {"i3"}
        assert {"i3", "i4"} & set(item_ids(await _post(client, **body, seen_types=[]))) == set()
        assert {"i3", "i4"} & set(item_ids(await _post(client, **body, exclude_seen=False))) == {"i3", "i4"}


async def test_a_scenario_names_the_model_and_the_mode_unless_the_request_does(
    both_settings: Settings, tmp_path: Path
) -> None:
    async with running_app(_with(both_settings, tmp_path)) as (_, client):
        for more, kind, mode in (
            ({}, "hatllm", "generate"),
            ({"mode": "retrieve"}, "hatllm", "retrieve"),
            ({"model": "hllm", "mode": "retrieve"}, "hllm", "retrieve"),
        ):
            answer = await _post(client, history=["i9"], k=NUM_ITEMS, scenario="hat", **more)
            assert len(item_ids(answer)) == NUM_ITEMS  # what was seen, too
            assert (answer.json()["model"]["kind"], answer.json()["mode"]) == (kind, mode)


async def test_an_answer_says_what_a_scenario_did(settings: Settings, tmp_path: Path) -> None:
    text = """
scenarios:
  home:
    filter: {stock: {lte: 50}}
    exclude_item_ids: [i1]
    max_per: {category: 4}
    pins: [{item_id: i40, position: 2}]
    boosts: [{item_ids: [i3, i40], multiply: 1.5}]
"""
    async with running_app(_with(settings, tmp_path, text)) as (_, client):
        body = {"history": ["i9", "i12"], "k": 6, "scenario": "home"}
        first = (await _post(client, **body, paginate=True)).json()
        later = (await _post(client, cursor=first["next_cursor"], k=6)).json()
        marks = {item["item_id"]: (item["pinned"], item["boosted"]) for item in first["items"] + later["items"]}
        assert {item_id: marks.pop(item_id) for item_id in ("i40", "i3")} == {"i40": (True, False), "i3": (False, True)}
        assert set(marks.values()) == {(False, False)}
        # 10 of 60 have a larger stock; i1 is excluded; two were seen
        left_out = {name: first["left_out"][name] for name in ("filter", "excluded", "seen")}
        assert left_out == {"filter": 10, "excluded": 1, "seen": 2}
        assert first["left_out"]["cap"] >= 0
        assert later["left_out"] == {}
        plain = (await _post(client, history=["i9"], k=60)).json()
        assert not any(item["pinned"] or item["boosted"] for item in plain["items"])
        assert plain["left_out"]["seen"] == 1


async def test_a_hidden_item_is_not_pinned(settings: Settings, tmp_path: Path) -> None:
    async with running_app(_with(settings, tmp_path)) as (_, client):
        await client.post("/admin/items/i40/hide")
        found = item_ids(await _post(client, history=["i9"], k=8, scenario="home"))
        await client.post("/admin/items/i40/show")
        assert "i40" not in found
        assert len(found) == 8


async def test_an_unknown_scenario_is_refused_with_those_that_there_are(settings: Settings, tmp_path: Path) -> None:
    async with running_app(_with(settings, tmp_path)) as (_, client):
        answer = await _post(client, history=["i9"], scenario="hom")
        assert (answer.status_code, answer.json()["code"]) == (422, "unknown_scenario")
        assert "['hat', 'home']" in answer.json()["detail"]


def test_the_version_is_another_one_after_every_change_and_no_other(tmp_path: Path) -> None:
    def version(text: str) -> str:
        return Scenarios.load(_write(tmp_path, text)).get("home").ref.version

    before = version(HOME)
    assert version(HOME.replace("position: 2}", "position: 2}  # a comment")) == before
    assert version(HOME.replace("hat:", "hats:")) == before
    for changed in ("stock: {lte: 51}", "stock: {lte: 50.5}", "stock: {gte: 50}"):
        assert version(HOME.replace("stock: {lte: 50}", changed)) != before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the file: expected an object"),
        ("scenarios: []", "scenarios: expected an object"),
        ("scenarios: {}", "scenarios: expected at least 1 entries"),
        ("scenarios: {home: {filters: {}}}", "scenarios.home.filters: unknown field 'filters'; did you mean 'filter'"),
        ("scenarios: {a b: {}}", "scenarios.a b: expected text of the form"),
        ("scenarios: {home: {filter: {price: {lte: [1]}}}}", "scenarios.home.filter.price.lte: expected a number"),
        ("scenarios: {home: {filter: {or: []}}}", "scenarios.home.filter.or: expected at least 1 entries"),
        ("scenarios: {home: {max_per: {brand: 0}}}", "scenarios.home.max_per.brand: expected at least 1"),
        ("scenarios: {home: {diversity: '1'}}", "scenarios.home.diversity: expected a number"),
        ("scenarios: {home: {exclude_seen: 1}}", "scenarios.home.exclude_seen: expected true or false"),
        ("scenarios: {home: {model: gpt}}", "scenarios.home.model: expected 'hllm', 'hatllm' or 'blend'"),
        ("scenarios: {home: {boosts: [{multiply: 2}]}}", "boosts.0: expected either item_ids or filter"),
        ("scenarios: {home: {boosts: [{item_ids: [a]}]}}", "boosts.0: expected multiply or add"),
        ("scenarios: {home: {boosts: [{item_ids: [a], multiply: 0}]}}", "boosts.0.multiply: expected more than 0"),
        (
            "scenarios: {home: {pins: [{item_id: a, position: 1}, {item_id: b, position: 1}]}}",
            "scenarios.home: position 1 is pinned twice",
        ),
        (
            "scenarios: {home: {pins: [{item_id: a, position: 1}, {item_id: a, position: 2}]}}",
            "scenarios.home: item_id 'a' is pinned twice",
        ),
        ("scenarios: {home: {}, home: {}}", "'home' occurs twice"),
        ("scenarios: {home: {filter: {price: {gte: 1}, price: {lte: 2}}}}", "'price' occurs twice"),
        ("scenarios: [", "while parsing a flow node"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("x" * 2_000_000, "2000000 bytes, expected at most"),
    ],
)
def test_a_file_that_says_something_else_is_refused_with_file_and_key(tmp_path: Path, text: str, says: str) -> None:
    path = _write(tmp_path, text)
    with pytest.raises(InvalidInput) as caught:
        Scenarios.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="No such file"):
        Scenarios.load(tmp_path / "nothing.yaml")


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ("filter: {colour: {exists: true}}", "scenarios.home.filter/colour: unknown attribute 'colour'"),
        ("filter: {or: [{price: {any_of: [cheap]}}]}", "scenarios.home.filter/or/0/price/any_of/0: attribute 'price'"),
        ("max_per: {colour: 1}", "scenarios.home.max_per: unknown attribute 'colour'"),
        (
            "boosts: [{filter: {stock: {gte: a}}, add: 1.0}]",
            "scenarios.home.boosts.0.filter/stock/gte: attribute 'stock' is int64",
        ),
        ("{model: hllm, mode: generate}", "scenarios.home.mode: model"),
    ],
)
async def test_what_no_live_bundle_can_do_refuses_the_start(
    settings: Settings, tmp_path: Path, rules: str, says: str
) -> None:
    rules = rules if rules.startswith("{") else f"{{{rules}}}"
    changed = _with(settings, tmp_path, f"scenarios: {{home: {rules}}}")
    with pytest.raises(InvalidInput) as caught:
        async with running_app(changed):
            pass
    assert str(caught.value).startswith(f"{changed.scenarios}: {says}")


async def test_a_bundle_that_a_scenario_does_not_fit_goes_live_with_a_warning(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = "scenarios: {cheap: {filter: {price: {lte: 10}}, boosts: [{filter: {stock: {gte: 5}}, add: 1.0}]}, any: {}}"
    store = ModelStore(tmp_path / "store")
    model = add_small_model(store)
    store.publish(add_small_bundle(store, model).bundle_id)
    changed = _with(settings, tmp_path, text).model_copy(update={"store": str(store.root)})
    async with running_app(changed) as (_, client):
        assert len(item_ids(await _post(client, history=["i20"], k=60, scenario="cheap"))) == 9
        store.publish(add_small_bundle(store, model, items=shop_items().drop_columns(["price"])).bundle_id)
        caplog.clear()
        assert (await client.post("/admin/reload")).json()["changed"] == ["hllm"]
        assert "scenarios.cheap.filter/price: unknown attribute 'price'" in caplog.text
        refused = await _post(client, history=["i20"], scenario="cheap")
        assert (refused.status_code, refused.json()["code"]) == (422, "unknown_attribute")
        assert "scenarios.cheap.filter/price" in refused.json()["detail"]
        assert (await _post(client, history=["i20"], scenario="any")).status_code == 200


async def test_the_settings_say_what_counts_as_seen(settings: Settings) -> None:
    changed = settings.model_copy(update={"seen_types": ("buy",), "seen_max_age_seconds": 1_000})
    async with running_app(changed) as (_, client):
        now, user = int(time.time()), "user-of-seen"
        events = [
            event(user, "i1", now),
            event(user, "i2", now, type="buy"),
            event(user, "i3", now - 2_000, type="buy"),
            event(user, "i4", now - 2_000),
        ]
        await client.post("/events", json={"events": events})

        async def seen(**more: Any) -> set[str]:
            found = item_ids(await _post(client, user_id=user, k=500, **more))
            return {"i1", "i2", "i3", "i4"} - set(found)

        assert await seen() == {"i2"}
        assert await seen(seen_types=[]) == {"i1", "i2"}
        assert await seen(seen_max_age_seconds=10**9) == {"i2", "i3"}
        assert await seen(seen_types=["click", "buy"], seen_max_age_seconds=10**9) == {"i1", "i2", "i3", "i4"}
        assert await seen(exclude_seen=False) == set()
        # who does not say what happened, or when, may have seen it
        inline = ["i1", {"item_id": "i2", "type": "click"}, {"item_id": "i3", "timestamp": 5}]
        found = item_ids(await _post(client, history=inline, k=500))
        assert {"i1", "i2", "i3"} - set(found) == {"i1"}


def test_the_example_fits_the_demo_shop(tmp_path: Path) -> None:
    generate_shop(tmp_path / "shop", num_items=200, num_users=20, seed=0)
    catalogue = Catalogue.from_parquet(tmp_path / "shop/items.parquet")
    served: Any = type("Served", (), {"catalogue": catalogue, "masks": MaskCache(), "bundle_id": "b", "kind": "hllm"})
    scenarios = Scenarios.load(ROOT / "deploy/scenarios.example.yaml")
    assert scenarios.problems(served) == []
    assert scenarios.unknown_items(served) == []
    assert len(scenarios) == 2


def test_a_scenario_without_rules_changes_nothing_but_its_name(tmp_path: Path) -> None:
    query = Query(user_id="u", k=3, timeout_seconds=1.0, diversity=0.7, max_per={"brand": 3}, asked_at=1.0)
    scenario = Scenarios.load(_write(tmp_path, "scenarios: {plain: {}}")).get("plain")
    applied = scenario.apply(query, {"diversity"})
    assert applied.scenario == scenario.ref
    assert applied == type(query)(
        **{**query.__dict__, "scenario": scenario.ref, "pins": (), "boosts": (), "exclude_item_ids": []}
    )
    with pytest.raises(InvalidRequest, match="none: HATSTAND_SCENARIOS"):
        Scenarios().get("plain")
