"""A Redis or Redis Cluster that is away, at the start or later: the same promises, whichever client talks to it."""

import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from tests.processes.redis_processes import RedisProcess, free_port, start_cluster
from tests.processes.service_process import ServiceProcess, service_process, within
from tests.shop import event

# Seconds that are enough for every watch to look several times.
_WATCHED_SECONDS = 2.5
_MAX_LINES = 60
_NOBODY = "redis://127.0.0.1:{port}/0"


def _settings(store: Path, url: str, *, cluster: bool) -> dict[str, str]:
    return {
        "store": str(store),
        "redis_url": url,
        "redis_cluster": str(int(cluster)),
        "redis_timeout_seconds": "1",
        "request_timeout_ms": "3000",
        "store_poll_seconds": "0.2",
    }


def _check_away(service: ServiceProcess, client: httpx2.Client) -> None:
    """No route fails otherwise than it must, nothing floods the log, and whoever asks hears that Redis is away."""
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded"), ready.text
    assert client.get("/livez").status_code == 200
    answer = client.post("/recommend", json={"user_id": "somebody", "k": 3})
    assert answer.status_code == 200, answer.text
    assert answer.json()["source"].startswith("fallback:")
    assert any(warning.startswith("history_unavailable") for warning in answer.json()["warnings"])
    assert client.post("/recommend", json={"history": ["i1"], "k": 3}).json()["source"] == "model"
    for method, path, body in (
        ("POST", "/events", {"events": [event("u", "i1", 1)]}),
        ("GET", "/users/u", None),
        ("DELETE", "/users/u", None),
        ("POST", "/users/u/merge", {"session_id": "s"}),
        ("GET", "/sessions/s", None),
        ("POST", "/admin/items/i1/hide", None),
    ):
        answer = client.request(method, path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (503, "history_unavailable"), (path, answer.text)
    metrics = client.get("/metrics")
    assert metrics.status_code == 200
    assert "hatstand_history_store_up 0.0" in metrics.text
    begins_at = len(service.log().splitlines())
    time.sleep(_WATCHED_SECONDS)
    log = service.log()
    assert len(log.splitlines()) - begins_at < _MAX_LINES, log
    assert "Traceback" not in log, log


def _check_there(client: httpx2.Client) -> None:
    within(lambda: client.get("/readyz").json()["status"] == "ready", 20)
    # a Redis Cluster that was restarted takes a while until its nodes agree
    within(lambda: client.post("/events", json={"events": [event("u", "i1", 1)]}).status_code == 200, 30)
    assert client.get("/users/u").json()["history"]


@pytest.mark.parametrize("cluster", [False, True], ids=["server", "cluster"])
def test_nobody_is_there_at_the_start(shop_root: Path, tmp_path: Path, cluster: bool) -> None:
    url = _NOBODY.format(port=free_port())
    with service_process(tmp_path / "log", **_settings(shop_root, url, cluster=cluster)) as service:
        with service.client() as client:
            _check_away(service, client)
        assert service.stop() == 0


def test_a_plain_server_is_named_as_a_cluster(shop_root: Path, tmp_path: Path) -> None:
    with (
        RedisProcess(tmp_path / "redis") as server,
        service_process(tmp_path / "log", **_settings(shop_root, server.url, cluster=True)) as service,
    ):
        with service.client() as client:
            _check_away(service, client)
        assert service.stop() == 0
        assert "cluster" in service.log().lower()


def _one_server(directory: Path) -> list[RedisProcess]:
    server = RedisProcess(directory)
    server.start()
    return [server]


@pytest.mark.parametrize(("start", "cluster"), [(_one_server, False), (start_cluster, True)], ids=["server", "cluster"])
def test_it_goes_away_and_comes_back(
    shop_root: Path, tmp_path: Path, start: Callable[[Path], list[RedisProcess]], cluster: bool
) -> None:
    nodes = start(tmp_path / "redis")
    try:
        with service_process(tmp_path / "log", **_settings(shop_root, nodes[0].url, cluster=cluster)) as service:
            with service.client() as client:
                _check_there(client)
                for node in nodes:
                    node.kill()
                within(lambda: client.get("/readyz").json()["status"] == "degraded", 20)
                _check_away(service, client)
                for node in nodes:
                    node.start()
                _check_there(client)
            assert service.stop() == 0
    finally:
        for node in nodes:
            node.kill()


def test_a_start_node_of_several_is_down(shop_root: Path, tmp_path: Path) -> None:
    nodes = start_cluster(tmp_path / "redis")
    hosts = f"127.0.0.1:{free_port()}," + ",".join(f"127.0.0.1:{node.port}" for node in nodes[:2])
    try:
        with (
            service_process(tmp_path / "log", **_settings(shop_root, f"redis://{hosts}", cluster=True)) as service,
            service.client() as client,
        ):
            _check_there(client)
    finally:
        for node in nodes:
            node.kill()
