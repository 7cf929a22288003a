"""Both clients against a real service: every method, and every kind of refusal."""

import asyncio
import inspect
from collections.abc import Iterator

import pytest

import hatstand_client
from hatstand_client import AsyncClient, Client, Event, Retries
from tests.clients.conftest import KEYS
from tests.processes.service_process import ServiceProcess


@pytest.fixture
def client(shop_service: ServiceProcess) -> Iterator[Client]:
    with Client(shop_service.url, api_key=KEYS["operator"]) as client:
        yield client


def test_every_option_of_a_recommendation_reaches_the_service(client: Client) -> None:
    answer = client.recommend(
        history=["i1", {"item_id": "i2", "timestamp": 1_700_000_000, "type": "click"}],
        k=4,
        filter={"price": {"gte": 5}},
        exclude_item_ids=["i7"],
        exclude_seen=True,
        seen_types=["click"],
        seen_max_age_seconds=10**9,
        max_per={"category": 2},
        scenario="home",
        paginate=True,
        diversity=0.2,
        explain=True,
        return_fields=["title", "price", "category"],
        model="hllm",
        mode="retrieve",
        segment={"attribute": "category", "value": "Audio"},
        timeout_ms=5_000,
        user_id=None,
    )
    assert [item.rank for item in answer.items] == [1, 2, 3, 4]
    assert all(item.fields["price"] >= 5 for item in answer.items)
    assert "i7" not in {item.item_id for item in answer.items}
    assert answer.scenario is not None
    assert answer.scenario.name == "home"
    assert answer.items[0].reasons
    assert answer.next_cursor


def test_pages_follow_each_other_without_repeats(client: Client) -> None:
    pages = list(client.recommend_pages(history=["i1"], k=25, exclude_item_ids=["i2"], diversity=0.1))
    listed = [item.item_id for page in pages for item in page.items]
    assert [len(page.items) for page in pages] == [25, 25, 8]
    assert len(set(listed)) == 58
    assert pages[1].items[0].rank == 26


def test_an_event_is_in_the_history_and_can_be_erased(client: Client) -> None:
    events = [Event(user_id="reporter", item_id="i3", properties={"price": 3.5, "nothing": None}), Event(item_id="i4")]
    answer = client.report_events(events)
    assert (answer.accepted, answer.duplicates) == (1, 0)
    assert [(one.index, one.event_id, one.code) for one in answer.rejected] == [
        (1, events[1].event_id, "missing_field")
    ]
    assert client.report_events(events[:1]).duplicates == 1
    [kept] = client.user_history("reporter").history
    assert (kept.event_id, kept.properties) == (events[0].event_id, events[0].properties)
    seen = client.recommend(user_id="reporter", k=60, min_event_token=answer.event_token)
    assert "i3" not in {item.item_id for item in seen.items}
    receipt = client.erase_user("reporter")
    assert {store.store: store.records for store in receipt.stores}["redis:history"] == 1
    assert client.user_history("reporter").history == []


def test_a_session_is_merged_into_a_user(client: Client) -> None:
    client.report_events([Event(session_id="visit", item_id="i5"), Event(session_id="visit", item_id="i6")])
    assert len(client.session_history("visit").history) == 2
    merged = client.merge_session("visit", user_id="signed-in")
    assert (merged.moved, merged.duplicates) == (2, 0)
    assert len(client.user_history("signed-in").history) == 2
    client.report_events([Event(session_id="other", item_id="i5")])
    assert client.erase_session("other").session_id == "other"


def test_items_are_found_shown_and_compared(client: Client) -> None:
    found = client.search_items("thing number 7", limit=3)
    assert "i7" in {item.item_id for item in found.items}
    assert client.get_item("i7").fields["price"] == 7.0
    similar = client.similar_items("i7", k=3)
    assert len(similar.items) == 3
    assert similar.bundle == found.bundle


def test_what_is_served_is_named(client: Client) -> None:
    assert [one.name for one in client.scenarios().scenarios] == ["home"]
    assert client.version().default == "hllm"
    assert client.readiness().is_ready


@pytest.mark.parametrize("user_id", ["a/b", "a b?c#d%2F", "ünï☃", "..", ".", "a/../b", "+&=", "user/merge"])
def test_any_id_reaches_the_service_as_it_is(client: Client, user_id: str) -> None:
    client.report_events([Event(user_id=user_id, item_id="i1")])
    answer = client.user_history(user_id)
    assert answer.user_id == user_id
    assert len(answer.history) == 1


def test_a_refusal_is_an_error_of_its_own_kind_with_code_and_request_id(shop_service: ServiceProcess) -> None:
    with Client(shop_service.url, api_key=KEYS["reader"], new_request_id=lambda: "my-request") as client:
        with pytest.raises(hatstand_client.InvalidRequest) as invalid:
            client.recommend(user_id="u", k=0)
        assert (invalid.value.status, invalid.value.request_id) == (422, "my-request")
        assert invalid.value.errors[0]["pointer"] == "/k"
        with pytest.raises(hatstand_client.NotFound, match="my-request") as missing:
            client.get_item("nobody")
        assert missing.value.code == "unknown_item"
        with pytest.raises(hatstand_client.Forbidden):
            client.erase_user("u")
    with Client(shop_service.url, api_key="wrong") as client, pytest.raises(hatstand_client.Unauthorized):
        client.recommend(user_id="u")


def test_a_service_that_is_not_there_is_a_failed_connection() -> None:
    with (
        Client("http://127.0.0.1:1", retries=Retries(max_attempts=1)) as client,
        pytest.raises(hatstand_client.ConnectionFailed) as failed,
    ):
        client.recommend(user_id="u")
    assert failed.value.request_id in str(failed.value)


async def test_the_async_client_does_the_same(shop_service: ServiceProcess) -> None:
    async with AsyncClient(shop_service.url, api_key=KEYS["operator"]) as client:
        events = await client.report_events([Event(session_id="async/1", item_id="i5")])
        assert events.accepted == 1
        assert len((await client.session_history("async/1")).history) == 1
        assert (await client.merge_session("async/1", user_id="async")).moved == 1
        assert len((await client.user_history("async")).history) == 1
        assert (await client.erase_user("async")).user_id == "async"
        assert (await client.erase_session("async/1")).session_id == "async/1"
        assert len((await client.recommend(history=["i1"], k=3)).items) == 3
        pages = [page async for page in client.recommend_pages(history=["i1"], k=30)]
        assert [len(page.items) for page in pages] == [30, 29]
        assert len((await client.similar_items("i1", k=2)).items) == 2
        assert (await client.get_item("i1")).item_id == "i1"
        assert (await client.search_items("Audio", limit=1)).items
        assert (await client.scenarios()).scenarios
        assert (await client.version()).name == "hatstand"
        assert (await client.readiness()).is_ready
        with pytest.raises(hatstand_client.NotFound):
            await client.get_item("nobody")
        many = await asyncio.gather(*(client.recommend(history=[f"i{number}"]) for number in range(1, 20)))
        assert len({answer.recommendation_id for answer in many}) == 19
    async with AsyncClient("http://127.0.0.1:1", retries=Retries(max_attempts=1)) as client:
        with pytest.raises(hatstand_client.ConnectionFailed):
            await client.version()


def test_both_clients_have_the_same_methods() -> None:
    def signatures(kind: type) -> dict[str, list[str]]:
        return {
            name.removeprefix("a") if name == "aclose" else name: list(inspect.signature(method).parameters)
            for name, method in vars(kind).items()
            if inspect.isfunction(method) and not name.startswith("_")
        }

    assert signatures(Client) == signatures(AsyncClient)
