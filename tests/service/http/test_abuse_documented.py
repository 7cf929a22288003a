"""Each line of the table in docs/security.md is tested, and each test that it names exists.

What a line says and no other test sends is sent here, over real sockets to a real process.
"""

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.redis.embedded import EmbeddedRedis
from tests.processes import test_abuse
from tests.processes.service_process import ServiceProcess, exchange, service_process, status_of
from tests.service.http import test_hosts
from tests.service.routes import test_supervision

SECURITY = Path(__file__).parents[3] / "docs/security.md"
HERE = "test_what_no_other_test_sends"

# The first words of each line, and what tests it: cases by name, or whole tests.
TESTED_BY = {
    "a body that is too large": [
        "a body that says it is huge",
        "a huge body",
        "a huge chunked body",
        "endless chunks of a byte",
    ],
    "deep JSON": ["deep lists", "deep objects", "deep properties", "NaN", "Infinity", "NaN in properties"],
    "no JSON": ["no JSON", "no UTF-8", "another type of content"],
    "numbers beyond all bounds": ["a number beyond all bounds", "half of a surrogate pair", "an id of 300 letters"],
    "ids in any script": ["an id in every script", "a zero byte in an id"],
    "header lines: too many": [
        "a flood of header lines",
        "a long header line",
        "an endless header line",
        "a long path",
    ],
    "header lines that come slowly": ["test_whoever_is_slow_is_not_waited_for"],
    "a body that comes slowly": ["test_whoever_is_slow_is_not_waited_for", "test_slow_ones_do_not_hold_up_others"],
    "too many connections": ["test_too_many_connections_are_closed_with_an_answer_and_a_trusted_proxy_is_believed"],
    "too many requests at once": [
        "test_no_more_requests_than_set_are_answered_at_once",
        "test_a_full_queue_says_when_to_come_back",
    ],
    "a deadline that the queue cannot meet": ["test_a_full_queue_says_when_to_come_back"],
    "two lengths": ["two lengths", "a length and chunks", "no HTTP", "another protocol"],
    "paths": [
        "a path outside",
        "an encoded path outside",
        "a zero byte in a path",
        "a broken escape in a path",
        "no UTF-8 in a path",
    ],
    "a method of their own": ["a method of their own", "an upgrade", HERE],
    "a list of 10,001 items": [HERE],
    "a page that has its own name": ["test_another_name_is_refused_whatever_is_asked"],
    "unknown API keys": ["test_guessing_keys_is_slowed_down_and_those_who_have_one_are_served"],
    "an id of theirs": ["test_the_id_of_a_request_is_kept_where_it_is_sane"],
}


def test_each_line_of_the_table_is_tested() -> None:
    section = SECURITY.read_text(encoding="utf-8").partition("## What do hostile and broken callers get?")[2]
    lines = re.findall(r"^\| (.+?) \|", section.partition("\n## ")[0], re.MULTILINE)
    documented = [line for line in lines if line != "what"]
    for line in documented:
        assert any(line.startswith(beginning) for beginning in TESTED_BY), f"not known to be tested: {line}"
    for beginning in TESTED_BY:
        assert any(line.startswith(beginning) for line in documented), f"not in the table: {beginning}"


def test_what_tests_a_line_exists() -> None:
    source = inspect.getsource(test_abuse)
    tests = {name for module in (test_abuse, test_hosts, test_supervision) for name in vars(module)} | {HERE}
    for names in TESTED_BY.values():
        for name in names:
            assert name in tests or f'"{name}"' in source, name


@pytest.fixture(scope="module")
def service(
    shop_root: Path, redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    with service_process(
        tmp_path_factory.mktemp("abuse") / "service.log", store=str(shop_root), redis_url=redis_server.url
    ) as process:
        yield process
        assert "Traceback" not in process.log()


def _request(method: str, path: str, body: object = None, *lines: str) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    standard = ("host: localhost", "content-type: application/json", f"content-length: {len(content)}")
    return "\r\n".join([f"{method} {path} HTTP/1.1", *standard, *lines, "", ""]).encode() + content


_EVENT = {"user_id": "u", "item_id": "i1", "timestamp": 1}
_WEBSOCKET = (
    "upgrade: websocket",
    "connection: upgrade",
    "sec-websocket-version: 13",
    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
)


@pytest.mark.parametrize(
    ("name", "request_bytes", "status", "place"),
    [
        ("10,000 items", _request("POST", "/recommend", {"history": ["i1"] * 10_000, "k": 1}), 200, None),
        ("10,001 items", _request("POST", "/recommend", {"history": ["i1"] * 10_001}), 422, "/history"),
        (
            "10,001 exclusions",
            _request("POST", "/recommend", {"history": ["i1"], "exclude_item_ids": ["i1"] * 10_001}),
            422,
            "/exclude_item_ids",
        ),
        ("500 results", _request("POST", "/recommend", {"history": ["i1"], "k": 500}), 200, None),
        ("501 results", _request("POST", "/recommend", {"history": ["i1"], "k": 501}), 422, "/k"),
        ("1,000 events", _request("POST", "/events", {"events": [_EVENT] * 1_000}), 200, None),
        ("1,001 events", _request("POST", "/events", {"events": [_EVENT] * 1_001}), 422, "/events"),
        ("a method that others have", _request("PUT", "/recommend", {}), 405, None),
        ("a method of nobody", _request("BREW", "/recommend"), 400, None),
        ("a websocket", _request("GET", "/recommend", None, *_WEBSOCKET), 405, None),
        ("a websocket where one may look", _request("GET", "/livez", None, *_WEBSOCKET), 200, None),
    ],
)
def test_what_no_other_test_sends(
    service: ServiceProcess, name: str, request_bytes: bytes, status: int, place: str | None
) -> None:
    answer = exchange(service.address, [request_bytes])
    assert status_of(answer) == status, (name, answer[:500])
    if status >= 400:
        problem = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert problem["status"] == status
        assert place is None or problem["errors"][0]["pointer"] == place, (name, problem)
