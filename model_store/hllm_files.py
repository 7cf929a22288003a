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
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from model_store.backbone import Backbone, load_directory
from model_store.errors import ArtifactCorrupt, ArtifactIncompatible, ArtifactNotFound
from model_store.hllm import HLLM, KIND, HLLMConfig, ItemLLM, ItemVectors, build_user_llm
from model_store.item_text import ItemTokenizer
from model_store.lora import load_adapter, merge_lora, save_weights

ALL_PARTS = frozenset({"item", "user"})
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
    _write_json(directory / "config.json", config.to_dict())
    save_weights(user_llm.backbone, directory / "user_llm", adapter_directory=directory / "adapter/user_llm")
    if item_llm is not None and model.item_tokenizer is not None:
        save_weights(item_llm.backbone, directory / "item_llm", adapter_directory=directory / "adapter/item_llm")
        _save_tokenizer(model.item_tokenizer, directory / "item_llm")
    if model.item_vectors is not None:
        ids = pa.table({"item_id": pa.array(model.item_vectors.known_item_ids, pa.string())})
        pq.write_table(ids, directory / "known_items.parquet")
    heads = {name: tensor.detach().cpu().contiguous() for name, tensor in _heads(model).items()}
    save_file(heads, directory / "heads.safetensors", metadata={"format": "pt"})


def load_hllm(
    directory: Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    parts: Collection[str] = ALL_PARTS,
    merge_adapters: bool = False,
) -> HLLM:
    """Loads a model directory, in evaluation mode.

    Args:
        directory: Written by :func:`save_hllm`.
        device: Where to put it.
        dtype: Of the weights; ``logit_scale`` stays float32.
        parts: ``item`` and/or ``user``; the other side stays None and takes neither time nor memory.
        merge_adapters: Fold LoRA into the weights: faster, no longer trainable apart from them.

    Raises:
        ArtifactNotFound: A file is missing.
        ArtifactIncompatible: It was written by another release or is of another kind.
        ArtifactCorrupt: A file cannot be read, or its tensors do not fit.
    """
    directory = Path(directory)
    config = read_config(directory)

    def backbone(name: str, *, with_tokenizer: bool) -> Backbone:
        loaded = load_directory(directory / name, dtype=dtype, with_tokenizer=with_tokenizer)
        adapted = load_adapter(loaded, directory / "adapter" / name)
        if merge_adapters:
            adapted.model = merge_lora(adapted.model)
        return adapted

    item_llm = item_tokenizer = item_vectors = user_llm = None
    if "item" in parts and config.item_input == "text":
        item_backbone = backbone("item_llm", with_tokenizer=True)
        item_llm = ItemLLM(item_backbone, config)
        assert item_backbone.tokenizer is not None  # load_directory refused it otherwise
        item_tokenizer = ItemTokenizer(item_backbone.tokenizer, config)
    if "item" in parts and config.has_item_vectors:
        item_vectors = ItemVectors(read_known_item_ids(directory), config.embedding_dim)
    if "user" in parts:
        user_llm = build_user_llm(backbone("user_llm", with_tokenizer=False), config)
    model = HLLM(config, item_llm=item_llm, item_tokenizer=item_tokenizer, user_llm=user_llm, item_vectors=item_vectors)
    _fill_heads(model, directory / "heads.safetensors", dtype)
    return model.to(device).eval()


def read_config(directory: Path) -> HLLMConfig:
    """Reads ``config.json``."""
    path = directory / "config.json"
    if not path.is_file():
        raise ArtifactNotFound(f"{path}: no such file, expected a model directory")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactCorrupt(f"{path}: not JSON: {error}") from error
    if not isinstance(values, dict) or values.get("kind") != KIND:
        raise ArtifactIncompatible(f"{path}: not a model of kind {KIND!r}")
    return HLLMConfig.from_dict(values)


def read_known_item_ids(directory: Path) -> list[str]:
    """Ids of the items with a learned vector, by row."""
    path = directory / "known_items.parquet"
    if not path.is_file():
        raise ArtifactNotFound(f"{path}: no such file, but the model has item vectors")
    try:
        ids: list[str] = pq.read_table(path, columns=["item_id"])["item_id"].to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ArtifactCorrupt(f"{path}: {error}") from error
    return ids


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
    for folder in (directory / "item_llm", directory / "adapter/item_llm"):
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest.update(f"\0{path.relative_to(directory).as_posix()}\0".encode())
            _digest_file(path, digest)
    if config["has_item_vectors"]:
        digest.update(json.dumps(read_known_item_ids(directory)).encode())
    with _open_heads(directory / "heads.safetensors") as heads:
        for name in sorted(name for name in heads.keys() if name.startswith(_ITEM_HEADS)):  # noqa: SIM118
            digest.update(f"\0{name}\0".encode())
            digest.update(heads.get_tensor(name).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _save_tokenizer(tokenizer: ItemTokenizer, directory: Path) -> None:
    tokenizer.tokenizer.save_pretrained(directory)
    state_path = directory / "tokenizer.json"
    if state_path.exists():  # a slow tokenizer has none
        state = json.loads(state_path.read_text(encoding="utf-8"))
        # what the last call asked for, kept by the library: a model must not change its hash by being used
        _write_json(state_path, {**state, "truncation": None, "padding": None})
    path = directory / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    for name in ("is_local", "local_files_only", "name_or_path"):  # how it was loaded: no part of the model
        settings.pop(name, None)
    _write_json(path, settings)


def _digest_file(path: Path, digest: Any) -> None:
    if path.name == "config.json":  # which release of the library wrote it does not change what it computes
        values = json.loads(path.read_text(encoding="utf-8"))
        values.pop("transformers_version", None)
        digest.update(json.dumps(values, sort_keys=True).encode())
        return
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)


def _heads(model: HLLM) -> dict[str, torch.Tensor]:
    """Learned tensors outside the two backbones, by their name in the module tree."""
    return {name: tensor for name, tensor in model.state_dict().items() if ".backbone." not in name}


def _fill_heads(model: HLLM, path: Path, dtype: torch.dtype) -> None:
    own = _heads(model)
    with _open_heads(path) as heads, torch.no_grad():
        if missing := sorted(set(own) - set(heads.keys())):
            raise ArtifactCorrupt(f"{path}: tensors missing: {', '.join(missing)}")
        for name, module, attribute in _owners(model, own):
            tensor = heads.get_tensor(name)
            if tensor.shape != own[name].shape:
                raise ArtifactCorrupt(f"{path}: {name} is {tuple(tensor.shape)}, expected {tuple(own[name].shape)}")
            kept = torch.float32 if name == "logit_scale" else dtype
            setattr(module, attribute, torch.nn.Parameter(tensor.to(kept)))


def _owners(model: HLLM, names: Collection[str]) -> Iterator[tuple[str, torch.nn.Module, str]]:
    for name in names:
        path, _, attribute = name.rpartition(".")
        yield name, model.get_submodule(path), attribute


def _open_heads(path: Path) -> Any:
    if not path.is_file():
        raise ArtifactNotFound(f"{path}: no such file")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ArtifactCorrupt(f"{path}: {error}") from error


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
