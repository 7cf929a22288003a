"""Small real models for tests: made here, random, of the families that Hatstand supports."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from model_store.backbone.load import load_backbone, quiet_progress, train_tokenizer
from model_store.hllm.network import HLLM, HLLMConfig, build_hllm

# read here, since the tests themselves see no HATSTAND_ variables
PRETRAINED = os.environ.get("HATSTAND_TEST_WEIGHTS")
needs_pretrained = pytest.mark.skipif(
    not PRETRAINED, reason="HATSTAND_TEST_WEIGHTS names no directory of pre-trained Llama weights"
)
CORPUS = [
    f"title: {colour} {thing} number {n}" for n in range(9) for colour in ("red", "blue") for thing in ("shoe", "hat")
]
_DECODERS = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": 4}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 16}),
}
FAMILIES = (*_DECODERS, "bert")


def make_tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(CORPUS, vocab_size=300)


def make_directory(family: str, directory: Path, *, hidden_size: int = 32, with_tokenizer: bool = True) -> Path:
    """A Hugging Face directory as people publish them: with the LM head, safetensors and a tokenizer."""
    tokenizer = make_tokenizer()
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden_size,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
    }
    torch.manual_seed(0)
    if family == "bert":
        model = BertModel(BertConfig(**shape, pad_token_id=0))
    else:
        config_class, model_class, extra = _DECODERS[family]
        model = model_class(config_class(**shape, num_key_value_heads=2, pad_token_id=0, bos_token_id=1, **extra))
    with torch.no_grad():  # the usual initialisation is so small that every difference would vanish in rounding
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.15)
    with quiet_progress():
        model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def make_hllm(*, seed: int = 0, known_item_ids: tuple[str, ...] = ("i1", "i2"), **settings: object) -> HLLM:
    """A whole HLLM whose every learned part is non-zero: 32-wide text side, 64-wide user side."""
    torch.manual_seed(seed)
    values: dict[str, Any] = {
        "embedding_dim": 64,
        "max_text_tokens": 32,
        "has_joint": True,
        "has_item_vectors": True,
        "has_time_features": True,
        "max_history_length": 10,
        **settings,
    }
    config = HLLMConfig(**values)
    item_backbone = None
    if config.item_input == "text":
        item_backbone = load_backbone("preset:tiny", tokenizer_corpus=CORPUS, hidden_size=32)
    user_backbone = load_backbone("preset:tiny", hidden_size=config.embedding_dim)
    model = build_hllm(
        config=config, item_backbone=item_backbone, user_backbone=user_backbone, known_item_ids=known_item_ids
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2 or parameter.abs().max() == 0:
                parameter.normal_(std=0.15)
    return model.eval()
