"""The checkpoints that HLLM's authors released, as model directories.

Each is one pickle of the whole training module: ``item_llm.*`` and ``user_llm.*`` (language models with their heads),
``item_emb_tokens`` (1, 1, H) and ``logit_scale``. Only tensors are unpickled (``weights_only``), the LM heads and the
user model's word embeddings are left out, and the result is checked by loading it.
"""

import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, LlamaConfig, PreTrainedConfig

from model_store.backbone.load import Backbone, load_backbone, load_tokenizer, quiet_progress
from model_store.errors import ArtifactCorrupt, ArtifactIncompatible, ArtifactNotFound
from model_store.hllm.network import HLLM, HLLMConfig, build_hllm

_DROPPED = ("lm_head.", "pooler.", "cls.")
_DROPPED_ENDINGS = ("rotary_emb.inv_freq", "position_ids")
_WORDS = ("embed_tokens.weight", "embeddings.word_embeddings.weight")
_LAYER = re.compile(r"(?:encoder\.)?layers?\.(\d+)\.")
_PACKED = ".self_attn.W_pack.weight"  # Baichuan keeps query, key and value in one matrix


@dataclass(frozen=True)
class Conversion:
    """What a checkpoint does not say about itself.

    Attributes:
        item_llm: Hugging Face directory (configuration and tokenizer; weights are not read) of the Item LLM.
        user_llm: The same of the User LLM; only its configuration is read.
        tokenizer: Directory of the tokenizer, if it is not in ``item_llm``.
        text_fields: Names and order of the fields that the model was trained on.
        max_text_tokens: As trained; the released ones: 256.
        max_history_length: As trained; the released ones: 10 (Pixel8M) or 50 (Books).
    """

    item_llm: Path
    user_llm: Path
    tokenizer: Path | None = None
    text_fields: tuple[str, ...] = ("title", "tag", "description")
    max_text_tokens: int = 256
    max_history_length: int = 50


def convert_checkpoint(checkpoint: Path, conversion: Conversion, *, scratch: Path) -> HLLM:
    """Reads a released checkpoint.

    Args:
        checkpoint: ``pytorch_model.bin``, or a directory with one or with several parts of one.
        conversion: What else there is to know.
        scratch: An empty directory, used on the way; it must live as long as the model is used.

    Returns:
        The model in the checkpoint's precision, in evaluation mode.

    Raises:
        ArtifactNotFound: No such checkpoint or configuration.
        ArtifactCorrupt: Not a pickle of tensors.
        ArtifactIncompatible: Not an HLLM, or not of this architecture.
    """
    tensors = _read_tensors(checkpoint)
    item = _write_side(tensors, "item_llm", conversion.item_llm, scratch / "item_llm")
    user = _write_side(tensors, "user_llm", conversion.user_llm, scratch / "user_llm")
    tokenizer_directory = conversion.tokenizer or conversion.item_llm
    item.tokenizer = load_tokenizer(str(tokenizer_directory))
    if item.tokenizer is None:
        raise ArtifactNotFound(f"{tokenizer_directory}: no tokenizer files")
    item_token = tensors.get("item_emb_tokens")
    config = HLLMConfig(
        embedding_dim=user.hidden_size,
        text_fields=conversion.text_fields,
        max_text_tokens=conversion.max_text_tokens,
        max_history_length=conversion.max_history_length,
        pooling="mean" if item_token is None else "item_token",
    )
    model = build_hllm(config=config, item_backbone=item, user_backbone=user)
    _fill(model, item_token=item_token, logit_scale=tensors.get("logit_scale"))
    return model.eval()


def _fill(model: HLLM, *, item_token: torch.Tensor | None, logit_scale: torch.Tensor | None) -> None:
    assert model.item_llm is not None
    if item_token is not None:
        width = model.config.embedding_dim
        if item_token.numel() != width:
            raise ArtifactIncompatible(f"item_emb_tokens is {tuple(item_token.shape)}, expected one of {width} values")
        model.item_llm.item_token = torch.nn.Parameter(item_token.detach().clone().reshape(width))
    if logit_scale is not None:
        model.logit_scale = torch.nn.Parameter(logit_scale.detach().float().reshape(()))


def _read_tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """All tensors by their name below the module, without the prefixes that training wrappers add."""
    paths = sorted(checkpoint.glob("pytorch_model*.bin")) if checkpoint.is_dir() else [checkpoint]
    if not paths or not paths[0].is_file():
        raise ArtifactNotFound(f"{checkpoint}: no pytorch_model.bin, nor a directory with one")
    found: dict[str, torch.Tensor] = {}
    for path in paths:
        found |= _unpickle(path)
    anchor = next((name for name in found if "item_llm." in name), None)
    if anchor is None or not any("user_llm." in name for name in found):
        raise ArtifactIncompatible(f"{checkpoint}: no tensors item_llm.* and user_llm.*, so no released HLLM")
    prefix = anchor[: anchor.index("item_llm.")]
    return {name.removeprefix(prefix): tensor for name, tensor in found.items()}


def _unpickle(path: Path) -> dict[str, torch.Tensor]:
    try:
        with warnings.catch_warnings():  # of a pickle protocol that may not be readable: it is, or it is refused below
            warnings.simplefilter("ignore", UserWarning)
            # mapped where the format allows, so that a 7B checkpoint is not held twice
            content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # damaged pickles fail with whatever the next byte happens to mean
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ArtifactCorrupt(f"{path}: not a pickle of tensors alone: {reason[0][:200]}") from error
    for wrapper in ("state_dict", "module", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise ArtifactIncompatible(f"{path}: holds a {type(content).__name__}, expected names and tensors")
    return {name: tensor for name, tensor in content.items() if isinstance(tensor, torch.Tensor)}


def _write_side(tensors: Mapping[str, torch.Tensor], side: str, source: Path, directory: Path) -> Backbone:
    """Writes one language model as a Hugging Face directory and loads that, which checks it."""
    config = _read_config(source)
    weights = _base_weights(tensors, side)
    words = next((name for name in _WORDS if name in weights), None)
    if side == "user_llm" and words is not None:
        weights[words] = torch.zeros(1, config.hidden_size, dtype=weights[words].dtype)
        config.pad_token_id = config.bos_token_id = config.eos_token_id = None
    if words is not None:
        config.vocab_size = weights[words].shape[0]
    layers = {found[1] for name in weights if (found := _LAYER.match(name))}
    if len(layers) != config.num_hidden_layers:
        raise ArtifactIncompatible(
            f"{side} of the checkpoint has {len(layers)} layers, {source} says {config.num_hidden_layers}"
        )
    directory.mkdir(parents=True)
    config.architectures = None
    config.save_pretrained(directory)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, directory / "model.safetensors")
    with quiet_progress():
        return load_backbone(directory, dtype=next(iter(weights.values())).dtype)


def _base_weights(tensors: Mapping[str, torch.Tensor], side: str) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = {}
    for full_name, tensor in tensors.items():
        if not full_name.startswith(f"{side}."):
            continue
        name = full_name.removeprefix(f"{side}.").removeprefix("model.").removeprefix("bert.")
        if name.startswith(_DROPPED) or name.endswith(_DROPPED_ENDINGS):
            continue
        if name.endswith(_PACKED):
            for part, matrix in zip("qkv", tensor.chunk(3), strict=True):
                # a copy: three views of one storage cannot be saved side by side
                weights[name.replace("W_pack", f"{part}_proj")] = matrix.clone()
        else:
            weights[name] = tensor
    return weights


def _read_config(source: Path) -> PreTrainedConfig:
    path = source / "config.json"
    if not path.is_file():
        raise ArtifactNotFound(f"{path}: no such file, expected a Hugging Face model directory")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.get("model_type") != "baichuan":
            return AutoConfig.from_pretrained(str(source), trust_remote_code=False)
    except (ValueError, KeyError, AttributeError) as error:
        raise ArtifactIncompatible(f"{path}: not a model's configuration: {str(error)[:200]}") from error
    # Baichuan2-7B is a Llama in all but the packed attention matrix and its LM head
    if values.get("hidden_size") == 5120:
        raise ArtifactIncompatible(f"{source}: of the Baichuan models only 7B has rotary positions")
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "rms_norm_eps")
    positions = values.get("max_position_embeddings") or values.get("model_max_length") or 4096
    return LlamaConfig(**{name: values[name] for name in names}, max_position_embeddings=positions)
