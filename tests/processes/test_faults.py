"""Faults, with real processes: what callers see while something is killed, stopped, slow or full, and afterwards.

Promised: nothing but 503 and 504 without the ladder and no 5xx at all with it; ``/readyz`` turns within two seconds and
turns back; nothing that was acknowledged is lost.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from model_store.artifacts.store import ModelStore
from service.redis.embedded import EmbeddedRedis
from tests.processes.redis_processes import RedisProcess
from tests.processes.service_process import ServiceProcess, service_process, steady_load, tcp_proxy, within
from tests.shop import add_small_bundle, event, shop_items

pytestmark = pytest.mark.slow

READY_WITHIN_SECONDS = 2.0


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisProcess]:
    with RedisProcess(tmp_path / "redis") as server:
        yield server


@contextlib.contextmanager
def _service(tmp_path: Path, store: Path, redis_url: str, **settings: str) -> Iterator[ServiceProcess]:
    more = {"redis_timeout_seconds": "1", "request_timeout_ms": "4000"} | settings
    with service_process(tmp_path / "service.log", store=str(store), redis_url=redis_url, **more) as service:
        yield service


def _readiness(client: httpx2.Client) -> tuple[int, str]:
    answer = client.get("/readyz")
    return answer.status_code, answer.json()["status"]


async def _recommend(client: httpx2.AsyncClient, number: int) -> httpx2.Response:
    return await client.post("/recommend", json={"user_id": f"user-{number % 50}", "k": 5})


async def _recommend_and_report(client: httpx2.AsyncClient, number: int) -> httpx2.Response:
    if number % 3:
        return await _recommend(client, number)
    return await client.post("/events", json={"events": [event(f"user-{number % 50}", "i1", number + 1)]})


@pytest.mark.parametrize("fault", ["kill", "pause"])
@pytest.mark.parametrize("fallback", ["on", "off"])
async def test_redis_goes_away_under_load_and_comes_back(
    shop_root: Path, redis: RedisProcess, tmp_path: Path, fault: str, fallback: str
) -> None:
    recommended: set[int] = set()

    async def ask(client: httpx2.AsyncClient, number: int) -> httpx2.Response:
        answer = await _recommend_and_report(client, number)
        if answer.url.path == "/recommend":
            recommended.add(answer.status_code)
        return answer

    with (
        _service(tmp_path, shop_root, redis.url, fallback=fallback, redis_required="1") as service,
        service.client() as probe,
    ):
        async with steady_load(service.url, ask) as statuses:
            await asyncio.sleep(1)
            assert Counter(statuses).keys() == {200}
            redis.send(signal.SIGSTOP) if fault == "pause" else redis.kill()
            took = await asyncio.to_thread(within, lambda: _readiness(probe) == (503, "not_ready"), 10)
            assert took < READY_WITHIN_SECONDS
            assert probe.get("/livez").status_code == 200
            await asyncio.sleep(2)
            redis.send(signal.SIGCONT) if fault == "pause" else redis.start()
            took = await asyncio.to_thread(within, lambda: _readiness(probe) == (200, "ready"), 10)
            assert took < READY_WITHIN_SECONDS
            num_before = len(statuses)
            await asyncio.sleep(1)
            assert set(statuses[num_before + 20 :]) == {200}
        assert set(statuses) <= {200, 503, 504}
        # events cannot be taken without Redis; recommendations can be made
        assert recommended <= ({200} if fallback == "on" else {200, 503, 504})
        assert "Traceback" not in service.log()


async def test_events_that_were_acknowledged_survive_killing_redis(
    shop_root: Path, redis: RedisProcess, tmp_path: Path
) -> None:
    acknowledged: list[int] = []

    async def report(client: httpx2.AsyncClient, number: int) -> httpx2.Response:
        answer = await client.post("/events", json={"events": [event("keeper", "i1", number + 1)]})
        if answer.status_code == 200:
            acknowledged.append(number + 1)
        return answer

    with _service(tmp_path, shop_root, redis.url, history_max_events="10000") as service:
        async with steady_load(service.url, report) as statuses:
            for _ in range(3):
                await asyncio.sleep(0.5)
                redis.kill()
                await asyncio.sleep(0.3)
                redis.start()
                await asyncio.sleep(0.5)
        assert set(statuses) <= {200, 503}
        with service.client() as client:
            kept = {entry["timestamp"] for entry in client.get("/users/keeper").json()["history"]}
        assert len(acknowledged) > 20
        assert set(acknowledged) <= kept


def test_a_slow_redis_is_no_fault_and_a_very_slow_one_is_told(
    shop_root: Path, redis: RedisProcess, tmp_path: Path
) -> None:
    with (
        tcp_proxy(("127.0.0.1", redis.port), delay_seconds=0.05) as proxy,
        _service(tmp_path, shop_root, f"redis://127.0.0.1:{proxy.port}/0") as service,
        service.client() as client,
    ):
        assert client.post("/events", json={"events": [event("slow", "i1", 1)]}).status_code == 200
        answer = client.post("/recommend", json={"user_id": "slow"}).json()
        assert (answer["source"], answer["history_length"]) == ("model", 1)
        assert _readiness(client) == (200, "ready")
        proxy.delay_seconds = 3
        assert within(lambda: _readiness(client) == (200, "degraded"), 10) < READY_WITHIN_SECONDS + 1
        started = time.monotonic()
        answers = [client.post("/recommend", json={"user_id": "slow", "timeout_ms": 1_000}) for _ in range(3)]
        assert {answer.status_code for answer in answers} == {200}
        assert time.monotonic() - started < 5
        refused = client.post("/events", json={"events": [event("slow", "i2", 2)]})
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        proxy.delay_seconds = 0
        within(lambda: _readiness(client) == (200, "ready"), 10)
        assert client.post("/recommend", json={"user_id": "slow"}).json()["source"] == "model"


@contextlib.contextmanager
def _load_balancer(tmp_path: Path, *replicas: ServiceProcess) -> Iterator[str]:
    """nginx where there is one, else a proxy that knows no HTTP."""
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if binary is None:
        with tcp_proxy(*(replica.address for replica in replicas)) as proxy:
            yield f"http://127.0.0.1:{proxy.port}"
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    text = (Path(__file__).parents[2] / "deploy/nginx.example.conf").read_text()
    changes = {"listen 8080;": f"listen 127.0.0.1:{port};", "/run/hatstand-nginx": str(tmp_path)}
    changes |= {
        f"127.0.0.1:{number}": f"127.0.0.1:{replica.address[1]}"
        for number, replica in zip((8001, 8002), replicas, strict=True)
    }
    for shipped, ours in changes.items():
        assert shipped in text
        text = text.replace(shipped, ours)
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(text)
    process = subprocess.Popen([binary, "-c", str(configuration), "-e", str(tmp_path / "error.log")])
    try:
        within(lambda: _listens(port), 10)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_a_replica_is_killed_under_load_and_nobody_notices(
    shop_root: Path, redis: RedisProcess, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with (
        _service(tmp_path / "a", shop_root, redis.url) as one,
        _service(tmp_path / "b", shop_root, redis.url) as other,
        _load_balancer(tmp_path, one, other) as url,
    ):
        is_http = (tmp_path / "nginx.conf").exists()
        async with steady_load(url, _recommend_and_report) as statuses:
            await asyncio.sleep(1)
            one.kill()
            await asyncio.sleep(2)
            await asyncio.to_thread(one.start_again_at_the_same_port)
            await asyncio.sleep(1.5)
            # ends by itself, in its own time
            other.send(signal.SIGTERM)
            await asyncio.sleep(2)
        assert other.process is not None
        assert other.process.wait(10) == 0
        counts = Counter(statuses)
        assert counts[200] > 50
        # without HTTP in between, whoever was talking to the one that was killed hears nothing
        log = (tmp_path / "error.log").read_text().splitlines() if is_http else []
        said = "\n".join(line for line in log if "Connection refused" not in line)
        assert set(counts) == {200} if is_http else set(counts) <= {200, 0}, f"{counts}\n{said}"


async def test_a_corrupt_bundle_is_published_under_load(shop_root: Path, redis: RedisProcess, tmp_path: Path) -> None:
    shutil.copytree(shop_root, tmp_path / "store")
    store = ModelStore(tmp_path / "store")
    with (
        _service(tmp_path, tmp_path / "store", redis.url, store_poll_seconds="0.2") as service,
        service.client() as probe,
    ):
        async with steady_load(service.url, _recommend_and_report) as statuses:
            await asyncio.sleep(0.5)
            bundle = add_small_bundle(store, store.models()[0], items=shop_items().slice(0, 30), seed=1)
            store.publish(bundle.bundle_id)
            path = store.bundle_directory(bundle.bundle_id, verify=False) / "item_embeddings.safetensors"
            path.chmod(0o644)
            path.write_bytes(path.read_bytes()[:-100])
            await asyncio.to_thread(within, lambda: _refused(probe) == bundle.bundle_id, 20)
            assert _readiness(probe) == (200, "degraded")
            store.rollback()
            await asyncio.to_thread(within, lambda: _readiness(probe) == (200, "ready"), 20)
        assert set(statuses) == {200}
        assert service.stop() == 0


def _refused(client: httpx2.Client) -> str | None:
    refused = client.get("/version").json()["refused"]
    return refused["hllm"]["bundle"] if refused else None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.getuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can make a small disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no small disk can be made here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_full_disk_costs_no_acknowledged_event_and_heals(
    shop_root: Path, small_disk: Path, tmp_path: Path
) -> None:
    folder = small_disk / "redis"
    acknowledged: set[int] = set()
    with (
        _service(tmp_path, shop_root, "embedded", redis_directory=str(folder), history_max_events="10000") as service,
        service.client() as client,
    ):

        def report(timestamp: int, size: int = 3_900) -> int:
            entry = event("keeper", "i1", timestamp, properties={"text": "x" * size})
            status = client.post("/events", json={"events": [entry]}).status_code
            if status == 200:
                acknowledged.add(timestamp)
            return status

        ballast = small_disk / "ballast"
        ballast.write_bytes(b"x" * 4 * 2**20)
        statuses: list[int] = []
        while statuses.count(503) < 5:
            statuses.append(report(len(statuses) + 1))
        assert set(statuses) == {200, 503}
        assert client.post("/recommend", json={"user_id": "keeper", "k": 3}).status_code == 200
        # Redis is started again at once and answers; that it takes no events is told all the same
        within(
            lambda: report(len(statuses) + 100) == 503 and _readiness(client) == (200, "degraded"), READY_WITHIN_SECONDS
        )
        ballast.unlink()
        within(lambda: report(5_000, 10) == 200, 30)
        within(lambda: _readiness(client) == (200, "ready"), 10)
        kept = {entry["timestamp"] for entry in client.get("/users/keeper").json()["history"]}
        assert acknowledged <= kept
        assert service.stop() == 0


def _asked_beside(service: ServiceProcess) -> tuple[threading.Thread, list[httpx2.Response]]:
    """Asks for a recommendation in a thread, which puts the answer into the list."""
    answers: list[httpx2.Response] = []
    asking = threading.Thread(
        target=lambda: answers.append(httpx2.post(f"{service.url}/recommend", json={"user_id": "late"}, timeout=30))
    )
    asking.start()
    return asking, answers


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_term_signal_lets_what_is_in_flight_end_and_takes_nothing_new(
    shop_root: Path, redis: RedisProcess, tmp_path: Path, workers: str
) -> None:
    with (
        tcp_proxy(("127.0.0.1", redis.port), delay_seconds=0.0) as proxy,
        _service(
            tmp_path,
            shop_root,
            f"redis://127.0.0.1:{proxy.port}/0",
            redis_timeout_seconds="10",
            fallback="off",
            workers=workers,
        ) as service,
        service.client() as client,
    ):
        client.post("/events", json={"events": [event("late", "i1", 1)]})
        proxy.delay_seconds = 0.7
        asking, answers = _asked_beside(service)
        time.sleep(0.3)
        service.send(signal.SIGTERM)
        time.sleep(0.3)
        assert not _listens(service.address[1])
        asking.join()
        assert answers[0].status_code == 200
        assert answers[0].json()["source"] == "model"
        assert service.stop() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_takes_longer_than_it_may_is_told_so_and_the_exit_is_a_clean_one(
    shop_root: Path, redis: RedisProcess, tmp_path: Path, workers: str
) -> None:
    with (
        tcp_proxy(("127.0.0.1", redis.port), delay_seconds=0.0) as proxy,
        _service(
            tmp_path,
            shop_root,
            f"redis://127.0.0.1:{proxy.port}/0",
            redis_timeout_seconds="30",
            request_timeout_ms="60000",
            fallback="off",
            shutdown_seconds="1",
            workers=workers,
        ) as service,
        service.client() as client,
    ):
        client.post("/events", json={"events": [event("late", "i1", 1)]})
        proxy.delay_seconds = 8
        asking, answers = _asked_beside(service)
        time.sleep(0.3)
        started = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - started < 6
        asking.join()
        assert (answers[0].status_code, answers[0].json()["code"]) == (503, "not_ready")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_load_balancers_may_be_given_time_to_notice(
    shop_root: Path, redis_server: EmbeddedRedis, tmp_path: Path, workers: str
) -> None:
    with (
        _service(tmp_path, shop_root, redis_server.url, shutdown_delay_seconds="2", workers=workers) as service,
        service.client() as client,
    ):
        started = time.monotonic()
        service.send(signal.SIGTERM)
        assert within(lambda: _readiness(client) == (503, "not_ready"), 1.5) < 1.5
        assert client.post("/recommend", json={"history": ["i1"]}).status_code == 200
        assert service.process is not None
        assert service.process.wait(20) == 0
        assert time.monotonic() - started > 1.9
