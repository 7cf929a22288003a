"""HatLLMs small enough to run in milliseconds, of every family, on a made catalogue of titles."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model_store.backbone.layered_attention import LAYERED
from model_store.backbone.load import load_backbone
from model_store.catalogue.item_states import ItemTokens
from model_store.catalogue.item_text import TokenBatch
from model_store.hatllm.config import HatLLMConfig
from model_store.hatllm.files import save_hatllm
from model_store.hatllm.network import HatLLM, build_hatllm
from model_store.hllm.network import HLLM
from tests.model_store.models import make_directory

TITLES = [
    f"{colour} {thing} number {n}" + " with a very long tail" * (n % 3)
    for n in range(5)
    for colour in ("red", "blue")
    for thing in ("shoe", "hat")
]


def make_hatllm(
    directory: Path, *, family: str = "llama", seed: int = 0, item_tower: HLLM | None = None, **settings: object
) -> HatLLM:
    """6 layers (2 IN, 2 OR, 2 CR unless told otherwise), random but not tiny weights."""
    torch.manual_seed(seed)
    source = make_directory(family, directory / f"{family}-base")
    backbone = load_backbone(str(source), random_init=True, num_layers=6, attention=LAYERED)
    for parameter in backbone.model.parameters():  # the usual initialisation is so small that differences vanish
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.15)
    values: dict[str, Any] = {
        "embedding_dim": 16,
        "in_layers": 2,
        "cr_layers": 2,
        "max_item_tokens": 12,
        "max_history_length": 8,
        "modes": ("retrieve", "generate"),
        "item_tower": "self" if item_tower is None else "hllm",
        **settings,
    }
    config = HatLLMConfig(**values)
    built = build_hatllm(config=config, backbone=backbone, known_item_ids=("i1", "i2"), item_tower=item_tower)
    return built.eval()


def title_tokens(model: HatLLM, titles: list[str] = TITLES) -> TokenBatch:
    return model.item_tokenizer.collate(model.item_tokenizer.encode(titles))


@dataclass(frozen=True)
class HatItems:
    """What an encoder needs of a bundle."""

    model_directory: Path
    item_tokens: ItemTokens
    item_states: torch.Tensor | None


def make_items(model: HatLLM, directory: Path, titles: list[str] = TITLES) -> HatItems:
    """Saves the model and computes its items' states."""
    save_hatllm(model, directory)
    encoded = model.item_tokenizer.encode(titles)
    offsets = np.cumsum([0, *map(len, encoded)])
    tokens = ItemTokens(np.array([token for ids in encoded for token in ids], dtype=np.int32), offsets)
    states = None
    if model.runs_fast:
        with torch.no_grad():
            padded = model.item_states(model.item_tokenizer.collate(encoded))
        states = torch.cat([row[: len(ids)] for row, ids in zip(padded, encoded, strict=True)])
    return HatItems(directory, tokens, states)
