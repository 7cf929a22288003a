"""A HatLLM as a directory, and back; saved equals loaded.

::

    config.json            HatLLMConfig
    hatllm/                Hugging Face directory: base model (safetensors) and tokenizer
    adapter/hatllm/        LoRA, if any (peft)
    heads.safetensors      user and item head, item vectors, logit scale, a token head of its own
    known_items.parquet    item_id of each row of the item vectors
    item_tower/            the item side of an HLLM, if that embeds the items
"""

import hashlib
import json
import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import torch

from model_store.backbone.item_vectors import ItemVectors
from model_store.backbone.layered_attention import LAYERED
from model_store.backbone.load import load_directory
from model_store.backbone.lora import load_adapter, merge_lora, save_weights
from model_store.backbone.model_files import (
    CONFIG_FILE,
    check_finite,
    digest_folders,
    digest_heads,
    fill_heads,
    open_heads,
    read_known_item_ids,
    read_settings,
    save_heads,
    save_known_item_ids,
    save_tokenizer,
    write_json,
)
from model_store.errors import ArtifactIncompatible
from model_store.hatllm.config import KIND, HatLLMConfig
from model_store.hatllm.network import HatLLM
from model_store.hllm import files as hllm_files
from model_store.hllm.network import HLLM

ALL_PARTS = frozenset({"item", "user"})
_FOLDER = "hatllm"
_TOWER = "item_tower"
_LM_HEAD = "lm_head"
_LANGUAGE_MODELS = ("backbone", _TOWER)
_TOWER_FOLDERS = (_FOLDER, f"adapter/{_FOLDER}")
_TOWER_HEADS = ("item_head.", "item_vectors.")
# what an item's embedding depends on, beside weights; not how the history is cut or what is trained
_TOWER_SETTINGS = (
    "embedding_dim",
    "in_layers",
    "cr_layers",
    "band_order",
    "cr_keys",
    "self_visible_cr",
    "item_end",
    "text_fields",
    "max_item_tokens",
)


def save_hatllm(model: HatLLM, directory: Path, *, item_tower_directory: Path | None = None) -> None:
    """Writes a model into a directory, which is made if need be.

    Args:
        model: On any device.
        directory: Existing files of the same names are replaced.
        item_tower_directory: The model directory of the HLLM that embeds the items; its item side is copied.

    Raises:
        ArtifactIncompatible: The model has an HLLM item tower and its directory is not given.
    """
    has_tower = model.config.item_tower == "hllm"
    if has_tower != (item_tower_directory is not None):
        raise ArtifactIncompatible(f"{directory}: the model has {'an' if has_tower else 'no'} HLLM item tower")
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / CONFIG_FILE, model.config.to_dict())
    save_weights(model.backbone, directory / _FOLDER, adapter_directory=directory / "adapter" / _FOLDER)
    save_tokenizer(model.item_tokenizer.tokenizer, directory / _FOLDER)
    if model.item_vectors is not None:
        save_known_item_ids(model.item_vectors.known_item_ids, directory)
    save_heads(model, directory, without=_LANGUAGE_MODELS)
    if item_tower_directory is not None:
        # the user's side is no part of an item's embedding
        skipped = shutil.ignore_patterns("user_llm", "manifest.json")
        shutil.copytree(item_tower_directory, directory / _TOWER, ignore=skipped, dirs_exist_ok=True)


def load_hatllm(
    directory: Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    parts: Collection[str] = ALL_PARTS,
    merge_adapters: bool = False,
) -> HatLLM:
    """Loads a model directory, in evaluation mode.

    Args:
        directory: Written by :func:`save_hatllm`.
        device: Where to put it.
        dtype: Of the weights; ``logit_scale`` stays float32.
        parts: ``item`` and/or ``user``. The network is one; without ``item``, an HLLM item tower and the item
            vectors stay None.
        merge_adapters: Fold LoRA into the weights: faster, no longer trainable apart from them.

    Raises:
        ArtifactNotFound: A file is missing.
        ArtifactIncompatible: It was written by another release or is of another kind.
        ArtifactCorrupt: A file cannot be read, or its tensors do not fit.
    """
    directory = Path(directory)
    config = read_config(directory)
    base = load_directory(directory / _FOLDER, dtype=dtype, with_tokenizer=True, attention=LAYERED)
    backbone = load_adapter(base, directory / "adapter" / _FOLDER)
    if merge_adapters:
        backbone = replace(backbone, model=merge_lora(backbone.model))
    wants_items = "item" in parts
    tower: HLLM | None = None
    if wants_items and config.item_tower == "hllm":
        tower = hllm_files.load_hllm(directory / _TOWER, device=device, dtype=dtype, parts={"item"})
    vectors: ItemVectors | None = None
    if wants_items and config.has_item_vectors:
        vectors = ItemVectors(read_known_item_ids(directory), config.embedding_dim)
    with open_heads(directory) as heads:
        lm_head = heads.get_tensor(_LM_HEAD) if _LM_HEAD in heads.keys() else None  # noqa: SIM118
    model = HatLLM(config, backbone=backbone, item_vectors=vectors, item_tower=tower, lm_head=lm_head)
    fill_heads(model, directory, dtype, without=_LANGUAGE_MODELS)
    check_finite(model.state_dict(), directory)
    return model.to(device).eval()


def read_config(directory: Path) -> HatLLMConfig:
    """Reads ``config.json``."""
    return HatLLMConfig.from_dict(read_settings(directory, {KIND}))


def item_tower_hash(directory: Path) -> str:
    """Names what item embeddings depend on; equal for two models that embed every item alike.

    Args:
        directory: A model directory. Of it count the whole network (it reads an item like a history of one), the
            item head and vectors; or, with an HLLM item tower, that tower alone.

    Returns:
        SHA-256 in hexadecimal.
    """
    directory = Path(directory)
    config = read_config(directory)
    if config.item_tower == "hllm":
        return hllm_files.item_tower_hash(directory / _TOWER)
    settings = {name: value for name, value in config.to_dict().items() if name in _TOWER_SETTINGS}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest_folders(directory, _TOWER_FOLDERS, digest)
    if config.has_item_vectors:
        digest.update(json.dumps(read_known_item_ids(directory)).encode())
    digest_heads(directory, _TOWER_HEADS, digest)
    return digest.hexdigest()
