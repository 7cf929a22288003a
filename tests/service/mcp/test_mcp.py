"""``/mcp`` of a real process, asked with the SDK's own client."""

import json
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from model_store.errors import InvalidInput
from service.settings import Settings
from tests.clients.conftest import KEYS, SCENARIOS, api_keys
from tests.processes.redis_processes import RedisProcess
from tests.processes.service_process import ServiceProcess, service_process
from tests.shop import running_app

pytest.importorskip("mcp", reason="the extra mcp is not installed")
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

HISTORY = ["i1", "i2", "i3"]


@pytest.fixture(scope="module")
def agent_service(shop_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    directory = tmp_path_factory.mktemp("mcp")
    scenarios = directory / "scenarios.yaml"
    scenarios.write_text(SCENARIOS)
    with (
        RedisProcess(directory / "redis") as redis,
        service_process(
            directory / "service.log",
            store=str(shop_root),
            redis_url=redis.url,
            api_keys=api_keys(),
            scenarios=str(scenarios),
            log_requests="1",
            log_format="json",
            mcp="1",
        ) as service,
    ):
        yield service
        assert "Traceback" not in service.log()
        assert service.stop() == 0


@asynccontextmanager
async def asking(service: ServiceProcess, key: str | None = "operator") -> AsyncIterator[Client]:
    headers = {} if key is None else {"authorization": f"Bearer {KEYS.get(key, key)}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(f"{service.url}/mcp", http_client=http)) as client,
    ):
        yield client


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert json.loads(result.content[0].text) == result.structured_content
    return result.structured_content


async def refusal(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error, result.structured_content
    return result.content[0].text


async def test_the_tools_describe_themselves(agent_service: ServiceProcess) -> None:
    async with asking(agent_service, None) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert set(tools) == {"recommend", "similar_items", "search_items", "explain", "record_event"}
    for name, tool in tools.items():
        assert tool.description
        assert tool.annotations.read_only_hint == (name != "record_event")
        assert "context" not in tool.input_schema["properties"]
        for field, schema in tool.input_schema["properties"].items():
            assert "description" in schema, (name, field)


async def test_an_agent_gets_what_http_answers(agent_service: ServiceProcess) -> None:
    with agent_service.client(headers={"authorization": f"Bearer {KEYS['operator']}"}) as http:
        body = {"history": HISTORY, "k": 4, "filter": {"price": {"lte": 40}}, "diversity": 0.1, "scenario": "home"}
        expected = http.post("/recommend", json=body).json()
        async with asking(agent_service) as client:
            answer = await call(client, "recommend", **body)
            similar = await call(client, "similar_items", item_id="i7", k=3)
            found = await call(client, "search_items", query="Audio thing", limit=2)
        assert answer["items"] == expected["items"]
        assert answer["scenario"] == expected["scenario"]
        assert similar == http.get("/items/i7/similar", params={"k": 3}).json()
        assert found == http.get("/items", params={"query": "Audio thing", "limit": 2}).json()


async def test_an_agent_is_told_why_an_item_is_recommended(agent_service: ServiceProcess) -> None:
    async with asking(agent_service) as client:
        listed = await call(client, "recommend", history=HISTORY, k=2)
        answer = await call(client, "explain", history=HISTORY, item_id=listed["items"][1]["item_id"])
        assert answer["rank"] == 2
        assert answer["score"] == listed["items"][1]["score"]
        assert {reason["item_id"] for reason in answer["reasons"]} == set(HISTORY)
        assert sum(reason["weight"] for reason in answer["reasons"]) == pytest.approx(1)
        assert answer["num_reasons"] == 3
        assert "'i1' is not among" in await refusal(client, "explain", history=HISTORY, item_id="i1")


async def test_an_event_of_an_agent_counts_and_says_where_it_comes_from(agent_service: ServiceProcess) -> None:
    async with asking(agent_service) as client:
        answer = await call(
            client,
            "record_event",
            user_id="agent/s user",
            item_id="i9",
            type="cart",
            event_id="e",
            timestamp=1_700_000_000,
        )
        assert (answer["accepted"], answer["duplicates"]) == (1, 0)
        listed = await call(client, "recommend", user_id="agent/s user", k=60)
        assert "i9" not in {item["item_id"] for item in listed["items"]}
        assert (await call(client, "record_event", user_id="agent/s user", item_id="i9", event_id="e"))[
            "duplicates"
        ] == 1
    with agent_service.client(headers={"x-api-key": KEYS["operator"]}) as http:
        [kept] = http.get("/users/agent%2Fs%20user").json()["history"]
    assert (kept["item_id"], kept["type"], kept["properties"]) == ("i9", "cart", {"origin": "mcp"})


async def test_keys_and_scopes_are_those_of_http(agent_service: ServiceProcess) -> None:
    async with asking(agent_service, None) as client:
        assert "unauthorized: expected" in await refusal(client, "recommend", history=HISTORY)
    async with asking(agent_service, "a wrong key") as client:
        assert "unauthorized: unknown" in await refusal(client, "search_items", query="x")
    async with asking(agent_service, "reader") as client:
        assert await call(client, "recommend", history=HISTORY, k=1)
        assert "scope 'events'" in await refusal(client, "record_event", user_id="u", item_id="i1")


@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        ("recommend", {}, "user_id, session_id or history"),
        ("recommend", {"history": HISTORY, "k": 0}, "greater than or equal to 1"),
        ("recommend", {"history": HISTORY, "k": "many"}, "valid integer"),
        ("recommend", {"history": HISTORY, "filter": {"colour": {"any_of": ["red"]}}}, "colour"),
        ("recommend", {"history": HISTORY, "scenario": "nope"}, "nope"),
        ("recommend", {"history": 7}, "valid list"),
        ("similar_items", {"item_id": "nobody/similar"}, "nobody"),
        ("explain", {"item_id": "i1", "user_id": ""}, "at least 1 character"),
        ("record_event", {"item_id": "i1"}, "missing_field"),
        ("record_event", {"item_id": "i1", "user_id": "u", "session_id": "s"}, "ambiguous_owner"),
        ("record_event", {"item_id": "i1", "user_id": "u", "timestamp": 10**15}, "out_of_range"),
        ("no_such_tool", {}, "no_such_tool"),
    ],
)
async def test_a_mistake_is_told_so_that_an_agent_can_mend_it(
    agent_service: ServiceProcess, tool: str, arguments: dict[str, Any], words: str
) -> None:
    async with asking(agent_service) as client:
        try:
            told = await refusal(client, tool, **arguments)
        except Exception as error:
            told = str(error)
    assert words in told


async def test_requests_of_agents_are_found_in_metrics_and_log(agent_service: ServiceProcess) -> None:
    async with asking(agent_service) as client:
        await call(client, "search_items", query="tagged")
    with agent_service.client() as http:
        metrics = http.get("/metrics").text
    assert re.search(r'hatstand_http_request_duration_seconds_count{[^}]*route="/mcp"', metrics)
    tagged = [json.loads(line) for line in agent_service.log().splitlines() if '"mcp-' in line]
    assert {line["key"] for line in tagged} >= {"operator"}


def test_what_is_no_request_of_the_protocol_is_refused_and_never_a_500(agent_service: ServiceProcess) -> None:
    with agent_service.client(headers={"accept": "application/json, text/event-stream"}) as http:
        assert http.get("/mcp").status_code == 405
        assert http.delete("/mcp").status_code == 405
        json_type = {"content-type": "application/json"}
        for body in (b"", b"{", b"[]", b"null", b'{"jsonrpc": "2.0"}', b'{"jsonrpc": "2.0", "id": 1, "method": "x"}'):
            assert 200 <= http.post("/mcp", content=body, headers=json_type).status_code < 500, body
        large = b'"' + b"x" * 2**21 + b'"'
        assert http.post("/mcp", content=large, headers=json_type).status_code == 413
        foreign = {"origin": "https://elsewhere.example"}
        assert http.post("/mcp", content=b"{}", headers={**json_type, **foreign}).status_code == 403


async def test_rate_limits_are_those_of_http(settings: Settings) -> None:
    limited = settings.model_copy(
        update={"mcp": True, "rate_limit_anonymous_per_minute": 1, "rate_limit_burst": 2, "console": False}
    )
    async with running_app(limited) as (app, _):
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False, client=("127.0.0.77", 7))
        async with (
            httpx2.AsyncClient(transport=transport) as http,
            Client(streamable_http_client("http://localhost/mcp", http_client=http)) as client,
        ):
            assert await call(client, "search_items", query="thing")
            assert await call(client, "search_items", query="thing")
            told = await refusal(client, "search_items", query="thing")
    assert "rate_limited" in told
    assert "try again after" in told


async def test_it_is_off_by_default(settings: Settings) -> None:
    async with running_app(settings) as (app, client):
        assert (await client.post("/mcp", json={})).status_code == 404


async def test_without_the_extra_the_service_says_in_one_line_what_to_install(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith(("service.mcp.", "mcp."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(InvalidInput, match=r"pip install -e '\.\[mcp\]'"):
        async with running_app(settings.model_copy(update={"mcp": True})):
            pass
