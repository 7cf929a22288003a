"""Several workers, as real processes: they keep the promises of one, and one of them may die."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from model_store.artifacts.store import ModelStore
from tests.processes.service_process import ServiceProcess, service_process, steady_load, within
from tests.shop import add_small_bundle, add_small_model, event, item_ids, shop_items

SMALL = 20


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    store = ModelStore(tmp_path_factory.mktemp("workers") / "store")
    store.publish(add_small_bundle(store, add_small_model(store)).bundle_id)
    return store


@pytest.fixture(scope="module")
def two(store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """Two workers that look at the store only when told to."""
    folder = tmp_path_factory.mktemp("two")
    with service_process(
        folder / "log", store=store.root, redis_directory=str(folder / "redis"), workers="2", store_poll_seconds="0"
    ) as service:
        yield service


@pytest.fixture
def both(two: ServiceProcess) -> Iterator[tuple[httpx2.Client, httpx2.Client]]:
    """A connection to each worker."""
    with two.client() as one, two.client() as other:
        within(lambda: _worker(two, one) != _worker(two, other), 30)
        yield one, other


def _worker(service: ServiceProcess, client: httpx2.Client) -> int:
    """The process that answers on a client's connection."""
    stream = client.get("/livez").extensions["network_stream"]
    port = stream.get_extra_info("client_addr")[1]
    here = f"{_hexadecimal(service.address[1])} {_hexadecimal(port)}"
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    inode = next(row[9] for row in rows if f"{row[1][-4:]} {row[2][-4:]}" == here)
    for worker in _workers(service):
        with contextlib.suppress(OSError):
            for descriptor in Path(f"/proc/{worker}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if descriptor.readlink().name == f"socket:[{inode}]":
                        return worker
    raise AssertionError(f"no worker has the connection from port {port}")


def _hexadecimal(port: int) -> str:
    return f"{port:04X}"


def _workers(service: ServiceProcess) -> list[int]:
    """Process ids of the workers that there are."""
    assert service.process is not None
    return [one for one in _descendants(service.process.pid) if re.fullmatch(r"hatstand-w\d+", _name(one))]


def _descendants(process: int) -> list[int]:
    found = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            for child in map(int, (thread / "children").read_text().split()):
                found += [child, *_descendants(child)]
    return found


def _name(process: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/comm").read_text().strip()
    return ""


def _metric(client: httpx2.Client, sample: str) -> float:
    found = re.search(rf"^{re.escape(sample)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_one_says_where_and_one_keeps_redis(two: ServiceProcess) -> None:
    assert len(_workers(two)) == 2
    assert two.log().count("serving on") == 1
    assert re.search(r"serving on \S+ \(documentation at \S+; 2 workers\)", two.log())
    assert two.log().count("embedded Redis") == 1
    assert {"worker=1", "worker=2"} <= set(two.log().split())


def test_the_printed_body_works(two: ServiceProcess) -> None:
    body = re.search(r"-d '(.*)'", two.log())
    assert body is not None
    with two.client() as client:
        assert len(item_ids(client.post("/recommend", json=json.loads(body[1])))) == 5


def test_an_event_reported_to_one_is_read_by_the_other(both: tuple[httpx2.Client, httpx2.Client]) -> None:
    for number in range(1, 7):
        writer, reader = both[number % 2], both[1 - number % 2]
        assert writer.post("/events", json={"events": [event("rw", f"i{number}", number)]}).json()["accepted"] == 1
        answer = reader.post("/recommend", json={"user_id": "rw", "k": 60}).json()
        assert answer["history_length"] == number
        assert f"i{number}" not in {item["item_id"] for item in answer["items"]}


def test_what_one_hides_the_other_does_not_show(both: tuple[httpx2.Client, httpx2.Client]) -> None:
    ask = {"history": ["i1"], "k": 60, "exclude_seen": False}
    for operator, reader in (both, both[::-1]):
        shown = item_ids(reader.post("/recommend", json=ask))[3]
        assert operator.post(f"/admin/items/{shown}/hide").status_code == 200
        assert shown not in item_ids(reader.post("/recommend", json=ask))
        assert operator.post(f"/admin/items/{shown}/show").status_code == 200
        assert shown in item_ids(reader.post("/recommend", json=ask))


def test_whom_one_erases_the_other_does_not_know(both: tuple[httpx2.Client, httpx2.Client]) -> None:
    one, other = both
    one.post("/events", json={"events": [event("gone", "i1", 1), event("gone", "i2", 2)]})
    assert other.post("/recommend", json={"user_id": "gone"}).json()["history_length"] == 2
    assert one.delete("/users/gone").status_code == 200
    answer = other.post("/recommend", json={"user_id": "gone"}).json()
    assert (answer["history_length"], answer["source"]) == (0, "fallback:popular")


def test_a_page_that_one_made_the_other_continues(both: tuple[httpx2.Client, httpx2.Client]) -> None:
    one, other = both
    first = one.post("/recommend", json={"history": ["i1"], "k": 5, "paginate": True})
    second = other.post("/recommend", json={"cursor": first.json()["next_cursor"]})
    assert not set(item_ids(first)) & set(item_ids(second))


def _bundles(*clients: httpx2.Client) -> list[str]:
    return [client.post("/recommend", json={"history": ["i1"]}).json()["bundle"] for client in clients]


def test_a_reload_and_a_rollback_reach_both_before_they_are_acknowledged(
    both: tuple[httpx2.Client, httpx2.Client], store: ModelStore
) -> None:
    (before,) = set(_bundles(*both))
    after = add_small_bundle(store, add_small_model(store), items=shop_items().slice(0, SMALL)).bundle_id
    store.publish(after)
    assert set(_bundles(*both)) == {before}
    assert both[0].post("/admin/reload").json()["changed"] == ["hllm"]
    assert _bundles(*both) == [after, after]
    assert both[1].post("/admin/rollback").json()["bundles"] == {"hllm": before}
    assert _bundles(*both) == [before, before]


def test_a_bundle_that_is_refused_is_told_and_both_go_on(
    both: tuple[httpx2.Client, httpx2.Client], store: ModelStore
) -> None:
    (before,) = set(_bundles(*both))
    broken = add_small_bundle(store, add_small_model(store), items=shop_items().slice(0, SMALL + 1), seed=5)
    store.publish(broken.bundle_id)
    (Path(store.root) / "bundles" / broken.bundle_id / "item_embeddings.safetensors").write_bytes(b"broken")
    answer = both[0].post("/admin/reload")
    assert (answer.status_code, answer.json()["code"]) == (409, "bundle_refused")
    assert _bundles(*both) == [before, before]
    for client in both:
        document = client.get("/readyz").json()
        assert (document["status"], document["refused"]["hllm"]["bundle"]) == ("degraded", broken.bundle_id)
    assert both[1].post("/admin/rollback").json()["bundles"] == {"hllm": before}
    assert both[0].get("/readyz").json()["status"] == "ready"


def test_metrics_and_readiness_are_those_of_both(both: tuple[httpx2.Client, httpx2.Client]) -> None:
    sample = 'hatstand_http_request_duration_seconds_count{method="GET",route="/version",status="200"}'
    before = _metric(both[0], sample)
    for _ in range(3):
        both[0].get("/version")
    for _ in range(4):
        both[1].get("/version")
    for client in both:
        assert _metric(client, sample) == before + 7
        assert _metric(client, "hatstand_ready") == 1
        assert (_metric(client, "hatstand_workers"), _metric(client, "hatstand_workers_ready")) == (2, 2)
        assert _metric(client, "process_resident_memory_bytes") > 2 * 50_000_000
        document = client.get("/readyz").json()
        assert (document["status"], document["workers"]) == ("ready", {"ready": 2, "of": 2})


async def _ask(client: httpx2.AsyncClient, number: int) -> httpx2.Response:
    return await client.post("/recommend", json={"user_id": f"user-{number % 50}", "k": 5})


async def test_a_worker_is_killed_under_load_and_another_takes_its_place(two: ServiceProcess) -> None:
    workers = _workers(two)
    with contextlib.ExitStack() as stack:
        clients = (stack.enter_context(two.client()) for _ in range(4))
        client = next(one for one in clients if _worker(two, one) == workers[1])
        sample = 'hatstand_recommendations_total{arm="none",kind="hllm",mode="retrieve",source="fallback:popular"}'
        async with steady_load(two.url, _ask, num_clients=8) as statuses:  # type: ignore[arg-type]
            await asyncio.sleep(1)
            counted = await asyncio.to_thread(_metric, client, sample)
            answered = statuses.count(200)
            os.kill(workers[0], signal.SIGKILL)
            await asyncio.to_thread(within, lambda: len(_ready_workers(two, client)) == 2, 60)
            await asyncio.sleep(0.5)
            final = await asyncio.to_thread(_metric, client, sample)
        assert set(statuses) <= {0, 200}
        assert statuses.count(0) <= 8  # in flight on the one that was killed, at most
        assert statuses.count(200) > answered > 0
        assert final >= counted > 0
        assert workers[0] not in _workers(two)
        assert workers[1] in _workers(two)
        assert _metric(client, "hatstand_workers_ended_total") >= 1
    # The new one answers, too.
    with two.client() as one, two.client() as other:
        assert {_worker(two, one), _worker(two, other)} == set(_workers(two))


def _ready_workers(service: ServiceProcess, client: httpx2.Client) -> list[int]:
    document = client.get("/readyz").json()
    return _workers(service) if document["workers"]["ready"] == 2 else []


def test_a_worker_that_is_stopped_is_replaced_once_it_is_hung(store: ModelStore, tmp_path: Path) -> None:
    with service_process(
        tmp_path / "log", store=store.root, redis_directory=str(tmp_path / "redis"), workers="2", model_hung_seconds="4"
    ) as service:
        stopped, going = _workers(service)
        os.kill(stopped, signal.SIGSTOP)
        within(lambda: any("is killed: no answer" in line for line in service.log().splitlines()), 60)
        # Whoever comes meanwhile is answered by the other one.
        for _ in range(4):
            with service.client() as client:
                assert client.post("/recommend", json={"history": ["i1"]}).status_code == 200
        within(lambda: len(_workers(service)) == 2 and stopped not in _workers(service), 60)
        assert going in _workers(service)
        assert service.stop() == 0


def test_workers_end_when_their_parent_is_killed(store: ModelStore, tmp_path: Path) -> None:
    with service_process(
        tmp_path / "log", store=store.root, redis_directory=str(tmp_path / "redis"), workers="2"
    ) as service:
        workers = _workers(service)
        service.kill()
        within(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), 60)
        # What they left behind is free: the port, and the directory of Redis.
        service.start_again_at_the_same_port()
        with service.client() as client:
            assert client.get("/readyz").json()["workers"] == {"ready": 2, "of": 2}
        assert service.stop() == 0
        assert "Traceback" not in service.log()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_taken_port_is_one_line_before_anything_is_loaded(store: ModelStore, tmp_path: Path, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        settings = {"store": store.root, "port": str(other.getsockname()[1]), "workers": workers}
        assert "is taken" in _refused(settings, tmp_path)


def test_a_start_that_cannot_be_ends_with_one_line_of_one_worker(store: ModelStore, tmp_path: Path) -> None:
    scenarios = tmp_path / "scenarios.yaml"
    scenarios.write_text("front: {boosts: [{filter: {no_such_attribute: 1}, factor: 2}]}\n")
    settings = {"store": store.root, "port": "0", "workers": "2", "scenarios": str(scenarios)}
    lines = _refused(settings, tmp_path)
    assert "scenario" in lines


def _refused(settings: dict[str, str], tmp_path: Path) -> str:
    """What a service that cannot start has to say; one line, and only Redis had been started."""
    settings |= {"redis_directory": str(tmp_path / "redis")}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HATSTAND_")}
    environment |= {f"HATSTAND_{name.upper()}": value for name, value in settings.items()}
    ended = subprocess.run(
        [sys.executable, "-m", "service"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 2, ended.stderr
    lines = [line for line in ended.stderr.splitlines() if " ERROR " in line]
    assert len(lines) == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    return lines[0]
