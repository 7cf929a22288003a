"""An item's fields as the sentence that the Item LLM reads, and that sentence as tokens.

The text form is the one of HLLM (arXiv 2409.12740, §3.1, and its released code): a constant prompt, then
``key: value`` for each field in order, with nothing between fields; fields without a value are left out, and
an item without any field is the empty string, without the prompt.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import PreTrainedTokenizerBase

ITEM_PROMPT = "Compress the following sentence into embedding: "

# No tokenizer in use averages this many characters per token over a whole text, so the cut never shows in the
# tokens; it keeps a two-megabyte title from being tokenised in full only to be dropped.
CHARACTERS_PER_TOKEN = 128


def item_text(fields: Mapping[str, Any], *, prompt: str = ITEM_PROMPT, field_names: Sequence[str]) -> str:
    """Writes an item as text: the prompt, then ``key: value`` for each field that has a value.

    Args:
        fields: The item's attributes, title among them.
        prompt: Put before the first field; the default is the one of the released weights.
        field_names: Which fields, in this order.

    Returns:
        The text; the empty string (no prompt) if no field has a value.
    """
    parts = [f"{name}: {value}" for name in field_names if (value := as_text(fields.get(name)))]
    return prompt + "".join(parts) if parts else ""


def as_text(value: Any) -> str:
    """One value as text; the empty string for no value."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        return value if value.strip() else ""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {text}" for key, element in value.items() if (text := as_text(element)))
    if isinstance(value, list | tuple | set | frozenset) or hasattr(value, "tolist"):
        return _join(value)
    return str(value)


def _join(value: Any) -> str:
    elements = value.tolist() if hasattr(value, "tolist") else list(value)
    if not isinstance(elements, list):  # a numpy scalar
        return as_text(elements)
    return ", ".join(text for element in elements if (text := as_text(element)))


def content_hash(item_id: str, text: str) -> str:
    """Names what an item's embedding is made from; equal hashes under one model mean equal embeddings.

    The id is part of it: a learned per-item vector may be summed onto the text's embedding.
    """
    digest = hashlib.sha256(item_id.encode("utf-8", "surrogatepass"))
    digest.update(b"\0")
    digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]


@dataclass(frozen=True)
class TokenBatch:
    """Token ids of a batch of texts, right-padded.

    Attributes:
        input_ids: (B, T) int64; the value in padded places is a valid id but means nothing.
        attention_mask: (B, T) int64, 1 = a token, 0 = padding. A row may be all zero (no tokens).
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor

    def to(self, device: torch.device | str) -> "TokenBatch":
        """The same batch on another device."""
        return TokenBatch(
            self.input_ids.to(device, non_blocking=True), self.attention_mask.to(device, non_blocking=True)
        )


class TextSettings(Protocol):
    """What :class:`ItemTokenizer` needs to know of a model's configuration."""

    @property
    def max_text_tokens(self) -> int: ...  # noqa: D102
    @property
    def pooling(self) -> str: ...  # noqa: D102


class ItemTokenizer:
    """Cuts texts to the model's length and pads batches of them; one meaning of padding for every tokenizer.

    Args:
        tokenizer: A Hugging Face tokenizer; its own start and end tokens are kept.
        config: The model's text settings.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: TextSettings) -> None:
        self.tokenizer = tokenizer
        self._max_tokens = config.max_text_tokens
        self._needs_a_token = config.pooling == "mean"
        candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id, 0)
        self._pad_id = next(int(token_id) for token_id in candidates if token_id is not None)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, at most ``max_text_tokens``; the [ITEM] position is not among them."""
        if not texts:
            return []
        limit = self._max_tokens * CHARACTERS_PER_TOKEN
        encoded = self.tokenizer(
            [text[:limit] for text in texts],
            truncation=True,
            max_length=self._max_tokens,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        token_ids: list[list[int]] = encoded["input_ids"]
        if self._needs_a_token:  # the mean over nothing is not an embedding
            return [ids or [self._pad_id] for ids in token_ids]
        return token_ids

    def collate(self, token_ids: Sequence[Sequence[int]]) -> TokenBatch:
        """Right-pads token ids of B texts to the longest: (B, T)."""
        return collate(token_ids, pad_id=self._pad_id)


def collate(token_ids: Sequence[Sequence[int]], *, pad_id: int) -> TokenBatch:
    """Right-pads token ids of B texts to the longest: (B, T)."""
    lengths = torch.tensor([len(ids) for ids in token_ids], dtype=torch.int64)
    width = int(lengths.max()) if len(token_ids) else 0
    input_ids = torch.full((len(token_ids), width), pad_id, dtype=torch.int64)
    for row, ids in enumerate(token_ids):
        input_ids[row, : len(ids)] = torch.as_tensor(ids, dtype=torch.int64)
    attention_mask = (torch.arange(width)[None, :] < lengths[:, None]).to(torch.int64)
    return TokenBatch(input_ids=input_ids, attention_mask=attention_mask)
