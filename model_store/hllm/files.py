"""An HLLM as a directory, and back; saved equals loaded.

::

    config.json            HLLMConfig
    item_llm/ user_llm/    Hugging Face directories: base models (safetensors); with the item's its tokenizer
    adapter/{item,user}_llm/   LoRA, if any (peft)
    heads.safetensors      what else was learned: [ITEM], joint, item vectors, time features, logit scale
    known_items.parquet    item_id of each row of the item vectors
"""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path

import torch

from model_store.backbone.item_vectors import ItemVectors
from model_store.backbone.load import Backbone, load_directory
from model_store.backbone.lora import load_adapter, merge_lora, save_weights
from model_store.backbone.model_files import (
    CONFIG_FILE,
    check_finite,
    digest_folders,
    digest_heads,
    fill_heads,
    read_known_item_ids,
    read_settings,
    save_heads,
    save_known_item_ids,
    save_tokenizer,
    write_json,
)
from model_store.catalogue.item_text import ItemTokenizer
from model_store.errors import ArtifactIncompatible
from model_store.hllm.network import HLLM, KIND, HLLMConfig, ItemLLM, UserLLM, build_user_llm

ALL_PARTS = frozenset({"item", "user"})
_LANGUAGE_MODELS = ("backbone",)
ITEM_FOLDERS = ("item_llm", "adapter/item_llm")
_ITEM_HEADS = ("item_llm.", "item_vectors.")
_TEXT_SETTINGS = ("item_input", "text_fields", "item_prompt", "max_text_tokens", "pooling", "embedding_dim")


def save_hllm(model: HLLM, directory: Path) -> None:
    """Writes a whole model (both sides) into a directory, which is made if need be.

    Args:
        model: With both sides; on any device.
        directory: Existing files of the same names are replaced.

    Raises:
        ArtifactIncompatible: A side of the model was not loaded.
    """
    config = model.config
    item_llm, user_llm = model.item_llm, model.user_llm
    lacks_item_side = config.item_input == "text" and (item_llm is None or model.item_tokenizer is None)
    if user_llm is None or lacks_item_side or (config.has_item_vectors and model.item_vectors is None):
        raise ArtifactIncompatible(f"{directory}: only a part of the model was loaded, so it cannot be saved")
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / CONFIG_FILE, config.to_dict())
    if isinstance(user_llm, UserLLM):
        save_weights(user_llm.backbone, directory / "user_llm", adapter_directory=directory / "adapter/user_llm")
    if item_llm is not None and model.item_tokenizer is not None:
        save_weights(item_llm.backbone, directory / "item_llm", adapter_directory=directory / "adapter/item_llm")
        save_tokenizer(model.item_tokenizer.tokenizer, directory / "item_llm")
    if model.item_vectors is not None:
        save_known_item_ids(model.item_vectors.known_item_ids, directory)
    save_heads(model, directory, without=_LANGUAGE_MODELS)


def load_hllm(
    directory: Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    parts: Collection[str] = ALL_PARTS,
    merge_adapters: bool = False,
    item_backbone: Backbone | None = None,
) -> HLLM:
    """Loads a model directory, in evaluation mode.

    Args:
        directory: Written by :func:`save_hllm`.
        device: Where to put it.
        dtype: Of the weights; ``logit_scale`` stays float32.
        parts: ``item`` and/or ``user``; the other side stays None and takes neither time nor memory.
        merge_adapters: Fold LoRA into the weights: faster, no longer trainable apart from them.
        item_backbone: The Item LLM where it is shared with other models, and not in the directory.

    Raises:
        ArtifactNotFound: A file is missing.
        ArtifactIncompatible: It was written by another release or is of another kind.
        ArtifactCorrupt: A file cannot be read, or its tensors do not fit.
    """
    directory = Path(directory)
    config = read_config(directory)
    item_llm = item_tokenizer = item_vectors = user_llm = None
    if "item" in parts and config.item_input == "text":
        item_backbone = item_backbone or load_item_backbone(directory, dtype=dtype, merge_adapters=merge_adapters)
        item_llm = ItemLLM(item_backbone, config)
        assert item_backbone.tokenizer is not None  # load_directory refused it otherwise
        item_tokenizer = ItemTokenizer(item_backbone.tokenizer, config)
    if "item" in parts and config.has_item_vectors:
        item_vectors = ItemVectors(read_known_item_ids(directory), config.embedding_dim)
    if "user" in parts:
        backbone = None
        if config.user_model == "llm":
            backbone = _backbone(directory, "user_llm", dtype=dtype, merge_adapters=merge_adapters)
        user_llm = build_user_llm(backbone, config)
    model = HLLM(config, item_llm=item_llm, item_tokenizer=item_tokenizer, user_llm=user_llm, item_vectors=item_vectors)
    fill_heads(model, directory, dtype, without=_LANGUAGE_MODELS)
    check_finite(model.state_dict(), directory)
    return model.to(device).eval()


def load_item_backbone(directory: Path, *, dtype: torch.dtype, merge_adapters: bool = False) -> Backbone:
    """Loads the Item LLM of a model directory, with its tokenizer and adapters."""
    return _backbone(directory, "item_llm", dtype=dtype, merge_adapters=merge_adapters)


def _backbone(directory: Path, name: str, *, dtype: torch.dtype, merge_adapters: bool) -> Backbone:
    loaded = load_directory(directory / name, dtype=dtype, with_tokenizer=name == "item_llm")
    adapted = load_adapter(loaded, directory / "adapter" / name)
    if merge_adapters:
        adapted.model = merge_lora(adapted.model)
    return adapted


def read_config(directory: Path) -> HLLMConfig:
    """Reads ``config.json``."""
    return HLLMConfig.from_dict(read_settings(directory, {KIND}))


def item_tower_hash(directory: Path) -> str:
    """Names what item embeddings depend on; equal for two models that embed every item alike.

    Args:
        directory: A model directory. Of it count the Item LLM with its tokenizer and adapters, [ITEM], joint,
            item vectors and the settings of the text; not the User LLM, time features or temperature.

    Returns:
        SHA-256 in hexadecimal.
    """
    directory = Path(directory)
    config = read_config(directory).to_dict()
    digest = hashlib.sha256()
    digest.update(json.dumps({name: config[name] for name in _TEXT_SETTINGS}, sort_keys=True).encode())
    digest_folders(directory, ITEM_FOLDERS, digest)
    if config["has_item_vectors"]:
        digest.update(json.dumps(read_known_item_ids(directory)).encode())
    digest_heads(directory, _ITEM_HEADS, digest)
    return digest.hexdigest()
