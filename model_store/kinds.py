"""Opening a model directory whatever kind it holds; ``config.json`` names the kind."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from model_store.backbone.model_files import read_settings
from model_store.hatllm import config as hatllm_config
from model_store.hatllm import files as hatllm_files
from model_store.hllm import files as hllm_files
from model_store.hllm import network as hllm

_FILES: dict[str, Any] = {hllm.KIND: hllm_files, hatllm_config.KIND: hatllm_files}
_LOADERS: dict[str, Any] = {hllm.KIND: hllm_files.load_hllm, hatllm_config.KIND: hatllm_files.load_hatllm}
ALL_PARTS = frozenset({"item", "user"})


def read_kind(directory: Path) -> str:
    """The kind of model that a directory holds.

    Raises:
        ArtifactNotFound: There is no ``config.json``.
        ArtifactCorrupt: It is not JSON.
        ArtifactIncompatible: This release knows no such kind.
    """
    return str(read_settings(Path(directory), _LOADERS)["kind"])


def load_model(
    directory: Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    parts: Collection[str] = ALL_PARTS,
) -> torch.nn.Module:
    """Loads a model, in evaluation mode.

    Args:
        directory: Of the model.
        device: Where to put it.
        dtype: Of its weights.
        parts: ``item``, ``user`` or both; a side that is not asked for takes no memory.
    """
    model: torch.nn.Module = _LOADERS[read_kind(directory)](Path(directory), device=device, dtype=dtype, parts=parts)
    return model


def item_tower_hash(directory: Path) -> str:
    """Names what the item embeddings of this model depend on; see the kind's own function."""
    digest: str = _FILES[read_kind(directory)].item_tower_hash(Path(directory))
    return digest
