"""Embeddings of the catalogue from a frozen Item LLM, and a joint that starts as their whitening."""

import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from torch import nn

from model_store.catalogue.catalogue import Catalogue
from model_store.catalogue.item_text import TokenBatch
from model_store.hllm.network import HLLM, HLLMConfig, ItemLLM
from model_store.hllm.whitening import whitening_joint
from offline.indexing.embed_items import EmbedOptions, embed_catalogue

LOGGER = logging.getLogger(__name__)


def catalogue_states(model: HLLM, catalogue: Catalogue, *, directory: Path, before_joint: bool) -> torch.Tensor:
    """Runs the Item LLM over the catalogue, once: a killed run finds its shards again.

    Args:
        model: With its Item LLM.
        catalogue: N items.
        directory: Work directory of this Item LLM, as it is now, and no other; of other catalogues it may be.
        before_joint: Leave the joint out: (H wide) states rather than the (D wide) text part.

    Returns:
        (N + 1, H or D) float32 on the CPU, row = item_index; row 0 is zeros.
    """
    assert model.item_llm is not None
    reader = _text_reader(model) if before_joint else model
    was_training = model.training
    model.eval()
    states = item_embeddings(reader, catalogue, directory=directory, with_item_vectors=False)
    model.train(was_training)
    return states


def text_states_name(model: HLLM) -> str:
    """Names what the states before the joint depend on: the Item LLM as it is now, its tokenizer, how it reads."""
    assert model.item_llm is not None
    assert model.item_tokenizer is not None
    digest = hashlib.sha256()
    for name, tensor in sorted(model.item_llm.state_dict().items()):
        if not name.startswith("joint."):
            digest.update(
                name.encode() + tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            )
    settings = model.config
    read = (settings.text_fields, settings.item_prompt, settings.max_text_tokens, settings.pooling)
    digest.update(json.dumps(read).encode() + model.item_tokenizer.tokenizer.backend_tokenizer.to_str().encode())
    return f"text-{digest.hexdigest()[:32]}"


def item_embeddings(model: HLLM, catalogue: Catalogue, *, directory: Path, with_item_vectors: bool) -> torch.Tensor:
    """Embeds the catalogue, once and in the first process: a killed run finds its shards again.

    Args:
        model: With its item side, in evaluation mode.
        catalogue: N items.
        directory: Work directory of this item side, as it is now, and no other.
        with_item_vectors: Add the learned per-item vectors.

    Returns:
        (N + 1, D) float32 on the CPU, row = item_index; row 0 is zeros.
    """
    device = next(model.parameters()).device
    processes = PartialState()
    if processes.is_main_process:
        options = EmbedOptions(device=device.type)
        embedded = embed_catalogue(
            model, catalogue, directory=directory, options=options, with_item_vectors=with_item_vectors
        )
        embedded.embeddings.flush()
    processes.wait_for_everyone()
    rows = np.load(directory / "embeddings.npy", mmap_mode="r")
    return torch.from_numpy(np.concatenate([np.zeros((1, rows.shape[1]), np.float32), rows]))


def whiten(joint: nn.Linear, states: torch.Tensor, *, power: float, rms: float) -> None:
    """Sets a joint to the whitening of text states, in place.

    Args:
        joint: H to D.
        states: (N + 1, H), row 0 is not an item.
        power: See :func:`model_store.hllm.whitening.whitening_joint`.
        rms: Likewise.
    """
    dim = min(joint.out_features, joint.in_features)
    weight, bias = whitening_joint(states[1:], dim, power, rms=rms)
    with torch.no_grad():
        # a joint to more dimensions than the states have leaves the rest to the item vectors
        joint.weight.zero_()
        joint.bias.zero_()
        joint.weight[:dim] = weight.to(joint.weight)
        joint.bias[:dim] = bias.to(joint.bias)


def _text_reader(model: HLLM) -> HLLM:
    """The same Item LLM without its joint, sharing its weights."""
    assert model.item_llm is not None
    width = int(model.item_llm.backbone.config.hidden_size)
    config: HLLMConfig = replace(model.config, embedding_dim=width, has_joint=False, has_item_vectors=False)
    reader = _JointlessItemLLM(model.item_llm)
    return HLLM(config, item_llm=reader, item_tokenizer=model.item_tokenizer, user_llm=None, item_vectors=None).eval()


class _JointlessItemLLM(ItemLLM):
    """An Item LLM's states before the joint."""

    def __init__(self, item_llm: ItemLLM) -> None:
        nn.Module.__init__(self)
        self.whole = item_llm
        self.backbone = item_llm.backbone

    def forward(self, batch: TokenBatch) -> torch.Tensor:
        """(B, H) raw."""
        return self.whole.pool(batch)
