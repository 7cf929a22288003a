"""Live swap: a published bundle is noticed, loaded beside the old one, switched to, and the old one is freed."""

import asyncio
import gc
import shutil
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx2
import numpy as np
import pyarrow as pa
import pytest

from model_store.artifacts.manifest import BundleManifest
from model_store.artifacts.store import ModelStore
from service.engine import memory
from service.engine.follower import StoreFollower
from service.engine.live_bundles import LiveBundles
from service.engine.loading import Loader
from service.engine.memory import MemoryNeed, available_bytes, estimate_need, memory_problem
from service.engine.served_bundle import ServedBundle
from service.errors import BundleRefused, NotFound
from service.settings import Settings
from tests.shop import (
    add_hatllm,
    add_small_bundle,
    add_small_model,
    item_ids,
    running_app,
    shop_items,
    small_hatllm,
)

_MIB = 2**20


@dataclass
class Seen:
    """What an observer of swaps was told."""

    live: list[dict[str, str]] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    refused: list[str | None] = field(default_factory=list)

    def bundles_are(self, manifests: dict[str, BundleManifest]) -> None:
        self.live.append({kind: manifest.bundle_id for kind, manifest in manifests.items()})

    def bundle_loaded(self, kind: str, seconds: float) -> None:
        assert seconds > 0
        self.loaded.append(kind)

    def bundle_refused(self, kind: str | None) -> None:
        self.refused.append(kind)


@dataclass(frozen=True)
class CountingLoader(Loader):
    """Counts how often it is asked."""

    asked: list[str] = field(default_factory=list)

    def open(self, bundle_id: str) -> ServedBundle:
        self.asked.append(bundle_id)
        return super().open(bundle_id)


@pytest.fixture
def store(shop_root: Path, tmp_path: Path) -> ModelStore:
    shutil.copytree(shop_root, tmp_path / "store")
    return ModelStore(tmp_path / "store")


def _follow(store: ModelStore, seen: Seen | None = None, **more: object) -> tuple[LiveBundles, CountingLoader]:
    loader = replace(CountingLoader(store, device="cpu", state_bytes=0), **more)  # type: ignore[arg-type]
    return LiveBundles(store, loader=loader, observer=seen), loader


def _publish(store: ModelStore, num_items: int, *, seed: int = 1) -> BundleManifest:
    model = next(model for model in store.models() if model.kind == "hllm")
    bundle = add_small_bundle(store, model, items=shop_items().slice(0, num_items), seed=seed)
    store.publish(bundle.bundle_id)
    return bundle


def _corrupt(store: ModelStore, bundle: BundleManifest) -> None:
    path = store.bundle_directory(bundle.bundle_id, verify=False) / "index.faiss"
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


async def _until(holds: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("is_remote", [False, True])
async def test_a_published_bundle_answers_by_itself_and_so_does_a_rollback(
    settings: Settings, store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_remote: bool
) -> None:
    if is_remote:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        remote = ModelStore(f"memory://{tmp_path.name}", cache_directory=tmp_path / "publisher")
        bundle = add_small_bundle(remote, add_small_model(remote))
        remote.publish(bundle.bundle_id)
        store = remote
    own = settings.model_copy(update={"store": store.root, "store_poll_seconds": 0.1})
    async with running_app(own) as (app, client):
        bundles = app.state.service.bundles
        before = bundles.get().bundle_id
        after = _publish(store, 30).bundle_id
        await _until(lambda: bundles.get().bundle_id == after)
        answer = await client.post("/recommend", json={"history": ["i1"], "k": 500})
        assert (answer.json()["bundle"], len(item_ids(answer))) == (after, 29)
        store.rollback()
        await _until(lambda: bundles.get().bundle_id == before)
        assert (await client.get("/version")).json()["models"]["hllm"]["bundle"] == before
        await _until(lambda: bundles.draining == [])


async def test_a_store_that_gets_its_first_bundle_makes_the_service_ready(
    settings: Settings, store: ModelStore, tmp_path: Path
) -> None:
    own = settings.model_copy(update={"store": str(tmp_path / "new"), "store_poll_seconds": 0.1})
    async with running_app(own) as (app, client):
        assert (await client.get("/readyz")).status_code == 503
        shutil.copytree(store.root, tmp_path / "new")
        await _until(lambda: app.state.service.bundles.is_live("hllm"))
        assert (await client.get("/readyz")).status_code == 200
        assert len(item_ids(await client.post("/recommend", json={"history": ["i1"]}))) == 10


async def test_a_corrupt_bundle_is_refused_once_and_shown_everywhere_and_the_old_one_stays(
    settings: Settings, store: ModelStore
) -> None:
    own = settings.model_copy(update={"store": store.root, "store_poll_seconds": 0.05})
    async with running_app(own) as (app, client):
        bundles: LiveBundles = app.state.service.bundles
        bad = _publish(store, 30)
        _corrupt(store, bad)
        await _until(lambda: bool(bundles.refused))
        await asyncio.sleep(0.5)  # many looks later
        assert bundles.refused["hllm"].attempts == 1
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        for place in (ready.json(), (await client.get("/version")).json()):
            assert place["refused"]["hllm"]["bundle"] == bad.bundle_id
            assert "index.faiss" in place["refused"]["hllm"]["reason"]
            assert 0 < place["refused"]["hllm"]["seconds_until_retry"] <= 60
        metrics = (await client.get("/metrics")).text
        assert 'hatstand_bundle_refused{kind="hllm"} 1.0' in metrics
        assert 'hatstand_bundle_swaps_total{result="refused"} 1.0' in metrics
        assert len(item_ids(await client.post("/recommend", json={"history": ["i1"], "k": 500}))) == 59
        # asking for it tries at once, and a good one clears it
        assert (await client.post("/admin/reload")).status_code == 409
        assert bundles.refused["hllm"].attempts == 2
        good = _publish(store, 40)
        await _until(lambda: bundles.get().bundle_id == good.bundle_id)
        assert (await client.get("/readyz")).json()["status"] == "ready"
        assert 'hatstand_bundle_refused{kind="hllm"} 0.0' in (await client.get("/metrics")).text


async def test_a_refused_bundle_is_tried_again_ever_more_rarely(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.engine.live_bundles._FIRST_RETRY_SECONDS", 0.1)
    seen = Seen()
    bundles, loader = _follow(store, seen)
    await bundles.follow()
    bad = _publish(store, 30)
    _corrupt(store, bad)
    tried_at: list[float] = []
    async with asyncio.timeout(30):
        while len(tried_at) < 4:
            await bundles.follow()
            tried_at += [time.monotonic()] * (loader.asked.count(bad.bundle_id) - len(tried_at))
            await asyncio.sleep(0.01)
    # a busy machine may make a pause longer, and never shorter
    assert all(np.diff(tried_at) > [0.09, 0.19, 0.39])
    assert seen.refused == ["hllm"] * loader.asked.count(bad.bundle_id)
    # mended in place: the next try takes it
    shutil.rmtree(store.bundle_directory(bad.bundle_id, verify=False))
    _publish(store, 30)
    async with asyncio.timeout(5):
        while await bundles.follow() != ["hllm"]:
            await asyncio.sleep(0.02)
    assert bundles.get().bundle_id == bad.bundle_id
    assert not bundles.refused


async def test_a_damaged_pointer_changes_nothing_and_is_told(store: ModelStore) -> None:
    seen = Seen()
    bundles, _ = _follow(store, seen)
    await bundles.follow()
    pointer = Path(store.root) / "live.json"
    content = pointer.read_bytes()
    pointer.write_bytes(content[: len(content) // 2])
    for _ in range(3):
        assert await bundles.follow() == []
    assert bundles.get() is not None
    assert "live.json" in str(bundles.pointer_problem)
    assert seen.refused == [None]
    with pytest.raises(BundleRefused, match=r"live\.json"):
        await bundles.reload()
    pointer.write_bytes(content)
    assert await bundles.reload() == []
    assert bundles.problem is None


async def test_kinds_do_not_wait_for_each_other(store: ModelStore) -> None:
    bundles, _ = _follow(store)
    await bundles.reload()
    bad = add_hatllm(store, small_hatllm())
    store.publish(bad.bundle_id, make_default=True)
    _corrupt(store, bad)
    good = _publish(store, 30)
    with pytest.raises(BundleRefused, match=bad.bundle_id):
        await bundles.reload()
    assert bundles.get("hllm").bundle_id == good.bundle_id
    assert bundles.live.default == "hllm"  # until the default one can be served
    with pytest.raises(NotFound):
        await bundles.rollback("hatllm")


async def test_without_room_a_bundle_is_refused_with_the_figures_and_taken_when_there_is_some(
    store: ModelStore,
) -> None:
    free = [10 * 1024 * _MIB]
    bundles, loader = _follow(store, reserve_bytes=100 * _MIB, available=lambda _: free[0])
    await bundles.reload()
    before = bundles.get()
    after = _publish(store, 30)
    free[0] = 100 * _MIB + 1_000
    with pytest.raises(BundleRefused, match=r"needs about \d+ MiB of memory \(cpu\), but 100 MiB are available"):
        await bundles.reload()
    assert bundles.get() is before
    free[0] = 200 * _MIB
    assert await bundles.reload() == ["hllm"]
    assert bundles.get().bundle_id == after.bundle_id
    assert loader.asked[1:] == [after.bundle_id] * 2


async def test_a_request_in_flight_keeps_its_bundle_which_is_freed_when_the_last_one_ends(store: ModelStore) -> None:
    bundles, _ = _follow(store)
    await bundles.reload()
    gc.collect()
    gc.disable()  # freed at once, and not by the next collection
    try:
        in_flight = [bundles.get(), bundles.get()]
        old = in_flight[0]
        parts = [
            weakref.ref(part)
            for part in (
                old,
                old.bundle,
                old.catalogue,
                old.bundle.index,
                old.bundle.embeddings,
                old.encoder,
                next(old.encoder.model.parameters()),  # type: ignore[attr-defined]
            )
        ]
        old_id = old.bundle_id
        del old
        _publish(store, 30)
        assert await bundles.reload() == ["hllm"]
        assert [one.bundle_id for one in bundles.draining] == [old_id]
        assert in_flight[0].catalogue.id_of(60) == "i60"
        in_flight.pop()
        assert len(bundles.draining) == 1
        in_flight.pop()
        assert bundles.draining == []
        assert [part() for part in parts] == [None] * len(parts)
    finally:
        gc.enable()


async def test_swapping_many_times_takes_no_memory(store: ModelStore) -> None:
    numbers = range(40_000)
    items = pa.table(
        {
            "item_id": [f"item-{number:09}" for number in numbers],
            "title": [f"a thing with the rather long title number {number}" for number in numbers],
            "popularity": pa.array(numbers, pa.int64()),
        }
    )
    for seed in (1, 2):
        add_small_bundle(store, store.models()[0], items=items, seed=seed)
    ids = [manifest.bundle_id for manifest in store.bundles() if manifest.num_items == len(numbers)]
    bundles, _ = _follow(store)
    follower = StoreFollower(bundles, every_seconds=0.01)
    follower.start()
    resident = []
    for swap in range(10):
        store.publish(ids[swap % 2])
        await _until(lambda wanted=ids[swap % 2]: bundles.is_live("hllm") and bundles.get().bundle_id == wanted)
        await _until(lambda: not bundles.draining)
        await asyncio.sleep(0.1)  # the next look gives memory back
        resident.append(_resident_bytes())
    await follower.aclose()
    assert len(bundles.get().catalogue) == len(numbers)
    # one such bundle takes tens of MiB
    assert max(resident[5:]) - min(resident[2:5]) < 15 * _MIB, [round(one / _MIB) for one in resident]


async def test_loading_leaves_the_event_loop_alone(store: ModelStore) -> None:
    bundles, _ = _follow(store)
    await bundles.reload()
    _publish(store, 30)
    waits, is_done = [], False

    async def tick() -> None:
        while not is_done:
            asked = time.perf_counter()
            await asyncio.sleep(0.001)
            waits.append(time.perf_counter() - asked)

    ticker = asyncio.create_task(tick())
    await bundles.reload()
    is_done = True
    await ticker
    # not a bound on speed: were it loaded in the loop, there would be one wait as long as the whole load
    assert len(waits) > 5
    assert np.quantile(waits, 0.9) < 0.2


def test_the_need_is_estimated_from_the_manifests_and_never_too_low(store: ModelStore) -> None:
    manifest = store.bundles()[0]
    model = store.models()[0]
    need = estimate_need(manifest, model, device="cpu")
    assert need.device_bytes == 0
    assert need.host_bytes > sum(entry.size_bytes for entry in manifest.files.values())
    on_gpu = estimate_need(manifest, model, device="cuda:0")
    assert 0 < on_gpu.device_bytes < on_gpu.host_bytes
    everything = sum(entry.size_bytes for entry in model.files.values())
    item_side = sum(entry.size_bytes for name, entry in model.files.items() if name.startswith("item_llm/"))
    assert on_gpu.device_bytes == 2 * (everything - item_side)


def test_memory_is_looked_at_where_it_is_needed() -> None:
    model, bundle = 600 * _MIB, 300 * _MIB
    need = MemoryNeed(host_bytes=bundle, mapped_bytes=0, device_bytes=model)
    for free, where in (({"cpu": 100, "cuda": 9_999}, "cpu"), ({"cpu": 9_999, "cuda": 100}, "cuda")):
        reason = memory_problem(
            need, device="cuda", reserve_bytes=0, available=lambda place, free=free: free[place] * _MIB
        )
        assert reason is not None
        assert f"({where})" in reason
    assert memory_problem(need, device="cuda", reserve_bytes=-1, available=lambda _: 0) is None
    assert memory_problem(need, device="cuda", reserve_bytes=0, available=lambda _: None) is None


def test_a_container_has_what_its_group_leaves(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("600000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 200000\n")
    assert memory.left_in_control_group(tmp_path) == 600_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.left_in_control_group(tmp_path) is None
    assert memory.left_in_control_group(tmp_path / "none") is None
    free = available_bytes("cpu")
    assert free is None or free > 0


def _resident_bytes() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096


async def test_answers_during_swaps_come_from_one_bundle_each(settings: Settings, store: ModelStore) -> None:
    own = settings.model_copy(update={"store": store.root, "store_poll_seconds": 0.05})
    sizes = {store.live().bundles["hllm"]: 60}
    async with running_app(own) as (app, client):
        is_done = False

        async def ask(client: httpx2.AsyncClient) -> list[tuple[str, int]]:
            answers = []
            while not is_done:
                answer = await client.post("/recommend", json={"history": ["i1", "i2"], "k": 500})
                assert answer.status_code == 200, answer.text
                answers.append((answer.json()["bundle"], len(answer.json()["items"])))
            return answers

        askers = [asyncio.create_task(ask(client)) for _ in range(4)]
        for num_items in (20, 30, 40, 50):
            bundle = _publish(store, num_items).bundle_id
            sizes[bundle] = num_items
            await _until(lambda wanted=bundle: app.state.service.bundles.get().bundle_id == wanted)
        store.rollback()
        await _until(lambda: sizes[app.state.service.bundles.get().bundle_id] == 40)
        is_done = True
        seen = {pair for pairs in await asyncio.gather(*askers) for pair in pairs}
        assert {(bundle, sizes[bundle] - 2) for bundle, _ in seen} == seen
        assert len(seen) >= 3
        await _until(lambda: not app.state.service.bundles.draining)
