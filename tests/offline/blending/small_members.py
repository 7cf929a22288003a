"""Three small models that share one Item LLM: of texts and clicks, of clicks alone, of texts alone."""

import copy

import torch

from model_store.artifacts.manifest import ModelManifest
from model_store.artifacts.store import ModelStore
from model_store.backbone.load import Backbone
from model_store.hllm.network import HLLM, HLLMConfig, build_hllm
from tests.offline.small_models import add_small_model, small_hllm


def text_head(model: HLLM) -> HLLM:
    """A text head on the Item LLM of another model."""
    assert model.item_llm is not None
    assert model.item_tokenizer is not None
    config = HLLMConfig(
        embedding_dim=16,
        text_fields=model.config.text_fields,
        item_prompt=model.config.item_prompt,
        max_text_tokens=model.config.max_text_tokens,
        pooling=model.config.pooling,
        max_history_length=6,
        has_joint=True,
        user_model="lags",
    )
    backbone = Backbone(copy.deepcopy(model.item_llm.backbone), model.item_tokenizer.tokenizer, 16)
    head = build_hllm(config=config, item_backbone=backbone, user_backbone=None)
    assert head.item_llm is not None
    if config.pooling == "item_token":
        head.item_llm.item_token.data.copy_(model.item_llm.item_token.data)
    return head.eval()


def add_members(store: ModelStore, known: list[str], **training: object) -> dict[str, ModelManifest]:
    """Adds the three models; ``known`` items have vectors."""
    both = small_hllm(known_item_ids=known)
    torch.manual_seed(1)
    models = {
        "both": both,
        "clicks": small_hllm(known_item_ids=known, item_input="id", seed=2),
        "text": text_head(both),
    }
    return {name: add_small_model(store, model, split="leave-one-out", **training) for name, model in models.items()}
