"""A small, real shop: models with random weights, bundles made as reindexing makes them, and a real Redis."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fastapi import FastAPI
from safetensors.numpy import save_file

from model_store.artifacts.bundle import EMBEDDINGS_FILE, EMBEDDINGS_TENSOR, INDEX_FILE, ITEMS_FILE
from model_store.artifacts.manifest import BundleManifest, ModelManifest
from model_store.artifacts.store import ModelStore
from model_store.backbone.layered_attention import LAYERED
from model_store.backbone.load import load_backbone
from model_store.catalogue.item_states import STATES_FILE, STATES_TENSOR, TOKENS_FILE
from model_store.hatllm import files as hatllm_files
from model_store.hatllm.config import HatLLMConfig
from model_store.hatllm.network import HatLLM, build_hatllm
from model_store.hllm.files import item_tower_hash, save_hllm
from model_store.hllm.network import HLLMConfig, build_hllm
from model_store.index import build_index, save_index
from service.app import create_app
from service.redis.embedded import EmbeddedRedis
from service.settings import Settings
from tests.processes.redis_processes import RedisProcess, start_cluster

# a url, and whether it is of a cluster
Address = tuple[str, bool]
NUM_ITEMS = 60
HAT_WINDOW = 8
_CATEGORIES = ("Audio", "Books", "Garden")


def shop_items() -> pa.Table:
    """60 items ``i1``..``i60``: every third in one category, prices rising, the first ones most popular."""
    numbers = range(1, NUM_ITEMS + 1)
    return pa.table(
        {
            "item_id": [f"i{number}" for number in numbers],
            "title": [f"{_CATEGORIES[number % 3]} thing number {number}" for number in numbers],
            "category": [_CATEGORIES[number % 3] for number in numbers],
            "price": pa.array([float(number) if number % 10 else None for number in numbers], pa.float64()),
            "stock": pa.array(list(numbers), pa.int64()),
            "is_new": pa.array([number > 50 for number in numbers], pa.bool_()),
            "tags": pa.array([["even"] if number % 2 == 0 else ["odd", "solo"] for number in numbers]),
            "popularity": pa.array([NUM_ITEMS - number for number in numbers], pa.int64()),
        }
    )


def add_small_model(store: ModelStore, *, seed: int = 0, max_history_length: int = 8) -> ModelManifest:
    """An HLLM of the smallest preset with random weights."""
    torch.manual_seed(seed)
    titles = shop_items().column("title").to_pylist()
    item_backbone = load_backbone("preset:tiny", tokenizer_corpus=titles)
    user_backbone = load_backbone("preset:tiny")
    config = HLLMConfig(
        embedding_dim=user_backbone.hidden_size, max_history_length=max_history_length, has_time_features=True
    )
    model = build_hllm(config=config, item_backbone=item_backbone, user_backbone=user_backbone)
    with store.staging() as staged:
        save_hllm(model, staged)
        return store.add_model(
            staged, kind="hllm", embedding_dim=config.embedding_dim, item_tower_hash=item_tower_hash(staged)
        )


def add_small_bundle(
    store: ModelStore, model: ModelManifest, *, items: pa.Table | None = None, seed: int = 0
) -> BundleManifest:
    """A bundle of the shop; embeddings are drawn, as nothing that is tested here depends on the text."""
    items = shop_items() if items is None else items
    vectors = np.random.default_rng(seed).normal(size=(len(items), model.embedding_dim)).astype(np.float32)
    return _add_bundle(store, model, items, vectors)


def small_hatllm(*, modes: tuple[str, ...] = ("retrieve", "generate"), seed: int = 0) -> HatLLM:
    """A HatLLM of six layers (2 IN, 2 OR, 2 CR) with random weights that read 8 items at most."""
    torch.manual_seed(seed)
    titles = shop_items().column("title").to_pylist()
    backbone = load_backbone(
        "preset:tiny", tokenizer_corpus=titles, hidden_size=32, num_layers=6, num_heads=4, attention=LAYERED
    )
    for parameter in backbone.model.parameters():  # the usual initialisation is so small that differences vanish
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.15)
    config = HatLLMConfig(
        embedding_dim=16,
        in_layers=2,
        cr_layers=2,
        max_item_tokens=16,
        max_history_length=HAT_WINDOW,
        modes=modes,  # type: ignore[arg-type]
    )
    return build_hatllm(config=config, backbone=backbone).eval()


def add_hatllm(store: ModelStore, model: HatLLM, *, items: pa.Table | None = None) -> BundleManifest:
    """The model, and a bundle of the shop with real embeddings, tokens and states."""
    with store.staging() as staged:
        hatllm_files.save_hatllm(model, staged)
        manifest = store.add_model(
            staged,
            kind="hatllm",
            embedding_dim=model.config.embedding_dim,
            item_tower_hash=hatllm_files.item_tower_hash(staged),
        )
    items = shop_items() if items is None else items
    token_ids = model.item_tokenizer.encode(items.column("title").to_pylist())
    batch = model.item_tokenizer.collate(token_ids)
    with torch.no_grad():
        vectors = model.encode_item_tokens(batch).numpy()
        states = model.item_states(batch)[batch.attention_mask.bool()]
    tokens = {
        "token_ids": np.concatenate(token_ids).astype(np.int32),
        "offsets": np.cumsum([0, *map(len, token_ids)], dtype=np.int64),
    }
    return _add_bundle(
        store, manifest, items, vectors, {TOKENS_FILE: tokens, STATES_FILE: {STATES_TENSOR: states.numpy()}}
    )


def _add_bundle(
    store: ModelStore,
    model: ModelManifest,
    items: pa.Table,
    vectors: np.ndarray,
    more: Mapping[str, dict[str, np.ndarray]] | None = None,
) -> BundleManifest:
    built = build_index(vectors)
    with store.staging() as staged:
        pq.write_table(items, staged / ITEMS_FILE)
        for name, tensors in {EMBEDDINGS_FILE: {EMBEDDINGS_TENSOR: vectors}, **(more or {})}.items():
            save_file(tensors, staged / name)
        save_index(built.index, staged / INDEX_FILE)
        (staged / "report.json").write_text("{}")
        return store.add_bundle(
            staged,
            model=model,
            num_items=len(items),
            index_factory=built.factory,
            index_parameters=built.parameters,
            index_recall=built.recall,
            parent=None,
        )


@pytest.fixture(scope="session")
def shop_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a live bundle; read only."""
    root = tmp_path_factory.mktemp("shop") / "store"
    store = ModelStore(root)
    bundle = add_small_bundle(store, add_small_model(store))
    store.publish(bundle.bundle_id)
    return root


@pytest.fixture(scope="session")
def both_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a live bundle of each kind, ``hllm`` being the default; read only."""
    root = tmp_path_factory.mktemp("both") / "store"
    store = ModelStore(root)
    for bundle in (add_small_bundle(store, add_small_model(store)), add_hatllm(store, small_hatllm())):
        store.publish(bundle.bundle_id)
    return root


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A real Redis for the whole run; tests use users of their own."""
    server = EmbeddedRedis(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def settings(shop_root: Path, redis_server: EmbeddedRedis) -> Settings:
    return Settings(store=str(shop_root), redis_url=redis_server.url, torch_threads=1)


@pytest.fixture
def both_settings(settings: Settings, both_root: Path) -> Settings:
    return settings.model_copy(update={"store": str(both_root)})


@asynccontextmanager
async def running_app(settings: Settings) -> AsyncIterator[tuple[FastAPI, httpx2.AsyncClient]]:
    """The application with everything behind it, asked in process."""
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app, raise_app_exceptions=False), base_url="http://localhost"
        ) as client,
    ):
        yield app, client


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    async with running_app(settings) as (_, client):
        yield client


@pytest.fixture
async def both_client(both_settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    async with running_app(both_settings) as (_, client):
        yield client


def item_ids(answer: httpx2.Response) -> list[str]:
    """The recommended ids of an answer, best first."""
    assert answer.status_code == 200, answer.text
    return [item["item_id"] for item in answer.json()["items"]]


def event(user_id: str, item_id: str, timestamp: int, **more: object) -> dict[str, object]:
    """One event as it goes over the wire."""
    default_id = f"{item_id}-{timestamp}"
    return {"event_id": default_id, "user_id": user_id, "item_id": item_id, "timestamp": timestamp, **more}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisProcess]]:
    nodes = start_cluster(tmp_path_factory.mktemp("cluster"))
    yield nodes
    for node in nodes:
        node.kill()


@pytest.fixture(params=["standalone", "cluster"])
def address(request: pytest.FixtureRequest, redis_server: EmbeddedRedis) -> Address:
    if request.param == "standalone":
        return redis_server.url, False
    return request.getfixturevalue("cluster")[1].url, True


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisProcess]:
    with RedisProcess(tmp_path / "own") as process:
        yield process
