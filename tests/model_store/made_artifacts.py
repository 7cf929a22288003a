"""Small but real models and bundles for the tests of the store."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from model_store.artifacts.manifest import BundleManifest, ModelManifest
from model_store.artifacts.store import ModelStore
from model_store.index import build_index, save_index

EMBEDDING_DIM = 4


def add_model(store: ModelStore, seed: int = 0, kind: str = "hllm") -> ModelManifest:
    with store.staging() as staged:
        (staged / "config.json").write_text(f'{{"kind": "{kind}", "seed": {seed}}}')
        (staged / "item_llm").mkdir()
        save_file({"w": np.full((2, 2), seed, dtype=np.float32)}, staged / "item_llm/model.safetensors")
        return store.add_model(
            staged,
            kind=kind,
            embedding_dim=EMBEDDING_DIM,
            item_tower_hash=f"tower-{seed}",
            metrics={"recall@10": 0.5},
            training={"seed": seed},
        )


def write_bundle_files(directory: Path, seed: int, num_items: int = 6) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(num_items, EMBEDDING_DIM)).astype(np.float32)
    items = {
        "item_id": [f"i{row}" for row in range(1, num_items + 1)],
        "title": [f"Title {row}" for row in range(1, num_items + 1)],
        "popularity": pa.array(range(num_items), pa.int64()),
    }
    pq.write_table(pa.table(items), directory / "items.parquet")
    save_file({"item_embeddings": vectors}, directory / "item_embeddings.safetensors")
    save_index(build_index(vectors).index, directory / "index.faiss")
    (directory / "report.json").write_text(f'{{"seconds": {np.random.default_rng().random()}}}')
    return vectors


def add_bundle(store: ModelStore, model: ModelManifest, seed: int = 0, num_items: int = 6) -> BundleManifest:
    with store.staging() as staged:
        write_bundle_files(staged, seed)
        return store.add_bundle(
            staged,
            model=model,
            num_items=num_items,
            index_factory="Flat",
            index_parameters={},
            index_recall=1.0,
            parent=store.live().bundles.get(model.kind),
        )
