"""The shop that the request path machine runs: two versions of a catalogue, a bundle of either kind of each, and a
running application whose parts can be broken and mended."""

import asyncio
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.numpy import save_file

from model_store.artifacts.bundle import EMBEDDINGS_FILE, EMBEDDINGS_TENSOR, INDEX_FILE, ITEMS_FILE, open_bundle
from model_store.artifacts.manifest import BundleManifest
from model_store.artifacts.store import ModelStore
from model_store.backbone.load import load_backbone
from model_store.encoding import UserEncoder
from model_store.hllm.files import item_tower_hash, save_hllm
from model_store.hllm.network import HLLMConfig, build_hllm
from model_store.index import build_index, save_index
from model_store.kinds import make_user_encoder
from model_store.people.histories import History
from service.engine.live_bundles import LiveBundles
from service.settings import Settings
from service.wiring import RunningService
from tests.processes.redis_processes import RedisProcess
from tests.service.recommend.pipelines import model_of, poison, with_wrong_index
from tests.shop import HAT_WINDOW, add_hatllm, running_app, small_hatllm

CATEGORIES = ("Audio", "Books", "Garden")
# Both versions have most items, in the same rows; each has some of its own.
NUMBERS = {"A": [*range(1, 81), *range(96, 106)], "B": [*range(1, 96)]}
LAST_NUMBER = 110  # the last few are in no catalogue
MAX_EVENTS = 40
HLLM_WINDOW = 32
_DIM = 16
_SLOW_SECONDS = 0.03
# About two users of the hatllm, so that what it keeps of them has to make room all the time.
STATE_BYTES = 50_000
LAST_KNOWN_BYTES = 1 << 26

SCENARIOS = """
scenarios:
  pinned:
    filter: {stock: {gte: 3}}
    exclude_item_ids: [i20]
    pins: [{item_id: i30, position: 1}, {item_id: i31, position: 4}]
    boosts: [{filter: {category: {any_of: [Books]}}, multiply: 1.3}]
  capped:
    max_per: {category: 4}
    diversity: 0.3
"""
RULES: dict[str, dict[str, Any]] = {
    "pinned": {"filter": {"stock": {"gte": 3}}, "exclude": {"i20"}, "pins": {1: "i30", 4: "i31"}, "max_per": {}},
    "capped": {"filter": {}, "exclude": set(), "pins": {}, "max_per": {"category": 4}},
}


@dataclass(frozen=True)
class Version:
    """What a bundle holds, without the service's way to read it.

    Attributes:
        rows: By item id.
        unit: (N, D) by row, unit-norm.
        row_of: Item id to row of ``unit``.
        window: How many items of a history the model reads.
        encoder: Another copy of the model, that nothing ever happens to.
    """

    bundle_id: str
    model_id: str
    kind: str
    rows: Mapping[str, dict[str, Any]]
    unit: np.ndarray
    row_of: Mapping[str, int]
    window: int
    encoder: UserEncoder

    def scores(self, history: Sequence[tuple[str, int]], item_ids: Sequence[str]) -> np.ndarray:
        """What the model makes of a history, of items of the catalogue and timestamps: cosines with these items."""
        indices = np.array([self.row_of[item_id] + 1 for item_id, _ in history], dtype=np.int64)
        (user,) = self.encoder.encode([History(indices, np.array([at for _, at in history], dtype=np.int64))])
        scores: np.ndarray = self.unit[[self.row_of[item_id] for item_id in item_ids]] @ (user / np.linalg.norm(user))
        return scores


def catalogue(version: str) -> list[dict[str, Any]]:
    """The rows of a version; nearly every attribute of an item is another one in the other version."""
    shift = 0 if version == "A" else 7
    return [
        {
            "item_id": f"i{number}",
            "title": f"{CATEGORIES[(number + shift) % 3]} thing number {number} of {version}",
            "category": CATEGORIES[(number + shift) % 3],
            "price": None if number % 10 == 0 else float((number * 7 + shift) % 50),
            "stock": (number * 3 + shift) % 40,
            "is_new": (number + shift) % 5 == 0,
            "tags": ["even"] if number % 2 == 0 else ["odd", "solo"] if number % 3 else [],
            "popularity": (number * 37 + shift) % 101,
        }
        for number in NUMBERS[version]
    ]


def _add_hllm(store: ModelStore, items: pa.Table, *, seed: int, factory: str) -> BundleManifest:
    torch.manual_seed(seed)
    titles = items.column("title").to_pylist()
    item_backbone, user_backbone = (
        load_backbone("preset:tiny", tokenizer_corpus=corpus, hidden_size=_DIM, num_layers=1, num_heads=2)
        for corpus in (titles, None)
    )
    config = HLLMConfig(embedding_dim=_DIM, max_history_length=HLLM_WINDOW, has_time_features=True)
    model = build_hllm(config=config, item_backbone=item_backbone, user_backbone=user_backbone)
    with store.staging() as staged:
        save_hllm(model, staged)
        manifest = store.add_model(staged, kind="hllm", embedding_dim=_DIM, item_tower_hash=item_tower_hash(staged))
    vectors = np.random.default_rng(seed).normal(size=(len(items), _DIM)).astype(np.float32)
    built = build_index(vectors, factory=factory, recall_target=0.2)
    with store.staging() as staged:
        pq.write_table(items, staged / ITEMS_FILE)
        save_file({EMBEDDINGS_TENSOR: vectors}, staged / EMBEDDINGS_FILE)
        save_index(built.index, staged / INDEX_FILE)
        (staged / "report.json").write_text("{}")
        return store.add_bundle(
            staged,
            model=manifest,
            num_items=len(items),
            index_factory=built.factory,
            index_parameters=built.parameters,
            index_recall=built.recall,
            parent=None,
        )


@dataclass(frozen=True)
class World:
    """What all examples share.

    Attributes:
        versions: By bundle id.
        first: The bundles that are live at the beginning, by kind.
    """

    store: ModelStore
    redis: RedisProcess
    settings: Settings
    versions: Mapping[str, Version]
    first: Mapping[str, str]

    def of_kind(self, kind: str) -> list[str]:
        """The bundles of a kind."""
        return [bundle_id for bundle_id, version in self.versions.items() if version.kind == kind]


def build_world(directory: Path, redis: RedisProcess, settings: Settings) -> World:
    """Makes the bundles: exact indexes, but for one that looks into few of its cells and so falls short.

    The settings want ``service.wiring._MIB`` to be 1.
    """
    store = ModelStore(directory / "store")
    versions: dict[str, Version] = {}
    first: dict[str, str] = {}
    for seed, name in enumerate(NUMBERS):
        rows = catalogue(name)
        items = pa.Table.from_pylist(rows)
        hllm = _add_hllm(store, items, seed=seed, factory="Flat" if name == "A" else "IVF16,Flat")
        for manifest in (hllm, add_hatllm(store, small_hatllm(seed=seed), items=items)):
            bundle = open_bundle(store, manifest.bundle_id)
            vectors = bundle.embeddings
            versions[manifest.bundle_id] = Version(
                manifest.bundle_id,
                manifest.model_id,
                manifest.kind,
                {row["item_id"]: row for row in rows},
                vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
                {row["item_id"]: at for at, row in enumerate(rows)},
                HLLM_WINDOW if manifest.kind == "hllm" else HAT_WINDOW,
                make_user_encoder(bundle),
            )
            first.setdefault(manifest.kind, manifest.bundle_id)
            store.publish(manifest.bundle_id)
    (directory / "scenarios.yaml").write_text(SCENARIOS)
    changed = {
        "store": str(store.root),
        "redis_url": redis.url,
        "redis_timeout_seconds": 0.5,
        "history_max_events": MAX_EVENTS,
        "queue_max_users": 2_000,
        "decision_max_mb": 0,
        "state_cache_mb": STATE_BYTES,
        "last_known_mb": LAST_KNOWN_BYTES,
        "scenarios": directory / "scenarios.yaml",
    }
    return World(store, redis, settings.model_copy(update=changed), versions, first)


class Shop:
    """A running application with everything behind it; its event loop runs while something is asked."""

    client: httpx2.AsyncClient
    service: RunningService

    def __init__(self, world: World) -> None:
        self.world = world
        self.redis_state = "up"
        self._mending: list[Callable[[], None]] = []
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        with world.redis.client() as client:
            client.flushall()
        for bundle_id in world.first.values():
            world.store.publish(bundle_id)
        self._runner.run(self._open())

    async def _open(self) -> None:
        app, self.client = await self._stack.enter_async_context(running_app(self.world.settings))
        self.service = app.state.service

    def close(self) -> None:
        """Ends it."""
        self._runner.run(self._stack.aclose())
        self._runner.close()

    def ask(self, *requests: tuple[str, str, Any]) -> list[httpx2.Response]:
        """Sends requests (method, path, body) at once."""

        async def all_of_them() -> list[httpx2.Response]:
            return list(
                await asyncio.gather(*(self.client.request(method, path, json=body) for method, path, body in requests))
            )

        return self._runner.run(all_of_them())

    def num_repeated(self) -> int:
        """Answers so far that were those of an earlier request, by the service's own count."""
        labels = {"step": "model", "reason": "repeated"}
        return int(self.service.metrics.registry.get_sample_value("hatstand_ladder_steps_total", labels) or 0)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is broken."""
        return not self._mending and self.redis_state == "up"

    @property
    def _bundles(self) -> LiveBundles:
        return self.service.bundles

    def set_redis(self, state: str) -> None:
        """``up``, ``down`` (killed) or ``hung`` (stopped)."""
        redis, before = self.world.redis, self.redis_state
        if state == before:
            return
        if before == "hung":
            redis.send(signal.SIGCONT)
        if before == "down":
            redis.start()
        if state == "hung":
            redis.send(signal.SIGSTOP)
        elif state == "down":
            redis.kill()
        self.redis_state = state

    def spoil(self, kind: str) -> None:
        """All that the model computes is NaN."""
        encoder = self._bundles.get(kind).encoder
        network = model_of(encoder)
        weights = {name: weight.clone() for name, weight in network.state_dict().items()}
        self._mending.append(lambda: _put_back(network, weights))
        poison(encoder)

    def cripple(self, kind: str) -> None:
        """The model raises."""
        linear = [
            one for one in model_of(self._bundles.get(kind).encoder).modules() if isinstance(one, torch.nn.Linear)
        ]
        for module in linear:
            self._mending.append(partial(setattr, module, "weight", module.weight))
            module.weight = torch.nn.Parameter(torch.zeros(3, 3))

    def slow_down(self, kind: str) -> None:
        """Each forward pass takes longer than most requests wait for it."""
        modules = model_of(self._bundles.get(kind).encoder).named_modules()
        module = next(one for name, one in modules if name.endswith("q_proj"))
        self._mending.append(module.register_forward_pre_hook(lambda *_: time.sleep(_SLOW_SECONDS)).remove)

    def break_index(self, kind: str) -> None:
        """The index raises, whatever is searched."""
        served = self._bundles.get(kind)
        bundle, index = served.bundle, served.bundle.index
        self._mending.append(lambda: object.__setattr__(bundle, "index", index))
        object.__setattr__(bundle, "index", with_wrong_index(served).bundle.index)

    def mend(self) -> None:
        """All but Redis is whole again."""
        while self._mending:
            self._mending.pop()()


def _put_back(network: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, weight in network.state_dict().items():
            weight.copy_(weights[name])
