"""The item side of a blend: one Item LLM, and what each member makes of its states."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from model_store.backbone.item_vectors import ItemVectors
from model_store.blend.config import BlendConfig
from model_store.catalogue.item_text import ItemTokenizer, TokenBatch, item_text
from model_store.errors import InvalidInput
from model_store.hllm.network import HLLM


class Blend(nn.Module):
    """The members' item embeddings side by side, with a zero for the slack at the end.

    Args:
        config: Of the blend.
        members: Item sides, in the order of the heads; those that read text share one Item LLM.
    """

    def __init__(self, config: BlendConfig, members: Sequence[HLLM]) -> None:
        super().__init__()
        self.config = config
        self._members = list(members)
        self.members = nn.ModuleList(members)
        self.item_tokenizer: ItemTokenizer | None = next(
            (member.item_tokenizer for member in members if member.item_tokenizer is not None), None
        )
        self.item_vectors = _side_by_side(config, members)

    @property
    def item_encoder(self) -> "Blend":
        """What embeds items: this model."""
        return self

    @property
    def reads_text(self) -> bool:
        """Whether a member reads texts."""
        return self.config.item_input == "text"

    def render_item(self, item_fields: Mapping[str, Any]) -> str:
        """The text of an item, from its fields; empty where no member reads texts."""
        if not self.reads_text:
            return ""
        return item_text(item_fields, prompt=self.config.item_prompt, field_names=self.config.text_fields)

    def encode_item_tokens(self, batch: TokenBatch) -> torch.Tensor:
        """The text's part of item embeddings, (B, D) raw; the shared Item LLM runs once where texts are averaged.

        Raises:
            InvalidInput: No member reads texts.
        """
        if not self.reads_text:
            raise InvalidInput("no member of this blend reads texts")
        pooled: torch.Tensor | None = None
        parts: list[torch.Tensor | None] = []
        for member in self._members:
            item_llm = member.item_llm
            if item_llm is None:
                parts.append(None)
                continue
            if pooled is None or item_llm.pooling != "mean":
                pooled = item_llm.pool(batch)
            parts.append(pooled if item_llm.joint is None else item_llm.joint(pooled))
        assert pooled is not None
        widths = [head.width for head in self.config.heads.heads]
        parts.append(None)
        filled = [
            pooled.new_zeros(len(pooled), width) if part is None else part
            for part, width in zip(parts, [*widths, 1], strict=True)
        ]
        return torch.cat(filled, dim=1)

    def combine(self, text_part: torch.Tensor | None, rows: torch.Tensor | None) -> torch.Tensor:
        """The item embedding, (..., D) raw: the text's part and the members' vectors of ``rows``, -1 = unknown."""
        if self.item_vectors is None or rows is None:
            if text_part is None:
                raise InvalidInput("an item needs a text part or an item vector")
            return text_part
        vectors: torch.Tensor = self.item_vectors(rows)
        return vectors if text_part is None else text_part + vectors


def _side_by_side(config: BlendConfig, members: Sequence[HLLM]) -> ItemVectors | None:
    """The members' item vectors as one table; zeros where a member has none of an item."""
    tables = [member.item_vectors for member in members]
    if all(table is None for table in tables):
        return None
    ids = sorted({item_id for table in tables if table is not None for item_id in table.known_item_ids})
    joined = ItemVectors(ids, config.embedding_dim)
    with torch.no_grad():
        for table, part in zip(tables, config.heads.slices(), strict=True):
            if table is not None:
                joined.weight[:, part] = table(table.rows_of(ids)).to(joined.weight.dtype)
    return joined.to(next(table.weight for table in tables if table is not None).dtype)
