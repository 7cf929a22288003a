"""A catalogue and HLLMs small enough to embed in milliseconds; random weights, real tokenizers."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import torch

from model_store.artifacts.manifest import ModelManifest
from model_store.artifacts.store import ModelStore
from model_store.backbone.load import load_backbone
from model_store.catalogue.catalogue import Catalogue
from model_store.hatllm import files as hatllm_files
from model_store.hatllm.network import HatLLM
from model_store.hllm.files import item_tower_hash, save_hllm
from model_store.hllm.network import HLLM, HLLMConfig, build_hllm

COLOURS = ("red", "green", "blue", "black", "white", "pale", "dark", "bright")
THINGS = ("hat", "coat", "scarf", "glove", "boot", "umbrella", "walking stick with a silver knob")


def shop_table(num_items: int, *, changed: Sequence[int] = ()) -> pa.Table:
    """Items of different lengths; those whose row is in ``changed`` have another title."""
    titles = [
        f"{COLOURS[row % 8]} {THINGS[row % 7]} no {row}" + (" renewed" if row in changed else "")
        for row in range(num_items)
    ]
    return pa.table({"item_id": [f"i{row}" for row in range(num_items)], "title": titles})


def shop_catalogue(num_items: int, *, changed: Sequence[int] = ()) -> Catalogue:
    return Catalogue.from_table(shop_table(num_items, changed=changed))


def small_hllm(*, known_item_ids: Sequence[str] = (), item_input: str = "text", seed: int = 0) -> HLLM:
    torch.manual_seed(seed)
    shape = {"hidden_size": 16, "num_layers": 1, "num_heads": 2}
    corpus = [str(title) for title in shop_table(100)["title"].to_pylist()]
    is_text = item_input == "text"
    config = HLLMConfig(
        embedding_dim=16,
        item_input="text" if is_text else "id",
        max_text_tokens=128,
        max_history_length=10,
        has_item_vectors=bool(known_item_ids),
    )
    model = build_hllm(
        config=config,
        item_backbone=load_backbone("preset:tiny", tokenizer_corpus=corpus, **shape) if is_text else None,
        user_backbone=load_backbone("preset:tiny", **shape),
        known_item_ids=known_item_ids,
    ).eval()
    if known_item_ids and model.item_vectors is not None:
        torch.nn.init.normal_(model.item_vectors.weight, std=0.1)
    return model


def add_small_model(store: ModelStore, model: HLLM, **training: object) -> ModelManifest:
    with store.staging() as staged:
        save_hllm(model, staged)
        return store.add_model(
            staged,
            kind=model.config.kind,
            embedding_dim=model.config.embedding_dim,
            item_tower_hash=item_tower_hash(staged),
            training=training,
        )


def add_hatllm(store: ModelStore, model: HatLLM, *, tower: Path | None = None) -> ModelManifest:
    with store.staging() as staged:
        hatllm_files.save_hatllm(model, staged, item_tower_directory=tower)
        return store.add_model(
            staged,
            kind="hatllm",
            embedding_dim=model.config.embedding_dim,
            item_tower_hash=hatllm_files.item_tower_hash(staged),
        )
