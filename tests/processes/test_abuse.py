"""The abuse list of docs/security.md: what hostile or broken callers get, from a real process over real sockets."""

import hashlib
import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service.redis.embedded import EmbeddedRedis
from tests.processes.service_process import ServiceProcess, exchange, receive, service_process, status_of

KEY = "a-key-that-nobody-guesses"
SECRET_USER = "user-jane-doe-4711"
MAX_BODY = 65_536


@pytest.fixture(scope="module")
def service(
    shop_root: Path, redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    key = {
        "name": "shop",
        "sha256": hashlib.sha256(KEY.encode()).hexdigest(),
        "scopes": ["recommend", "events", "admin"],
    }
    with service_process(
        tmp_path_factory.mktemp("abuse") / "service.log",
        store=str(shop_root),
        redis_url=redis_server.url,
        api_keys=json.dumps([key]),
        max_body_bytes=str(MAX_BODY),
        header_timeout_seconds="0.5",
        body_timeout_seconds="0.5",
        auth_failures_per_minute="10",
        log_level="DEBUG",
        log_format="json",
        log_requests="1",
    ) as service:
        yield service
        log = service.log()
        assert service.stop() == 0
        # after everything below: no crash, and nothing that must not be in a log
        assert "Traceback" not in log
        assert "internal_error" not in log
        announced = r'"message":"(serving on|the console|try it|Uvicorn running)[^"]*"'
        for secret in (KEY, SECRET_USER, hashlib.sha256(KEY.encode()).hexdigest(), "Bearer", "127.0.0.1:"):
            assert secret not in re.sub(announced, "", log), secret


def _head(path: str = "/recommend", *lines: str, method: str = "POST") -> bytes:
    standard = (f"{method} {path} HTTP/1.1", "host: shop", f"x-api-key: {KEY}", "content-type: application/json")
    return "\r\n".join([*standard, *lines, "", ""]).encode("latin-1")


def _post(body: bytes, path: str = "/recommend") -> bytes:
    return _head(path, f"content-length: {len(body)}", "connection: close") + body


def _chunked(*chunks: bytes) -> bytes:
    framed = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return _head("/recommend", "transfer-encoding: chunked", "connection: close") + framed


GOOD = json.dumps({"history": ["i1"], "k": 1}).encode()
FLOOD = [f"x-{number}: 1" for number in range(200)]


def test_a_good_answer_arrives_in_one_piece(service: ServiceProcess) -> None:
    """So that nobody gets the head of one whose replica is killed, and a proxy can ask another one."""
    with socket.create_connection(service.address, timeout=10) as connection:
        for _ in range(20):
            connection.sendall(_head("/recommend", f"content-length: {len(GOOD)}") + GOOD)
            head, _, body = connection.recv(65_536).partition(b"\r\n\r\n")
            assert f"content-length: {len(body)}".encode() in head.lower()


@pytest.mark.parametrize(
    ("name", "request_bytes", "status", "code"),
    [
        ("a good one", _post(GOOD), 200, None),
        ("a body that says it is huge", _head("/recommend", "content-length: 99999999999"), 413, "payload_too_large"),
        ("a huge body", _post(b" " * (MAX_BODY + 1)), 413, "payload_too_large"),
        ("a huge chunked body", _chunked(*[b" " * 8_192] * 9, b""), 413, "payload_too_large"),
        ("endless chunks of a byte", _chunked(*[b" "] * (MAX_BODY + 1)), 413, "payload_too_large"),
        ("a length that is none", _head("/recommend", "content-length: -1"), 400, "malformed_request"),
        ("two lengths", _head("/recommend", "content-length: 1", "content-length: 2"), 400, "malformed_request"),
        (
            "a length and chunks",
            _head("/recommend", "content-length: 1", "transfer-encoding: chunked") + b"0\r\n\r\n",
            400,
            "malformed_request",
        ),
        ("deep lists", _post(b"[" * 30_000), 400, "malformed_json"),
        ("deep objects", _post(b'{"a":' * 10_000 + b"1" + b"}" * 10_000), 400, "malformed_json"),
        (
            "deep properties",
            _post(
                b'{"events":[{"user_id":"u","item_id":"i1","timestamp":1,"properties":'
                + b'{"a":' * 200
                + b"1"
                + b"}" * 200
                + b"}]}",
                "/events",
            ),
            400,
            "malformed_json",
        ),
        ("NaN", _post(b'{"history":["i1"],"diversity":NaN}'), 400, "malformed_json"),
        ("Infinity", _post(b'{"history":["i1"],"diversity":-Infinity}'), 400, "malformed_json"),
        (
            "NaN in properties",
            _post(b'{"events":[{"user_id":"u","item_id":"i","timestamp":1,"properties":{"a":NaN}}]}', "/events"),
            400,
            "malformed_json",
        ),
        ("a number beyond all bounds", _post(b'{"history":["i1"],"diversity":1e999}'), 422, "invalid_request"),
        ("a huge integer", _post(b'{"history":["i1"],"k":' + b"9" * 5_000 + b"}"), None, None),
        ("no JSON", _post(b"{'history': ['i1']}"), 400, "malformed_json"),
        ("no UTF-8", _post(b'{"history":["\xff\xfe"]}'), 400, "malformed_json"),
        ("half of a surrogate pair", _post(b'{"user_id":"\\ud800"}'), 422, "invalid_request"),
        ("a zero byte in an id", _post(b'{"user_id":"a\\u0000b"}'), 200, None),
        ("an id in every script", _post('{"user_id":"Ω≈ç√∫˜µ🦊\u202e\u200b"}'.encode()), 200, None),
        ("an id of 300 letters", _post(b'{"user_id":"' + b"a" * 300 + b'"}'), 422, "invalid_request"),
        ("no body", _post(b""), 422, "invalid_request"),
        ("another type of content", _post(GOOD).replace(b"application/json", b"text/plain"), 415, None),
        ("a flood of header lines", _head("/recommend", *FLOOD), 431, "headers_too_large"),
        ("a long header line", _head("/recommend", f"x-long: {'a' * 40_000}"), 431, "headers_too_large"),
        ("an endless header line", b"GET / HTTP/1.1\r\nx-long: " + b"a" * 400_000, 431, "headers_too_large"),
        ("a long path", _head(f"/items/{'a' * 40_000}", method="GET"), 431, "headers_too_large"),
        ("lines after the body", _chunked(b" ")[:-2] + b"\r\n0\r\n" + b"x: 1\r\n" * 300 + b"\r\n", None, None),
        ("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n", 400, "malformed_request"),
        ("another protocol", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "malformed_request"),
        ("a method of their own", _head("/recommend", method="BREW"), None, None),
        ("a path outside", _head("/items/../../../etc/passwd", method="GET"), 404, "unknown_item"),
        ("an encoded path outside", _head("/items/%2e%2e%2f%2e%2e%2fetc%2fpasswd", method="GET"), 404, "unknown_item"),
        ("a zero byte in a path", _head("/items/%00", method="GET"), 404, "unknown_item"),
        ("a broken escape in a path", _head("/items/%zz%", method="GET"), 404, "unknown_item"),
        ("no UTF-8 in a path", _head("/items/%ff%fe", method="GET"), 404, "unknown_item"),
        ("letters that are none in a path", _head("/items/\xff", method="GET"), 400, "malformed_request"),
        ("a path that is an address", _head("http://elsewhere/livez", method="GET"), 200, None),
        ("double slashes", _head("//livez", method="GET"), 404, "not_found"),
        ("a page of somebody else", _head("/admin/reload", "origin: https://evil.example"), 403, "cross_origin"),
        ("a broken origin", _head("/admin/reload", "origin: http://["), 403, "cross_origin"),
        ("an upgrade", _head("/livez", "upgrade: websocket", "connection: upgrade", method="GET"), 200, None),
    ],
)
def test_each_gets_its_answer(
    service: ServiceProcess, name: str, request_bytes: bytes, status: int | None, code: str | None
) -> None:
    answer = exchange(service.address, [request_bytes])
    if status is None:
        assert 200 <= status_of(answer) < 500, (name, answer[:500])
        return
    assert status_of(answer) == status, (name, answer[:500])
    if code is not None:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"application/problem+json" in head.lower()
        assert b"x-request-id: " in head.lower()
        assert json.loads(body)["code"] == code, name


@pytest.mark.parametrize(
    ("pieces", "status"),
    [
        # nothing at all, half a line, header lines one by one, a body byte by byte
        ([b""], 408),
        ([b"POST /recomm"], 408),
        ([_head()[:40], *[b"x-slow: 1\r\n"] * 8], 408),
        ([_head("/recommend", f"content-length: {len(GOOD)}"), *[GOOD[at : at + 1] for at in range(8)]], 408),
        ([_head("/recommend", "transfer-encoding: chunked"), *[b"1\r\n \r\n"] * 8], 408),
    ],
)
def test_whoever_is_slow_is_not_waited_for(service: ServiceProcess, pieces: list[bytes], status: int) -> None:
    started = time.monotonic()
    answer = exchange(service.address, pieces, pause_seconds=0.1)
    assert status_of(answer) == status
    assert b"request_timeout" in answer
    assert time.monotonic() - started < 5


def test_a_further_request_on_the_same_connection_has_its_own_time(service: ServiceProcess) -> None:
    good = _head("/livez", method="GET")
    with socket.create_connection(service.address, timeout=10) as connection:
        for _ in range(3):
            connection.sendall(good)
            assert status_of(receive(connection)) == 200
            time.sleep(0.7)  # longer than header lines may take: an idle connection is no slow one
        connection.sendall(b"GET /li")
        assert status_of(receive(connection)) == 408


def test_slow_ones_do_not_hold_up_others(service: ServiceProcess) -> None:
    slow = [socket.create_connection(service.address) for _ in range(100)]
    try:
        for connection in slow:
            connection.sendall(_head("/recommend", "content-length: 1000"))
        with service.client(headers={"x-api-key": KEY}) as client:
            started = time.monotonic()
            assert client.post("/recommend", json={"history": ["i1"]}).status_code == 200
            assert time.monotonic() - started < 2
    finally:
        for connection in slow:
            connection.close()


def test_answers_carry_what_browsers_must_know(service: ServiceProcess) -> None:
    with service.client() as client:
        for path in ("/livez", "/nowhere", "/version"):
            headers = client.get(path).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert headers["cache-control"] == "no-store"
            assert "default-src 'none'" in headers["content-security-policy"]
            assert "server" not in headers
            assert "access-control-allow-origin" not in headers
        assert "script-src" in client.get("/docs").headers["content-security-policy"]
        assert "access-control-allow-origin" not in client.options("/recommend", headers={"origin": "http://a"}).headers


def test_the_id_of_a_request_is_kept_where_it_is_sane(service: ServiceProcess) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    with service.client() as client:
        for headers, expected in (
            ({"x-request-id": "shop-17"}, "shop-17"),
            ({"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}, trace),
            ({"traceparent": f"00-{'0' * 32}-00f067aa0ba902b7-01"}, None),
            ({"x-request-id": "a" * 200}, None),
            ({"x-request-id": 'a"},{"level":"fake'}, None),
        ):
            got = client.get("/livez", headers=headers).headers["x-request-id"]
            assert got == expected if expected else re.fullmatch("[0-9a-f]{32}", got)


def test_users_and_keys_are_not_logged(service: ServiceProcess) -> None:
    """What is looked for in the log is looked for when the service has ended."""
    with service.client(headers={"authorization": f"Bearer {KEY}"}) as client:
        event = {"user_id": SECRET_USER, "item_id": "i1", "timestamp": 1}
        assert client.post("/events", json={"events": [event]}).status_code == 200
        assert client.post("/recommend", json={"user_id": SECRET_USER}).status_code == 200
        assert client.get(f"/users/{SECRET_USER}").status_code == 200
        assert client.get(f"/items/{SECRET_USER}").status_code == 404
        assert client.post("/recommend", json={"user_id": SECRET_USER, "k": SECRET_USER}).status_code == 422
        assert client.delete(f"/users/{SECRET_USER}").status_code == 200
    users: list[dict[str, Any]] = []
    for _ in range(100):  # a line is written after its answer was sent
        written, _, _ = service.log().rpartition("\n")
        lines = [json.loads(line) for line in written.splitlines()]
        users = [line for line in lines if line["message"] == "DELETE /users/{user_id:path} 200"]
        if users:
            break
        time.sleep(0.05)
    assert users
    assert users[-1]["key"] == "shop"
    assert users[-1]["request_id"]
    assert users[-1]["milliseconds"] > 0


def test_guessing_keys_is_slowed_down_and_those_who_have_one_are_served(service: ServiceProcess) -> None:
    with service.client() as client:
        answers = [
            client.post("/recommend", json={"history": ["i1"]}, headers={"x-api-key": f"guess-{number}"})
            for number in range(30)
        ]
        statuses = [answer.status_code for answer in answers]
        assert statuses[:5] == [401] * 5
        assert statuses[-1] == 429
        assert answers[-1].json()["code"] == "too_many_failures"
        assert int(answers[-1].headers["retry-after"]) >= 1
        for headers in (
            {"x-api-key": "ключ".encode()},
            {"authorization": "Bearer x y"},
            {"authorization": "Basic abc"},
        ):
            assert client.post("/recommend", json={}, headers=headers).status_code in {401, 429}
        assert client.post("/recommend", json={"history": ["i1"]}, headers={"x-api-key": KEY}).status_code == 200
        text = client.get("/metrics").text
        assert re.search(r'hatstand_auth_failures_total\{reason="unknown"\} \d\d', text)
        assert re.search(r'hatstand_rate_limited_total\{limit="failures"\} \d\d', text)


def test_too_many_connections_are_closed_with_an_answer_and_a_trusted_proxy_is_believed(
    shop_root: Path, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    with service_process(
        tmp_path / "service.log",
        store=str(shop_root),
        redis_url=redis_server.url,
        max_connections="20",
        trusted_proxies="127.0.0.1",
        rate_limit_anonymous_per_minute="6",
        rate_limit_burst="2",
    ) as service:
        crowd = [socket.create_connection(service.address) for _ in range(20)]
        time.sleep(0.2)
        answer = exchange(service.address, [b""])
        assert status_of(answer) == 503
        assert b"too_many_connections" in answer
        assert b"retry-after" in answer
        for connection in crowd:
            connection.close()
        time.sleep(0.2)
        with service.client() as client:
            assert client.get("/livez").status_code == 200
            text = client.get("/metrics").text
        assert "hatstand_connections 1.0" in text
        assert 'hatstand_errors_total{code="too_many_connections"} 1.0' in text
        # and an address that a trusted proxy names is counted as that address
        for address in (f"203.0.113.{number}" for number in (7, 8)):
            headers = {"x-forwarded-for": address}
            statuses = [httpx2.get(f"{service.url}/items/i1", headers=headers).status_code for _ in range(3)]
            assert statuses == [200, 200, 429]
