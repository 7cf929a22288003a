"""A page that has its own name resolved to this service (DNS rebinding) gets nothing from it."""

from pathlib import Path

import httpx2
import pytest

from model_store.errors import InvalidInput
from service.http.hosts import AllowedHosts
from service.settings import ApiKey, Settings, load_settings
from tests.shop import running_app

KEY = ApiKey(name="shop", sha256="0" * 64, scopes=frozenset({"recommend"}))


@pytest.mark.parametrize(
    ("host", "is_allowed"),
    [
        (b"localhost", True),
        (b"LocalHost.:8000", True),
        (b"a.shop.example:8000", True),
        (b"shop.example", False),
        (b"notshop.example", False),
        (b"localhost.evil.example", False),
        (b"evil.example#localhost", False),
        (b"localhost:80:80", False),
        (b"\xff", False),
        # no name can be bound to an address that is written out: probes and scrapers use them
        (b"127.0.0.1:8000", True),
        (b"10.0.0.7", True),
        (b"[::1]:8000", True),
        (b"[fe80::1", False),
        (b"127.0.0.1.evil.example", False),
        (b"", True),
        (None, True),
    ],
)
def test_names_are_told_apart(host: bytes | None, is_allowed: bool) -> None:
    assert AllowedHosts(("localhost", "*.shop.example")).allows(host) is is_allowed
    assert AllowedHosts(("*",)).allows(host)


@pytest.mark.parametrize("asked", ["GET /version", "GET /metrics", "GET /", "POST /recommend", "GET /users/u"])
async def test_another_name_is_refused_whatever_is_asked(settings: Settings, asked: str) -> None:
    method, path = asked.split()
    async with running_app(settings) as (_, client):
        answer = await client.request(method, path, headers={"host": "evil.example"}, json={"history": ["i1"]})
        assert (answer.status_code, answer.json()["code"]) == (400, "host_not_allowed")
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
        assert 'hatstand_errors_total{code="host_not_allowed"} 1.0' in (await client.get("/metrics")).text
        assert (await client.get("/version", headers={"host": "127.0.0.1:8000"})).status_code == 200


async def test_names_can_be_given(settings: Settings) -> None:
    named = settings.model_copy(update={"allowed_hosts": "shop.example, *.shop.example"})
    async with running_app(named) as (_, client):
        answers = [await _ask(client, host) for host in ("shop.example", "www.shop.example", "localhost")]
    assert answers == [200, 200, 400]


async def _ask(client: httpx2.AsyncClient, host: str) -> int:
    return (await client.get("/livez", headers={"host": host})).status_code


@pytest.mark.parametrize(
    ("changes", "hosts"),
    [
        ({}, ("localhost",)),
        ({"host": "::1"}, ("localhost",)),
        ({"api_keys": (KEY,)}, ("*",)),
        ({"host": "0.0.0.0"}, ("*",)),
        ({"host": "0.0.0.0", "allowed_hosts": "a.example,localhost"}, ("a.example", "localhost")),
        ({"allowed_hosts": "*"}, ("*",)),
    ],
)
def test_without_the_setting_the_address_decides(changes: dict[str, object], hosts: tuple[str, ...]) -> None:
    assert Settings(store=str(Path("store"))).model_copy(update=changes).hosts == hosts


@pytest.mark.parametrize("value", ["https://shop.example", "shop.example:8000", "*shop.example", "a.*.b", "a b"])
def test_what_is_no_name_is_refused_at_start(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HATSTAND_ALLOWED_HOSTS", value)
    with pytest.raises(InvalidInput, match="is no name of a host"):
        load_settings({"HATSTAND_ALLOWED_HOSTS": value})
